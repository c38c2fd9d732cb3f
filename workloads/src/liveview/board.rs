//! The newest window of each company, each with the position of its change.
//! Rule: pure; memory follows the number of companies, and an older window never replaces a newer one.

use std::collections::BTreeMap;
use std::sync::Arc;

use wire::Window;

/// What the page shows. A clone shares the windows.
#[derive(Clone, Debug, Default)]
pub struct Board {
    newest: BTreeMap<String, Entry>,
    at: u64,
    removed_at: u64,
}

#[derive(Clone, Debug)]
struct Entry {
    window: Arc<Window>,
    at: u64,
}

impl Board {
    /// Takes everything anew, as it was read at or after the position `at`; whether that changed anything.
    ///
    /// What went before it was read for the first time nobody can tell: a reader that stands before that has to get the whole board.
    pub fn replace(&mut self, windows: Vec<Window>, at: u64) -> bool {
        let at = at.max(self.at);
        if self.at == 0 {
            self.removed_at = at;
        }
        let mut before = std::mem::take(&mut self.newest);
        let mut changed = false;
        for window in windows {
            let company = window.company.clone();
            let entry = match before.remove(&company) {
                Some(known) if *known.window == window => known,
                _ => {
                    changed = true;
                    Entry { window: Arc::new(window), at }
                }
            };
            self.newest.insert(company, entry);
        }
        if !before.is_empty() {
            (changed, self.removed_at) = (true, at);
        }
        self.at = at;
        changed
    }

    /// Takes the window of the change at `at`; whether it is news.
    ///
    /// A window that is known from reading anew gets the position of its change when that is heard of: the board was read at
    /// some later moment than the position it was given, and a reader that stands between the two has not seen the window.
    pub fn offer(&mut self, window: Window, at: u64) -> bool {
        self.at = self.at.max(at);
        match self.newest.get(&window.company) {
            Some(known) if is_older(&window.id, &known.window.id) => false,
            Some(known) if *known.window == window && at <= known.at => false,
            _ => {
                self.newest.insert(window.company.clone(), Entry { window: Arc::new(window), at: self.at });
                true
            }
        }
    }

    /// Whether this document is shown, so that its deletion matters. Retention deletes old ones all the time.
    #[must_use]
    pub fn shows(&self, id: &str) -> bool {
        self.newest.values().any(|entry| entry.window.id == id)
    }

    /// The position of the newest change.
    #[must_use]
    pub fn at(&self) -> u64 {
        self.at
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

    /// Every window, by company.
    #[must_use]
    pub fn all(&self) -> Vec<Window> {
        self.newest.values().map(|entry| Window::clone(&entry.window)).collect()
    }

    /// The windows that changed after the position `at`; `None` when a company went since, or may have, which only the whole board can tell.
    #[must_use]
    pub fn since(&self, at: u64) -> Option<Vec<Window>> {
        let changed = self.newest.values().filter(|entry| entry.at > at);
        (self.removed_at <= at).then(|| changed.map(|entry| Window::clone(&entry.window)).collect())
    }

    /// Whether the company is shown.
    #[must_use]
    pub fn has(&self, company: &str) -> bool {
        self.newest.contains_key(company)
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

    fn shown(windows: &[Window]) -> Vec<(&str, f64)> {
        windows.iter().map(|window| (window.company.as_str(), window.avg_price)).collect()
    }

    const OLD: &str = "655f1d2f8b3c2a0012345678";
    const NEW: &str = "655f1d2f8b3c2a0012345679";

    #[test]
    fn the_newest_window_of_each_company_is_shown_sorted() {
        let mut board = Board::default();
        assert!(board.offer(window("TSLA", OLD, 1.0), 1));
        assert!(board.offer(window("AAPL", NEW, 2.0), 2));
        assert!(board.offer(window("TSLA", NEW, 3.0), 3));
        assert!(!board.offer(window("TSLA", OLD, 1.0), 4), "a late, older window is no news");
        assert!(!board.offer(window("TSLA", NEW, 3.0), 3), "the same change twice is no news");
        assert!(board.offer(window("TSLA", NEW, 3.5), 5), "a corrected window is");
        assert_eq!(shown(&board.all()), [("AAPL", 2.0), ("TSLA", 3.5)]);
    }

    #[test]
    fn reading_anew_forgets_companies_that_are_gone() {
        let mut board = Board::default();
        assert!(board.replace(vec![window("A", OLD, 1.0), window("B", OLD, 1.0)], 1));
        assert!(!board.replace(vec![window("B", OLD, 1.0), window("A", OLD, 1.0)], 2));
        assert!(board.shows(OLD) && !board.shows(NEW));
        assert!(board.replace(vec![window("B", OLD, 1.0)], 3));
        assert_eq!(board.len(), 1);
    }

    #[test]
    fn a_reader_that_comes_back_gets_what_changed_since_and_all_when_a_company_went() {
        let mut board = Board::default();
        board.replace(vec![window("A", OLD, 1.0), window("B", OLD, 1.0)], 10);
        board.offer(window("B", NEW, 2.0), 12);
        assert_eq!(shown(&board.since(10).unwrap()), [("B", 2.0)]);
        assert_eq!(shown(&board.since(12).unwrap()), []);
        board.replace(vec![window("B", NEW, 2.0)], 15);
        assert_eq!(board.since(12), None);
        assert_eq!(shown(&board.since(15).unwrap()), []);
    }

    #[test]
    fn a_reader_that_stands_before_the_first_reading_gets_all_for_a_company_may_have_gone_before_it() {
        let mut board = Board::default();
        // Another pod showed it B too, at 9.
        board.replace(vec![window("A", OLD, 1.0)], 10);
        assert_eq!(board.since(9), None);
        assert_eq!(shown(&board.since(10).unwrap()), []);
        board.replace(vec![window("A", NEW, 2.0)], 12);
        assert_eq!(board.since(9), None);
        assert_eq!(shown(&board.since(10).unwrap()), [("A", 2.0)], "what it saw here it need not see again");
    }

    #[test]
    fn a_reader_from_another_pod_misses_no_window_that_was_read_before_its_change_was_heard_of() {
        // Read at 10, but the window of the change at 12 was already there.
        let mut board = Board::default();
        board.replace(vec![window("A", NEW, 2.0)], 10);
        let elsewhere = 11;
        assert!(board.offer(window("A", NEW, 2.0), 12));
        assert_eq!(shown(&board.since(elsewhere).unwrap()), [("A", 2.0)]);
    }
}
