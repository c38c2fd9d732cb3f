//! The live page: Deployment, two Services, disruption budget.
//! Rule: the Service names only ready pods, and a pod leaves it before it stops serving.

use k8s_openapi::api::core::v1::{
    Container, Lifecycle, LifecycleHandler, Service, ServicePort, ServiceSpec, SleepAction,
};
use wire::env;

use super::{Objects, Replace, pod, workload};
use crate::names::{self, Part};
use crate::plan::Plan;

/// Adds the live page's objects.
pub(super) fn build(plan: &Plan, objects: &mut Objects) {
    let selector = names::selector(&plan.name, Part::Liveview);
    let name = names::part(&plan.name, Part::Liveview);
    let metadata = || super::metadata(plan, name.clone(), &selector);

    objects.services.push(Service {
        metadata: metadata(),
        spec: Some(ServiceSpec {
            // NGINX balances by itself and must see each pod.
            cluster_ip: Some("None".into()),
            selector: Some(selector.clone()),
            ports: Some(vec![super::service_port("http", env::default::PORT, "http")]),
            ..ServiceSpec::default()
        }),
        status: None,
    });
    objects.services.push(Service {
        metadata: super::metadata(plan, names::page(&plan.name), &selector),
        spec: Some(ServiceSpec {
            selector: Some(selector.clone()),
            ports: Some(vec![ServicePort {
                // Gateways let sockets through by this (GEP-1911).
                app_protocol: Some("kubernetes.io/ws".into()),
                ..super::service_port("http", 80, "http")
            }]),
            ..ServiceSpec::default()
        }),
        status: None,
    });
    objects.pod_disruption_budgets.push(super::disruption_budget(metadata(), &selector, true));

    let container = Container {
        name: "liveview".into(),
        command: Some(vec!["/stock-liveview".into()]),
        env: Some(vec![
            workload::address(plan, env::MONGODB_URL, Part::Database),
            pod::env(env::MONGODB_DB, env::default::MONGODB_DB),
            pod::env(env::MONGODB_COLLECTION, env::default::MONGODB_COLLECTION),
            pod::env(env::PORT, env::default::PORT.to_string()),
            pod::env_field(env::POD_NAME, "metadata.name"),
            pod::env(env::LOG_FORMAT, "json"),
        ]),
        ports: Some(vec![pod::port("http", env::default::PORT)]),
        liveness_probe: Some(pod::http_probe("/healthz", "http", 10, 3)),
        readiness_probe: Some(pod::http_probe("/readyz", "http", 2, 2)),
        // Time for NGINX to learn that this pod is leaving (its resolver looks every 2 s).
        lifecycle: Some(Lifecycle {
            pre_stop: Some(LifecycleHandler { sleep: Some(SleepAction { seconds: 5 }), ..LifecycleHandler::default() }),
            ..Lifecycle::default()
        }),
        ..Container::default()
    };
    let (container, volumes) = workload::trusting(plan, &[Part::Database], container);
    let template = pod::template(pod::Pod {
        selector: &selector,
        annotations: workload::read_at_start(plan, &[Part::Database]),
        user: workload::USER,
        grace: 20,
        container,
        image: &plan.images.workloads,
        pull_policy: plan.images.pull_policy.as_deref(),
        // The limit is half as much again as `MAX_READERS` sockets take, of which the kernel's part counts for the pod too.
        resources: pod::resources("20m", "24Mi", "128Mi"),
        volumes,
        template: &plan.liveview.template,
    });
    objects.deployments.push(super::deployment(
        metadata(),
        &selector,
        plan.liveview.replicas,
        Replace::NewFirst,
        template,
    ));
}
