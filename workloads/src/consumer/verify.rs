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
/// What to ask oneself when nothing is found.
const RIGHT_PLACE: &str = "is this the right database, and the right symbol?";

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
    /// One JSON document, on one line.
    Json,
}

/// What the windows of all companies say.
#[derive(Debug, PartialEq, Serialize)]
pub struct Report {
    /// Whether there are windows, and every numbered event is in them exactly once.
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
    /// What is wrong, and where.
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
    // The inverse of the index (company, newest first), so that nothing is sorted; of two copies the later one comes second.
    let finding = windows
        .find(filter)
        .sort(doc! {field::COMPANY: -1, field::ID: 1})
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
        let newest = match audit.newest(&company) {
            None => None,
            Some(newest) => {
                let reading =
                    windows.find_one(newest).projection(doc! {field::MARKS: 1}).read_concern(ReadConcern::majority());
                let reading = timeout(ANSWER_TIMEOUT, reading).await.map_err(silent)?;
                reading.map_err(in_words).context("cannot read the marks")?
            }
        };
        reports.push(audit.report(company, newest.as_ref()));
    }
    Ok(Report::of(reports, !companies.is_empty()))
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
    findings: Findings,
}

#[derive(Default)]
struct Source {
    held: Ranges,
    duplicates: u64,
}

#[derive(Default)]
struct Findings {
    shown: Vec<String>,
    left_out: u64,
}

impl Findings {
    fn add(&mut self, finding: fmt::Arguments<'_>) {
        if self.shown.len() < FINDINGS_SHOWN {
            self.shown.push(finding.to_string());
        } else {
            self.left_out += 1;
        }
    }

    fn told(mut self) -> Vec<String> {
        if self.left_out > 0 {
            self.shown.push(format!("and {} more", self.left_out));
        }
        self.shown
    }
}

impl Source {
    fn gaps(&self) -> u64 {
        self.held.highest().map_or(0, |highest| highest + 1 - self.held.count())
    }
}

/// Those of the numbers `first` to `last` that are held, as ranges.
fn overlap(held: &Ranges, first: u64, last: u64) -> impl Iterator<Item = (u64, u64)> {
    // Nearly always the numbers are new and the highest, which needs no look at the others.
    let looked_at = if held.highest() < Some(first) { 0 } else { held.len() };
    held.iter()
        .take(looked_at)
        .map(move |(low, high)| (low.max(first), high.min(last)))
        .filter(|(low, high)| low <= high)
}

/// Those of the numbers `first` to `last` that are not held, as ranges.
fn missing(held: &Ranges, first: u64, last: u64) -> Vec<(u64, u64)> {
    let (mut next, mut missing) = (first, Vec::new());
    for (low, high) in overlap(held, first, last) {
        if low > next {
            missing.push((next, low - 1));
        }
        next = high + 1;
    }
    if next <= last {
        missing.push((next, last));
    }
    missing
}

/// The subject and verb of a finding.
fn are((first, last): (u64, u64)) -> String {
    if first == last { format!("number {first} is") } else { format!("numbers {first}–{last} are") }
}

impl Audit {
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
            _ => self.findings.add(format_args!("window {number} is there twice or has a negative number")),
        }
        let Ok(elements) = document.get_array(field::SEQUENCES) else {
            self.findings.add(format_args!(
                "window {number} does not say which events it holds: it is older than this proof, or was edited"
            ));
            return;
        };
        let mut held = 0;
        for element in elements {
            let Some((name, ranges)) = element.as_document().and_then(source_and_ranges) else {
                self.findings.add(format_args!("window {number} has sequences that cannot be read"));
                continue;
            };
            if ranges.contains(&None) {
                self.findings.add(format_args!("source {name}: window {number} has sequences that cannot be read"));
            }
            let source = self.sources.entry(name.clone()).or_default();
            for (first, last) in ranges.into_iter().flatten() {
                held += last - first + 1;
                for numbers in overlap(&source.held, first, last) {
                    self.findings.add(format_args!("source {name}: {} again in window {number}", are(numbers)));
                }
                source.duplicates += source.held.insert_range(first, last);
            }
        }
        if held + unsequenced != count {
            self.findings.add(format_args!("window {number} counts {count} events and names {}", held + unsequenced));
        }
    }

    /// Finds the newest window that was read. One that was stored since has marks of events that were not looked for.
    fn newest(&self, company: &str) -> Option<Document> {
        let number = i64::try_from(self.numbers.highest()?).ok()?;
        Some(doc! {field::COMPANY: company, field::WINDOW: number})
    }

    /// What all of it says. `newest` is the document of [`Audit::newest`], with its marks.
    fn report(mut self, company: String, newest: Option<&Document>) -> CompanyReport {
        if let Some(highest) = self.numbers.highest()
            && highest + 1 != self.numbers.count()
        {
            let missing = highest + 1 - self.numbers.count();
            self.findings.add(format_args!("{missing} windows are missing below window {highest}"));
        }
        let mut marked: BTreeMap<String, Ranges> = BTreeMap::new();
        for element in newest.and_then(|newest| newest.get_array(field::MARKS).ok()).into_iter().flatten() {
            if let Some((source, ranges)) = element.as_document().and_then(source_and_ranges) {
                marked.insert(source, ranges.into_iter().flatten().collect());
            }
        }
        let gaps = self.sources.values().map(Source::gaps).sum();
        if gaps > 0 && self.foreign_windows > 0 {
            let windows = self.foreign_windows;
            self.findings
                .add(format_args!("events that are in the {windows} windows of other programs look like gaps here"));
        }
        let nothing = Ranges::default();
        for (source, marks) in &marked {
            let held = self.sources.get(source).map_or(&nothing, |source| &source.held);
            for numbers in marks.iter().flat_map(|(first, last)| missing(held, first, last)) {
                self.findings.add(format_args!("source {source}: {} marked as counted and in no window", are(numbers)));
            }
        }
        for (source, Source { held, .. }) in &self.sources {
            let mut named = held.clone();
            for (first, last) in marked.get(source).into_iter().flat_map(Ranges::iter) {
                named.insert_range(first, last);
            }
            for numbers in missing(&named, 0, held.highest().unwrap_or_default()) {
                self.findings.add(format_args!("source {source}: {} in no window", are(numbers)));
            }
        }
        let sources: Vec<SourceReport> = self
            .sources
            .into_iter()
            .map(|(name, source)| SourceReport {
                source: name,
                events: source.held.count(),
                gaps: source.gaps(),
                duplicates: source.duplicates,
            })
            .collect();
        CompanyReport {
            company,
            windows: self.windows,
            events: self.events,
            gaps,
            duplicates: sources.iter().map(|source| source.duplicates).sum(),
            unsequenced: self.unsequenced,
            foreign_windows: self.foreign_windows,
            sources,
            findings: self.findings.told(),
        }
    }
}

impl Report {
    /// Judges the reports of all companies. One that was `named` has to have windows, and so has one at least of all others.
    fn of(mut companies: Vec<CompanyReport>, named: bool) -> Self {
        let nothing = companies.iter().all(|company| company.windows == 0);
        for company in companies.iter_mut().filter(|company| company.windows == 0 && (named || nothing)) {
            company.findings.push(match company.foreign_windows {
                0 => format!("there is no window: {RIGHT_PLACE}"),
                foreign => format!("all {foreign} windows are of other programs and do not say which events they hold"),
            });
        }
        Self { ok: !nothing && companies.iter().all(CompanyReport::is_ok), companies }
    }

    /// All of it in one sentence.
    fn verdict(&self) -> String {
        let sum = |amount: fn(&CompanyReport) -> u64| self.companies.iter().map(amount).sum::<u64>();
        if sum(|company| company.windows + company.foreign_windows) == 0 {
            return format!("there is no window: {RIGHT_PLACE}");
        }
        if sum(|company| company.gaps + company.duplicates) > 0 {
            return "NOT every event is counted exactly once".to_owned();
        }
        if !self.ok {
            return "it is NOT proven that every event is counted exactly once".to_owned();
        }
        let (unsequenced, foreign) = (sum(|company| company.unsequenced), sum(|company| company.foreign_windows));
        let all = if unsequenced + foreign == 0 { "every event" } else { "every numbered event" };
        let mut verdict = format!("{all} is counted exactly once");
        if unsequenced > 0 {
            verdict += &format!("; {unsequenced} events have no number and are counted at least once");
        }
        if foreign > 0 {
            verdict += &format!("; which events {foreign} windows of other programs hold is not known");
        }
        verdict
    }

    /// The report as it is printed.
    ///
    /// # Errors
    /// None with these types; serialising could fail in principle.
    pub fn print(&self, output: Output) -> anyhow::Result<String> {
        match output {
            Output::Text => Ok(self.to_string()),
            Output::Json => serde_json::to_string(self).context("cannot write the report as JSON"),
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
        formatter.write_str(&self.verdict())
    }
}

/// Verifies and prints to standard output.
///
/// # Errors
/// When the database does not answer or refuses, an event is missing or there twice, or there is nothing to verify: exit
/// code 1 each time.
pub async fn run(windows: &Collection<Document>, args: &Args) -> anyhow::Result<()> {
    let report = verify(windows, &args.company).await?;
    println!("{}", report.print(args.output)?);
    if !report.ok {
        bail!(report.verdict());
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
        // What can be read of a damaged window counts all the same.
        let damaged = report(&[window(0, 3, &[0, 1, -3, -3])]);
        let unreadable = "source a: window 0 has sequences that cannot be read";
        assert_eq!((damaged.sources[0].events, damaged.findings[0].as_str()), (2, unreadable));
        let mut marked = window(0, 1, &[0, 0]);
        marked.insert("marks", vec![doc! {"source": "a", "ranges": [0_i64, 4]}]);
        assert_eq!(findings(&[marked]), ["source a: numbers 1–4 are marked as counted and in no window"]);
    }

    #[test]
    fn every_missing_range_and_every_second_copy_is_named_once() {
        let mut newest = window(1, 8, &[2, 3, 8, 8, 10, 14]);
        newest.insert("marks", vec![doc! {"source": "a", "ranges": [0_i64, 4, 8, 15]}]);
        assert_eq!(
            report(&[window(0, 4, &[0, 2, 11, 11]), newest]).findings,
            [
                "source a: number 2 is again in window 1",
                "source a: number 11 is again in window 1",
                "source a: number 4 is marked as counted and in no window",
                "source a: number 9 is marked as counted and in no window",
                "source a: number 15 is marked as counted and in no window",
                "source a: numbers 5–7 are in no window",
            ]
        );
    }

    #[test]
    fn twenty_findings_are_spelt_out_and_the_others_counted() {
        let every_second: Vec<i64> = (0..30).flat_map(|number| [2 * number, 2 * number]).collect();
        let report = report(&[window(0, 30, &every_second)]);
        assert_eq!((report.gaps, report.findings.len()), (29, 21));
        assert_eq!(report.findings[0], "source a: number 1 is in no window");
        assert_eq!(report.findings[20], "and 9 more");
    }

    #[test]
    fn gaps_beside_windows_of_other_programs_are_explained() {
        let findings = report(&[doc! {"avgPrice": 1.0}, window(0, 1, &[1, 1])]).findings;
        let explanation = "events that are in the 1 windows of other programs look like gaps here";
        assert_eq!(findings, [explanation, "source a: number 0 is in no window"]);
    }

    #[test]
    fn marks_are_read_from_the_newest_window_that_was_read_in_whatever_order() {
        let mut audit = Audit::default();
        assert_eq!(audit.newest("MSFT"), None);
        audit.add(&doc! {"avgPrice": 1.0});
        assert_eq!(audit.newest("MSFT"), None);
        for number in [1, 2, 0] {
            audit.add(&window(number, 1, &[number, number]));
        }
        assert_eq!(audit.newest("MSFT"), Some(doc! {"company": "MSFT", "window": 2_i64}));
        assert!(audit.report("MSFT".into(), None).is_ok());
    }

    #[test]
    fn a_company_that_was_named_has_windows_and_so_has_one_of_all() {
        let (full, empty) = (|| report(&[window(0, 1, &[0, 0])]), || report(&[]));
        let judged = |companies, named| {
            let report = Report::of(companies, named);
            (report.ok, report.companies.iter().map(|company| company.findings.len()).collect(), report.verdict())
        };
        let fine = "every event is counted exactly once".to_owned();
        let nothing = "there is no window: is this the right database, and the right symbol?".to_owned();
        let unproven = "it is NOT proven that every event is counted exactly once".to_owned();
        assert_eq!(judged(vec![full(), empty()], false), (true, vec![0, 0], fine));
        assert_eq!(judged(vec![full(), empty()], true), (false, vec![0, 1], unproven.clone()));
        assert_eq!(judged(vec![empty()], true), (false, vec![1], nothing.clone()));
        assert_eq!(judged(vec![], false), (false, vec![], nothing));
        assert_eq!(judged(vec![report(&[doc! {"avgPrice": 1.0}])], false), (false, vec![1], unproven));
    }

    #[test]
    fn the_verdict_claims_no_more_than_is_proven() {
        let mut unnumbered = window(0, 3, &[0, 0]);
        unnumbered.insert("unsequenced", 2_i64);
        assert_eq!(
            Report::of(vec![report(&[unnumbered])], false).verdict(),
            "every numbered event is counted exactly once; 2 events have no number and are counted at least once"
        );
        assert_eq!(
            Report::of(vec![report(&[window(0, 1, &[0, 0]), doc! {"avgPrice": 1.0}])], false).verdict(),
            "every numbered event is counted exactly once; which events 1 windows of other programs hold is not known"
        );
        let twice = report(&[window(0, 1, &[0, 0]), window(1, 1, &[0, 0])]);
        assert_eq!(Report::of(vec![twice], false).verdict(), "NOT every event is counted exactly once");
    }

    #[test]
    fn the_table_ends_with_a_verdict() {
        let report = Report::of(vec![report(&[window(0, 1, &[0, 0])])], false);
        assert_eq!(
            report.to_string(),
            "COMPANY          SOURCE                                 EVENTS     GAPS DUPLICATES\n\
             MSFT             a                                           1        0          0\n\
             MSFT             all                                         1        0          0  in 1 windows\n\
             every event is counted exactly once"
        );
    }
}
