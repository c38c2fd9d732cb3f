//! Which pod of a StatefulSet is replaced next after its template has changed.
//! Rule: pure; one pod at a time, and only while the system inside goes on without it; the primary comes last.
//!
//! Kubernetes itself would go by ordinals and by readiness. A member is ready long before it has caught up, and a primary that is replaced
//! in the middle costs an election each time it moves to a pod that is still to go.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::{claims, pods};

/// Label with the revision of the template that a pod was made of (Kubernetes, "`ControllerRevision`").
const REVISION: &str = "controller-revision-hash";

/// The pods of `set` that are of an older template or among those to `restart`, in the order in which they are replaced: those in trouble, then from the highest
/// ordinal, the one named `primary` last. None while Kubernetes has not seen the newest template, nor while the set is on its way out: nobody
/// would make the pod anew.
pub fn outdated<'a>(
    set: &StatefulSet,
    pods: &'a [Pod],
    restart: &[String],
    primary: Option<&str>,
    now: Timestamp,
) -> Vec<&'a Pod> {
    let Some(status) = set.status.as_ref().filter(|status| {
        status.observed_generation >= set.metadata.generation && set.metadata.deletion_timestamp.is_none()
    }) else {
        return Vec::new();
    };
    let old =
        |pod: &&Pod| pod.labels().get(REVISION) != status.update_revision.as_ref() || restart.contains(&pod.name_any());
    let mut outdated: Vec<&Pod> = of_set(set, pods).filter(old).collect();
    outdated.sort_by_key(|pod| {
        let ordinal = claims::ordinal(&set.name_any(), &pod.name_any());
        (pods::obstacle(pod, now).is_none(), primary == Some(&pod.name_any()), std::cmp::Reverse(ordinal))
    });
    outdated
}

/// Whether `pod`, the first of the outdated ones, may be replaced now: never while another one is on its way out. One that cannot run may
/// at once: nothing is lost with it, and the newer template may be its cure. Another one only when all pods serve and the system said that
/// it bears the loss of one (`may_lose_one`).
pub fn may_replace(set: &StatefulSet, pods: &[Pod], pod: &Pod, may_lose_one: bool, now: Timestamp) -> bool {
    let leaves = |pod: &Pod| pod.metadata.deletion_timestamp.is_some();
    if of_set(set, pods).any(leaves) {
        return false;
    }
    let wanted = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let serving = of_set(set, pods).filter(|pod| pods::is_ready(pod)).count();
    pods::obstacle(pod, now).is_some() || (may_lose_one && i32::try_from(serving) == Ok(wanted))
}

fn of_set<'a>(set: &StatefulSet, pods: &'a [Pod]) -> impl Iterator<Item = &'a Pod> {
    let (name, namespace) = (set.name_any(), set.namespace());
    pods.iter().filter(move |pod| pod.namespace() == namespace && claims::ordinal(&name, &pod.name_any()).is_some())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set() -> StatefulSet {
        serde_json::from_value(json!({
            "metadata": {"name": "demo-database", "namespace": "markets", "generation": 2},
            "spec": {"replicas": 3, "selector": {}, "serviceName": "demo-database", "template": {}},
            "status": {"replicas": 3, "observedGeneration": 2, "updateRevision": "new"},
        }))
        .unwrap()
    }

    fn pod(ordinal: usize, revision: &str, ready: bool) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": format!("demo-database-{ordinal}"), "namespace": "markets", "labels": {(REVISION): revision}},
            "status": {"conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
        }))
        .unwrap()
    }

    fn failing(mut pod: Pod) -> Pod {
        pod.status.as_mut().unwrap().container_statuses = serde_json::from_value(json!([{
            "name": "mongod", "image": "none:1", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": "ImagePullBackOff"}},
        }]))
        .unwrap();
        pod
    }

    fn now() -> Timestamp {
        "2026-11-25T10:00:00Z".parse().unwrap()
    }

    fn order(pods: &[Pod], primary: Option<&str>) -> Vec<String> {
        outdated(&set(), pods, &[], primary, now()).iter().map(|pod| pod.name_any()).collect()
    }

    #[test]
    fn pods_are_replaced_from_the_highest_ordinal_the_primary_last_and_one_in_trouble_first() {
        let old = [pod(0, "old", true), pod(1, "old", true), pod(2, "old", true)];
        assert_eq!(order(&old, Some("demo-database-2")), ["demo-database-1", "demo-database-0", "demo-database-2"]);
        let some = [failing(pod(0, "old", false)), pod(1, "old", true), pod(2, "new", true), pod(3, "old", true)];
        assert_eq!(order(&some, None), ["demo-database-0", "demo-database-3", "demo-database-1"]);
        let new = [pod(0, "new", true), pod(1, "new", true), pod(2, "new", true)];
        let restart = ["demo-database-1".to_owned()];
        assert_eq!(
            outdated(&set(), &new, &restart, None, now())[0].name_any(),
            "demo-database-1",
            "its volume grows then"
        );
        let mut leaving = set();
        leaving.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now()));
        assert!(outdated(&leaving, &old, &restart, None, now()).is_empty(), "nobody would make it anew");
        let mut unseen = set();
        unseen.metadata.generation = Some(3);
        assert!(
            outdated(&unseen, &old, &[], None, now()).is_empty(),
            "its revision is not yet that of the newest template"
        );
    }

    #[test]
    fn a_pod_waits_until_all_others_serve_and_the_system_bears_its_loss() {
        let all = [pod(0, "old", true), pod(1, "old", true), pod(2, "new", true)];
        assert!(may_replace(&set(), &all, &all[1], true, now()));
        assert!(!may_replace(&set(), &all, &all[1], false, now()));
        assert!(!may_replace(&set(), &all[..2], &all[1], true, now()), "one is missing");
        let starting = [pod(0, "old", true), pod(1, "old", true), pod(2, "new", false)];
        assert!(!may_replace(&set(), &starting, &starting[1], true, now()));
        let mut leaving = all.clone();
        leaving[1].metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now()));
        assert!(!may_replace(&set(), &leaving, &leaving[1], true, now()));
        assert!(!may_replace(&set(), &leaving, &leaving[0], true, now()));
    }

    #[test]
    fn a_pod_in_trouble_is_replaced_whatever_the_others_do() {
        let broken = [pod(0, "old", true), pod(1, "old", true), failing(pod(2, "old", false))];
        assert!(may_replace(&set(), &broken, &broken[2], false, now()));
        assert!(!may_replace(&set(), &broken, &broken[1], true, now()));
    }
}
