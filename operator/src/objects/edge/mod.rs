//! The way in from outside: one Service that always leads to the page, and what the mode puts in front of it.
//! Rule: while the mode changes, what served before serves until the new way does (see `crate::edge`).

mod ingress;
mod nginx;
mod route;

pub(super) use nginx::{METRICS, TWIN_METRICS, public_ports};

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use wire::env;

use super::Objects;
use crate::crd::{EdgeMode, EdgeService, ServiceType, TrafficPolicy};
use crate::edge::Behind;
use crate::names::{self, Part};
use crate::plan::Plan;

/// Adds the edge's objects.
pub(super) fn build(plan: &Plan, objects: &mut Objects) {
    objects.services.push(service(plan));
    if plan.edge_way.nginx {
        nginx::build(plan, objects);
    }
    match plan.edge.mode {
        EdgeMode::Ingress => objects.ingresses.push(ingress::build(plan)),
        EdgeMode::Gateway if plan.edge_way.routes_are_served => objects.http_routes.extend(route::build(plan)),
        EdgeMode::Gateway | EdgeMode::Nginx | EdgeMode::None => {}
    }
}

fn service(plan: &Plan) -> Service {
    let selector = names::selector(&plan.name, Part::Edge);
    let mut metadata = super::metadata(plan, names::part(&plan.name, Part::Edge), &selector);
    let EdgeService { type_, node_port, https_node_port, external_traffic_policy, annotations } = &plan.edge.service;
    metadata.annotations = Some(annotations.clone()).filter(|annotations| !annotations.is_empty());
    let (part, target) = match plan.edge_way.behind {
        Behind::Nginx => (Part::Edge, nginx::PLAIN),
        Behind::Liveview => (Part::Liveview, env::default::PORT),
    };
    // By number: pods of an older operator give theirs other names.
    let port = |name, port, target| ServicePort {
        target_port: Some(IntOrString::Int(i32::from(target))),
        ..super::service_port(name, port, name)
    };
    let mut ports = vec![ServicePort { node_port: *node_port, ..port("http", 80, target) }];
    if part == Part::Edge && plan.edge_certificate().is_some() {
        ports.push(ServicePort { node_port: *https_node_port, ..port("https", 443, nginx::TLS) });
    }
    Service {
        metadata,
        spec: Some(ServiceSpec {
            type_: Some(
                match type_ {
                    ServiceType::ClusterIP => "ClusterIP",
                    ServiceType::NodePort => "NodePort",
                    ServiceType::LoadBalancer => "LoadBalancer",
                }
                .into(),
            ),
            external_traffic_policy: external_traffic_policy.map(|policy| {
                match policy {
                    TrafficPolicy::Cluster => "Cluster",
                    TrafficPolicy::Local => "Local",
                }
                .into()
            }),
            selector: Some(names::selector(&plan.name, part)),
            ports: Some(ports),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}
