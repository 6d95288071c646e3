//! Plans one service at a time and decides who wins where two claim the same destination.

use super::spread::spread;
use super::{Backend, Balancing, Dest, Destination, Element, Entry, Place, PortId, Refusal, Warming, choose, sources};
use crate::model::{AddressKind, Family, Labels, Name, ObjectKey, Policy, Protocol, Service, ServiceKind, ServicePort, Slice};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

/// What the plan needs to know of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// The node's name: endpoints with this `nodeName` are local.
    pub node_name: String,
    /// The node's zone: endpoints may be meant for it.
    pub zone: Option<Name>,
    /// The Node object's primary addresses.
    pub node_addresses: Vec<IpAddr>,
    /// Addresses on which NodePorts answer.
    pub nodeport_addresses: Vec<IpAddr>,
    /// Addresses on which this node answers DNS itself. The service that has one of them as its ClusterIP is the cluster's DNS; it serves the
    /// others too, for the time when nobody answers here.
    pub dns_addresses: Vec<IpAddr>,
    /// Whether externalIPs are left alone: they are as if the Service had none.
    pub without_external_ips: bool,
    /// The Node object's labels: Services may ask to be exposed on some nodes only.
    pub node_labels: Labels,
}

/// Changes of the wanted state, gathered until the next commit. Later changes replace earlier ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Destinations that should now look like this, or be gone.
    pub destinations: BTreeMap<Dest, Option<Destination>>,
    /// Elements that belong to the node as a whole, and whether they should be there.
    pub elements: BTreeMap<Element, bool>,
    /// UDP destinations that were planned, and the endpoints that flows to them may have: see [`Serving`].
    pub flows: BTreeMap<Dest, Serving>,
}

/// The endpoints to which a UDP flow to a destination may go on being sent: all that serve, sorted, without regard to policies and topology,
/// because a change of those shall not break what works (as with TCP). `None`: the destination is not ours any more.
pub type Serving = Option<Arc<[Backend]>>;

impl Delta {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.destinations.is_empty() && self.elements.is_empty()
    }
}

/// Two services claim one destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// What both claim.
    pub dest: Dest,
    /// The service that does not get it.
    pub loser: ObjectKey,
    /// As which kind of address the loser claims it.
    pub kind: AddressKind,
    /// The service that keeps it.
    pub winner: ObjectKey,
}

/// What [`Planner::update`] found besides the delta.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Claims that are lost since this update.
    pub conflicts: Vec<Conflict>,
    /// Services that won a destination because its owner let go: they must be planned again.
    pub promoted: BTreeSet<ObjectKey>,
}

/// A claim on a destination. The smallest wins: ClusterIP before load balancer before externalIP before NodePort, then the
/// oldest service, then the first by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    kind: AddressKind,
    created: i64,
    service: ObjectKey,
}

/// Which service owns which destination. It keeps names and counts only; what a destination should hold is worked out anew from
/// the objects at each change.
#[derive(Debug, Default)]
pub struct Planner {
    owners: HashMap<Dest, Claim>,
    losers: HashMap<Dest, BTreeSet<Claim>>,
    planned: HashMap<ObjectKey, Planned>,
    users: HashMap<Element, u32>,
    without_local: BTreeMap<(Family, Traffic), usize>,
    warming: HashMap<ObjectKey, Warming>,
}

/// Which of a Service's traffic policies a packet is subject to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Traffic {
    /// To a ClusterIP: `internalTrafficPolicy`.
    Internal,
    /// To any other address: `externalTrafficPolicy`.
    External,
}

/// What a service took part in when it was last planned.
#[derive(Debug, Default)]
struct Planned {
    claims: Box<[(Dest, AddressKind)]>,
    /// When the service was created: a part of its claims.
    created: i64,
    /// Sorted.
    elements: Box<[Element]>,
    without_local: Vec<(Family, Traffic)>,
}

impl Planner {
    /// Plans a service anew (or its absence) and adds what changes to `delta`.
    pub fn update(
        &mut self,
        key: &ObjectKey,
        service: Option<&Service>,
        slices: &[&Slice],
        context: &Context,
        delta: &mut Delta,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        let before = self.planned.remove(key).unwrap_or_default();
        for of_port in &before.without_local {
            self.without_local.entry(*of_port).and_modify(|count| *count -= 1);
        }
        let Some(service) = service.filter(|service| service.proxied && service.kind == ServiceKind::ClusterIp) else {
            let claim = |kind| Claim { kind, created: before.created, service: key.clone() };
            let gone = before.claims.iter().map(|(dest, kind)| (*dest, claim(*kind)));
            self.release(gone, delta, &mut outcome);
            self.count(&before.elements, &[], delta);
            return outcome;
        };
        let wanted = plan(service, slices, context, self.warming.get(key));
        let (kept, gone): (Vec<_>, Vec<_>) = before.claims.into_iter().partition(|(dest, kind)| {
            wanted.destinations.get(dest).is_some_and(|wanted| wanted.kind == *kind && before.created == service.created)
        });
        let gone = gone.into_iter().map(|(dest, kind)| (dest, Claim { kind, created: before.created, service: key.clone() }));
        self.release(gone, delta, &mut outcome);
        let known: BTreeSet<Dest> = kept.into_iter().map(|(dest, _)| dest).collect();
        let mut claims = Vec::with_capacity(wanted.destinations.len());
        for (dest, Wanted { kind, destination, serving }) in wanted.destinations {
            let claim = Claim { kind, created: service.created, service: key.clone() };
            if !known.contains(&dest) {
                self.claim(dest, &claim, &mut outcome);
            }
            if self.owners.get(&dest).is_some_and(|owner| owner.service == *key) {
                delta.destinations.insert(dest, Some(destination));
                note_flows(delta, dest, Some(serving));
            }
            claims.push((dest, kind));
        }
        let elements: Box<[Element]> = wanted.elements.into_iter().collect();
        self.count(&before.elements, &elements, delta);
        for of_port in &wanted.without_local {
            *self.without_local.entry(*of_port).or_default() += 1;
        }
        let without_local = wanted.without_local;
        let planned = Planned { claims: claims.into(), created: service.created, elements, without_local };
        self.planned.insert(key.clone(), planned);
        outcome
    }

    /// What a service's own destinations should hold, whoever may own them, and as what the service has each.
    pub fn destinations(
        &self,
        service: &Service,
        slices: &[&Slice],
        context: &Context,
    ) -> BTreeMap<Dest, (AddressKind, Destination)> {
        let planned = plan(service, slices, context, self.warming.get(&service.key)).destinations.into_iter();
        planned.map(|(dest, wanted)| (dest, (wanted.kind, wanted.destination))).collect()
    }

    /// From the next [`Planner::update`] of the service on these of its endpoints get less than their share.
    pub fn set_warming(&mut self, key: &ObjectKey, warming: Warming) {
        if warming.is_empty() {
            self.warming.remove(key);
        } else {
            self.warming.insert(key.clone(), warming);
        }
    }

    /// The services that were planned last time, so that all can be planned again when the node changes.
    pub fn services(&self) -> Vec<ObjectKey> {
        self.planned.keys().cloned().collect()
    }

    /// The service that owns a destination.
    pub fn owner(&self, dest: &Dest) -> Option<&ObjectKey> {
        self.owners.get(dest).map(|claim| &claim.service)
    }

    /// The services that claim a destination and do not have it, and as what, the next in line first.
    pub fn losers(&self, dest: &Dest) -> impl Iterator<Item = (&ObjectKey, AddressKind)> {
        self.losers.get(dest).into_iter().flatten().map(|claim| (&claim.service, claim.kind))
    }

    /// Whether a service needs an element of the node.
    pub fn is_used(&self, element: &Element) -> bool {
        self.users.contains_key(element)
    }

    /// How many service ports have a policy Local for this traffic, endpoints elsewhere, and none on this node: their packets are dropped here.
    pub fn without_local(&self, family: Family, traffic: Traffic) -> usize {
        self.without_local.get(&(family, traffic)).copied().unwrap_or(0)
    }

    fn claim(&mut self, dest: Dest, claim: &Claim, outcome: &mut Outcome) {
        let loser = match self.owners.get_mut(&dest) {
            None => {
                self.owners.insert(dest, claim.clone());
                return;
            }
            Some(owner) if claim < owner => std::mem::replace(owner, claim.clone()),
            Some(_) => claim.clone(),
        };
        if let Some(owner) = self.owners.get(&dest) {
            let winner = owner.service.clone();
            outcome.conflicts.push(Conflict { dest, loser: loser.service.clone(), kind: loser.kind, winner });
        }
        self.losers.entry(dest).or_default().insert(loser);
    }

    fn release(&mut self, claims: impl IntoIterator<Item = (Dest, Claim)>, delta: &mut Delta, outcome: &mut Outcome) {
        for (dest, claim) in claims {
            if self.owners.get(&dest) == Some(&claim) {
                self.owners.remove(&dest);
                delta.destinations.insert(dest, None);
                note_flows(delta, dest, None);
                if let Some(next) = self.losers.get_mut(&dest).and_then(BTreeSet::pop_first) {
                    outcome.promoted.insert(next.service.clone());
                    self.owners.insert(dest, next);
                }
            } else if let Some(losers) = self.losers.get_mut(&dest) {
                losers.remove(&claim);
            }
            if self.losers.get(&dest).is_some_and(BTreeSet::is_empty) {
                self.losers.remove(&dest);
            }
        }
    }

    /// Counts how many services need an element of the node; the first brings it, the last takes it away.
    fn count(&mut self, before: &[Element], after: &[Element], delta: &mut Delta) {
        let only_in = |of: &'_ [Element], other: &'_ [Element]| -> Vec<Element> {
            of.iter().filter(|element| other.binary_search(element).is_err()).copied().collect()
        };
        for element in &only_in(after, before) {
            let users = self.users.entry(*element).or_default();
            *users += 1;
            if *users == 1 {
                delta.elements.insert(*element, true);
            }
        }
        for element in &only_in(before, after) {
            if let Some(users) = self.users.get_mut(element) {
                *users -= 1;
                if *users == 0 {
                    self.users.remove(element);
                    delta.elements.insert(*element, false);
                }
            }
        }
    }
}

#[derive(Default)]
struct Plan {
    destinations: BTreeMap<Dest, Wanted>,
    elements: BTreeSet<Element>,
    without_local: Vec<(Family, Traffic)>,
}

/// What a service wants of a destination.
struct Wanted {
    kind: AddressKind,
    destination: Destination,
    serving: Arc<[Backend]>,
}

fn note_flows(delta: &mut Delta, dest: Dest, serving: Serving) {
    if dest.protocol == Protocol::Udp {
        delta.flows.insert(dest, serving);
    }
}

fn plan(service: &Service, slices: &[&Slice], context: &Context, warming: Option<&Warming>) -> Plan {
    let mut plan = Plan::default();
    plan.elements.extend(service.cluster_ips.iter().map(|address| Element::ClusterIp(*address)));
    for port in &service.ports {
        for family in Family::BOTH {
            plan_port(service, port, family, slices, (context, warming), &mut plan);
        }
    }
    plan
}

fn plan_port(
    service: &Service,
    port: &ServicePort,
    family: Family,
    slices: &[&Slice],
    (context, warming): (&Context, Option<&Warming>),
    plan: &mut Plan,
) {
    let addresses: Vec<(AddressKind, IpAddr, u16)> =
        frontends(service, port, context).filter(|(_, address, _)| Family::of(*address) == family).collect();
    if addresses.is_empty() {
        return;
    }
    let place = Place { node: &context.node_name, zone: context.zone.as_deref() };
    let choice = choose(port, family, slices, place);
    if choice.local.is_empty() && !choice.cluster.is_empty() {
        let policies = [(Traffic::Internal, service.internal_policy), (Traffic::External, service.external_policy)];
        let local = policies.into_iter().filter(|(_, policy)| *policy == Policy::Local);
        plan.without_local.extend(local.map(|(traffic, _)| (family, traffic)));
    }
    let method = service.options.balance;
    let slots = |backends: &[Backend]| -> Arc<[Backend]> {
        let weight = |backend: &Backend| {
            let weight = choice.weights.get(backend).copied().unwrap_or(1);
            weight * warming.map_or(1, |warming| warming.share(backend.address))
        };
        let weighted: Vec<_> = backends.iter().map(|backend| (*backend, weight(backend))).collect();
        spread(method, &weighted).into()
    };
    let (cluster, local) = (slots(&choice.cluster), slots(&choice.local));
    let serving: Arc<[Backend]> = choice.serving.into();
    let balancing = Balancing { port: PortId::of(&service.key, port), method, affinity_seconds: service.affinity_seconds };
    plan.elements.extend(choice.hairpins.iter().map(|backend| Element::Hairpin(backend.address)));
    for (kind, address, number) in addresses {
        let mut destination = destination(service, kind, &cluster, &local, balancing);
        destination.sources = sources::of(service, kind, family, context);
        let dest = Dest { address, protocol: port.protocol, port: number };
        plan.destinations.entry(dest).or_insert(Wanted { kind, destination, serving: serving.clone() });
    }
}

/// The addresses and ports of a service port, in the order in which they win over each other. In a family in which it has no ClusterIP a
/// service has no other address either, whatever its object lists.
fn frontends<'a>(
    service: &'a Service,
    port: &'a ServicePort,
    context: &'a Context,
) -> impl Iterator<Item = (AddressKind, IpAddr, u16)> + 'a {
    let exposed = service.is_exposed_on(&context.node_labels);
    let own = [AddressKind::ClusterIp, AddressKind::LoadBalancer, AddressKind::ExternalIp]
        .into_iter()
        .filter(move |kind| exposed || *kind == AddressKind::ClusterIp)
        .filter(|kind| *kind != AddressKind::ExternalIp || !context.without_external_ips)
        .flat_map(move |kind| service.addresses(kind).iter().map(move |address| (kind, *address, port.port)));
    let is_dns = service.cluster_ips.iter().any(|address| context.dns_addresses.contains(address));
    let dns = context.dns_addresses.iter().filter(move |address| is_dns && !service.cluster_ips.contains(address));
    let own = own.chain(dns.map(|address| (AddressKind::ClusterIp, *address, port.port)));
    let node = context.nodeport_addresses.iter().filter(move |_| exposed && port.node_port != 0);
    let all = own.chain(node.map(|address| (AddressKind::NodePort, *address, port.node_port)));
    all.filter(move |(kind, address, _)| *kind == AddressKind::ClusterIp || service.cluster_ip(Family::of(*address)).is_some())
}

fn destination(
    service: &Service,
    kind: AddressKind,
    cluster: &Arc<[Backend]>,
    local: &Arc<[Backend]>,
    balancing: Balancing,
) -> Destination {
    let policy = if kind == AddressKind::ClusterIp { service.internal_policy } else { service.external_policy };
    // All that are empty are one.
    let nobody: Arc<[Backend]> = Arc::default();
    if cluster.is_empty() && local.is_empty() {
        return Destination { refusal: Some(Refusal::Reject), ..Destination::default() };
    }
    let (entry, cluster, local) = match (kind, policy) {
        (AddressKind::ClusterIp, Policy::Cluster) => (Some(Entry::Cluster), cluster.clone(), nobody),
        (AddressKind::ClusterIp, Policy::Local) => ((!local.is_empty()).then_some(Entry::Local), nobody, local.clone()),
        (_, Policy::Cluster) => (Some(Entry::Outside), cluster.clone(), nobody),
        (_, Policy::Local) => (Some(Entry::OutsideLocal), cluster.clone(), local.clone()),
    };
    let refusal = (policy == Policy::Local && local.is_empty()).then_some(Refusal::Drop);
    Destination { entry, cluster, local, refusal, balancing, ..Destination::default() }
}
