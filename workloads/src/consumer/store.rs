//! The consumer's view of the database: where the company stands, and the insert of its next windows.
//! Rule: nothing is believed that a majority has not; a document is written once, and an outcome nobody told is found out.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, anyhow};
use futures::TryStreamExt;
use mongodb::Collection;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Bson, DateTime, Document, doc};
use mongodb::error::{Error, ErrorKind};
use mongodb::options::ReadConcern;
use tokio::time::{Instant, sleep, timeout};
use wire::Symbol;
use wire::window::field;

use super::marks::{Marks, Seen};
use super::pipeline::Filled;
use super::ranges::Ranges;
use super::settlement::{Settlement, settle};
use crate::database::{self, explain, is_duplicate_key};

/// A command without an answer for so long has lost its server; the driver itself would wait for ever.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// The same for one attempt at an insert. The next attempt does no harm, and after an election it is what succeeds.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an unknown outcome is looked after before the session ends and another consumer may try: an election takes 3 s.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(15);
/// Pause between two attempts.
const SETTLE_PAUSE: Duration = Duration::from_millis(100);

/// What is stored of a company.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Newest {
    /// Identity of the newest document, of whatever program.
    pub id: Option<ObjectId>,
    /// Number that the next window gets.
    pub next_number: i64,
    /// Every event in the windows up to there.
    pub marks: Marks,
}

/// Reads where the company stands.
///
/// # Errors
/// When the database does not answer or refuses.
pub async fn newest(windows: &Collection<Document>, company: &Symbol) -> anyhow::Result<Newest> {
    timeout(ANSWER_TIMEOUT, read_newest(windows, company))
        .await
        .map_err(|_| anyhow!("cannot read where the company stands: no answer within {ANSWER_TIMEOUT:?}"))?
}

// What only some members have may be rolled back after an election. Events skipped because of such a window would be lost,
// so only what a majority has is read (MongoDB manual, "Read Concern majority"). It may lag; then the unique index refuses
// our window and we read again.
async fn read_newest(windows: &Collection<Document>, company: &Symbol) -> anyhow::Result<Newest> {
    let newest = windows
        .find_one(doc! {field::COMPANY: company.as_str()})
        .sort(doc! {field::ID: -1})
        .projection(doc! {field::ID: 1})
        .read_concern(ReadConcern::majority())
        .await
        .map_err(in_words)
        .context("cannot read the newest document")?;
    let numbered = windows
        .find_one(doc! {field::COMPANY: company.as_str(), field::WINDOW: {"$type": "number"}})
        .sort(doc! {field::WINDOW: -1})
        .projection(doc! {field::WINDOW: 1, field::MARKS: 1})
        .read_concern(ReadConcern::majority())
        .await
        .map_err(in_words)
        .context("cannot read the newest window")?;
    let id = newest.and_then(|document| document.get_object_id(field::ID).ok());
    let Some(document) = numbered else { return Ok(Newest { id, ..Newest::default() }) };
    // To begin at 0 beside windows that cannot be read would be refused for ever.
    let number = document.get(field::WINDOW).and_then(whole_number);
    let number =
        number.with_context(|| format!("the newest window of {company} has no whole number: correct the document"))?;
    let (marks, damaged) = marks(&document);
    if damaged > 0 {
        let what = "of the marks in the newest window cannot be read: an event they tell of is counted again if it comes again";
        tracing::warn!(%company, number, "{damaged} {what}");
    }
    Ok(Newest { id, next_number: number + 1, marks })
}

/// Restored or edited documents may hold a number in another of the database's types.
pub(super) fn whole_number(value: &Bson) -> Option<i64> {
    match value {
        Bson::Int64(number) => Some(*number),
        Bson::Int32(number) => Some(i64::from(*number)),
        Bson::Double(number) if number.fract() == 0.0 => Some(*number as i64),
        _ => None,
    }
}

/// How windows came to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// The database said so.
    Told,
    /// Nobody said so; they were found to be there.
    Settled,
}

/// Writes windows in order, and finds out what became of them when nobody tells.
///
/// The same documents are written until they are known to be there: `_id` and number are unique, so each is there at most once, and none
/// without those before it. If a number is taken, the document that has it tells whether it is the one that was to be written.
///
/// # Errors
/// When another document has a number, the database refuses, or nothing is known for [`SETTLE_TIMEOUT`]. The caller drops
/// its state and reads again.
pub async fn insert(windows: &Collection<Document>, documents: &[Document]) -> anyhow::Result<Stored> {
    let mut deadline = Instant::now() + SETTLE_TIMEOUT;
    let mut told = true;
    let mut rest = documents;
    while !rest.is_empty() {
        let unknown = match timeout(ATTEMPT_TIMEOUT, windows.insert_many(rest)).await {
            Ok(Ok(_)) => return Ok(if told { Stored::Told } else { Stored::Settled }),
            // Whichever it is: those before it may have been written by this attempt or by an earlier one.
            Ok(Err(error)) if is_duplicate_key(&error) => match timeout(ATTEMPT_TIMEOUT, owners(windows, rest)).await {
                Ok(Ok(owners)) => {
                    let settled = settled(rest, &owners)?;
                    rest = &rest[settled..];
                    if settled > 0 {
                        (told, deadline) = (false, Instant::now() + SETTLE_TIMEOUT);
                        continue;
                    }
                    anyhow!("it waits for a majority")
                }
                Ok(Err(error)) => in_words(error),
                Err(_) => anyhow!("no answer within {ATTEMPT_TIMEOUT:?}"),
            },
            Ok(Err(error)) if is_refusal(&error) => return Err(in_words(error)).context("cannot store a window"),
            Ok(Err(error)) => in_words(error),
            Err(_) => anyhow!("no answer within {ATTEMPT_TIMEOUT:?}"),
        };
        if Instant::now() >= deadline {
            return Err(
                unknown.context("it is not known whether a window was stored; reading where the company stands")
            );
        }
        if std::mem::replace(&mut told, false) {
            tracing::info!("an insert has no outcome ({unknown:#}), finding it out");
        }
        sleep(SETTLE_PAUSE).await;
    }
    Ok(Stored::Settled)
}

/// How many of the documents, from the first on, are known to be stored.
fn settled(documents: &[Document], owners: &[Document]) -> anyhow::Result<usize> {
    for (index, document) in documents.iter().enumerate() {
        let number = |document: &Document| document.get(field::WINDOW).and_then(whole_number);
        let owner = owners.iter().find(|owner| number(owner) == number(document));
        match settle(&document.get(field::ID), owner.map(|owner| owner.get(field::ID)).as_ref()) {
            Settlement::Stored => {}
            Settlement::Unknown => return Ok(index),
            Settlement::Overtaken => {
                return Err(anyhow!(
                    "another consumer of this company stored this window first; reading where it stands"
                ));
            }
        }
    }
    Ok(documents.len())
}

/// Identity and number of the documents that have these ones' numbers, of those that a majority has.
async fn owners(windows: &Collection<Document>, documents: &[Document]) -> mongodb::error::Result<Vec<Document>> {
    let company = documents.first().and_then(|document| document.get(field::COMPANY));
    let numbers: Vec<Option<&Bson>> = documents.iter().map(|document| document.get(field::WINDOW)).collect();
    windows
        .find(doc! {field::COMPANY: company, field::WINDOW: {"$in": numbers}})
        .projection(doc! {field::WINDOW: 1})
        .read_concern(ReadConcern::majority())
        .await?
        .try_collect()
        .await
}

/// The database has judged a document and does not want it: the next attempt would end alike.
fn is_refusal(error: &Error) -> bool {
    match &*error.kind {
        ErrorKind::InsertMany(failure) => failure.write_errors.is_some(),
        ErrorKind::Authentication { .. } | ErrorKind::InvalidArgument { .. } | ErrorKind::BsonSerialization(_) => true,
        _ => false,
    }
}

fn in_words(error: Error) -> anyhow::Error {
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
    };
    if summary.unsequenced > 0 {
        document.insert(field::UNSEQUENCED, i64::from(summary.unsequenced));
    }
    document.insert(field::SEQUENCES, sequences_to_bson(&summary.sequences));
    document.insert(field::MARKS, marks_to_bson(&filled.marks));
    document.insert(field::WRITER, writer);
    document
}

fn sequences_to_bson(sequences: &BTreeMap<String, Ranges>) -> Vec<Document> {
    sequences
        .iter()
        .map(|(source, ranges)| doc! {field::SOURCE: source, field::RANGES: ranges_to_bson(ranges)})
        .collect()
}

fn marks_to_bson(marks: &Marks) -> Vec<Document> {
    marks
        .iter()
        .map(|(source, seen)| {
            doc! {
                field::SOURCE: source,
                field::RANGES: ranges_to_bson(&seen.ranges),
                field::AGES: seen.ranges.ages().map(|age| Bson::Int64(age as i64)).collect::<Vec<_>>(),
                field::AT: DateTime::from_millis(seen.at),
            }
        })
        .collect()
}

// Whoever makes a sequence, of a header or a message id, takes no number above `i64::MAX`, so they fit.
fn ranges_to_bson(ranges: &Ranges) -> Vec<Bson> {
    ranges.iter().flat_map(|(first, last)| [Bson::Int64(first as i64), Bson::Int64(last as i64)]).collect()
}

/// The marks a document carries, and how many of them cannot be read; windows of before there were marks have none.
fn marks(document: &Document) -> (Marks, usize) {
    let mut damaged = 0;
    let mut source = |element: &Bson| {
        let Some((one, (source, ranges))) = element.as_document().and_then(|one| Some((one, source_and_ranges(one)?)))
        else {
            damaged += 1;
            return None;
        };
        let at = one.get_datetime(field::AT).map_or(0, |at| at.timestamp_millis());
        let ages = one.get_array(field::AGES).into_iter().flatten();
        let mut ages = ages.map(|age| whole_number(age).and_then(|age| u64::try_from(age).ok()).unwrap_or(0));
        let mut seen = Seen { ranges: Ranges::default(), at };
        for range in ranges {
            let age = ages.next().unwrap_or(0);
            match range {
                None => damaged += 1,
                Some((first, last)) => {
                    seen.ranges.insert_range_at(first, last, age);
                }
            }
        }
        Some((source, seen))
    };
    let marks = document.get_array(field::MARKS).into_iter().flatten().filter_map(&mut source).collect();
    (marks, damaged)
}

/// A source and its ranges as an element of [`field::SEQUENCES`] or [`field::MARKS`] names them: `None` for each pair that is no range.
type SourceAndRanges = (String, Vec<Option<(u64, u64)>>);

/// Reads such an element; `None` when it is none. One damaged pair must not take the others of its source with it.
pub(super) fn source_and_ranges(element: &Document) -> Option<SourceAndRanges> {
    let number = |number: &Bson| whole_number(number).and_then(|number| u64::try_from(number).ok());
    let range = |pair: &[Bson]| match pair {
        [first, last] => Some((number(first)?, number(last)?)).filter(|(first, last)| first <= last),
        _ => None,
    };
    let ranges = element.get_array(field::RANGES).ok()?.chunks(2).map(range).collect();
    Some((element.get_str(field::SOURCE).ok()?.to_owned(), ranges))
}

/// Makes the indexes; nothing happens when they are there.
///
/// # Errors
/// When the database does not answer or refuses.
pub async fn make_indexes(windows: &Collection<Document>) -> anyhow::Result<()> {
    timeout(ANSWER_TIMEOUT, database::make_indexes(windows))
        .await
        .map_err(|_| anyhow!("cannot make the indexes: no answer within {ANSWER_TIMEOUT:?}"))?
        .map_err(in_words)
        .context("cannot make the indexes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::event::Sequence;

    #[test]
    fn marks_come_back_from_a_document_as_they_were_written() {
        let mut written = Marks::default();
        for number in [0, 1, 2, 7, i64::MAX as u64] {
            written.insert(Sequence { source: "a", number }, 1_800_000_000_000);
        }
        written.insert(Sequence { source: "b", number: 3 }, 1_800_000_000_001);
        assert_eq!(marks(&doc! {field::MARKS: marks_to_bson(&written)}), (written, 0));
    }

    #[test]
    fn a_document_without_marks_or_with_damaged_ones_gives_what_can_be_read() {
        assert_eq!(marks(&doc! {}), (Marks::default(), 0));
        // Of the first source one pair: a consumer of before wrote a number that it could not hold as a negative one.
        let damaged = doc! {field::MARKS: [
            {"source": "a", "ranges": [0_i32, 5.0, -3, 2, 9, 9, 11], "ages": [1, 2, 3]},
            {"source": "b", "ranges": [3, 1, 7, 7]},
            {"ranges": [0, 1]},
            7,
        ]};
        let (marks, unreadable) = marks(&damaged);
        let [(a, of_a), (b, of_b)] = marks.iter().collect::<Vec<_>>()[..] else { panic!("{marks:?}") };
        assert_eq!((a, of_a.ranges.iter().collect::<Vec<_>>()), ("a", vec![(0, 5), (9, 9)]));
        assert_eq!(of_a.ranges.ages().collect::<Vec<_>>(), [1, 3], "each with its own");
        assert_eq!((b, of_b.ranges.iter().collect::<Vec<_>>()), ("b", vec![(7, 7)]));
        assert_eq!(unreadable, 5, "two pairs of a, one of b, and two that are no source");
    }
}
