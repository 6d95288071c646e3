//! What the status says, as metrics.

use super::{Registries, Status};
use crate::model::Family;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, GaugeVec, IntGauge, Opts};
use std::time::{Instant, UNIX_EPOCH};

/// Registers the gauges that apply to this agent: those of DNS only where it serves DNS.
pub(super) fn register(status: &Status, registries: &Registries) -> Result<(), prometheus::Error> {
    registries.proxy.register(Box::new(Waiting::new(status)?))?;
    registries.process.register(Box::new(LastState::new(status)?))?;
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

/// What is served from disk, and what is kept there.
struct LastState {
    status: Status,
    age: Gauge,
    saved: Gauge,
}

impl LastState {
    fn new(status: &Status) -> Result<LastState, prometheus::Error> {
        let age =
            "How old the state is that is served because the API server has not been reached since the start; 0 when it has";
        let saved = "The time of the state that was saved last; 0 before the first time";
        Ok(LastState {
            status: status.clone(),
            age: Gauge::new("waypost_last_state_age_seconds", age)?,
            saved: Gauge::new("waypost_last_state_saved_timestamp_seconds", saved)?,
        })
    }
}

impl Collector for LastState {
    fn desc(&self) -> Vec<&Desc> {
        [self.age.desc(), self.saved.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.age.set(self.status.last_state_age().unwrap_or_default().as_secs_f64());
        let saved = self.status.saved_at().and_then(|saved| saved.duration_since(UNIX_EPOCH).ok());
        self.saved.set(saved.unwrap_or_default().as_secs_f64());
        [self.age.collect(), self.saved.collect()].concat()
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
