//! What a program exposes and what `docs/metrics.md` says of it, in one form.
//! Rule: nothing of this crate in here, for the operator's tests include the file too.

use std::collections::{BTreeMap, BTreeSet};

/// Type and labels by name.
pub type Metrics = BTreeMap<String, (String, BTreeSet<String>)>;

/// The rows of `## program` in `docs/metrics.md`: `` | `name` | type | `label` … | meaning | ``.
pub fn documented(program: &str) -> Metrics {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md")).unwrap();
    let section = text.split("\n## ").find(|section| section.lines().next() == Some(program)).unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, meaning] = cells[..] else { panic!("not four cells: {row}") };
        assert!(meaning.ends_with('.'), "a meaning is a sentence: {row}");
        let labels = labels.split_whitespace().map(|label| label.trim_matches('`').to_owned()).collect();
        (name.trim_matches('`').to_owned(), (kind.to_owned(), labels))
    })
    .collect()
}

/// What an OpenMetrics text holds. Families show their labels in their samples, so each needs one.
pub fn exposed(text: &str) -> Metrics {
    let declared = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    declared
        .map(|(name, kind)| {
            let name = if kind == "counter" { format!("{name}_total") } else { name.to_owned() };
            let samples = text.lines().filter(|line| !line.starts_with('#') && line.starts_with(&name));
            let labels = samples
                .filter_map(|line| Some(line.split_once('{')?.1.split_once('}')?.0))
                .flat_map(|labels| labels.split(','))
                .filter_map(|label| Some(label.split_once('=')?.0.to_owned()))
                .filter(|label| label != "le")
                .collect();
            (name, (kind.to_owned(), labels))
        })
        .collect()
}

/// Fails with the rows that are wrong on either side.
pub fn agree(program: &str, text: &str) {
    let (documented, exposed) = (documented(program), exposed(text));
    let only = |one: &Metrics, other: &Metrics| -> Vec<String> {
        one.iter().filter(|(name, what)| other.get(*name) != Some(what)).map(|row| format!("{row:?}")).collect()
    };
    let (missing, stale) = (only(&exposed, &documented), only(&documented, &exposed));
    assert!(
        missing.is_empty() && stale.is_empty(),
        "docs/metrics.md, {program}: it lacks {missing:#?} and has {stale:#?}, which the program does not expose"
    );
}
