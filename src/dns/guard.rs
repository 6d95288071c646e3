//! Who is answered, and how often: what stands before all answers, on every path.

use super::metrics::{DropReason, Metrics};
use super::rate::{RateLimit, Verdict};
use crate::config::GuardConfig;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

/// The guard of all sockets. It counts what it keeps away.
#[derive(Debug)]
pub struct Guard {
    config: GuardConfig,
    rate: Option<RateLimit>,
    metrics: Arc<Metrics>,
    began: Instant,
}

impl Guard {
    /// One that does as these settings say.
    pub fn new(config: GuardConfig, metrics: Arc<Metrics>) -> Guard {
        let rate = (config.rate.per_second > 0).then(|| RateLimit::new(&config.rate));
        Guard { config, rate, metrics, began: Instant::now() }
    }

    /// Whether this client may ask at all.
    pub fn admits(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        let admitted =
            self.config.allow_from.is_empty() || self.config.allow_from.iter().any(|network| network.contains(&client));
        if !admitted {
            self.metrics.dropped(DropReason::Source, 1);
        }
        admitted
    }

    /// What a question over UDP from this client deserves.
    pub fn judge(&self, client: IpAddr, now: Instant) -> Verdict {
        if !self.config.allow_from.is_empty() && !self.admits(client) {
            return Verdict::Silence;
        }
        let Some(rate) = &self.rate else { return Verdict::Answer };
        let verdict = rate.ask(client, now.duration_since(self.began).as_millis() as u32);
        match verdict {
            Verdict::Answer => {}
            Verdict::Truncate => self.metrics.slipped(),
            Verdict::Silence => self.metrics.dropped(DropReason::Rate, 1),
        }
        verdict
    }

    /// Questions that were longer than any that is taken.
    pub fn too_long(&self, count: usize) {
        self.metrics.dropped(DropReason::Size, count);
    }

    /// Questions that came while too many others were being worked on.
    pub fn too_many(&self, count: usize) {
        self.metrics.dropped(DropReason::Busy, count);
    }

    /// An answer that nobody takes: its connection ends.
    pub fn unsent(&self) {
        self.metrics.dropped(DropReason::Unsent, 1);
    }

    /// How many connections each address may have at a time.
    pub fn connections(&self) -> usize {
        self.config.connections
    }
}
