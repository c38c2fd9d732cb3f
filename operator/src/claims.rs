//! How many pods a StatefulSet needs beyond the wish, and which of its volumes nobody needs any more.
//! Rule: pure; a pod or volume goes only when the system inside has said that its member is out.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;

use crate::names;
use crate::quantity::quantity;

/// Pods of a StatefulSet whose members join and leave one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Pods that have to run: those wanted and those that are not out yet.
    pub pods: i32,
    /// The first ordinal from which on volumes belong to nobody; `None`: the system inside did not say, so nothing is taken away.
    pub free_from: Option<i32>,
}

/// Who belonged to the system inside a StatefulSet when it was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// One more than the highest ordinal of its members.
    pub members: i32,
    /// One more than the highest ordinal of the pods at the time: one that ran may have joined since.
    pub pods: i32,
}

impl Size {
    /// The size for `wanted` pods, with what was `heard` of the system and `claimed`, one more than the highest ordinal with a volume.
    ///
    /// A volume may be the only one that holds the data, so its pod runs until the system can be asked. A pod that was joining when it was
    /// taken away may have succeeded, so its volume goes only when the system was asked again after the pod.
    pub fn new(wanted: i32, heard: Option<Heard>, claimed: i32) -> Self {
        let pods = wanted.max(heard.map_or(claimed, |heard| heard.members));
        Self { pods, free_from: heard.map(|heard| pods.max(heard.pods)) }
    }
}

/// The ordinal of a pod; `None` when it is none of `set`'s.
pub fn ordinal(set: &str, pod: &str) -> Option<i32> {
    let ordinal = pod.strip_prefix(set)?.strip_prefix('-')?.parse().ok()?;
    // Not `-01`, which no pod has.
    (pod == format!("{set}-{ordinal}") && ordinal >= 0).then_some(ordinal)
}

/// The ordinal of the pod a claim belongs to; `None` when it is none of `set`'s.
pub fn claim_ordinal(set: &str, claim: &str) -> Option<i32> {
    ordinal(set, claim.strip_prefix("data-")?)
}

/// One more than the highest ordinal among the pods of `set`.
pub fn running<'a>(set: &str, pods: impl IntoIterator<Item = &'a Pod>) -> i32 {
    pods.into_iter().filter_map(|pod| ordinal(set, &pod.name_any())).max().map_or(0, |highest| highest + 1)
}

/// One more than the highest ordinal with a volume. A claim that was never bound holds nothing, and what a member left behind is history.
pub fn claimed<'a>(set: &str, claims: impl IntoIterator<Item = &'a PersistentVolumeClaim>) -> i32 {
    claims
        .into_iter()
        .filter(|claim| has_volume(claim))
        .filter(|claim| !is_kept(claim))
        .filter_map(|claim| claim_ordinal(set, &claim.name_any()))
        .max()
        .map_or(0, |highest| highest + 1)
}

/// Bytes of the smallest volume of `set`, as Kubernetes knows it.
pub fn smallest<'a>(set: &str, claims: impl IntoIterator<Item = &'a PersistentVolumeClaim>) -> Option<f64> {
    let of_set = claims.into_iter().filter(|claim| claim_ordinal(set, &claim.name_any()).is_some());
    of_set.filter_map(capacity).filter_map(quantity).min_by(f64::total_cmp)
}

/// The size of a claim's volume.
pub fn capacity(claim: &PersistentVolumeClaim) -> Option<&str> {
    Some(claim.status.as_ref()?.capacity.as_ref()?.get("storage")?.0.as_str())
}

/// Whether a claim has, or had, a volume that something may be written on.
pub fn has_volume(claim: &PersistentVolumeClaim) -> bool {
    claim.spec.as_ref().is_some_and(|spec| spec.volume_name.is_some())
}

/// Whether a claim holds the data of a member that left, and stays because the pipeline's data is to be retained.
pub fn is_kept(claim: &PersistentVolumeClaim) -> bool {
    claim.annotations().contains_key(names::KEPT)
}

/// How many of `wanted` pods a set may get, and the claim that bars the next one: it holds the data of a member that left. A pod would
/// start with it, and so with an old configuration of its set, by which it could elect a primary beside ours.
pub fn barred<'a>(
    set: &str,
    wanted: i32,
    claims: impl IntoIterator<Item = &'a PersistentVolumeClaim>,
) -> (i32, Option<String>) {
    let kept = claims.into_iter().filter(|claim| is_kept(claim));
    let named = kept.filter_map(|claim| Some((claim_ordinal(set, &claim.name_any())?, claim.name_any())));
    match named.min() {
        Some((ordinal, claim)) if ordinal < wanted => (ordinal, Some(claim)),
        _ => (wanted, None),
    }
}

/// Whether nobody needs a volume of `set` any more: its member is out, and its pod is gone. Were it kept, a later pod of this
/// name would start with a member's old data, too old to catch up from.
pub fn is_leftover(set: &str, size: Size, claim: &PersistentVolumeClaim, pod_exists: impl Fn(&str) -> bool) -> bool {
    let ordinal = claim_ordinal(set, &claim.name_any());
    ordinal
        .zip(size.free_from)
        .is_some_and(|(ordinal, free)| ordinal >= free && !pod_exists(&format!("{set}-{ordinal}")))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PersistentVolumeClaimSpec;

    use super::*;

    fn claim(name: &str) -> PersistentVolumeClaim {
        let mut claim = PersistentVolumeClaim::default();
        claim.metadata.name = Some(name.to_owned());
        claim
    }

    #[test]
    fn a_pod_stays_until_its_member_is_out_and_while_that_is_unknown_with_its_volume() {
        let heard = |members, pods| Some(Heard { members, pods });
        assert_eq!(Size::new(1, heard(3, 3), 3), Size { pods: 3, free_from: Some(3) });
        assert_eq!(Size::new(1, heard(1, 3), 3), Size { pods: 1, free_from: Some(3) }, "they may be joining");
        assert_eq!(Size::new(1, heard(1, 1), 3), Size { pods: 1, free_from: Some(1) });
        assert_eq!(Size::new(1, None, 3), Size { pods: 3, free_from: None });
        assert_eq!(Size::new(5, heard(3, 3), 3), Size { pods: 5, free_from: Some(5) });
        assert_eq!(Size::new(3, None, 0), Size { pods: 3, free_from: None });
    }

    #[test]
    fn a_claim_without_a_volume_keeps_no_pod() {
        let mut bound = claim("data-demo-database-1");
        bound.spec = Some(PersistentVolumeClaimSpec { volume_name: Some("pv".to_owned()), ..Default::default() });
        assert_eq!(claimed("demo-database", [&bound, &claim("data-demo-database-2"), &claim("data-demo-broker-4")]), 2);
    }

    #[test]
    fn the_smallest_volume_of_a_set_counts_and_one_that_is_not_there_does_not() {
        let sized = |name: &str, size: &str| {
            let status = serde_json::json!({"capacity": {"storage": size}});
            PersistentVolumeClaim { status: serde_json::from_value(status).unwrap(), ..claim(name) }
        };
        let claims = [
            sized("data-demo-broker-0", "10Gi"),
            sized("data-demo-broker-1", "1Gi"),
            sized("data-demo-database-0", "1Mi"),
        ];
        assert_eq!(smallest("demo-broker", claims.iter().chain([&claim("data-demo-broker-2")])), Some(1_073_741_824.0));
        assert_eq!(smallest("demo-broker", [&claim("data-demo-broker-0")]), None);
    }

    #[test]
    fn what_a_member_left_behind_keeps_no_pod_and_bars_its_number() {
        let claims = ["data-demo-database-0", "data-demo-database-1", "data-demo-database-2"].map(|name| {
            let mut claim = claim(name);
            claim.spec = Some(PersistentVolumeClaimSpec { volume_name: Some("pv".to_owned()), ..Default::default() });
            if name != "data-demo-database-0" {
                claim.annotations_mut().insert(names::KEPT.to_owned(), "true".to_owned());
            }
            claim
        });
        assert_eq!(claimed("demo-database", &claims), 1);
        assert_eq!(barred("demo-database", 3, &claims), (1, Some("data-demo-database-1".to_owned())));
        assert_eq!(barred("demo-database", 1, &claims), (1, None));
        assert_eq!(barred("demo-broker", 3, &claims), (3, None));
        assert_eq!(barred("demo-database", 3, &claims[..1]), (3, None));
    }

    #[test]
    fn only_the_volumes_of_members_that_are_out_and_of_pods_that_are_gone_are_left_over() {
        let leftover = |size, name: &str, pods: &[&str]| {
            is_leftover("demo-database", size, &claim(name), |pod| pods.contains(&pod))
        };
        let shrunk = Size { pods: 1, free_from: Some(1) };
        assert!(leftover(shrunk, "data-demo-database-1", &["demo-database-0"]));
        assert!(!leftover(shrunk, "data-demo-database-1", &["demo-database-0", "demo-database-1"]));
        assert!(!leftover(shrunk, "data-demo-database-0", &[]));
        assert!(!leftover(Size { free_from: Some(2), ..shrunk }, "data-demo-database-1", &[]));
        assert!(!leftover(Size { free_from: None, ..shrunk }, "data-demo-database-1", &[]));
        for foreign in
            ["data-demo-broker-1", "data-demo-database-x", "data-demo-database-01", "mine", "data-demo-database--1"]
        {
            assert!(!leftover(shrunk, foreign, &[]), "{foreign}");
        }
    }
}
