//! Synthetic trades: the same seed and company give the same trades on every machine and in every release.
//! Rule: pure; whole cents are drawn, so a price has exactly two decimals.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, SeedableRng};
use wire::{EventType, Symbol};

use crate::settings::{Result, SettingsError};

/// Lowest price, inclusive, and highest, exclusive, in cents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    low: u64,
    high: u64,
}

impl Range {
    /// From two amounts of money; both are rounded to whole cents.
    ///
    /// # Errors
    /// When no price lies between them, or the higher one is above [`wire::event::MAX_PRICE`].
    pub fn new(low: f64, high: f64) -> Result<Self> {
        let cents = |amount: f64| (amount * 100.0).round() as u64;
        if !(low < high && cents(low) < cents(high) && high <= wire::event::MAX_PRICE) {
            return Err(SettingsError(format!(
                "PRICE_MIN {low} and PRICE_MAX {high}: no price lies between them; set PRICE_MIN below PRICE_MAX"
            )));
        }
        Ok(Self { low: cents(low), high: cents(high) })
    }
}

/// An endless sequence of trades of one company.
#[derive(Clone, Debug)]
pub struct Prices {
    range: Range,
    generator: Xoshiro256PlusPlus,
}

impl Prices {
    /// The sequence of this seed and company.
    #[must_use]
    pub fn new(seed: u64, company: &Symbol, range: Range) -> Self {
        // FNV-1a, because the standard library's hash may change from release to release.
        let hash = company
            .as_str()
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        Self { range, generator: Xoshiro256PlusPlus::seed_from_u64(seed ^ hash) }
    }
}

impl Iterator for Prices {
    type Item = (EventType, f64);

    fn next(&mut self) -> Option<Self::Item> {
        let kind = if self.generator.next_u64() >> 63 == 0 { EventType::Buy } else { EventType::Sell };
        // The high half of a 128-bit product maps 64 random bits onto the range; the bias is below 2^-17 of a cent's share.
        let width = u128::from(self.range.high - self.range.low);
        let offset = (u128::from(self.generator.next_u64()) * width) >> 64;
        let cents = self.range.low + offset as u64;
        Some((kind, cents as f64 / 100.0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn first(seed: u64, company: &str, count: usize) -> Vec<(EventType, f64)> {
        let range = Range::new(50.0, 550.0).unwrap();
        Prices::new(seed, &company.parse().unwrap(), range).take(count).collect()
    }

    #[test]
    fn the_same_seed_and_company_give_the_same_trades_in_every_release() {
        use EventType::{Buy, Sell};
        assert_eq!(first(7, "MSFT", 3), [(Sell, 207.4), (Buy, 281.15), (Buy, 137.97)]);
        assert_ne!(first(7, "MSFT", 20), first(7, "TSLA", 20));
        assert_ne!(first(7, "MSFT", 20), first(8, "MSFT", 20));
    }

    #[test]
    fn prices_are_spread_evenly_and_half_the_trades_are_buys() {
        let trades = first(1, "MSFT", 100_000);
        let mean = trades.iter().map(|trade| trade.1).sum::<f64>() / 100_000.0;
        assert!((mean - 300.0).abs() < 2.0, "{mean}");
        let buys = trades.iter().filter(|trade| trade.0 == EventType::Buy).count();
        assert!((49_000..51_000).contains(&buys), "{buys}");
    }

    #[test]
    fn an_empty_range_is_refused() {
        for (low, high) in [(5.0, 5.0), (6.0, 5.0), (5.0, 5.001), (0.0, 1e13)] {
            assert!(Range::new(low, high).is_err(), "{low} {high}");
        }
    }

    proptest! {
        #[test]
        fn a_price_has_two_decimals_and_lies_in_the_range(seed: u64, low in 0_u32..1_000_000, width in 1_u32..1_000_000) {
            let (low, high) = (f64::from(low) / 100.0, f64::from(low + width) / 100.0);
            for (_, price) in Prices::new(seed, &"X".parse().unwrap(), Range::new(low, high).unwrap()).take(20) {
                prop_assert!(price >= low && price < high);
                prop_assert_eq!((price * 100.0).round() / 100.0, price);
            }
        }
    }
}
