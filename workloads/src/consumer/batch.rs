//! Fills one window with events and sums it up.
//! Rule: pure; the sum is exact, so the order of events never changes an average.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use wire::EventType;
use wire::window::Total;

use super::intake::Reading;
use super::ranges::Ranges;

/// A closed window, without its number.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Average price, rounded to 2 decimals, half away from zero.
    pub average: f64,
    /// Events.
    pub count: u32,
    /// Lowest price.
    pub min: f64,
    /// Highest price.
    pub max: f64,
    /// First price.
    pub open: f64,
    /// Last price.
    pub close: f64,
    /// Events that were buys.
    pub buys: u32,
    /// Events that were sells.
    pub sells: u32,
    /// Earliest publication, milliseconds since 1970.
    pub first_at: i64,
    /// Latest publication, milliseconds since 1970.
    pub last_at: i64,
    /// Events without a sequence number.
    pub unsequenced: u32,
    /// By source, the sequence numbers of the others.
    pub sequences: BTreeMap<String, Ranges>,
}

/// The window that is being filled.
#[derive(Clone, Debug)]
pub struct Batch {
    size: NonZeroU32,
    total: Total,
    since: i64,
    filling: Option<Summary>,
}

impl Batch {
    /// An empty window of `size` events.
    #[must_use]
    pub fn new(size: NonZeroU32) -> Self {
        Self { size, total: Total::default(), since: 0, filling: None }
    }

    /// Events in the window so far.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.filling.as_ref().map_or(0, |summary| summary.count)
    }

    /// When the first event of the window was taken; `None` when there is none.
    #[must_use]
    pub fn since(&self) -> Option<i64> {
        self.filling.as_ref().map(|_| self.since)
    }

    /// Adds an event taken `now`; gives the window when this was its last one, and starts the next.
    pub fn push(&mut self, reading: &Reading<'_>, now: i64) -> Option<Summary> {
        let Reading { event_type, price, at, sequence } = *reading;
        if self.filling.is_none() {
            self.since = now;
        }
        let summary = self.filling.get_or_insert(Summary {
            average: 0.0,
            count: 0,
            min: price,
            max: price,
            open: price,
            close: price,
            buys: 0,
            sells: 0,
            first_at: at,
            last_at: at,
            unsequenced: 0,
            sequences: BTreeMap::new(),
        });
        self.total.add(price);
        summary.count += 1;
        summary.min = summary.min.min(price);
        summary.max = summary.max.max(price);
        summary.close = price;
        summary.first_at = summary.first_at.min(at);
        summary.last_at = summary.last_at.max(at);
        match event_type {
            EventType::Buy => summary.buys += 1,
            EventType::Sell => summary.sells += 1,
        }
        match sequence {
            None => summary.unsequenced += 1,
            // The name is copied once per window, not once per event.
            Some(sequence) => match summary.sequences.get_mut(sequence.source) {
                Some(ranges) => {
                    ranges.insert(sequence.number);
                }
                None => {
                    let ranges = [(sequence.number, sequence.number)].into_iter().collect();
                    summary.sequences.insert(sequence.source.to_owned(), ranges);
                }
            },
        }
        if summary.count < self.size.get() { None } else { self.close() }
    }

    /// Ends the window with what it has, and starts the next; `None` when it is empty.
    pub fn close(&mut self) -> Option<Summary> {
        let mut closed = self.filling.take()?;
        closed.average = std::mem::take(&mut self.total).mean(closed.count);
        Some(closed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use wire::event::Sequence;

    fn reading(price: f64, at: i64) -> Reading<'static> {
        Reading { event_type: EventType::Buy, price, at, sequence: Some(Sequence { source: "s", number: 0 }) }
    }

    fn fill(size: u32, prices: &[f64]) -> Vec<Summary> {
        let mut batch = Batch::new(NonZeroU32::new(size).unwrap());
        prices.iter().enumerate().filter_map(|(at, price)| batch.push(&reading(*price, at as i64), 0)).collect()
    }

    #[test]
    fn a_window_knows_its_first_last_lowest_highest_and_sides() {
        let mut batch = Batch::new(NonZeroU32::new(3).unwrap());
        assert_eq!(batch.push(&reading(2.0, 30), 7), None);
        let foreign = Reading { event_type: EventType::Sell, sequence: None, ..reading(1.0, 10) };
        assert_eq!(batch.push(&foreign, 8), None);
        assert_eq!((batch.count(), batch.since()), (2, Some(7)));
        let expected = Summary {
            average: 2.33,
            count: 3,
            min: 1.0,
            max: 4.0,
            open: 2.0,
            close: 4.0,
            buys: 2,
            sells: 1,
            first_at: 10,
            last_at: 30,
            unsequenced: 1,
            sequences: BTreeMap::from([("s".into(), [(0, 0)].into_iter().collect())]),
        };
        assert_eq!(batch.push(&reading(4.0, 20), 9), Some(expected));
        assert_eq!((batch.count(), batch.since()), (0, None));
    }

    #[test]
    fn a_window_that_is_closed_early_holds_what_it_has_and_an_empty_one_is_none() {
        let mut batch = Batch::new(NonZeroU32::new(3).unwrap());
        assert_eq!(batch.close(), None);
        batch.push(&reading(2.0, 0), 0);
        batch.push(&reading(3.0, 0), 0);
        let closed = batch.close().unwrap();
        assert_eq!((closed.average, closed.count), (2.5, 2));
        assert_eq!(batch.close(), None);
    }

    #[test]
    fn a_window_starts_from_nothing() {
        let windows = fill(2, &[100.0, 200.0, 1.0, 3.0]);
        assert_eq!(windows.iter().map(|window| window.average).collect::<Vec<_>>(), [150.0, 2.0]);
        assert_eq!((windows[1].min, windows[1].max, windows[1].open), (1.0, 3.0, 1.0));
    }

    proptest! {
        #[test]
        fn every_window_holds_exactly_its_size_and_its_mean_lies_between_min_and_max(
            size in 1_u32..50, cents in proptest::collection::vec(0_u32..100_000, 0..300),
        ) {
            let prices: Vec<f64> = cents.iter().map(|cent| f64::from(*cent) / 100.0).collect();
            let windows = fill(size, &prices);
            prop_assert_eq!(windows.len(), prices.len() / size as usize);
            for window in windows {
                prop_assert_eq!((window.count, window.buys + window.sells), (size, size));
                prop_assert!(window.min <= window.average && window.average <= window.max);
            }
        }

        #[test]
        fn the_order_of_prices_does_not_change_the_average(
            (prices, shuffled) in proptest::collection::vec(0.0_f64..1e6, 1..100)
                .prop_flat_map(|prices| (Just(prices.clone()), Just(prices).prop_shuffle())),
        ) {
            let size = prices.len() as u32;
            prop_assert_eq!(fill(size, &prices)[0].average, fill(size, &shuffled)[0].average);
        }
    }
}
