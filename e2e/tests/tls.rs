//! TLS between the parts and to the page, and a renewal of all certificates under load.
//! Rule: nothing restarts and nobody reconnects for it; the figures are the programs' own, and `verify` judges at the end.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use e2e::forward::Forward;
use e2e::kubectl::kubectl;
use e2e::page::{newer_prices_of, prices_of};
use e2e::verify::nothing_is_lost;
use e2e::{Space, fixtures, wait_until, with_namespace};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::ResourceExt;
use kube::api::DeleteParams;
use operator::certificates::{key, x509};
use operator::database::rotation;
use operator::trust::{Trust, Trusted};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PIPELINE: &str = "sealed";
const COMPANIES: [&str; 1] = ["MSFT"];
/// The kubelet looks at mounted Secrets once a minute, a broker at its files every 10 s, NGINX every 5 s.
const SHOWN_WITHIN: Duration = Duration::from_secs(150);
/// Parts with a certificate, a pod of each, and the port on which it is shown.
const SERVERS: [(&str, &str, u16); 3] = [
    ("broker", "pod/sealed-broker-0", 5671),
    ("database", "pod/sealed-database-0", 27017),
    ("edge", "service/sealed-edge", 443),
];

#[tokio::test]
async fn certificates_are_renewed_under_load_without_a_restart_or_a_reconnect() -> Result<()> {
    with_namespace("tls", async |space| are_renewed(space, json!({"enabled": true})).await).await
}

#[tokio::test]
#[ignore = "needs cert-manager: e2e/cert-manager/test builds it, runs it and runs this"]
async fn so_are_those_that_cert_manager_issues() -> Result<()> {
    with_namespace("cert-manager", async |space| {
        let issuer = concat!(env!("CARGO_MANIFEST_DIR"), "/cert-manager/issuer.yaml");
        kubectl(&["apply", "--namespace", &space.namespace, "--filename", issuer]).await?;
        are_renewed(space, json!({"enabled": true, "issuerRef": {"name": "markets"}})).await
    })
    .await
}

/// Deletes the certificates of a pipeline, as users do who want new ones at once, and looks at what shows the new ones and who is disturbed.
async fn are_renewed(space: &Space, tls: Value) -> Result<()> {
    let mut pipeline = fixtures::light(PIPELINE, &COMPANIES);
    pipeline["spec"]["publisher"]["rate"] = 500.into();
    pipeline["spec"]["consumer"]["flushAfter"] = "2s".into();
    // At once with a certificate of our own; what an issuer issues reaches a pod that runs by then with the kubelet's next look.
    let at_first = if tls.get("issuerRef").is_some() { SHOWN_WITHIN } else { Duration::ZERO };
    pipeline["spec"]["tls"] = tls;
    let ready = space.apply_until_ready(&pipeline).await?;
    let prices = prices_of(space, PIPELINE, &COMPANIES, Duration::from_secs(60)).await?;
    println!("ready with TLS after {:.1} s", ready.as_secs_f64());

    let mut doors = BTreeMap::new();
    for (part, pod, port) in SERVERS {
        let forward = Forward::open(&space.namespace, pod, port).await?;
        let trusted = trusted(space, part).await?;
        wait_until(&format!("{part} shows its certificate"), at_first, async || {
            let (shown, issued) = (shown(&forward, &trusted).await, issued(space, part).await?);
            ensure!(shown.as_ref() == Some(&issued), "it shows {shown:?} and was issued {issued}");
            Ok(())
        })
        .await?;
        if part != "edge" {
            refuses_plain_text(&forward, part).await?;
        }
        doors.insert(part, (forward, trusted));
    }

    let (pods, reconnects) = (pods(space).await?, reconnects(space).await?);
    let start = Instant::now();
    // What a user does to renew at once.
    for (part, ..) in SERVERS {
        space.api::<Secret>().delete(&name(part), &DeleteParams::default()).await?;
    }
    for (part, (forward, trusted)) in &doors {
        wait_until(&format!("{part} shows its new certificate"), SHOWN_WITHIN, async || {
            let issued = issued(space, part).await?;
            // More than one look: two NGINX share the port.
            for _ in 0..4 {
                let shown = shown(forward, trusted).await;
                ensure!(shown.as_ref() == Some(&issued), "it shows {shown:?} and was issued {issued}");
            }
            Ok(())
        })
        .await?;
        println!("{part} shows its new certificate {:.1} s later", start.elapsed().as_secs_f64());
    }
    newer_prices_of(space, PIPELINE, &COMPANIES, &prices, Duration::from_secs(60)).await?;
    let after = self::pods(space).await?;
    ensure!(after == pods, "pods were replaced or restarted: {pods:?} {after:?}");
    let after = self::reconnects(space).await?;
    ensure!(after == reconnects, "programs reconnected: {reconnects:?} {after:?}");

    let verified = nothing_is_lost(space, &mut pipeline, &COMPANIES).await?;
    println!("{} events, each exactly once", verified.iter().map(|company| company.events).sum::<u64>());
    Ok(())
}

fn name(part: &str) -> String {
    format!("{PIPELINE}-{part}-tls")
}

async fn text(space: &Space, part: &str, key: &str) -> Result<String> {
    let secret = space.api::<Secret>().get(&name(part)).await?;
    let value =
        secret.data.and_then(|mut data| data.remove(key)).with_context(|| format!("{} lacks {key}", name(part)))?;
    Ok(String::from_utf8(value.0)?)
}

/// Who vouches for a part: from its Secret as programs get it, and as a visitor of the page does, who may read no Secrets.
async fn trusted(space: &Space, part: &str) -> Result<Trusted> {
    // Whom an issuer's visitors trust is the issuer's to tell.
    let published = space.api::<ConfigMap>().get_opt(&format!("{PIPELINE}-ca")).await?;
    match published.filter(|_| part == "edge") {
        None => Ok(Trust::default().of(&text(space, part, key::TRUSTED).await?)?),
        Some(published) => {
            let published = published.data.unwrap_or_default();
            Ok(Trust::default().of(published.get(key::TRUSTED).context("nobody is told whom to trust")?)?)
        }
    }
}

/// The certificate in a part's Secret; none while it is made anew.
async fn issued(space: &Space, part: &str) -> Result<String> {
    x509::shown(&text(space, part, key::CERTIFICATE).await?).context("it is no certificate")
}

async fn shown(forward: &Forward, trusted: &Trusted) -> Option<String> {
    rotation::shown_by(&format!("localhost:{}", forward.port), &trusted.config).await
}

/// What a client says first without TLS gets no answer but an alert or the end of the connection.
async fn refuses_plain_text(forward: &Forward, part: &str) -> Result<()> {
    let greeting = if part == "broker" { b"AMQP\x00\x00\x09\x01".to_vec() } else { hello() };
    let mut stream = TcpStream::connect(("127.0.0.1", forward.port)).await?;
    stream.write_all(&greeting).await?;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut answer)).await;
    let alert = |answer: &[u8]| answer.first().is_none_or(|first| *first == 21);
    match read {
        Ok(_) if alert(&answer) => Ok(()),
        Ok(_) => bail!("{part} answers in the clear: {:?}", String::from_utf8_lossy(&answer)),
        Err(_) => bail!("{part} neither answers nor closes a connection in the clear"),
    }
}

/// `{hello: 1, $db: "admin"}` as MongoDB's wire protocol has it (OP_MSG).
fn hello() -> Vec<u8> {
    let document = b"\x1f\0\0\0\x10hello\0\x01\0\0\0\x02$db\0\x06\0\0\0admin\0\0";
    let header = [52_u32, 1, 0, 2013, 0].map(u32::to_le_bytes).concat();
    [header.as_slice(), &[0], document].concat()
}

/// Name, uid and restarts of every pod that is not on its way out: programs of before an issuer had issued are replaced, and the last of them goes after
/// the pipeline is ready.
async fn pods(space: &Space) -> Result<Vec<(String, Option<String>, i32)>> {
    let mut pods: Vec<_> = space
        .list::<Pod>("")
        .await?
        .iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none())
        .map(|pod| {
            let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
            (pod.name_any(), pod.uid(), containers.map(|container| container.restart_count).sum())
        })
        .collect();
    pods.sort();
    Ok(pods)
}

/// What publisher and consumer say of their connections.
async fn reconnects(space: &Space) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for program in ["publisher", "consumer"] {
        let forward = Forward::open(&space.namespace, &format!("deploy/{PIPELINE}-{program}-msft"), 9090).await?;
        let metrics = reqwest::get(format!("{}/metrics", forward.url())).await?.text().await?;
        let line = metrics.lines().find(|line| line.starts_with(&format!("stock_{program}_reconnects_total")));
        found.push(line.with_context(|| format!("{program} has no such metric"))?.to_owned());
    }
    Ok(found)
}
