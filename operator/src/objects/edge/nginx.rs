//! Mode Nginx: ConfigMap, Deployment and disruption budget of an NGINX of our own.
//! Rule: it follows liveview's pods and its certificate by itself, so that no change of theirs replaces it or cuts a socket; and each pod has two,
//! for Kubernetes goes on sending clients to a pod for a second or two after its container was killed, and they must not find its ports closed.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapVolumeSource, Container, Lifecycle, LifecycleHandler, SecretVolumeSource, SleepAction, Volume,
};
use wire::env;

use super::super::{Objects, Replace, certificates, deployment, disruption_budget, fingerprint, metadata, pod};
use crate::crd::{Edge, EdgeLimits, EdgeService, ServiceType};
use crate::names::{self, Part};
use crate::plan::{EdgeCertificate, Plan};

/// Ports of the container; below 1024 would need a privilege.
pub(super) const PLAIN: u16 = 8080;
pub(super) const TLS: u16 = 8443;
/// That of figures of each container; no Service leads to it. The other ports they share.
pub(in crate::objects) const METRICS: [u16; 2] = [8081, 8082];
/// What the second container calls that port: of one name there may be one in a pod.
pub(in crate::objects) const TWIN_METRICS: &str = "metrics-twin";
/// User of the upstream unprivileged image.
const USER: i64 = 101;

/// The ports that are anybody's.
pub(in crate::objects) fn public_ports(plan: &Plan) -> Vec<u16> {
    [PLAIN].into_iter().chain(plan.edge_certificate().is_some().then_some(TLS)).collect()
}

pub(super) fn build(plan: &Plan, objects: &mut Objects) {
    let selector = names::selector(&plan.name, Part::Edge);
    let name = names::part(&plan.name, Part::Edge);
    let metadata = || metadata(plan, name.clone(), &selector);
    let certificate = plan.edge_certificate();
    let files = files(&plan.edge, certificate.as_ref());
    let read_at_start = fingerprint(&files.values().flat_map(|text| [text.as_str(), "\0"]).collect::<String>());

    objects.config_maps.push(ConfigMap { metadata: metadata(), data: Some(files), ..ConfigMap::default() });
    objects.pod_disruption_budgets.push(disruption_budget(metadata(), &selector, true));

    let [metrics, twin_metrics] = METRICS;
    let mut ports = vec![pod::port("web", PLAIN), pod::port("metrics", metrics)];
    let mut mounts = vec![pod::mount("configuration", "/etc/edge", true), pod::mount("temporary", "/tmp", false)];
    let mut volumes = vec![
        Volume {
            name: "configuration".into(),
            config_map: Some(ConfigMapVolumeSource {
                name: name.clone(),
                default_mode: Some(0o444),
                ..ConfigMapVolumeSource::default()
            }),
            ..Volume::default()
        },
        pod::memory_volume("temporary", "64Mi"),
        pod::memory_volume("temporary-twin", "64Mi"),
    ];
    if let Some(certificate) = certificate {
        ports.push(pod::port("https", TLS));
        mounts.push(pod::mount("certificate", "/etc/edge-tls", true));
        let secret = match certificate {
            EdgeCertificate::Own(secret) => certificates::of_edge(secret),
            EdgeCertificate::Users(secret) => SecretVolumeSource {
                secret_name: Some(secret),
                default_mode: Some(0o440),
                // A pod without it serves, and takes it when it comes.
                optional: Some(true),
                ..SecretVolumeSource::default()
            },
        };
        volumes.push(Volume { name: "certificate".into(), secret: Some(secret), ..Volume::default() });
    }
    let container = Container {
        name: "nginx".into(),
        command: Some(command(plan, metrics)),
        ports: Some(ports),
        // On the port that is this container's alone. Only that it listens: an NGINX whose connections are all in use is busy, not dead, and a
        // restart would cut them all.
        liveness_probe: Some(pod::tcp_probe("metrics", 10, 3)),
        readiness_probe: Some(pod::http_probe("/healthz", "metrics", 2, 2)),
        volume_mounts: Some(mounts),
        // Time for every node to take this pod out of the Service before NGINX stops listening.
        lifecycle: Some(Lifecycle {
            pre_stop: Some(LifecycleHandler { sleep: Some(SleepAction { seconds: 5 }), ..LifecycleHandler::default() }),
            ..Lifecycle::default()
        }),
        ..Container::default()
    };
    let mut template = pod::template(pod::Pod {
        selector: &selector,
        annotations: BTreeMap::from([(names::CONFIGURATION.into(), read_at_start)]),
        user: USER,
        grace: 30,
        container,
        image: &plan.images.edge,
        pull_policy: plan.images.pull_policy.as_deref(),
        resources: pod::resources("20m", "32Mi", "128Mi"),
        volumes,
        template: &plan.edge.template,
    });
    let containers = template.spec.iter_mut().map(|spec| &mut spec.containers);
    containers.for_each(|all| all.extend(all.first().cloned().map(|first| twin(first, command(plan, twin_metrics)))));
    objects.deployments.push(deployment(metadata(), &selector, plan.edge.replicas, Replace::NewFirst, template));
}

fn command(plan: &Plan, metrics: u16) -> Vec<String> {
    let [liveview, page] = [names::part(&plan.name, Part::Liveview), names::page(&plan.name)];
    vec!["sh".into(), "/etc/edge/start.sh".into(), liveview, page, metrics.to_string()]
}

/// The second container of the pod: as the first, with files and a port of figures of its own.
fn twin(first: Container, command: Vec<String>) -> Container {
    let mounts = first.volume_mounts.into_iter().flatten().map(|mount| match mount.name.as_str() {
        "temporary" => pod::mount("temporary-twin", &mount.mount_path, false),
        _ => mount,
    });
    Container {
        name: "nginx-twin".into(),
        command: Some(command),
        volume_mounts: Some(mounts.collect()),
        ports: Some(vec![pod::port(TWIN_METRICS, METRICS[1])]),
        liveness_probe: Some(pod::tcp_probe(TWIN_METRICS, 10, 3)),
        readiness_probe: Some(pod::http_probe("/healthz", TWIN_METRICS, 2, 2)),
        ..first
    }
}

/// The files of the ConfigMap.
fn files(edge: &Edge, certificate: Option<&EdgeCertificate>) -> BTreeMap<String, String> {
    let ports = |text: &str| text.replace("PLAIN_PORT", &PLAIN.to_string()).replace("TLS_PORT", &TLS.to_string());
    let limits = edge.limits.clone().unwrap_or_default();
    let configuration = include_str!("nginx.conf")
        .replace("TRUSTED_PROXIES\n", &lines(8, edge.trusted_proxies.iter().map(|proxy| format!("{proxy} trusted:;"))))
        .replace("REAL_ADDRESS\n", &lines(4, real_address(edge)))
        .replace("ACCESS_LOG\n", &lines(4, access_log(edge.access_log)))
        .replace("LIMIT_ZONES\n", &lines(4, limit_zones(&limits)));
    let page = include_str!("page.conf").replace("LIMITS\n", &lines(0, limited(&limits)));
    let start = include_str!("start.sh").replace("LIVEVIEW_PORT", &env::default::PORT.to_string());
    [
        ("nginx.conf", configuration),
        ("page.conf", page),
        ("plain.conf", ports(include_str!("plain.conf"))),
        ("tls.conf", ports(&with_certificate(edge, certificate))),
        ("start.sh", start),
    ]
    .map(|(name, text)| (name.to_owned(), text))
    .into()
}

/// The two servers of an NGINX with a certificate. Only who writes `edge.tls` wants everybody there: under an authority that no browser knows
/// plain HTTP stays, for load balancers and forwarded ports. A pipeline without TLS has the file as it always was, for another one replaces its pods.
fn with_certificate(edge: &Edge, certificate: Option<&EdgeCertificate>) -> String {
    let (heading, plain, stay) = match (&edge.tls, certificate) {
        (None, Some(EdgeCertificate::Own(_))) => {
            ("HTTPS beside plain HTTP", "include /tmp/edge/page.conf;".to_owned(), String::new())
        }
        _ => (
            "plain requests are sent to HTTPS",
            format!("return 308 https://${{host}}{}$request_uri;", https_port(&edge.service)),
            lines(
                4,
                [
                    "# A day: long enough for those who come back, short enough to go back to plain HTTP one day.",
                    "add_header Strict-Transport-Security max-age=86400 always;",
                ]
                .map(str::to_owned),
            ),
        ),
    };
    include_str!("tls.conf").replace("HEADING", heading).replace("PLAIN_REQUESTS", &plain).replace("    STAY\n", &stay)
}

/// What follows the host's name in an address of HTTPS.
fn https_port(service: &EdgeService) -> String {
    let port = service.https_node_port.filter(|_| service.type_ == ServiceType::NodePort);
    port.map(|port| format!(":{port}")).unwrap_or_default()
}

fn lines(indent: usize, lines: impl IntoIterator<Item = String>) -> String {
    lines.into_iter().map(|line| format!("{:indent$}{line}\n", "")).collect()
}

/// The client's address is what the nearest proxy that is not trusted says it is.
fn real_address(edge: &Edge) -> Vec<String> {
    let mut lines: Vec<String> =
        edge.trusted_proxies.iter().map(|proxy| format!("set_real_ip_from {proxy};")).collect();
    if !lines.is_empty() {
        lines.extend(["real_ip_header X-Forwarded-For;".into(), "real_ip_recursive on;".into()]);
    }
    lines
}

fn access_log(on: bool) -> Vec<String> {
    if !on {
        return vec!["access_log off;".into()];
    }
    // The path without its query: what is in there is nobody else's business.
    let fields = [
        ("time", "\"$time_iso8601\""),
        ("client", "\"$remote_addr\""),
        ("method", "\"$request_method\""),
        ("path", "\"$uri\""),
        ("status", "$status"),
        ("bytes", "$body_bytes_sent"),
        ("seconds", "$request_time"),
        ("pod", "\"$upstream_addr\""),
        ("agent", "\"$http_user_agent\""),
    ];
    let fields: Vec<String> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    vec![format!("log_format json escape=json '{{{}}}';", fields.join(",")), "access_log /dev/stdout json;".into()]
}

/// Where the figures of each client are kept; 16 MiB hold some 130 000 clients.
fn limit_zones(limits: &EdgeLimits) -> Vec<String> {
    let rate = limits.requests_per_second;
    let requests = rate.map(|rate| format!("limit_req_zone $binary_remote_addr zone=rate:16m rate={rate}r/s;"));
    let connections = limits.connections.map(|_| "limit_conn_zone $binary_remote_addr zone=open:16m;".to_owned());
    requests.into_iter().chain(connections).collect()
}

fn limited(limits: &EdgeLimits) -> Vec<String> {
    let requests = limits.requests_per_second.map(|rate| {
        let burst = limits.burst.unwrap_or(rate);
        format!("limit_req zone=rate burst={burst} nodelay;")
    });
    let connections = limits.connections.map(|most| format!("limit_conn open {most};"));
    let mut lines: Vec<String> = requests.into_iter().chain(connections).collect();
    if !lines.is_empty() {
        lines.extend(
            [
                "limit_req_status 429;",
                "limit_conn_status 429;",
                "limit_req_log_level info;",
                "limit_conn_log_level info;",
                "error_page 429 @limited;",
                "location @limited {",
                "    default_type application/json;",
                r#"    return 429 '{"error":"too many requests from this address: try again in a second"}\n';"#,
                "}",
            ]
            .map(str::to_owned),
        );
    }
    lines
}
