//! The publishers: one Deployment per company, so that a new company disturbs none of the others.
//! Rule: one pod per company; a second one would be a second source of the same trades.

use k8s_openapi::api::core::v1::Container;
use wire::env;

use super::{Objects, Replace, pod, workload};
use crate::names::{self, Part};
use crate::plan::{Company, Plan};

/// Adds the publishers.
pub(super) fn build(plan: &Plan, objects: &mut Objects) {
    if !plan.publishing {
        return;
    }
    for company in &plan.companies {
        let selector = names::company_selector(&plan.name, Part::Publisher, &company.slug);
        let (container, volumes) = workload::trusting(plan, &[Part::Broker], container(plan, company));
        let template = pod::template(pod::Pod {
            selector: &selector,
            annotations: workload::annotations(plan, company, &[Part::Broker]),
            user: workload::USER,
            grace: 15,
            container,
            image: &plan.images.workloads,
            pull_policy: plan.images.pull_policy.as_deref(),
            resources: pod::resources("20m", "16Mi", "64Mi"),
            volumes,
            template: &plan.publisher,
        });
        let name = names::company(&plan.name, Part::Publisher, &company.slug);
        let metadata = super::company_metadata(plan, name, &selector, &company.symbol);
        objects.deployments.push(super::deployment(metadata, &selector, 1, Replace::OldFirst, template));
    }
}

fn container(plan: &Plan, company: &Company) -> Container {
    let mut variables = vec![
        workload::address(plan, env::RABBITMQ_URL, Part::Broker),
        pod::env(env::COMPANY, &company.symbol),
        pod::env(env::QUEUE_TYPE, workload::queue_type(plan)),
        // Milliseconds; the shortest decimal that says the same, so 2 and not 2.0.
        pod::env(env::TICKER_INTERVAL, (company.interval.as_secs_f64() * 1000.0).to_string()),
        pod::env(env::PRICE_MIN, company.price_min.to_string()),
        pod::env(env::PRICE_MAX, company.price_max.to_string()),
    ];
    if let Some(seed) = plan.seed {
        variables.push(pod::env(env::SEED, seed.to_string()));
    }
    workload::container("stock-publisher", variables)
}
