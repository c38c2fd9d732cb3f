//! The consumer's view of the database: where the company stands, and one insert per window.
//! Rule: a document is written once, with majority and journal; a key that exists already means that another consumer was first.

use std::time::Duration;

use anyhow::{Context, anyhow};
use mongodb::Collection;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Bson, DateTime, Document, doc};
use tokio::time::timeout;
use wire::Symbol;
use wire::window::field;

use super::pipeline::Filled;
use crate::database::{self, explain, is_duplicate_key};

/// A command without an answer for so long has lost its server; the driver itself would wait for ever.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// What is stored of a company.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Newest {
    /// Identity of the newest document, of whatever program.
    pub id: Option<ObjectId>,
    /// Number that the next window gets.
    pub next_number: i64,
}

/// Makes the indexes and reads where the company stands.
///
/// # Errors
/// When the database does not answer or refuses.
pub async fn newest(windows: &Collection<Document>, company: &Symbol) -> anyhow::Result<Newest> {
    timeout(ANSWER_TIMEOUT, read_newest(windows, company))
        .await
        .map_err(|_| anyhow!("cannot read where the company stands: no answer within {ANSWER_TIMEOUT:?}"))?
}

async fn read_newest(windows: &Collection<Document>, company: &Symbol) -> anyhow::Result<Newest> {
    database::make_indexes(windows).await.map_err(in_words).context("cannot make the indexes")?;
    let newest = windows
        .find_one(doc! {field::COMPANY: company.as_str()})
        .sort(doc! {field::ID: -1})
        .projection(doc! {field::ID: 1})
        .await
        .map_err(in_words)
        .context("cannot read the newest document")?;
    let numbered = windows
        .find_one(doc! {field::COMPANY: company.as_str(), field::WINDOW: {"$type": "number"}})
        .sort(doc! {field::WINDOW: -1})
        .projection(doc! {field::WINDOW: 1})
        .await
        .map_err(in_words)
        .context("cannot read the newest window")?;
    let id = newest.and_then(|document| document.get_object_id(field::ID).ok());
    let next_number = match numbered {
        None => 0,
        // To begin at 0 beside windows that cannot be read would be refused for ever.
        Some(document) => {
            let number = document.get(field::WINDOW).and_then(whole_number);
            1 + number
                .with_context(|| format!("the newest window of {company} has no whole number: correct the document"))?
        }
    };
    Ok(Newest { id, next_number })
}

/// Restored or edited documents may hold a number in another of the database's types.
fn whole_number(value: &Bson) -> Option<i64> {
    match value {
        Bson::Int64(number) => Some(*number),
        Bson::Int32(number) => Some(i64::from(*number)),
        Bson::Double(number) if number.fract() == 0.0 => Some(*number as i64),
        _ => None,
    }
}

/// Writes one window.
///
/// # Errors
/// When it is not known to be stored; the caller drops its state and reads again.
pub async fn insert(windows: &Collection<Document>, document: Document) -> anyhow::Result<()> {
    match timeout(ANSWER_TIMEOUT, windows.insert_one(document)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) if is_duplicate_key(&error) => {
            Err(anyhow!("another consumer of this company stored this window first; reading where it stands"))
        }
        Ok(Err(error)) => Err(in_words(error)).context("cannot store a window"),
        Err(_) => Err(anyhow!("cannot store a window: no answer within {ANSWER_TIMEOUT:?}")),
    }
}

fn in_words(error: mongodb::error::Error) -> anyhow::Error {
    anyhow!(explain(&error))
}

/// The document of a window.
#[must_use]
pub fn document(id: ObjectId, company: &Symbol, writer: &str, filled: &Filled) -> Document {
    let summary = &filled.summary;
    let mut document = doc! {
        field::ID: id,
        field::COMPANY: company.as_str(),
        field::AVERAGE_PRICE: summary.average,
        field::WINDOW: filled.number,
        field::COUNT: i64::from(summary.count),
        field::MIN: summary.min,
        field::MAX: summary.max,
        field::OPEN: summary.open,
        field::CLOSE: summary.close,
        field::BUYS: i64::from(summary.buys),
        field::SELLS: i64::from(summary.sells),
        field::FIRST_AT: DateTime::from_millis(summary.first_at),
        field::LAST_AT: DateTime::from_millis(summary.last_at),
        field::WRITER: writer,
    };
    if summary.unsequenced > 0 {
        document.insert(field::UNSEQUENCED, i64::from(summary.unsequenced));
    }
    document
}
