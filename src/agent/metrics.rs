//! The service proxy's metrics, under kube-proxy's names.

use crate::model::Family;
use crate::nft::FamilyOutcome;
use prometheus::{
    GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry, exponential_buckets,
};
use std::time::{Duration, SystemTime};

/// What changes and commits move.
#[derive(Debug)]
pub struct ProxyMetrics {
    duration: HistogramVec,
    last: GaugeVec,
    queued: GaugeVec,
    failures: IntCounterVec,
    elements: IntCounterVec,
    rebuilds: IntCounterVec,
    rejected: IntCounterVec,
    repairs: IntCounterVec,
    /// DNS addresses that somebody removed and that were added again.
    pub dns_address_repairs: IntCounter,
    /// Updates of Services.
    pub service_changes: IntCounter,
    /// Updates of EndpointSlices.
    pub endpoint_changes: IntCounter,
    /// Destinations whose latest change waits for its commit.
    pub pending: IntGauge,
}

impl ProxyMetrics {
    /// Registers the metrics.
    pub fn new(registry: &Registry) -> Result<ProxyMetrics, prometheus::Error> {
        let family = ["ip_family"];
        let counters = |name: &str, help: &str| IntCounterVec::new(Opts::new(name, help), &family);
        let gauges = |name: &str, help: &str| GaugeVec::new(Opts::new(name, help), &family);
        let buckets = exponential_buckets(0.001, 2.0, 15)?;
        let duration = HistogramOpts::new("kubeproxy_sync_proxy_rules_duration_seconds", "How long a commit to the kernel took")
            .buckets(buckets);
        let metrics = ProxyMetrics {
            duration: HistogramVec::new(duration, &family)?,
            last: gauges("kubeproxy_sync_proxy_rules_last_timestamp_seconds", "When the rules were last committed")?,
            queued: gauges("kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", "When a commit was last asked for")?,
            failures: counters(
                "kubeproxy_sync_proxy_rules_nftables_sync_failures_total",
                "Commits that failed and are tried again",
            )?,
            elements: counters("waypost_nftables_elements_changed_total", "Set elements added to or removed from the kernel")?,
            rebuilds: counters("waypost_nftables_rebuilds_total", "How often a table had to be made anew")?,
            rejected: counters(
                "waypost_nftables_rejected_total",
                "Destinations that the kernel refused and that were set aside",
            )?,
            repairs: counters(
                "waypost_nftables_repairs_total",
                "How often a table that somebody else had changed was put right",
            )?,
            dns_address_repairs: IntCounter::new(
                "waypost_dns_address_repairs_total",
                "DNS addresses that somebody else had removed and that were added again",
            )?,
            service_changes: IntCounter::new("kubeproxy_sync_proxy_rules_service_changes_total", "Updates of Services")?,
            endpoint_changes: IntCounter::new("kubeproxy_sync_proxy_rules_endpoint_changes_total", "Updates of EndpointSlices")?,
            pending: IntGauge::new("waypost_destinations_pending", "Destinations whose latest change waits for its commit")?,
        };
        metrics.register(registry)?;
        Ok(metrics)
    }

    fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.duration.clone()))?;
        registry.register(Box::new(self.last.clone()))?;
        registry.register(Box::new(self.queued.clone()))?;
        for counter in [&self.failures, &self.elements, &self.rebuilds, &self.rejected, &self.repairs] {
            for family in Family::BOTH {
                counter.with_label_values(&[&family.to_string()]);
            }
            registry.register(Box::new(counter.clone()))?;
        }
        registry.register(Box::new(self.dns_address_repairs.clone()))?;
        registry.register(Box::new(self.service_changes.clone()))?;
        registry.register(Box::new(self.endpoint_changes.clone()))?;
        registry.register(Box::new(self.pending.clone()))
    }

    /// A commit was asked for.
    pub fn queued(&self) {
        for family in Family::BOTH {
            self.queued.with_label_values(&[&family.to_string()]).set(now());
        }
    }

    /// A table was put right that somebody else had changed.
    pub fn repaired(&self, family: Family) {
        self.repairs.with_label_values(&[&family.to_string()]).inc();
    }

    /// A commit of one family came to this end.
    pub fn committed(&self, outcome: &FamilyOutcome, took: Duration) {
        let family = outcome.family.to_string();
        let label: &[&str] = &[&family];
        self.duration.with_label_values(label).observe(took.as_secs_f64());
        self.elements.with_label_values(label).inc_by(outcome.elements as u64);
        self.rebuilds.with_label_values(label).inc_by(u64::from(outcome.rebuilt.is_some()));
        self.rejected.with_label_values(label).inc_by(outcome.rejected.len() as u64);
        match outcome.error {
            None => self.last.with_label_values(label).set(now()),
            Some(_) => self.failures.with_label_values(label).inc(),
        }
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
