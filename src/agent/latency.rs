//! Network programming latency: from the change that made the controller write an EndpointSlice to the commit of what follows from it.

use super::metrics::ProxyMetrics;
use crate::model::{Family, ObjectKey};
use crate::store::Trigger;
use std::collections::BTreeMap;
use std::time::SystemTime;

/// So many changes are timed at most while a family's commits fail.
const MOST_WAITING: usize = 10_000;

/// Changes on their way to the kernel.
pub struct Latency {
    /// Changes from before that have waited for this agent, and not for its work.
    started: SystemTime,
    /// Planned since the last commit was handed over.
    planned: Vec<(Family, SystemTime)>,
    /// What the commit under way brings, or one that failed.
    committing: Vec<(Family, SystemTime)>,
}

impl Latency {
    /// Counts changes from now on.
    pub fn new() -> Latency {
        Latency { started: SystemTime::now(), planned: Vec::new(), committing: Vec::new() }
    }

    /// These changes are planned.
    pub fn plan(&mut self, triggers: &BTreeMap<ObjectKey, Vec<Trigger>>) {
        // kube-proxy does not watch the slices of headless Services.
        let new = triggers.values().flatten().filter(|trigger| trigger.time > self.started && !trigger.headless);
        self.planned.extend(new.map(|trigger| (trigger.family, trigger.time)));
    }

    /// A commit begins that brings everything that is planned.
    pub fn committing(&mut self) {
        self.committing.append(&mut self.planned);
    }

    /// The commit has come to its end, in all families but those that failed.
    pub fn committed(&mut self, failed: &[Family], metrics: &ProxyMetrics) {
        self.committing.retain(|(family, time)| {
            let waits = failed.contains(family);
            if !waits {
                metrics.programmed(*family, *time);
            }
            waits
        });
        self.committing.truncate(MOST_WAITING);
    }

    /// The kernel holds everything that is planned, in all families but those that failed.
    pub fn settled(&mut self, failed: &[Family], metrics: &ProxyMetrics) {
        self.committing();
        self.committed(failed, metrics);
    }
}
