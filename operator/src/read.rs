//! The only reads before planning: the generated credentials.
//! Rule: made once and never again while data exists that is locked with them; never printed.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret};
use kube::api::{ListParams, ObjectMeta, PartialObjectMeta, PostParams};
use kube::{Api, Client, Resource, ResourceExt};

use crate::children::Children;
use crate::claims;
use crate::crd::{DeletionPolicy, StockPipeline};
use crate::credentials::{Credentials, PartCredentials};
use crate::error::Error;
use crate::names::{self, Part};
use crate::ownership;
use crate::plan::run_by_us;
use crate::rotation;

/// What this process knows of the credentials.
#[derive(Clone, Default)]
pub struct Known {
    /// Those that an earlier pass read or wrote.
    pub credentials: Option<Credentials>,
    /// Parts whose server took them: what their Secret says besides is not true.
    pub accepted: BTreeSet<Part>,
    /// Parts whose former users were seen to be gone, with the generation.
    pub rested: BTreeMap<Part, u32>,
    /// The version of a Secret that the last step of a rotation replaced: the watch may still show it.
    replaced: BTreeMap<Part, Option<String>>,
    /// The version of a Secret that was last put right.
    told: BTreeMap<Part, Option<String>>,
}

impl Known {
    /// The same with the credentials of a pass.
    #[must_use]
    pub fn with(self, credentials: Credentials) -> Self {
        Self { credentials: Some(credentials), ..self }
    }

    /// A step of a rotation was written in place of `version`.
    pub fn wrote(&mut self, credentials: PartCredentials, version: Option<String>) {
        self.replaced.insert(credentials.part, version);
        if let Some(all) = &mut self.credentials {
            all.set(credentials);
        }
    }

    /// The generation in use.
    pub fn generation(&self, part: Part) -> u32 {
        self.credentials.as_ref().map_or(0, |credentials| credentials.of(part).current.number)
    }

    /// What counts of a Secret: what the server took, and what was written since; only without either what it says. The flag tells that
    /// somebody else changed it.
    fn judge(&mut self, part: Part, secret: &Secret) -> Result<(PartCredentials, bool), Error> {
        let read = PartCredentials::read(part, secret);
        let outdated = self.replaced.get(&part).is_some_and(|replaced| *replaced == secret.resource_version());
        let remembered = self.credentials.as_ref().map(|credentials| credentials.of(part).clone());
        match remembered.filter(|_| outdated || self.accepted.contains(&part)) {
            None => Ok((read?, false)),
            Some(remembered) => {
                let other = !outdated && read.ok().as_ref() != Some(&remembered);
                Ok((
                    remembered,
                    other && self.told.insert(part, secret.resource_version()) != Some(secret.resource_version()),
                ))
            }
        }
    }
}

/// Reads the credentials of a pipeline, and makes those that do not exist yet; names the Secrets that somebody else deleted or changed. A deleted
/// one comes back with what `known` holds, a changed one is written over when the objects are applied.
///
/// # Errors
/// [`Error::Foreign`] when a Secret of that name belongs to someone else, [`Error::IncompleteSecret`] when a key is missing, [`Error::LostSecret`] when
/// it is gone while its StatefulSet (and so its data) is there, [`Error::Kubernetes`] when the API server does not answer.
pub async fn credentials(
    client: &Client,
    store: &Children<Secret>,
    pipeline: &StockPipeline,
    known: &mut Known,
) -> Result<(Credentials, Vec<String>), Error> {
    let restore = known.credentials.is_some();
    let source =
        known.credentials.clone().unwrap_or_else(|| Credentials::generate(rotation::wish(pipeline).as_deref()));
    let (mut credentials, mut restored) = (source.clone(), Vec::new());
    // What somebody else runs has no credentials of ours: nothing is made, and what is here in its place nobody uses.
    for part in run_by_us(&pipeline.spec.broker, &pipeline.spec.database) {
        let (secret, made) = secret(client, store, pipeline, part, &source, restore).await?;
        let (part_credentials, changed) = known.judge(part, &secret)?;
        credentials.set(part_credentials);
        restored.extend((changed || (made && restore)).then(|| secret.name_any()));
    }
    Ok((credentials, restored))
}

/// The Secret, and whether it was made now.
async fn secret(
    client: &Client,
    store: &Children<Secret>,
    pipeline: &StockPipeline,
    part: Part,
    source: &Credentials,
    restore: bool,
) -> Result<(Secret, bool), Error> {
    let namespace = pipeline.namespace().unwrap_or_default();
    let name = names::credentials(&pipeline.name_any(), part);
    let uid = pipeline.uid().unwrap_or_default();
    let stored = store.get(&namespace, &pipeline.name_any(), &name);
    if let Some(secret) = stored.filter(|secret| ownership::check("Secret", secret, &pipeline.name_any(), &uid).is_ok())
    {
        return Ok((secret, false));
    }
    // The store may lag behind, and it holds labelled objects only: before making one, ask.
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let get = || async { secrets.get_opt(&name).await.map_err(Error::kubernetes("get", "Secret", &name)) };
    let owned =
        |secret: Secret| ownership::check("Secret", &secret, &pipeline.name_any(), &uid).map(|()| (secret, false));
    if let Some(secret) = get().await? {
        return owned(secret);
    }
    if !restore {
        let set = names::part(&pipeline.name_any(), part);
        let sets: Api<StatefulSet> = Api::namespaced(client.clone(), &namespace);
        let exists = sets.get_opt(&set).await.map_err(Error::kubernetes("get", "StatefulSet", &set))?;
        // The set alone would not do: it is away for a moment when its volumes grow.
        let data = ListParams::default().labels(&format!("{}={}", names::INSTANCE, pipeline.name_any()));
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &namespace);
        let claims =
            claims.list_metadata(&data).await.map_err(Error::kubernetes("list", "PersistentVolumeClaim", &set))?;
        let of_set = |claim: &PartialObjectMeta<PersistentVolumeClaim>| {
            claims::claim_ordinal(&set, &claim.name_any()).is_some()
                && ownership::is_ours(claim, &pipeline.name_any(), &uid)
        };
        if exists.is_some_and(|set| ownership::is_owned(&set, &uid)) || claims.iter().any(of_set) {
            return Err(Error::LostSecret { name, set });
        }
    }
    let labels = names::labels(&names::selector(&pipeline.name_any(), part));
    let retained = pipeline.spec.deletion_policy == DeletionPolicy::Retain;
    let owner = pipeline.controller_owner_ref(&()).filter(|_| !retained);
    let new = Secret {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(namespace),
            labels: Some(labels),
            owner_references: owner.map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        data: Some(source.of(part).data()),
        ..Secret::default()
    };
    // `create`, not apply: of two operators that race here, the second must take what the first made.
    let parameters = PostParams { field_manager: Some(names::MANAGER.into()), ..PostParams::default() };
    match secrets.create(&parameters, &new).await {
        Ok(secret) => Ok((secret, true)),
        Err(kube::Error::Api(status)) if status.code == 409 => match get().await? {
            Some(secret) => owned(secret),
            None => Err(Error::kubernetes("create", "Secret", &name)(kube::Error::Api(status))),
        },
        Err(error) => Err(Error::kubernetes("create", "Secret", &name)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(credentials: &PartCredentials, version: &str) -> Secret {
        let metadata = ObjectMeta { resource_version: Some(version.into()), ..ObjectMeta::default() };
        Secret { metadata, data: Some(credentials.data()), ..Secret::default() }
    }

    #[test]
    fn a_secret_counts_until_a_server_took_what_it_said_and_is_put_back_from_then_on() {
        let (ours, edited) = (Credentials::generate(None), Credentials::generate(None).broker);
        let mut known = Known::default().with(ours.clone());
        // It may be the backup that somebody has just restored.
        let judged = known.judge(Part::Broker, &secret(&edited, "2")).unwrap();
        assert!(judged == (edited.clone(), false));
        known.accepted.insert(Part::Broker);
        let judged = known.judge(Part::Broker, &secret(&edited, "3")).unwrap();
        assert!(judged == (ours.broker.clone(), true));
        let again = known.judge(Part::Broker, &secret(&edited, "3")).unwrap();
        assert!(again == (ours.broker.clone(), false), "told once");
        let lost = Secret { data: None, ..secret(&edited, "4") };
        assert!(known.judge(Part::Broker, &lost).unwrap() == (ours.broker.clone(), true));
        assert!(known.judge(Part::Broker, &secret(&ours.broker, "5")).unwrap() == (ours.broker, false));
    }

    #[test]
    fn what_the_watch_still_shows_of_before_a_step_is_neither_believed_nor_told() {
        let before = Credentials::generate(None);
        let mut known = Known::default().with(before.clone());
        let after = rotation::prepared(&before.database, Some("wish"));
        known.wrote(after.clone(), Some("7".into()));
        assert!(known.judge(Part::Database, &secret(&before.database, "7")).unwrap() == (after.clone(), false));
        assert!(known.judge(Part::Database, &secret(&after, "8")).unwrap() == (after, false));
    }
}
