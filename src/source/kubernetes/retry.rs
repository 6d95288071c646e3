//! How long to wait before the next try.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(50);
/// While nothing listens a try costs next to nothing, and the first change after a restart must not wait for us.
const UNREACHABLE_CAP: Duration = Duration::from_secs(1);
/// A server that refuses or is overloaded is given time.
const REFUSED_CAP: Duration = Duration::from_secs(5);

/// Why a try is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The watch ended in the ordinary way, or has to begin anew.
    Ended,
    /// There is no connection.
    Unreachable,
    /// The server refused.
    Refused,
}

/// Doubling delays with jitter, so that the nodes of a cluster do not come back in step.
#[derive(Debug, Default)]
pub struct Retry {
    tries: u32,
    reason: Option<Reason>,
}

impl Retry {
    /// Something worked: the next failure begins with a short delay.
    pub fn reset(&mut self) {
        *self = Retry::default();
    }

    /// Whether it has failed for this reason twice or more in a row.
    pub fn is_repeated(&self, reason: Reason) -> bool {
        self.reason == Some(reason) && self.tries > 0
    }

    /// The delay before the next try. Another reason than last time starts over: a server that answers again is soon in order.
    pub fn delay(&mut self, reason: Reason) -> Duration {
        self.tries = if self.reason == Some(reason) { self.tries.saturating_add(1) } else { 0 };
        self.reason = Some(reason);
        let cap = if reason == Reason::Refused { REFUSED_CAP } else { UNREACHABLE_CAP };
        let full = FIRST.saturating_mul(1 << self.tries.min(16)).min(cap);
        full / 2 + (full / 2).mul_f64(random())
    }
}

/// A number from 0 to 1; no more randomness is needed than the standard library seeds its hash maps with.
pub fn random() -> f64 {
    RandomState::new().hash_one(0_u8) as f64 / u64::MAX as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_up_to_the_cap_of_their_reason() {
        for (reason, cap) in [(Reason::Unreachable, UNREACHABLE_CAP), (Reason::Refused, REFUSED_CAP)] {
            let mut retry = Retry::default();
            let first = retry.delay(reason);
            assert!(first >= FIRST / 2 && first <= FIRST, "{first:?}");
            let last = (0..1000).map(|_| retry.delay(reason)).last().unwrap();
            assert!(last >= cap / 2 && last <= cap, "{last:?}");
        }
    }

    #[test]
    fn another_reason_and_a_success_start_over() {
        let mut retry = Retry::default();
        (0..20).for_each(|_| assert!(retry.delay(Reason::Unreachable) <= UNREACHABLE_CAP));
        assert!(retry.delay(Reason::Refused) <= FIRST && !retry.is_repeated(Reason::Refused));
        (0..20).for_each(|_| assert!(retry.delay(Reason::Refused) <= REFUSED_CAP));
        assert!(retry.is_repeated(Reason::Refused) && !retry.is_repeated(Reason::Unreachable));
        retry.reset();
        assert!(retry.delay(Reason::Refused) <= FIRST);
    }
}
