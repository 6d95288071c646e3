//! Signs of life of the loops that receive questions.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A loop that has nothing to do says so this often.
pub const EVERY: Duration = Duration::from_millis(500);
/// One that has said nothing for this long hangs: on a busy machine a sign comes late.
pub const STALE: Duration = Duration::from_millis(1250);

/// The pulses of all loops. Clones are one.
#[derive(Clone, Debug, Default)]
pub struct Pulses(Arc<Mutex<Vec<Arc<AtomicU64>>>>);

/// The pulse of one loop.
#[derive(Debug)]
pub struct Pulse(Arc<AtomicU64>);

/// Who watches them.
#[derive(Debug)]
pub struct Watch {
    pulses: Pulses,
    /// Each one's count, and when it was first seen.
    seen: Vec<(u64, Instant)>,
}

impl Pulses {
    /// One more loop. It counts as hanging when it ends: then nobody reads its socket.
    pub fn join(&self) -> Pulse {
        let count = Arc::new(AtomicU64::new(0));
        self.all().push(count.clone());
        Pulse(count)
    }

    /// Begins to watch.
    pub fn watch(&self) -> Watch {
        Watch { pulses: self.clone(), seen: Vec::new() }
    }

    fn all(&self) -> MutexGuard<'_, Vec<Arc<AtomicU64>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pulse {
    /// The loop has come round.
    pub fn beat(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Watch {
    /// Whether every loop has come round lately.
    pub fn is_alive(&mut self, now: Instant) -> bool {
        let counts: Vec<u64> = self.pulses.all().iter().map(|count| count.load(Ordering::Relaxed)).collect();
        for (index, count) in counts.into_iter().enumerate() {
            match self.seen.get_mut(index) {
                None => self.seen.push((count, now)),
                Some(seen) if seen.0 != count => *seen = (count, now),
                Some(_) => {}
            }
        }
        self.seen.iter().all(|(_, since)| now.saturating_duration_since(*since) < STALE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_loop_that_hangs_or_ends_is_enough_and_all_must_come_round_again() {
        let pulses = Pulses::default();
        let (one, other) = (pulses.join(), pulses.join());
        let mut watch = pulses.watch();
        let start = Instant::now();
        assert!(watch.is_alive(start));
        one.beat();
        assert!(watch.is_alive(start + STALE / 2));
        assert!(!watch.is_alive(start + STALE), "the other one has said nothing");
        other.beat();
        assert!(watch.is_alive(start + STALE));
        one.beat();
        drop(other);
        assert!(watch.is_alive(start + STALE * 2 - Duration::from_nanos(1)));
        one.beat();
        assert!(!watch.is_alive(start + STALE * 2), "it has ended");
    }
}
