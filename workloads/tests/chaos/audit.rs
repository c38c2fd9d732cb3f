//! What stored windows say about which events were counted, worked out a second time: `stock-consumer verify` must come to the same.
//! Rule: pure, and written against the documents alone, so that it shares no mistake with the consumer.

use std::collections::BTreeMap;

use mongodb::bson::{Bson, Document};

/// The windows of one company, added up.
#[derive(Debug, Default, PartialEq)]
pub struct Audit {
    pub windows: usize,
    /// What the windows say they hold.
    pub events: i64,
    pub unsequenced: i64,
    /// Of each source: events it made, if none is missing at its end.
    pub sources: BTreeMap<String, i64>,
    pub gaps: i64,
    pub duplicates: i64,
    /// What contradicts itself.
    pub findings: Vec<String>,
}

impl Audit {
    pub fn of(windows: &[Document]) -> Self {
        let mut audit = Self { windows: windows.len(), ..Self::default() };
        let mut ranges: BTreeMap<String, Vec<(i64, i64)>> = BTreeMap::new();
        let mut numbers: Vec<i64> = Vec::new();
        for window in windows {
            let count = integer(window.get("count"));
            let unsequenced = window.get("unsequenced").map_or(0, |number| integer(Some(number)));
            let mut sequenced = 0;
            for entry in window.get_array("sequences").into_iter().flatten().filter_map(Bson::as_document) {
                let bounds: Vec<i64> =
                    entry.get_array("ranges").unwrap().iter().map(|bound| integer(Some(bound))).collect();
                let pairs = bounds.chunks_exact(2).map(|pair| (pair[0], pair[1]));
                sequenced += pairs.clone().map(|(first, last)| last - first + 1).sum::<i64>();
                ranges.entry(entry.get_str("source").unwrap().to_owned()).or_default().extend(pairs);
            }
            if count != sequenced + unsequenced {
                audit
                    .findings
                    .push(format!("{sequenced} sequence numbers, {unsequenced} without one, count {count}: {window}"));
            }
            audit.events += count;
            audit.unsequenced += unsequenced;
            numbers.push(integer(window.get("window")));
        }
        numbers.sort_unstable();
        if !numbers.iter().copied().eq(0..numbers.len() as i64) {
            audit.findings.push(format!("windows are not numbered 0 to {}", numbers.len()));
        }
        for (source, mut ranges) in ranges {
            ranges.sort_unstable();
            let mut next = 0;
            for (first, last) in ranges {
                audit.gaps += (first - next).max(0);
                audit.duplicates += (next.min(last + 1) - first).max(0);
                next = next.max(last + 1);
            }
            audit.sources.insert(source, next);
        }
        audit
    }
}

fn integer(value: Option<&Bson>) -> i64 {
    match value {
        Some(Bson::Int32(number)) => i64::from(*number),
        Some(Bson::Int64(number)) => *number,
        other => panic!("{other:?} is no whole number"),
    }
}

#[cfg(test)]
mod tests {
    use mongodb::bson::doc;

    use super::*;

    fn window(number: i64, count: i64, ranges: &[i64]) -> Document {
        doc! {"window": number, "count": count, "sequences": [{"source": "a", "ranges": ranges.to_vec()}]}
    }

    fn gaps_and_duplicates(windows: &[Document]) -> (i64, i64) {
        let audit = Audit::of(windows);
        assert_eq!(audit.findings, [""; 0]);
        (audit.gaps, audit.duplicates)
    }

    #[test]
    fn events_counted_once_in_any_order_are_fine() {
        let windows = [window(0, 3, &[0, 1, 4, 4]), window(1, 3, &[2, 3, 5, 5])];
        assert_eq!(gaps_and_duplicates(&windows), (0, 0));
        assert_eq!(Audit::of(&windows).sources, BTreeMap::from([("a".into(), 6)]));
    }

    #[test]
    fn a_missing_event_is_a_gap_and_one_counted_twice_a_duplicate() {
        assert_eq!(gaps_and_duplicates(&[window(0, 2, &[0, 1]), window(1, 2, &[3, 4])]), (1, 0));
        assert_eq!(gaps_and_duplicates(&[window(0, 2, &[1, 2])]), (1, 0));
        assert_eq!(gaps_and_duplicates(&[window(0, 3, &[0, 2]), window(1, 2, &[2, 3])]), (0, 1));
        assert_eq!(gaps_and_duplicates(&[window(0, 9, &[0, 8]), window(1, 2, &[2, 3]), window(2, 1, &[8, 8])]), (0, 3));
    }

    #[test]
    fn a_count_that_is_not_that_of_its_sequence_numbers_is_found_and_so_is_a_missing_window() {
        assert_eq!(Audit::of(&[window(0, 3, &[0, 1])]).findings.len(), 1);
        assert_eq!(Audit::of(&[window(0, 1, &[0, 0]), window(2, 1, &[1, 1])]).findings.len(), 1);
    }
}
