//! Answers from upstream servers, kept for a while; pure: the time is handed in, and what is kept is bytes.
//!
//! Positive answers and negative ones (with failures) have a half each, as in CoreDNS, so that a flood of names that do not exist costs no name
//! that does. Each half is bounded by entries and by bytes; what was not asked for since the hand of the clock last passed is evicted first.

use crate::config::CacheConfig;
use std::borrow::Borrow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What an entry takes besides its key and its answer: a slot, a place in the index, and the heads of two allocations.
const OVERHEAD: usize = 256;

/// What is asked for: the name in lower case, the type, and the flags DO and CD. The class is always IN: others are refused before.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key(Arc<[u8]>);

impl Key {
    /// The key of this question; the name in wire form and lower case.
    pub fn new(name: &[u8], rtype: u16, dnssec_ok: bool, checking_disabled: bool) -> Key {
        Key([name, &Key::tail(rtype, dnssec_ok, checking_disabled)].concat().into())
    }

    /// How many bytes stand behind the name.
    pub const TAIL: usize = 4;

    /// What they are.
    pub fn tail(rtype: u16, dnssec_ok: bool, checking_disabled: bool) -> [u8; Key::TAIL] {
        let [high, low] = rtype.to_be_bytes();
        [high, low, u8::from(dnssec_ok), u8::from(checking_disabled)]
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

/// What sort of answer it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The name has what was asked for.
    Positive,
    /// It does not exist, or has nothing of this type.
    Negative,
    /// The server failed. Never served when it is stale.
    Failure,
}

/// What the cache has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing that may be served.
    Nothing,
    /// An answer.
    Fresh {
        /// What was kept.
        answer: Arc<[u8]>,
        /// Its sort.
        kind: Kind,
        /// Seconds that it has left, at least one.
        ttl: u32,
        /// Whether to ask again meanwhile, because many ask and it expires soon. Said once.
        refresh: bool,
    },
    /// An answer that has expired, to be served when nobody has a better one.
    Stale {
        /// What was kept.
        answer: Arc<[u8]>,
        /// Its sort.
        kind: Kind,
        /// What to do about it.
        refresh: Refresh,
    },
}

/// What to do about an answer that has expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refresh {
    /// Ask first, and serve this one if that fails or takes long.
    First,
    /// Serve this one, and ask meanwhile: the last time failed.
    Meanwhile,
    /// Serve this one: the upstreams have just failed, or are being asked.
    Later,
}

/// The cache. Reading and writing take a lock for less than a microsecond.
#[derive(Debug)]
pub struct Cache {
    config: CacheConfig,
    positive: Mutex<Half>,
    negative: Mutex<Half>,
}

impl Cache {
    /// An empty cache.
    pub fn new(config: &CacheConfig) -> Cache {
        let half = |entries| Mutex::new(Half::new(entries, config.bytes / 2));
        Cache { config: config.clone(), positive: half(config.entries), negative: half(config.negative_entries) }
    }

    /// What it was made by.
    pub fn config(&self) -> &CacheConfig {
        &self.config
    }

    /// How many seconds an answer of this sort is kept whose records have at least this TTL.
    pub fn lifetime(&self, kind: Kind, ttl: u32) -> u32 {
        match kind {
            Kind::Positive => ttl.max(self.config.min_ttl).min(self.config.positive_ttl),
            Kind::Negative => ttl.max(self.config.min_negative_ttl).min(self.config.negative_ttl),
            Kind::Failure => self.config.failure_ttl,
        }
    }

    /// Looks for an answer, and counts that it was asked for.
    pub fn get(&self, key: &Key, now: Instant) -> Found {
        match lock(&self.positive).get(key, now, &self.config) {
            Found::Nothing => lock(&self.negative).get(key, now, &self.config),
            found => found,
        }
    }

    /// An answer that has not expired and of which nobody needs to ask anew, with its sort and the seconds that it has left; and counts that it was
    /// asked for. Of anything else nothing is said, and nothing counted. The key is given by its bytes.
    pub fn get_plain(&self, key: &[u8], now: Instant) -> Option<(Arc<[u8]>, Kind, u32)> {
        let of = |half: &Mutex<Half>| {
            let mut half = lock(half);
            let at = *half.index.get(key)?;
            half.slots[at].1.look_plain(now, &self.config)
        };
        of(&self.positive).or_else(|| of(&self.negative))
    }

    /// Takes back that what [`Cache::get_plain`] found was asked for: whoever found it leaves the question to somebody who looks, and counts, again.
    pub fn take_back(&self, key: &[u8]) {
        for half in [&self.positive, &self.negative] {
            let mut half = lock(half);
            if let Some(at) = half.index.get(key).copied() {
                let entry = &mut half.slots[at].1;
                entry.hits = entry.hits.saturating_sub(1);
            }
        }
    }

    /// Keeps an answer for so many seconds, and says how many others had to go for it. One that is too large, or that is not to be kept for
    /// any time, is not kept; nor is a failure where there is an answer that may be served stale.
    pub fn put(&self, key: &Key, kind: Kind, answer: Arc<[u8]>, ttl: u32, now: Instant) -> usize {
        let (own, other) = match kind {
            Kind::Positive => (&self.positive, &self.negative),
            Kind::Negative | Kind::Failure => (&self.negative, &self.positive),
        };
        if kind == Kind::Failure {
            let is_usable = |half| lock(half).entry(key).is_some_and(|entry| entry.is_usable(now, &self.config));
            if is_usable(own) || is_usable(other) {
                self.failed(key, now);
                return 0;
            }
        }
        lock(other).remove(key);
        lock(own).put(key, Entry::new(kind, answer, ttl, now))
    }

    /// Forgets what there is: the upstreams have answered, with what is not to be kept.
    pub fn remove(&self, key: &Key) {
        [&self.positive, &self.negative].into_iter().for_each(|half| lock(half).remove(key));
    }

    /// Notes that a refresh has failed, so that the upstreams are left in peace for a moment; what there is of an answer is stale or fresh.
    pub fn failed(&self, key: &Key, now: Instant) {
        self.each(key, |entry| entry.failed(now, &self.config));
    }

    /// Notes that no refresh came in time for who was then served this answer. Where another one has taken its place meanwhile, nothing has failed.
    pub fn late(&self, key: &Key, served: &Arc<[u8]>, now: Instant) {
        let note = |entry: &mut Entry| {
            if Arc::ptr_eq(&entry.answer, served) {
                entry.failed(now, &self.config);
            }
        };
        self.each(key, note);
    }

    /// Notes that a refresh of which the cache knows what came has ended. Whoever was told since then to ask anew has joined it, and asks no more.
    pub fn ended(&self, key: &Key) {
        self.each(key, |entry| entry.refreshing = false);
    }

    fn each(&self, key: &Key, mut note: impl FnMut(&mut Entry)) {
        for half in [&self.positive, &self.negative] {
            if let Some(entry) = lock(half).entry(key) {
                note(entry);
            }
        }
    }

    /// How many answers are kept: positive ones, and negative ones with failures.
    pub fn entries(&self) -> [usize; 2] {
        [lock(&self.positive).slots.len(), lock(&self.negative).slots.len()]
    }

    /// About how much memory they take, in bytes.
    pub fn bytes(&self) -> usize {
        lock(&self.positive).bytes + lock(&self.negative).bytes
    }
}

fn lock(half: &Mutex<Half>) -> MutexGuard<'_, Half> {
    half.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct Entry {
    kind: Kind,
    answer: Arc<[u8]>,
    stored: Instant,
    ttl: u32,
    /// Asked for since the hand last passed.
    visited: bool,
    /// How often it was asked for without a pause, and when last.
    hits: u32,
    last: Instant,
    /// A refresh is under way.
    refreshing: bool,
    /// The last refresh failed; until then there is no other.
    recheck: Option<Instant>,
}

impl Entry {
    fn new(kind: Kind, answer: Arc<[u8]>, ttl: u32, now: Instant) -> Entry {
        Entry { kind, answer, stored: now, ttl, visited: false, hits: 0, last: now, refreshing: false, recheck: None }
    }

    fn weight(&self, key: &Key) -> usize {
        key.0.len() + self.answer.len() + OVERHEAD
    }

    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.stored)
    }

    /// Whether it is an answer that may be served, fresh or stale.
    fn is_usable(&self, now: Instant, config: &CacheConfig) -> bool {
        self.kind != Kind::Failure && self.age(now) < Duration::from_secs(self.ttl.into()) + config.serve_stale
    }

    fn look(&mut self, now: Instant, config: &CacheConfig) -> Found {
        if let Some((answer, kind, ttl)) = self.look_plain(now, config) {
            return Found::Fresh { answer, kind, ttl, refresh: false };
        }
        self.visit(now, config);
        let (answer, kind) = (self.answer.clone(), self.kind);
        if let Some(left) = self.left(now) {
            self.refreshing = true;
            return Found::Fresh { answer, kind, ttl: self.shown(left, config), refresh: true };
        }
        if !self.is_usable(now, config) {
            return Found::Nothing;
        }
        let refresh = match (self.may_refresh(now), self.recheck) {
            (false, _) => Refresh::Later,
            (true, None) if !config.stale_after.is_zero() => Refresh::First,
            (true, _) => Refresh::Meanwhile,
        };
        // Who waits for the upstreams waits together with the others; who does not need not be followed by more.
        self.refreshing |= refresh == Refresh::Meanwhile;
        Found::Stale { answer, kind, refresh }
    }

    /// Where it has not expired, and is not to be asked for anew.
    fn look_plain(&mut self, now: Instant, config: &CacheConfig) -> Option<(Arc<[u8]>, Kind, u32)> {
        let left = self.left(now)?;
        let soon = left <= (u64::from(self.ttl) * u64::from(config.prefetch_last)).div_ceil(100);
        let popular = config.prefetch > 0 && self.hits_then(now, config) >= config.prefetch && self.kind != Kind::Failure;
        if soon && popular && self.may_refresh(now) {
            return None;
        }
        self.visit(now, config);
        Some((self.answer.clone(), self.kind, self.shown(left, config)))
    }

    /// It is asked for.
    fn visit(&mut self, now: Instant, config: &CacheConfig) {
        self.visited = true;
        self.hits = self.hits_then(now, config);
        self.last = now;
    }

    /// How often it will have been asked for without a pause, if it is now.
    fn hits_then(&self, now: Instant, config: &CacheConfig) -> u32 {
        if now.saturating_duration_since(self.last) > config.prefetch_within { 1 } else { self.hits.saturating_add(1) }
    }

    /// Seconds until it expires.
    fn left(&self, now: Instant) -> Option<u64> {
        u64::from(self.ttl).checked_sub(self.age(now).as_secs()).filter(|left| *left > 0)
    }

    /// The TTL with which it is served.
    fn shown(&self, left: u64, config: &CacheConfig) -> u32 {
        if config.keep_ttl { self.ttl } else { left as u32 }
    }

    fn failed(&mut self, now: Instant, config: &CacheConfig) {
        self.refreshing = false;
        self.recheck = Some(now + config.stale_recheck);
    }

    fn may_refresh(&self, now: Instant) -> bool {
        !self.refreshing && self.recheck.is_none_or(|then| now >= then)
    }
}

/// Entries of one sort, in no order but that of the clock's hand.
#[derive(Debug)]
struct Half {
    slots: Vec<(Key, Entry)>,
    index: HashMap<Key, usize>,
    hand: usize,
    bytes: usize,
    max_entries: usize,
    max_bytes: usize,
}

impl Half {
    fn new(max_entries: usize, max_bytes: usize) -> Half {
        Half { slots: Vec::new(), index: HashMap::new(), hand: 0, bytes: 0, max_entries, max_bytes }
    }

    fn entry(&mut self, key: &Key) -> Option<&mut Entry> {
        self.index.get(key).map(|at| &mut self.slots[*at].1)
    }

    fn get(&mut self, key: &Key, now: Instant, config: &CacheConfig) -> Found {
        self.entry(key).map_or(Found::Nothing, |entry| entry.look(now, config))
    }

    fn put(&mut self, key: &Key, mut entry: Entry) -> usize {
        let weight = entry.weight(key);
        if entry.ttl == 0 || weight > self.max_bytes || self.max_entries == 0 {
            self.remove(key);
            return 0;
        }
        self.bytes += weight;
        match self.index.get(key) {
            Some(at) => {
                let old = &mut self.slots[*at].1;
                // The name is as popular as it was.
                (entry.hits, entry.last, entry.visited) = (old.hits, old.last, old.visited);
                self.bytes -= old.weight(key);
                *old = entry;
            }
            None => {
                self.index.insert(key.clone(), self.slots.len());
                self.slots.push((key.clone(), entry));
            }
        }
        let mut evicted = 0;
        while self.slots.len() > self.max_entries || self.bytes > self.max_bytes {
            self.evict(key);
            evicted += 1;
        }
        evicted
    }

    /// Takes away the next one that nobody has asked for since the hand last passed; never the one that has just come.
    fn evict(&mut self, newest: &Key) {
        loop {
            self.hand = if self.hand < self.slots.len() { self.hand } else { 0 };
            let (key, entry) = &mut self.slots[self.hand];
            if *key != *newest && !entry.visited {
                let key = key.clone();
                self.remove(&key);
                return;
            }
            entry.visited = false;
            self.hand += 1;
        }
    }

    fn remove(&mut self, key: &Key) {
        let Some(at) = self.index.remove(key) else { return };
        let (key, entry) = self.slots.swap_remove(at);
        self.bytes -= entry.weight(&key);
        if let Some((moved, _)) = self.slots.get(at) {
            self.index.insert(moved.clone(), at);
        }
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
