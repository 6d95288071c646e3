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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Protocol;
    use crate::proxy::Dest;
    use std::sync::mpsc::channel;

    fn touched(address: &str) -> Touched {
        Touched::from([(Dest { address: address.parse().unwrap(), protocol: Protocol::Udp, port: 53 }, None)])
    }

    #[test]
    fn flows_are_looked_at_once_their_rules_are_in_force_and_not_before() {
        let (sender, looks) = channel();
        let mut flows = StaleFlows::new(Some(Cleaner::told(sender)));
        let (v4, v6) = (touched("10.96.0.1"), touched("fd00:96::1"));
        let seen = || looks.try_iter().collect::<Vec<_>>();
        flows.committed(&[]);
        assert_eq!(seen(), [Touched::new()], "the first commit is told of in any case");
        flows.committing(v4.clone());
        flows.committing(v6.clone());
        assert!(seen().is_empty(), "the commit is under way");
        flows.committed(&[Family::V6]);
        assert_eq!(seen(), std::slice::from_ref(&v4));
        flows.committed(&[Family::V6]);
        assert!(seen().is_empty(), "there is nothing new");
        flows.committing(v4.clone());
        flows.committed(&[]);
        assert_eq!(seen(), [[v4, v6].into_iter().flatten().collect::<Touched>()], "what could not be committed then is now");
    }
}
