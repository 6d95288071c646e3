//! How one of a destination's slots is chosen, and the chains and maps that a service port has for itself.
//!
//! Most destinations draw at random, and share a chain with all others of as many slots. What needs a state of its own (whose turn it is,
//! which client went where) belongs to a service port: all its addresses share it. Such chains and maps are named after the port, so that an
//! agent finds them again after a restart.

use super::{Backend, Element};
use crate::model::{Balance, ObjectKey, Protocol, ServicePort};
use siphasher::sip::SipHasher24;
use std::fmt;
use std::hash::Hasher;
use std::net::IpAddr;

/// What tells a service port's chains and maps from those of others.
///
/// It is a digest of names, equal on every node and after every restart. Nobody can find a name with the digest of somebody else's port, which
/// would let him take over its clients: that takes 2^64 attempts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId(u64);

impl PortId {
    /// The number of a port of a Service.
    pub fn of(service: &ObjectKey, port: &ServicePort) -> PortId {
        let mut hasher = SipHasher24::new();
        for part in [&service.namespace, &service.name, &port.name, port.protocol.name()] {
            // No name contains a NUL.
            hasher.write(part.as_bytes());
            hasher.write(&[0]);
        }
        PortId(hasher.finish())
    }

    fn parse(text: &str) -> Option<PortId> {
        let is_written_so = text.len() == 16 && text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        u64::from_str_radix(text, 16).ok().filter(|_| is_written_so).map(PortId)
    }
}

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// How the slots of a destination are chosen from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balancing {
    /// The service port; it matters only where something is its own.
    pub port: PortId,
    /// How new clients are spread.
    pub method: Balance,
    /// For so many seconds after its last connection a client gets the same endpoint again.
    pub affinity_seconds: Option<u32>,
}

/// Which of a destination's two lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum List {
    /// Endpoints anywhere.
    Cluster,
    /// Endpoints on this node.
    Local,
}

/// A client in a map that remembers clients, and where it went.
pub type KnownClient = ((AffinityMap, IpAddr), Backend);

impl List {
    /// The first slot of the list.
    pub fn first_slot(self) -> u32 {
        match self {
            List::Cluster => 0,
            List::Local => Element::LOCAL_SLOTS,
        }
    }

    /// Whether a slot is of this list.
    pub fn holds(self, slot: u32) -> bool {
        (slot >= Element::LOCAL_SLOTS) == (self == List::Local)
    }

    fn suffix(self) -> &'static str {
        match self {
            List::Cluster => "",
            List::Local => "-local",
        }
    }
}

/// A service port's own chain that chooses a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Draw {
    /// Whose.
    pub port: PortId,
    /// The port's protocol.
    pub protocol: Protocol,
    /// From which list.
    pub list: List,
    /// How.
    pub method: Balance,
    /// How many slots.
    pub slots: u32,
    /// Whether clients that came before go where they went then.
    pub sticky: bool,
}

impl Draw {
    /// Where clients are remembered.
    pub fn affinity(&self) -> Option<AffinityMap> {
        self.sticky.then_some(AffinityMap { port: self.port, list: self.list })
    }

    /// Reads a name that [`Draw`] prints.
    pub fn parse(name: &str) -> Option<Draw> {
        let (sticky, rest) = strip(name, "sticky-");
        let (method, rest) = rest.split_once('-')?;
        let method = [Balance::Random, Balance::RoundRobin, Balance::SourceHash].into_iter().find(|one| word(*one) == method)?;
        let (local, rest) = strip(rest, "local-");
        let (port, protocol, slots) = tail(rest)?;
        let draw = Draw { port, protocol, list: if local { List::Local } else { List::Cluster }, method, slots, sticky };
        (draw.to_string() == name).then_some(draw)
    }
}

impl fmt::Display for Draw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sticky = if self.sticky { "sticky-" } else { "" };
        let Draw { port, protocol, slots, .. } = self;
        write!(f, "{sticky}{}{}-{port}-{protocol}-{slots}", word(self.method), self.list.suffix())
    }
}

fn word(method: Balance) -> &'static str {
    match method {
        Balance::Random => "random",
        Balance::RoundRobin => "robin",
        Balance::SourceHash => "hash",
    }
}

/// A service port's own chain that notes where a new connection went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Remember {
    /// Whose.
    pub port: PortId,
    /// The port's protocol.
    pub protocol: Protocol,
    /// In which map: that of the list from which the endpoint was drawn.
    pub entry: Remembered,
    /// For how long.
    pub seconds: u32,
}

/// From which list an endpoint was drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Remembered {
    /// Always this one.
    From(List),
    /// As the chain `outside-local` decides: for pods and the node itself the cluster's, for others the local one.
    ByClient,
}

impl Remember {
    /// The maps that it writes to.
    pub fn maps(&self) -> Vec<AffinityMap> {
        let lists = match self.entry {
            Remembered::From(list) => vec![list],
            Remembered::ByClient => vec![List::Cluster, List::Local],
        };
        lists.into_iter().map(|list| AffinityMap { port: self.port, list }).collect()
    }

    /// Reads a name that [`Remember`] prints.
    pub fn parse(name: &str) -> Option<Remember> {
        let rest = name.strip_prefix("remember-")?;
        let (entry, rest) = match rest.strip_prefix("outside-local-") {
            Some(rest) => (Remembered::ByClient, rest),
            None => match strip(rest, "local-") {
                (true, rest) => (Remembered::From(List::Local), rest),
                (false, rest) => (Remembered::From(List::Cluster), rest),
            },
        };
        let (port, protocol, seconds) = tail(rest)?;
        let remember = Remember { port, protocol, entry, seconds };
        (remember.to_string() == name).then_some(remember)
    }
}

impl fmt::Display for Remember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entry = match self.entry {
            Remembered::From(list) => list.suffix(),
            Remembered::ByClient => "-outside-local",
        };
        let Remember { port, protocol, seconds, .. } = self;
        write!(f, "remember{entry}-{port}-{protocol}-{seconds}")
    }
}

/// A service port's map from clients to endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AffinityMap {
    /// Whose.
    pub port: PortId,
    /// Endpoints of which list: a client that was sent anywhere from inside must not be, from outside, under a policy Local.
    pub list: List,
}

impl AffinityMap {
    /// Reads a name that [`AffinityMap`] prints.
    pub fn parse(name: &str) -> Option<AffinityMap> {
        let (local, rest) = strip(name.strip_prefix("affinity-")?, "local-");
        Some(AffinityMap { port: PortId::parse(rest)?, list: if local { List::Local } else { List::Cluster } })
    }
}

impl fmt::Display for AffinityMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "affinity{}-{}", self.list.suffix(), self.port)
    }
}

fn strip<'a>(text: &'a str, prefix: &str) -> (bool, &'a str) {
    text.strip_prefix(prefix).map_or((false, text), |rest| (true, rest))
}

/// The end of a chain's name: port, protocol, and a number.
fn tail(text: &str) -> Option<(PortId, Protocol, u32)> {
    let mut parts = text.split('-');
    let (port, protocol, number) = (parts.next()?, parts.next()?, parts.next()?);
    let protocol = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(|one| one.name() == protocol)?;
    Some((PortId::parse(port)?, protocol, number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(name: &str) -> PortId {
        let port = ServicePort { name: name.into(), protocol: Protocol::Tcp, port: 80, node_port: 0 };
        PortId::of(&ObjectKey::new("shop", "web"), &port)
    }

    #[test]
    fn the_number_of_a_port_stays_the_same_for_ever() {
        // Agents of all versions must find the maps that others have left.
        assert_eq!(port("http").to_string(), "81ec50e9e25bf6e4");
        assert_ne!(port("http"), port("https"));
    }

    #[test]
    fn every_name_is_read_as_it_was_written_and_no_other() {
        let (port, protocol) = (port("http"), Protocol::Sctp);
        for list in [List::Cluster, List::Local] {
            for (method, sticky) in
                [(Balance::Random, true), (Balance::RoundRobin, false), (Balance::SourceHash, true), (Balance::SourceHash, false)]
            {
                let draw = Draw { port, protocol, list, method, slots: 65521, sticky };
                assert_eq!(Draw::parse(&draw.to_string()), Some(draw));
                assert_eq!(Draw::parse(&format!("{draw}-1")), None);
            }
            let map = AffinityMap { port, list };
            assert_eq!(AffinityMap::parse(&map.to_string()), Some(map));
            for entry in [Remembered::From(list), Remembered::ByClient] {
                let remember = Remember { port, protocol, entry, seconds: 10_800 };
                assert_eq!(Remember::parse(&remember.to_string()), Some(remember));
            }
        }
        for name in ["sticky-7", "robin-local-", "hash--tcp-3", "affinity-7", "remember-7", "pick-3"] {
            assert!(Draw::parse(name).is_none() && Remember::parse(name).is_none() && AffinityMap::parse(name).is_none());
        }
    }
}
