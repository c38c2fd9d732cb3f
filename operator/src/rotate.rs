//! Carries out the steps of a rotation.
//! Rule: the Secret is written on the condition that it is the one the step was decided on; what failed is decided anew in the next pass.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use crate::broker;
use crate::children::Children;
use crate::credentials::{PartCredentials, key};
use crate::database::{self, users};
use crate::error::Error;
use crate::names::{self, Part};
use crate::ownership;
use crate::plan::{Plan, run_by_us};
use crate::read::Known;
use crate::rotation::{self, Step, Users};
use crate::status::{Rotation, Seen};
use crate::web::Web;

/// What the steps need besides the plan.
pub struct Tools<'a> {
    /// The API server.
    pub client: &'a Client,
    /// The Secrets as the watch has them.
    pub secrets: &'a Children<Secret>,
    /// The broker's management interface.
    pub http: &'a Web,
}

/// Takes the next step of each part that we run, and says how far they are. What was written is in `known` at once.
pub async fn rotate(
    tools: &Tools<'_>,
    plan: &Plan,
    wish: Option<&str>,
    seen: &Seen,
    known: &mut Known,
) -> (Rotation, Vec<Error>) {
    let (mut waits, mut errors) = (Vec::new(), Vec::new());
    let ours: Vec<Part> = run_by_us(&plan.broker, &plan.database).collect();
    for part in &ours {
        let credentials = plan.credentials.of(*part);
        let users = look(plan, credentials, seen, known).await;
        if users.as_ref().is_some_and(|users| users.former.is_empty()) {
            known.rested.insert(*part, credentials.current.number);
        }
        let programs = rotation::programs(credentials, seen);
        let step = rotation::next_step(credentials, wish, users.as_ref(), programs.as_deref());
        let wait = match step {
            Step::Rest => continue,
            Step::Await(reason) => reason,
            Step::Prepare | Step::Switch => {
                let (next, doing) = match step {
                    Step::Prepare => (rotation::prepared(credentials, wish), "new users are being made"),
                    _ => (rotation::switched(credentials), "programs move to the new users"),
                };
                errors.extend(write(tools, plan, next, known).await.err());
                doing.to_owned()
            }
            Step::Retire => retire(tools, plan, credentials, seen, &users.unwrap_or_default().former).await,
        };
        waits.push(format!("{}: {wait}", part.name()));
    }
    let generations: Vec<String> = ours
        .iter()
        .map(|part| format!("generation {} of the {}'s users is in use", known.generation(*part), part.name()))
        .collect();
    let rotation = match (wish, waits.is_empty(), ours.is_empty()) {
        (_, false, _) => Rotation::UnderWay(waits.join("; ")),
        (None, true, _) => Rotation::NotWished,
        (Some(_), true, false) => Rotation::Done(generations.join(", ")),
        (Some(_), true, true) => Rotation::Done(
            "broker and database are somebody else's: change their logins there and in the Secrets named".into(),
        ),
    };
    (rotation, errors)
}

/// What the server of a part says of the users; the database is asked for more than the current ones only while it matters.
async fn look(plan: &Plan, credentials: &PartCredentials, seen: &Seen, known: &Known) -> Option<Users> {
    let part = credentials.part;
    let rested = known.rested.get(&part) == Some(&credentials.current.number);
    let at_rest = || (rested && credentials.next.is_none()).then(Users::default);
    let Some(said) = seen.users.get(&part) else { return at_rest() };
    let mut users = said.clone();
    if part == Part::Broker || (rested && credentials.next.is_none()) {
        return Some(users);
    }
    let primary = seen.primary.as_deref()?;
    let wanted = plan.database_wanted(&[]);
    let asked = async {
        if let Some(next) = &credentials.next {
            users.next = users::make(primary, &wanted, &plan.database_credentials_of(next)).await?;
        }
        users.former =
            users::there(primary, &wanted, &plan.database_credentials(), credentials.current.former()).await?;
        Ok::<Users, database::DatabaseError>(users)
    };
    asked.await.inspect_err(|error| tracing::warn!(%error, "the database's users are not known")).ok()
}

/// Removes the users before; says what keeps them, or that they are on their way out.
async fn retire(
    tools: &Tools<'_>,
    plan: &Plan,
    credentials: &PartCredentials,
    seen: &Seen,
    former: &[String],
) -> String {
    let part = credentials.part;
    let still = |who: Option<String>| {
        who.map(|who| {
            format!("{who}: the users before go when nobody is connected as one of them; restart that program with the new login")
        })
    };
    let outcome = match (part, seen.primary.as_deref()) {
        (Part::Broker, _) => broker::retire(tools.http, &plan.broker_wanted(false), former).await,
        (_, Some(primary)) => users::retire(primary, &plan.database_wanted(&[]), &plan.database_credentials(), former)
            .await
            .map_err(|error| error.to_string()),
        (_, None) => Err("the database has no primary".to_owned()),
    };
    match outcome {
        Ok(who) => still(who).unwrap_or_else(|| {
            tracing::info!(part = part.name(), users = former.join(", "), "users removed that nobody uses any more");
            "the users before are removed".to_owned()
        }),
        Err(reason) => format!("the users before are still there: {reason}"),
    }
}

/// Replaces the credentials in the Secret, its address with them: a pod that starts gets both or none.
async fn write(tools: &Tools<'_>, plan: &Plan, credentials: PartCredentials, known: &mut Known) -> Result<(), Error> {
    let part = credentials.part;
    let name = names::credentials(&plan.name, part);
    let stored = tools.secrets.get(&plan.namespace, &plan.name, &name);
    let Some(stored) = stored.filter(|secret| ownership::is_ours(secret, &plan.name, &plan.owner.uid)) else {
        return Ok(());
    };
    let mut after = plan.clone();
    after.credentials.set(credentials.clone());
    let mut data: BTreeMap<String, Value> =
        after.secret(part).into_iter().map(|(key, value)| (key, json!(value))).collect();
    for gone in stored.data.iter().flatten().map(|(key, _)| key).filter(|key| key.starts_with(key::NEXT)) {
        data.entry(gone.clone()).or_insert(Value::Null);
    }
    let version = stored.resource_version();
    let patch = json!({"metadata": {"resourceVersion": version, "uid": stored.uid()}, "data": data});
    let api: Api<Secret> = Api::namespaced(tools.client.clone(), &plan.namespace);
    let parameters = PatchParams { field_manager: Some(names::MANAGER.into()), ..PatchParams::default() };
    match api.patch(&name, &parameters, &Patch::Merge(&patch)).await {
        Ok(_) => {
            let (generation, next) = (credentials.current.number, credentials.next.is_some());
            tracing::info!(name, namespace = plan.namespace, generation, next, "credentials written");
            known.wrote(credentials, version);
            Ok(())
        }
        // Somebody changed it since the watch saw it, the last step of this very rotation most often.
        Err(kube::Error::Api(status)) if status.code == 409 || status.code == 404 => Ok(()),
        Err(error) => Err(Error::kubernetes("patch", "Secret", &name)(error)),
    }
}
