//! Volumes that grow: first each claim asks for more, then the StatefulSet is made anew around its running pods, for its claim template cannot be
//! changed.
//! Rule: nothing here asks whether anything is healthy, for a full disk is what makes it ill; each step may be repeated, or be the last of this process.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;

use crate::claims;
use crate::error::Error;
use crate::metrics::Metrics;
use crate::names;
use crate::ownership;
use crate::quantity::quantity;

/// Drivers that grow a mounted file system do so within seconds. After this long one is taken to need its pod made anew.
const MOUNTED_GROWTH: SignedDuration = SignedDuration::from_secs(120);
/// What the API server says of a class that does not let its volumes grow (admission plug-in `PersistentVolumeClaimResize`).
const CLASS_FORBIDS: &str = "the storageclass that provisions the pvc must support resize";
/// Finalizer of an object whose dependents stay when it goes.
const ORPHAN: &str = "orphan";

/// How the volumes of a part are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Volumes {
    /// The size asked of them, the largest where they differ.
    pub asked: Option<String>,
    /// What is under way, in a sentence.
    pub growing: Option<String>,
    /// Pods that have to be made anew before their file system grows.
    pub restart: Vec<String>,
    /// What does not go on by itself, in a sentence.
    pub stuck: Option<String>,
}

/// What is to be done with a StatefulSet after its volumes were looked after.
pub enum Next {
    /// It is applied like any other object.
    Apply(StatefulSet),
    /// It is on its way out and its pods stay; this is its last form. It is made anew when it is gone.
    Await(StatefulSet),
}

/// Lets the volumes of one StatefulSet grow to what `wanted` says. `live` is the set as it is, `all` are claims and pods of its namespace.
///
/// Whatever is refused, the rest goes on: the set is then applied with the size it has.
pub async fn grow(
    client: &Client,
    metrics: &Metrics,
    owner: &OwnerReference,
    live: Option<&StatefulSet>,
    mut wanted: StatefulSet,
    (claims, pods): (&[PersistentVolumeClaim], &[Pod]),
) -> (Next, Option<Error>) {
    if let Some(live) = live.filter(|live| leaves_its_pods(live)) {
        return (Next::Await(live.clone()), None);
    }
    let mut refused = None;
    for claim in too_small(&wanted, claims) {
        if let Err(error) = ask(client, metrics, claim, size(&wanted)).await {
            refused.get_or_insert(error);
        }
    }
    let Some(live) = live.filter(|live| !same_size(size(live), size(&wanted))) else {
        return (Next::Apply(wanted), refused);
    };
    if refused.is_none() {
        match let_go(client, metrics, owner, live, pods).await {
            Ok(()) => return (Next::Await(live.clone()), None),
            Err(error) => refused = Some(error),
        }
    }
    if let (Some(wanted), Some(live)) = (&mut wanted.spec, &live.spec) {
        wanted.volume_claim_templates.clone_from(&live.volume_claim_templates);
    }
    (Next::Apply(wanted), refused)
}

/// Whether a StatefulSet is being deleted without its pods.
pub fn leaves_its_pods(set: &StatefulSet) -> bool {
    set.metadata.deletion_timestamp.is_some() && set.finalizers().iter().any(|finalizer| finalizer == ORPHAN)
}

/// Whether the pods of a StatefulSet have to be counted by themselves: it is on its way out without them, or so new that Kubernetes has not
/// counted the pods it found.
pub fn is_made_anew(set: &StatefulSet) -> bool {
    leaves_its_pods(set) || set.status.as_ref().is_none_or(|status| status.observed_generation.is_none())
}

/// Asks for a larger volume.
async fn ask(
    client: &Client,
    metrics: &Metrics,
    claim: &PersistentVolumeClaim,
    size: Option<&str>,
) -> Result<(), Error> {
    let (name, namespace) = (claim.name_any(), claim.namespace().unwrap_or_default());
    let (asked, size) = (asked(claim).unwrap_or_default(), size.unwrap_or_default());
    let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &namespace);
    let patch = json!({
        // With the uid, what is meant for this claim cannot land on a new one of its name.
        "metadata": {"uid": claim.uid()},
        "spec": {"resources": {"requests": {"storage": size}}},
    });
    let parameters = PatchParams { field_manager: Some(names::MANAGER.into()), ..PatchParams::default() };
    match api.patch(&name, &parameters, &Patch::Merge(&patch)).await {
        Ok(_) => {
            tracing::info!(name, namespace, from = asked, to = size, "volume is to grow");
            metrics.patched(&PersistentVolumeClaim::kind(&()));
            Ok(())
        }
        Err(kube::Error::Api(status)) if status.message.contains(CLASS_FORBIDS) => {
            let class = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
            let class = class.filter(|class| !class.is_empty()).map_or("none".into(), |class| format!("class {class}"));
            Err(Error::VolumeCannotGrow(format!(
                "volume claim {name} cannot grow from {asked} to {size}, for its storage class ({class}) does not allow it: set \
                 allowVolumeExpansion: true in the class if its driver can do it, else set storage.size back to {asked}"
            )))
        }
        // Gone, or another one of its name: the next pass sees it.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(error) => Err(Error::kubernetes("patch", PersistentVolumeClaim::kind(&()), name)(error)),
    }
}

/// Takes a StatefulSet away from its pods, which run on.
async fn let_go(
    client: &Client,
    metrics: &Metrics,
    owner: &OwnerReference,
    live: &StatefulSet,
    pods: &[Pod],
) -> Result<(), Error> {
    let (name, namespace) = (live.name_any(), live.namespace().unwrap_or_default());
    // Were the pipeline deleted before the set is made anew, pods without an owner would stay for ever.
    let api: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let owner = OwnerReference { controller: None, ..owner.clone() };
    let ownerless =
        |pod: &&Pod| claims::ordinal(&name, &pod.name_any()).is_some() && !ownership::is_owned(*pod, &owner.uid);
    for pod in pods.iter().filter(ownerless) {
        let patch = json!({"metadata": {"uid": pod.uid(), "ownerReferences": [owner]}});
        match api.patch(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(&patch)).await {
            Ok(_) => metrics.patched(&Pod::kind(&())),
            // It is gone; its successor is made by a set, this one or the next.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => return Err(Error::kubernetes("patch", Pod::kind(&()), pod.name_any())(error)),
        }
    }
    let api: Api<StatefulSet> = Api::namespaced(client.clone(), &namespace);
    let exactly_this = Preconditions { uid: live.uid(), resource_version: None };
    let parameters = DeleteParams { preconditions: Some(exactly_this), ..DeleteParams::orphan() };
    match api.delete(&name, &parameters).await {
        Ok(_) => {
            tracing::info!(name, namespace, "set taken away from its pods, to be made anew with larger volumes");
            metrics.orphaned(&StatefulSet::kind(&()));
            Ok(())
        }
        // Gone already: the store will tell.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(error) => Err(Error::kubernetes("delete", StatefulSet::kind(&()), name)(error)),
    }
}

/// The claims of a set that ask for less than it wants. One without a volume cannot be changed yet and holds nothing.
fn too_small<'a>(wanted: &StatefulSet, claims: &'a [PersistentVolumeClaim]) -> Vec<&'a PersistentVolumeClaim> {
    let Some(wish) = size(wanted).and_then(quantity) else { return Vec::new() };
    let pods = wanted.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let smaller = |claim: &&PersistentVolumeClaim| asked(claim).and_then(quantity).is_some_and(|asked| asked < wish);
    of_set(&wanted.name_any(), pods, claims).filter(|claim| is_bound(claim)).filter(smaller).collect()
}

/// How the volumes of a StatefulSet of `pods` pods are.
pub fn look(set: &str, pods: i32, claims: &[PersistentVolumeClaim], all: &[Pod], now: Timestamp) -> Volumes {
    let mut volumes = Volumes::default();
    let mut growing = Vec::new();
    for claim in of_set(set, pods, claims) {
        let Some(asked) = asked(claim) else { continue };
        if volumes.asked.as_deref().and_then(quantity) < quantity(asked) {
            volumes.asked = Some(asked.to_owned());
        }
        let has = claims::capacity(claim);
        if !is_bound(claim) || has.and_then(quantity) >= quantity(asked) {
            continue;
        }
        growing.push(format!("{} from {} to {asked}", claim.name_any(), has.unwrap_or("an unknown size")));
        if let Some(words) = failure(claim) {
            volumes.stuck.get_or_insert(format!(
                "the volume of claim {} does not grow: {words}: look at `kubectl describe pvc {0}`, and ask whoever runs its storage class",
                claim.name_any(),
            ));
        }
        let Some(pod) = all.iter().find(|pod| is_pod_of(claim, pod)) else { continue };
        let Some(since) = waits_for_its_node(claim).filter(|since| now.duration_since(*since) > MOUNTED_GROWTH) else {
            continue;
        };
        if pod.creation_timestamp().is_some_and(|made| made.0 < since) {
            volumes.restart.push(pod.name_any());
        } else if pod.creation_timestamp().is_some_and(|made| now.duration_since(made.0) > MOUNTED_GROWTH) {
            volumes.stuck.get_or_insert(format!(
                "the file system of claim {} has not grown although its pod {} was made anew: look at `kubectl describe pod {1}`",
                claim.name_any(),
                pod.name_any(),
            ));
        }
    }
    volumes.growing = match growing.as_slice() {
        [] => None,
        [one] => Some(format!("volume {one} grows")),
        [first, others @ ..] => Some(format!("volume {first} and {} more grow", others.len())),
    };
    if let (Some(growing), [first, ..]) = (&mut volumes.growing, volumes.restart.as_slice()) {
        growing.push_str(&format!("; its driver needs pod {first} made anew, which happens one pod at a time"));
    }
    volumes
}

/// What a resize ended in, if it was not what was asked (Kubernetes, "Recovering from Failure when Expanding Volumes").
fn failure(claim: &PersistentVolumeClaim) -> Option<String> {
    let status = claim.status.as_ref()?;
    let mut conditions = status.conditions.iter().flatten();
    let error = conditions.find(|condition| condition.type_.ends_with("ResizeError") && condition.status == "True");
    let state = status.allocated_resource_statuses.as_ref().and_then(|states| states.get("storage"));
    let failed = state.filter(|state| state.ends_with("Infeasible") || state.ends_with("Failed"));
    error
        .and_then(|condition| condition.message.clone().or_else(|| condition.reason.clone()))
        .or_else(|| failed.cloned())
}

/// Since when the volume is larger and its file system is not.
fn waits_for_its_node(claim: &PersistentVolumeClaim) -> Option<Timestamp> {
    let mut conditions = claim.status.as_ref()?.conditions.iter().flatten();
    let pending = |type_: &str, status: &str| type_ == "FileSystemResizePending" && status == "True";
    Some(conditions.find(|condition| pending(&condition.type_, &condition.status))?.last_transition_time.as_ref()?.0)
}

/// The claims of the pods of a set, those left over not included.
fn of_set<'a>(
    set: &str,
    pods: i32,
    claims: &'a [PersistentVolumeClaim],
) -> impl Iterator<Item = &'a PersistentVolumeClaim> {
    claims.iter().filter(move |claim| {
        claim.metadata.deletion_timestamp.is_none()
            && claims::claim_ordinal(set, &claim.name_any()).is_some_and(|ordinal| ordinal < pods)
    })
}

fn is_pod_of(claim: &PersistentVolumeClaim, pod: &Pod) -> bool {
    claim.name_any() == format!("data-{}", pod.name_any())
}

fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound")
}

/// The size a claim asks for.
fn asked(claim: &PersistentVolumeClaim) -> Option<&str> {
    Some(&claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?.get("storage")?.0)
}

/// The size of the volumes a set makes.
fn size(set: &StatefulSet) -> Option<&str> {
    asked(set.spec.as_ref()?.volume_claim_templates.as_ref()?.first()?)
}

/// The server writes quantities in its own form.
fn same_size(one: Option<&str>, other: Option<&str>) -> bool {
    one.and_then(quantity) == other.and_then(quantity)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(ordinal: i32, asked: &str, has: &str) -> PersistentVolumeClaim {
        serde_json::from_value(json!({
            "metadata": {"name": format!("data-demo-database-{ordinal}"), "namespace": "markets"},
            "spec": {"resources": {"requests": {"storage": asked}}, "storageClassName": "fast"},
            "status": {"phase": "Bound", "capacity": {"storage": has}},
        }))
        .unwrap()
    }

    fn with_condition(mut claim: PersistentVolumeClaim, type_: &str, since: &str) -> PersistentVolumeClaim {
        claim.status.as_mut().unwrap().conditions = serde_json::from_value(json!([
            {"type": type_, "status": "True", "lastTransitionTime": since, "message": "no space in the pool"},
        ]))
        .unwrap();
        claim
    }

    fn pod(ordinal: i32, made: &str) -> Pod {
        let name = format!("demo-database-{ordinal}");
        serde_json::from_value(json!({"metadata": {"name": name, "creationTimestamp": made}})).unwrap()
    }

    fn set(size: &str) -> StatefulSet {
        serde_json::from_value(json!({
            "metadata": {"name": "demo-database"},
            "spec": {
                "replicas": 3, "selector": {}, "serviceName": "demo-database", "template": {},
                "volumeClaimTemplates": [{"spec": {"resources": {"requests": {"storage": size}}}}],
            },
        }))
        .unwrap()
    }

    fn at(time: &str) -> Timestamp {
        format!("2026-11-25T{time}Z").parse().unwrap()
    }

    #[test]
    fn only_bound_claims_of_the_sets_own_pods_that_ask_for_less_are_asked_for_more() {
        let mut unbound = claim(2, "10Gi", "0");
        unbound.status = None;
        let claims = [claim(0, "10Gi", "10Gi"), claim(1, "20480Mi", "10Gi"), unbound, claim(3, "10Gi", "10Gi")];
        let names = |size| too_small(&set(size), &claims).iter().map(|claim| claim.name_any()).collect::<Vec<_>>();
        assert_eq!(names("20Gi"), ["data-demo-database-0"]);
        assert_eq!(names("30Gi"), ["data-demo-database-0", "data-demo-database-1"]);
        assert_eq!(names("5Gi"), Vec::<String>::new(), "a volume never shrinks");
    }

    #[test]
    fn what_grows_is_told_with_both_sizes_and_nothing_is_told_when_all_have_grown() {
        let look = |claims: &[PersistentVolumeClaim]| look("demo-database", 3, claims, &[], at("10:00:00"));
        let volumes = look(&[claim(0, "20Gi", "10Gi"), claim(1, "20Gi", "20Gi"), claim(2, "20Gi", "10Gi")]);
        assert_eq!(volumes.growing.unwrap(), "volume data-demo-database-0 from 10Gi to 20Gi and 1 more grow");
        assert_eq!(volumes.asked.unwrap(), "20Gi");
        let grown = look(&[claim(0, "20Gi", "20Gi"), claim(1, "10Gi", "10Gi")]);
        assert_eq!(grown, Volumes { asked: Some("20Gi".into()), ..Volumes::default() });
        assert_eq!(look(&[]), Volumes::default());
    }

    #[test]
    fn a_pod_is_made_anew_for_its_file_system_once_and_only_when_it_does_not_grow_by_itself() {
        let waits = |since| with_condition(claim(1, "20Gi", "10Gi"), "FileSystemResizePending", since);
        let look = |claim, pod, now| look("demo-database", 3, &[claim], &[pod], at(now));
        let since = "2026-11-25T10:00:00Z";
        let young = look(waits(since), pod(1, "2026-11-24T00:00:00Z"), "10:01:00");
        assert!(young.restart.is_empty() && young.stuck.is_none(), "{young:?}");
        let old = look(waits(since), pod(1, "2026-11-24T00:00:00Z"), "10:03:00");
        assert_eq!(old.restart, ["demo-database-1"]);
        assert!(old.growing.unwrap().contains("its driver needs pod demo-database-1 made anew"));
        let starts = look(waits(since), pod(1, "2026-11-25T10:04:50Z"), "10:05:00");
        assert!(starts.restart.is_empty() && starts.stuck.is_none(), "nothing is mounted yet: {starts:?}");
        let again = look(waits(since), pod(1, "2026-11-25T10:02:10Z"), "10:05:00");
        assert!(again.restart.is_empty(), "it would go round in circles");
        assert!(again.stuck.unwrap().contains("although its pod demo-database-1 was made anew"));
    }

    #[test]
    fn the_storage_systems_own_words_are_told_when_it_gives_up() {
        let failed = with_condition(claim(0, "20Gi", "10Gi"), "ControllerResizeError", "2026-11-25T10:00:00Z");
        let volumes = look("demo-database", 1, &[failed], &[], at("10:00:01"));
        assert!(volumes.stuck.unwrap().contains("data-demo-database-0 does not grow: no space in the pool"));
    }
}
