//! A set of sequence numbers as the few ranges they form: what a publisher numbers 0, 1, 2, … is one range, whatever its length.
//! Rule: pure; ranges ascend and neither touch nor overlap, so equal sets are equal values.

/// A set of whole numbers. A number that a database can hold is at most `i64::MAX`, so a successor always exists.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ranges(Vec<Range>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Range {
    first: u64,
    last: u64,
    /// The largest age given when it grew; 0 where nobody keeps ages.
    age: u64,
}

impl Ranges {
    /// Adds a number; whether it was not there before.
    pub fn insert(&mut self, number: u64) -> bool {
        self.insert_at(number, 0)
    }

    /// The same, for ranges that remember when they last grew: `age` ascends from call to call.
    pub fn insert_at(&mut self, number: u64, age: u64) -> bool {
        // Numbers come nearly always in order.
        if let Some(newest) = self.0.last_mut()
            && newest.last.checked_add(1) == Some(number)
        {
            (newest.last, newest.age) = (number, age);
            return true;
        }
        let index = self.0.partition_point(|range| range.last < number);
        if self.0.get(index).is_some_and(|range| range.first <= number) {
            return false;
        }
        let joins_left = index > 0 && self.0[index - 1].last + 1 == number;
        let joins_right = self.0.get(index).is_some_and(|range| range.first == number + 1);
        match (joins_left, joins_right) {
            (true, true) => {
                (self.0[index - 1].last, self.0[index - 1].age) = (self.0[index].last, age);
                self.0.remove(index);
            }
            (true, false) => (self.0[index - 1].last, self.0[index - 1].age) = (number, age),
            (false, true) => (self.0[index].first, self.0[index].age) = (number, age),
            (false, false) => self.0.insert(index, Range { first: number, last: number, age }),
        }
        true
    }

    /// Adds a range; how many of its numbers were there before.
    pub fn insert_range(&mut self, first: u64, last: u64) -> u64 {
        self.insert_range_at(first, last, 0)
    }

    /// The same, for ranges that remember when they last grew.
    pub fn insert_range_at(&mut self, first: u64, last: u64, age: u64) -> u64 {
        let start = self.0.partition_point(|range| range.last.saturating_add(1) < first);
        let touching = |range: &&Range| range.first <= last.saturating_add(1);
        let end = start + self.0[start..].iter().take_while(touching).count();
        let (mut joined, mut known) = (Range { first, last, age }, 0);
        for range in self.0.drain(start..end) {
            let (low, high) = (range.first.max(first), range.last.min(last));
            known += if low <= high { high - low + 1 } else { 0 };
            joined = Range {
                first: joined.first.min(range.first),
                last: joined.last.max(range.last),
                age: joined.age.max(range.age),
            };
        }
        self.0.insert(start, joined);
        known
    }

    /// Whether a number is there.
    #[must_use]
    pub fn contains(&self, number: u64) -> bool {
        let index = self.0.partition_point(|range| range.last < number);
        self.0.get(index).is_some_and(|range| range.first <= number)
    }

    /// How many numbers there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.iter().map(|range| range.last - range.first + 1).sum()
    }

    /// The highest number.
    #[must_use]
    pub fn highest(&self) -> Option<u64> {
        self.0.last().map(|range| range.last)
    }

    /// How many ranges they form.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no number.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The age of each range.
    pub fn ages(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.iter().map(|range| range.age)
    }

    /// The largest age; 0 when there is no number.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.ages().max().unwrap_or(0)
    }

    /// Forgets the ranges whose age is not to be kept.
    pub fn retain_ages(&mut self, keep: impl Fn(u64) -> bool) {
        self.0.retain(|range| keep(range.age));
    }

    /// First and last number of each range, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().map(|range| (range.first, range.last))
    }
}

impl FromIterator<(u64, u64)> for Ranges {
    fn from_iter<T: IntoIterator<Item = (u64, u64)>>(ranges: T) -> Self {
        let mut set = Self::default();
        for (first, last) in ranges {
            set.insert_range(first, last);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn ranges(set: &Ranges) -> Vec<(u64, u64)> {
        set.iter().collect()
    }

    #[test]
    fn numbers_in_order_are_one_range_and_a_late_one_closes_its_hole() {
        let mut set = Ranges::default();
        assert!([0, 1, 2, 5, 4].iter().all(|number| set.insert(*number)));
        assert_eq!(ranges(&set), [(0, 2), (4, 5)]);
        assert!(!set.insert(4));
        assert!(set.insert(3));
        assert_eq!(ranges(&set), [(0, 5)]);
        assert_eq!((set.count(), set.highest(), set.contains(3), set.contains(6)), (6, Some(5), true, false));
    }

    #[test]
    fn a_range_remembers_when_it_last_grew() {
        let mut set = Ranges::default();
        for (number, age) in [(0, 1), (1, 2), (5, 3), (3, 4)] {
            assert!(set.insert_at(number, age));
        }
        assert_eq!(set.ages().collect::<Vec<_>>(), [2, 4, 3]);
        set.insert_at(4, 5);
        assert_eq!((set.ages().collect::<Vec<_>>(), set.newest()), (vec![2, 5], 5));
        set.retain_ages(|age| age > 2);
        assert_eq!(ranges(&set), [(3, 5)]);
    }

    proptest! {
        #[test]
        fn ranges_are_the_set_of_what_was_inserted(steps in proptest::collection::vec((0_u64..60, 0_u64..6), 0..60)) {
            let (mut set, mut model) = (Ranges::default(), BTreeSet::new());
            for (first, width) in steps {
                if width == 0 {
                    prop_assert_eq!(set.insert(first), model.insert(first));
                } else {
                    let known = (first..=first + width).filter(|number| !model.insert(*number)).count() as u64;
                    prop_assert_eq!(set.insert_range(first, first + width), known);
                }
                prop_assert_eq!(set.count(), model.len() as u64);
                prop_assert!((0..70).all(|number| set.contains(number) == model.contains(&number)));
                prop_assert!(ranges(&set).windows(2).all(|pair| pair[0].1 + 1 < pair[1].0), "{:?}", set);
            }
        }
    }
}
