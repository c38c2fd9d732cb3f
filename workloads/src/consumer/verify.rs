//! `stock-consumer verify`: reads the stored windows and says of each source which events are missing and which are in two windows.
//! Rule: the proof takes what each window says it holds; the marks, by which consumers skip, are only compared with it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use futures::TryStreamExt;
use mongodb::Collection;
use mongodb::bson::{Bson, Document, doc};
use mongodb::options::ReadConcern;
use serde::Serialize;
use tokio::time::timeout;
use wire::Symbol;
use wire::window::field;

use super::ranges::Ranges;
use super::store::{source_and_ranges, whole_number};
use crate::database::explain;

/// Longest wait for the next windows.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Findings that are spelt out per company; the rest is counted.
const FINDINGS_SHOWN: usize = 20;

/// The command line of `verify`.
#[derive(Clone, clap::Args)]
pub struct Args {
    /// Only this company; may be given several times. All that have windows unless given.
    #[arg(long)]
    pub company: Vec<Symbol>,
    /// How to print what was found.
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

/// How to print what was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// A table for a person.
    #[default]
    Text,
    /// One JSON document.
    Json,
}

/// What the windows of all companies say.
#[derive(Debug, PartialEq, Serialize)]
pub struct Report {
    /// Whether every event is there exactly once.
    pub ok: bool,
    /// By company.
    pub companies: Vec<CompanyReport>,
}

/// What the windows of one company say.
#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CompanyReport {
    /// The company's symbol.
    pub company: String,
    /// Windows with a number.
    pub windows: u64,
    /// Events in them.
    pub events: u64,
    /// Sequence numbers that no window holds, below the highest one of their source.
    pub gaps: u64,
    /// Events that are in a window once too often.
    pub duplicates: u64,
    /// Events without a sequence number: they are counted at least once.
    pub unsequenced: u64,
    /// Windows without a number, of other programs; which events those hold, nobody knows.
    pub foreign_windows: u64,
    /// By source.
    pub sources: Vec<SourceReport>,
    /// What else is wrong, and where.
    pub findings: Vec<String>,
}

/// What the windows say of one source.
#[derive(Debug, PartialEq, Serialize)]
pub struct SourceReport {
    /// One life of one publisher.
    pub source: String,
    /// Events counted, each one once.
    pub events: u64,
    /// Numbers missing below the highest one.
    pub gaps: u64,
    /// Events counted once too often.
    pub duplicates: u64,
}

impl CompanyReport {
    /// Whether every event is there exactly once.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.gaps == 0 && self.duplicates == 0 && self.findings.is_empty()
    }
}

/// Reads all windows of the companies, of every company when none is named. Memory does not grow with their number.
///
/// # Errors
/// When the database does not answer or refuses.
pub async fn verify(windows: &Collection<Document>, companies: &[Symbol]) -> anyhow::Result<Report> {
    let mut audits: BTreeMap<String, Audit> =
        companies.iter().map(|company| (company.to_string(), Audit::default())).collect();
    let filter = match companies {
        [] => doc! {},
        named => doc! {field::COMPANY: {"$in": named.iter().map(Symbol::as_str).collect::<Vec<_>>()}},
    };
    let fields = [field::COMPANY, field::WINDOW, field::COUNT, field::UNSEQUENCED, field::SEQUENCES];
    let projection: Document = fields.into_iter().map(|name| (name.to_owned(), Bson::Int32(1))).collect();
    let finding = windows
        .find(filter.clone())
        .sort(doc! {field::COMPANY: 1, field::ID: 1})
        .projection(projection)
        .read_concern(ReadConcern::majority());
    let in_words = |error: mongodb::error::Error| anyhow!(explain(&error));
    let silent = |_| anyhow!("no answer within {ANSWER_TIMEOUT:?}");
    let mut found =
        timeout(ANSWER_TIMEOUT, finding).await.map_err(silent)?.map_err(in_words).context("cannot read the windows")?;
    while let Some(document) = timeout(ANSWER_TIMEOUT, found.try_next())
        .await
        .map_err(silent)?
        .map_err(in_words)
        .context("cannot read the windows")?
    {
        if let Ok(company) = document.get_str(field::COMPANY) {
            audits.entry(company.to_owned()).or_default().add(&document);
        }
    }
    let mut reports = Vec::new();
    for (company, audit) in audits {
        let newest = windows
            .find_one(doc! {field::COMPANY: &company, field::WINDOW: {"$type": "number"}})
            .sort(doc! {field::WINDOW: -1})
            .projection(doc! {field::MARKS: 1, field::WINDOW: 1})
            .read_concern(ReadConcern::majority());
        let newest = timeout(ANSWER_TIMEOUT, newest).await.map_err(silent)?.map_err(in_words)?;
        reports.push(audit.report(company, newest.as_ref()));
    }
    Ok(Report { ok: reports.iter().all(CompanyReport::is_ok), companies: reports })
}

/// What was read of one company so far.
#[derive(Default)]
struct Audit {
    windows: u64,
    events: u64,
    unsequenced: u64,
    foreign_windows: u64,
    numbers: Ranges,
    sources: BTreeMap<String, Source>,
    findings: Vec<String>,
    findings_left_out: u64,
}

#[derive(Default)]
struct Source {
    held: Ranges,
    duplicates: u64,
}

impl Audit {
    fn find(&mut self, finding: String) {
        if self.findings.len() < FINDINGS_SHOWN {
            self.findings.push(finding);
        } else {
            self.findings_left_out += 1;
        }
    }

    /// Takes one document in.
    fn add(&mut self, document: &Document) {
        let Some(number) = document.get(field::WINDOW).and_then(whole_number) else {
            self.foreign_windows += 1;
            return;
        };
        let amount =
            |name: &str| document.get(name).and_then(whole_number).and_then(|amount| u64::try_from(amount).ok());
        let (count, unsequenced) = (amount(field::COUNT).unwrap_or(0), amount(field::UNSEQUENCED).unwrap_or(0));
        self.windows += 1;
        self.events += count;
        self.unsequenced += unsequenced;
        match u64::try_from(number) {
            Ok(number) if self.numbers.insert(number) => {}
            _ => self.find(format!("window {number} is there twice or has a negative number")),
        }
        let Ok(elements) = document.get_array(field::SEQUENCES) else {
            self.find(format!(
                "window {number} does not say which events it holds: it is older than this proof, or was edited"
            ));
            return;
        };
        let mut held = 0;
        for element in elements {
            let Some((source, ranges)) = element.as_document().and_then(source_and_ranges) else {
                self.find(format!("window {number} has sequences that cannot be read"));
                continue;
            };
            let source = self.sources.entry(source).or_default();
            for (first, last) in ranges {
                held += last - first + 1;
                source.duplicates += source.held.insert_range(first, last);
            }
        }
        if held + unsequenced != count {
            self.find(format!("window {number} counts {count} events and names {}", held + unsequenced));
        }
    }

    /// What all of it says. `newest` is the document of the newest window, with its marks.
    fn report(mut self, company: String, newest: Option<&Document>) -> CompanyReport {
        if let Some(highest) = self.numbers.highest()
            && highest + 1 != self.numbers.count()
        {
            let missing = highest + 1 - self.numbers.count();
            self.find(format!("{missing} windows are missing below window {highest}"));
        }
        for element in newest.and_then(|newest| newest.get_array(field::MARKS).ok()).into_iter().flatten() {
            let Some((source, marks)) = element.as_document().and_then(source_and_ranges) else { continue };
            let held = self.sources.get(&source).map(|source| &source.held);
            let mut all = held.cloned().unwrap_or_default();
            let before = all.count();
            for (first, last) in marks {
                all.insert_range(first, last);
            }
            if all.count() != before {
                let missing = all.count() - before;
                self.find(format!("source {source}: {missing} events are marked as counted and in no window"));
            }
        }
        if self.findings_left_out > 0 {
            self.findings.push(format!("and {} more", self.findings_left_out));
        }
        let sources: Vec<SourceReport> = self
            .sources
            .into_iter()
            .map(|(source, Source { held, duplicates })| SourceReport {
                source,
                events: held.count(),
                gaps: held.highest().map_or(0, |highest| highest + 1 - held.count()),
                duplicates,
            })
            .collect();
        CompanyReport {
            company,
            windows: self.windows,
            events: self.events,
            gaps: sources.iter().map(|source| source.gaps).sum(),
            duplicates: sources.iter().map(|source| source.duplicates).sum(),
            unsequenced: self.unsequenced,
            foreign_windows: self.foreign_windows,
            sources,
            findings: self.findings,
        }
    }
}

impl Report {
    /// The report as it is printed.
    ///
    /// # Errors
    /// None with these types; serialising could fail in principle.
    pub fn print(&self, output: Output) -> anyhow::Result<String> {
        match output {
            Output::Text => Ok(self.to_string()),
            Output::Json => serde_json::to_string_pretty(self).context("cannot write the report as JSON"),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "{:<16} {:<32} {:>12} {:>8} {:>10}", "COMPANY", "SOURCE", "EVENTS", "GAPS", "DUPLICATES")?;
        for company in &self.companies {
            let name = &company.company;
            for source in &company.sources {
                writeln!(
                    formatter,
                    "{name:<16} {:<32} {:>12} {:>8} {:>10}",
                    source.source, source.events, source.gaps, source.duplicates
                )?;
            }
            write!(
                formatter,
                "{name:<16} {:<32} {:>12} {:>8} {:>10}  in {} windows",
                "all", company.events, company.gaps, company.duplicates, company.windows
            )?;
            if company.unsequenced > 0 {
                write!(formatter, "; {} events without a number, counted at least once", company.unsequenced)?;
            }
            if company.foreign_windows > 0 {
                write!(formatter, "; {} windows of other programs", company.foreign_windows)?;
            }
            writeln!(formatter)?;
            for finding in &company.findings {
                writeln!(formatter, "{name:<16} {finding}")?;
            }
        }
        let verdict = match self {
            Self { companies, .. } if companies.iter().all(|company| company.windows == 0) => {
                "there is no window yet: is this the right database"
            }
            Self { ok: true, .. } => "every event is counted exactly once",
            Self { ok: false, .. } => "NOT every event is counted exactly once",
        };
        write!(formatter, "{verdict}")
    }
}

/// Verifies and prints to standard output.
///
/// # Errors
/// When the database does not answer or refuses, or an event is missing or there twice: exit code 1 either way.
pub async fn run(windows: &Collection<Document>, args: &Args) -> anyhow::Result<()> {
    let report = verify(windows, &args.company).await?;
    println!("{}", report.print(args.output)?);
    if !report.ok {
        bail!("events are missing or counted twice");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(number: i64, count: i64, ranges: &[i64]) -> Document {
        doc! {"window": number, "count": count, "sequences": [{"source": "a", "ranges": ranges}]}
    }

    fn report(windows: &[Document]) -> CompanyReport {
        let mut audit = Audit::default();
        windows.iter().for_each(|window| audit.add(window));
        audit.report("MSFT".into(), windows.last())
    }

    #[test]
    fn windows_that_hold_each_number_once_are_proven() {
        let mut mixed = window(1, 5, &[3, 3, 2, 2]);
        mixed.insert("unsequenced", 3_i64);
        let report = report(&[window(0, 3, &[0, 1, 4, 4]), mixed, doc! {"avgPrice": 1.0}]);
        assert!(report.is_ok(), "{report:?}");
        assert_eq!((report.windows, report.events, report.unsequenced, report.foreign_windows), (2, 8, 3, 1));
        assert_eq!(report.sources, [SourceReport { source: "a".into(), events: 5, gaps: 0, duplicates: 0 }]);
    }

    #[test]
    fn what_is_missing_and_what_is_there_twice_is_counted() {
        let report = report(&[window(0, 3, &[0, 2]), window(1, 4, &[2, 3, 6, 7])]);
        assert_eq!((report.events, report.gaps, report.duplicates), (7, 2, 1));
        assert!(!report.is_ok());
    }

    #[test]
    fn windows_that_are_missing_there_twice_or_wrong_about_themselves_are_found() {
        let findings = |windows: &[Document]| report(windows).findings;
        assert_eq!(findings(&[window(0, 1, &[0, 0]), window(2, 1, &[1, 1])]), ["1 windows are missing below window 2"]);
        assert_eq!(findings(&[window(0, 2, &[0, 0])]), ["window 0 counts 2 events and names 1"]);
        assert_eq!(findings(&[doc! {"window": 0_i64, "count": 1_i64}]).len(), 1);
        let mut marked = window(0, 1, &[0, 0]);
        marked.insert("marks", vec![doc! {"source": "a", "ranges": [0_i64, 4]}]);
        assert_eq!(findings(&[marked]), ["source a: 4 events are marked as counted and in no window"]);
    }

    #[test]
    fn the_table_ends_with_a_verdict() {
        let report = Report { ok: true, companies: vec![report(&[window(0, 1, &[0, 0])])] };
        assert_eq!(
            report.to_string(),
            "COMPANY          SOURCE                                 EVENTS     GAPS DUPLICATES\n\
             MSFT             a                                           1        0          0\n\
             MSFT             all                                         1        0          0  in 1 windows\n\
             every event is counted exactly once"
        );
    }
}
