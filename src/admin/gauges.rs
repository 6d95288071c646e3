//! What the status says, as metrics.

use super::{Registries, Status};
use crate::model::Family;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, GaugeVec, IntGauge, Opts};
use std::time::{Instant, UNIX_EPOCH};

/// Registers the gauges that apply to this agent: those of DNS only where it serves DNS.
pub(super) fn register(status: &Status, registries: &Registries) -> Result<(), prometheus::Error> {
    registries.proxy.register(Box::new(PerFamily::new(
        "waypost_oldest_pending_change_seconds",
        "How long the oldest change has waited for its commit; 0 when none waits",
        status,
        |status, family| status.waiting(family, Instant::now()).map(|waiting| waiting.as_secs_f64()),
    )?))?;
    registries.proxy.register(Box::new(PerFamily::new(
        "waypost_table_out_of_date",
        "Whether commits of this family's table fail again and again",
        status,
        |status, family| status.is_failing(family).map(|fails| f64::from(u8::from(fails))),
    )?))?;
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

/// Something about each family. One that the kernel lacks is not shown.
struct PerFamily {
    status: Status,
    of: fn(&Status, Family) -> Option<f64>,
    gauge: GaugeVec,
}

impl PerFamily {
    fn new(
        name: &str,
        help: &str,
        status: &Status,
        of: fn(&Status, Family) -> Option<f64>,
    ) -> Result<PerFamily, prometheus::Error> {
        let gauge = GaugeVec::new(Opts::new(name, help), &["ip_family"])?;
        Ok(PerFamily { status: status.clone(), of, gauge })
    }
}

impl Collector for PerFamily {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        for family in Family::BOTH {
            if let Some(value) = (self.of)(&self.status, family) {
                self.gauge.with_label_values(&[&family.to_string()]).set(value);
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
