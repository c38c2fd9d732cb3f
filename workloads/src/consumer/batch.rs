//! Fills one window with events and sums it up.
//! Rule: pure; the sum is exact, so the order of events never changes an average.

use std::num::NonZeroU32;

use wire::EventType;
use wire::window::Total;

use super::intake::Reading;

/// A full window, without its number.
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
}

/// The window that is being filled.
#[derive(Clone, Debug)]
pub struct Batch {
    size: NonZeroU32,
    total: Total,
    filling: Option<Summary>,
}

impl Batch {
    /// An empty window of `size` events.
    #[must_use]
    pub fn new(size: NonZeroU32) -> Self {
        Self { size, total: Total::default(), filling: None }
    }

    /// Events in the window so far.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.filling.as_ref().map_or(0, |summary| summary.count)
    }

    /// Adds an event; gives the window when this was its last one, and starts the next.
    pub fn push(&mut self, reading: &Reading<'_>) -> Option<Summary> {
        let Reading { event_type, price, at, sequence } = *reading;
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
        summary.unsequenced += u32::from(sequence.is_none());
        if summary.count < self.size.get() {
            return None;
        }
        let mut full = self.filling.take()?;
        full.average = std::mem::take(&mut self.total).mean(full.count);
        Some(full)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::intake::Sequence;
    use super::*;

    fn reading(price: f64, at: i64) -> Reading<'static> {
        Reading { event_type: EventType::Buy, price, at, sequence: Some(Sequence { source: "s", number: 0 }) }
    }

    fn fill(size: u32, prices: &[f64]) -> Vec<Summary> {
        let mut batch = Batch::new(NonZeroU32::new(size).unwrap());
        prices.iter().enumerate().filter_map(|(at, price)| batch.push(&reading(*price, at as i64))).collect()
    }

    #[test]
    fn a_window_knows_its_first_last_lowest_highest_and_sides() {
        let mut batch = Batch::new(NonZeroU32::new(3).unwrap());
        assert_eq!(batch.push(&reading(2.0, 30)), None);
        let foreign = Reading { event_type: EventType::Sell, sequence: None, ..reading(1.0, 10) };
        assert_eq!(batch.push(&foreign), None);
        assert_eq!(batch.count(), 2);
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
        };
        assert_eq!(batch.push(&reading(4.0, 20)), Some(expected));
        assert_eq!(batch.count(), 0);
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
