//! The newest window of each company.
//! Rule: pure; memory follows the number of companies, and an older window never replaces a newer one.

use std::collections::BTreeMap;

use wire::{Frame, Window};

/// What the page shows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Board {
    newest: BTreeMap<String, Window>,
}

impl Board {
    /// Takes everything anew, after the database was read; whether that changed anything.
    pub fn replace(&mut self, windows: Vec<Window>) -> bool {
        let newest = windows.into_iter().map(|window| (window.company.clone(), window)).collect();
        let changed = self.newest != newest;
        self.newest = newest;
        changed
    }

    /// Takes one window; whether it is news.
    pub fn offer(&mut self, window: Window) -> bool {
        match self.newest.get(&window.company) {
            Some(known) if *known == window || is_older(&window.id, &known.id) => false,
            _ => {
                self.newest.insert(window.company.clone(), window);
                true
            }
        }
    }

    /// Whether this document is shown, so that its deletion matters. Retention deletes old ones all the time.
    #[must_use]
    pub fn shows(&self, id: &str) -> bool {
        self.newest.values().any(|window| window.id == id)
    }

    /// Number of companies.
    #[must_use]
    pub fn len(&self) -> usize {
        self.newest.len()
    }

    /// Whether there is no company yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.newest.is_empty()
    }

    /// The frame for the pages.
    #[must_use]
    pub fn frame(&self, pod: Option<&str>) -> Frame {
        Frame::new(self.newest.values().cloned().collect(), pod.map(str::to_owned))
    }
}

/// ObjectIds are compared as their digits, which is the order of time. Identities of another kind have no known order.
fn is_older(id: &str, known: &str) -> bool {
    let is_object_id = |text: &str| text.len() == 24 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_object_id(id) && is_object_id(known) && id < known
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(company: &str, id: &str, average: f64) -> Window {
        serde_json::from_value(serde_json::json!({"_id": id, "company": company, "avgPrice": average})).unwrap()
    }

    const OLD: &str = "655f1d2f8b3c2a0012345678";
    const NEW: &str = "655f1d2f8b3c2a0012345679";

    #[test]
    fn the_newest_window_of_each_company_is_shown_sorted() {
        let mut board = Board::default();
        assert!(board.offer(window("TSLA", OLD, 1.0)));
        assert!(board.offer(window("AAPL", NEW, 2.0)));
        assert!(board.offer(window("TSLA", NEW, 3.0)));
        assert!(!board.offer(window("TSLA", OLD, 1.0)), "a late, older window is no news");
        assert!(!board.offer(window("TSLA", NEW, 3.0)), "the same window twice is no news");
        assert!(board.offer(window("TSLA", NEW, 3.5)), "a corrected window is");
        let frame = board.frame(Some("pod"));
        let shown: Vec<_> = frame.prices.iter().map(|window| (window.company.as_str(), window.avg_price)).collect();
        assert_eq!(shown, [("AAPL", 2.0), ("TSLA", 3.5)]);
    }

    #[test]
    fn reading_anew_forgets_companies_that_are_gone() {
        let mut board = Board::default();
        assert!(board.replace(vec![window("A", OLD, 1.0), window("B", OLD, 1.0)]));
        assert!(!board.replace(vec![window("B", OLD, 1.0), window("A", OLD, 1.0)]));
        assert!(board.shows(OLD) && !board.shows(NEW));
        assert!(board.replace(vec![window("B", OLD, 1.0)]));
        assert_eq!(board.len(), 1);
    }
}
