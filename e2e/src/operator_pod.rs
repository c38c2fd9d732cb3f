//! The operator's own pod: its metrics, and its death.
//! Rule: what it did is read from its metrics, so that "nothing was written" has a number.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt};

use crate::forward::Forward;
use crate::space::is_ready;
use crate::wait_until;

/// Labels of the operator's pods, as the chart sets them.
pub const SELECTOR: &str = "app.kubernetes.io/name=stockpipeline-operator";

/// Namespace the chart was installed into.
pub fn namespace() -> String {
    std::env::var("STOCK_OPERATOR_NAMESPACE").unwrap_or_else(|_| "stockpipeline-system".into())
}

/// Kills the operator's pods without grace, as the loss of their node would; gives their names.
///
/// # Errors
/// There is none, or the API server refuses.
pub async fn kill(client: &Client) -> Result<Vec<String>> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace());
    let running = pods.list(&ListParams::default().labels(SELECTOR)).await?.items;
    ensure!(!running.is_empty(), "no pod in {} has the label {SELECTOR}: is the chart installed", namespace());
    let names: Vec<String> = running.iter().map(ResourceExt::name_any).collect();
    for name in &names {
        pods.delete(name, &DeleteParams::default().grace_period(0)).await?;
    }
    Ok(names)
}

/// Waits until one of its pods is ready and none of those named is left.
///
/// # Errors
/// None is after a minute.
pub async fn back(client: &Client, killed: &[String]) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace());
    wait_until("the operator runs again", Duration::from_secs(60), async || {
        let found = pods.list(&ListParams::default().labels(SELECTOR)).await?.items;
        let new: Vec<&Pod> = found.iter().filter(|pod| !killed.contains(&pod.name_any())).collect();
        ensure!(new.iter().any(|pod| is_ready(pod)), "{} new pods, none ready", new.len());
        Ok(())
    })
    .await
}

/// Runs something while there is no operator.
///
/// # Errors
/// What it returns; or the operator cannot be stopped or started.
pub async fn without<T>(client: &Client, work: impl Future<Output = Result<T>>) -> Result<T> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &namespace());
    let scale = async |replicas: i32| {
        let patch = Patch::Merge(serde_json::json!({"spec": {"replicas": replicas}}));
        deployments.patch_scale("stockpipeline", &PatchParams::default(), &patch).await
    };
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace());
    scale(0).await?;
    let stopped = wait_until("the operator is gone", Duration::from_secs(60), async || {
        let left = pods.list(&ListParams::default().labels(SELECTOR)).await?.items.len();
        ensure!(left == 0, "{left} of its pods are there");
        Ok(())
    })
    .await;
    let done = if stopped.is_ok() { Some(work.await) } else { None };
    // The other tests need it.
    scale(1).await?;
    back(client, &[]).await?;
    stopped?;
    done.context("there was nothing to do")?
}

/// The sum of a metric of the operator over all its labels that match.
pub struct Metrics(String);

impl Metrics {
    /// Reads them from the operator.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn read() -> Result<Self> {
        let forward = Forward::open(&namespace(), "deployment/stockpipeline", 8080).await?;
        Ok(Self(
            reqwest::get(format!("{}/metrics", forward.url()))
                .await
                .context("read the operator's metrics")?
                .text()
                .await?,
        ))
    }

    /// The sum of all samples of `name` whose labels contain `label`.
    pub fn sum(&self, name: &str, label: &str) -> f64 {
        self.0
            .lines()
            .filter(|line| {
                line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])) && line.contains(label)
            })
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::Metrics;

    #[test]
    fn samples_of_one_metric_are_added_up() {
        let text = "# TYPE a counter\na_total{verb=\"apply\"} 2\na_total{verb=\"delete\"} 1\nab_total 7\n";
        let metrics = Metrics(text.into());
        assert_eq!(metrics.sum("a_total", ""), 3.0);
        assert_eq!(metrics.sum("a_total", "apply"), 2.0);
    }
}
