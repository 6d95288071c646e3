//! When to look for stale UDP flows: once the rules by which their next packets go are in place.

use crate::conntrack::{Cleaner, Touched};
use crate::model::Family;

/// What was planned and whose flows have not been looked at yet.
#[derive(Debug, Default)]
pub struct StaleFlows {
    cleaner: Option<Cleaner>,
    /// Handed over for a commit.
    committing: Touched,
    /// The first commit has been told of: the cleaner waits for it in any case.
    begun: bool,
}

impl StaleFlows {
    /// Without a cleaner nothing is ever looked at.
    pub fn new(cleaner: Option<Cleaner>) -> StaleFlows {
        StaleFlows { cleaner, ..StaleFlows::default() }
    }

    /// These are part of what is being committed.
    pub fn committing(&mut self, touched: Touched) {
        self.committing.extend(touched);
    }

    /// A commit has come to its end, except in these families.
    pub fn committed(&mut self, failed: &[Family]) {
        let (done, waiting): (Touched, Touched) =
            std::mem::take(&mut self.committing).into_iter().partition(|(dest, _)| !failed.contains(&dest.family()));
        self.committing = waiting;
        let first = !std::mem::replace(&mut self.begun, true);
        if let Some(cleaner) = self.cleaner.as_ref().filter(|_| first || !done.is_empty()) {
            cleaner.look(done);
        }
    }
}
