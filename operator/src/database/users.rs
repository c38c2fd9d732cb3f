//! The users of a generation that is not in use: those that will follow are made, those before removed.
//! Rule: an act is safe to repeat; nobody is removed as whom somebody is connected.

use std::time::Duration;

use futures::future::try_join_all;
use mongodb::Client;
use mongodb::bson::{Bson, Document, doc};
use mongodb::error::Error;
use tokio::time::timeout;

use super::DatabaseError;
use super::client::{close, code, code_of, connect, first_line};
use super::credentials::Credentials;
use super::decision::Wanted;
use super::document;
use super::seen::{User, UserState};

/// Longest errand at one member.
const ERRAND: Duration = Duration::from_secs(5);

/// Makes the users of `next`, which nobody uses yet; whether all of them are there as they have to be.
///
/// # Errors
/// The primary did not answer in time or refused.
pub async fn make(primary: &str, wanted: &Wanted, next: &Credentials) -> Result<bool, DatabaseError> {
    let names: Vec<String> = User::ALL.map(|user| next.account(user).name.clone()).into();
    at(primary, wanted, next, "make the next users", async |client| {
        let admin = client.database("admin");
        let listed = admin.run_command(doc! {"usersInfo": by_name(&names)}).await?;
        let mut all = true;
        for (user, state) in document::users(&listed, &wanted.database, next) {
            let command = match state {
                UserState::Current => continue,
                UserState::Missing => "createUser",
                UserState::Stale | UserState::OtherPassword => "updateUser",
            };
            all = false;
            tracing::info!(member = primary, "{command} {}", next.account(user).name);
            admin.run_command(document::user_command(command, user, &wanted.database, next)).await?;
        }
        Ok(all)
    })
    .await
}

/// Which of these users are there.
///
/// # Errors
/// The primary did not answer in time or refused.
pub async fn there(
    primary: &str,
    wanted: &Wanted,
    credentials: &Credentials,
    names: Vec<String>,
) -> Result<Vec<String>, DatabaseError> {
    // The server refuses an empty list.
    if names.is_empty() {
        return Ok(names);
    }
    let command = doc! {"usersInfo": by_name(&names)};
    let answer = at(primary, wanted, credentials, "list users", async |client| {
        client.database("admin").run_command(command).await
    })
    .await?;
    let listed = answer.get_array("users").into_iter().flatten().filter_map(Bson::as_document);
    Ok(listed.filter_map(|user| user.get_str("user").ok()).map(str::to_owned).collect())
}

/// Removes these users, unless somebody is connected to a member as one of them, and says who.
///
/// # Errors
/// A member did not answer in time or refused: what is not known keeps them.
pub async fn retire(
    primary: &str,
    wanted: &Wanted,
    credentials: &Credentials,
    names: &[String],
) -> Result<Option<String>, DatabaseError> {
    let looks = wanted.members.iter().map(|member| connected(member, wanted, credentials, names));
    if let Some(who) = try_join_all(looks).await?.into_iter().flatten().next() {
        return Ok(Some(who));
    }
    at(primary, wanted, credentials, "remove users", async |client| {
        for name in names {
            let command = doc! {"dropUser": name, "writeConcern": {"w": "majority", "wtimeout": 4000}};
            match client.database("admin").run_command(command).await {
                Err(error) if code_of(&error) == Some(code::USER_NOT_FOUND) => {}
                outcome => drop(outcome?),
            }
        }
        Ok(None)
    })
    .await
}

async fn connected(
    member: &str,
    wanted: &Wanted,
    credentials: &Credentials,
    names: &[String],
) -> Result<Option<String>, DatabaseError> {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    at(member, wanted, credentials, "list connections", async |client| {
        // A connection that does nothing counts as well: its program will want something again.
        let all = doc! {"$currentOp": {"allUsers": true, "idleConnections": true}};
        let ours = doc! {"$match": {"effectiveUsers": {"$elemMatch": {"user": {"$in": &names}, "db": "admin"}}}};
        let shown = doc! {"$project": {"client": 1, "effectiveUsers": 1}};
        let mut found = client.database("admin").aggregate([all, ours, doc! {"$limit": 1}, shown]).await?;
        if !found.advance().await? {
            return Ok(None);
        }
        let connection: Document = found.deserialize_current()?;
        let users = connection.get_array("effectiveUsers").into_iter().flatten().filter_map(Bson::as_document);
        let user = users.filter_map(|user| user.get_str("user").ok()).find(|user| names.contains(user));
        let from = connection.get_str("client").unwrap_or("somewhere");
        Ok(Some(format!("somebody at {from} is connected to {member} as {}", user.unwrap_or("one of them"))))
    })
    .await
}

fn by_name(names: &[String]) -> Vec<Bson> {
    names.iter().map(|name| doc! {"user": name, "db": "admin"}.into()).collect()
}

/// Does something at one member with the identity that the members have.
async fn at<T>(
    member: &str,
    wanted: &Wanted,
    credentials: &Credentials,
    act: &str,
    work: impl AsyncFnOnce(&Client) -> Result<T, Error>,
) -> Result<T, DatabaseError> {
    let failed = |code, message| DatabaseError { act: act.to_owned(), member: member.to_owned(), code, message };
    let client = connect(member, credentials.member(), wanted.trusted.as_deref(), ERRAND)
        .map_err(|error| failed(code_of(&error), first_line(&error)))?;
    let outcome = timeout(ERRAND, work(&client)).await;
    close(client).await;
    match outcome {
        Ok(done) => done.map_err(|error| failed(code_of(&error), first_line(&error))),
        Err(_) => Err(failed(None, format!("no answer within {} s", ERRAND.as_secs()))),
    }
}
