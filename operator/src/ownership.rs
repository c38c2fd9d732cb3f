//! Whose an object is; pure.
//! Rule: an owner's uid is the proof. The one exception is what a pipeline left behind on purpose: it is nobody's, and carries the labels of a child.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};

use crate::crd::DeletionPolicy;
use crate::error::Error;
use crate::names;

/// True when `uid` is among the object's owners.
pub fn is_owned<K: Resource>(object: &K, uid: &str) -> bool {
    object.owner_references().iter().any(|owner| owner.uid == uid)
}

/// True when an object is what a pipeline of this name left behind, or will leave behind: labelled as a child of it, and owned by nobody.
pub fn is_retained<K: Resource>(object: &K, pipeline: &str) -> bool {
    let says = |label: &str, value: &str| object.labels().get(label).is_some_and(|said| said == value);
    object.owner_references().is_empty() && says(names::MANAGED_BY, names::MANAGER) && says(names::INSTANCE, pipeline)
}

/// True when an object is the pipeline's, in one way or the other.
pub fn is_ours<K: Resource>(object: &K, pipeline: &str, uid: &str) -> bool {
    is_owned(object, uid) || is_retained(object, pipeline)
}

/// The owners that a volume or a Secret of ours has to have; `None`: those it has. One that is not owned stays when the pipeline goes.
pub fn owners(
    present: &[OwnerReference],
    owner: &OwnerReference,
    policy: DeletionPolicy,
) -> Option<Vec<OwnerReference>> {
    let owned = present.iter().any(|present| present.uid == owner.uid);
    match (policy, owned) {
        (DeletionPolicy::Delete, false) => Some(present.iter().chain([owner]).cloned().collect()),
        (DeletionPolicy::Retain, true) => {
            Some(present.iter().filter(|present| present.uid != owner.uid).cloned().collect())
        }
        _ => None,
    }
}

/// Checks that an object of a child's name is the pipeline's own.
///
/// # Errors
/// [`Error::Leaving`] when it is being deleted or belonged to a deleted pipeline of the same name, which garbage collection is
/// about to take; [`Error::Foreign`] when it is somebody else's.
pub fn check<K: Resource>(kind: &str, object: &K, pipeline: &str, uid: &str) -> Result<(), Error> {
    let (kind, name) = (kind.to_owned(), object.name_any());
    let was_a_namesakes =
        || object.owner_references().iter().any(|owner| owner.kind == "StockPipeline" && owner.name == pipeline);
    match is_ours(object, pipeline, uid) {
        true if object.meta().deletion_timestamp.is_none() => Ok(()),
        true => Err(Error::Leaving { kind, name }),
        false if was_a_namesakes() => Err(Error::Leaving { kind, name }),
        false => Err(Error::Foreign { kind, name }),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Secret;

    use super::*;

    fn reference(uid: &str) -> OwnerReference {
        OwnerReference {
            uid: uid.into(),
            name: "demo".into(),
            kind: "StockPipeline".into(),
            ..OwnerReference::default()
        }
    }

    fn labelled(pipeline: &str, owners: Vec<OwnerReference>) -> Secret {
        let mut secret = Secret::default();
        *secret.labels_mut() = names::labels(&names::selector(pipeline, names::Part::Broker));
        secret.metadata.owner_references = Some(owners);
        secret
    }

    #[test]
    fn what_a_pipeline_left_behind_is_taken_up_by_the_next_of_its_name_and_by_nobody_else() {
        assert!(check("Secret", &labelled("demo", Vec::new()), "demo", "new").is_ok());
        assert!(check("Secret", &labelled("other", Vec::new()), "demo", "new").is_err());
        assert!(check("Secret", &Secret::default(), "demo", "new").is_err(), "without our labels it is somebody's");
        let owned = check("Secret", &labelled("demo", vec![reference("old")]), "demo", "new");
        assert!(matches!(owned, Err(Error::Leaving { .. })), "garbage collection is about to take it");
    }

    #[test]
    fn data_goes_with_the_pipeline_or_stays_as_the_policy_says_and_other_owners_are_left_alone() {
        let (ours, other) = (reference("ours"), reference("other"));
        let (delete, retain) = (DeletionPolicy::Delete, DeletionPolicy::Retain);
        assert_eq!(owners(&[other.clone(), ours.clone()], &ours, retain), Some(vec![other.clone()]));
        assert_eq!(owners(std::slice::from_ref(&other), &ours, retain), None);
        assert_eq!(owners(&[], &ours, delete), Some(vec![ours.clone()]));
        assert_eq!(owners(&[other, ours.clone()], &ours, delete), None);
    }
}
