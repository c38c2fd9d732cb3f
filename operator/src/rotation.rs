//! Decides the next step from one generation of users to the next, of broker or database.
//! Rule: pure; each step may be the operator's last and is safe to repeat; no program ever holds a login that its server refuses.
//!
//! The new passwords are written down before anybody gets them, the users of both generations are there while programs move from one to the
//! other, and those before go when nobody works as one of them. What is remembered lies in the Secret of the part, nowhere else.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::credentials::{Generation, PartCredentials};
use crate::names::{self, Part};
use crate::objects::fingerprint;
use crate::plan::address_annotation;
use crate::pods::is_over;
use crate::status::Seen;

/// What a server said of the users.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Users {
    /// Those that will follow are there, with their passwords and rights.
    pub next: bool,
    /// A password in use is not the one that the Secret holds.
    pub edited: bool,
    /// Those of the generation before that are there.
    pub former: Vec<String>,
}

/// One step, or why there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing is wished and nothing is left to do.
    Rest,
    /// The world has to move first.
    Await(String),
    /// Writes the next generation's passwords into the Secret.
    Prepare,
    /// Makes the next generation the one that programs get.
    Switch,
    /// Removes the users before, unless somebody is connected as one of them.
    Retire,
}

/// The wish for other credentials, in a form that can be kept: any other value is another wish.
pub fn wish<K: ResourceExt>(pipeline: &K) -> Option<String> {
    let value = pipeline.annotations().get(names::ROTATE_CREDENTIALS).map(|value| value.trim());
    value.filter(|value| !value.is_empty()).map(fingerprint)
}

/// The next step of a part. `users` is what its server said, if it did; `programs` what keeps those who read its address from
/// having moved, see [`programs`].
pub fn next_step(
    credentials: &PartCredentials,
    wish: Option<&str>,
    users: Option<&Users>,
    programs: Option<&str>,
) -> Step {
    let unheard = wish.is_some() && credentials.wish.as_deref() != wish;
    let silent = || Step::Await(format!("the {} does not say which users it has", credentials.part.name()));
    match (users, &credentials.next) {
        (Some(users), Some(_)) if users.next => Step::Switch,
        (Some(_), Some(next)) => Step::Await(format!("the users of generation {} are being made", next.number)),
        (None, Some(_)) => silent(),
        // Before the first generation there was none.
        (None, None) if credentials.current.number == 0 => {
            if unheard {
                Step::Prepare
            } else {
                Step::Rest
            }
        }
        (None, None) => silent(),
        (Some(users), None) if !users.former.is_empty() => {
            programs.map_or(Step::Retire, |waits| Step::Await(waits.to_owned()))
        }
        (Some(users), None) if unheard || users.edited => Step::Prepare,
        (Some(_), None) => Step::Rest,
    }
}

/// The credentials with a next generation.
pub fn prepared(credentials: &PartCredentials, wish: Option<&str>) -> PartCredentials {
    let next = Generation::generate(credentials.part, credentials.current.number.saturating_add(1));
    let wish = wish.map(str::to_owned).or(credentials.wish.clone());
    PartCredentials { next: Some(next), wish, ..credentials.clone() }
}

/// The credentials with the next generation in use.
pub fn switched(credentials: &PartCredentials) -> PartCredentials {
    let current = credentials.next.clone().unwrap_or_else(|| credentials.current.clone());
    PartCredentials { current, next: None, ..credentials.clone() }
}

/// The value of the annotation by which programs are moved; none for the first generation, so that an operator's upgrade moves nobody.
pub fn mark(credentials: &PartCredentials) -> Option<String> {
    (credentials.current.number > 0).then(|| credentials.current.number.to_string())
}

/// What keeps the programs that read a part's address from having moved to its current users: a pod that is not of this generation may hold
/// the login of the one before, also while it ends.
pub fn programs(credentials: &PartCredentials, seen: &Seen) -> Option<String> {
    let (part, wanted) = (credentials.part, mark(credentials));
    let is_of = |annotations: Option<&String>| annotations == wanted.as_ref();
    let has_moved = |deployment: &Deployment| {
        let Some((spec, status)) = deployment.spec.as_ref().zip(deployment.status.as_ref()) else { return false };
        let annotations = spec.template.metadata.as_ref().and_then(|template| template.annotations.as_ref());
        let all = Some(spec.replicas.unwrap_or(1));
        let count = |count: Option<i32>| Some(count.unwrap_or(0)) == all;
        is_of(annotations.and_then(|annotations| annotations.get(address_annotation(part))))
            && status.observed_generation >= deployment.metadata.generation
            && [status.replicas, status.updated_replicas, status.ready_replicas].into_iter().all(count)
    };
    let deployments: Vec<String> = seen
        .deployments
        .iter()
        .filter(|deployment| reads(*deployment, part) && !has_moved(deployment))
        .map(ResourceExt::name_any)
        .collect();
    if let Some(first) = deployments.first() {
        return Some(match deployments.len() {
            1 => format!("deployment {first} has not moved to the new users yet"),
            more => format!("{more} deployments have not moved to the new users yet, {first} first"),
        });
    }
    let of_before =
        |pod: &&Pod| reads(*pod, part) && !is_over(pod) && !is_of(pod.annotations().get(address_annotation(part)));
    seen.pods
        .iter()
        .find(of_before)
        .map(|pod| format!("pod {} with the login of before has not ended yet", pod.name_any()))
}

/// Whether an object is of a program that reads the address of `part`.
fn reads<K: ResourceExt>(object: &K, part: Part) -> bool {
    let readers =
        if part == Part::Broker { [Part::Publisher, Part::Consumer] } else { [Part::Consumer, Part::Liveview] };
    readers.into_iter().any(|reader| names::is_of(object, reader))
}

#[cfg(test)]
#[path = "rotation_model.rs"]
mod model;
