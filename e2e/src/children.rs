//! The children of a pipeline, of all kinds, as far as it matters whether they changed.
//! Rule: the list of kinds is the operator's own.

use std::collections::BTreeMap;

use anyhow::Result;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt;
use kube::api::{ListParams, ObjectMeta};

use crate::{Kind, Space};

/// Metadata by `Kind/name`.
pub type Children = BTreeMap<String, ObjectMeta>;

/// All children of a pipeline.
///
/// # Errors
/// The API server does not answer.
pub async fn children(space: &Space, pipeline: &str) -> Result<Children> {
    let mut found = Children::new();
    collect::<Secret>(space, pipeline, &mut found).await?;
    collect::<ConfigMap>(space, pipeline, &mut found).await?;
    collect::<Service>(space, pipeline, &mut found).await?;
    collect::<NetworkPolicy>(space, pipeline, &mut found).await?;
    collect::<PodDisruptionBudget>(space, pipeline, &mut found).await?;
    collect::<StatefulSet>(space, pipeline, &mut found).await?;
    collect::<Deployment>(space, pipeline, &mut found).await?;
    collect::<Ingress>(space, pipeline, &mut found).await?;
    Ok(found)
}

async fn collect<K: Kind>(space: &Space, pipeline: &str, found: &mut Children) -> Result<()> {
    let labels = format!(
        "{}={},{}={pipeline}",
        operator::names::MANAGED_BY,
        operator::names::MANAGER,
        operator::names::INSTANCE
    );
    let list = space.api::<K>().list_metadata(&ListParams::default().labels(&labels)).await?;
    found.extend(
        list.items.into_iter().map(|object| (format!("{}/{}", K::kind(&()), object.name_any()), object.metadata)),
    );
    Ok(())
}

/// What differs between two looks, one line each; empty when nothing was written in between.
pub fn differences(before: &Children, after: &Children) -> Vec<String> {
    let names: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    names
        .into_iter()
        .filter_map(|name| match (before.get(name), after.get(name)) {
            (Some(_), None) => Some(format!("{name} is gone")),
            (None, Some(_)) => Some(format!("{name} is new")),
            (Some(old), Some(new)) if old.uid != new.uid => Some(format!("{name} was made anew")),
            (Some(old), Some(new)) if old.resource_version != new.resource_version => {
                Some(format!("{name} was written by {}", writer(new)))
            }
            _ => None,
        })
        .collect()
}

/// Who wrote an object last.
fn writer(metadata: &ObjectMeta) -> String {
    let entries = metadata.managed_fields.iter().flatten();
    let last = entries.max_by_key(|entry| entry.time.as_ref().map(|time| time.0));
    last.and_then(|entry| entry.manager.clone()).unwrap_or_else(|| "an unknown manager".into())
}
