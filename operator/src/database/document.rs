//! Translates between the plain types and the documents of mongod's commands.
//! Rule: pure; a field we do not know survives a change of the configuration.

use std::collections::BTreeMap;

use mongodb::bson::{Bson, Document, doc};

use super::credentials::Credentials;
use super::decision::{Change, Wanted, voters_wanted};
use super::seen::{Bar, Config, ConfigMember, User, UserState};

/// A whole number, whichever of BSON's number types the server chose.
pub(super) fn integer(document: &Document, key: &str) -> Option<i64> {
    match document.get(key)? {
        Bson::Int32(number) => Some(i64::from(*number)),
        Bson::Int64(number) => Some(*number),
        Bson::Double(number) if number.fract() == 0.0 => Some(*number as i64),
        _ => None,
    }
}

/// The configuration in an answer of `replSetGetConfig`.
pub(super) fn config(answer: &Document) -> Config {
    let empty = Document::new();
    let config = answer.get_document("config").unwrap_or(&empty);
    let settings = config.get_document("settings").unwrap_or(&empty);
    Config {
        set: config.get_str("_id").unwrap_or_default().to_owned(),
        id: settings.get_object_id("replicaSetId").map(|id| id.to_hex()).unwrap_or_default(),
        version: integer(config, "version").unwrap_or(0),
        term: integer(config, "term").unwrap_or(-1),
        election_timeout_millis: integer(settings, "electionTimeoutMillis")
            .and_then(|millis| u64::try_from(millis).ok()),
        members: members(config)
            .map(|member| ConfigMember {
                host: member.get_str("host").unwrap_or_default().to_owned(),
                votes: integer(member, "votes").unwrap_or(1) > 0,
                electable: priority(member) > 0.0,
                bar: bar(member),
            })
            .collect(),
    }
}

fn priority(member: &Document) -> f64 {
    match member.get("priority") {
        Some(Bson::Double(number)) => *number,
        Some(_) => integer(member, "priority").map_or(1.0, |number| number as f64),
        None => 1.0,
    }
}

/// The one that is the hardest to take away.
fn bar(member: &Document) -> Option<Bar> {
    let is = |key, value| member.get_bool(key).is_ok_and(|found| found == value);
    let delayed = |key| integer(member, key).is_some_and(|seconds| seconds > 0);
    if is("arbiterOnly", true) {
        Some(Bar::Arbiter)
    } else if is("buildIndexes", false) {
        Some(Bar::NoIndexes)
    } else if is("hidden", true) {
        Some(Bar::Hidden)
    } else if delayed("secondaryDelaySecs") || delayed("slaveDelay") {
        Some(Bar::Delayed)
    } else {
        None
    }
}

fn members(config: &Document) -> impl Iterator<Item = &Document> {
    config.get_array("members").into_iter().flatten().filter_map(Bson::as_document)
}

/// The configuration of a new set. All members have the same priority: with a preferred primary, each return of that
/// member would cost an election, and so a second without writes.
pub(super) fn initial(wanted: &Wanted) -> Document {
    let voters = voters_wanted(wanted.members.len());
    let members: Vec<Bson> = wanted
        .members
        .iter()
        .enumerate()
        .map(|(ordinal, host)| {
            let vote = i32::from(ordinal < voters);
            doc! {"_id": ordinal as i64, "host": host, "votes": vote, "priority": vote}.into()
        })
        .collect();
    doc! {
        "_id": &wanted.set,
        "version": 1,
        "members": members,
        "settings": {"electionTimeoutMillis": wanted.election_timeout_millis as i64},
    }
}

/// The configuration of an answer of `replSetGetConfig` with one change, as the next version; `None` when the answer
/// is not of `from_version` any more, or holds the change already.
pub(super) fn changed(answer: &Document, from_version: i64, change: &Change) -> Option<Document> {
    let mut config = answer.get_document("config").ok()?.clone();
    if integer(&config, "version") != Some(from_version) {
        return None;
    }
    match change {
        Change::Add(host) => {
            if members(&config).any(|member| member.get_str("host").is_ok_and(|found| found == host)) {
                return None;
            }
            let id =
                members(&config).filter_map(|member| integer(member, "_id")).max().map_or(0, |highest| highest + 1);
            config
                .get_array_mut("members")
                .ok()?
                .push(doc! {"_id": id, "host": host, "votes": 0, "priority": 0}.into());
        }
        Change::Promote(host) => {
            let member = member_mut(&mut config, host)?;
            member.insert("votes", 1);
            member.insert("priority", 1);
        }
        Change::Retire(host) => {
            member_mut(&mut config, host)?.insert("priority", 0);
        }
        Change::Remove(host) => {
            let members = config.get_array_mut("members").ok()?;
            let before = members.len();
            members.retain(|member| {
                member.as_document().and_then(|member| member.get_str("host").ok()) != Some(host.as_str())
            });
            if members.len() == before {
                return None;
            }
        }
        Change::ElectionTimeout(millis) => {
            let mut settings = config.get_document("settings").cloned().unwrap_or_default();
            settings.insert("electionTimeoutMillis", *millis as i64);
            config.insert("settings", settings);
        }
    }
    config.insert("version", from_version + 1);
    // The primary fills in its own term; an old one would be refused.
    config.remove("term");
    Some(config)
}

fn member_mut<'a>(config: &'a mut Document, host: &str) -> Option<&'a mut Document> {
    let members = config.get_array_mut("members").ok()?;
    let mut members = members.iter_mut().filter_map(Bson::as_document_mut);
    members.find(|member| member.get_str("host").is_ok_and(|found| found == host))
}

/// The roles of a user (MongoDB manual, "Built-In Roles"): role and the database it holds for.
fn roles(user: User, database: &str) -> Vec<(&'static str, &str)> {
    match user {
        User::Administrator => vec![("root", "admin")],
        User::Application => vec![("readWrite", database)],
        User::Monitoring => vec![("clusterMonitor", "admin")],
    }
}

/// `createUser` or `updateUser` with the whole of what the user has to be.
pub(super) fn user_command(command: &str, user: User, database: &str, credentials: &Credentials) -> Document {
    let account = credentials.account(user);
    let roles: Vec<Bson> =
        roles(user, database).into_iter().map(|(role, database)| doc! {"role": role, "db": database}.into()).collect();
    doc! {
        command: &account.name,
        "pwd": &account.password,
        "roles": roles,
        "customData": {"fingerprint": account.fingerprint()},
        "mechanisms": ["SCRAM-SHA-256"],
        "writeConcern": {"w": "majority", "wtimeout": 4000},
    }
}

/// The users in an answer of `usersInfo`, against what they have to be.
pub(super) fn users(answer: &Document, database: &str, credentials: &Credentials) -> BTreeMap<User, UserState> {
    let listed: Vec<&Document> =
        answer.get_array("users").into_iter().flatten().filter_map(Bson::as_document).collect();
    let state = |user| {
        let account = credentials.account(user);
        let Some(found) = listed.iter().find(|found| found.get_str("user").is_ok_and(|name| name == account.name))
        else {
            return UserState::Missing;
        };
        let fingerprint =
            found.get_document("customData").and_then(|data| data.get_str("fingerprint")).unwrap_or_default();
        let mut found_roles: Vec<(&str, &str)> = found
            .get_array("roles")
            .into_iter()
            .flatten()
            .filter_map(Bson::as_document)
            .filter_map(|role| Some((role.get_str("role").ok()?, role.get_str("db").ok()?)))
            .collect();
        found_roles.sort_unstable();
        let same = fingerprint == account.fingerprint();
        if same && found_roles == roles(user, database) {
            UserState::Current
        } else if same || fingerprint.is_empty() {
            UserState::Stale
        } else {
            UserState::OtherPassword
        }
    };
    User::ALL.map(|user| (user, state(user))).into()
}
