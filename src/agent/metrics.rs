//! The service proxy's metrics, under kube-proxy's names.

use super::connections::Connections;
use crate::model::Family;
use crate::nft::FamilyOutcome;
use crate::proxy::Traffic;
use prometheus::{
    GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry, exponential_buckets,
};
use std::time::{Duration, SystemTime};

/// What changes and commits move.
#[derive(Debug)]
pub struct ProxyMetrics {
    duration: HistogramVec,
    full: HistogramVec,
    partial: HistogramVec,
    programming: HistogramVec,
    without_local: GaugeVec,
    last: GaugeVec,
    queued: GaugeVec,
    failures: IntCounterVec,
    cleanup_failures: IntCounterVec,
    elements: IntCounterVec,
    rebuilds: IntCounterVec,
    rejected: IntCounterVec,
    refused: GaugeVec,
    repairs: IntCounterVec,
    repair_duration: HistogramVec,
    /// DNS addresses that somebody removed and that were added again.
    pub dns_address_repairs: IntCounter,
    service_changes: Changes,
    endpoint_changes: Changes,
    /// Destinations whose latest change waits for its commit.
    pub pending: IntGauge,
    /// New connections of each destination, where they are wanted.
    pub connections: Option<Connections>,
}

impl ProxyMetrics {
    /// Registers the metrics.
    pub fn new(registry: &Registry) -> Result<ProxyMetrics, prometheus::Error> {
        let family = ["ip_family"];
        let counters = |name: &str, help: &str| IntCounterVec::new(Opts::new(name, help), &family);
        let gauges = |name: &str, help: &str| GaugeVec::new(Opts::new(name, help), &family);
        let histograms = |name: &str, help: &str, buckets: &[f64]| {
            HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), &family)
        };
        let sync = exponential_buckets(0.001, 2.0, 15)?;
        let metrics = ProxyMetrics {
            duration: histograms("kubeproxy_sync_proxy_rules_duration_seconds", "How long a commit to the kernel took", &sync)?,
            full: histograms(
                "kubeproxy_sync_full_proxy_rules_duration_seconds",
                "How long a commit took that compared the whole table",
                &sync,
            )?,
            partial: histograms(
                "kubeproxy_sync_partial_proxy_rules_duration_seconds",
                "How long a commit took that sent only what had changed",
                &sync,
            )?,
            programming: histograms(
                "kubeproxy_network_programming_duration_seconds",
                "From the change of a pod or Service to the commit of what follows from it",
                &programming_buckets(),
            )?,
            without_local: GaugeVec::new(
                Opts::new(
                    "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
                    "Service ports with a policy Local and no endpoint on this node",
                ),
                &["traffic_policy", "ip_family"],
            )?,
            last: gauges("kubeproxy_sync_proxy_rules_last_timestamp_seconds", "When the rules were last committed")?,
            queued: gauges("kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", "When a commit was last asked for")?,
            failures: counters(
                "kubeproxy_sync_proxy_rules_nftables_sync_failures_total",
                "Commits that failed and are tried again",
            )?,
            cleanup_failures: counters(
                "kubeproxy_sync_proxy_rules_nftables_cleanup_failures_total",
                "Removals of destinations that the kernel refused",
            )?,
            elements: counters("waypost_nftables_elements_changed_total", "Set elements added to or removed from the kernel")?,
            rebuilds: counters("waypost_nftables_rebuilds_total", "How often a table had to be made anew")?,
            rejected: counters(
                "waypost_nftables_rejected_total",
                "Destinations that the kernel refused and that were set aside",
            )?,
            refused: gauges(
                "waypost_nftables_refused",
                "Destinations that are set aside now because the kernel refused them; they are tried again",
            )?,
            repairs: counters(
                "waypost_nftables_repairs_total",
                "How often a table that somebody else had changed was put right",
            )?,
            repair_duration: histograms(
                "waypost_nftables_repair_duration_seconds",
                "From the kernel's notice that somebody else has changed a table to the commit that put it right",
                &sync,
            )?,
            dns_address_repairs: IntCounter::new(
                "waypost_dns_address_repairs_total",
                "DNS addresses that somebody else had removed and that were added again",
            )?,
            service_changes: Changes::new("service", "Services")?,
            endpoint_changes: Changes::new("endpoint", "EndpointSlices")?,
            pending: IntGauge::new("waypost_destinations_pending", "Destinations whose latest change waits for its commit")?,
            connections: None,
        };
        metrics.register(registry)?;
        Ok(metrics)
    }

    fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        for histogram in [&self.duration, &self.full, &self.partial, &self.programming, &self.repair_duration] {
            for family in Family::BOTH {
                histogram.with_label_values(&[&family.to_string()]);
            }
            registry.register(Box::new(histogram.clone()))?;
        }
        for family in Family::BOTH {
            self.refused.with_label_values(&[&family.to_string()]);
        }
        registry.register(Box::new(self.refused.clone()))?;
        registry.register(Box::new(self.without_local.clone()))?;
        registry.register(Box::new(self.last.clone()))?;
        registry.register(Box::new(self.queued.clone()))?;
        for counter in [&self.failures, &self.cleanup_failures, &self.elements, &self.rebuilds, &self.rejected, &self.repairs] {
            for family in Family::BOTH {
                counter.with_label_values(&[&family.to_string()]);
            }
            registry.register(Box::new(counter.clone()))?;
        }
        registry.register(Box::new(self.dns_address_repairs.clone()))?;
        for changes in [&self.service_changes, &self.endpoint_changes] {
            registry.register(Box::new(changes.total.clone()))?;
            registry.register(Box::new(changes.pending.clone()))?;
        }
        registry.register(Box::new(self.pending.clone()))
    }

    /// A Service was updated.
    pub fn service_changed(&self) {
        self.service_changes.note();
    }

    /// An EndpointSlice was updated.
    pub fn slice_changed(&self) {
        self.endpoint_changes.note();
    }

    /// Every update so far is on its way to the kernel, or has brought nothing new.
    pub fn nothing_pending(&self) {
        self.service_changes.pending.set(0);
        self.endpoint_changes.pending.set(0);
    }

    /// What follows from a change at that time is committed.
    pub fn programmed(&self, family: Family, changed: SystemTime) {
        // The clocks of two machines: a change from the future took no time.
        let latency = changed.elapsed().unwrap_or_default();
        self.programming.with_label_values(&[&family.to_string()]).observe(latency.as_secs_f64());
    }

    /// So many service ports have a policy Local and no endpoint on this node.
    pub fn without_local(&self, family: Family, traffic: Traffic, count: usize) {
        let policy = match traffic {
            Traffic::Internal => "internal",
            Traffic::External => "external",
        };
        self.without_local.with_label_values(&[policy, &family.to_string()]).set(count as f64);
    }

    /// The kernel refused the removal of a destination.
    pub fn cleanup_failed(&self, family: Family) {
        self.cleanup_failures.with_label_values(&[&family.to_string()]).inc();
    }

    /// A commit was asked for.
    pub fn queued(&self) {
        for family in Family::BOTH {
            self.queued.with_label_values(&[&family.to_string()]).set(now());
        }
    }

    /// A table was put right that somebody else had changed, so long after the kernel told of it; `None` where it did not.
    pub fn repaired(&self, family: Family, told: Option<Duration>) {
        self.repairs.with_label_values(&[&family.to_string()]).inc();
        if let Some(told) = told {
            self.repair_duration.with_label_values(&[&family.to_string()]).observe(told.as_secs_f64());
        }
    }

    /// A commit of one family came to this end.
    pub fn committed(&self, outcome: &FamilyOutcome) {
        let family = outcome.family.to_string();
        let label: &[&str] = &[&family];
        let took = outcome.took.as_secs_f64();
        self.duration.with_label_values(label).observe(took);
        let kind = if outcome.full { &self.full } else { &self.partial };
        kind.with_label_values(label).observe(took);
        self.elements.with_label_values(label).inc_by(outcome.elements as u64);
        self.rebuilds.with_label_values(label).inc_by(u64::from(outcome.rebuilt.is_some()));
        self.rejected.with_label_values(label).inc_by(outcome.rejected.len() as u64);
        self.refused.with_label_values(label).set(outcome.refused as f64);
        self.failures.with_label_values(label).inc_by(u64::from(outcome.error.is_some()));
    }

    /// A request is through, and this family's table is as it was wanted, whether or not there was anything to do in it.
    pub fn in_step(&self, family: Family) {
        self.last.with_label_values(&[&family.to_string()]).set(now());
    }
}

/// Updates of one kind of object.
#[derive(Debug)]
struct Changes {
    total: IntCounter,
    pending: IntGauge,
}

impl Changes {
    fn new(name: &str, objects: &str) -> Result<Changes, prometheus::Error> {
        let name = |suffix: &str| format!("kubeproxy_sync_proxy_rules_{name}_changes_{suffix}");
        Ok(Changes {
            total: IntCounter::new(name("total"), format!("Updates of {objects}"))?,
            pending: IntGauge::new(name("pending"), format!("Updates of {objects} that wait for a commit"))?,
        })
    }

    fn note(&self) {
        self.total.inc();
        self.pending.inc();
    }
}

/// kube-proxy's, up to five minutes. Theirs begin with an empty one (`MergeBuckets` of component-base), so ours do: queries over both add up.
fn programming_buckets() -> Vec<f64> {
    let linear = |start: f64, width: f64, count: u32| (0..count).map(move |step| start + width * f64::from(step));
    linear(0.0, 0.25, 3).chain(linear(1.0, 1.0, 59)).chain(linear(60.0, 5.0, 12)).chain(linear(120.0, 30.0, 7)).collect()
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
