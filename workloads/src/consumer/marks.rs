//! What the stored windows of a company hold, per source: an event that is marked is skipped, whatever brings it again.
//! Rule: pure; marks travel inside the window they belong to, so a window and the knowledge of it are one atomic write.

use std::collections::BTreeMap;

use wire::event::Sequence;

use super::ranges::Ranges;

/// Milliseconds after which a source that says nothing may be forgotten: seven days, as long as the broker lets a consumer hold
/// an event (the operator's policy `consumer-timeout`).
pub const FORGET_AFTER: i64 = 7 * 24 * 60 * 60 * 1000;
/// Ranges that are kept beyond the recent ones. A publisher that starts anew every ten minutes makes a thousand in a week.
const OLD_RANGES: usize = 1000;

/// What is known of one source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Seen {
    /// Its sequence numbers; each range carries the count of the company's events when it last grew.
    pub ranges: Ranges,
    /// When its last event was taken, milliseconds since 1970.
    pub at: i64,
}

/// The sequence numbers of all sources of a company.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Marks {
    sources: BTreeMap<String, Seen>,
    /// Events marked so far: the clock by which ranges are recent or old.
    count: u64,
}

impl Marks {
    /// Marks an event taken `now`; whether it was not marked before.
    pub fn insert(&mut self, sequence: Sequence<'_>, now: i64) -> bool {
        let count = self.count + 1;
        let new = match self.sources.get_mut(sequence.source) {
            Some(seen) => {
                seen.at = now;
                seen.ranges.insert_at(sequence.number, count)
            }
            None => {
                let mut seen = Seen { ranges: Ranges::default(), at: now };
                seen.ranges.insert_at(sequence.number, count);
                self.sources.insert(sequence.source.to_owned(), seen);
                true
            }
        };
        if new {
            self.count = count;
        }
        new
    }

    /// Forgets what cannot come back, so that marks stay small for ever.
    ///
    /// An event of ours comes again when its acknowledgement or its confirm was lost: then it is one of the last `recent` that
    /// were taken, and no range of those is ever forgotten. Of the others the [`OLD_RANGES`] newest are kept, first of all the
    /// newest of each source. Where a foreign consumer shares the queue, its events are holes that never close; a hole is never
    /// taken for seen, for then a late event would be lost.
    pub fn forget(&mut self, now: i64, recent: u64) {
        let horizon = self.count.saturating_sub(recent);
        self.sources.retain(|_, seen| seen.ranges.newest() > horizon || now.saturating_sub(seen.at) < FORGET_AFTER);
        let mut old: Vec<(bool, u64)> = Vec::new();
        for seen in self.sources.values() {
            let newest = seen.ranges.newest();
            old.extend(seen.ranges.ages().filter(|age| *age <= horizon).map(|age| (age == newest, age)));
        }
        if old.len() <= OLD_RANGES {
            return;
        }
        old.sort_unstable_by(|left, right| right.cmp(left));
        // The count is a range's own: no two grew at the same event.
        let last_kept = old[OLD_RANGES - 1];
        self.sources.retain(|_, seen| {
            let newest = seen.ranges.newest();
            seen.ranges.retain_ages(|age| age > horizon || (age == newest, age) >= last_kept);
            !seen.ranges.is_empty()
        });
    }

    /// Each source with what is known of it.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Seen)> {
        self.sources.iter().map(|(source, seen)| (source.as_str(), seen))
    }

    /// How many sources.
    #[must_use]
    pub fn sources(&self) -> usize {
        self.sources.len()
    }

    /// How many ranges in all.
    #[must_use]
    pub fn ranges(&self) -> usize {
        self.sources.values().map(|seen| seen.ranges.len()).sum()
    }
}

impl FromIterator<(String, Seen)> for Marks {
    fn from_iter<T: IntoIterator<Item = (String, Seen)>>(sources: T) -> Self {
        let sources: BTreeMap<String, Seen> = sources.into_iter().collect();
        let count = sources.values().map(|seen| seen.ranges.newest()).max().unwrap_or(0);
        Self { sources, count }
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
    fn a_source_is_forgotten_after_a_week_of_silence_and_not_before_nor_while_its_events_are_recent() {
        let mut marks = Marks::default();
        marks.insert(event("old", 0), 0);
        marks.insert(event("new", 0), 1);
        marks.forget(FORGET_AFTER - 1, 1);
        assert_eq!(marks.sources(), 2);
        marks.forget(FORGET_AFTER, 2);
        assert_eq!(marks.sources(), 2, "both are among the last two events");
        marks.forget(FORGET_AFTER, 1);
        assert!(!marks.insert(event("new", 0), 1));
        assert!(marks.insert(event("old", 0), 1));
    }

    #[test]
    fn marks_stay_small_however_many_sources_and_holes_there_are() {
        let mut marks = Marks::default();
        for life in 0..200_u64 {
            let source = format!("life {life}");
            (0..100).for_each(|number| assert!(marks.insert(event(&source, number * 2), 0)));
            marks.forget(0, 500);
            assert!(marks.ranges() <= OLD_RANGES + 500);
        }
        assert_eq!(marks.sources(), 200, "of each source the newest range is kept longest");
        assert!(!marks.insert(event("life 0", 198), 0));
    }

    #[test]
    fn what_was_taken_lately_is_not_forgotten_although_its_numbers_are_low() {
        let mut marks = Marks::default();
        (1000..5000).for_each(|number| assert!(marks.insert(event("a", number * 2), 0)));
        // What a foreign consumer held comes late.
        (0..300).for_each(|number| assert!(marks.insert(event("a", number * 2), 0)));
        marks.forget(0, 300);
        assert_eq!(marks.ranges(), OLD_RANGES + 300);
        assert!((0..300).all(|number| !marks.insert(event("a", number * 2), 0)));
    }

    #[test]
    fn a_thousand_sources_of_one_event_each_are_all_remembered_while_they_are_recent() {
        let mut marks = Marks::default();
        for life in 0..3000 {
            assert!(marks.insert(event(&life.to_string(), 0), 0));
        }
        marks.forget(0, 3000);
        assert!((0..3000).all(|life| !marks.insert(event(&life.to_string(), 0), 0)));
    }
}
