//! What is left of the companies' events when their publishers are stopped; pure.
//! Rule: a figure is certain when two looks far enough apart found the same; the broker's first figures after a restart may be too low.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use crate::broker::QueueReport;

/// The broker makes its figures anew every 5 s (RabbitMQ, `quorum_tick_interval`), and after a restart it first says 0 (measured on 4.0.5). So what
/// it says at both ends of this time it has looked up in between.
const CERTAIN_AFTER: Duration = Duration::from_secs(10);

/// What was seen to be left of each company, and since when.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rest(BTreeMap<String, Look>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    left: i64,
    since: Timestamp,
}

impl Rest {
    /// Adds what a pass has seen of `companies`, those whose publishers have ended. What was not seen is not known any more.
    pub fn after(&self, companies: &BTreeSet<String>, queues: &BTreeMap<String, QueueReport>, now: Timestamp) -> Self {
        let look = |symbol: &String| {
            let left = queues.get(symbol).and_then(left)?;
            let before = self.0.get(symbol).filter(|look| look.left == left);
            Some((symbol.clone(), Look { left, since: before.map_or(now, |look| look.since) }))
        };
        Self(companies.iter().filter_map(look).collect())
    }

    /// What is certainly left of a company's events.
    pub fn of(&self, symbol: &str, now: Timestamp) -> Option<i64> {
        let look = self.0.get(symbol)?;
        (now.duration_since(look.since).unsigned_abs() >= CERTAIN_AFTER).then_some(look.left)
    }
}

/// Events that wait and events that a consumer holds, of a queue that is served.
fn left(queue: &QueueReport) -> Option<i64> {
    queue.ready.zip(queue.unacknowledged).filter(|_| queue.served).map(|(ready, held)| ready + held)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// Looks at one queue, each a second and what was seen, and gives what is certain after them.
    fn certain(looks: &[(i64, Option<i64>, bool)]) -> Option<i64> {
        let companies = BTreeSet::from(["MSFT".to_owned()]);
        let mut rest = Rest::default();
        for (second, ready, served) in looks {
            let queue =
                QueueReport { ready: *ready, unacknowledged: Some(0), served: *served, ..QueueReport::default() };
            rest = rest.after(&companies, &BTreeMap::from([("MSFT".to_owned(), queue)]), at(*second));
        }
        rest.of("MSFT", at(looks.last()?.0))
    }

    #[test]
    fn what_two_looks_far_enough_apart_agree_on_is_certain() {
        assert_eq!(certain(&[(0, Some(5), true), (4, Some(5), true), (10, Some(5), true)]), Some(5));
        assert_eq!(certain(&[(0, Some(5), true), (9, Some(5), true)]), None);
        assert_eq!(certain(&[(0, Some(5), true), (9, Some(4), true), (11, Some(4), true)]), None);
    }

    #[test]
    fn the_early_count_of_a_broker_that_restarts_is_no_empty_queue() {
        assert_eq!(certain(&[(0, Some(5), true), (10, None, false), (12, Some(0), true), (17, Some(5), true)]), None);
        assert_eq!(certain(&[(0, Some(0), true), (5, Some(0), false), (10, Some(0), true)]), None);
    }

    #[test]
    fn what_a_consumer_holds_is_left_too() {
        let queue = QueueReport { ready: Some(0), unacknowledged: Some(3), served: true, ..QueueReport::default() };
        assert_eq!(left(&queue), Some(3));
        assert_eq!(left(&QueueReport { unacknowledged: None, ..queue }), None);
    }

    #[test]
    fn a_company_whose_publisher_still_runs_is_not_looked_at() {
        let queue = QueueReport { ready: Some(0), unacknowledged: Some(0), served: true, ..QueueReport::default() };
        let queues = BTreeMap::from([("MSFT".to_owned(), queue)]);
        let before = Rest::default().after(&BTreeSet::from(["MSFT".to_owned()]), &queues, at(0));
        assert_eq!(before.after(&BTreeSet::new(), &queues, at(20)).of("MSFT", at(20)), None);
    }
}
