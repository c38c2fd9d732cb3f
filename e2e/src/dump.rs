//! What a person wants to see of a namespace in which a test failed.
//! Rule: bounded, so that one failure does not bury the next.

use crate::kubectl::kubectl;

/// Longest text of one command's output.
const SECTION_MAX: usize = 12_000;
/// Longest line: of a log's, the beginning says most.
const LINE_MAX: usize = 300;
/// Most pods whose logs are shown.
const PODS_MAX: usize = 20;

/// Prints pods, conditions, events and the ends of the logs.
pub async fn dump(namespace: &str) {
    eprintln!("──── what is in namespace {namespace} ────");
    section(&["get", "stockpipelines", "--namespace", namespace, "--output", "wide"]).await;
    let conditions =
        r#"jsonpath={range .items[*].status.conditions[*]}{.type}={.status} {.reason}: {.message}{"\n"}{end}"#;
    section(&["get", "stockpipelines", "--namespace", namespace, "--output", conditions]).await;
    section(&[
        "get",
        "pods,statefulsets,deployments,persistentvolumeclaims",
        "--namespace",
        namespace,
        "--output",
        "wide",
    ])
    .await;
    section(&["get", "events", "--namespace", namespace, "--sort-by", ".metadata.creationTimestamp"]).await;
    let pods = kubectl(&["get", "pods", "--namespace", namespace, "--output", "name"]).await.unwrap_or_default();
    for pod in pods.lines().take(PODS_MAX) {
        section(&["logs", "--namespace", namespace, "--all-containers", "--tail", "15", pod]).await;
    }
    section(&[
        "logs",
        "--namespace",
        &crate::operator_pod::namespace(),
        "--selector",
        crate::operator_pod::SELECTOR,
        "--tail",
        "40",
    ])
    .await;
}

async fn section(arguments: &[&str]) {
    let text = kubectl(arguments).await.unwrap_or_else(|error| format!("{error:#}"));
    let lines: Vec<String> = text.lines().map(|line| line.chars().take(LINE_MAX).collect()).collect();
    eprintln!("── kubectl {}\n{}", arguments.join(" "), end_of(&lines.join("\n")));
}

/// The end of a text: the newest lines say most.
fn end_of(text: &str) -> &str {
    let excess = text.len().saturating_sub(SECTION_MAX);
    let start = (excess..text.len()).find(|index| text.is_char_boundary(*index)).unwrap_or(0);
    text[start..].trim_end()
}

#[cfg(test)]
mod tests {
    use super::{SECTION_MAX, end_of};

    #[test]
    fn a_long_text_is_cut_to_its_end() {
        let text = "ä".repeat(SECTION_MAX) + "end";
        assert!(end_of(&text).ends_with("end"));
        assert!(end_of(&text).len() <= SECTION_MAX);
    }
}
