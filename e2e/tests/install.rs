//! From the three-line resource to prices in a browser.
//! Rule: the resource is the example a user copies.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::kubectl::kubectl;
use e2e::page::{newer_prices_of, prices_of};
use e2e::{fixtures, with_namespace};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

const COMPANIES: [&str; 3] = ["MSFT", "TSLA", "AAPL"];

#[tokio::test]
async fn a_minimal_resource_becomes_a_page_with_moving_prices() -> Result<()> {
    with_namespace("install", async |space| {
        let took = space.apply_until_ready(&fixtures::minimal()?).await?;
        println!("from apply to Ready: {:.1} s", took.as_secs_f64());

        let first = prices_of(space, "minimal", &COMPANIES, Duration::from_secs(30)).await?;
        for (company, price) in &first {
            // The mean of a thousand prices from [50, 550) is near 300: its standard deviation is 4.6.
            ensure!((250.0..350.0).contains(&price.average), "{company} costs {}", price.average);
        }
        newer_prices_of(space, "minimal", &COMPANIES, &first, Duration::from_secs(30)).await?;

        for pod in space.list::<Pod>("app.kubernetes.io/instance=minimal").await? {
            is_restricted(&pod).with_context(|| pod.name_any())?;
        }

        let table = kubectl(&["get", "spl", "--namespace", &space.namespace]).await?;
        ensure!(
            columns(&table, 0) == ["NAME", "READY", "COMPANIES", "FLOWING", "AGE"],
            "kubectl get spl prints\n{table}"
        );
        ensure!(columns(&table, 1).starts_with(&["minimal", "True", "3", "3"]), "kubectl get spl prints\n{table}");
        let wide = kubectl(&["get", "spl", "--namespace", &space.namespace, "--output", "wide"]).await?;
        let parts = [
            "NAME",
            "READY",
            "COMPANIES",
            "FLOWING",
            "BROKER",
            "DATABASE",
            "PUBLISHERS",
            "CONSUMERS",
            "LIVEVIEW",
            "EDGE",
            "LAST",
            "WINDOW",
            "MESSAGE",
            "AGE",
        ];
        ensure!(columns(&wide, 0) == parts, "kubectl get spl -o wide prints\n{wide}");
        ensure!(
            columns(&wide, 1).starts_with(&["minimal", "True", "3", "3", "1/1", "3/3", "3/3", "3/3", "2/2", "2/2"]),
            "kubectl get spl -o wide prints\n{wide}"
        );
        Ok(())
    })
    .await
}

fn columns(table: &str, line: usize) -> Vec<&str> {
    table.lines().nth(line).unwrap_or_default().split_whitespace().collect()
}

/// The namespace enforces the standard already; these are the promises beyond it.
fn is_restricted(pod: &Pod) -> Result<()> {
    let spec = pod.spec.as_ref().context("no spec")?;
    ensure!(spec.automount_service_account_token == Some(false), "a token of the Kubernetes API is mounted");
    let of_pod = spec.security_context.as_ref().context("no security context")?;
    ensure!(of_pod.run_as_non_root == Some(true), "it may run as root");
    for container in &spec.containers {
        let context = container.security_context.as_ref().context("no security context")?;
        ensure!(
            context.read_only_root_filesystem == Some(true),
            "{} may write to its root file system",
            container.name
        );
        ensure!(context.allow_privilege_escalation == Some(false), "{} may gain privileges", container.name);
        let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
        ensure!(limits.is_some_and(|limits| limits.contains_key("memory")), "{} has no memory limit", container.name);
    }
    Ok(())
}
