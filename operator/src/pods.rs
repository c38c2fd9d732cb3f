//! Why a pod is not ready, in words; pure.
//! Rule: names the pod, the cause as Kubernetes knows it, and what a person can do.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use crate::names;
use crate::objects::SERVERS;

/// A pod waits this long for its new volume or for room before that is worth a word.
const SCHEDULING: SignedDuration = SignedDuration::from_secs(15);
/// A pod that runs is not ready for at most this long before that is worth a word.
const STARTING: SignedDuration = SignedDuration::from_secs(120);
/// A pod is gone this long after the end of its grace, unless nobody is there to end it.
const ENDING: SignedDuration = SignedDuration::from_secs(60);
/// Most characters of somebody else's words.
const WORDS: usize = 200;

/// What a container says that ended for want of room on its disk (`ENOSPC`, in the words of the C library).
pub const NO_SPACE: &str = "No space left on device";

/// Reasons with which a container waits while all is well.
const ORDINARY: [&str; 2] = ["ContainerCreating", "PodInitializing"];

/// What the scheduler says (Kubernetes 1.34, `pkg/scheduler/framework/plugins`; before 1.33 "volume node affinity conflict") and what
/// helps; PART stands for the field of the spec. Each node may have its own reason, and the first in this order decides: a lack that a
/// person can end comes before a rule that is meant to keep the pod away.
const UNSCHEDULABLE: [(&[&str], &str); 5] = [
    (
        &["PersistentVolumeClaims", "persistentvolumeclaim", "persistent volumes to bind", "non-existent pv"],
        "look at its volume claim with `kubectl describe pvc`; without a default StorageClass name one in PART.storage.class",
    ),
    (&["Insufficient", "Too many pods"], "free or add a node, or lower the requests in PART.template.resources"),
    (
        &["PersistentVolume's node affinity", "volume node affinity", "volume zone"],
        "its volume is on a node that cannot take it: bring that node back",
    ),
    (
        &["affinity", "topology spread"],
        "add a node, or change nodeSelector, affinity or topologySpread in PART.template",
    ),
    (
        &["untolerated taint", "were unschedulable"],
        "uncordon or add a node, or tolerate its taint in PART.template.tolerations",
    ),
];

/// The first trouble among the pods, in the order of their names so that the text does not flap; `trouble` is [`trouble`] or [`obstacle`].
pub fn worst<'a>(
    pods: impl Iterator<Item = &'a Pod>,
    now: Timestamp,
    trouble: impl Fn(&Pod, Timestamp) -> Option<String>,
) -> Option<String> {
    let mut troubles: Vec<(String, String)> =
        pods.filter_map(|pod| Some((pod.name_any(), stuck(pod, now).or_else(|| trouble(pod, now))?))).collect();
    troubles.sort();
    let count = troubles.len();
    let (name, text) = troubles.into_iter().next()?;
    let others = if count > 1 { format!(" (and {} more)", count - 1) } else { String::new() };
    Some(format!("pod {name}{others} {text}"))
}

/// What pods without trouble are about that are not ready, in words; the first by name stands for all.
pub fn starting<'a>(pods: impl Iterator<Item = &'a Pod>) -> String {
    let mut starting: Vec<&Pod> = pods.filter(|pod| !is_ready(pod) && !has_ended(pod)).collect();
    starting.sort_by_key(|pod| pod.name_any());
    let Some(first) = starting.first() else {
        return "no further pod yet: should that last, see `kubectl get events`".into();
    };
    let others = if starting.len() > 1 { format!(" (and {} more)", starting.len() - 1) } else { String::new() };
    let stage = if first.spec.as_ref().is_none_or(|spec| spec.node_name.is_none()) {
        "waits for a node"
    } else if containers(first).any(has_run) {
        "is starting"
    } else {
        "waits for its image and volumes"
    };
    format!("pod {}{others} {stage}", first.name_any())
}

/// Whether it serves, as Kubernetes knows.
pub fn is_ready(pod: &Pod) -> bool {
    let mut conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Why a pod does not serve and will not by waiting alone, in words that follow its name.
pub fn trouble(pod: &Pod, now: Timestamp) -> Option<String> {
    obstacle(pod, now).or_else(|| unready(pod, now))
}

/// What keeps a pod from running, whatever the other parts do.
pub fn obstacle(pod: &Pod, now: Timestamp) -> Option<String> {
    if has_ended(pod) {
        return None;
    }
    unscheduled(pod, now).or_else(|| containers(pod).find_map(|container| failing(pod, container, now)))
}

/// On its way out, or out: what replaces it speaks for itself.
fn has_ended(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some() || is_over(pod)
}

/// Whether all programs of a pod have ended for good; the object stays until somebody removes it.
pub(crate) fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Failed" | "Succeeded"))
}

/// The pod's field of the spec, which holds its template.
fn part(pod: &Pod) -> &str {
    match pod.labels().get(names::COMPONENT).map_or("", String::as_str) {
        // It runs as the broker does.
        names::BROKER_LEAVE => names::Part::Broker.name(),
        part => part,
    }
}

fn containers(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.iter();
    status.flat_map(|status| {
        status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten())
    })
}

fn has_run(container: &ContainerStatus) -> bool {
    container.restart_count > 0 || container.state.as_ref().is_some_and(|state| state.waiting.is_none())
}

/// Ends and does not get to its end: only its node could say that it is gone. A StatefulSet makes no other one meanwhile.
fn stuck(pod: &Pod, now: Timestamp) -> Option<String> {
    let end = pod.metadata.deletion_timestamp.as_ref()?;
    (now.duration_since(end.0) >= ENDING).then(|| {
        format!(
            "does not end, for its node {} does not answer: bring the node back; if it is off for good, `kubectl delete node {0}`",
            node(pod)
        )
    })
}

fn node(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or("of no name")
}

fn unscheduled(pod: &Pod, now: Timestamp) -> Option<String> {
    let condition = pod.status.as_ref()?.conditions.iter().flatten().find(|condition| {
        condition.type_ == "PodScheduled"
            && condition.status == "False"
            && condition.last_transition_time.as_ref().is_none_or(|time| lasts(time, SCHEDULING, now))
    })?;
    let why = condition.message.as_deref().unwrap_or("no node fits");
    // What follows tells of the attempt to evict others for it.
    let why = why.split_once(". ").map_or(why, |(why, _)| why).trim_end_matches('.');
    let remedy = UNSCHEDULABLE.iter().find(|(causes, _)| causes.iter().any(|cause| why.contains(cause)));
    let remedy = remedy.map_or_else(
        || format!("see `kubectl describe pod {}`", pod.name_any()),
        |(_, remedy)| remedy.replace("PART", part(pod)),
    );
    Some(format!("cannot be scheduled: {}: {remedy}", cut(why)))
}

fn failing(pod: &Pod, container: &ContainerStatus, now: Timestamp) -> Option<String> {
    let (name, part) = (pod.name_any(), part(pod));
    let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
    let reason = waiting.and_then(|waiting| waiting.reason.as_deref()).filter(|reason| !ORDINARY.contains(reason));
    let Some(reason) = reason.filter(|reason| *reason != "CrashLoopBackOff") else {
        return (reason.is_some() || between_failures(container, now)).then(|| keeps_failing(&name, part, container));
    };
    // The kubelet alternates between two reasons for one cause; the text does not.
    if ["ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "ImageInspectError"]
        .contains(&reason)
    {
        let image = &container.image;
        return Some(format!("cannot pull {image}: check the name and its registry, and {part}.template.pullSecrets"));
    }
    let why = cut(waiting.and_then(|waiting| waiting.message.as_deref()).unwrap_or_default());
    let remedy = if reason == "CreateContainerConfigError" {
        format!("make what is missing, or correct {part}.template.env")
    } else {
        format!("see `kubectl describe pod {name}`")
    };
    Some(format!("cannot start: {reason}: {why}: {remedy}"))
}

/// Runs for the moment, or has just ended, in the middle of a crash loop: to call that a start would have the status flap. The first
/// restart is without back-off (kubelet, `doBackOff`), so from the second on it is a loop.
fn between_failures(container: &ContainerStatus, now: Timestamp) -> bool {
    let failed = ended(container).is_some_and(|ended| ended.exit_code != 0);
    let running = container.state.as_ref().and_then(|state| state.running.as_ref());
    let long = running.and_then(|running| running.started_at.as_ref()).is_some_and(|time| lasts(time, STARTING, now));
    failed && container.restart_count >= 2 && !container.ready && !long
}

/// Whether it keeps failing and Kubernetes knows no words of it.
pub fn failed_without_words(container: &ContainerStatus) -> bool {
    let failed = ended(container).is_some_and(|ended| ended.exit_code != 0 && ended.message.is_none());
    failed && container.restart_count > 0 && !container.ready
}

/// Gives it words.
pub fn put_words(container: &mut ContainerStatus, words: &str) {
    let states = [container.state.as_mut(), container.last_state.as_mut()];
    if let Some(ended) = states.into_iter().flatten().find_map(|state| state.terminated.as_mut()) {
        ended.message = Some(words.to_owned());
    }
}

/// How the container ended last.
fn ended(container: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    let states = [container.state.as_ref(), container.last_state.as_ref()];
    states.into_iter().flatten().find_map(|state| state.terminated.as_ref())
}

fn keeps_failing(pod: &str, part: &str, container: &ContainerStatus) -> String {
    let logs = format!("see `kubectl logs {pod} --container {} --previous`", container.name);
    let Some(ended) = ended(container) else { return format!("keeps failing: {logs}") };
    let reason = ended.reason.as_deref().unwrap_or("Error");
    let how = format!("keeps failing (exit code {}, {reason})", ended.exit_code);
    if reason == "OOMKilled" {
        return format!("{how}: raise limits.memory in {part}.template.resources");
    }
    let message = ended.message.as_deref();
    if SERVERS.contains(&container.name.as_str()) && message.is_some_and(|message| message.contains(NO_SPACE)) {
        return format!(
            "{how}: its disk is full: raise {part}.storage.size; it starts again at the latest five minutes after its volume has grown"
        );
    }
    // The last line is what the program ended with.
    match message.and_then(|message| message.trim_end().lines().last()) {
        Some(words) => format!("{how}: {}: {logs}", cut(words)),
        None => format!("{how}: {logs}"),
    }
}

/// Is not ready long past any start.
fn unready(pod: &Pod, now: Timestamp) -> Option<String> {
    if has_ended(pod) {
        return None;
    }
    let mut conditions = pod.status.as_ref()?.conditions.iter().flatten();
    conditions.find(|condition| {
        condition.type_ == "Ready"
            && condition.status == "False"
            && condition.last_transition_time.as_ref().is_some_and(|time| lasts(time, STARTING, now))
    })?;
    let name = pod.name_any();
    let mut main = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten()).peekable();
    Some(if main.peek().is_some() && main.clone().all(|container| container.ready) {
        // The kubelet says both in one breath; that the pod is not ready was said for it, by the controller that misses its node.
        let node = node(pod);
        format!(
            "cannot be reached, for its node {node} does not answer: bring the node back; if it is off for good, `kubectl delete node {node}`"
        )
    } else if containers(pod).any(has_run) {
        // Whatever it waits for, its log knows.
        format!("runs but does not become ready: see `kubectl logs {name}`")
    } else {
        format!("is on its node and does not start: its volume or image takes long: see `kubectl describe pod {name}`")
    })
}

fn lasts(since: &Time, long: SignedDuration, now: Timestamp) -> bool {
    now.duration_since(since.0) >= long
}

/// The beginning of a text of somebody else, in one line.
fn cut(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(WORDS).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn now() -> Timestamp {
        "2026-11-25T10:00:00Z".parse().unwrap()
    }

    /// A pod of the consumer's, its status since half an hour.
    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "demo-consumer-aapl-7", "labels": {"app.kubernetes.io/component": "consumer"}},
            "spec": {"nodeName": "worker-2", "containers": []},
            "status": status,
        }))
        .unwrap()
    }

    fn unscheduled(message: &str) -> String {
        let condition = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
            "lastTransitionTime": "2026-11-25T09:30:00Z"});
        trouble(&pod(json!({"phase": "Pending", "conditions": [condition]})), now()).unwrap()
    }

    fn container(ready: bool, restarts: i32, state: Value, last: Value) -> Pod {
        pod(json!({
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": "2026-11-25T09:30:00Z"}],
            "containerStatuses": [{"name": "consumer", "image": "registry.example/workloads:2", "imageID": "", "ready": ready,
                "restartCount": restarts, "state": state, "lastState": last}],
        }))
    }

    fn waiting(reason: &str, message: &str) -> Pod {
        container(false, 0, json!({"waiting": {"reason": reason, "message": message}}), json!({}))
    }

    fn ended(code: i32, reason: &str, message: Option<&str>) -> Value {
        json!({"terminated": {"exitCode": code, "reason": reason, "message": message}})
    }

    /// Sentences of the scheduler of Kubernetes 1.34.
    #[test]
    fn a_pod_without_a_node_is_told_with_what_helps() {
        let preemption = "no new claims to deallocate, preemption: 0/3 nodes are available: 1 Preemption is not helpful for scheduling, \
            2 No preemption victims found for incoming pod.";
        let memory =
            format!("0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient memory. {preemption}");
        assert_eq!(
            unscheduled(&memory),
            "cannot be scheduled: 0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient memory: \
             free or add a node, or lower the requests in consumer.template.resources"
        );
        let cases = [
            ("pod has unbound immediate PersistentVolumeClaims", "name one in consumer.storage.class"),
            ("persistentvolumeclaim \"data-demo-broker-0\" not found", "kubectl describe pvc"),
            ("3 Too many pods", "add a node"),
            ("1 Insufficient cpu, 2 node(s) didn't match PersistentVolume's node affinity", "lower the requests"),
            (
                "1 node(s) were unschedulable, 2 node(s) didn't match PersistentVolume's node affinity",
                "bring that node back",
            ),
            ("1 node(s) were unschedulable, 2 node(s) had volume node affinity conflict", "bring that node back"),
            (
                "3 node(s) didn't match Pod's node affinity/selector",
                "nodeSelector, affinity or topologySpread in consumer.template",
            ),
            (
                "1 node(s) were unschedulable, 2 node(s) didn't match pod anti-affinity rules",
                "topologySpread in consumer.template",
            ),
            ("3 node(s) were unschedulable", "uncordon"),
            ("3 node(s) had untolerated taint(s)", "consumer.template.tolerations"),
            ("3 node(s) had untolerated taint {dedicated: gpu}", "consumer.template.tolerations"),
            (
                "3 node(s) didn't have free ports for the requested pod ports",
                "kubectl describe pod demo-consumer-aapl-7",
            ),
        ];
        for (message, remedy) in cases {
            let text = unscheduled(&format!("0/3 nodes are available: {message}. {preemption}"));
            assert!(text.contains(message) && text.contains(remedy) && !text.contains("reemption"), "{text}");
        }
    }

    #[test]
    fn a_container_that_keeps_failing_is_told_the_same_between_its_restarts() {
        let back_off = || json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s restarting failed container"}});
        let running = || json!({"running": {"startedAt": "2026-11-25T09:59:55Z"}});
        let killed = || ended(137, "OOMKilled", None);
        let text = "keeps failing (exit code 137, OOMKilled): raise limits.memory in consumer.template.resources";
        for (state, last) in [(back_off(), killed()), (running(), killed()), (killed(), killed())] {
            assert_eq!(obstacle(&container(false, 3, state, last), now()).as_deref(), Some(text));
        }
        let text = "keeps failing (exit code 1, Error): cannot bind 0.0.0.0:9090: \
                    see `kubectl logs demo-consumer-aapl-7 --container consumer --previous`";
        let last = ended(1, "Error", Some("starting\ncannot bind 0.0.0.0:9090\n"));
        assert_eq!(obstacle(&container(false, 3, back_off(), last), now()).as_deref(), Some(text));
        let told = |server: &str, part: &str| {
            let mut full = container(false, 3, running(), ended(14, "Error", None));
            full.labels_mut().insert(names::COMPONENT.into(), part.into());
            let status = &mut full.status.as_mut().unwrap().container_statuses.as_mut().unwrap()[0];
            status.name = server.into();
            assert!(failed_without_words(status));
            put_words(status, NO_SPACE);
            assert!(!failed_without_words(status));
            obstacle(&full, now()).unwrap()
        };
        let text = "keeps failing (exit code 14, Error): its disk is full: raise database.storage.size; ";
        assert!(told("mongod", "database").starts_with(text));
        assert!(told("leave", names::BROKER_LEAVE).starts_with("keeps failing (exit code 14, Error): No space left"));
        let first_start = container(false, 1, running(), ended(1, "Error", None));
        assert_eq!(obstacle(&first_start, now()), None, "one restart is no loop");
        let recovered = container(true, 3, running(), ended(1, "Error", None));
        assert_eq!(obstacle(&recovered, now()), None);
    }

    #[test]
    fn a_container_that_cannot_start_is_told_with_what_helps() {
        let pull = "cannot pull registry.example/workloads:2: check the name and its registry, and consumer.template.pullSecrets";
        let back_off = "Back-off pulling image \"registry.example/workloads:2\": ErrImagePull: not found";
        assert_eq!(obstacle(&waiting("ErrImagePull", "not found"), now()).as_deref(), Some(pull));
        assert_eq!(obstacle(&waiting("ImagePullBackOff", back_off), now()).as_deref(), Some(pull));
        assert_eq!(
            obstacle(&waiting("CreateContainerConfigError", "secret \"feed\" not found"), now()).as_deref(),
            Some(
                "cannot start: CreateContainerConfigError: secret \"feed\" not found: \
                 make what is missing, or correct consumer.template.env"
            )
        );
        assert_eq!(obstacle(&waiting("ContainerCreating", ""), now()), None);
    }

    #[test]
    fn a_pod_that_is_not_ready_for_long_is_told_by_what_it_does() {
        let running = json!({"running": {"startedAt": "2026-11-25T09:30:00Z"}});
        let cases = [
            (
                container(false, 0, running.clone(), json!({})),
                "runs but does not become ready: see `kubectl logs demo-consumer-aapl-7`",
            ),
            (
                waiting("ContainerCreating", ""),
                "its volume or image takes long: see `kubectl describe pod demo-consumer-aapl-7`",
            ),
            (container(true, 0, running, json!({})), "its node worker-2 does not answer: bring the node back"),
        ];
        for (pod, words) in cases {
            let text = trouble(&pod, now()).unwrap();
            assert!(text.contains(words), "{text}");
        }
    }

    #[test]
    fn a_pod_that_cannot_end_is_told_and_one_that_has_ended_is_not() {
        let mut ending = container(false, 0, json!({"running": {}}), json!({}));
        ending.metadata.deletion_timestamp = Some(Time("2026-11-25T09:59:50Z".parse().unwrap()));
        assert_eq!(worst([&ending].into_iter(), now(), trouble), None);
        ending.metadata.deletion_timestamp = Some(Time("2026-11-25T09:55:00Z".parse().unwrap()));
        let text = worst([&ending].into_iter(), now(), trouble).unwrap();
        assert!(
            text.contains("its node worker-2 does not answer") && text.contains("kubectl delete node worker-2"),
            "{text}"
        );
        let mut evicted = container(false, 0, json!({"terminated": {"exitCode": 137}}), json!({}));
        evicted.status.as_mut().unwrap().phase = Some("Failed".into());
        assert_eq!(worst([&evicted].into_iter(), now(), trouble), None);
    }
}
