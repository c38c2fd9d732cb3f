//! Makes the `_id` of each document so that its order is the order of time within a company.
//! Rule: pure; a new process, a second written twice or a clock that runs back never bring a smaller one.

use mongodb::bson::oid::ObjectId;

const COUNTER_LIMIT: u32 = 1 << 24;

/// Ascending identities of one consumer's documents.
#[derive(Clone, Debug)]
pub struct Identities {
    process: [u8; 5],
    seconds: u32,
    counter: u32,
}

impl Identities {
    /// Starts above `newest`, the company's newest stored one. `process` is random.
    ///
    /// A process draws its own five bytes, which may be smaller than its predecessor's; so within the predecessor's
    /// second, and while the clock is behind it, the identities take the second after.
    #[must_use]
    pub fn after(newest: Option<ObjectId>, process: [u8; 5]) -> Self {
        let seconds = newest.map_or(0, |newest| {
            let [a, b, c, d, ..] = newest.bytes();
            u32::from_be_bytes([a, b, c, d]).saturating_add(1)
        });
        Self { process, seconds, counter: 0 }
    }

    /// The next one; `now` is in seconds since 1970.
    pub fn next(&mut self, now: u32) -> ObjectId {
        if now > self.seconds {
            (self.seconds, self.counter) = (now, 0);
        } else if self.counter == COUNTER_LIMIT {
            (self.seconds, self.counter) = (self.seconds.saturating_add(1), 0);
        }
        let [_, high, middle, low] = self.counter.to_be_bytes();
        self.counter += 1;
        ObjectId::from_parts(self.seconds, self.process, [high, middle, low])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_fresh_company_gets_identities_that_tell_the_time() {
        let identity = Identities::after(None, [1; 5]).next(1_800_000_000);
        assert_eq!(identity.timestamp().timestamp_millis(), 1_800_000_000_000);
    }

    proptest! {
        #[test]
        fn identities_ascend_over_restarts_and_clocks_that_jump(
            lives in proptest::collection::vec((any::<[u8; 5]>(), proptest::collection::vec(1_800_000_000_u32..1_800_000_009, 1..20)), 1..6),
        ) {
            let mut newest: Option<ObjectId> = None;
            for (process, clock) in lives {
                let mut identities = Identities::after(newest, process);
                for now in clock {
                    let identity = identities.next(now);
                    prop_assert!(newest.is_none_or(|newest| newest.bytes() < identity.bytes()));
                    newest = Some(identity);
                }
            }
        }
    }
}
