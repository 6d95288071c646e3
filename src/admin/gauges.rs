//! What the status says, as metrics.

use super::{Registries, Status};
use crate::model::Family;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{GaugeVec, IntGauge, Opts};
use std::time::Instant;

/// Registers the gauges that apply to this agent: those of DNS only where it serves DNS.
pub(super) fn register(status: &Status, registries: &Registries) -> Result<(), prometheus::Error> {
    registries.proxy.register(Box::new(Waiting::new(status)?))?;
    if status.is_dns_serving().is_some() {
        let (name, help) = ("waypost_dns_serving", "Whether the sockets of DNS are open on all of its addresses");
        registries.dns.register(Box::new(Flag::new(name, help, status, Status::is_dns_serving)?))?;
    }
    if status.is_dns_local().is_some() {
        let (name, help) = ("waypost_dns_local", "Whether the questions of this node's pods come to this agent");
        registries.dns.register(Box::new(Flag::new(name, help, status, Status::is_dns_local)?))?;
    }
    Ok(())
}

/// How long changes have waited for their commit.
struct Waiting {
    status: Status,
    gauge: GaugeVec,
}

impl Waiting {
    fn new(status: &Status) -> Result<Waiting, prometheus::Error> {
        let help = "How long the oldest change has waited for its commit; 0 when none waits";
        let gauge = GaugeVec::new(Opts::new("waypost_oldest_pending_change_seconds", help), &["ip_family"])?;
        Ok(Waiting { status: status.clone(), gauge })
    }
}

impl Collector for Waiting {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        for family in Family::BOTH {
            // A family that the kernel lacks is not shown.
            if let Some(waiting) = self.status.waiting(family, Instant::now()) {
                self.gauge.with_label_values(&[&family.to_string()]).set(waiting.as_secs_f64());
            }
        }
        self.gauge.collect()
    }
}

/// Something that is so or not.
struct Flag {
    status: Status,
    of: fn(&Status) -> Option<bool>,
    gauge: IntGauge,
}

impl Flag {
    fn new(name: &str, help: &str, status: &Status, of: fn(&Status) -> Option<bool>) -> Result<Flag, prometheus::Error> {
        Ok(Flag { status: status.clone(), of, gauge: IntGauge::new(name, help)? })
    }
}

impl Collector for Flag {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.gauge.set(i64::from((self.of)(&self.status) == Some(true)));
        self.gauge.collect()
    }
}
