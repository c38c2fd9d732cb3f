//! RabbitMQ: Secret, ConfigMap, two Services, StatefulSet, disruption budget.
//! Rule: the pod template depends neither on the number of nodes nor on any content of the Secret.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapProjection, Container, KeyToPath, ProjectedVolumeSource, Secret, SecretProjection,
    SecretVolumeSource, Service, ServiceSpec, Volume, VolumeProjection,
};

use super::{Objects, pod};
use crate::names::{self, Part};
use crate::plan::Plan;
use crate::quantity::quantity;
use crate::read::{self, key};

const AMQP: u16 = 5672;
const MANAGEMENT: u16 = 15672;
const METRICS: u16 = 15692;
/// User of the upstream image.
const USER: i64 = 999;
/// Memory of a node unless the template says otherwise.
const MEMORY_LIMIT: &str = "2Gi";
/// Share of the memory limit at which publishers are blocked; the rest is for what the broker does not count.
const MEMORY_WATERMARK: f64 = 0.6;
/// Share of the volume that stays free: below it publishers are blocked, before the write-ahead log has no room.
const DISK_RESERVE: f64 = 0.2;
/// More than this need not stay free on a large volume, bytes.
const DISK_RESERVE_MAX: u64 = 2_000_000_000;

/// Adds the broker's objects.
pub(super) fn build(plan: &Plan, objects: &mut Objects) {
    let selector = names::selector(&plan.name, Part::Broker);
    let name = names::part(&plan.name, Part::Broker);
    let nodes = names::broker_nodes(&plan.name);
    let credentials = names::credentials(&plan.name, Part::Broker);
    let metadata = |name: &str| super::metadata(plan, name.to_owned(), &selector);

    objects.secrets.push(Secret { metadata: metadata(&credentials), data: Some(secret(plan)), ..Secret::default() });
    objects.config_maps.push(ConfigMap {
        metadata: metadata(&name),
        data: Some(BTreeMap::from([
            ("rabbitmq.conf".into(), configuration(plan)),
            ("enabled_plugins".into(), "[rabbitmq_management,rabbitmq_prometheus].\n".into()),
        ])),
        ..ConfigMap::default()
    });
    let ports = [("amqp", AMQP), ("management", MANAGEMENT), ("metrics", METRICS)];
    objects.services.push(super::peers_service(metadata(&nodes), &selector, &ports));
    objects.services.push(Service {
        metadata: metadata(&name),
        spec: Some(ServiceSpec {
            selector: Some(selector.clone()),
            ports: Some(ports.iter().map(|(name, port)| super::service_port(name, *port, name)).collect()),
            ..ServiceSpec::default()
        }),
        status: None,
    });
    objects.pod_disruption_budgets.push(super::disruption_budget(
        metadata(&name),
        &selector,
        plan.may_lose_one.broker.unwrap_or(plan.broker.replicas == 1),
    ));

    let template = pod::template(pod::Pod {
        selector: &selector,
        annotations: BTreeMap::new(),
        user: USER,
        // Long enough to close the write-ahead log; a kill after it loses nothing, it only makes the next start slower. Not longer: half of
        // it is how long Kubernetes waits until it looks again whether a namespace is empty.
        grace: 30,
        container: container(&nodes),
        image: &plan.images.broker,
        pull_policy: plan.images.pull_policy.as_deref(),
        resources: pod::resources("200m", "512Mi", MEMORY_LIMIT),
        volumes: volumes(&name, &credentials),
        template: &plan.broker.template,
    });
    let broker = &plan.broker;
    let set = super::stateful_set(plan, Part::Broker, nodes, broker.replicas, &broker.storage, template);
    objects.stateful_sets.push(set);
}

fn secret(plan: &Plan) -> BTreeMap<String, ByteString> {
    let mut data = plan.credentials.of(Part::Broker);
    let (user, password) = (read::BROKER_USER, &plan.credentials.broker_password);
    let host = format!("{}.{}.svc", names::part(&plan.name, Part::Broker), plan.namespace);
    let derived = [
        (key::URL, format!("amqp://{user}:{password}@{host}:{AMQP}/%2f")),
        (
            key::CONFIGURATION,
            format!("default_user = {user}\ndefault_pass = {password}\ndefault_user_tags.administrator = true\n"),
        ),
    ];
    data.extend(derived.map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes()))));
    data
}

/// `rabbitmq.conf`; keys as in <https://www.rabbitmq.com/docs/configure> and `rabbit.schema` of 4.0.
fn configuration(plan: &Plan) -> String {
    let nodes = names::broker_nodes(&plan.name);
    let set = names::part(&plan.name, Part::Broker);
    let replicas = plan.broker.replicas;
    let mut text = format!(
        "\
cluster_name = {name}
listeners.tcp.default = {AMQP}
management.tcp.port = {MANAGEMENT}
prometheus.tcp.port = {METRICS}
log.console = true
log.console.level = info
# A program that declares a company's queue as it did before there were quorum queues must not be refused.
quorum_queue.property_equivalence.relaxed_checks_on_redeclaration = true
cluster_partition_handling = pause_minority
cluster_formation.peer_discovery_backend = classic_config
cluster_formation.target_cluster_size_hint = {replicas}
quorum_queue.continuous_membership_reconciliation.enabled = true
quorum_queue.continuous_membership_reconciliation.target_group_size = {replicas}
",
        name = plan.name,
    );
    let bytes = |share: f64, text: &str| quantity(text).map(|all| (all * share) as u64);
    // The broker sees the machine's memory and not its container's limit, so both bounds are said in bytes
    // (rabbitmq.com/docs/memory#absolute-limit, rabbitmq.com/docs/disk-alarms).
    if let Some(watermark) = memory_limit(plan).and_then(|limit| bytes(MEMORY_WATERMARK, &limit)) {
        text.push_str(&format!("vm_memory_high_watermark.absolute = {watermark}\n"));
    }
    if let Some(free) = bytes(DISK_RESERVE, &plan.broker.storage.size) {
        text.push_str(&format!("disk_free_limit.absolute = {}\n", free.min(DISK_RESERVE_MAX)));
    }
    for ordinal in 0..replicas {
        let host = names::pod_host(&set, ordinal, &nodes, &plan.namespace);
        text.push_str(&format!("cluster_formation.classic_config.nodes.{} = rabbit@{host}\n", ordinal + 1));
    }
    text
}

/// The limit the node's container runs under; none when the template has resources without one.
fn memory_limit(plan: &Plan) -> Option<String> {
    match &plan.broker.template.resources {
        None => Some(MEMORY_LIMIT.to_owned()),
        Some(resources) => Some(resources.limits.as_ref()?.get("memory")?.0.clone()),
    }
}

fn container(nodes: &str) -> Container {
    Container {
        name: "rabbitmq".into(),
        // The cookie must be readable by its owner alone, which a mounted Secret never is.
        command: Some(vec![
            "sh".into(),
            "-c".into(),
            "umask 077; rm -f \"$HOME/.erlang.cookie\"; cp /run/broker/erlang-cookie \"$HOME/.erlang.cookie\" && exec rabbitmq-server".into(),
        ]),
        env: Some(vec![
            pod::env_field("POD_NAME", "metadata.name"),
            pod::env_field("POD_NAMESPACE", "metadata.namespace"),
            pod::env("HOME", "/var/lib/rabbitmq"),
            pod::env("RABBITMQ_USE_LONGNAME", "true"),
            pod::env("RABBITMQ_NODENAME", format!("rabbit@$(POD_NAME).{nodes}.$(POD_NAMESPACE).svc")),
            pod::env("RABBITMQ_MNESIA_BASE", "/var/lib/rabbitmq/mnesia"),
            pod::env("RABBITMQ_CONFIG_FILE", "/etc/rabbitmq/rabbitmq.conf"),
            pod::env("RABBITMQ_CONFIG_FILES", "/etc/rabbitmq/conf.d"),
            pod::env("RABBITMQ_ENABLED_PLUGINS_FILE", "/etc/rabbitmq/enabled_plugins"),
            pod::env("RABBITMQ_LOGS", "-"),
            // Schedulers that wait by spinning eat the processor of their neighbours (rabbitmq.com/docs/runtime#thread-statistics).
            pod::env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "+sbwt none +sbwtdcpu none +sbwtdio none"),
        ]),
        ports: Some(vec![pod::port("amqp", AMQP), pod::port("management", MANAGEMENT), pod::port("metrics", METRICS)]),
        // The port alone: a probe that asks a node about its cluster keeps nodes that wait for each other from starting.
        readiness_probe: Some(pod::tcp_probe("amqp", 3, 3)),
        volume_mounts: Some(vec![
            pod::mount("data", "/var/lib/rabbitmq", false),
            pod::mount("configuration", "/etc/rabbitmq", true),
            pod::mount("cookie", "/run/broker", true),
            pod::mount("temporary", "/tmp", false),
        ]),
        ..Container::default()
    }
}

fn volumes(config_map: &str, credentials: &str) -> Vec<Volume> {
    let item = |key: &str, path: &str| KeyToPath { key: key.into(), path: path.into(), mode: None };
    let files = VolumeProjection {
        config_map: Some(ConfigMapProjection {
            name: config_map.into(),
            items: Some(vec![item("rabbitmq.conf", "rabbitmq.conf"), item("enabled_plugins", "enabled_plugins")]),
            optional: None,
        }),
        ..VolumeProjection::default()
    };
    let user = VolumeProjection {
        secret: Some(SecretProjection {
            name: credentials.into(),
            items: Some(vec![item(key::CONFIGURATION, "conf.d/10-credentials.conf")]),
            optional: None,
        }),
        ..VolumeProjection::default()
    };
    vec![
        Volume {
            name: "configuration".into(),
            projected: Some(ProjectedVolumeSource { sources: Some(vec![files, user]), default_mode: Some(0o440) }),
            ..Volume::default()
        },
        Volume {
            name: "cookie".into(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(credentials.into()),
                items: Some(vec![item(key::COOKIE, key::COOKIE)]),
                default_mode: Some(0o440),
                optional: None,
            }),
            ..Volume::default()
        },
        pod::memory_volume("temporary", "64Mi"),
    ]
}
