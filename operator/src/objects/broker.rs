//! RabbitMQ: Secret, ConfigMap, two Services, StatefulSet, disruption budget, and a Job while a node leaves.
//! Rule: the pod template depends neither on the number of nodes nor on any content of the Secret.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapProjection, Container, KeyToPath, PodSpec, ProjectedVolumeSource, Secret, SecretProjection,
    SecretVolumeSource, Service, ServiceSpec, Volume, VolumeMount, VolumeProjection,
};

use super::{Objects, pod};
use crate::crd::Template;
use crate::credentials::key;
use crate::names::{self, Part};
use crate::plan::Plan;
use crate::quantity::quantity;

/// Where programs reach a node.
pub const AMQP: u16 = 5672;
pub(super) const MANAGEMENT: u16 = 15672;
pub(super) const METRICS: u16 = 15692;
/// What the nodes speak with each other on: the port mapper, and the node itself.
pub(super) const PEERS: [u16; 2] = [4369, 25672];
/// Files of the ConfigMap. The programs among them are started by `bash`, as the image's own entrypoint is.
const CONFIGURATION: &str = "rabbitmq.conf";
const PLUGINS: &str = "enabled_plugins";
/// Whether the cluster is made: `yes` or `no`.
const FORMED: &str = "formed";
const YES: &str = "yes";
/// Nodes that may still be in the cluster and are not wanted any more, one to a line.
const LEAVING: &str = "leaving";
const START: &str = "start.sh";
const LEAVE: &str = "leave.sh";
const QUEUES_ON: &str = "queues-on.sh";
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

/// Adds the broker's objects; none when somebody else runs it.
pub(super) fn build(plan: &Plan, objects: &mut Objects) {
    if plan.broker.external.is_some() {
        return;
    }
    let selector = names::selector(&plan.name, Part::Broker);
    let name = names::part(&plan.name, Part::Broker);
    let nodes = names::broker_nodes(&plan.name);
    let credentials = names::credentials(&plan.name, Part::Broker);
    let metadata = |name: &str| super::metadata(plan, name.to_owned(), &selector);

    objects.secrets.push(Secret {
        metadata: super::credentials_metadata(plan, Part::Broker, &selector),
        data: Some(plan.secret(Part::Broker)),
        ..Secret::default()
    });
    objects.config_maps.push(ConfigMap {
        metadata: metadata(&name),
        data: Some(BTreeMap::from([
            (CONFIGURATION.into(), configuration(plan)),
            (PLUGINS.into(), "[rabbitmq_management,rabbitmq_prometheus].\n".into()),
            (FORMED.into(), if plan.broker_formed { YES } else { "no" }.into()),
            (
                LEAVING.into(),
                (plan.broker.replicas..plan.broker_size.pods).map(|node| plan.broker_node(node) + "\n").collect(),
            ),
            (START.into(), include_str!("broker_start.sh").into()),
            (LEAVE.into(), include_str!("broker_leave.sh").into()),
            (QUEUES_ON.into(), include_str!("broker_queues_on.sh").into()),
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
    objects.jobs.extend(plan.broker_leaves.map(|ordinal| leave(plan, ordinal, volumes(&name, &credentials))));

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
    let set = super::stateful_set(plan, Part::Broker, nodes, plan.broker_size.pods, &broker.storage, template);
    objects.stateful_sets.push(set);
}

/// Whether the broker's ConfigMap says that its cluster is made.
pub fn says_formed(config_map: &ConfigMap) -> bool {
    config_map.data.as_ref().and_then(|data| data.get(FORMED)).is_some_and(|formed| formed == YES)
}

/// Takes a node out of the cluster. Its program uses the nodes' own protocol, which the management interface has no request for.
fn leave(plan: &Plan, ordinal: i32, mut volumes: Vec<Volume>) -> Job {
    let name = names::broker_leave(&plan.name, ordinal);
    let selector = names::broker_leave_selector(&plan.name);
    let Template {
        image, pull_policy, pull_secrets, node_selector, tolerations, priority_class, service_account, ..
    } = plan.broker.template.clone();
    let template = Template {
        image,
        pull_policy,
        pull_secrets,
        node_selector,
        tolerations,
        priority_class,
        service_account,
        ..Template::default()
    };
    volumes.push(pod::memory_volume("data", "16Mi"));
    let mut template = pod::template(pod::Pod {
        selector: &selector,
        annotations: BTreeMap::new(),
        user: USER,
        grace: 30,
        container: Container {
            name: "leave".into(),
            command: Some(vec!["bash".into(), format!("/etc/rabbitmq/{LEAVE}")]),
            env: Some(vec![
                pod::env("HOME", "/var/lib/rabbitmq"),
                pod::env("RABBITMQ_USE_LONGNAME", "true"),
                pod::env("LEAVING", plan.broker_node(ordinal)),
                pod::env("REMAINING", plan.broker_node(0)),
            ]),
            volume_mounts: Some(mounts()),
            // Its last words are what the status tells.
            termination_message_policy: Some("FallbackToLogsOnError".into()),
            ..Container::default()
        },
        image: &plan.images.broker,
        pull_policy: plan.images.pull_policy.as_deref(),
        resources: pod::resources("50m", "128Mi", "384Mi"),
        volumes,
        template: &template,
    });
    template.spec = template.spec.map(|spec| PodSpec {
        restart_policy: Some("OnFailure".into()),
        // A full host name, without which the nodes' protocol does not start.
        hostname: Some(name.clone()),
        subdomain: Some(names::broker_nodes(&plan.name)),
        ..spec
    });
    Job {
        metadata: super::metadata(plan, name, &selector),
        spec: Some(JobSpec { backoff_limit: Some(1000), template, ..JobSpec::default() }),
        status: None,
    }
}

/// `rabbitmq.conf`; keys as in <https://www.rabbitmq.com/docs/configure> and `rabbit.schema` of 4.0.
fn configuration(plan: &Plan) -> String {
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
        let node = plan.broker_node(ordinal);
        text.push_str(&format!("cluster_formation.classic_config.nodes.{} = {node}\n", ordinal + 1));
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
        command: Some(vec!["bash".into(), format!("/etc/rabbitmq/{START}")]),
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
        volume_mounts: Some(mounts()),
        ..Container::default()
    }
}

fn mounts() -> Vec<VolumeMount> {
    vec![
        pod::mount("data", "/var/lib/rabbitmq", false),
        pod::mount("configuration", "/etc/rabbitmq", true),
        pod::mount("cookie", "/run/broker", true),
        pod::mount("temporary", "/tmp", false),
    ]
}

fn volumes(config_map: &str, credentials: &str) -> Vec<Volume> {
    let item = |key: &str, path: &str| KeyToPath { key: key.into(), path: path.into(), mode: None };
    let files = VolumeProjection {
        config_map: Some(ConfigMapProjection {
            name: config_map.into(),
            items: Some(
                [CONFIGURATION, PLUGINS, FORMED, LEAVING, START, LEAVE, QUEUES_ON].map(|file| item(file, file)).into(),
            ),
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
