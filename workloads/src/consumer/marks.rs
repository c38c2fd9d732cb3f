//! What the stored windows of a company hold, per source: an event that is marked is skipped, whatever brings it again.
//! Rule: pure; marks travel inside the window they belong to, so a window and the knowledge of it are one atomic write.

use std::collections::BTreeMap;

use super::intake::Sequence;
use super::ranges::Ranges;

/// Milliseconds after which a source that says nothing is forgotten: seven days, as long as the broker lets a consumer hold an
/// event (the operator's policy `consumer-timeout`), so that no copy of its events can still come back.
pub const FORGET_AFTER: i64 = 7 * 24 * 60 * 60 * 1000;
/// Most sources that are remembered; the longest silent ones go first. A publisher that starts anew every ten minutes makes
/// a thousand in a week, and the marks of all of them fit in 100 KB.
const MAX_SOURCES: usize = 1000;

/// What is known of one source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Seen {
    /// Its sequence numbers.
    pub ranges: Ranges,
    /// When its last event was taken, milliseconds since 1970.
    pub at: i64,
}

/// The sequence numbers of all sources of a company.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Marks(BTreeMap<String, Seen>);

impl Marks {
    /// Marks an event taken `now`; whether it was not marked before.
    pub fn insert(&mut self, sequence: Sequence<'_>, now: i64) -> bool {
        let Some(seen) = self.0.get_mut(sequence.source) else {
            let seen = Seen { ranges: [(sequence.number, sequence.number)].into_iter().collect(), at: now };
            self.0.insert(sequence.source.to_owned(), seen);
            return true;
        };
        seen.at = now;
        seen.ranges.insert(sequence.number)
    }

    /// Forgets what cannot come back, so that marks stay small for ever.
    ///
    /// Where a foreign consumer shares the queue, its events are holes that never close. An event of ours that can still come
    /// back is one of the last `ranges` taken (unacknowledged, or not yet confirmed to its publisher), so older ranges can go;
    /// holes are never taken for seen, for then a late event would be lost.
    pub fn forget(&mut self, now: i64, ranges: usize) {
        self.0.retain(|_, seen| now.saturating_sub(seen.at) < FORGET_AFTER);
        for seen in self.0.values_mut() {
            seen.ranges.keep_highest(ranges);
        }
        while self.0.len() > MAX_SOURCES {
            let oldest = self.0.iter().min_by_key(|(_, seen)| seen.at).map(|(source, _)| source.clone());
            oldest.map(|source| self.0.remove(&source));
        }
    }

    /// Each source with what is known of it.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Seen)> {
        self.0.iter().map(|(source, seen)| (source.as_str(), seen))
    }

    /// How many sources.
    #[must_use]
    pub fn sources(&self) -> usize {
        self.0.len()
    }

    /// How many ranges in all.
    #[must_use]
    pub fn ranges(&self) -> usize {
        self.0.values().map(|seen| seen.ranges.len()).sum()
    }
}

impl FromIterator<(String, Seen)> for Marks {
    fn from_iter<T: IntoIterator<Item = (String, Seen)>>(sources: T) -> Self {
        Self(sources.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(source: &str, number: u64) -> Sequence<'_> {
        Sequence { source, number }
    }

    #[test]
    fn an_event_is_new_once_per_source_and_a_late_one_is_new_too() {
        let mut marks = Marks::default();
        assert!(marks.insert(event("a", 0), 1) && marks.insert(event("a", 2), 1) && marks.insert(event("b", 0), 1));
        assert!(!marks.insert(event("a", 2), 1));
        assert!(marks.insert(event("a", 1), 1));
        assert_eq!((marks.sources(), marks.ranges()), (2, 2));
    }

    #[test]
    fn a_source_is_forgotten_after_a_week_of_silence_and_not_before() {
        let mut marks = Marks::default();
        marks.insert(event("old", 0), 0);
        marks.insert(event("new", 0), 1);
        marks.forget(FORGET_AFTER - 1, 10);
        assert_eq!(marks.sources(), 2);
        marks.forget(FORGET_AFTER, 10);
        assert!(!marks.insert(event("new", 0), 1));
        assert!(marks.insert(event("old", 0), 1));
    }

    #[test]
    fn marks_stay_small_however_many_sources_and_holes_there_are() {
        let mut marks = Marks::default();
        for life in 0..1500_i64 {
            marks.insert(event(&life.to_string(), 0), life);
        }
        for number in 0..1000 {
            marks.insert(event("holes", number * 2), 1500);
        }
        marks.forget(1500, 100);
        assert_eq!((marks.sources(), marks.ranges()), (1000, 1099));
        assert!(!marks.insert(event("1499", 0), 1500), "the newest sources are kept");
        assert!(!marks.insert(event("holes", 1998), 1500), "and the newest ranges");
    }
}
