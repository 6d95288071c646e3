//! The busiest names and clients, counted while somebody looks (`waypost dns top`). Nobody does, mostly: then a question costs one look at a flag.

use super::name::{Labels, MAX_NAME};
use std::cell::Cell;
use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// So many names, and so many clients, are counted in each part. However many there are, those that make up more than a few thousandths are
/// among them.
const CAPACITY: usize = 1024;
/// Threads count in parts of their own, as far as there are as many.
const PARTS: usize = 8;
/// A message's header, bytes.
const HEADER: usize = 12;

/// The counters.
#[derive(Debug, Default)]
pub struct Top {
    watching: AtomicBool,
    parts: [Mutex<Part>; PARTS],
}

#[derive(Debug, Default)]
struct Part {
    questions: u64,
    names: Frequent<Box<[u8]>>,
    clients: Frequent<IpAddr>,
}

/// What was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Busiest {
    /// All questions.
    pub questions: u64,
    /// Names in wire form and lower case, the busiest first, and how often each was asked for.
    pub names: Vec<(Box<[u8]>, u64)>,
    /// Clients, the busiest first, and how often each has asked.
    pub clients: Vec<(IpAddr, u64)>,
    /// By so much each count may be too low, because there were more names or clients than counters.
    pub missed: u64,
}

thread_local! {
    static OWN_PART: Cell<Option<usize>> = const { Cell::new(None) };
}

impl Top {
    /// Counts a question: its name in wire form, in any spelling, and who asked. Costs next to nothing while nobody watches.
    #[inline]
    pub fn note(&self, name: &[u8], client: IpAddr) {
        if self.watching.load(Ordering::Relaxed) {
            self.count(name, client);
        }
    }

    /// Whether somebody watches: where a name has to be made for it first.
    pub fn is_watched(&self) -> bool {
        self.watching.load(Ordering::Relaxed)
    }

    /// The same for a whole question, which has been understood: its name begins behind the header.
    #[inline]
    pub fn note_datagram(&self, question: &[u8], client: IpAddr) {
        if self.watching.load(Ordering::Relaxed) {
            let behind = question.get(HEADER..).unwrap_or_default();
            let length = Labels::of(behind).map(|label| label.len() + 1).sum::<usize>() + 1;
            self.count(behind.get(..length).unwrap_or_default(), client);
        }
    }

    #[cold]
    fn count(&self, name: &[u8], client: IpAddr) {
        let mut lower = [0; MAX_NAME];
        let Some(lower) = lower.get_mut(..name.len()) else { return };
        lower.copy_from_slice(name);
        lower.make_ascii_lowercase();
        let mut part = lock(&self.parts[own_part()]);
        part.questions += 1;
        part.names.add(&*lower, |name: &[u8]| name.into());
        part.clients.add(&client.to_canonical(), |client| *client);
    }

    /// Begins to count; `None` while somebody else is at it. Counting ends with what is returned.
    pub fn watch(&self) -> Option<Watching<'_>> {
        if self.watching.swap(true, Ordering::Relaxed) {
            return None;
        }
        self.parts.iter().for_each(|part| *lock(part) = Part::default());
        Some(Watching(self))
    }
}

/// The time in which questions are counted.
#[derive(Debug)]
pub struct Watching<'a>(&'a Top);

impl Watching<'_> {
    /// What was counted, so many names and clients at most.
    pub fn busiest(self, most: usize) -> Busiest {
        let mut all = Part::default();
        for part in &self.0.parts {
            let part = std::mem::take(&mut *lock(part));
            all.questions += part.questions;
            all.names.join(part.names);
            all.clients.join(part.clients);
        }
        let missed = all.names.missed.max(all.clients.missed);
        Busiest { questions: all.questions, names: all.names.busiest(most), clients: all.clients.busiest(most), missed }
    }
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        self.0.watching.store(false, Ordering::Relaxed);
    }
}

fn own_part() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    OWN_PART.with(|own| {
        let number = own.get().unwrap_or_else(|| NEXT.fetch_add(1, Ordering::Relaxed) % PARTS);
        own.set(Some(number));
        number
    })
}

fn lock(part: &Mutex<Part>) -> MutexGuard<'_, Part> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counters for the most frequent of any number of keys, in bounded memory (Misra and Gries): when all counters are taken, the median is
/// taken off from each, which makes half of them free. A count is too low by at most what was taken off.
#[derive(Debug)]
struct Frequent<K> {
    counts: HashMap<K, u64>,
    missed: u64,
}

impl<K> Default for Frequent<K> {
    fn default() -> Frequent<K> {
        Frequent { counts: HashMap::new(), missed: 0 }
    }
}

impl<K: Hash + Eq + Ord + Clone> Frequent<K> {
    fn add<Q: Hash + Eq + ?Sized>(&mut self, key: &Q, owned: impl FnOnce(&Q) -> K)
    where
        K: std::borrow::Borrow<Q>,
    {
        if let Some(count) = self.counts.get_mut(key) {
            *count += 1;
            return;
        }
        if self.counts.len() >= CAPACITY {
            self.make_room();
        }
        self.counts.insert(owned(key), 1);
    }

    fn make_room(&mut self) {
        let mut counts: Vec<u64> = self.counts.values().copied().collect();
        let middle = counts.len() / 2;
        let median = *counts.select_nth_unstable(middle).1;
        self.missed += median;
        self.counts.retain(|_, count| {
            *count = count.saturating_sub(median);
            *count > 0
        });
    }

    fn join(&mut self, other: Frequent<K>) {
        other.counts.into_iter().for_each(|(key, count)| *self.counts.entry(key).or_default() += count);
        self.missed += other.missed;
    }

    fn busiest(self, most: usize) -> Vec<(K, u64)> {
        let mut all: Vec<(K, u64)> = self.counts.into_iter().collect();
        all.sort_unstable_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
        all.truncate(most);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 244, 0, 7));

    #[test]
    fn nothing_is_counted_but_while_somebody_looks() {
        let top = Top::default();
        top.note(b"\x01a\x00", CLIENT);
        let watching = top.watch().unwrap();
        assert!(top.watch().is_none(), "one at a time");
        for name in [b"\x01A\x00", b"\x01a\x00", b"\x01b\x00"] {
            top.note(name, CLIENT);
        }
        let busiest = watching.busiest(10);
        assert_eq!(busiest.questions, 3);
        assert_eq!(busiest.names, [(b"\x01a\x00".as_slice().into(), 2), (b"\x01b\x00".as_slice().into(), 1)]);
        assert_eq!((busiest.clients, busiest.missed), (vec![(CLIENT, 3)], 0));
        top.note(b"\x01a\x00", CLIENT);
        assert_eq!(top.watch().unwrap().busiest(10), Busiest::default());
    }

    #[test]
    fn a_flood_of_names_takes_no_more_memory_and_hides_nobody_who_asks_much() {
        let mut frequent = Frequent::default();
        for number in 0..200_000_u64 {
            let key = if number % 20 == 0 { 0 } else { number };
            frequent.add(&key, |key| *key);
            assert!(frequent.counts.len() <= CAPACITY);
        }
        let missed = frequent.missed;
        let busiest = frequent.busiest(1);
        assert_eq!(busiest[0].0, 0);
        assert!(busiest[0].1 <= 10_000 && busiest[0].1 + missed >= 10_000, "{busiest:?} {missed}");
    }

    proptest! {
        #[test]
        fn no_count_is_too_high_or_lower_than_is_said(keys in prop::collection::vec(0_u32..3000, 0..20_000)) {
            let mut frequent = Frequent::default();
            let mut true_counts: HashMap<u32, u64> = HashMap::new();
            for key in &keys {
                frequent.add(key, |key| *key);
                *true_counts.entry(*key).or_default() += 1;
            }
            for (key, count) in &true_counts {
                let counted = frequent.counts.get(key).copied().unwrap_or(0);
                prop_assert!(counted <= *count && counted + frequent.missed >= *count);
            }
        }
    }
}
