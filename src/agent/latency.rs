//! Network programming latency: from the change that made the controller write an EndpointSlice to the commit of what follows from it.

use super::metrics::ProxyMetrics;
use crate::model::{Family, ObjectKey};
use std::collections::BTreeMap;
use std::time::SystemTime;

/// Changes on their way to the kernel.
pub struct Latency {
    /// Changes from before that have waited for this agent, and not for its work.
    started: SystemTime,
    /// Planned since the last commit was handed over.
    planned: Triggers,
    /// What the commit under way brings, or one that failed.
    committing: Triggers,
}

type Triggers = Vec<(Family, SystemTime)>;

impl Latency {
    /// Counts changes from now on.
    pub fn new() -> Latency {
        Latency { started: SystemTime::now(), planned: Vec::new(), committing: Vec::new() }
    }

    /// These changes are planned.
    pub fn plan(&mut self, triggers: &BTreeMap<ObjectKey, Triggers>) {
        let new = triggers.values().flatten().filter(|(_, time)| *time > self.started);
        self.planned.extend(new);
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
    }

    /// The kernel holds everything that is planned, in all families but those that failed.
    pub fn settled(&mut self, failed: &[Family], metrics: &ProxyMetrics) {
        self.committing();
        self.committed(failed, metrics);
    }
}
