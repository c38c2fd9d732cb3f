//! Why a broker or a database keeps ending, where its log alone says it: the disk is full.
//! Rule: nothing else of a log is told, for logs are not ours to publish; each is read once for each restart; who may not read it tells less.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::api::LogParams;
use kube::{Api, Client, ResourceExt};
use tokio::time::timeout;

use crate::names::{Part, is_of};
use crate::pods::{self, NO_SPACE};

/// How it is written: by the C library, and so by the shell and by MongoDB; by Erlang.
const FULL: [&str; 3] = [NO_SPACE, "enospc", "ENOSPC"];
/// Lines of a log that are read: MongoDB's last words are a stack, forty lines and more.
const LINES: i64 = 200;
/// Bytes read at most.
const LONGEST: i64 = 256 << 10;

/// The API server asks the node, which may be gone.
const PATIENCE: Duration = Duration::from_secs(3);

/// What was read: by a pod's uid and its container's restarts, whether the disk was full.
pub type Known = BTreeMap<(String, i32), bool>;

/// Lets those of the pods that keep failing say it as their container's message, which [`pods`] reads; what was read of containers that are no more is forgotten.
pub async fn add(client: &Client, namespace: &str, found: &mut [Pod], known: &mut Known) {
    let mut current = Known::new();
    for pod in found.iter_mut().filter(|pod| is_of(*pod, Part::Broker) || is_of(*pod, Part::Database)) {
        let (name, uid) = (pod.name_any(), pod.uid().unwrap_or_default());
        let statuses = pod.status.iter_mut().flat_map(|status| status.container_statuses.iter_mut().flatten());
        for container in statuses.filter(|container| pods::failed_without_words(container)) {
            let restart = (uid.clone(), container.restart_count);
            let full = match known.get(&restart) {
                Some(full) => *full,
                None => {
                    let log = last_log(client, namespace, &name, container).await;
                    FULL.iter().any(|word| log.contains(word))
                }
            };
            current.insert(restart, full);
            if full {
                pods::put_words(container, NO_SPACE);
            }
        }
    }
    *known = current;
}

/// The end of the log of the container that ended last; empty when there is none to be read.
async fn last_log(client: &Client, namespace: &str, pod: &str, container: &ContainerStatus) -> String {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let ended_now = container.state.as_ref().is_some_and(|state| state.terminated.is_some());
    let parameters = LogParams {
        container: Some(container.name.clone()),
        previous: !ended_now,
        tail_lines: Some(LINES),
        limit_bytes: Some(LONGEST),
        ..LogParams::default()
    };
    match timeout(PATIENCE, pods.logs(pod, &parameters)).await {
        Ok(log) => log.inspect_err(|error| tracing::debug!(pod, %error, "log not read")).unwrap_or_default(),
        Err(_) => String::new(),
    }
}
