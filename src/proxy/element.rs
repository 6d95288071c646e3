//! What the table's sets hold: the elements that a destination expands into.

use super::{AffinityMap, Backend, Balancing, Dest, Destination, Draw, Entry, List, Refusal, Remember, Remembered, Sources};
use crate::model::{Balance, Protocol};
use ipnet::IpNet;
use std::fmt;
use std::net::IpAddr;
use std::ops::Range;

/// The sets and maps of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Set {
    /// Destination → how it is balanced.
    Services,
    /// Destination and slot → endpoint.
    Endpoints,
    /// Destination → how many endpoints it has anywhere.
    ClusterLists,
    /// Destination → how many endpoints it has on this node.
    LocalLists,
    /// Destination → where its new connections are remembered.
    Sticky,
    /// Destination → refuse or drop.
    Unserved,
    /// Destinations with source ranges.
    Guarded,
    /// Destination and source network that may connect.
    AllowedSources,
    /// Destination and source network that may not connect.
    DeniedSources,
    /// All ClusterIPs.
    ClusterIps,
    /// The networks of ClusterIPs.
    ServiceCidrs,
    /// The networks of pods.
    PodCidrs,
    /// Addresses on which the agent answers DNS.
    LocalDns,
    /// Endpoints of this node, as pairs with themselves.
    Hairpins,
}

impl Set {
    /// All sets, in the order in which the table declares them.
    pub const ALL: [Set; 14] = [
        Set::Services,
        Set::Endpoints,
        Set::ClusterLists,
        Set::LocalLists,
        Set::Sticky,
        Set::Unserved,
        Set::Guarded,
        Set::AllowedSources,
        Set::DeniedSources,
        Set::ClusterIps,
        Set::ServiceCidrs,
        Set::PodCidrs,
        Set::LocalDns,
        Set::Hairpins,
    ];

    /// The name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Set::Services => "services",
            Set::Endpoints => "endpoints",
            Set::ClusterLists => "cluster-lists",
            Set::LocalLists => "local-lists",
            Set::Sticky => "sticky",
            Set::Unserved => "unserved",
            Set::Guarded => "guarded",
            Set::AllowedSources => "allowed-sources",
            Set::DeniedSources => "denied-sources",
            Set::ClusterIps => "cluster-ips",
            Set::ServiceCidrs => "service-cidrs",
            Set::PodCidrs => "pod-cidrs",
            Set::LocalDns => "local-dns",
            Set::Hairpins => "hairpins",
        }
    }
}

/// A chain that an element may lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Chain {
    /// Draws from slots `0..n`.
    Pick(u32),
    /// Draws from slots `65536..65536 + n`.
    PickLocal(u32),
    /// Masquerades, then any endpoint.
    Outside,
    /// Endpoints of this node; any endpoint for pods and the node itself.
    OutsideLocal,
    /// A service port's own way of choosing.
    Own(Draw),
    /// Notes where a connection to a service port went.
    Remember(Remember),
}

impl fmt::Display for Chain {
    /// The chain's name in the table.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Chain::Pick(count) => write!(f, "pick-{count}"),
            Chain::PickLocal(count) => write!(f, "pick-local-{count}"),
            Chain::Outside => f.write_str("outside"),
            Chain::OutsideLocal => f.write_str("outside-local"),
            Chain::Own(draw) => draw.fmt(f),
            Chain::Remember(remember) => remember.fmt(f),
        }
    }
}

impl Chain {
    /// The chain with this name, if elements lead to it.
    pub fn parse(name: &str) -> Option<Chain> {
        match name {
            "outside" => Some(Chain::Outside),
            "outside-local" => Some(Chain::OutsideLocal),
            _ => Chain::parse_pick(name)
                .or_else(|| Draw::parse(name).map(Chain::Own))
                .or_else(|| Remember::parse(name).map(Chain::Remember)),
        }
    }

    fn parse_pick(name: &str) -> Option<Chain> {
        match name.strip_prefix("pick-local-") {
            Some(count) => count.parse().ok().map(Chain::PickLocal),
            None => name.strip_prefix("pick-")?.parse().ok().map(Chain::Pick),
        }
    }

    /// The slots that it draws from; `None` for chains that do not draw.
    pub fn slots(&self) -> Option<Range<u32>> {
        let (list, count) = match self {
            Chain::Pick(count) => (List::Cluster, *count),
            Chain::PickLocal(count) => (List::Local, *count),
            Chain::Own(draw) => (draw.list, draw.slots),
            Chain::Outside | Chain::OutsideLocal | Chain::Remember(_) => return None,
        };
        Some(list.first_slot()..list.first_slot() + count)
    }

    /// The maps of clients that its rules look into or write to.
    pub fn affinities(&self) -> Vec<AffinityMap> {
        match self {
            Chain::Own(draw) => draw.affinity().into_iter().collect(),
            Chain::Remember(remember) => remember.maps(),
            _ => Vec::new(),
        }
    }
}

/// One element of one set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Element {
    /// See [`Set::Services`].
    Service(Dest, Chain),
    /// See [`Set::Endpoints`].
    Endpoint(Dest, u32, Backend),
    /// See [`Set::ClusterLists`].
    ClusterList(Dest, Chain),
    /// See [`Set::LocalLists`].
    LocalList(Dest, Chain),
    /// See [`Set::Sticky`].
    Sticky(Dest, Chain),
    /// See [`Set::Unserved`].
    Unserved(Dest, Refusal),
    /// See [`Set::Guarded`].
    Guarded(Dest),
    /// See [`Set::AllowedSources`].
    AllowedSource(Dest, IpNet),
    /// See [`Set::DeniedSources`].
    DeniedSource(Dest, IpNet),
    /// See [`Set::ClusterIps`].
    ClusterIp(IpAddr),
    /// See [`Set::ServiceCidrs`].
    ServiceCidr(IpNet),
    /// See [`Set::PodCidrs`].
    PodCidr(IpNet),
    /// See [`Set::LocalDns`].
    LocalDns(IpAddr),
    /// See [`Set::Hairpins`].
    Hairpin(IpAddr),
}

impl Element {
    /// Slots of endpoints on this node are counted from here.
    pub const LOCAL_SLOTS: u32 = 65536;

    /// The set that holds the element.
    pub fn set(&self) -> Set {
        match self {
            Element::Service(..) => Set::Services,
            Element::Endpoint(..) => Set::Endpoints,
            Element::ClusterList(..) => Set::ClusterLists,
            Element::LocalList(..) => Set::LocalLists,
            Element::Sticky(..) => Set::Sticky,
            Element::Unserved(..) => Set::Unserved,
            Element::Guarded(..) => Set::Guarded,
            Element::AllowedSource(..) => Set::AllowedSources,
            Element::DeniedSource(..) => Set::DeniedSources,
            Element::ClusterIp(..) => Set::ClusterIps,
            Element::ServiceCidr(..) => Set::ServiceCidrs,
            Element::PodCidr(..) => Set::PodCidrs,
            Element::LocalDns(..) => Set::LocalDns,
            Element::Hairpin(..) => Set::Hairpins,
        }
    }

    /// The destination that the element belongs to; `None` for those that belong to the node as a whole.
    pub fn dest(&self) -> Option<Dest> {
        match self {
            Element::Service(dest, _)
            | Element::Endpoint(dest, ..)
            | Element::ClusterList(dest, _)
            | Element::LocalList(dest, _)
            | Element::Sticky(dest, _)
            | Element::Unserved(dest, _)
            | Element::Guarded(dest)
            | Element::AllowedSource(dest, _)
            | Element::DeniedSource(dest, _) => Some(*dest),
            _ => None,
        }
    }

    /// The chain that the element leads to.
    pub fn chain(&self) -> Option<Chain> {
        match self {
            Element::Service(_, chain)
            | Element::ClusterList(_, chain)
            | Element::LocalList(_, chain)
            | Element::Sticky(_, chain) => Some(*chain),
            _ => None,
        }
    }
}

impl Destination {
    /// The elements that this destination is made of, its lists taken in slot order.
    pub fn elements(&self, dest: Dest) -> Vec<Element> {
        let draw = |list| self.draw(dest, list);
        let mut elements = Vec::with_capacity(self.cluster.len() + self.local.len() + 1);
        match self.entry {
            Some(Entry::Cluster) => elements.push(Element::Service(dest, draw(List::Cluster))),
            Some(Entry::Local) => elements.push(Element::Service(dest, draw(List::Local))),
            Some(Entry::Outside) => elements.push(Element::Service(dest, Chain::Outside)),
            Some(Entry::OutsideLocal) => elements.push(Element::Service(dest, Chain::OutsideLocal)),
            None => {}
        }
        if matches!(self.entry, Some(Entry::Outside | Entry::OutsideLocal)) {
            if !self.cluster.is_empty() {
                elements.push(Element::ClusterList(dest, draw(List::Cluster)));
            }
            if !self.local.is_empty() {
                elements.push(Element::LocalList(dest, draw(List::Local)));
            }
        }
        elements.extend(self.remember(dest.protocol).map(|chain| Element::Sticky(dest, Chain::Remember(chain))));
        elements.extend(self.cluster.iter().zip(0..).map(|(backend, slot)| Element::Endpoint(dest, slot, *backend)));
        let local_slots = self.local.iter().zip(Element::LOCAL_SLOTS..);
        elements.extend(local_slots.map(|(backend, slot)| Element::Endpoint(dest, slot, *backend)));
        elements.extend(self.refusal.map(|refusal| Element::Unserved(dest, refusal)));
        if let Some(Sources { allowed, denied }) = self.sources.as_deref() {
            if let Some(allowed) = allowed {
                elements.push(Element::Guarded(dest));
                elements.extend(allowed.iter().map(|network| Element::AllowedSource(dest, *network)));
            }
            elements.extend(denied.iter().map(|network| Element::DeniedSource(dest, *network)));
        }
        elements
    }

    /// The chain that chooses from a list.
    fn draw(&self, dest: Dest, list: List) -> Chain {
        let slots = self.list(list).len() as u32;
        let Balancing { port, method, affinity_seconds } = self.balancing;
        match (method, affinity_seconds, list) {
            (Balance::Random, None, List::Cluster) => Chain::Pick(slots),
            (Balance::Random, None, List::Local) => Chain::PickLocal(slots),
            _ => Chain::Own(Draw { port, protocol: dest.protocol, list, method, slots, sticky: affinity_seconds.is_some() }),
        }
    }

    /// The chain that remembers clients, with session affinity.
    pub fn remember(&self, protocol: Protocol) -> Option<Remember> {
        let entry = match self.entry? {
            Entry::Cluster | Entry::Outside => Remembered::From(List::Cluster),
            Entry::Local => Remembered::From(List::Local),
            Entry::OutsideLocal => Remembered::ByClient,
        };
        let seconds = self.balancing.affinity_seconds?;
        Some(Remember { port: self.balancing.port, protocol, entry, seconds })
    }

    /// One of the two lists.
    pub fn list(&self, list: List) -> &[Backend] {
        match list {
            List::Cluster => &self.cluster,
            List::Local => &self.local,
        }
    }

    /// This destination with its lists sorted: equal for those that differ in their slots only.
    pub fn unseated(&self) -> Destination {
        let sorted = |list: &[Backend]| {
            let mut list = list.to_vec();
            list.sort_unstable();
            list.into()
        };
        // In a hash table each slot has its own clients.
        if self.balancing.method == Balance::SourceHash {
            return self.clone();
        }
        Destination { cluster: sorted(&self.cluster), local: sorted(&self.local), ..self.clone() }
    }

    /// This destination with its lists put into slots so that as few of `previous`'s slots as possible change. In a hash table each slot has
    /// its own clients: there nobody may move.
    pub fn seated(mut self, previous: Option<&Destination>) -> Destination {
        if let Some(previous) = previous.filter(|_| self.balancing.method != Balance::SourceHash) {
            let keeps = |before: &[Backend], now: &[Backend]| before.is_empty() || before == now;
            if !keeps(&previous.cluster, &self.cluster) {
                self.cluster = super::fill_slots(&previous.cluster, &self.cluster).into();
            }
            if !keeps(&previous.local, &self.local) {
                self.local = super::fill_slots(&previous.local, &self.local).into();
            }
        }
        self
    }
}

/// What must be removed and added to get from one set of elements to another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Elements to remove.
    pub remove: Vec<Element>,
    /// Elements to add.
    pub add: Vec<Element>,
}

impl Difference {
    /// Whether nothing has to be done.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty()
    }

    /// How many elements are touched.
    pub fn len(&self) -> usize {
        self.remove.len() + self.add.len()
    }
}

/// The difference between what is there and what should be. An element whose data changed is removed and added.
pub fn difference(mut actual: Vec<Element>, mut wanted: Vec<Element>) -> Difference {
    if actual.is_empty() {
        return Difference { remove: Vec::new(), add: wanted };
    }
    actual.sort_unstable();
    wanted.sort_unstable();
    let only_in = |of: &[Element], other: &[Element]| -> Vec<Element> {
        of.iter().filter(|element| other.binary_search(element).is_err()).copied().collect()
    };
    Difference { remove: only_in(&actual, &wanted), add: only_in(&wanted, &actual) }
}
