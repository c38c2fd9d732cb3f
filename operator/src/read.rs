//! The only reads before planning: the generated credentials.
//! Rule: made once and never again while data exists that is locked with them; never printed.

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

/// Reads the credentials of a pipeline, and makes those that do not exist yet.
///
/// `remembered` is what an earlier pass read: a Secret that somebody deleted comes back with its old content.
///
/// # Errors
/// [`Error::Foreign`] when a Secret of that name belongs to someone else, [`Error::IncompleteSecret`] when a key is missing, [`Error::LostSecret`] when
/// it is gone while its StatefulSet (and so its data) is there, [`Error::Kubernetes`] when the API server does not answer.
pub async fn credentials(
    client: &Client,
    store: &Children<Secret>,
    pipeline: &StockPipeline,
    remembered: Option<&Credentials>,
) -> Result<Credentials, Error> {
    let fresh = Credentials::generate(None);
    let source = remembered.unwrap_or(&fresh);
    let restore = remembered.is_some();
    let mut credentials = source.clone();
    // What somebody else runs has no credentials of ours: nothing is made, and what is here in its place nobody uses.
    if pipeline.spec.broker.external.is_none() {
        let secret = secret(client, store, pipeline, Part::Broker, source, restore).await?;
        credentials.broker = PartCredentials::read(Part::Broker, &secret)?;
    }
    if pipeline.spec.database.external.is_none() {
        let secret = secret(client, store, pipeline, Part::Database, source, restore).await?;
        credentials.database = PartCredentials::read(Part::Database, &secret)?;
    }
    Ok(credentials)
}

async fn secret(
    client: &Client,
    store: &Children<Secret>,
    pipeline: &StockPipeline,
    part: Part,
    source: &Credentials,
    restore: bool,
) -> Result<Secret, Error> {
    let namespace = pipeline.namespace().unwrap_or_default();
    let name = names::credentials(&pipeline.name_any(), part);
    let uid = pipeline.uid().unwrap_or_default();
    let stored = store.get(&namespace, &pipeline.name_any(), &name);
    if let Some(secret) = stored.filter(|secret| ownership::check(secret, &pipeline.name_any(), &uid).is_ok()) {
        return Ok(secret);
    }
    // The store may lag behind, and it holds labelled objects only: before making one, ask.
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let get = || async { secrets.get_opt(&name).await.map_err(Error::kubernetes("get", "Secret", &name)) };
    let owned = |secret: Secret| ownership::check(&secret, &pipeline.name_any(), &uid).map(|()| secret);
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
        Ok(secret) => Ok(secret),
        Err(kube::Error::Api(status)) if status.code == 409 => match get().await? {
            Some(secret) => owned(secret),
            None => Err(Error::kubernetes("create", "Secret", &name)(kube::Error::Api(status))),
        },
        Err(error) => Err(Error::kubernetes("create", "Secret", &name)(error)),
    }
}
