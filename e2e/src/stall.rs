//! How long a program makes no progress, by its own counters.
//! Rule: it looks ten times a second at one pod, so a figure is exact to a tenth; the pod looked at must outlive the look.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::sync::watch::{Receiver, channel};
use tokio::task::JoinHandle;

use crate::Space;
use crate::forward::Forward;

const LOOK: Duration = Duration::from_millis(100);

/// A watched counter.
pub struct Stall {
    watch: JoinHandle<Result<()>>,
    seen: Receiver<Seen>,
}

#[derive(Clone, Copy)]
struct Seen {
    moved: Instant,
    longest: Duration,
    counter: f64,
}

impl Stall {
    /// Begins to watch a counter of a pod, the sum over its labels, at the port where it shows its figures.
    ///
    /// # Errors
    /// The pod does not show it.
    pub async fn watch(space: &Space, pod: &str, port: u16, counter: &'static str) -> Result<Self> {
        let forward = Forward::open(&space.namespace, &format!("pod/{pod}"), port).await?;
        let first = Seen { counter: read(&forward, counter).await?, moved: Instant::now(), longest: Duration::ZERO };
        let (sender, seen) = channel(first);
        let watch = tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK).await;
                let now = read(&forward, counter).await?;
                sender.send_modify(|seen| {
                    seen.longest = seen.longest.max(seen.moved.elapsed());
                    if now > seen.counter {
                        (seen.counter, seen.moved) = (now, Instant::now());
                    }
                });
            }
        });
        Ok(Self { watch, seen })
    }

    /// For how long it has made no progress.
    pub fn standing(&self) -> Duration {
        self.seen.borrow().moved.elapsed()
    }

    /// What the counter showed last.
    pub fn counter(&self) -> f64 {
        self.seen.borrow().counter
    }

    /// The longest time without progress since the begin, the one that goes on now included.
    ///
    /// # Errors
    /// The pod went away meanwhile.
    pub async fn longest(self) -> Result<Duration> {
        if self.watch.is_finished() {
            self.watch.await??;
        } else {
            self.watch.abort();
        }
        Ok(self.seen.borrow().longest)
    }
}

async fn read(forward: &Forward, counter: &str) -> Result<f64> {
    let text = reqwest::get(format!("{}/metrics", forward.url())).await?.text().await?;
    let values = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(counter));
    let values: Option<Vec<f64>> = values.map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
    let values =
        values.filter(|values| !values.is_empty()).with_context(|| format!("there is no counter {counter}"))?;
    Ok(values.iter().sum())
}
