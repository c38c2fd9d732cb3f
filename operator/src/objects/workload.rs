//! What the pods of our own programs share.
//! Rule: a program is started by its path, not by an image's entrypoint.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EnvVar, Volume};
use wire::env;

use super::{certificates, pod};
use crate::names::{self, Part};
use crate::plan::{Company, Plan};

/// User of our own images, which are built from scratch and know no names.
pub(super) const USER: i64 = 65532;

/// The queue type as the programs take it.
pub(super) fn queue_type(plan: &Plan) -> &'static str {
    wire::queue::QueueType::from(plan.broker.queue_type).as_str()
}

/// The variable with the address of broker or database; it comes from a Secret and is in no template.
pub(super) fn address(plan: &Plan, name: &str, part: Part) -> EnvVar {
    let (secret, key) = plan.address(part);
    pod::env_secret(name, &secret, key)
}

/// Annotations of the pods of one company, which read the addresses of `parts`.
pub(super) fn annotations(plan: &Plan, company: &Company, parts: &[Part]) -> BTreeMap<String, String> {
    let mut annotations = read_at_start(plan, parts);
    annotations.insert(names::SYMBOL.into(), company.symbol.clone());
    annotations
}

/// Annotations of pods that use `parts`: what they read of them at their start only. A client of the database never looks at its authorities again.
pub(super) fn read_at_start(plan: &Plan, parts: &[Part]) -> BTreeMap<String, String> {
    let mut annotations = plan.address_annotations(parts);
    let trusted =
        plan.tls.as_ref().filter(|_| parts.contains(&Part::Database)).and_then(|tls| tls.authority_of(Part::Database));
    annotations.extend(trusted.map(|trusted| (names::TRUSTED.to_owned(), trusted)));
    annotations
}

/// Gives a container whom it trusts in `parts`, and returns the volumes for that; none without TLS.
pub(super) fn trusting(plan: &Plan, parts: &[Part], container: Container) -> (Container, Vec<Volume>) {
    match certificates::of_client(plan, parts) {
        None => (container, Vec::new()),
        Some((volume, mount)) => (Container { volume_mounts: Some(vec![mount]), ..container }, vec![volume]),
    }
}

/// The container of a program without a page: publisher or consumer.
pub(super) fn container(program: &str, mut variables: Vec<EnvVar>) -> Container {
    variables.push(pod::env(env::METRICS_PORT, env::default::METRICS_PORT.to_string()));
    variables.push(pod::env_field(env::POD_NAME, "metadata.name"));
    variables.push(pod::env(env::LOG_FORMAT, "json"));
    Container {
        name: program.trim_start_matches("stock-").into(),
        command: Some(vec![format!("/{program}")]),
        env: Some(variables),
        ports: Some(vec![pod::port("metrics", env::default::METRICS_PORT)]),
        liveness_probe: Some(pod::http_probe("/healthz", "metrics", 10, 3)),
        readiness_probe: Some(pod::http_probe("/readyz", "metrics", 2, 3)),
        ..Container::default()
    }
}
