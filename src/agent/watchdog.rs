//! Keeps the DNS switch closed for as long as DNS is alive: on a thread of its own, so that nothing that hangs there hangs it as well.

use crate::dns::pulse::{Pulses, Watch};
use crate::nft::{DnsSwitch, Heart, LAPSE, NftError, Tracking};
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Beats come late on a busy machine; three may before the switch opens.
const EVERY: Duration = Duration::from_millis(LAPSE.as_millis() as u64 / 4);

/// The switch, closed for as long as this value lives and DNS is alive.
pub struct GuardedSwitch {
    switch: DnsSwitch,
    until_the_end: Option<Sender<()>>,
}

impl GuardedSwitch {
    /// Closes the switch: when this returns, questions to these addresses come here.
    ///
    /// # Errors
    /// When the kernel refuses it, or a thread.
    pub fn close(addresses: &[IpAddr], tracking: Tracking, pulses: &Pulses) -> Result<GuardedSwitch, NftError> {
        let (switch, heart) = DnsSwitch::make(addresses, tracking)?;
        heart.beat();
        let (until_the_end, ended) = channel();
        let watch = pulses.watch();
        let work = move || guard(&heart, watch, &ended);
        let started = thread::Builder::new().name("dns-watchdog".into()).spawn(work);
        started.map_err(|error| NftError::Socket { action: "starting the watchdog of DNS", error })?;
        Ok(GuardedSwitch { switch, until_the_end: Some(until_the_end) })
    }

    /// New questions go elsewhere from now on. Connections that began here can be finished for as long as this value lives.
    pub fn only_finish(&mut self) {
        // Nobody watches any more: loops that end are no sign of death.
        drop(self.until_the_end.take());
        if let Err(error) = self.switch.only_finish() {
            tracing::warn!(%error, "questions come here until the last moment, and may find nobody");
        }
    }
}

fn guard(heart: &Heart, mut watch: Watch, ended: &Receiver<()>) {
    let mut was_alive = true;
    while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(EVERY) {
        let is_alive = watch.is_alive(Instant::now());
        if is_alive {
            heart.beat();
        }
        match (was_alive, is_alive) {
            (true, false) => tracing::error!("DNS hangs: the questions of this node go to the cluster's DNS service meanwhile"),
            (false, true) => tracing::warn!("DNS is alive again: this node answers its own questions"),
            _ => {}
        }
        was_alive = is_alive;
    }
}
