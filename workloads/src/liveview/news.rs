//! What the pages are told: the board of one moment and what is wrong at that moment, as frames.
//! Rule: pure; each text is made once, however many pages get it, and only if one wants it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::watch;
use wire::Frame;
use wire::frame::FrameType;

use super::board::Board;
use super::cursor::Cursor;
use super::text::Text;

/// The news of the moment; `None` until the database was read once.
pub type Latest = watch::Receiver<Option<Arc<News>>>;

/// Readers stand where one of the last news stood; texts of so many places are kept. Positions that clients make up fill no memory.
const PLACES: usize = 32;

/// One moment.
#[derive(Debug, Default)]
pub struct News {
    board: Board,
    pod: Option<String>,
    source: u32,
    troubles: Troubles,
    whole: OnceLock<Text>,
    /// What changed since a position of the same source.
    changes: Mutex<BTreeMap<u64, Text>>,
}

/// What keeps windows from coming, as far as a liveview can know.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Troubles {
    /// Companies without a consumer that works, and since when.
    pub unattended: BTreeMap<String, String>,
    /// When the database answered last, while it does not.
    pub database_silent_since: Option<String>,
}

impl News {
    /// The news of a board.
    #[must_use]
    pub fn new(board: Board, source: u32, pod: Option<String>, troubles: Troubles) -> Self {
        Self { board, pod, source, troubles, ..Self::default() }
    }

    /// Where they stand.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        Cursor { source: self.source, at: self.board.at() }
    }

    /// The frame of all companies.
    #[must_use]
    pub fn whole(&self) -> Text {
        self.whole.get_or_init(|| self.text(FrameType::Prices, self.board.all())).clone()
    }

    /// The frame for a reader that has come to `cursor`, and where it stands after it.
    #[must_use]
    pub fn since(&self, cursor: Option<Cursor>) -> (Text, Cursor) {
        let now = self.cursor();
        let Some(seen) = cursor.filter(|cursor| cursor.source == self.source) else { return (self.whole(), now) };
        let text = self.changes(seen.at);
        // A pod that is behind must not take a reader back.
        (text, Cursor { at: now.at.max(seen.at), ..now })
    }

    fn changes(&self, at: u64) -> Text {
        let mut known = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(text) = known.get(&at) {
            return text.clone();
        }
        let Some(windows) = self.board.since(at) else { return self.whole() };
        let text = self.text(FrameType::Changes, windows);
        if known.len() < PLACES {
            known.insert(at, text.clone());
        }
        text
    }

    fn text(&self, kind: FrameType, windows: Vec<wire::Window>) -> Text {
        let unattended = self.troubles.unattended.iter().filter(|(company, _)| self.board.has(company));
        let frame = Frame {
            kind,
            at: Some(self.cursor().to_string()),
            unattended: unattended.map(|(company, since)| (company.clone(), since.clone())).collect(),
            database_silent_since: self.troubles.database_silent_since.clone(),
            ..Frame::new(windows, self.pod.clone())
        };
        // Plain data, whose numbers are finite, always has a text.
        Text::new(&serde_json::to_string(&frame).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(company: &str, id: u32) -> wire::Window {
        serde_json::from_value(serde_json::json!({"_id": format!("{id:024x}"), "company": company, "avgPrice": 1.0}))
            .unwrap()
    }

    fn frame(text: &Text) -> Frame {
        serde_json::from_str(text.as_str()).unwrap()
    }

    fn news(board: &Board, troubles: Troubles) -> News {
        News::new(board.clone(), 0, Some("pod".into()), troubles)
    }

    #[test]
    fn a_reader_gets_everything_first_and_then_what_changed() {
        let mut board = Board::default();
        board.replace(vec![window("A", 1), window("B", 1)], 10);
        let first = news(&board, Troubles::default());
        let (text, cursor) = first.since(None);
        assert_eq!((frame(&text).kind, frame(&text).prices.len()), (FrameType::Prices, 2));
        board.offer(window("B", 2), 11);
        let second = news(&board, Troubles::default());
        let (text, after) = second.since(Some(cursor));
        assert_eq!((frame(&text).kind, frame(&text).prices.len()), (FrameType::Changes, 1));
        assert_eq!(frame(&text).at, Some(after.to_string()));
        assert_eq!(frame(&second.since(Some(after)).0).prices.len(), 0);
        let made_up = (0..3 * PLACES as u64).map(|at| second.since(Some(Cursor { source: 0, at })).0);
        assert!(made_up.map(|text| frame(&text).prices.len()).all(|changed| changed <= 2));
        assert_eq!(second.changes.lock().unwrap().len(), PLACES);
        let stranger = Cursor { source: 9, at: 11 };
        assert_eq!(
            frame(&second.since(Some(stranger)).0).kind,
            FrameType::Prices,
            "another source's position says nothing"
        );
    }

    #[test]
    fn a_reader_from_before_this_pod_read_anything_gets_one_whole_frame_and_then_what_changed() {
        let mut board = Board::default();
        board.replace(vec![window("A", 1)], 10);
        let news = news(&board, Troubles::default());
        let (text, cursor) = news.since(Some(Cursor { source: 0, at: 9 }));
        assert_eq!((frame(&text).kind, frame(&text).prices.len()), (FrameType::Prices, 1));
        let text = news.since(Some(cursor)).0;
        assert_eq!((frame(&text).kind, frame(&text).prices.len()), (FrameType::Changes, 0));
    }

    #[test]
    fn a_pod_that_is_behind_takes_no_reader_back() {
        let mut board = Board::default();
        board.replace(vec![window("A", 1)], 10);
        let ahead = Cursor { source: 0, at: 20 };
        let (text, cursor) = news(&board, Troubles::default()).since(Some(ahead));
        assert_eq!((frame(&text).prices.len(), cursor), (0, ahead));
    }

    #[test]
    fn troubles_are_in_every_frame_and_only_of_companies_that_are_shown() {
        let mut board = Board::default();
        board.replace(vec![window("A", 1)], 10);
        let troubles = Troubles {
            unattended: [("A".to_owned(), "then".to_owned()), ("GONE".to_owned(), String::new())].into(),
            database_silent_since: Some("now".into()),
        };
        let news = news(&board, troubles);
        for text in [news.whole(), news.since(Some(news.cursor())).0] {
            assert_eq!(frame(&text).unattended, [("A".to_owned(), "then".to_owned())].into());
            assert_eq!(frame(&text).database_silent_since.as_deref(), Some("now"));
        }
    }
}
