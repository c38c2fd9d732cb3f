//! Tells the consumers whose companies are being drained: in their leases, which they renew each second. Those of companies that have drained go.
//! Rule: the wish is over by itself when nobody repeats it, so an operator that goes leaves no company with short windows.

use std::collections::BTreeSet;

use mongodb::Collection;
use mongodb::bson::{Document, doc};
use wire::window::lease::{DRAIN_UNTIL, UNTIL};

use super::DatabaseError;
use super::windows::as_application;

/// How long the wish holds. It is repeated with each pass, the longest pause between two of them included.
const HOLDS_MILLIS: i64 = 30_000;

/// Has the windows of `drained` companies stored short when nothing more comes, and those of `others` full again. Companies without a lease have no
/// consumer that could hold anything. `address` is that of the application user. Takes at most three seconds.
///
/// # Errors
/// No primary answered in time, or it refused.
pub async fn tell(
    address: &str,
    database: &str,
    collection: &str,
    drained: &BTreeSet<String>,
    others: &BTreeSet<String>,
) -> Result<(), DatabaseError> {
    let leases = wire::window::leases(collection);
    let act = format!("tell the consumers in {database}.{leases} what is drained");
    as_application(address, act, async |client| {
        let leases: Collection<Document> = client.database(database).collection(&leases);
        if !drained.is_empty() {
            let until = doc! {"$set": {DRAIN_UNTIL: {"$add": ["$$NOW", HOLDS_MILLIS]}}};
            leases.update_many(of(drained), vec![until]).await?;
        }
        if !others.is_empty() {
            leases.update_many(of(others), doc! {"$unset": {DRAIN_UNTIL: ""}}).await?;
        }
        Ok(())
    })
    .await
}

/// Companies whose consumers are forgotten.
pub enum Forgotten {
    /// These.
    These(BTreeSet<String>),
    /// All others: those that were removed with `Retain`, or while the database could not be written to.
    AllBut(BTreeSet<String>),
}

/// Forgets who worked for companies that have gone or are going and have no consumer any more, or the page would call them missing for ever. A lease is for
/// order alone, so nothing is lost with it. `address` is that of the application user. Takes at most three seconds.
///
/// # Errors
/// As [`tell`].
pub async fn forget(
    address: &str,
    database: &str,
    collection: &str,
    companies: &Forgotten,
) -> Result<(), DatabaseError> {
    let leases = wire::window::leases(collection);
    let act = format!("forget the consumers in {database}.{leases} of companies that are gone");
    as_application(address, act, async |client| {
        let leases: Collection<Document> = client.database(database).collection(&leases);
        let mut over = match companies {
            Forgotten::These(companies) => of(companies),
            Forgotten::AllBut(companies) => doc! {"_id": {"$nin": companies.iter().collect::<Vec<_>>()}},
        };
        // One that somebody else's consumer holds is that one's. A missing time is less than any.
        over.insert("$expr", doc! {"$lte": [format!("${UNTIL}"), "$$NOW"]});
        leases.delete_many(over).await.map(drop)
    })
    .await
}

/// The leases of companies.
fn of(companies: &BTreeSet<String>) -> Document {
    doc! {"_id": {"$in": companies.iter().collect::<Vec<_>>()}}
}
