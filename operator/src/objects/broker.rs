//! RabbitMQ: Secret, ConfigMap, two Services, StatefulSet, disruption budget, and a Job while a node leaves.
//! Rule: the pod template depends neither on the number of nodes nor on any content of the Secret.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapProjection, Container, EnvVar, KeyToPath, PodSpec, ProjectedVolumeSource, Secret,
    SecretProjection, SecretVolumeSource, Service, ServiceSpec, Volume, VolumeMount, VolumeProjection,
};

use super::{Objects, certificates, pod};
use crate::certificates::key as tls;
use crate::crd::Template;
use crate::credentials::key;
use crate::names::{self, Part};
use crate::plan::Plan;
use crate::quantity::quantity;

/// Name and number of a port.
pub(crate) type Port = (&'static str, u16);
/// The same without and with TLS.
const AMQP: [Port; 2] = [("amqp", 5672), ("amqps", 5671)];
const MANAGEMENT: [Port; 2] = [("management", 15672), ("management-tls", 15671)];
pub(super) const METRICS: u16 = 15692;
/// How often a node looks whether its certificate has changed.
const PEM_CACHE_MILLIS: u32 = 10_000;
/// How often a node judges whether the leaders of its queues' replicas are still there. By default it is every five seconds, and no event was taken for
/// eight when a leader vanished without a word; a leader that is only slow hands over to another one and nothing is lost.
const LEADER_LOST_MILLIS: u32 = 1_000;
/// Largest body that is taken; RabbitMQ's own is 16 MiB, and an event has some 200 bytes. At the default batch a consumer has 2000 of them in its
/// memory at most, which has a limit of 96 MiB. Whoever publishes a larger one is told at once.
const MAX_MESSAGE_BYTES: u32 = 16 * 1024;
/// Largest frame, in bytes: the properties of a message are one, so this bounds them as well, and a program keeps two buffers of 32 frames. RabbitMQ's own
/// is 128 KiB; a larger body goes in several.
pub(crate) const MAX_FRAME_BYTES: u32 = 16 * 1024;
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
/// The container of a node.
pub(super) const SERVER: &str = "rabbitmq";
const START: &str = "start.sh";
const LEAVE: &str = "leave.sh";
const QUEUES_ON: &str = "queues-on.sh";
/// How the nodes speak TLS with each other (rabbitmq.com/docs/clustering-ssl).
const BETWEEN_NODES: &str = "between-nodes.config";
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

/// The port of AMQP.
pub(crate) fn amqp(plan: &Plan) -> Port {
    AMQP[usize::from(plan.tls.is_some())]
}

/// The port of the management interface.
pub(super) fn management(plan: &Plan) -> Port {
    MANAGEMENT[usize::from(plan.tls.is_some())]
}

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
        data: Some(
            [
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
            ]
            .into_iter()
            .chain(plan.tls.iter().map(|_| (BETWEEN_NODES.into(), between_nodes())))
            .collect(),
        ),
        ..ConfigMap::default()
    });
    let ports = [amqp(plan), management(plan), ("metrics", METRICS)];
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
    objects.jobs.extend(plan.broker_leaves.map(|ordinal| leave(plan, ordinal, volumes(plan, &name, &credentials))));

    let template = pod::template(pod::Pod {
        selector: &selector,
        annotations: BTreeMap::new(),
        user: USER,
        // Long enough to close the write-ahead log; a kill after it loses nothing, it only makes the next start slower. Not longer: half of
        // it is how long Kubernetes waits until it looks again whether a namespace is empty.
        grace: 30,
        container: container(plan, &nodes),
        image: &plan.images.broker,
        pull_policy: plan.images.pull_policy.as_deref(),
        resources: pod::resources("200m", "512Mi", MEMORY_LIMIT),
        volumes: volumes(plan, &name, &credentials),
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
            env: Some(
                [
                    pod::env("HOME", "/var/lib/rabbitmq"),
                    pod::env("RABBITMQ_USE_LONGNAME", "true"),
                    pod::env("LEAVING", plan.broker_node(ordinal)),
                    pod::env("REMAINING", plan.broker_node(0)),
                ]
                .into_iter()
                .chain(speaks_tls(plan))
                .collect(),
            ),
            volume_mounts: Some(mounts(plan)),
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

/// The nodes show each other the certificate they show to programs, and ask for it. An authority that vouches for a node, and the cookie, make
/// a peer.
fn between_nodes() -> String {
    let file = |name: &str| format!("\"{}/{name}\"", certificates::FOLDER);
    let (trusted, certificate, private) = (file(tls::TRUSTED), file(tls::CERTIFICATE), file(tls::KEY));
    let own = format!(
        "{{cacertfile, {trusted}}}, {{certfile, {certificate}}}, {{keyfile, {private}}}, {{verify, verify_peer}}"
    );
    format!("[{{server, [{own}, {{fail_if_no_peer_cert, true}}]}},\n {{client, [{own}]}}].\n")
}

/// How a node, and the tools that connect to one, are told to speak TLS with nodes. Not by ERL_FLAGS: RabbitMQ hands its own arguments on to the
/// node by which it looks for its peers, and Erlang takes an argument that is there twice for none.
fn between_nodes_flags(plan: &Plan) -> Option<String> {
    plan.tls.as_ref().map(|_| format!("-proto_dist inet_tls -ssl_dist_optfile /etc/rabbitmq/{BETWEEN_NODES}"))
}

/// What tools and `start.sh` read with TLS.
fn speaks_tls(plan: &Plan) -> Vec<EnvVar> {
    let flags = between_nodes_flags(plan).into_iter();
    let port = pod::env("AMQP_PORT", amqp(plan).1.to_string());
    flags.flat_map(|flags| [pod::env("RABBITMQ_CTL_ERL_ARGS", flags), port.clone()]).collect()
}

/// Schedulers that wait by spinning eat the processor of their neighbours (rabbitmq.com/docs/runtime#thread-statistics). A renewed certificate is read
/// within seconds: without it Erlang looks at the files every two minutes (OTP, ssl application, `ssl_pem_cache_clean`).
fn erlang_arguments(plan: &Plan) -> String {
    let flags = between_nodes_flags(plan);
    let tls = flags.map(|flags| format!(" {flags} -ssl ssl_pem_cache_clean {PEM_CACHE_MILLIS}"));
    format!("+sbwt none +sbwtdcpu none +sbwtdio none{}", tls.unwrap_or_default())
}

/// `rabbitmq.conf`; keys as in <https://www.rabbitmq.com/docs/configure> and `rabbit.schema` of 4.0.
fn configuration(plan: &Plan) -> String {
    let replicas = plan.broker.replicas;
    let mut text = format!(
        "\
cluster_name = {name}
{listeners}prometheus.tcp.port = {METRICS}
log.console = true
log.console.level = info
# A program that declares a company's queue as it did before there were quorum queues must not be refused.
quorum_queue.property_equivalence.relaxed_checks_on_redeclaration = true
max_message_size = {MAX_MESSAGE_BYTES}
frame_max = {MAX_FRAME_BYTES}
cluster_partition_handling = pause_minority
raft.adaptive_failure_detector.poll_interval = {LEADER_LOST_MILLIS}
cluster_formation.peer_discovery_backend = classic_config
cluster_formation.target_cluster_size_hint = {replicas}
",
        name = plan.name,
        listeners = listeners(plan),
    );
    // The broker sees the machine's memory and not its container's limit, so both bounds are said in bytes
    // (rabbitmq.com/docs/memory#absolute-limit, rabbitmq.com/docs/disk-alarms).
    if let Some(limit) = memory_limit(plan).as_deref().and_then(quantity) {
        text.push_str(&format!("vm_memory_high_watermark.absolute = {}\n", (limit * MEMORY_WATERMARK) as u64));
    }
    if let Some(wanted) = quantity(&plan.broker.storage.size) {
        // A wish that the storage class refuses must not be the measure of the volumes there are: a node that starts would block the publishers.
        let size = plan.broker_volume.unwrap_or(wanted).min(wanted);
        text.push_str(&format!(
            "disk_free_limit.absolute = {}\n",
            ((size * DISK_RESERVE) as u64).min(DISK_RESERVE_MAX)
        ));
    }
    for ordinal in 0..replicas {
        let node = plan.broker_node(ordinal);
        text.push_str(&format!("cluster_formation.classic_config.nodes.{} = {node}\n", ordinal + 1));
    }
    text
}

fn listeners(plan: &Plan) -> String {
    let (amqp, management) = (amqp(plan).1, management(plan).1);
    if plan.tls.is_none() {
        return format!("listeners.tcp.default = {amqp}\nmanagement.tcp.port = {management}\n");
    }
    let files = |section: &str| {
        let files = [("cacertfile", tls::TRUSTED), ("certfile", tls::CERTIFICATE), ("keyfile", tls::KEY)];
        files.map(|(key, file)| format!("{section}.{key} = {}/{file}\n", certificates::FOLDER)).concat()
    };
    format!(
        "\
listeners.tcp = none
listeners.ssl.default = {amqp}
{}ssl_options.verify = verify_none
ssl_options.fail_if_no_peer_cert = false
management.ssl.port = {management}
{}",
        files("ssl_options"),
        files("management.ssl"),
    )
}

/// The limit the node's container runs under; none when the template has resources without one.
fn memory_limit(plan: &Plan) -> Option<String> {
    match &plan.broker.template.resources {
        None => Some(MEMORY_LIMIT.to_owned()),
        Some(resources) => Some(resources.limits.as_ref()?.get("memory")?.0.clone()),
    }
}

fn container(plan: &Plan, nodes: &str) -> Container {
    let (amqp, management) = (amqp(plan), management(plan));
    Container {
        name: SERVER.into(),
        command: Some(vec!["bash".into(), format!("/etc/rabbitmq/{START}")]),
        env: Some(
            [
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
                pod::env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", erlang_arguments(plan)),
            ]
            .into_iter()
            .chain(speaks_tls(plan))
            .collect(),
        ),
        ports: Some([amqp, management, ("metrics", METRICS)].map(|(name, number)| pod::port(name, number)).into()),
        // The port alone: a probe that asks a node about its cluster keeps nodes that wait for each other from starting.
        readiness_probe: Some(pod::tcp_probe(amqp.0, 3, 3)),
        volume_mounts: Some(mounts(plan)),
        ..Container::default()
    }
}

fn mounts(plan: &Plan) -> Vec<VolumeMount> {
    let mut mounts = vec![
        pod::mount("data", "/var/lib/rabbitmq", false),
        pod::mount("configuration", "/etc/rabbitmq", true),
        pod::mount("cookie", "/run/broker", true),
        pod::mount("temporary", "/tmp", false),
    ];
    mounts.extend(certificates::of_server(plan, Part::Broker).map(|(_, mount)| mount));
    mounts
}

fn volumes(plan: &Plan, config_map: &str, credentials: &str) -> Vec<Volume> {
    let between_nodes = plan.tls.as_ref().map(|_| BETWEEN_NODES);
    let files = [CONFIGURATION, PLUGINS, FORMED, LEAVING, START, LEAVE, QUEUES_ON].into_iter().chain(between_nodes);
    let item = |key: &str, path: &str| KeyToPath { key: key.into(), path: path.into(), mode: None };
    let files = VolumeProjection {
        config_map: Some(ConfigMapProjection {
            name: config_map.into(),
            items: Some(files.map(|file| item(file, file)).collect()),
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
    let mut volumes = vec![
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
    ];
    volumes.extend(certificates::of_server(plan, Part::Broker).map(|(volume, _)| volume));
    volumes
}
