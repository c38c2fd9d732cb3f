//! The broker of a pipeline as a person with its Secret sees it.
//! Rule: user, password and authority are read anew each time, for both change.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Secret;
use operator::broker::Login;
use operator::broker::management::{DEFAULT_VIRTUAL_HOST, Management};
use operator::trust::Trust;
use operator::web::Web;

use crate::Space;
use crate::forward::Forward;

/// A value of a Secret.
///
/// # Errors
/// There is no such Secret, or it lacks the key.
pub async fn secret(space: &Space, name: &str, key: &str) -> Result<String> {
    let secret = space.api::<Secret>().get(name).await?;
    let value = secret.data.and_then(|mut data| data.remove(key)).with_context(|| format!("{name} lacks {key}"))?;
    Ok(String::from_utf8(value.0)?)
}

/// Asks the management interface as its administrator; over TLS where the pipeline has it.
///
/// # Errors
/// Nobody can be asked, or what `ask` says.
pub async fn managed<T>(
    space: &Space,
    pipeline: &str,
    ask: impl AsyncFnOnce(&Management<'_>) -> Result<T>,
) -> Result<T> {
    let credentials = format!("{pipeline}-broker-credentials");
    let login = Login {
        user: secret(space, &credentials, "username").await?,
        password: secret(space, &credentials, "password").await?,
    };
    let authority = secret(space, &format!("{pipeline}-broker-tls"), "ca.crt").await.ok();
    let (web, scheme, port) = match &authority {
        Some(authority) => (Trust::default().of(authority)?.web, "https", 15671),
        None => (Web::public()?, "http", 15672),
    };
    let forward = Forward::open(&space.namespace, &format!("service/{pipeline}-broker"), port).await?;
    let url = format!("{scheme}://localhost:{}", forward.port);
    ask(&Management { http: &web, url: &url, login: &login, virtual_host: DEFAULT_VIRTUAL_HOST }).await
}

/// What waits in each queue and what its consumers hold.
///
/// # Errors
/// As [`managed`]; or it does not know yet.
pub async fn queues(space: &Space, pipeline: &str) -> Result<BTreeMap<String, (i64, i64)>> {
    managed(space, pipeline, async |management| {
        let queues = management.queues().await.map_err(|failure| anyhow::anyhow!("{failure:?}"))?;
        let counts = queues.into_iter().map(|(name, queue)| {
            let counts = queue.messages_ready.zip(queue.messages_unacknowledged);
            Ok((name.clone(), counts.with_context(|| format!("the broker has no figures of {name}"))?))
        });
        counts.collect()
    })
    .await
}
