//! The only reads before planning: the generated credentials.
//! Rule: made once and never again while data exists that is locked with them; never printed.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret};
use kube::api::{ListParams, ObjectMeta, PartialObjectMeta, PostParams};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Client, Resource, ResourceExt};
use rand::distr::{Alphanumeric, SampleString};

use crate::claims;
use crate::crd::{DeletionPolicy, StockPipeline};
use crate::error::Error;
use crate::names::{self, Part};
use crate::ownership;

/// Keys of the Secrets; the objects write them, this module reads them.
pub mod key {
    /// Name of the broker's user.
    pub const USERNAME: &str = "username";
    /// Password of the broker's user.
    pub const PASSWORD: &str = "password";
    /// Cookie by which the broker's nodes trust each other.
    pub const COOKIE: &str = "erlang-cookie";
    /// Key file by which the database's members trust each other.
    pub const KEYFILE: &str = "keyfile";
    /// Password of the database's administrator.
    pub const ADMINISTRATOR: &str = "administrator-password";
    /// Password of the database user of publisher, consumer and liveview.
    pub const APPLICATION: &str = "application-password";
    /// Password of the database's monitoring user.
    pub const MONITORING: &str = "monitoring-password";
    /// Connection string, derived.
    pub const URL: &str = "url";
    /// The broker's configuration fragment with its user, derived.
    pub const CONFIGURATION: &str = "credentials.conf";
}

/// Name of the broker's user.
pub const BROKER_USER: &str = "stockpipeline";
/// Name of the database's administrator.
pub const ADMINISTRATOR_USER: &str = "administrator";
/// Name of the database user of publisher, consumer and liveview.
pub const APPLICATION_USER: &str = "stockpipeline";
/// Name of the database's monitoring user.
pub const MONITORING_USER: &str = "monitoring";
/// Name of the replica set.
pub const REPLICA_SET: &str = "rs0";
/// Characters of a generated password: 62^32 is 190 bits.
const PASSWORD_LENGTH: usize = 32;
/// MongoDB allows a key of 6 to 1024 base64 characters.
const KEYFILE_LENGTH: usize = 756;

/// Credentials of broker and database.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Password of [`BROKER_USER`].
    pub broker_password: String,
    /// Erlang cookie.
    pub broker_cookie: String,
    /// MongoDB key file.
    pub database_keyfile: String,
    /// Administrator's password.
    pub database_administrator: String,
    /// Application user's password.
    pub database_application: String,
    /// Monitoring user's password.
    pub database_monitoring: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Credentials(redacted)")
    }
}

impl Credentials {
    fn generate() -> Self {
        let text = |length| Alphanumeric.sample_string(&mut rand::rng(), length);
        Self {
            broker_password: text(PASSWORD_LENGTH),
            broker_cookie: text(PASSWORD_LENGTH),
            database_keyfile: text(KEYFILE_LENGTH),
            database_administrator: text(PASSWORD_LENGTH),
            database_application: text(PASSWORD_LENGTH),
            database_monitoring: text(PASSWORD_LENGTH),
        }
    }

    /// The generated part of the Secret of broker or database.
    pub fn of(&self, part: Part) -> BTreeMap<String, ByteString> {
        let pairs: Vec<(&str, &str)> = match part {
            Part::Broker => {
                vec![
                    (key::USERNAME, BROKER_USER),
                    (key::PASSWORD, &self.broker_password),
                    (key::COOKIE, &self.broker_cookie),
                ]
            }
            _ => vec![
                (key::KEYFILE, &self.database_keyfile),
                (key::ADMINISTRATOR, &self.database_administrator),
                (key::APPLICATION, &self.database_application),
                (key::MONITORING, &self.database_monitoring),
            ],
        };
        pairs.into_iter().map(|(key, value)| (key.to_owned(), ByteString(value.as_bytes().to_vec()))).collect()
    }

    fn read_broker(&mut self, secret: &Secret) -> Result<(), Error> {
        self.broker_password = value(secret, key::PASSWORD)?;
        self.broker_cookie = value(secret, key::COOKIE)?;
        Ok(())
    }

    fn read_database(&mut self, secret: &Secret) -> Result<(), Error> {
        self.database_keyfile = value(secret, key::KEYFILE)?;
        self.database_administrator = value(secret, key::ADMINISTRATOR)?;
        self.database_application = value(secret, key::APPLICATION)?;
        self.database_monitoring = value(secret, key::MONITORING)?;
        Ok(())
    }
}

fn value(secret: &Secret, key: &'static str) -> Result<String, Error> {
    secret
        .data
        .as_ref()
        .and_then(|data| data.get(key))
        .and_then(|bytes| String::from_utf8(bytes.0.clone()).ok())
        .filter(|text| !text.is_empty())
        .ok_or_else(|| Error::IncompleteSecret { name: secret.name_any(), key })
}

/// Reads the credentials of a pipeline, and makes those that do not exist yet.
///
/// `remembered` is what an earlier pass read: a Secret that somebody deleted comes back with its old content.
///
/// # Errors
/// [`Error::Foreign`] when a Secret of that name belongs to someone else, [`Error::IncompleteSecret`] when a key is missing or the Secret
/// is gone while its StatefulSet (and so its data) is there, [`Error::Kubernetes`] when the API server does not answer.
pub async fn credentials(
    client: &Client,
    store: &Store<Secret>,
    pipeline: &StockPipeline,
    remembered: Option<&Credentials>,
) -> Result<Credentials, Error> {
    let fresh = Credentials::generate();
    let source = remembered.unwrap_or(&fresh);
    let restore = remembered.is_some();
    let mut credentials = source.clone();
    // What somebody else runs has no credentials of ours: nothing is made, and what is here in its place nobody uses.
    if pipeline.spec.broker.external.is_none() {
        credentials.read_broker(&secret(client, store, pipeline, Part::Broker, source, restore).await?)?;
    }
    if pipeline.spec.database.external.is_none() {
        credentials.read_database(&secret(client, store, pipeline, Part::Database, source, restore).await?)?;
    }
    Ok(credentials)
}

async fn secret(
    client: &Client,
    store: &Store<Secret>,
    pipeline: &StockPipeline,
    part: Part,
    source: &Credentials,
    restore: bool,
) -> Result<Secret, Error> {
    let namespace = pipeline.namespace().unwrap_or_default();
    let name = names::credentials(&pipeline.name_any(), part);
    let uid = pipeline.uid().unwrap_or_default();
    let stored = store.get(&ObjectRef::new(&name).within(&namespace));
    if let Some(secret) = stored.filter(|secret| ownership::check(secret.as_ref(), &pipeline.name_any(), &uid).is_ok())
    {
        return Ok(secret.as_ref().clone());
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
            claims::claim_ordinal(&set, &claim.name_any()).is_some() && ownership::is_owned(claim, &uid)
        };
        if exists.is_some_and(|set| ownership::is_owned(&set, &uid)) || claims.iter().any(of_set) {
            let first_key = if part == Part::Broker { key::PASSWORD } else { key::KEYFILE };
            return Err(Error::IncompleteSecret { name, key: first_key });
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
        data: Some(source.of(part)),
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
