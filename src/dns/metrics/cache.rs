//! What the cache of answers from elsewhere does, under the names of CoreDNS's plugin cache.

use super::{Metrics, Place, VIEW, counters};
use crate::dns::cache::Kind;
use prometheus::{IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};

impl Metrics {
    /// What counts the answers that the cache of this place has at once.
    pub(in crate::dns) fn cache_hits(&self, place: &Place) -> CacheHits {
        let of = |kind| self.cache.hits.with_label_values(&[&*place.server, kind_label(kind), &*place.zones, VIEW]);
        CacheHits {
            requests: self.cache.requests.with_label_values(&[&*place.server, &*place.zones, VIEW]),
            hits: [of(Kind::Positive), of(Kind::Negative)],
        }
    }

    /// Shows the cache of this server from now on, with so many positive and negative answers in it.
    pub fn cache_of(&self, place: &Place, cached: [usize; 2]) {
        let CacheMetrics { entries, hits, evictions, requests, misses, prefetched, drops, served_stale } = &self.cache;
        for (kind, count) in ["success", "denial"].into_iter().zip(cached) {
            entries.with_label_values(&[&*place.server, kind, &*place.zones, VIEW]).set(count as i64);
            [hits, evictions]
                .iter()
                .for_each(|counter| drop(counter.with_label_values(&[&*place.server, kind, &*place.zones, VIEW])));
        }
        for counter in [requests, misses, prefetched, drops, served_stale] {
            counter.with_label_values(&[&*place.server, &*place.zones, VIEW]);
        }
    }

    /// There is no such cache any more. What it has counted stays, as counters do.
    pub fn no_cache_of(&self, place: &Place) {
        for kind in ["success", "denial"] {
            // One that was never shown is as well.
            let _ = self.cache.entries.remove_label_values(&[&*place.server, kind, &*place.zones, VIEW]);
        }
    }

    /// A question was looked for in the cache.
    pub fn cache_asked(&self, place: &Place) {
        self.cache.requests.with_label_values(&[&*place.server, &*place.zones, VIEW]).inc();
    }

    /// The cache had the answer.
    pub fn cache_hit(&self, place: &Place, kind: Kind) {
        self.cache.hits.with_label_values(&[&*place.server, kind_label(kind), &*place.zones, VIEW]).inc();
    }

    /// The cache had no answer.
    pub fn cache_missed(&self, place: &Place) {
        self.cache.misses.with_label_values(&[&*place.server, &*place.zones, VIEW]).inc();
    }

    /// A name is asked again for nobody who waits: a popular one before it expires, or one whose expired answer was served.
    pub fn cache_prefetched(&self, place: &Place) {
        self.cache.prefetched.with_label_values(&[&*place.server, &*place.zones, VIEW]).inc();
    }

    /// An answer was served that has expired.
    pub fn cache_served_stale(&self, place: &Place) {
        self.cache.served_stale.with_label_values(&[&*place.server, &*place.zones, VIEW]).inc();
    }

    /// An answer was put into the cache, for which so many others had to go; how many positive and negative ones it has now.
    pub fn cache_kept(&self, place: &Place, kind: Kind, evicted: usize, entries: [usize; 2]) {
        self.cache.evictions.with_label_values(&[&*place.server, kind_label(kind), &*place.zones, VIEW]).inc_by(evicted as u64);
        for (kind, count) in [Kind::Positive, Kind::Negative].into_iter().zip(entries) {
            self.cache.entries.with_label_values(&[&*place.server, kind_label(kind), &*place.zones, VIEW]).set(count as i64);
        }
    }
}

/// Counters of a cache at hand.
pub(in crate::dns) struct CacheHits {
    requests: IntCounter,
    /// Positive answers, and all others.
    hits: [IntCounter; 2],
}

impl CacheHits {
    /// The cache had an answer.
    pub fn note(&self, kind: Kind) {
        self.requests.inc();
        self.hits[usize::from(kind != Kind::Positive)].inc();
    }
}

/// What the cache of answers from elsewhere does, under the names of CoreDNS's plugin cache.
#[derive(Debug)]
pub(super) struct CacheMetrics {
    entries: IntGaugeVec,
    hits: IntCounterVec,
    evictions: IntCounterVec,
    requests: IntCounterVec,
    misses: IntCounterVec,
    prefetched: IntCounterVec,
    drops: IntCounterVec,
    served_stale: IntCounterVec,
}

impl CacheMetrics {
    pub fn new() -> Result<CacheMetrics, prometheus::Error> {
        let (of_server, by_kind) = (["server", "zones", "view"], ["server", "type", "zones", "view"]);
        Ok(CacheMetrics {
            entries: IntGaugeVec::new(Opts::new("coredns_cache_entries", "Answers in the cache."), &by_kind)?,
            hits: counters("coredns_cache_hits_total", "Answers from the cache.", &by_kind)?,
            evictions: counters("coredns_cache_evictions_total", "Answers that had to go for others.", &by_kind)?,
            requests: counters("coredns_cache_requests_total", "Questions that the cache was asked for.", &of_server)?,
            misses: counters("coredns_cache_misses_total", "Questions that the cache had no answer to.", &of_server)?,
            prefetched: counters("coredns_cache_prefetch_total", "Popular names asked again before they expired.", &of_server)?,
            drops: counters("coredns_cache_drops_total", "Answers to another question, which are never kept.", &of_server)?,
            served_stale: counters("coredns_cache_served_stale_total", "Answers served after they had expired.", &of_server)?,
        })
    }

    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.entries.clone()))?;
        for counter in
            [&self.hits, &self.evictions, &self.requests, &self.misses, &self.prefetched, &self.drops, &self.served_stale]
        {
            registry.register(Box::new(counter.clone()))?;
        }
        Ok(())
    }
}

fn kind_label(kind: Kind) -> &'static str {
    match kind {
        Kind::Positive => "success",
        Kind::Negative | Kind::Failure => "denial",
    }
}
