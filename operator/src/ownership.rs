//! Whose an object is; pure.
//! Rule: an owner's uid is the proof; a name or a label never is.

use kube::{Resource, ResourceExt};

use crate::error::Error;

/// True when `uid` is among the object's owners.
pub fn is_owned<K: Resource>(object: &K, uid: &str) -> bool {
    object.owner_references().iter().any(|owner| owner.uid == uid)
}

/// Checks that an object of a child's name is the pipeline's own.
///
/// # Errors
/// [`Error::Leaving`] when it is being deleted or belonged to a deleted pipeline of the same name, which garbage collection is
/// about to take; [`Error::Foreign`] when it is somebody else's.
pub fn check<K: Resource<DynamicType = ()>>(object: &K, pipeline: &str, uid: &str) -> Result<(), Error> {
    let (kind, name) = (K::kind(&()).to_string(), object.name_any());
    let was_a_namesakes =
        || object.owner_references().iter().any(|owner| owner.kind == "StockPipeline" && owner.name == pipeline);
    match is_owned(object, uid) {
        true if object.meta().deletion_timestamp.is_none() => Ok(()),
        true => Err(Error::Leaving { kind, name }),
        false if was_a_namesakes() => Err(Error::Leaving { kind, name }),
        false => Err(Error::Foreign { kind, name }),
    }
}
