//! What is answered at once, on every transport, from the records or with what a cache has: how it is counted, and what becomes of a bug in it.

use super::cache::Kind;
use super::chain::{AtOnce, Entry, Plan};
use super::fast::{Composed, Composer, Kept, Wanted};
use super::metrics::{CacheHits, Transport};
use super::records::View;
use super::respond::Responder;
use super::tally::Tally;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;
use tracing::error;

/// Counts for each zone under which was answered: another configuration may have another one. Only one thread at a time may have them.
pub(super) struct Counts {
    transport: Transport,
    of_zones: Vec<(Arc<str>, Arc<Tally>)>,
    current: usize,
    of_caches: Vec<(Entry, Arc<Tally>, CacheHits)>,
}

/// What a cache has for a question, and for which zone.
pub(super) struct FromCache<'a> {
    pub kept: Kept,
    pub kind: Kind,
    pub entry: &'a Entry,
}

impl Counts {
    /// None so far.
    pub fn new(transport: Transport) -> Counts {
        Counts { transport, of_zones: Vec::new(), current: 0, of_caches: Vec::new() }
    }

    /// From now on answers are counted under this zone.
    pub fn are_for(&mut self, at_once: &AtOnce, responder: &Responder) {
        let zone = &at_once.entry.zone;
        if self.of_zones.get(self.current).is_some_and(|(current, _)| current == zone) {
            return;
        }
        self.current = self.of_zones.iter().position(|(known, _)| known == zone).unwrap_or_else(|| {
            self.of_zones.push((zone.clone(), responder.tally(&at_once.entry, self.transport, "kubernetes")));
            self.of_zones.len() - 1
        });
    }

    /// The counts of this zone, once there is one.
    pub fn tally(&self) -> Option<&Tally> {
        self.of_zones.get(self.current).map(|(_, tally)| &**tally)
    }

    /// Notes that a cache had an answer of this sort, and gives the counts for it.
    pub fn cached(&mut self, entry: &Entry, kind: Kind, responder: &Responder) -> &Tally {
        let known = self.of_caches.iter().position(|(known, ..)| known.has_labels_of(entry));
        let place = known.unwrap_or_else(|| {
            let tally = responder.tally(entry, self.transport, "cache");
            self.of_caches.push((entry.clone(), tally, responder.cache_hits(entry)));
            self.of_caches.len() - 1
        });
        let (_, tally, hits) = &self.of_caches[place];
        hits.note(kind);
        tally
    }
}

/// A message that may be answered at once.
pub(super) struct Message<'a> {
    pub bytes: &'a [u8],
    pub over_tcp: bool,
    pub now: Instant,
}

/// The reply to a message, and where it is counted, if what is in memory is enough for it. A bug must not take the thread, and with it a part of all
/// questions: the other path, which gets the question then, has such a guard as well.
pub(super) fn answer_at_once<'a, 'b>(
    responder: &Responder,
    plan: &Plan,
    view: Option<&View<'_>>,
    composer: &'a mut Composer,
    counts: &'b mut Counts,
    message: &Message<'_>,
) -> Option<(Composed<'a>, &'b Tally)> {
    let mut cached = None;
    let find = |wanted: Wanted<'_>| {
        let FromCache { kept, kind, entry } = responder.kept(plan, wanted, message.now)?;
        cached = Some((kind, entry));
        Some(kept)
    };
    let leave = |wanted: Wanted<'_>| responder.kept_is_left(plan, wanted);
    // Whatever a panic leaves in the composer is overwritten by the next question.
    let answer = catch_unwind(AssertUnwindSafe(|| composer.answer_with(view, message.bytes, message.over_tcp, find, leave)));
    let answer = answer.unwrap_or_else(|_| {
        error!("answering a DNS question panicked: please report this with the lines above");
        responder.panicked();
        None
    })?;
    let tally = match cached {
        Some((kind, entry)) => counts.cached(entry, kind, responder),
        None => counts.tally()?,
    };
    Some((answer, tally))
}

#[cfg(test)]
#[path = "at_once_tests.rs"]
mod tests;
