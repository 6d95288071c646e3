//! When to look whether somebody else has changed the tables.

use super::data_path::{Done, THREAD};
use crate::model::Family;
use crate::nft::{Disturbance, FamilyOutcome, TABLE};
use std::time::Duration;
use tokio::time::Instant;

/// A comparison without any suspicion: for what no notice told, such as what changed while nobody listened.
const EVERY: Duration = Duration::from_secs(300);
/// Between two comparisons, so that somebody who changes the tables again and again does not keep the agent busy with nothing else.
const PAUSE: Duration = Duration::from_millis(500);
/// Another agent on this node (one takes over from the other) writes what this one is about to write, or has written. Comparing at once would
/// undo each other's changes; so it is done when the other one has been quiet for so long.
const AFTER_ANOTHER_AGENT: Duration = Duration::from_secs(10);
/// After a comparison that found nothing but may have missed what was changed behind it. Somebody who works on tables of his own looks the same, and may never stop.
const AFTER_A_BLIND_LOOK: Duration = Duration::from_secs(30);

/// Suspicions, and what has become of them.
#[derive(Debug, Default)]
pub struct Drift {
    /// When the tables were last compared, or first committed.
    looked: Option<Instant>,
    /// Somebody has changed them since: look then.
    suspected: Option<Instant>,
    /// When the kernel told first of somebody else's change that may not be put right yet.
    told: Option<Instant>,
    /// Somebody among them was no agent.
    urgent: bool,
    /// A comparison is under way that began after the last suspicion.
    looking: bool,
    /// Who it was, as far as it is known.
    by: Option<String>,
    /// A comparison has come to nothing in some family: what a later commit puts right there is still what was told of.
    unfinished: bool,
}

impl Drift {
    /// Somebody has changed the tables.
    pub fn suspect(&mut self, disturbance: Disturbance) {
        let now = Instant::now();
        self.looking = false;
        let another_agent = disturbance.by.as_deref() == Some(THREAD);
        if !another_agent {
            self.urgent = true;
            self.told.get_or_insert(now);
            self.by = disturbance.by.or(self.by.take());
        }
        self.suspected = Some(if self.urgent { now } else { now + AFTER_ANOTHER_AGENT });
    }

    /// When to compare the tables next.
    pub fn due(&self) -> Option<Instant> {
        let looked = self.looked.filter(|_| !self.looking)?;
        // Suspicions that are renewed again and again do not put off the comparison that is due without any.
        Some(self.suspected.unwrap_or(looked + EVERY).clamp(looked + PAUSE, looked + EVERY))
    }

    /// A comparison begins.
    pub fn looking(&mut self) {
        self.looking = true;
    }

    /// A request has come to its end.
    pub fn looked(&mut self, done: &Done) {
        let now = Instant::now();
        if done.compared || self.looked.is_none() {
            self.looked = Some(now);
        }
        let families = &done.committed.families;
        let has_failed = families.iter().any(|family| family.error.is_some());
        let was_looking = std::mem::take(&mut self.looking);
        if was_looking {
            (self.suspected, self.unfinished) = (None, has_failed);
        }
        let is_finished = self.unfinished && !has_failed && families.iter().any(|family| family.full);
        if was_looking && !has_failed || is_finished {
            (self.told, self.urgent, self.by, self.unfinished) = (None, false, None, false);
        }
        // Somebody who works on tables of his own counts the generation up as well: what one comparison has cleared can wait.
        let found = families.iter().any(|family| family.elements > 0 || family.rebuilt.is_some());
        if done.unheard {
            self.suspected.get_or_insert(if found || !done.compared { now } else { now + AFTER_A_BLIND_LOOK });
        }
    }

    /// Whether a table that was found otherwise than it was left is somebody's to be told of. Another agent (one takes over from the other) writes what
    /// this one is about to write: commits meet that as well, and it is nothing to report.
    pub fn is_to_be_told(&self, done: &Done) -> bool {
        done.compared || self.urgent || self.looked.is_none()
    }

    /// How long ago the kernel told of the change that is put right now; `None` where a comparison has found it without that.
    pub fn told(&self) -> Option<Duration> {
        self.told.map(|told| told.elapsed())
    }

    /// What to say about a table that was put right.
    pub fn repaired(&self, outcome: &FamilyOutcome) -> String {
        let table = match outcome.family {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        };
        let who = self.by.as_deref().unwrap_or("another program");
        let why = outcome.rebuilt.as_deref().unwrap_or("elements of its sets were not ours");
        format!("the table {table} {TABLE} was changed or removed by {who}, and is put right again: {why}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nft::{Committed, NftError};

    fn done(compared: bool, unheard: bool) -> Done {
        Done { committed: Committed::default(), refused: false, took: Duration::ZERO, compared, unheard }
    }

    fn by(name: &str) -> Disturbance {
        Disturbance { by: Some(name.into()) }
    }

    /// A state whose tables were committed just now, and that moment.
    fn fresh() -> (Drift, Instant) {
        let mut drift = Drift::default();
        assert_eq!(drift.due(), None, "nothing is compared before the first commit");
        drift.looked(&done(false, false));
        let now = drift.looked.unwrap();
        (drift, now)
    }

    #[test]
    fn a_stranger_is_looked_after_soon_and_nobody_after_five_minutes() {
        let (mut drift, start) = fresh();
        assert_eq!((drift.due(), drift.told()), (Some(start + EVERY), None));
        drift.suspect(by("nft"));
        assert!(drift.due().unwrap() <= Instant::now() + PAUSE);
        drift.looking();
        assert_eq!(drift.due(), None, "one comparison at a time");
        let note = drift.repaired(&FamilyOutcome::of(Family::V4));
        assert!(note.contains("table ip waypost") && note.contains("by nft") && drift.told().is_some(), "{note}");
        drift.looked(&done(true, false));
        assert_eq!(drift.told(), None, "it is over");
        assert_eq!(drift.due(), drift.looked.map(|looked| looked + EVERY));
    }

    #[test]
    fn a_stranger_during_a_comparison_is_not_forgotten() {
        let (mut drift, _) = fresh();
        drift.suspect(by("nft"));
        drift.looking();
        drift.suspect(by("nft"));
        drift.looked(&done(true, false));
        assert_eq!(drift.due(), drift.looked.map(|looked| looked + PAUSE));
        assert!(drift.told().is_some(), "it is not over");
    }

    #[test]
    fn what_was_not_heard_is_suspected_at_once_and_then_now_and_again() {
        let (mut drift, _) = fresh();
        drift.looked(&done(false, true));
        assert!(drift.due().unwrap() <= Instant::now() + PAUSE);
        drift.looking();
        drift.looked(&done(true, true));
        assert_eq!(drift.due(), drift.looked.map(|looked| looked + AFTER_A_BLIND_LOOK), "somebody works on tables of his own");
    }

    #[test]
    fn what_a_commit_meets_is_told_of_unless_only_another_agent_was_there() {
        assert!(Drift::default().is_to_be_told(&done(false, false)), "what was edited before the start");
        let (mut drift, _) = fresh();
        assert!(!drift.is_to_be_told(&done(false, false)) && drift.is_to_be_told(&done(true, false)));
        drift.suspect(by(THREAD));
        assert!(!drift.is_to_be_told(&done(false, false)));
        drift.suspect(by("nft"));
        assert!(drift.is_to_be_told(&done(false, false)));
    }

    #[test]
    fn what_a_comparison_could_not_put_right_is_told_of_when_a_later_commit_does() {
        let (mut drift, _) = fresh();
        drift.suspect(by("nft"));
        drift.looking();
        let of_one = |compared: bool, error: Option<NftError>| {
            let families = vec![FamilyOutcome { full: true, error, ..FamilyOutcome::of(Family::V4) }];
            Done { committed: Committed { families }, ..done(compared, false) }
        };
        drift.looked(&of_one(true, Some(NftError::Unsettled)));
        drift.looked(&done(false, false));
        let again = of_one(false, None);
        assert!(drift.is_to_be_told(&again) && drift.told().is_some());
        drift.looked(&again);
        assert!(!drift.is_to_be_told(&again) && drift.told().is_none(), "it is over");
    }

    #[test]
    fn another_agent_is_given_time_and_a_stranger_besides_is_not() {
        let (mut drift, _) = fresh();
        let before = Instant::now();
        drift.suspect(by(THREAD));
        let first = drift.due().unwrap();
        assert!(first >= before + AFTER_ANOTHER_AGENT);
        drift.suspect(by(THREAD));
        assert!(drift.due().unwrap() >= first, "it counts from the last time");
        drift.suspect(by("nft"));
        drift.suspect(by(THREAD));
        assert!(drift.due().unwrap() <= Instant::now() + PAUSE);
    }
}
