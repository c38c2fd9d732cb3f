//! Lets one of several operators work at a time, by a Lease (coordination.k8s.io/v1).
//! Rule: a lease is judged by how long it was seen unchanged on our own clock, never by the times written in it.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, Error};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// The times of a lease. `renew_every` < `give_up_after` < `duration`: a holder stops before another may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// A lease that was not renewed for this long may be taken.
    pub duration: Duration,
    /// The holder renews this often.
    pub renew_every: Duration,
    /// A holder that could not renew for this long has lost the lease.
    pub give_up_after: Duration,
    /// One who waits looks this often, and a failed request is repeated after this long.
    pub look_every: Duration,
}

impl Default for Timing {
    /// The times of client-go, except that one who waits looks each second, so that a clean hand-over takes about one.
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(15),
            renew_every: Duration::from_secs(5),
            give_up_after: Duration::from_secs(10),
            look_every: Duration::from_secs(1),
        }
    }
}

/// What to do about a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// It does not exist, is free, or its holder is gone: take it.
    Acquire,
    /// It is ours: renew it.
    Renew,
    /// Another holds it; it may be taken at this moment when it does not change until then.
    Wait(Instant),
}

/// Decides about `lease`, which was first seen in its present version at `unchanged_since`. The holder's own duration
/// counts, in case that it is configured otherwise; `duration` is for a lease without one.
pub fn decide(lease: Option<&Lease>, me: &str, unchanged_since: Instant, now: Instant, duration: Duration) -> Act {
    let Some(spec) = lease.and_then(|lease| lease.spec.as_ref()) else {
        return Act::Acquire;
    };
    match spec.holder_identity.as_deref() {
        None | Some("") => Act::Acquire,
        Some(holder) if holder == me => Act::Renew,
        Some(_) => {
            let promised = spec
                .lease_duration_seconds
                .and_then(|seconds| u64::try_from(seconds).ok())
                .map_or(duration, Duration::from_secs);
            let free_at = unchanged_since + promised;
            if now >= free_at { Act::Acquire } else { Act::Wait(free_at) }
        }
    }
}

/// A lease that is held, and renewed in the background until [`Leadership::release`].
#[derive(Debug)]
pub struct Leadership {
    lost: CancellationToken,
    stop: CancellationToken,
    renewal: JoinHandle<()>,
}

impl Leadership {
    /// Cancelled when the lease was lost against our will: the process must end at once, for another may begin soon.
    pub fn lost(&self) -> CancellationToken {
        self.lost.clone()
    }

    /// Gives the lease back, so that a successor begins about a second later. To be called when all work has ended.
    pub async fn release(self) {
        self.stop.cancel();
        if let Err(error) = self.renewal.await {
            tracing::warn!(%error, "the renewal of the lease ended early");
        }
    }
}

/// Waits until the lease `namespace/name` is ours, then keeps it. `identity` must be this process's own; the pod's name
/// is. An API server that does not answer is waited for. To stop waiting, drop the future.
pub async fn hold(client: Client, namespace: &str, name: &str, identity: &str) -> Leadership {
    hold_with(client, namespace, name, identity, Timing::default()).await
}

/// [`hold`] with other times.
pub async fn hold_with(client: Client, namespace: &str, name: &str, identity: &str, timing: Timing) -> Leadership {
    let mut candidate = Candidate {
        leases: Api::namespaced(client, namespace),
        name: name.to_owned(),
        identity: identity.to_owned(),
        timing,
        seen: None,
    };
    let (lease, since) = loop {
        let began = Instant::now();
        match timeout(timing.give_up_after, candidate.attempt()).await {
            Ok(Ok(Some(lease))) => break (lease, began),
            Ok(Ok(None)) => {}
            Ok(Err(error)) => tracing::warn!(lease = name, %error, "cannot get the lease yet"),
            Err(_) => tracing::warn!(lease = name, "cannot get the lease yet: no answer from the api server"),
        }
        sleep(timing.look_every).await;
    };
    tracing::info!(lease = name, identity, "holding the lease");
    let (lost, stop) = (CancellationToken::new(), CancellationToken::new());
    let renewal = tokio::spawn(candidate.keep(lease, since, stop.clone(), lost.clone()));
    Leadership { lost, stop, renewal }
}

struct Candidate {
    leases: Api<Lease>,
    name: String,
    identity: String,
    timing: Timing,
    /// Resource version of the lease as last seen, and when it was first seen.
    seen: Option<(Option<String>, Instant)>,
}

impl Candidate {
    /// One look, and a write when the lease may be ours. `None` when it is another's.
    async fn attempt(&mut self) -> Result<Option<Lease>, Error> {
        let found = self.leases.get_opt(&self.name).await?;
        let now = Instant::now();
        let version = found.as_ref().and_then(|lease| lease.metadata.resource_version.clone());
        let unchanged_since = match &self.seen {
            Some((seen, since)) if *seen == version => *since,
            _ => now,
        };
        self.seen = Some((version, unchanged_since));
        match decide(found.as_ref(), &self.identity, unchanged_since, now, self.timing.duration) {
            Act::Wait(_) => Ok(None),
            Act::Acquire | Act::Renew => self.write(found, Some(&self.identity)).await,
        }
    }

    /// Writes the lease with `holder`, on the very version it was read in. `None` when another was faster.
    async fn write(&self, found: Option<Lease>, holder: Option<&str>) -> Result<Option<Lease>, Error> {
        let written = match found {
            None => {
                let lease = Lease {
                    metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
                    spec: Some(self.spec(&LeaseSpec::default(), holder)),
                };
                self.leases.create(&PostParams::default(), &lease).await
            }
            Some(mut lease) => {
                let old = lease.spec.take().unwrap_or_default();
                lease.spec = Some(self.spec(&old, holder));
                self.leases.replace(&self.name, &PostParams::default(), &lease).await
            }
        };
        match written {
            Ok(lease) => Ok(Some(lease)),
            Err(Error::Api(status)) if status.code == 409 => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn spec(&self, old: &LeaseSpec, holder: Option<&str>) -> LeaseSpec {
        let now = Some(MicroTime(Timestamp::now()));
        let same = old.holder_identity.as_deref() == holder;
        let seconds = self.timing.duration.as_secs().max(1);
        LeaseSpec {
            acquire_time: if same { old.acquire_time.clone() } else { now.clone() },
            holder_identity: Some(holder.unwrap_or_default().to_owned()),
            lease_duration_seconds: i32::try_from(seconds).ok(),
            lease_transitions: Some(old.lease_transitions.unwrap_or(0) + i32::from(!same && holder.is_some())),
            renew_time: now,
            ..old.clone()
        }
    }

    /// Renews until `stop`, then gives the lease back; cancels `lost` when it could not be renewed in time. The time
    /// counts from before the request that succeeded, since that is the earliest the server can have taken it.
    async fn keep(mut self, mut lease: Lease, mut since: Instant, stop: CancellationToken, lost: CancellationToken) {
        let mut pause = self.timing.renew_every;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = sleep(pause) => {}
            }
            let began = Instant::now();
            let left = (since + self.timing.give_up_after).saturating_duration_since(began);
            let renewed = match timeout(left, self.write(Some(lease.clone()), Some(&self.identity))).await {
                Ok(Ok(Some(renewed))) => Some(renewed),
                // Our own write may have arrived without its answer, so a conflict alone does not mean that it is lost.
                Ok(Ok(None)) => match timeout(left, self.attempt()).await {
                    Ok(Ok(None)) => {
                        tracing::error!(lease = %self.name, "another holds the lease");
                        lost.cancel();
                        return;
                    }
                    Ok(Ok(renewed)) => renewed,
                    Ok(Err(_)) | Err(_) => None,
                },
                Ok(Err(error)) => {
                    tracing::warn!(lease = %self.name, %error, "cannot renew the lease");
                    None
                }
                Err(_) => None,
            };
            if let Some(renewed) = renewed {
                (lease, since, pause) = (renewed, began, self.timing.renew_every);
                continue;
            }
            if since.elapsed() >= self.timing.give_up_after {
                tracing::error!(lease = %self.name, "the lease could not be renewed in time and is lost");
                lost.cancel();
                return;
            }
            pause = self.timing.look_every;
        }
        match timeout(self.timing.look_every, self.write(Some(lease), None)).await {
            Ok(Ok(Some(_))) => tracing::info!(lease = %self.name, "gave the lease back"),
            // It runs out by itself.
            _ => tracing::warn!(lease = %self.name, "could not give the lease back"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DURATION: Duration = Duration::from_secs(15);

    fn held_by(holder: &str, seconds: Option<i32>) -> Lease {
        let spec = LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: seconds,
            // A clock far ahead of ours: it must not count.
            renew_time: Some(MicroTime(Timestamp::MAX)),
            ..LeaseSpec::default()
        };
        Lease { spec: Some(spec), ..Lease::default() }
    }

    #[test]
    fn a_lease_that_is_missing_or_free_is_taken() {
        let now = Instant::now();
        assert_eq!(decide(None, "a", now, now, DURATION), Act::Acquire);
        assert_eq!(decide(Some(&Lease::default()), "a", now, now, DURATION), Act::Acquire);
        assert_eq!(decide(Some(&held_by("", None)), "a", now, now, DURATION), Act::Acquire);
    }

    #[test]
    fn our_own_lease_is_renewed_even_after_its_time() {
        let now = Instant::now();
        let later = now + DURATION * 3;
        assert_eq!(decide(Some(&held_by("a", None)), "a", now, later, DURATION), Act::Renew);
    }

    #[test]
    fn anothers_lease_is_waited_for_until_it_was_seen_unchanged_for_its_duration() {
        let seen = Instant::now();
        let lease = held_by("b", Some(4));
        let free_at = seen + Duration::from_secs(4);
        assert_eq!(decide(Some(&lease), "a", seen, seen, DURATION), Act::Wait(free_at));
        let just_before = free_at - Duration::from_millis(1);
        assert_eq!(decide(Some(&lease), "a", seen, just_before, DURATION), Act::Wait(free_at));
        assert_eq!(decide(Some(&lease), "a", seen, free_at, DURATION), Act::Acquire);
    }
}
