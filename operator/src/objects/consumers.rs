//! The consumers: one Deployment per company, dedicated to its queue.
//! Rule: the old pod ends before the new one starts.

use std::collections::BTreeMap;

use wire::env;

use super::{Objects, Replace, pod, workload};
use crate::names::{self, Part};
use crate::plan::Plan;
use crate::read::key;

/// Adds the consumers.
pub(super) fn build(plan: &Plan, objects: &mut Objects) {
    for company in &plan.companies {
        let selector = names::company_selector(&plan.name, Part::Consumer, &company.slug);
        let container = workload::container(
            "stock-consumer",
            vec![
                pod::env_secret(env::RABBITMQ_URL, &names::credentials(&plan.name, Part::Broker), key::URL),
                pod::env_secret(env::MONGODB_URL, &names::credentials(&plan.name, Part::Database), key::URL),
                pod::env(env::MONGODB_DB, env::default::MONGODB_DB),
                pod::env(env::MONGODB_COLLECTION, env::default::MONGODB_COLLECTION),
                pod::env(env::QUEUE_NAME, &company.symbol),
                pod::env(env::QUEUE_TYPE, workload::queue_type(plan)),
                pod::env(env::BATCH_SIZE, plan.batch_size.to_string()),
            ],
        );
        let template = pod::template(pod::Pod {
            selector: &selector,
            annotations: BTreeMap::from([(names::SYMBOL.into(), company.symbol.clone())]),
            user: workload::USER,
            grace: 15,
            container,
            image: &plan.images.workloads,
            pull_policy: plan.images.pull_policy.as_deref(),
            resources: pod::resources("20m", "24Mi", "96Mi"),
            volumes: Vec::new(),
            template: &plan.consumer,
        });
        let name = names::company(&plan.name, Part::Consumer, &company.slug);
        let metadata = super::company_metadata(plan, name, &selector, &company.symbol);
        objects.deployments.push(super::deployment(metadata, &selector, 1, Replace::OldFirst, template));
    }
}
