//! One average of one company: the document of the results collection, as JSON shows it.
//! Rule: `_id`, `company` and `avgPrice` are the old contract; every other field may be absent, for foreign consumers do not write it.

use serde::{Deserialize, Serialize};

/// Names of the document's fields, for queries and indexes.
pub mod field {
    /// Identity; within a company its order is the order of time.
    pub const ID: &str = "_id";
    /// Symbol of the company.
    pub const COMPANY: &str = "company";
    /// Average price, rounded to 2 decimals.
    pub const AVERAGE_PRICE: &str = "avgPrice";
    /// Number of the window within its company: 0, 1, 2, …
    pub const WINDOW: &str = "window";
    /// Events in the window.
    pub const COUNT: &str = "count";
    /// Lowest price.
    pub const MIN: &str = "min";
    /// Highest price.
    pub const MAX: &str = "max";
    /// First price.
    pub const OPEN: &str = "open";
    /// Last price.
    pub const CLOSE: &str = "close";
    /// Events that were buys.
    pub const BUYS: &str = "buys";
    /// Events that were sells.
    pub const SELLS: &str = "sells";
    /// When the first event was published.
    pub const FIRST_AT: &str = "firstAt";
    /// When the last event was published.
    pub const LAST_AT: &str = "lastAt";
    /// Events without a sequence number.
    pub const UNSEQUENCED: &str = "unsequenced";
    /// The sequence numbers of the window's events: `[{source, ranges: [first, last, first, last, …]}]`.
    pub const SEQUENCES: &str = "sequences";
    /// The same of all the company's events up to and with this window, and when each source was last heard: `[{source, ranges, ages, at}]`.
    pub const MARKS: &str = "marks";
    /// In [`SEQUENCES`] and [`MARKS`]: one life of one publisher.
    pub const SOURCE: &str = "source";
    /// In [`SEQUENCES`] and [`MARKS`]: first and last number of each range, ascending.
    pub const RANGES: &str = "ranges";
    /// In [`MARKS`]: for each range, the company's count of events when the range last grew; what is old may be forgotten.
    pub const AGES: &str = "ages";
    /// In [`MARKS`]: when the source's last event was taken.
    pub const AT: &str = "at";
    /// The process that wrote the document.
    pub const WRITER: &str = "writer";
}

/// Fields that only consumers and auditors need; whoever shows windows leaves them out of what it reads.
pub const BOOKKEEPING: [&str; 2] = [field::SEQUENCES, field::MARKS];

/// Names of the fields of a lease that more than the consumers know; its `_id` is the company's symbol.
pub mod lease {
    /// Until this time of the database's clock somebody works for the company.
    pub const UNTIL: &str = "until";
    /// Until this time of the database's clock a window is not kept waiting for events that will not come.
    pub const DRAIN_UNTIL: &str = "drainUntil";
    /// Messages of the queue that whoever works for the company has taken and not yet acknowledged, as it renewed the lease.
    pub const HELD: &str = "held";
}

/// The collection of the consumers' leases, beside that of the windows.
#[must_use]
pub fn leases(collection: &str) -> String {
    format!("{collection}.leases")
}

/// One stored window. Absent fields are left out of the JSON, never written as null.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Window {
    /// The document's `_id`: 24 hexadecimal digits when it is an ObjectId.
    #[serde(rename = "_id")]
    pub id: String,
    /// Symbol of the company.
    pub company: String,
    /// Average price, rounded to 2 decimals, half away from zero.
    pub avg_price: f64,
    /// Number of the window within its company.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<i64>,
    /// Events in the window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<i64>,
    /// Lowest price.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// Highest price.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// First price.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open: Option<f64>,
    /// Last price.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub close: Option<f64>,
    /// Events that were buys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buys: Option<i64>,
    /// Events that were sells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sells: Option<i64>,
    /// When the first event was published, RFC 3339 in UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_at: Option<String>,
    /// When the last event was published, RFC 3339 in UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_at: Option<String>,
    /// Events without a sequence number; absent when there were none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsequenced: Option<i64>,
    /// The process that wrote the document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writer: Option<String>,
}

/// Units of [`Total`] in one unit of money: prices are exact to eight decimals.
const UNITS: i128 = 100_000_000;
/// Units in a hundredth, the precision of a stored average.
const UNITS_PER_CENT: i128 = UNITS / 100;

/// An exact sum of prices.
///
/// Binary fractions add up to errors (a thousand times 0.1 is not 100), so prices are summed as whole hundred-millionths.
/// Prices with up to eight decimals, all that our publisher writes, are summed exactly; the order of events cannot matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total(i128);

impl Total {
    /// Adds one price. The price is one that [`crate::PriceEvent`] lets through, so the sum cannot overflow.
    pub fn add(&mut self, price: f64) {
        self.0 += (price * UNITS as f64).round() as i128;
    }

    /// The mean of `count` prices rounded to 2 decimals, half away from zero; 0 when `count` is 0.
    ///
    /// The decision is made on the decimal value: the mean 1.005 becomes 1.01, although the nearest binary fraction lies below it.
    /// That is what `round(mean * 100) / 100` gives wherever the multiplication is not itself off, so plain readers agree.
    #[must_use]
    pub fn mean(self, count: u32) -> f64 {
        if count == 0 {
            return 0.0;
        }
        let divisor = i128::from(count) * UNITS_PER_CENT;
        let cents = (2 * self.0.abs() + divisor) / (2 * divisor) * self.0.signum();
        cents as f64 / 100.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mean(prices: &[f64]) -> f64 {
        let mut total = Total::default();
        prices.iter().for_each(|price| total.add(*price));
        total.mean(u32::try_from(prices.len()).unwrap())
    }

    #[test]
    fn halves_go_away_from_zero_by_their_decimal_value() {
        assert_eq!(mean(&[1.005]), 1.01);
        assert_eq!(mean(&[1.00, 1.01]), 1.01);
        assert_eq!(mean(&[2.67, 2.68]), 2.68);
        assert_eq!(mean(&[0.01, 0.01, 0.02]), 0.01);
        assert_eq!(mean(&[]), 0.0);
    }

    #[test]
    fn a_thousand_tenths_are_exactly_a_tenth_on_average() {
        assert_eq!(mean(&vec![0.1; 1000]), 0.1);
        assert_eq!(mean(&vec![crate::event::MAX_PRICE; 1000]), crate::event::MAX_PRICE);
    }

    proptest! {
        #[test]
        fn the_mean_agrees_with_integer_arithmetic_on_cents(cents in proptest::collection::vec(0_i64..10_000_000, 1..200)) {
            let prices: Vec<f64> = cents.iter().map(|cent| *cent as f64 / 100.0).collect();
            let (sum, count) = (cents.iter().sum::<i64>(), cents.len() as i64);
            prop_assert_eq!(mean(&prices), ((2 * sum + count) / (2 * count)) as f64 / 100.0);
        }

        #[test]
        fn the_mean_is_within_half_a_cent_of_a_plain_reader(prices in proptest::collection::vec(0.0_f64..1e6, 1..200)) {
            let plain = prices.iter().sum::<f64>() / prices.len() as f64;
            prop_assert!((mean(&prices) - plain).abs() <= 0.005 + 1e-6);
        }
    }
}
