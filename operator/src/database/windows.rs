//! Reads the newest window of each company, for the status, and what its consumer holds.
//! Rule: one indexed read per company; the cost never grows with the collection.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use mongodb::bson::{Bson, Document, doc};
use mongodb::error::Error;
use mongodb::options::{ClientOptions, ReadPreference, SelectionCriteria, ServerMonitoringMode};
use mongodb::{Client, Collection};
use tokio::time::timeout;
use wire::window::lease::{HELD, UNTIL};

use super::DatabaseError;
use super::client::{close, code_of, first_line};
use super::document::integer;

/// Longest time for all companies together.
pub(super) const READ: Duration = Duration::from_secs(3);
/// Reads under way at once; the client holds as many connections.
const TOGETHER: u32 = 2;

/// The newest window of a company.
#[derive(Clone, Debug, PartialEq)]
pub struct Latest {
    /// How many windows there are: the newest window's number plus one. `None` when the document was written by a
    /// program that does not number them, since counting would read the whole collection.
    pub windows: Option<i64>,
    /// Average price of the newest window.
    pub price: f64,
    /// Time of its last event; without one, the time the document was made (from its `_id`, whole seconds).
    pub at: Timestamp,
}

/// The newest window of each of `companies`, by company; one without a window is absent. `address` is that of the
/// application user, from [`super::connection_string`]. Takes at most three seconds.
///
/// # Errors
/// No member answered in time, or the application user was refused.
pub async fn latest_windows(
    address: &str,
    database: &str,
    collection: &str,
    companies: &[String],
) -> Result<BTreeMap<String, Latest>, DatabaseError> {
    let act = format!("read the newest windows of {database}.{collection}");
    as_application(address, act, async |client| read(client, database, collection, companies).await).await
}

/// Bounds a client that lives for one errand; without a primary it reads where it can.
pub(super) fn bound(options: &mut ClientOptions) {
    options.app_name = Some("stockpipeline-operator".to_owned());
    options.connect_timeout = Some(READ);
    options.server_selection_timeout = Some(READ);
    options.max_pool_size = Some(TOGETHER);
    options.selection_criteria =
        Some(SelectionCriteria::ReadPreference(ReadPreference::PrimaryPreferred { options: None }));
    options.server_monitoring_mode = Some(ServerMonitoringMode::Poll);
}

/// Does something with a client of the application user that lives no longer than that. Takes at most three seconds.
pub(super) async fn as_application<T>(
    address: &str,
    act: String,
    work: impl AsyncFnOnce(&Client) -> Result<T, Error>,
) -> Result<T, DatabaseError> {
    let failed = |member: &str, code, message| DatabaseError { act, member: member.to_owned(), code, message };
    // The parser's own text could quote the address, and so the password.
    let Ok(Ok(mut options)) = timeout(READ, ClientOptions::parse(address)).await else {
        return Err(failed("unknown", None, "the connection string is not one".to_owned()));
    };
    let members: Vec<String> = options.hosts.iter().map(ToString::to_string).collect();
    let members = members.join(",");
    bound(&mut options);
    let client = match Client::with_options(options) {
        Ok(client) => client,
        Err(error) => return Err(failed(&members, code_of(&error), first_line(&error))),
    };
    let answer = timeout(READ, work(&client)).await;
    close(client).await;
    match answer {
        Ok(done) => done.map_err(|error| failed(&members, code_of(&error), first_line(&error))),
        Err(_) => Err(failed(&members, None, format!("no answer within {} s", READ.as_secs()))),
    }
}

/// Whoever works for each of `companies`, by company: how many messages it said last that it holds, `None` from one that does not say. A company that
/// nobody works for is absent. `address` is that of the application user. Takes at most three seconds.
///
/// # Errors
/// As [`latest_windows`].
pub async fn held(
    address: &str,
    database: &str,
    collection: &str,
    companies: &[String],
) -> Result<BTreeMap<String, Option<i64>>, DatabaseError> {
    let leases = wire::window::leases(collection);
    let act = format!("read what consumers hold in {database}.{leases}");
    as_application(address, act, async |client| {
        let leases: Collection<Document> = client.database(database).collection(&leases);
        // By the database's clock, as the consumers renew them.
        let live = doc! {"_id": {"$in": companies}, "$expr": {"$gt": [format!("${UNTIL}"), "$$NOW"]}};
        let mut found = leases.find(live).projection(doc! {HELD: 1}).max_time(READ).await?;
        let mut held = BTreeMap::new();
        while let Some(lease) = found.try_next().await? {
            if let Ok(company) = lease.get_str("_id") {
                held.insert(company.to_owned(), integer(&lease, HELD));
            }
        }
        Ok(held)
    })
    .await
}

pub(super) async fn read(
    client: &Client,
    database: &str,
    collection: &str,
    companies: &[String],
) -> Result<BTreeMap<String, Latest>, Error> {
    let windows: Collection<Document> = client.database(database).collection(collection);
    let found: Vec<Result<_, Error>> = stream::iter(companies.to_vec())
        .map(|company| {
            let windows = windows.clone();
            async move {
                let newest = windows
                    .find_one(doc! {"company": &company})
                    .sort(doc! {"_id": -1})
                    .projection(doc! {"window": 1, "avgPrice": 1, "lastAt": 1})
                    .max_time(READ)
                    .await?;
                Ok((company, newest.as_ref().and_then(latest)))
            }
        })
        .buffer_unordered(TOGETHER as usize)
        .collect()
        .await;
    found
        .into_iter()
        .filter_map(|one| match one {
            Ok((company, newest)) => newest.map(|newest| Ok((company, newest))),
            Err(error) => Some(Err(error)),
        })
        .collect()
}

/// Reads a window document; `None` when it has no price or no time.
pub fn latest(document: &Document) -> Option<Latest> {
    let price = match document.get("avgPrice")? {
        Bson::Double(price) => *price,
        Bson::Int32(price) => f64::from(*price),
        Bson::Int64(price) => *price as f64,
        _ => return None,
    };
    let written = match document.get("lastAt") {
        Some(Bson::DateTime(at)) => Some(at.timestamp_millis()),
        Some(_) => integer(document, "lastAt"),
        None => None,
    };
    let made = || Some(document.get_object_id("_id").ok()?.timestamp().timestamp_millis());
    Some(Latest {
        windows: integer(document, "window").map(|window| window.saturating_add(1)),
        price,
        at: Timestamp::from_millisecond(written.or_else(made)?).ok()?,
    })
}
