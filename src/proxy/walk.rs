//! The packet walk: what becomes of a new connection, read from the table's elements as the kernel's rules read them.
//!
//! It follows the chains of the table step by step and notes which element decided, so that tests have a second opinion that needs no
//! kernel, and people an account of what happens to their connections.

use super::{AffinityMap, Backend, Chain, Dest, DetectLocal, Element, Refusal, Set};
use crate::model::Balance;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::ops::Range;

/// The first packet of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Where it comes from.
    pub source: IpAddr,
    /// Whether the source is an address of the node itself (`fib saddr type local`).
    pub from_node: bool,
    /// Whether it comes in by an interface of pods, where these are known by their interfaces.
    pub from_pod_interface: bool,
    /// Where it goes.
    pub to: Dest,
    /// Whether that is an address of the node itself (`fib daddr type local`).
    pub to_node: bool,
}

/// How a packet travels through the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// What had a say, in the order of the kernel's hooks.
    pub steps: Vec<Step>,
    /// What becomes of the packet.
    pub fate: Fate,
}

/// One decision on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The chain whose rule decided, by its name in the table.
    pub chain: String,
    /// The set that was asked; `None` where the rule asks none.
    pub set: Option<Set>,
    /// The element that was found there; `None` where none was.
    pub element: Option<Element>,
    /// What follows from it.
    pub says: Says,
}

/// What a rule says about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    /// The destination has source ranges, and the source is in this one.
    Admitted,
    /// The destination has source ranges, and the source is in none: dropped.
    Barred,
    /// The source is in a network that may not connect to the destination: dropped.
    Denied,
    /// Masqueraded on its way out.
    Mark(Marked),
    /// The source is kept, as far as this rule is concerned.
    Keep(Kept),
    /// The destination leads to this chain.
    Goto(Chain),
    /// The hash of the client's address points to this slot.
    Hashed(u32),
    /// The client is remembered there: it is sent where it went before.
    Remembered(AffinityMap),
    /// The client is not known to be remembered there, and will be: from now on it is sent to the endpoint that is drawn.
    Remembers(AffinityMap),
    /// The set knows nothing of the destination.
    Unknown,
    /// It would be masqueraded on its way out, but the endpoint has an address of the node, so that it does not go out.
    StaysHere,
    /// The endpoint connects to itself and would drop the answer to its own address: masqueraded.
    Hairpin,
    /// The source is an address that is local on every node, so that the answer would go astray: masqueraded.
    LocalDns,
    /// No endpoint anywhere: refused.
    NoEndpoints,
    /// No endpoint on this node, and the policy is Local: dropped.
    NoLocalEndpoints,
    /// The address is the node's own: what is not a service is left to the node.
    NodesOwn,
    /// A ClusterIP without this port: refused.
    UndefinedPort,
    /// An address of a service network that no service has: dropped.
    Unallocated,
    /// Nothing here concerns the packet.
    Stranger,
}

/// Why a packet is marked for masquerading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marked {
    /// Everything to a ClusterIP is.
    All,
    /// It goes to a ClusterIP and does not come from a pod.
    NotFromPod,
    /// It goes to an outside address whose policy is Cluster.
    Outside,
    /// It comes from the node itself, to an outside address whose policy is Local.
    FromNode,
}

/// Why a packet is not marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It goes to a ClusterIP and comes from a pod.
    FromPod,
    /// It goes to a ClusterIP, and pods cannot be told from others, because nothing says by what.
    PodsUnknown,
    /// It comes from a pod, to an outside address whose policy is Local.
    PodToOutside,
    /// It comes from outside, to an outside address whose policy is Local.
    PolicyLocal,
}

/// What becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is sent to one of these.
    Balanced(Vec<Target>),
    /// It is refused.
    Refused,
    /// It is dropped.
    Dropped,
    /// The table leaves it alone.
    Untouched,
}

/// An endpoint that a connection may be sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The endpoint.
    pub backend: Backend,
    /// In how many slots of those that are drawn from it stands: its share is this number of the sum over all targets.
    pub slots: u32,
    /// Whether the endpoint sees the node's address instead of the client's.
    pub masqueraded: bool,
}

/// A table to walk through.
pub struct Walk {
    elements: HashSet<Element>,
    all: Vec<Element>,
    clients: HashMap<(AffinityMap, IpAddr), Backend>,
    masquerade_all: bool,
    detect_local: DetectLocal,
    own_addresses: Vec<IpAddr>,
    by_hash: bool,
}

impl Walk {
    /// A walk through these elements. The options are those of the table's layout.
    pub fn new(elements: Vec<Element>, masquerade_all: bool, detect_local: DetectLocal) -> Walk {
        Walk {
            elements: elements.iter().copied().collect(),
            all: elements,
            clients: HashMap::new(),
            masquerade_all,
            detect_local,
            own_addresses: Vec::new(),
            by_hash: false,
        }
    }

    /// The same walk on a node with these addresses: what is sent to an endpoint there never passes the hook that masquerades.
    pub fn on_node(self, own_addresses: impl IntoIterator<Item = IpAddr>) -> Walk {
        Walk { own_addresses: own_addresses.into_iter().collect(), ..self }
    }

    /// The same walk by one client, whose address is the packet's source: hash tables send it to its one endpoint.
    pub fn by_one_client(self) -> Walk {
        Walk { by_hash: true, ..self }
    }

    /// The same walk, with these clients remembered.
    pub fn remembering(self, clients: impl IntoIterator<Item = ((AffinityMap, IpAddr), Backend)>) -> Walk {
        Walk { clients: clients.into_iter().collect(), ..self }
    }

    /// What becomes of the packet.
    pub fn fate(&self, packet: &Packet) -> Fate {
        self.trace(packet).fate
    }

    /// How the packet travels, and what becomes of it.
    pub fn trace(&self, packet: &Packet) -> Trace {
        let mut steps = Steps::default();
        let fate = self.walk(packet, &mut steps);
        Trace { steps: steps.0, fate }
    }

    fn walk(&self, packet: &Packet, steps: &mut Steps) -> Fate {
        if self.is_guarded_from(packet, steps) {
            return Fate::Dropped;
        }
        match self.balance(packet, steps) {
            Some(draw) => Fate::Balanced(self.leave(packet, draw, steps)),
            None => self.refuse(packet, steps),
        }
    }

    fn has(&self, element: Element) -> bool {
        self.elements.contains(&element)
    }

    fn find(&self, is_it: impl Fn(&Element) -> bool) -> Option<Element> {
        self.all.iter().copied().find(is_it)
    }

    /// The chain `guard`.
    fn is_guarded_from(&self, packet: &Packet, steps: &mut Steps) -> bool {
        let denies = |element: &Element| matches!(element, Element::DeniedSource(dest, network) if *dest == packet.to && network.contains(&packet.source));
        let denied = self.find(denies);
        if denied.is_some() {
            steps.note("guard", Some(Set::DeniedSources), denied, Says::Denied);
            return true;
        }
        if !self.has(Element::Guarded(packet.to)) {
            return false;
        }
        let allows = |element: &Element| matches!(element, Element::AllowedSource(dest, network) if *dest == packet.to && network.contains(&packet.source));
        let allowed = self.find(allows);
        let says = if allowed.is_some() { Says::Admitted } else { Says::Barred };
        steps.note("guard", Some(Set::AllowedSources), allowed, says);
        allowed.is_none()
    }

    /// Whether the packet comes from a pod, and which set says so or else.
    fn origin(&self, packet: &Packet) -> Origin {
        let in_network = |element: &Element| matches!(element, Element::PodCidr(network) if network.contains(&packet.source));
        match self.detect_local {
            DetectLocal::Nothing => Origin { is_pod: false, set: None, element: None },
            DetectLocal::Networks => {
                let element = self.find(in_network);
                Origin { is_pod: element.is_some(), set: Some(Set::PodCidrs), element }
            }
            DetectLocal::Interface(_) | DetectLocal::InterfacePrefix(_) => {
                Origin { is_pod: packet.from_pod_interface, set: None, element: None }
            }
        }
    }

    /// The chain `balance`, and those that it goes to.
    fn balance(&self, packet: &Packet, steps: &mut Steps) -> Option<Draw> {
        let marked = self.mark(packet, steps);
        let chain = self.follow(packet.to, "balance", Set::Services, steps)?;
        self.enter(chain, packet, marked, steps)
    }

    /// The first rules of `balance`: whether a packet to a ClusterIP is marked.
    fn mark(&self, packet: &Packet, steps: &mut Steps) -> bool {
        if !self.has(Element::ClusterIp(packet.to.address)) {
            return false;
        }
        let Origin { is_pod, set, element } = self.origin(packet);
        let (set, element, says) = if self.masquerade_all {
            (Some(Set::ClusterIps), Some(Element::ClusterIp(packet.to.address)), Says::Mark(Marked::All))
        } else if self.detect_local == DetectLocal::Nothing {
            (set, element, Says::Keep(Kept::PodsUnknown))
        } else if is_pod {
            (set, element, Says::Keep(Kept::FromPod))
        } else {
            (set, element, Says::Mark(Marked::NotFromPod))
        };
        steps.note("balance", set, element, says);
        matches!(says, Says::Mark(_))
    }

    /// Follows a chain to the slots that are drawn from.
    fn enter(&self, chain: Chain, packet: &Packet, marked: bool, steps: &mut Steps) -> Option<Draw> {
        match chain {
            Chain::Pick(_) | Chain::PickLocal(_) => Some(Draw { slots: self.slots(packet.to, chain.slots()?), marked }),
            Chain::Own(own) => {
                let known = own.affinity().and_then(|map| self.known(packet, chain, map, steps));
                let slots = match known {
                    Some(backend) => vec![backend],
                    None => self.slots(packet.to, self.hashed(own, packet, steps).unwrap_or(chain.slots()?)),
                };
                Some(Draw { slots, marked })
            }
            Chain::Outside => {
                steps.note("outside", None, None, Says::Mark(Marked::Outside));
                self.list("outside", Set::ClusterLists, packet, true, steps)
            }
            Chain::OutsideLocal => self.outside_local(packet, marked, steps),
            // No element that leads a packet to an endpoint leads there.
            Chain::Remember(_) => None,
        }
    }

    /// The one slot that a hash of the source points to, where that is asked.
    fn hashed(&self, own: super::Draw, packet: &Packet, steps: &mut Steps) -> Option<Range<u32>> {
        if own.method != Balance::SourceHash || !self.by_hash || own.slots == 0 {
            return None;
        }
        let slot = own.list.first_slot() + super::hashed_slot(packet.source, own.slots);
        let is_it = |element: &Element| matches!(element, Element::Endpoint(dest, of, _) if *dest == packet.to && *of == slot);
        steps.note(&Chain::Own(own).to_string(), Some(Set::Endpoints), self.find(is_it), Says::Hashed(slot));
        Some(slot..slot + 1)
    }

    /// Where a client of a service port with session affinity went before.
    fn known(&self, packet: &Packet, chain: Chain, map: AffinityMap, steps: &mut Steps) -> Option<Backend> {
        let known = self.clients.get(&(map, packet.source)).copied();
        let says = if known.is_some() { Says::Remembered(map) } else { Says::Remembers(map) };
        steps.note(&chain.to_string(), None, None, says);
        known
    }

    fn outside_local(&self, packet: &Packet, marked: bool, steps: &mut Steps) -> Option<Draw> {
        let chain = "outside-local";
        let Origin { is_pod, set, element } = self.origin(packet);
        if is_pod {
            steps.note(chain, set, element, Says::Keep(Kept::PodToOutside));
            return self.list(chain, Set::ClusterLists, packet, marked, steps);
        }
        if packet.from_node {
            steps.note(chain, None, None, Says::Mark(Marked::FromNode));
            return self.list(chain, Set::ClusterLists, packet, true, steps);
        }
        steps.note(chain, None, None, Says::Keep(Kept::PolicyLocal));
        self.list(chain, Set::LocalLists, packet, marked, steps)
    }

    fn list(&self, chain: &str, set: Set, packet: &Packet, marked: bool, steps: &mut Steps) -> Option<Draw> {
        let next = self.follow(packet.to, chain, set, steps)?;
        self.enter(next, packet, marked, steps)
    }

    /// Where a verdict map sends the destination.
    fn follow(&self, dest: Dest, chain: &str, set: Set, steps: &mut Steps) -> Option<Chain> {
        let element = self.find(|element| element.set() == set && element.dest() == Some(dest));
        let next = match element {
            Some(Element::Service(_, next) | Element::ClusterList(_, next) | Element::LocalList(_, next)) => Some(next),
            _ => None,
        };
        steps.note(chain, Some(set), element, next.map_or(Says::Unknown, Says::Goto));
        next
    }

    fn slots(&self, dest: Dest, slots: Range<u32>) -> Vec<Backend> {
        let in_range = |element: &Element| match element {
            Element::Endpoint(of, slot, backend) if *of == dest && slots.contains(slot) => Some(*backend),
            _ => None,
        };
        self.all.iter().filter_map(in_range).collect()
    }

    /// The chain `nat-postrouting`, for each endpoint that may have been drawn.
    fn leave(&self, packet: &Packet, draw: Draw, steps: &mut Steps) -> Vec<Target> {
        let local_dns = Element::LocalDns(packet.source);
        let from_local_dns = !draw.marked && self.has(local_dns);
        if from_local_dns {
            steps.note("nat-postrouting", Some(Set::LocalDns), Some(local_dns), Says::LocalDns);
        }
        let hairpin = Element::Hairpin(packet.source);
        let may_hairpin = self.has(hairpin);
        let (mut targets, mut told): (Vec<Target>, bool) = (Vec::new(), false);
        for backend in draw.slots {
            match targets.iter_mut().find(|target| target.backend == backend) {
                Some(target) => target.slots += 1,
                None => {
                    let to_itself = may_hairpin && backend.address == packet.source;
                    if to_itself && !draw.marked && !from_local_dns {
                        steps.note("nat-postrouting", Some(Set::Hairpins), Some(hairpin), Says::Hairpin);
                    }
                    let would_be = draw.marked || from_local_dns || to_itself;
                    let stays = !packet.from_node && self.own_addresses.contains(&backend.address);
                    if would_be && stays && !told {
                        steps.note("nat-postrouting", None, None, Says::StaysHere);
                        told = true;
                    }
                    let masqueraded = would_be && !stays;
                    targets.push(Target { backend, slots: 1, masqueraded });
                }
            }
        }
        targets
    }

    /// The chains `unserved-only` (for the node's own addresses) and `refusals`.
    fn refuse(&self, packet: &Packet, steps: &mut Steps) -> Fate {
        let chain = if packet.to_node { "unserved-only" } else { "refusals" };
        let unserved = |refusal| Some(Element::Unserved(packet.to, refusal)).filter(|element| self.has(*element));
        let reject = unserved(Refusal::Reject);
        if reject.is_some() {
            steps.note(chain, Some(Set::Unserved), reject, Says::NoEndpoints);
            return Fate::Refused;
        }
        let drop = unserved(Refusal::Drop);
        if drop.is_some() {
            steps.note(chain, Some(Set::Unserved), drop, Says::NoLocalEndpoints);
            return Fate::Dropped;
        }
        if packet.to_node {
            steps.note(chain, Some(Set::Unserved), None, Says::NodesOwn);
            return Fate::Untouched;
        }
        let cluster_ip = Some(Element::ClusterIp(packet.to.address)).filter(|element| self.has(*element));
        if cluster_ip.is_some() {
            steps.note(chain, Some(Set::ClusterIps), cluster_ip, Says::UndefinedPort);
            return Fate::Refused;
        }
        let network =
            self.find(|element| matches!(element, Element::ServiceCidr(network) if network.contains(&packet.to.address)));
        if network.is_some() {
            steps.note(chain, Some(Set::ServiceCidrs), network, Says::Unallocated);
            return Fate::Dropped;
        }
        steps.note(chain, None, None, Says::Stranger);
        Fate::Untouched
    }
}

/// Whether a packet comes from a pod, and how that is known.
struct Origin {
    is_pod: bool,
    /// The set that was asked, if any.
    set: Option<Set>,
    element: Option<Element>,
}

/// The slots that a packet's endpoint is drawn from.
struct Draw {
    slots: Vec<Backend>,
    marked: bool,
}

#[derive(Default)]
struct Steps(Vec<Step>);

impl Steps {
    fn note(&mut self, chain: &str, set: Option<Set>, element: Option<Element>, says: Says) {
        self.0.push(Step { chain: chain.into(), set, element, says });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Protocol;

    /// Whether a packet to a ClusterIP is masqueraded, and whether it passes by a policy Local.
    fn treated(detect_local: DetectLocal, masquerade_all: bool, source: &str, from_pod_interface: bool) -> (bool, bool) {
        let dest = |address: &str| Dest { address: address.parse().unwrap(), protocol: Protocol::Tcp, port: 80 };
        let (cluster_ip, outside) = (dest("10.96.0.1"), dest("198.51.100.1"));
        let backend = Backend { address: "10.244.1.3".parse().unwrap(), port: 8080 };
        let elements = vec![
            Element::ClusterIp(cluster_ip.address),
            Element::PodCidr("10.244.0.0/16".parse().unwrap()),
            Element::Service(cluster_ip, Chain::Pick(1)),
            Element::Endpoint(cluster_ip, 0, backend),
            Element::Service(outside, Chain::OutsideLocal),
            Element::ClusterList(outside, Chain::Pick(1)),
            Element::Endpoint(outside, 0, backend),
            Element::Unserved(outside, Refusal::Drop),
        ];
        let walk = Walk::new(elements, masquerade_all, detect_local);
        let fate = |to: Dest| {
            walk.fate(&Packet { source: source.parse().unwrap(), from_node: false, from_pod_interface, to, to_node: false })
        };
        let masqueraded = match fate(cluster_ip) {
            Fate::Balanced(targets) => targets[0].masqueraded,
            other => panic!("{other:?}"),
        };
        (masqueraded, fate(outside) != Fate::Dropped)
    }

    #[test]
    fn who_is_a_pod_is_not_masqueraded_and_passes_by_a_policy_local() {
        let (pod, stranger) = ("10.244.0.2", "203.0.113.9");
        assert_eq!(treated(DetectLocal::Nothing, false, pod, true), (false, false));
        assert_eq!(treated(DetectLocal::Networks, false, pod, false), (false, true));
        assert_eq!(treated(DetectLocal::Networks, false, stranger, true), (true, false));
        for by_interface in [DetectLocal::Interface("cni0".into()), DetectLocal::InterfacePrefix("cali".into())] {
            assert_eq!(treated(by_interface.clone(), false, stranger, true), (false, true));
            assert_eq!(treated(by_interface, false, pod, false), (true, false));
        }
        assert_eq!(treated(DetectLocal::Networks, true, pod, false), (true, true));
    }
}
