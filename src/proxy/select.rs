//! Which endpoints of a service port are used.

use super::Backend;
use crate::model::{Endpoint, Family, Name, ServicePort, Slice};
use std::collections::{BTreeMap, BTreeSet};

/// The endpoints that a service port uses, each list sorted and without repetition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// Of the whole cluster: the ready ones, or if there are none those that still serve while they terminate.
    pub cluster: Vec<Backend>,
    /// Of this node, by the same rule, independently.
    pub local: Vec<Backend>,
    /// Addresses of all usable endpoints on this node, whichever list they are in: they may connect to themselves.
    pub hairpins: Vec<Backend>,
    /// Those that a flow that exists may go on using, wherever they are: every one that is ready or still serves.
    pub serving: Vec<Backend>,
    /// What those weigh whose weight is not 1.
    pub weights: BTreeMap<Backend, u32>,
}

/// Where this node stands, as far as the choice depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place<'a> {
    /// The node's name: endpoints with this `nodeName` are local.
    pub node: &'a str,
    /// The node's zone.
    pub zone: Option<&'a str>,
}

/// An address and port that the slices of a service name, and what the choice needs to know of it.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// The slice that names it.
    pub slice: &'a Slice,
    /// The endpoint there.
    pub endpoint: &'a Endpoint,
    /// Whether it is on this node.
    pub local: bool,
    /// Hints for nodes.
    pub nodes: Hinted,
    /// Hints for zones.
    pub zones: Hinted,
}

/// What an endpoint's hints of one kind say about this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hinted {
    /// It has none.
    Not,
    /// It is meant for others.
    Elsewhere,
    /// It is meant for here.
    Here,
}

/// Which hints are followed for the whole cluster's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topology {
    /// Those for nodes.
    Nodes,
    /// Those for zones.
    Zones,
    /// None.
    Nowhere,
}

/// Which endpoints a list is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// The ready ones.
    Ready,
    /// There is no ready one: those that still serve while they terminate.
    Terminating,
}

/// All candidates of a service port in one family, with the rules that choose among them.
#[derive(Debug)]
pub struct Judgement<'a> {
    /// By address and port.
    pub candidates: BTreeMap<Backend, Candidate<'a>>,
    /// Which hints are followed.
    pub topology: Topology,
    /// What the whole cluster's list is made of.
    pub cluster: Tier,
    /// What the list of this node is made of.
    pub local: Tier,
}

/// Chooses the endpoints of a service port in one family, as kube-proxy does (KEP-1669 for terminating endpoints).
///
/// Slices are joined by port name and protocol. Where two give the same address and port, one that is not terminating wins
/// (an address that a new pod took over from an old one).
///
/// Hints are followed for the whole cluster's list only, and all or nothing (`pkg/proxy/topology.go`): those for nodes if every ready endpoint
/// has one and at least one names this node; else those for zones by the same test; else none.
pub fn choose(port: &ServicePort, family: Family, slices: &[&Slice], place: Place<'_>) -> Choice {
    let judgement = judge(port, family, slices, place);
    let list = |is_in: &dyn Fn(&Candidate<'_>) -> bool| -> Vec<Backend> {
        judgement.candidates.iter().filter(|(_, candidate)| is_in(candidate)).map(|(backend, _)| *backend).collect()
    };
    Choice {
        cluster: list(&|candidate| judgement.in_cluster(candidate)),
        local: list(&|candidate| judgement.in_local(candidate)),
        hairpins: list(&|candidate| candidate.local && (judgement.in_cluster(candidate) || judgement.in_local(candidate))),
        serving: list(&|candidate| candidate.endpoint.ready || candidate.endpoint.serving),
        weights: judgement
            .candidates
            .iter()
            .filter(|(_, candidate)| candidate.slice.weight != 1)
            .map(|(backend, candidate)| (*backend, candidate.slice.weight.into()))
            .collect(),
    }
}

/// Gathers the candidates of a service port and finds the rules by which [`choose`] chooses.
pub fn judge<'a>(port: &ServicePort, family: Family, slices: &[&'a Slice], place: Place<'_>) -> Judgement<'a> {
    let mut candidates = BTreeMap::new();
    for slice in slices.iter().filter(|slice| slice.family == family && !slice.headless) {
        let numbers = slice.ports.iter().filter(|of_slice| of_slice.name == port.name && of_slice.protocol == port.protocol);
        for number in numbers.map(|of_slice| of_slice.port) {
            add(&mut candidates, slice, number, place);
        }
    }
    let topology = topology(&candidates);
    let tier = |is_meant: &dyn Fn(&Candidate<'_>) -> bool| {
        let any_ready = candidates.values().any(|candidate| candidate.endpoint.ready && is_meant(candidate));
        if any_ready { Tier::Ready } else { Tier::Terminating }
    };
    let cluster = tier(&|candidate| topology.means(candidate));
    let local = tier(&|candidate| candidate.local);
    Judgement { candidates, topology, cluster, local }
}

impl Judgement<'_> {
    /// Whether the candidate is in the list of the whole cluster.
    pub fn in_cluster(&self, candidate: &Candidate<'_>) -> bool {
        self.topology.means(candidate) && self.cluster.takes(candidate)
    }

    /// Whether the candidate is in the list of this node.
    pub fn in_local(&self, candidate: &Candidate<'_>) -> bool {
        candidate.local && self.local.takes(candidate)
    }
}

/// How many addresses of this node have a ready endpoint, whatever its ports: what a health check of the Service counts. Endpoints that only
/// serve while they terminate do not count, although traffic still reaches them, so that load balancers look elsewhere in time.
pub fn local_ready(family: Family, slices: &[&Slice], node_name: &str) -> usize {
    let place = Place { node: node_name, zone: None };
    let mut candidates = BTreeMap::new();
    for slice in slices.iter().filter(|slice| slice.family == family && !slice.headless) {
        for of_slice in &slice.ports {
            add(&mut candidates, slice, of_slice.port, place);
        }
    }
    let ready = candidates.iter().filter(|(_, candidate)| candidate.local && candidate.endpoint.ready);
    ready.map(|(backend, _)| backend.address).collect::<BTreeSet<_>>().len()
}

fn add<'a>(candidates: &mut BTreeMap<Backend, Candidate<'a>>, slice: &'a Slice, port: u16, place: Place<'_>) {
    for endpoint in slice.endpoints.iter().filter(|endpoint| !endpoint.secondary) {
        let candidate = Candidate::new(slice, endpoint, place);
        let slot = candidates.entry(Backend { address: endpoint.address, port }).or_insert(candidate);
        if !endpoint.terminating {
            *slot = candidate;
        }
    }
}

impl<'a> Candidate<'a> {
    fn new(slice: &'a Slice, endpoint: &'a Endpoint, place: Place<'_>) -> Candidate<'a> {
        let hints = endpoint.hints.as_deref();
        Candidate {
            slice,
            endpoint,
            local: endpoint.node.as_deref() == Some(place.node),
            nodes: Hinted::of(hints.map(|hints| &*hints.nodes), Some(place.node)),
            zones: Hinted::of(hints.map(|hints| &*hints.zones), place.zone),
        }
    }
}

impl Hinted {
    fn of(hints: Option<&[Name]>, here: Option<&str>) -> Hinted {
        match hints.unwrap_or_default() {
            [] => Hinted::Not,
            names if names.iter().any(|name| Some(&**name) == here) => Hinted::Here,
            _ => Hinted::Elsewhere,
        }
    }
}

/// Which hints are followed, as those of all ready endpoints say.
fn topology(candidates: &BTreeMap<Backend, Candidate<'_>>) -> Topology {
    let followed = |hints: fn(&Candidate<'_>) -> Hinted| {
        let ready = || candidates.values().filter(|candidate| candidate.endpoint.ready).map(hints);
        ready().all(|hint| hint != Hinted::Not) && ready().any(|hint| hint == Hinted::Here)
    };
    if followed(|candidate| candidate.nodes) {
        Topology::Nodes
    } else if followed(|candidate| candidate.zones) {
        Topology::Zones
    } else {
        Topology::Nowhere
    }
}

impl Topology {
    /// Whether an endpoint is meant to be used here.
    pub fn means(self, candidate: &Candidate<'_>) -> bool {
        match self {
            Topology::Nodes => candidate.nodes == Hinted::Here,
            Topology::Zones => candidate.zones == Hinted::Here,
            Topology::Nowhere => true,
        }
    }
}

impl Tier {
    /// Whether an endpoint is in such a state.
    pub fn takes(self, candidate: &Candidate<'_>) -> bool {
        match self {
            Tier::Ready => candidate.endpoint.ready,
            Tier::Terminating => candidate.endpoint.serving && candidate.endpoint.terminating,
        }
    }
}

#[cfg(test)]
#[path = "select_tests.rs"]
mod tests;
