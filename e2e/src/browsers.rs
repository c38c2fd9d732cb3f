//! Many open pages, each with a socket that is opened anew whenever it ends, as the page does it.
//! Rule: harder than the page, which never shows an older window of a company than it has shown: one that only arrives is counted.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::StreamExt;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

/// The page tries again after this; when it has to try more than once, after longer.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// A socket that says nothing for this long is lost: liveview sends something at least every 20 s.
const SILENCE: Duration = Duration::from_secs(30);
/// Longest that an opening may take.
const OPENING: Duration = Duration::from_secs(5);

/// What happened to the pages.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Sockets that are open and have shown prices.
    pub open: usize,
    /// Sockets that ended.
    pub lost: u64,
    /// The longest that a page was without one, until prices came again.
    pub longest: Duration,
    /// Windows that were older than what the page had got already, on this socket or an earlier one.
    pub older: u64,
    /// Frames.
    pub frames: u64,
}

/// Open pages.
pub struct Browsers {
    seen: Arc<Mutex<Seen>>,
    _pages: JoinSet<()>,
}

impl Browsers {
    /// Opens `count` pages, each at one of the `addresses`.
    pub fn open(addresses: &[String], count: usize) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let mut pages = JoinSet::new();
        for number in 0..count {
            pages.spawn(watch(addresses[number % addresses.len()].clone(), seen.clone()));
        }
        Self { seen, _pages: pages }
    }

    /// What happened so far, or since it was asked last.
    pub fn take(&self) -> Seen {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let before = seen.clone();
        *seen = Seen { open: before.open, ..Seen::default() };
        before
    }

    /// Pages with an open socket now.
    pub fn open_now(&self) -> usize {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).open
    }
}

async fn watch(address: String, seen: Arc<Mutex<Seen>>) {
    let note = |change: &dyn Fn(&mut Seen)| change(&mut seen.lock().unwrap_or_else(PoisonError::into_inner));
    let mut shown = HashMap::new();
    let mut lost: Option<Instant> = None;
    loop {
        if let Ok(Ok((mut socket, _))) = timeout(OPENING, connect_async(format!("ws://{address}/"))).await {
            let mut open = false;
            while let Ok(Some(Ok(message))) = timeout(SILENCE, socket.next()).await {
                let Message::Text(text) = message else { continue };
                let Ok(older) = show(&text, &mut shown) else { break };
                let gap = lost.take().filter(|_| !open).map_or(Duration::ZERO, |lost| lost.elapsed());
                note(&|seen| {
                    seen.frames += 1;
                    seen.older += older;
                    seen.open += usize::from(!open);
                    seen.longest = seen.longest.max(gap);
                });
                open = true;
            }
            if open {
                lost = Some(Instant::now());
                note(&|seen| {
                    seen.open -= 1;
                    seen.lost += 1;
                });
            }
        }
        sleep(FIRST_PAUSE).await;
    }
}

/// Shows a frame; gives how many of its windows were older than those shown.
fn show(frame: &str, shown: &mut HashMap<String, i64>) -> Result<u64> {
    let frame: Value = serde_json::from_str(frame)?;
    let mut older = 0;
    for price in frame["prices"].as_array().context("the frame has no prices")? {
        let company = price["company"].as_str().context("a price has no company")?;
        let window = price["window"].as_i64().context("a price has no window")?;
        let newest = shown.entry(company.to_owned()).or_insert(window);
        older += u64::from(window < *newest);
        *newest = window.max(*newest);
    }
    Ok(older)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_window_is_counted_and_does_not_make_the_next_one_look_newer() {
        let mut shown = HashMap::new();
        let frame = |window: i64| format!(r#"{{"prices":[{{"company":"MSFT","window":{window}}}]}}"#);
        assert_eq!(show(&frame(7), &mut shown).unwrap(), 0);
        assert_eq!(show(&frame(6), &mut shown).unwrap(), 1);
        assert_eq!(shown["MSFT"], 7);
    }
}
