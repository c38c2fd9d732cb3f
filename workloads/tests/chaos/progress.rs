//! When windows of each company were stored, as somebody sees it who looks every 20 ms.
//! Rule: the database is asked for the newest number only; what a pause is, is decided in a pure function.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use mongodb::Collection;
use mongodb::bson::{Bson, Document, doc};
use tokio::time::{Instant, sleep};
use wire::Symbol;

use crate::support::eventually;

/// Windows after a fault that show that work goes on. Two may have been on their way when it struck.
const REGAINED: i64 = 4;

/// Moments at which a company's number of windows had grown, and what it was then.
type Moments = Arc<Mutex<Vec<(Instant, i64)>>>;

pub struct Progress(Vec<Moments>);

impl Progress {
    pub fn watch(windows: &Collection<Document>, companies: &[Symbol]) -> Self {
        Self(companies.iter().map(|company| watch(windows.clone(), company.clone())).collect())
    }

    /// Windows of all companies.
    pub fn windows(&self) -> i64 {
        self.0.iter().map(count).sum()
    }

    /// Waits until every company has stored some more windows.
    pub async fn regained(&self) {
        let wanted: Vec<i64> = self.0.iter().map(|moments| count(moments) + REGAINED).collect();
        eventually("windows are stored again", async || {
            self.0.iter().zip(&wanted).all(|(moments, wanted)| count(moments) >= *wanted).then_some(())
        })
        .await;
    }

    /// The longest time since then in which one of the companies stored nothing.
    pub fn longest_pause(&self, since: Instant) -> Duration {
        let pauses = self.0.iter().map(|moments| {
            let moments: Vec<Instant> = moments.lock().unwrap().iter().map(|(moment, _)| *moment).collect();
            longest_pause(&moments, since)
        });
        pauses.max().unwrap_or_default()
    }
}

fn count(moments: &Moments) -> i64 {
    moments.lock().unwrap().last().map_or(0, |(_, count)| *count)
}

fn longest_pause(moments: &[Instant], since: Instant) -> Duration {
    let after = moments.iter().copied().filter(|moment| *moment > since);
    let begins = std::iter::once(since).chain(after.clone());
    begins.zip(after).map(|(begin, end)| end - begin).max().unwrap_or_default()
}

fn watch(windows: Collection<Document>, company: Symbol) -> Moments {
    let moments = Moments::default();
    let sink = Arc::clone(&moments);
    tokio::spawn(async move {
        loop {
            if let Some(count) = newest(&windows, &company).await {
                let mut moments = sink.lock().unwrap();
                if moments.last().is_none_or(|(_, before)| *before < count) {
                    moments.push((Instant::now(), count));
                }
            }
            sleep(Duration::from_millis(20)).await;
        }
    });
    moments
}

async fn newest(windows: &Collection<Document>, company: &Symbol) -> Option<i64> {
    let found =
        windows.find_one(doc! {"company": company.as_str()}).sort(doc! {"window": -1}).projection(doc! {"window": 1});
    let found = tokio::time::timeout(Duration::from_secs(2), found).await.ok()?.ok()??;
    found.get("window").and_then(Bson::as_i64).map(|number| number + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_pause_begins_with_the_fault_or_after_it() {
        let start = Instant::now();
        let at = |seconds: &[u64]| -> Vec<Instant> {
            seconds.iter().map(|second| start + Duration::from_secs(*second)).collect()
        };
        let since = start + Duration::from_secs(10);
        assert_eq!(longest_pause(&at(&[1, 9, 13, 14]), since), Duration::from_secs(3));
        assert_eq!(longest_pause(&at(&[1, 9, 11, 17, 18]), since), Duration::from_secs(6));
        assert_eq!(longest_pause(&at(&[1]), since), Duration::ZERO);
    }
}
