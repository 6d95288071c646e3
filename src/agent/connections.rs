//! New connections of each destination as metrics, from the counters that the kernel keeps.
//!
//! They are read when somebody asks for the metrics, over a socket of their own and under a lock of its own: no commit and no plan waits for it. The kernel counts on over changes and
//! restarts of the agent (see [`crate::nft::counters`]).

use crate::model::{Family, ObjectKey};
use crate::nft::NftError;
use crate::nft::counters::{self, Counters};
use crate::nft::socket::NfSocket;
use crate::proxy::Dest;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntCounterVec, Opts};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The connections of each destination. Clones are one.
#[derive(Clone)]
pub struct Connections {
    state: Arc<Mutex<State>>,
    /// Where the kernel is asked, once it was. Who reads holds it until the counts are taken, so that an older reading never follows a newer one.
    socket: Arc<Mutex<Option<NfSocket>>>,
    descriptions: Vec<Desc>,
}

struct State {
    /// So many destinations have a series of their own.
    limit: usize,
    destinations: HashMap<Dest, Tally>,
    /// How many of them are listed.
    listed: usize,
    /// What unlisted destinations have counted, those that are gone included.
    others: u64,
}

struct Tally {
    service: ObjectKey,
    /// Whether it has a series of its own; for as long as it is there.
    listed: bool,
    /// What the kernel has said last.
    seen: u64,
    total: u64,
}

impl Connections {
    /// Counts for at most `limit` destinations each by itself.
    ///
    /// # Errors
    /// Never, unless a name of this function's own is wrong.
    pub fn new(limit: usize) -> Result<Connections, prometheus::Error> {
        let (series, others) = (series()?, others()?);
        let descriptions = series.desc().into_iter().chain(others.desc()).cloned().collect();
        let state = State { limit, destinations: HashMap::new(), listed: 0, others: 0 };
        Ok(Connections { state: Arc::new(Mutex::new(state)), socket: Arc::default(), descriptions })
    }

    /// A destination belongs to this service from now on, or is gone.
    pub fn set(&self, dest: Dest, service: Option<&ObjectKey>) {
        let mut state = self.state();
        // The element stays in the kernel when a destination changes hands, and counts on.
        let mut seen = 0;
        let known = state.destinations.get(&dest).map(|tally| &tally.service);
        if known == service {
            return;
        }
        if let Some(gone) = state.destinations.remove(&dest) {
            state.listed -= usize::from(gone.listed);
            seen = gone.seen;
        }
        if let Some(service) = service {
            let listed = state.listed < state.limit;
            state.listed += usize::from(listed);
            state.destinations.insert(dest, Tally { service: service.clone(), listed, seen, total: 0 });
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the kernel. The agent's task sets destinations meanwhile.
    fn read(&self) {
        let mut socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        match found(&mut socket) {
            Ok(found) => self.state().take(&found),
            Err(error) => {
                tracing::warn!(%error, "the kernel's counters cannot be read; the metrics show the last ones");
                *socket = None;
            }
        }
    }
}

/// What the kernel has counted, over this socket or a new one.
fn found(socket: &mut Option<NfSocket>) -> Result<Counters, NftError> {
    let socket = match socket {
        Some(socket) => socket,
        none => none.insert(NfSocket::open()?),
    };
    let mut found = Counters::new();
    for family in Family::BOTH {
        found.extend(counters::all(socket, family)?);
    }
    Ok(found)
}

impl State {
    fn take(&mut self, found: &Counters) {
        for (dest, tally) in &mut self.destinations {
            let Some(counter) = found.get(dest) else { continue };
            // Less than before: somebody has removed the table, and the count began anew.
            let more = counter.packets.checked_sub(tally.seen).unwrap_or(counter.packets);
            tally.seen = counter.packets;
            tally.total += more;
            self.others += if tally.listed { 0 } else { more };
        }
    }
}

const LABELS: [&str; 5] = ["namespace", "service", "address", "protocol", "port"];

fn series() -> Result<IntCounterVec, prometheus::Error> {
    let help = "New connections to each destination of a Service through this node";
    IntCounterVec::new(Opts::new("waypost_service_connections_total", help), &LABELS)
}

fn others() -> Result<IntCounter, prometheus::Error> {
    let help = "New connections to destinations beyond the limit of --connection-metrics";
    IntCounter::new("waypost_service_connections_other_total", help)
}

impl Collector for Connections {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.read();
        let state = self.state();
        let (Ok(series), Ok(others)) = (series(), others()) else { return Vec::new() };
        for (dest, tally) in state.destinations.iter().filter(|(_, tally)| tally.listed) {
            let (address, port) = (dest.address.to_string(), dest.port.to_string());
            let (namespace, name) = (&*tally.service.namespace, &*tally.service.name);
            series.with_label_values(&[namespace, name, &address, dest.protocol.name(), &port]).inc_by(tally.total);
        }
        others.inc_by(state.others);
        [series.collect(), others.collect()].concat()
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Protocol;
    use crate::nft::counters::Counter;

    fn dest(port: u16) -> Dest {
        Dest { address: "10.96.0.1".parse().unwrap(), protocol: Protocol::Tcp, port }
    }

    /// What is shown once the kernel has counted so many: by port, and of the others.
    fn shown(connections: &Connections, counted: &[(u16, u64)]) -> (Vec<(u16, u64)>, u64) {
        let found = counted.iter().map(|(port, packets)| (dest(*port), Counter { packets: *packets, bytes: 0 })).collect();
        let mut state = connections.state();
        state.take(&found);
        let listed = state.destinations.iter().filter(|(_, tally)| tally.listed);
        let mut series: Vec<_> = listed.map(|(dest, tally)| (dest.port, tally.total)).collect();
        series.sort_unstable();
        (series, state.others)
    }

    #[test]
    fn a_count_that_begins_anew_is_added_and_never_falls() {
        let connections = Connections::new(9).unwrap();
        let web = ObjectKey::new("shop", "web");
        connections.set(dest(80), Some(&web));
        assert_eq!(shown(&connections, &[(80, 5)]).0, [(80, 5)]);
        connections.set(dest(80), Some(&web));
        assert_eq!(shown(&connections, &[(80, 7)]).0, [(80, 7)]);
        assert_eq!(shown(&connections, &[]).0, [(80, 7)]);
        assert_eq!(shown(&connections, &[(80, 2)]).0, [(80, 9)]);
    }

    #[test]
    fn a_new_owner_of_a_destination_begins_at_nothing() {
        let connections = Connections::new(9).unwrap();
        connections.set(dest(80), Some(&ObjectKey::new("shop", "old")));
        assert_eq!(shown(&connections, &[(80, 1000)]).0, [(80, 1000)]);
        connections.set(dest(80), Some(&ObjectKey::new("shop", "new")));
        assert_eq!(shown(&connections, &[(80, 1000)]).0, [(80, 0)]);
        assert_eq!(shown(&connections, &[(80, 1003)]).0, [(80, 3)]);
    }

    #[test]
    fn destinations_beyond_the_limit_are_summed_up_and_take_free_places_when_they_come_anew() {
        let connections = Connections::new(1).unwrap();
        let web = ObjectKey::new("shop", "web");
        [80, 81, 82].iter().for_each(|port| connections.set(dest(*port), Some(&web)));
        assert_eq!(shown(&connections, &[(80, 1), (81, 2), (82, 3)]), (vec![(80, 1)], 5));
        connections.set(dest(80), None);
        connections.set(dest(83), Some(&web));
        assert_eq!(shown(&connections, &[(81, 2), (82, 4), (83, 1)]), (vec![(83, 1)], 6));
    }
}
