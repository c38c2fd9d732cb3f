//! Which companies have no consumer that works: their lease, beside the windows, is over or was given up.
//! Rule: one look each few seconds whatever the number of pages; by the database's clock; what cannot be read is not claimed.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::TryStreamExt;
use mongodb::Collection;
use mongodb::bson::{Bson, Document, doc};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use wire::window::lease::UNTIL;

use crate::database::explain;

const LOOK: Duration = Duration::from_secs(3);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Companies without a consumer that works, and since when (RFC 3339; empty when it gave its lease up itself).
pub type Unattended = BTreeMap<String, String>;

/// Looks for ever. Companies of programs that hold no lease are never named.
pub async fn look(windows: Collection<Document>, found: watch::Sender<Unattended>) {
    let mut told = false;
    loop {
        let unattended = match timeout(ANSWER_TIMEOUT, unattended(&windows)).await {
            Ok(Ok(unattended)) => {
                told = false;
                unattended
            }
            Ok(Err(error)) => {
                // A reader may have no right to look; then nobody is called missing.
                if !std::mem::replace(&mut told, true) {
                    tracing::info!("cannot see which consumers work: {}", explain(&error));
                }
                Unattended::default()
            }
            Err(_) => Unattended::default(),
        };
        found.send_if_modified(|known| {
            let changed = *known != unattended;
            *known = unattended;
            changed
        });
        sleep(LOOK).await;
    }
}

/// The companies whose lease nobody holds at this moment.
///
/// # Errors
/// When the database does not answer.
pub async fn unattended(windows: &Collection<Document>) -> mongodb::error::Result<Unattended> {
    let database = windows.client().database(&windows.namespace().db);
    let leases = database.collection::<Document>(&wire::window::leases(windows.name()));
    // A missing time is less than any.
    let over = doc! {"$expr": {"$lte": [format!("${UNTIL}"), "$$NOW"]}};
    let found: Vec<Document> = leases.find(over).projection(doc! {UNTIL: 1}).await?.try_collect().await?;
    let entry = |lease: &Document| {
        let company = lease.get("_id").and_then(Bson::as_str)?.to_owned();
        let until = lease.get_datetime(UNTIL).ok().and_then(|time| time.try_to_rfc3339_string().ok());
        Some((company, until.unwrap_or_default()))
    };
    Ok(found.iter().filter_map(entry).collect())
}
