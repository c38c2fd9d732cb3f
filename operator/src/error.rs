//! What can go wrong in a pass, and when to try again.
//! Rule: a text names the object and the remedy; an error never carries a secret.

use std::time::Duration;

/// Why a pass did not do all it should.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stored resource is not one this operator can read.
    #[error("the resource cannot be read: {0}; compare it with `kubectl explain stockpipeline.spec`")]
    Unreadable(String),
    /// The spec says something the API server could not refuse.
    #[error("{0}")]
    InvalidSpec(String),
    /// The API server refused or did not answer.
    #[error("{verb} {kind} {name}: {}: {}", words(source), remedy(source))]
    Kubernetes {
        /// What was tried.
        verb: &'static str,
        /// Kind of the object.
        kind: String,
        /// Name of the object.
        name: String,
        /// What the server said.
        source: Box<kube::Error>,
    },
    /// An object of that name exists and belongs to someone else.
    #[error("{kind} {name} exists and does not belong to this pipeline: delete or rename it, or rename the pipeline")]
    Foreign {
        /// Kind of the object.
        kind: String,
        /// Name of the object.
        name: String,
    },
    /// The object of that name is being deleted.
    #[error("{kind} {name} is still being deleted; it is made anew when it is gone, or do finalizers hold it")]
    Leaving {
        /// Kind of the object.
        kind: String,
        /// Name of the object.
        name: String,
    },
    /// A volume is to be larger and does not become it.
    #[error("{0}")]
    VolumeCannotGrow(String),
    /// A new member would start with the data of one that left.
    #[error(
        "claim {claim} holds the data of a member that left, kept because deletionPolicy is Retain, and no new member starts with it: \
         save what you need of it and delete the claim"
    )]
    KeptVolume {
        /// Name of the claim.
        claim: String,
    },
    /// The pass was given up.
    #[error("the pass took longer than {0:?} and was given up, and is tried again: does the API server answer")]
    TookTooLong(Duration),
    /// No certificate could be made.
    #[error("no certificate could be made: {0}: is the clock of the operator's node right; it is tried again")]
    CertificateNotMade(String),
    /// What the operator trusts could not be written down.
    #[error(
        "the authorities cannot be written to the operator's temporary folder: {0}: install the chart anew, its pod has one"
    )]
    NoTemporaryFolder(String),
    /// A Secret of generated credentials lacks a key.
    #[error(
        "secret {name} lacks the key {key}: restore it from a backup; the operator does not make a second one, for the data is locked with the first"
    )]
    IncompleteSecret {
        /// Name of the Secret.
        name: String,
        /// The missing key.
        key: String,
    },
    /// A Secret of generated credentials is gone, and the data that is locked with it is not.
    #[error(
        "secret {name} is gone, and the data that is locked with it is there: restore it from a backup, or from what a pod of {set} still \
         has (README, \"A lost Secret\"); the operator does not make a second one, which would open nothing"
    )]
    LostSecret {
        /// Name of the Secret.
        name: String,
        /// The StatefulSet whose pods use it.
        set: String,
    },
}

/// The API server's own sentence; the error type's text repeats it as a dump of its fields.
fn words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// What a person can do about it.
fn remedy(error: &kube::Error) -> &'static str {
    match error {
        kube::Error::Api(status) if status.code == 403 => {
            "install the chart anew if a right is missing; else a quota or an admission policy has to allow it"
        }
        kube::Error::Api(status) if status.code == 422 => {
            "correct that field of the spec; a field that cannot change does when the object is deleted, for it is made anew"
        }
        _ => "it is tried again by itself",
    }
}

/// When to try again, the soonest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Retry {
    /// With the pipeline's next short interval.
    Soon,
    /// After a while: someone has to act first.
    Later,
    /// Not before the resource changes.
    OnChange,
}

impl Error {
    /// Wraps an answer of the API server.
    pub fn kubernetes(
        verb: &'static str,
        kind: impl Into<String>,
        name: impl Into<String>,
    ) -> impl FnOnce(kube::Error) -> Self {
        move |source| Self::Kubernetes { verb, kind: kind.into(), name: name.into(), source: Box::new(source) }
    }

    /// When to try again after this error.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Unreadable(_) | Self::InvalidSpec(_) => Retry::OnChange,
            Self::Leaving { .. } | Self::TookTooLong(_) | Self::CertificateNotMade(_) => Retry::Soon,
            Self::Foreign { .. }
            | Self::IncompleteSecret { .. }
            | Self::LostSecret { .. }
            | Self::VolumeCannotGrow(_)
            | Self::KeptVolume { .. }
            | Self::NoTemporaryFolder(_) => Retry::Later,
            Self::Kubernetes { source, .. } => match source.as_ref() {
                kube::Error::Api(status) if status.code == 422 || status.code == 403 => Retry::Later,
                _ => Retry::Soon,
            },
        }
    }

    /// Name of the child that could not be made.
    pub fn object(&self) -> Option<&str> {
        match self {
            Self::Kubernetes { name, .. } | Self::Foreign { name, .. } | Self::Leaving { name, .. } => Some(name),
            Self::Unreadable(_) | Self::InvalidSpec(_) | Self::TookTooLong(_) => None,
            Self::IncompleteSecret { .. } | Self::LostSecret { .. } => None,
            Self::VolumeCannotGrow(_) | Self::KeptVolume { .. } => None,
            Self::CertificateNotMade(_) | Self::NoTemporaryFolder(_) => None,
        }
    }

    /// One word for the condition and the metric.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "Unreadable",
            Self::InvalidSpec(_) => "InvalidSpec",
            Self::Foreign { .. } => "ForeignObject",
            Self::Leaving { .. } => "BeingDeleted",
            Self::TookTooLong(_) => "TookTooLong",
            Self::VolumeCannotGrow(_) => "VolumeCannotGrow",
            Self::KeptVolume { .. } => "KeptVolume",
            Self::IncompleteSecret { .. } | Self::LostSecret { .. } => "IncompleteSecret",
            Self::CertificateNotMade(_) => "CertificateNotMade",
            Self::NoTemporaryFolder(_) => "NoTemporaryFolder",
            Self::Kubernetes { source, .. } => match source.as_ref() {
                kube::Error::Api(status) if status.code == 422 => "ImmutableOrInvalid",
                kube::Error::Api(status) if status.code == 403 => "Forbidden",
                _ => "KubernetesError",
            },
        }
    }
}

impl Retry {
    /// The pause before the next try; none means: wait for a change.
    pub fn pause(self) -> Option<Duration> {
        match self {
            Self::OnChange => None,
            Self::Soon => Some(Duration::from_secs(3)),
            Self::Later => Some(Duration::from_secs(30)),
        }
    }
}
