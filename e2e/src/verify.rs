//! `stock-consumer verify` the way a user runs it: the Job of `docs/verify-job.yaml`.
//! Rule: the Job is read from the documentation, so what stands there works.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, LogParams, PostParams};
use kube::{Resource, ResourceExt};
use operator::crd::StockPipeline;
use serde::Deserialize;
use serde_json::Value;

use crate::drain::drain;
use crate::{Space, wait_until};

/// A pod starts in seconds; reading a million windows takes longer than any test fills.
const ANSWERED_WITHIN: Duration = Duration::from_secs(120);

/// From the end of the container to the last line of its log.
const SAID_WITHIN: Duration = Duration::from_secs(30);

/// What `verify --output json` says.
#[derive(Debug, Deserialize)]
pub struct Verdict {
    /// Nothing is missing and nothing counts twice.
    pub ok: bool,
    /// By company.
    pub companies: Vec<Company>,
}

/// What it says of one company.
#[derive(Debug, Deserialize)]
pub struct Company {
    /// Its symbol.
    pub company: String,
    /// Windows stored.
    pub windows: u64,
    /// Events in them.
    pub events: u64,
    /// Events that are missing.
    pub gaps: u64,
    /// Events that count twice.
    pub duplicates: u64,
    /// Events without a sequence number.
    pub unsequenced: u64,
    /// One for each life of each publisher.
    pub sources: Vec<Value>,
}

/// Runs the Job for a pipeline and gives its exit code with what it printed. It only reads, so where the container's log has lost its last
/// lines (seen twice in one run: exit code 0, and of the output the first line alone) it is run once more.
///
/// # Errors
/// It did not run to its end, or its output cannot be read.
pub async fn verify(space: &Space, pipeline: &str, image: &str) -> Result<(i32, Verdict)> {
    let (name, code, verdict) = run(space, pipeline, image).await?;
    let unsaid = match verdict {
        Ok(verdict) => return Ok((code, verdict)),
        Err(unsaid) => unsaid,
    };
    println!("verify is run once more: {unsaid:#}");
    let jobs = space.api::<Job>();
    jobs.delete(&name, &DeleteParams::foreground()).await.context("delete the Job")?;
    wait_until("the Job is gone", ANSWERED_WITHIN, async || {
        ensure!(jobs.get_opt(&name).await?.is_none(), "it is still there");
        Ok(())
    })
    .await?;
    let (_, code, verdict) = run(space, pipeline, image).await?;
    Ok((code, verdict?))
}

/// Runs the Job once: its name, its exit code, and its verdict if the log has it.
async fn run(space: &Space, pipeline: &str, image: &str) -> Result<(String, i32, Result<Verdict>)> {
    let text = include_str!("../../docs/verify-job.yaml")
        .replace("demo-", &format!("{pipeline}-"))
        .replace("client-of: demo", &format!("client-of: {pipeline}"));
    let mut job: Value = serde_saphyr::from_str(&text)?;
    let container = &mut job["spec"]["template"]["spec"]["containers"][0];
    container["image"] = image.into();
    container["args"] = serde_json::json!(["--output", "json"]);
    let mut job: Job = serde_json::from_value(job)?;
    // It goes with the pipeline: a namespace in which a test's pod is left is not clean.
    let owner = space.api::<StockPipeline>().get(pipeline).await?.owner_ref(&()).context("the pipeline has no uid")?;
    job.meta_mut().owner_references = Some(vec![owner]);
    let name = job.name_any();
    space.api::<Job>().create(&PostParams::default(), &job).await.context("create the Job of docs/verify-job.yaml")?;

    let (pod, code) = wait_until(&format!("Job {name} has ended"), ANSWERED_WITHIN, async || {
        let pods = space.list::<Pod>(&format!("batch.kubernetes.io/job-name={name}")).await?;
        let pod = pods.first().context("it has no pod")?;
        let status = pod.status.as_ref().context("its pod has no status")?;
        let ended = status
            .container_statuses
            .iter()
            .flatten()
            .find_map(|container| container.state.as_ref()?.terminated.as_ref());
        let ended = ended.with_context(|| format!("its pod is {:?}", status.phase))?;
        Ok((pod.name_any(), ended.exit_code))
    })
    .await?;
    // The last lines of a container may reach its log after its end was told.
    let verdict = wait_until(&format!("Job {name} has said its verdict"), SAID_WITHIN, async || {
        let output = space.api::<Pod>().logs(&pod, &LogParams::default()).await?;
        // Kubernetes mixes the log on standard error into it, where there is any: the verdict is the line that reads as one.
        let verdict = output.lines().find_map(|line| serde_json::from_str::<Verdict>(line).ok());
        verdict.with_context(|| format!("verify ended with code {code} and said: {output}"))
    })
    .await;
    Ok((name, code, verdict))
}

/// Brings a pipeline to rest and fails unless every event of every company counts exactly once; gives what was verified.
///
/// # Errors
/// As [`drain`] and [`exactly_once`].
pub async fn nothing_is_lost(space: &Space, pipeline: &mut Value, companies: &[&str]) -> Result<Vec<Company>> {
    drain(space, pipeline).await?;
    let name = pipeline["metadata"]["name"].as_str().context("the pipeline has no name")?;
    let image = space.image(name, "consumer").await?;
    exactly_once(space, name, companies, &image).await
}

/// Fails unless every event of every company counts exactly once; gives what was verified.
///
/// # Errors
/// Something is missing, counts twice, or there is nothing to verify.
pub async fn exactly_once(space: &Space, pipeline: &str, companies: &[&str], image: &str) -> Result<Vec<Company>> {
    let (code, verdict) = verify(space, pipeline, image).await?;
    ensure!(code == 0 && verdict.ok, "verify ended with code {code}: {verdict:#?}");
    for company in companies {
        let found = verdict.companies.iter().find(|found| found.company == *company);
        let found = found.with_context(|| format!("verify says nothing of {company}: {verdict:#?}"))?;
        // Its own figures, in case its judgement forgets one of them.
        ensure!((found.gaps, found.duplicates, found.unsequenced) == (0, 0, 0), "{found:#?}");
        ensure!(found.windows > 0 && found.events > 0, "nothing is stored: {found:#?}");
    }
    Ok(verdict.companies)
}
