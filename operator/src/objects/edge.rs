//! NGINX in front of liveview: ConfigMap, Deployment, Service, disruption budget.
//! Rule: it follows liveview's pods by DNS at run time, so that no change of theirs rolls or reloads it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapVolumeSource, Container, Lifecycle, LifecycleHandler, Service, ServicePort, ServiceSpec,
    SleepAction, Volume,
};
use wire::env;

use super::{Objects, Replace, pod};
use crate::crd::ServiceType;
use crate::names::{self, Part};
use crate::plan::Plan;

/// Port of the container; below 1024 would need a privilege.
pub(super) const PORT: u16 = 8080;
/// User of the upstream unprivileged image.
const USER: i64 = 101;

/// Adds the edge's objects.
pub(super) fn build(plan: &Plan, objects: &mut Objects) {
    let selector = names::selector(&plan.name, Part::Edge);
    let name = names::part(&plan.name, Part::Edge);
    let metadata = || super::metadata(plan, name.clone(), &selector);
    let (configuration, start) = (configuration(), start(&names::part(&plan.name, Part::Liveview)));

    objects.config_maps.push(ConfigMap {
        metadata: metadata(),
        data: Some(BTreeMap::from([("nginx.conf".into(), configuration.clone()), ("start.sh".into(), start.clone())])),
        ..ConfigMap::default()
    });
    let service = &plan.edge.service;
    let mut service_metadata = metadata();
    service_metadata.annotations = Some(service.annotations.clone()).filter(|annotations| !annotations.is_empty());
    objects.services.push(Service {
        metadata: service_metadata,
        spec: Some(ServiceSpec {
            type_: Some(
                match service.type_ {
                    ServiceType::ClusterIP => "ClusterIP",
                    ServiceType::NodePort => "NodePort",
                    ServiceType::LoadBalancer => "LoadBalancer",
                }
                .into(),
            ),
            selector: Some(selector.clone()),
            ports: Some(vec![ServicePort { node_port: service.node_port, ..super::service_port("http", 80, "http") }]),
            ..ServiceSpec::default()
        }),
        status: None,
    });
    objects.pod_disruption_budgets.push(super::disruption_budget(metadata(), &selector, true));

    let container = Container {
        name: "nginx".into(),
        command: Some(vec!["sh".into(), "/etc/edge/start.sh".into()]),
        ports: Some(vec![pod::port("http", PORT)]),
        // Only that it listens: an NGINX whose connections are all in use is busy, not dead, and a restart would cut them all.
        liveness_probe: Some(pod::tcp_probe("http", 10, 3)),
        readiness_probe: Some(pod::http_probe("/edge/healthz", "http", 2, 2)),
        volume_mounts: Some(vec![
            pod::mount("configuration", "/etc/edge", true),
            pod::mount("temporary", "/tmp", false),
        ]),
        // Time for every node to take this pod out of the Service before NGINX stops listening.
        lifecycle: Some(Lifecycle {
            pre_stop: Some(LifecycleHandler { sleep: Some(SleepAction { seconds: 5 }), ..LifecycleHandler::default() }),
            ..Lifecycle::default()
        }),
        ..Container::default()
    };
    let template = pod::template(pod::Pod {
        selector: &selector,
        annotations: BTreeMap::from([(names::CONFIGURATION.into(), super::fingerprint(&(configuration + &start)))]),
        user: USER,
        grace: 30,
        container,
        image: &plan.images.edge,
        pull_policy: plan.images.pull_policy.as_deref(),
        resources: pod::resources("20m", "16Mi", "128Mi"),
        volumes: vec![
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
        ],
        template: &plan.edge.template,
    });
    objects.deployments.push(super::deployment(metadata(), &selector, plan.edge.replicas, Replace::NewFirst, template));
}

/// NGINX resolves the names of upstream servers by itself and without a search list, so the start script writes the cluster's
/// name server and domain, which only a running pod knows, into two small files.
fn start(liveview: &str) -> String {
    format!(
        r#"set -eu
server=$(awk '$1 == "nameserver" {{ print ($2 ~ /:/) ? "[" $2 "]" : $2; exit }}' /etc/resolv.conf)
domain=$(awk '$1 == "search" {{ print $2; exit }}' /etc/resolv.conf)
mkdir -p /tmp/edge
echo "resolver $server valid=2s ipv6=off;" > /tmp/edge/resolver.conf
echo "server {liveview}.$domain:{port} resolve max_fails=1 fail_timeout=2s;" > /tmp/edge/servers.conf
nginx -e stderr -c /etc/edge/nginx.conf -g 'daemon off;' &
nginx=$!
# SIGTERM would cut every request; SIGQUIT lets them end.
trap 'kill -QUIT "$nginx"' TERM QUIT
status=0
wait "$nginx" || status=$?
while kill -0 "$nginx" 2>/dev/null; do
    status=0
    wait "$nginx" || status=$?
done
exit "$status"
"#,
        port = env::default::PORT,
    )
}

/// `nginx.conf`; directives as in <https://nginx.org/en/docs/>. `resolve` in an upstream needs NGINX 1.27.3 or newer.
fn configuration() -> String {
    format!(
        r#"worker_processes 1;
pid /tmp/nginx.pid;
error_log stderr warn;
# On a stop, sockets that are open get this long; the page then comes back through another pod.
worker_shutdown_timeout 10s;

events {{
    worker_connections 4096;
}}

http {{
    client_body_temp_path /tmp/client_body;
    proxy_temp_path /tmp/proxy;
    fastcgi_temp_path /tmp/fastcgi;
    uwsgi_temp_path /tmp/uwsgi;
    scgi_temp_path /tmp/scgi;
    access_log off;
    server_tokens off;
    include /tmp/edge/resolver.conf;

    upstream liveview {{
        zone liveview 128k;
        least_conn;
        include /tmp/edge/servers.conf;
        keepalive 16;
    }}

    map $http_upgrade $connection_header {{
        default upgrade;
        "" "";
    }}

    server {{
        listen {PORT};

        location = /edge/healthz {{
            default_type text/plain;
            return 200 "ok\n";
        }}

        # Figures of single pods; inside the cluster they are read from the pods themselves.
        location = /metrics {{
            return 404;
        }}

        location / {{
            proxy_pass http://liveview;
            proxy_http_version 1.1;
            proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_header;
            # Server-sent events must leave at once.
            proxy_buffering off;
            proxy_connect_timeout 2s;
            # Liveview sends something at least every 20 s on each socket and stream; a pod that is silent for longer is gone.
            proxy_read_timeout 45s;
            proxy_send_timeout 45s;
            # Reading is safe to repeat on another pod; NGINX itself never repeats a POST.
            proxy_next_upstream error timeout;
            proxy_next_upstream_tries 3;
        }}
    }}
}}
"#
    )
}
