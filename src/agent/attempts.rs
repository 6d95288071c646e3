//! Families whose commits fail, what the kernel refused, and when to try again.

use super::follow::RETRY_REFUSED;
use crate::model::Family;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// A family whose commit failed is tried again after this long, and after twice as long each further time, up to [`RETRY_REFUSED`].
const RETRY_FAILED: Duration = Duration::from_secs(1);
/// A family whose commits have failed so often in a row keeps the other one waiting no longer.
pub const GIVEN_UP_AFTER: u32 = 2;

/// How it went last in each family.
#[derive(Debug, Default)]
pub struct Attempts {
    families: BTreeMap<Family, Attempt>,
    /// When the next round begins of what the kernel refused.
    round: Option<Instant>,
}

#[derive(Debug, Default)]
struct Attempt {
    /// How many commits in a row have failed.
    failures: u32,
    /// When to try again; `None` while that is under way, or there is no need.
    again: Option<Instant>,
}

impl Attempts {
    /// Whether what follows a commit (names, health checks, readiness) has to wait because the last one failed. Not for ever for one of two
    /// families: the other one works.
    pub fn hold_up(&self) -> bool {
        let failures = |attempt: &Attempt| (1..GIVEN_UP_AFTER).contains(&attempt.failures);
        self.working().is_none() || self.families.values().any(failures)
    }

    /// A family whose last commit succeeded.
    pub fn working(&self) -> Option<Family> {
        self.families.iter().find(|(_, attempt)| attempt.failures == 0).map(|(family, _)| *family)
    }

    /// Families whose last commit failed.
    pub fn failing(&self) -> Vec<Family> {
        self.families.iter().filter(|(_, attempt)| attempt.failures > 0).map(|(family, _)| *family).collect()
    }

    /// A commit succeeded. True when the one before it had failed.
    pub fn succeeded(&mut self, family: Family) -> bool {
        self.families.insert(family, Attempt::default()).is_some_and(|before| before.failures > 0)
    }

    /// A commit failed: for how often in a row.
    pub fn failed(&mut self, family: Family) -> u32 {
        let attempt = self.families.entry(family).or_default();
        let pause = RETRY_FAILED * 2u32.pow(attempt.failures.min(8));
        attempt.failures = attempt.failures.saturating_add(1);
        attempt.again = Some(Instant::now() + pause.min(RETRY_REFUSED));
        attempt.failures
    }

    /// Whether something is set aside that the kernel refused. A cluster that changes all the time does not put the next round off.
    pub fn set_aside(&mut self, any: bool) {
        self.round = if any { self.round.or_else(|| Some(Instant::now() + RETRY_REFUSED)) } else { None };
    }

    /// When something is to be tried again.
    pub fn next(&self) -> Option<Instant> {
        self.families.values().filter_map(|attempt| attempt.again).chain(self.round).min()
    }

    /// What is to be tried now: these families, and, where so, what the kernel refused.
    pub fn take_due(&mut self, now: Instant) -> (Vec<Family>, bool) {
        let is_due = |moment: &mut Instant| *moment <= now;
        let families = self.families.iter_mut().filter_map(|(family, attempt)| attempt.again.take_if(is_due).map(|_| *family));
        (families.collect(), self.round.take_if(is_due).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_that_fails_is_tried_less_and_less_often_and_the_other_one_not_at_all() {
        let mut attempts = Attempts::default();
        assert!(attempts.hold_up(), "nothing is in place yet");
        attempts.succeeded(Family::V4);
        let mut pauses = Vec::new();
        for failures in 1..8 {
            let start = Instant::now();
            assert_eq!(attempts.failed(Family::V6), failures);
            assert_eq!(attempts.hold_up(), failures < GIVEN_UP_AFTER);
            let again = attempts.next().unwrap();
            assert_eq!(attempts.take_due(start), (vec![], false), "it is not its time yet");
            assert_eq!(attempts.take_due(again), (vec![Family::V6], false));
            assert_eq!(attempts.next(), None, "it is under way");
            pauses.push((again - start).as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(attempts.failing(), [Family::V6]);
        assert!(attempts.succeeded(Family::V6) && attempts.failing().is_empty());
    }

    #[test]
    fn rounds_go_on_while_something_is_set_aside() {
        let mut attempts = Attempts::default();
        attempts.set_aside(true);
        let round = attempts.next().unwrap();
        attempts.set_aside(true);
        assert_eq!(attempts.next(), Some(round), "another commit does not put it off");
        assert_eq!(attempts.take_due(round), (vec![], true));
        attempts.set_aside(false);
        assert_eq!(attempts.next(), None);
    }
}
