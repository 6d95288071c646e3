//! The packet walk: what becomes of a new connection, read from the table's elements as the kernel's rules read them.
//!
//! It follows the chains of the table step by step, so that tests have a second opinion that needs no kernel.

use super::{Backend, Chain, Dest, Element, Refusal};
use std::collections::HashSet;
use std::net::IpAddr;

/// The first packet of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Where it comes from.
    pub source: IpAddr,
    /// Whether the source is an address of the node itself (`fib saddr type local`).
    pub from_node: bool,
    /// Where it goes.
    pub to: Dest,
    /// Whether that is an address of the node itself (`fib daddr type local`).
    pub to_node: bool,
}

/// What becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is sent to one of these, each as likely as the others; the flag says whether the source is masqueraded.
    Balanced(Vec<(Backend, bool)>),
    /// It is refused.
    Refused,
    /// It is dropped.
    Dropped,
    /// The table leaves it alone.
    Untouched,
}

/// A table to walk through.
pub struct Walk {
    elements: HashSet<Element>,
    all: Vec<Element>,
    masquerade_all: bool,
    detect_local: bool,
}

impl Walk {
    /// A walk through these elements. The flags are those of the table's layout.
    pub fn new(elements: Vec<Element>, masquerade_all: bool, detect_local: bool) -> Walk {
        Walk { elements: elements.iter().copied().collect(), all: elements, masquerade_all, detect_local }
    }

    /// What becomes of the packet.
    pub fn fate(&self, packet: &Packet) -> Fate {
        if self.is_guarded_from(packet) {
            return Fate::Dropped;
        }
        match self.balance(packet) {
            Some((backends, marked)) => Fate::Balanced(
                backends.into_iter().map(|backend| (backend, marked || self.is_hairpin(packet.source, backend))).collect(),
            ),
            None => self.refuse(packet),
        }
    }

    fn has(&self, element: Element) -> bool {
        self.elements.contains(&element)
    }

    fn is_guarded_from(&self, packet: &Packet) -> bool {
        let allowed = |element: &Element| matches!(element, Element::AllowedSource(dest, network) if *dest == packet.to && network.contains(&packet.source));
        self.has(Element::Guarded(packet.to)) && !self.all.iter().any(allowed)
    }

    fn is_from_pod(&self, packet: &Packet) -> bool {
        self.all.iter().any(|element| matches!(element, Element::PodCidr(network) if network.contains(&packet.source)))
    }

    /// The chains `balance`, `outside` and `outside-local`: the endpoints to draw from, and whether the packet is marked.
    fn balance(&self, packet: &Packet) -> Option<(Vec<Backend>, bool)> {
        let to_cluster_ip = self.has(Element::ClusterIp(packet.to.address));
        let from_elsewhere = self.detect_local && !self.is_from_pod(packet);
        let marked = to_cluster_ip && (self.masquerade_all || from_elsewhere);
        match self.chain(packet.to, Element::Service)? {
            Chain::Outside => Some((self.slots(packet.to, self.cluster_list(packet.to)?), true)),
            Chain::OutsideLocal if self.is_from_pod(packet) => {
                Some((self.slots(packet.to, self.cluster_list(packet.to)?), marked))
            }
            Chain::OutsideLocal if packet.from_node => Some((self.slots(packet.to, self.cluster_list(packet.to)?), true)),
            Chain::OutsideLocal => {
                let list = self.chain(packet.to, Element::LocalList)?;
                Some((self.slots(packet.to, list), marked))
            }
            pick => Some((self.slots(packet.to, pick), marked)),
        }
    }

    fn cluster_list(&self, dest: Dest) -> Option<Chain> {
        self.chain(dest, Element::ClusterList)
    }

    /// The chain that a verdict map holds for a destination.
    fn chain(&self, dest: Dest, make: impl Fn(Dest, Chain) -> Element) -> Option<Chain> {
        self.all.iter().find_map(|element| match element {
            Element::Service(of, chain) | Element::ClusterList(of, chain) | Element::LocalList(of, chain) => {
                (*of == dest && make(dest, *chain) == *element).then_some(*chain)
            }
            _ => None,
        })
    }

    fn slots(&self, dest: Dest, chain: Chain) -> Vec<Backend> {
        let (first, count) = match chain {
            Chain::Pick(count) => (0, count),
            Chain::PickLocal(count) => (Element::LOCAL_SLOTS, count),
            Chain::Outside | Chain::OutsideLocal => (0, 0),
        };
        let in_range = |element: &Element| match element {
            Element::Endpoint(of, slot, backend) if *of == dest && (first..first + count).contains(slot) => Some(*backend),
            _ => None,
        };
        self.all.iter().filter_map(in_range).collect()
    }

    fn is_hairpin(&self, source: IpAddr, backend: Backend) -> bool {
        source == backend.address && self.has(Element::Hairpin(source))
    }

    /// The chains `unserved-only` (for the node's own addresses) and `refusals`.
    fn refuse(&self, packet: &Packet) -> Fate {
        let in_service_network =
            |element: &Element| matches!(element, Element::ServiceCidr(network) if network.contains(&packet.to.address));
        if self.has(Element::Unserved(packet.to, Refusal::Reject)) {
            Fate::Refused
        } else if self.has(Element::Unserved(packet.to, Refusal::Drop)) {
            Fate::Dropped
        } else if packet.to_node {
            Fate::Untouched
        } else if self.has(Element::ClusterIp(packet.to.address)) {
            Fate::Refused
        } else if self.all.iter().any(in_service_network) {
            Fate::Dropped
        } else {
            Fate::Untouched
        }
    }
}
