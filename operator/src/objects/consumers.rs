//! The consumers: one Deployment per company, dedicated to its queue; of several pods one works and the others stand by.
//! Rule: which of them works is theirs to settle, by a lease in the database; nothing here may lean on there being one pod.

use k8s_openapi::api::core::v1::Container;
use wire::env;

use super::{Objects, Replace, pod, workload};
use crate::leaving;
use crate::names::{self, Part};
use crate::plan::{Company, Plan};

/// Adds the consumers.
pub(super) fn build(plan: &Plan, objects: &mut Objects) {
    let staying = plan.companies.iter().map(|company| (company, company.consumers));
    let leaving = plan.leaving.iter().map(|leaving| (&leaving.company, leaving.consumers()));
    for (company, replicas) in staying.chain(leaving) {
        let selector = names::company_selector(&plan.name, Part::Consumer, &company.slug);
        let name = names::company(&plan.name, Part::Consumer, &company.slug);
        let metadata = || super::company_metadata(plan, name.clone(), &selector, &company.symbol);
        // A budget for a single pod would say nothing: it could always be evicted.
        if replicas > 1 {
            objects.pod_disruption_budgets.push(super::disruption_budget(metadata(), &selector, true));
        }
        let (container, volumes) = workload::trusting(plan, &[Part::Broker, Part::Database], container(plan, company));
        let template = pod::template(pod::Pod {
            selector: &selector,
            annotations: workload::annotations(plan, company, &[Part::Broker, Part::Database]),
            user: workload::USER,
            grace: 15,
            container,
            image: &plan.images.workloads,
            pull_policy: plan.images.pull_policy.as_deref(),
            resources: pod::resources("20m", "24Mi", "96Mi"),
            volumes,
            template: &plan.consumer,
        });
        // With a single consumer too: the new pod is up and stands by until the old one gives the lease back, which it does on SIGTERM, so
        // a roll costs the time of one look at the lease and not that of a start. A pod that cannot start leaves the old one at work.
        let replace = Replace::NewFirst;
        let mut metadata = metadata();
        metadata.annotations.get_or_insert_default().insert(names::WRITTEN.into(), leaving::written(&company.written));
        objects.deployments.push(super::deployment(metadata, &selector, replicas, replace, template));
    }
}

fn container(plan: &Plan, company: &Company) -> Container {
    let mut variables = vec![
        workload::address(plan, env::RABBITMQ_URL, Part::Broker),
        workload::address(plan, env::MONGODB_URL, Part::Database),
        pod::env(env::MONGODB_DB, env::default::MONGODB_DB),
        pod::env(env::MONGODB_COLLECTION, env::default::MONGODB_COLLECTION),
        pod::env(env::QUEUE_NAME, &company.symbol),
        pod::env(env::QUEUE_TYPE, workload::queue_type(plan)),
        pod::env(env::BATCH_SIZE, company.batch_size.to_string()),
    ];
    if let Some(flush_after) = plan.flush_after {
        variables.push(pod::env(env::FLUSH_AFTER, flush_after.as_millis().to_string()));
    }
    workload::container("stock-consumer", variables)
}
