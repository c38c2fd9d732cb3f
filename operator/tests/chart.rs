//! What the chart holds a copy of is the same as its source.
//! Rule: helm reads no file outside of a chart, so the definition is copied by `make crd` and compared here.

use std::fs;
use std::path::Path;

#[test]
fn the_chart_installs_the_generated_definition() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
    assert!(
        read("crds/stockpipelines.yaml") == read("charts/stockpipeline/files/stockpipelines.yaml"),
        "charts/stockpipeline/files/stockpipelines.yaml is stale: run `make crd`"
    );
}
