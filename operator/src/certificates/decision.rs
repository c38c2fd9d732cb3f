//! Decides when a certificate is made; pure.
//! Rule: what is trusted is known to every client before the first server shows it, and what is good is left alone.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

const DAY: u64 = 24 * 3600;
/// How long an authority lives.
pub const AUTHORITY_LIFE: Duration = Duration::from_secs(3650 * DAY);
/// How long the certificate of a server lives.
pub const SERVER_LIFE: Duration = Duration::from_secs(90 * DAY);
/// Certificates hold from this long before they are made: the clocks of a cluster differ.
pub const BACKDATED: Duration = Duration::from_secs(3600);
/// After this long every client trusts a new authority: the kubelet brings a changed Secret into a pod within two minutes (Kubernetes,
/// "Secrets", mounted Secrets are updated automatically), and programs that read it at their start only have been replaced.
pub const SPREAD: Duration = Duration::from_secs(300);

/// From when until when a certificate holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The first moment.
    pub from: Timestamp,
    /// The last one.
    pub until: Timestamp,
}

impl Validity {
    /// Whether it holds at a moment.
    pub fn holds(&self, now: Timestamp) -> bool {
        self.from <= now && now <= self.until
    }

    /// When two thirds of it are over.
    pub fn renewal(&self) -> Timestamp {
        let life = self.until.duration_since(self.from).max(SignedDuration::ZERO);
        // Of two moments that exist, the one between them does.
        self.from.checked_add(life / 3 * 2).unwrap_or(self.until)
    }

    fn is_due(&self, now: Timestamp) -> bool {
        !self.holds(now) || self.renewal() <= now
    }
}

/// What to do about the authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authority {
    /// It is good.
    Keep,
    /// The same key with a new term: whoever trusts the old certificate trusts what the new one signs, and the other way round.
    Renew,
    /// There is none that can be used.
    Make,
}

/// Judges the authority that was found.
pub fn authority(found: Option<Validity>, now: Timestamp) -> Authority {
    match found {
        None => Authority::Make,
        Some(validity) if validity.is_due(now) => Authority::Renew,
        Some(_) => Authority::Keep,
    }
}

/// A server's certificate that can be used: it reads as one, and the key is its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its term.
    pub validity: Validity,
    /// It has all the names the server is called by.
    pub named: bool,
    /// The authority signed it, not an earlier one.
    pub of_authority: bool,
}

/// Whether the server needs another certificate; the authority is trusted by everybody since `trusted`.
pub fn is_to_be_issued(found: Option<Server>, trusted: Timestamp, now: Timestamp) -> bool {
    let Some(Server { validity, named, of_authority }) = found else { return true };
    if !named || !validity.holds(now) {
        return true;
    }
    // One of an earlier authority still serves: those that connect have to trust the new one first.
    if of_authority { validity.is_due(now) } else { is_spread(trusted, now) }
}

/// Whether earlier authorities are trusted any longer: no server shows, and none has shown a while ago, what they signed.
pub fn are_earlier_trusted(all_of_authority: bool, trusted: Timestamp, now: Timestamp) -> bool {
    // Once for the clients to learn of the new one, and once for the servers to take over what it signed.
    !(all_of_authority && now.duration_since(trusted).unsigned_abs() >= 2 * SPREAD)
}

fn is_spread(trusted: Timestamp, now: Timestamp) -> bool {
    now.duration_since(trusted) >= SignedDuration::try_from(SPREAD).unwrap_or(SignedDuration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    const VALIDITY: (i64, i64) = (0, 90 * 24 * 3600);
    const TWO_THIRDS: i64 = 60 * 24 * 3600;

    fn validity() -> Validity {
        Validity { from: at(VALIDITY.0), until: at(VALIDITY.1) }
    }

    fn server() -> Server {
        Server { validity: validity(), named: true, of_authority: true }
    }

    #[test]
    fn a_certificate_is_renewed_at_two_thirds_of_its_life_and_not_a_second_earlier() {
        let issued = |found, now| is_to_be_issued(Some(found), at(0), at(now));
        assert!(!issued(server(), 0));
        assert!(!issued(server(), TWO_THIRDS - 1));
        assert!(issued(server(), TWO_THIRDS));
        assert!(issued(server(), VALIDITY.1 + 1));
        assert!(issued(server(), -1), "a clock was wrong when it was made");
    }

    #[test]
    fn a_server_without_a_certificate_or_with_a_name_too_few_gets_one_at_once() {
        assert!(is_to_be_issued(None, at(0), at(0)));
        assert!(is_to_be_issued(Some(Server { named: false, ..server() }), at(0), at(0)));
    }

    #[test]
    fn an_authority_is_renewed_at_two_thirds_of_its_life_and_made_only_when_there_is_none() {
        assert_eq!(authority(None, at(0)), Authority::Make);
        assert_eq!(authority(Some(validity()), at(TWO_THIRDS - 1)), Authority::Keep);
        assert_eq!(authority(Some(validity()), at(TWO_THIRDS)), Authority::Renew);
        assert_eq!(authority(Some(validity()), at(VALIDITY.1 + 1)), Authority::Renew);
    }

    #[test]
    fn a_server_changes_to_a_new_authority_when_every_client_trusts_it_unless_its_certificate_has_run_out() {
        let of_earlier = Server { of_authority: false, ..server() };
        let spread = i64::try_from(SPREAD.as_secs()).unwrap();
        assert!(!is_to_be_issued(Some(of_earlier), at(1000), at(1000)));
        assert!(!is_to_be_issued(Some(of_earlier), at(1000), at(1000 + spread - 1)));
        assert!(is_to_be_issued(Some(of_earlier), at(1000), at(1000 + spread)));
        assert!(!is_to_be_issued(Some(of_earlier), at(TWO_THIRDS), at(TWO_THIRDS)), "due, and still good");
        assert!(is_to_be_issued(Some(of_earlier), at(VALIDITY.1 + 1), at(VALIDITY.1 + 1)));
    }

    #[test]
    fn an_earlier_authority_is_trusted_until_no_server_can_show_it_any_more() {
        let twice = 2 * i64::try_from(SPREAD.as_secs()).unwrap();
        assert!(are_earlier_trusted(false, at(0), at(twice + 1)));
        assert!(are_earlier_trusted(true, at(0), at(twice - 1)));
        assert!(!are_earlier_trusted(true, at(0), at(twice)));
    }
}
