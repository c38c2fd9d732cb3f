//! What Prometheus is told of a pipeline: one PodMonitor for all parts but the database.
//! Rule: the labels that the chart's alerts and dashboard go by, `pipeline`, `component` and `company`, are made here.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Objects, edge};
use crate::names::{self, Part};
use crate::plan::Plan;
use crate::pod_monitor::{Endpoint, PodMonitor, PodMonitorSpec, Relabeling};

/// The parts that have figures.
const PARTS: [Part; 5] = [Part::Broker, Part::Publisher, Part::Consumer, Part::Liveview, Part::Edge];

/// Adds the PodMonitor.
pub(super) fn build(plan: &Plan, objects: &mut Objects) {
    if !plan.monitoring.enabled {
        return;
    }
    let selector = names::components_selector(&plan.name, &PARTS.map(Part::name));
    let own = selector.match_labels.clone().unwrap_or_default();
    let mut labels = plan.monitoring.labels.clone();
    labels.extend(names::labels(&own));
    // All call the port `metrics`; but each pod of the edge has two of them, and liveview has its figures on that of its page.
    let endpoint = |port: &str| Endpoint {
        port: port.into(),
        path: "/metrics".into(),
        honor_labels: true,
        relabelings: [
            ("label", names::INSTANCE, "pipeline"),
            ("label", names::COMPONENT, "component"),
            ("annotation", names::SYMBOL, "company"),
        ]
        .map(|(what, name, target)| relabeling(what, name, target))
        .into(),
    };
    objects.pod_monitors.push(PodMonitor {
        metadata: ObjectMeta { labels: Some(labels), ..super::metadata(plan, plan.name.clone(), &own) },
        spec: PodMonitorSpec {
            selector,
            pod_metrics_endpoints: ["metrics", edge::TWIN_METRICS, "http"].map(endpoint).into(),
        },
    });
}

/// Prometheus writes the names of labels and annotations with `_` for what is neither letter nor digit.
fn relabeling(what: &str, name: &str, target: &str) -> Relabeling {
    let name = name.replace(|character: char| !character.is_ascii_alphanumeric(), "_");
    Relabeling { source_labels: vec![format!("__meta_kubernetes_pod_{what}_{name}")], target_label: target.into() }
}
