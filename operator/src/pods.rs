//! Why a pod is not ready, in words; pure.
//! Rule: names the pod, the cause as Kubernetes knows it, and what a person can look at.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

/// A pod waits this long for its new volume or for room before that is worth a word.
const SCHEDULING: SignedDuration = SignedDuration::from_secs(15);
/// A pod that runs is not ready for at most this long before that is worth a word.
const STARTING: SignedDuration = SignedDuration::from_secs(120);

/// Reasons with which a container waits while all is well.
const ORDINARY: [&str; 2] = ["ContainerCreating", "PodInitializing"];

/// The first trouble among the pods, in the order of their names so that the text does not flap.
pub fn worst<'a>(pods: impl Iterator<Item = &'a Pod>, now: Timestamp) -> Option<String> {
    let mut troubles: Vec<(String, String)> =
        pods.filter_map(|pod| Some((pod.name_any(), trouble(pod, now)?))).collect();
    troubles.sort();
    let count = troubles.len();
    let (name, text) = troubles.into_iter().next()?;
    let others = if count > 1 { format!(" (and {} more)", count - 1) } else { String::new() };
    Some(format!("pod {name}{others} {text}"))
}

/// Whether it serves, as Kubernetes knows.
pub fn is_ready(pod: &Pod) -> bool {
    let mut conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Why a pod does not serve and will not by waiting alone, in words that follow its name.
pub fn trouble(pod: &Pod, now: Timestamp) -> Option<String> {
    if pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let status = pod.status.as_ref()?;
    let since = |time: &Time| now.duration_since(time.0);
    let unscheduled = status.conditions.iter().flatten().find(|condition| {
        condition.type_ == "PodScheduled"
            && condition.status == "False"
            && condition.last_transition_time.as_ref().is_none_or(|time| since(time) >= SCHEDULING)
    });
    if let Some(condition) = unscheduled {
        let why = condition.message.as_deref().unwrap_or("no node fits");
        return Some(format!(
            "cannot be scheduled: {why}: free or add a node, or lower the requests in the part's template"
        ));
    }
    for container in status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten()) {
        let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
        let Some(reason) =
            waiting.and_then(|waiting| waiting.reason.as_deref()).filter(|reason| !ORDINARY.contains(reason))
        else {
            continue;
        };
        if reason.ends_with("ImagePullBackOff") || reason.starts_with("ErrImage") || reason == "InvalidImageName" {
            return Some(format!("cannot pull {}: {reason}: check the image's name and pullSecrets", container.image));
        }
        if reason == "CrashLoopBackOff" {
            let ended = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
            let how = ended.map_or_else(String::new, |ended| {
                format!(" (exit code {}, {})", ended.exit_code, ended.reason.as_deref().unwrap_or("Error"))
            });
            // The last line is what the program ended with.
            let words = ended.and_then(|ended| ended.message.as_deref()).and_then(|message| message.lines().last());
            return Some(format!("keeps failing{how}: {}", words.unwrap_or("see its logs")));
        }
        let why = waiting.and_then(|waiting| waiting.message.as_deref()).unwrap_or_default();
        return Some(format!("waits: {reason}: {why}"));
    }
    // Long past any start: whatever it waits for, its log knows.
    let unready = status.conditions.iter().flatten().any(|condition| {
        condition.type_ == "Ready"
            && condition.status == "False"
            && condition.last_transition_time.as_ref().is_some_and(|time| since(time) >= STARTING)
    });
    unready.then(|| "runs but does not become ready: see its logs".into())
}
