//! Reads windows from the database, whoever wrote them.
//! Rule: every query walks an index by company; none grows with the number of documents.

use futures::TryStreamExt;
use mongodb::Collection;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Bson, Document, doc};
use serde::Serialize;
use wire::window::{BOOKKEEPING, field};
use wire::{Symbol, Window};

/// Asks for the newest document of each company.
///
/// Sorted like the index, `$group` with `$first` becomes a DISTINCT_SCAN: one step of the index per company.
#[must_use]
pub fn newest_pipeline() -> [Document; 3] {
    let newest = doc! {"_id": format!("${}", field::COMPANY), "newest": {"$first": "$$ROOT"}};
    [doc! {"$sort": {field::COMPANY: 1, field::ID: -1}}, doc! {"$group": newest}, without_bookkeeping("newest")]
}

/// A stage that leaves out of the document in `parent` what consumers write for consumers.
#[must_use]
pub fn without_bookkeeping(parent: &str) -> Document {
    doc! {"$unset": BOOKKEEPING.map(|name| format!("{parent}.{name}")).to_vec()}
}

/// The newest window of each company.
///
/// # Errors
/// When the database does not answer.
pub async fn newest(windows: &Collection<Document>) -> mongodb::error::Result<Vec<Window>> {
    let groups: Vec<Document> = windows.aggregate(newest_pipeline()).await?.try_collect().await?;
    Ok(groups.iter().filter_map(|group| group.get_document("newest").ok()).filter_map(window).collect())
}

/// A page of a company's windows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// Newest first; fewer than were asked for when some documents are no windows.
    pub windows: Vec<Window>,
    /// The identity to go on before; none when there is no older document.
    pub next: Option<String>,
}

/// The windows of one company, newest first, from the newest or from the one before `before`, in at most `limit` documents.
///
/// # Errors
/// When the database does not answer.
pub async fn of_company(
    windows: &Collection<Document>,
    company: &Symbol,
    before: Option<&str>,
    limit: i64,
) -> mongodb::error::Result<History> {
    let found = windows
        .find(selection(company, before))
        .sort(doc! {field::ID: -1})
        .limit(limit)
        .projection(BOOKKEEPING.into_iter().map(|name| (name.to_owned(), Bson::Int32(0))).collect::<Document>())
        .await?;
    let documents: Vec<Document> = found.try_collect().await?;
    Ok(history(&documents, limit))
}

/// The page of these documents. As many as were asked for may have others behind them, whether or not each of them is a window.
fn history(documents: &[Document], limit: i64) -> History {
    let full = i64::try_from(documents.len()).is_ok_and(|length| length == limit);
    let last = documents.last().filter(|_| full);
    History {
        windows: documents.iter().filter_map(window).collect(),
        next: last.and_then(|last| last.get(field::ID)).map(identity),
    }
}

/// Which documents [`of_company`] walks: with `before` it starts in the middle of the index, and costs as much as from its end.
#[must_use]
pub fn selection(company: &Symbol, before: Option<&str>) -> Document {
    let mut selection = doc! {field::COMPANY: company.as_str()};
    if let Some(id) = before {
        selection.insert(field::ID, doc! {"$lt": parsed(id)});
    }
    selection
}

/// The identity that [`identity`] prints so: digits of an ObjectId, a number, or a text.
fn parsed(id: &str) -> Bson {
    if let Ok(id) = ObjectId::parse_str(id) {
        return id.into();
    }
    id.parse::<i64>().map_or_else(|_| id.into(), Bson::Int64)
}

/// The newest averages of a company, oldest first, and the identity of the last of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Sparkline {
    /// Averages, oldest first.
    pub prices: Vec<f64>,
    /// Which window the last of them is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub newest: Option<String>,
}

/// Reads a sparkline.
///
/// # Errors
/// When the database does not answer.
pub async fn sparkline(
    windows: &Collection<Document>,
    company: &Symbol,
    limit: i64,
) -> mongodb::error::Result<Sparkline> {
    let lean = doc! {field::COMPANY: 1, field::AVERAGE_PRICE: 1};
    let found = windows.find(selection(company, None)).sort(doc! {field::ID: -1}).limit(limit).projection(lean).await?;
    let documents: Vec<Document> = found.try_collect().await?;
    let mut line: Vec<Window> = documents.iter().filter_map(window).collect();
    line.reverse();
    Ok(Sparkline {
        prices: line.iter().map(|window| window.avg_price).collect(),
        newest: line.pop().map(|last| last.id),
    })
}

/// A document as the page sees it; `None` when it has no company or no average. Foreign programs may write numbers of any kind.
#[must_use]
pub fn window(document: &Document) -> Option<Window> {
    let number = |name: &str| document.get(name).and_then(amount);
    let whole = |name: &str| document.get(name).and_then(amount).map(|amount| amount as i64);
    let text = |name: &str| document.get(name).and_then(Bson::as_str).map(str::to_owned);
    let time = |name: &str| document.get_datetime(name).ok().and_then(|time| time.try_to_rfc3339_string().ok());
    Some(Window {
        id: document.get(field::ID).map(identity)?,
        company: text(field::COMPANY)?,
        avg_price: number(field::AVERAGE_PRICE)?,
        window: whole(field::WINDOW),
        count: whole(field::COUNT),
        min: number(field::MIN),
        max: number(field::MAX),
        open: number(field::OPEN),
        close: number(field::CLOSE),
        buys: whole(field::BUYS),
        sells: whole(field::SELLS),
        first_at: time(field::FIRST_AT),
        last_at: time(field::LAST_AT),
        unsequenced: whole(field::UNSEQUENCED),
        writer: text(field::WRITER),
    })
}

/// An identity as text: the digits of an ObjectId, anything else as it prints.
#[must_use]
pub fn identity(id: &Bson) -> String {
    match id {
        Bson::ObjectId(id) => id.to_hex(),
        Bson::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn amount(value: &Bson) -> Option<f64> {
    match value {
        Bson::Double(number) => Some(*number),
        Bson::Int32(number) => Some(f64::from(*number)),
        Bson::Int64(number) => Some(*number as f64),
        Bson::Decimal128(number) => number.to_string().parse().ok(),
        _ => None,
    }
    .filter(|number| number.is_finite())
}

#[cfg(test)]
mod tests {
    use mongodb::bson::DateTime;

    use super::*;

    #[test]
    fn a_foreign_document_is_a_window_with_what_it_has() {
        let id = ObjectId::new();
        let foreign = window(&doc! {"_id": id, "company": "MSFT", "avgPrice": 300_i32}).unwrap();
        assert_eq!((foreign.id, foreign.avg_price, foreign.count), (id.to_hex(), 300.0, None));
    }

    #[test]
    fn our_document_is_a_window_with_its_times_as_text() {
        let document = doc! {
            "_id": "7", "company": "MSFT", "avgPrice": 1.5, "window": 3_i64, "count": 1000_i64,
            "firstAt": DateTime::from_millis(1_800_000_000_123), "writer": "w",
        };
        let ours = window(&document).unwrap();
        assert_eq!((ours.id.as_str(), ours.window, ours.count), ("7", Some(3), Some(1000)));
        assert_eq!(ours.first_at.as_deref(), Some("2027-01-15T08:00:00.123Z"));
    }

    #[test]
    fn a_page_goes_on_behind_its_last_document_though_that_or_another_is_no_window() {
        let number = |number: i32| doc! {"_id": number, "company": "A", "avgPrice": 1.0};
        let foreign = |number: i32| doc! {"_id": number, "company": "A"};
        let seen = |documents: &[Document]| {
            let History { windows, next } = history(documents, 2);
            (windows.into_iter().map(|window| window.id).collect::<Vec<_>>().join(" "), next)
        };
        assert_eq!(seen(&[number(9), number(8)]), ("9 8".into(), Some("8".into())));
        assert_eq!(seen(&[foreign(9), number(8)]), ("8".into(), Some("8".into())));
        assert_eq!(seen(&[number(9), foreign(8)]), ("9".into(), Some("8".into())));
        assert_eq!(seen(&[foreign(9), foreign(8)]), (String::new(), Some("8".into())));
        assert_eq!(seen(&[number(9)]), ("9".into(), None));
        assert_eq!(seen(&[]), (String::new(), None));
    }

    #[test]
    fn a_document_without_company_or_average_is_no_window() {
        for document in [
            doc! {"_id": 1, "company": "A"},
            doc! {"_id": 1, "avgPrice": 1.0},
            doc! {"_id": 1, "company": 7, "avgPrice": 1.0},
            doc! {"_id": 1, "company": "A", "avgPrice": f64::NAN},
        ] {
            assert_eq!(window(&document), None, "{document}");
        }
    }
}
