//! Why a broker or a database keeps ending, where its log alone says it: the disk is full.
//! Rule: nothing else of a log is told, for logs are not ours to publish; each is read once for each restart; who may not read it tells less.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::api::LogParams;
use kube::{Api, ResourceExt};
use tokio::time::timeout;

use crate::objects::SERVERS;
use crate::pods::{self, NO_SPACE};
use crate::reconcile::Context;

/// How it is written: by the C library, and so by the shell and by MongoDB; by Erlang.
const FULL: [&str; 3] = [NO_SPACE, "enospc", "ENOSPC"];
/// Lines from the end that are read: MongoDB's last words are a stack, forty lines and more.
const LINES: i64 = 100;
/// Bytes of these lines that are read at most, which none of our servers writes.
const BYTES: i64 = 256 << 10;
/// The API server asks the node, which may be gone.
const PATIENCE: Duration = Duration::from_secs(3);

/// What was read: by a pod's uid and its server's restarts, whether the disk was full.
pub type Known = BTreeMap<(String, i32), bool>;

/// Lets servers that keep failing for want of room say so as their container's message, which [`pods`] reads. What was read of others is forgotten.
pub async fn add(context: &Context, namespace: &str, found: &mut [Pod], known: &mut Known) {
    let mut current = Known::new();
    for pod in found {
        let (name, uid) = (pod.name_any(), pod.uid().unwrap_or_default());
        let statuses = pod.status.iter_mut().flat_map(|status| status.container_statuses.iter_mut().flatten());
        let servers = statuses.filter(|container| SERVERS.contains(&container.name.as_str()));
        for container in servers.filter(|container| pods::failed_without_words(container)) {
            let restart = (uid.clone(), container.restart_count);
            let full = match known.get(&restart) {
                Some(full) => Some(*full),
                None => last_log(context, namespace, &name, container).await.map(|log| says_full(&log)),
            };
            // A log that could not be read is tried again; what the server said at its last end counts meanwhile.
            let before = || known.iter().any(|((of, _), full)| *of == uid && *full);
            if full.unwrap_or_else(before) {
                pods::put_words(container, NO_SPACE);
            }
            current.extend(full.map(|full| (restart, full)));
        }
    }
    *known = current;
}

fn says_full(log: &str) -> bool {
    FULL.iter().any(|word| log.contains(word))
}

/// The end of the log of the container that ended last.
async fn last_log(context: &Context, namespace: &str, pod: &str, container: &ContainerStatus) -> Option<String> {
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), namespace);
    let ended_now = container.state.as_ref().is_some_and(|state| state.terminated.is_some());
    let parameters = LogParams {
        container: Some(container.name.clone()),
        previous: !ended_now,
        tail_lines: Some(LINES),
        limit_bytes: Some(BYTES),
        ..LogParams::default()
    };
    let _one_at_a_time = context.log_reader.acquire().await.ok()?;
    match timeout(PATIENCE, pods.logs(pod, &parameters)).await.ok()? {
        // A role without the right to it: there is nothing to be known.
        Err(kube::Error::Api(status)) if status.code == 403 => Some(String::new()),
        log => log.inspect_err(|error| tracing::debug!(pod, %error, "log not read")).ok(),
    }
}
