//! How long a program makes no progress, by its own counters.
//! Rule: it looks ten times a second at one pod, so a figure is exact to a tenth; the pod looked at must outlive the look.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::task::JoinHandle;

use crate::Space;
use crate::forward::Forward;

const LOOK: Duration = Duration::from_millis(100);
/// Port of the programs' figures.
const METRICS_PORT: u16 = 9090;

/// A watched counter.
pub struct Stall {
    watch: JoinHandle<Result<()>>,
    longest: tokio::sync::watch::Receiver<Duration>,
}

impl Stall {
    /// Begins to watch a counter of a pod: the sum over its labels.
    ///
    /// # Errors
    /// The pod does not show it.
    pub async fn watch(space: &Space, pod: &str, counter: &'static str) -> Result<Self> {
        let forward = Forward::open(&space.namespace, &format!("pod/{pod}"), METRICS_PORT).await?;
        let mut last = read(&forward, counter).await?;
        let (sender, longest) = tokio::sync::watch::channel(Duration::ZERO);
        let watch = tokio::spawn(async move {
            let mut moved = Instant::now();
            loop {
                tokio::time::sleep(LOOK).await;
                let now = read(&forward, counter).await?;
                let stood = moved.elapsed();
                sender.send_if_modified(|longest| {
                    let longer = stood > *longest;
                    *longest = stood.max(*longest);
                    longer
                });
                if now > last {
                    (last, moved) = (now, Instant::now());
                }
            }
        });
        Ok(Self { watch, longest })
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
        Ok(*self.longest.borrow())
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
