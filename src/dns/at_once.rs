//! What is answered at once, from the records, on every transport: how it is counted, and what becomes of a bug in it.

use super::chain::AtOnce;
use super::fast::Composed;
use super::metrics::Transport;
use super::respond::Responder;
use super::tally::Tally;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use tracing::error;

/// Counts for each zone under which was answered: another configuration may have another one. Only one thread at a time may have them.
pub(super) struct Counts {
    transport: Transport,
    of_zones: Vec<(Arc<str>, Arc<Tally>)>,
    current: usize,
}

impl Counts {
    /// None so far.
    pub fn new(transport: Transport) -> Counts {
        Counts { transport, of_zones: Vec::new(), current: 0 }
    }

    /// From now on answers are counted under this zone.
    pub fn are_for(&mut self, at_once: &AtOnce, responder: &Responder) {
        let zone = &at_once.entry.zone;
        if self.of_zones.get(self.current).is_some_and(|(current, _)| current == zone) {
            return;
        }
        self.current = self.of_zones.iter().position(|(known, _)| known == zone).unwrap_or_else(|| {
            self.of_zones.push((zone.clone(), responder.tally(at_once, self.transport)));
            self.of_zones.len() - 1
        });
    }

    /// The counts of this zone, once there is one.
    pub fn tally(&self) -> Option<&Tally> {
        self.of_zones.get(self.current).map(|(_, tally)| &**tally)
    }
}

/// A bug must not take the thread, and with it a part of all questions. The other path, which gets the question then, has such a guard as well.
pub(super) fn guarded<'a>(responder: &Responder, compose: impl FnOnce() -> Option<Composed<'a>>) -> Option<Composed<'a>> {
    // Whatever a panic leaves in the composer is overwritten by the next question.
    catch_unwind(AssertUnwindSafe(compose)).unwrap_or_else(|_| {
        error!("answering a DNS question panicked: please report this with the lines above");
        responder.panicked();
        None
    })
}
