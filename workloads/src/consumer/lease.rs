//! Which of a company's consumers works: the one that holds the lease, a document beside the windows that it renews.
//! Rule: a lease is for order and speed only, safety is the unique index; time is the database's own, so clocks need not agree.
//! The same document tells the holder whether its company is being drained: a wish of the operator's, heard with each renewal; and it tells
//! whoever wants to know what the holder has taken from the queue, which AMQP tells nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use mongodb::Collection;
use mongodb::bson::{Document, doc};
use mongodb::options::{Acknowledgment, CollectionOptions, ReturnDocument, WriteConcern};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use wire::Symbol;
use wire::window::lease::{DRAIN_UNTIL, HELD, UNTIL};

use crate::database::{explain, is_duplicate_key};

/// Silence after which a lease may be taken over. An election of the database's takes 3 s, which must not cost the lease.
const TIME_TO_LIVE: Duration = Duration::from_secs(4);
/// From one renewal to the next.
const RENEW: Duration = Duration::from_secs(1);
/// From one attempt of a standby to the next.
const ATTEMPT: Duration = Duration::from_millis(500);
/// Bound of one command: a renewal that hangs must not be the last before the lease is over.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(1500);
/// Whoever could not reach the database for so long gives way: longer than an election.
const GIVE_UP: Duration = Duration::from_secs(8);
/// A process of the same pod is taken for a successor when the lease was not renewed for so long. Programs that share a name
/// by mistake renew it more often, and so do not take it from each other.
const PREDECESSOR_SILENT: Duration = Duration::from_millis(1500);

mod field {
    pub const HOLDER: &str = "holder";
    pub const POD: &str = "pod";
}

/// One consumer's claim to its company.
#[derive(Clone, Debug)]
pub struct Lease {
    leases: Collection<Document>,
    company: Symbol,
    holder: String,
    pod: Option<String>,
    draining: watch::Sender<bool>,
    held: Arc<AtomicI64>,
}

impl Lease {
    /// The lease of `company` in the collection beside `windows`; nothing is claimed yet. `holder` names this process. A silent
    /// holder in the same `pod` is its predecessor, whose lease it need not wait for.
    #[must_use]
    pub fn new(windows: &Collection<Document>, company: &Symbol, holder: &str, pod: Option<&str>) -> Self {
        let database = windows.client().database(&windows.namespace().db);
        // What a crash of the primary takes back of it does no harm, so nobody waits for a majority.
        let written = WriteConcern::builder().w(Acknowledgment::Nodes(1)).build();
        let options = CollectionOptions::builder().write_concern(written).build();
        let leases = database.collection_with_options(&wire::window::leases(windows.name()), options);
        let (holder, pod) = (holder.to_owned(), pod.map(str::to_owned));
        Self {
            leases,
            company: company.clone(),
            holder,
            pod,
            draining: watch::Sender::new(false),
            held: Arc::default(),
        }
    }

    /// Whether the company is being drained, as the last renewal said.
    #[must_use]
    pub fn draining(&self) -> watch::Receiver<bool> {
        self.draining.subscribe()
    }

    /// Says from the next renewal on that so many messages are taken and not acknowledged.
    pub fn holds(&self, messages: u64) {
        self.held.store(i64::try_from(messages).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    /// Waits until the lease is ours.
    ///
    /// # Errors
    /// When the database does not answer or refuses.
    pub async fn acquire(&self) -> anyhow::Result<()> {
        let mut told = false;
        let mut answered = Instant::now();
        loop {
            match self.claim().await {
                Ok(None) => return Ok(()),
                Ok(Some(holder)) => {
                    answered = Instant::now();
                    if !std::mem::replace(&mut told, true) {
                        tracing::info!(company = %self.company, holder, "standing by");
                    }
                }
                // An election must not make a standby start over just when it is needed.
                Err(error) if answered.elapsed() >= GIVE_UP => return Err(error),
                Err(_) => {}
            }
            sleep(ATTEMPT).await;
        }
    }

    /// Renews the lease for as long as it is ours; gives the reason when it no longer is.
    pub async fn keep(&self) -> anyhow::Error {
        let mut renewed = Instant::now();
        loop {
            sleep(RENEW).await;
            match self.claim().await {
                Ok(None) => renewed = Instant::now(),
                Ok(Some(holder)) => return anyhow!("{holder} has taken over this company"),
                Err(error) if renewed.elapsed() >= GIVE_UP => return error.context("the lease could not be renewed"),
                Err(_) => {}
            }
        }
    }

    /// Lets another consumer take over at once.
    pub async fn release(&self) {
        let ours = doc! {"_id": self.company.as_str(), field::HOLDER: &self.holder};
        let over = doc! {"$unset": {UNTIL: ""}};
        if let Ok(Err(error)) = timeout(RENEW, self.leases.update_one(ours, over)).await {
            tracing::debug!("releasing the lease: {}", explain(&error));
        }
    }

    /// Takes or renews the lease; gives the name of whoever else holds it.
    async fn claim(&self) -> anyhow::Result<Option<String>> {
        let claiming = self
            .leases
            .find_one_and_update(doc! {"_id": self.company.as_str()}, self.update())
            .upsert(true)
            .return_document(ReturnDocument::After);
        match timeout(ANSWER_TIMEOUT, claiming).await {
            Ok(Ok(Some(lease))) => match lease.get_str(field::HOLDER) {
                Ok(holder) if holder == self.holder => {
                    self.draining.send_if_modified(|known| std::mem::replace(known, is_draining(&lease)) != *known);
                    Ok(None)
                }
                Ok(holder) => Ok(Some(holder.to_owned())),
                Err(_) => bail!("the lease of {} names no holder: delete the document", self.company),
            },
            Ok(Ok(None)) => bail!("the lease of {} was deleted while it was claimed", self.company),
            // Two made the document at once; the next attempt finds it.
            Ok(Err(error)) if is_duplicate_key(&error) => Ok(Some("another consumer".to_owned())),
            Ok(Err(error)) => Err(anyhow!(explain(&error))).context("cannot claim the company's lease"),
            Err(_) => bail!("cannot claim the company's lease: no answer within {ANSWER_TIMEOUT:?}"),
        }
    }

    /// Changes the document only when the lease is free or ours: one command decides, by the database's clock.
    fn update(&self) -> Vec<Document> {
        let literal = |text: &str| doc! {"$literal": text};
        let current = |name: &str| format!("${name}");
        let mut free = vec![
            doc! {"$eq": [current(field::HOLDER), literal(&self.holder)]},
            // A missing time is less than any.
            doc! {"$lte": [current(UNTIL), "$$NOW"]},
        ];
        let silent_since = millis(TIME_TO_LIVE - PREDECESSOR_SILENT);
        free.extend(self.pod.iter().map(|pod| {
            let silent = doc! {"$lte": [current(UNTIL), {"$add": ["$$NOW", silent_since]}]};
            doc! {"$and": [{"$eq": [current(field::POD), literal(pod)]}, silent]}
        }));
        let ours = |value: Document, name: &str| doc! {"$cond": [{"$or": &free}, value, current(name)]};
        vec![doc! {"$set": {
            field::HOLDER: ours(literal(&self.holder), field::HOLDER),
            field::POD: ours(literal(self.pod.as_deref().unwrap_or_default()), field::POD),
            UNTIL: ours(doc! {"$add": ["$$NOW", millis(TIME_TO_LIVE)]}, UNTIL),
            HELD: ours(doc! {"$literal": self.held.load(Ordering::Relaxed)}, HELD),
        }}]
    }
}

/// Whether a lease that was renewed this moment says that its company is being drained.
fn is_draining(lease: &Document) -> bool {
    let time = |name| lease.get_datetime(name).map(|time| time.timestamp_millis());
    let (Ok(drain_until), Ok(until)) = (time(DRAIN_UNTIL), time(UNTIL)) else { return false };
    // The database's clock, as it was when it renewed the lease.
    drain_until > until - millis(TIME_TO_LIVE)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use mongodb::bson::DateTime;

    use super::*;

    #[test]
    fn a_company_is_drained_until_the_time_its_lease_names_and_without_one_it_is_not() {
        let renewed_at = 1_800_000_000_000;
        let lease = |drain_until: i64| {
            let until = DateTime::from_millis(renewed_at + millis(TIME_TO_LIVE));
            doc! {UNTIL: until, DRAIN_UNTIL: DateTime::from_millis(drain_until)}
        };
        assert!(is_draining(&lease(renewed_at + 1)));
        assert!(!is_draining(&lease(renewed_at)));
        assert!(!is_draining(&doc! {UNTIL: DateTime::from_millis(renewed_at)}));
        assert!(!is_draining(&doc! {DRAIN_UNTIL: true}));
    }
}
