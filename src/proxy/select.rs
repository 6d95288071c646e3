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
}

/// Where this node stands, as far as the choice depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place<'a> {
    /// The node's name: endpoints with this `nodeName` are local.
    pub node: &'a str,
    /// The node's zone.
    pub zone: Option<&'a str>,
}

#[derive(Clone, Copy)]
struct Candidate {
    ready: bool,
    serving: bool,
    terminating: bool,
    local: bool,
    /// Hints for nodes.
    nodes: Hinted,
    /// Hints for zones.
    zones: Hinted,
}

/// What an endpoint's hints of one kind say about this node.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hinted {
    /// It has none.
    Not,
    /// It is meant for others.
    Elsewhere,
    /// It is meant for here.
    Here,
}

/// Chooses the endpoints of a service port in one family, as kube-proxy does (KEP-1669 for terminating endpoints).
///
/// Slices are joined by port name and protocol. Where two give the same address and port, one that is not terminating wins
/// (an address that a new pod took over from an old one).
///
/// Hints are followed for the whole cluster's list only, and all or nothing (`pkg/proxy/topology.go`): those for nodes if every ready endpoint
/// has one and at least one names this node; else those for zones by the same test; else none.
pub fn choose(port: &ServicePort, family: Family, slices: &[&Slice], place: Place<'_>) -> Choice {
    let mut candidates: BTreeMap<Backend, Candidate> = BTreeMap::new();
    for slice in slices.iter().filter(|slice| slice.family == family && !slice.headless) {
        let numbers = slice.ports.iter().filter(|of_slice| of_slice.name == port.name && of_slice.protocol == port.protocol);
        for number in numbers.map(|of_slice| of_slice.port) {
            add(&mut candidates, slice, number, place);
        }
    }
    let cluster = usable(&candidates, preference(&candidates));
    let local = usable(&candidates, |candidate| candidate.local);
    let on_node = |backend: &&Backend| candidates.get(backend).is_some_and(|candidate| candidate.local);
    let mut hairpins: Vec<Backend> = cluster.iter().filter(on_node).chain(&local).copied().collect();
    hairpins.sort_unstable();
    hairpins.dedup();
    Choice { cluster, local, hairpins }
}

/// How many addresses of this node have a ready endpoint, whatever its ports: what a health check of the Service counts. Endpoints that only
/// serve while they terminate do not count, although traffic still reaches them, so that load balancers look elsewhere in time.
pub fn local_ready(family: Family, slices: &[&Slice], node_name: &str) -> usize {
    let place = Place { node: node_name, zone: None };
    let mut candidates: BTreeMap<Backend, Candidate> = BTreeMap::new();
    for slice in slices.iter().filter(|slice| slice.family == family && !slice.headless) {
        for of_slice in &slice.ports {
            add(&mut candidates, slice, of_slice.port, place);
        }
    }
    let ready = candidates.iter().filter(|(_, candidate)| candidate.local && candidate.ready);
    ready.map(|(backend, _)| backend.address).collect::<BTreeSet<_>>().len()
}

fn add(candidates: &mut BTreeMap<Backend, Candidate>, slice: &Slice, port: u16, place: Place<'_>) {
    for endpoint in slice.endpoints.iter().filter(|endpoint| !endpoint.secondary) {
        let candidate = Candidate::new(endpoint, place);
        let slot = candidates.entry(Backend { address: endpoint.address, port }).or_insert(candidate);
        if !candidate.terminating {
            *slot = candidate;
        }
    }
}

impl Candidate {
    fn new(endpoint: &Endpoint, place: Place<'_>) -> Candidate {
        let hints = endpoint.hints.as_deref();
        Candidate {
            ready: endpoint.ready,
            serving: endpoint.serving,
            terminating: endpoint.terminating,
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

/// Which ready endpoints are used here, as the hints of all of them say.
fn preference(candidates: &BTreeMap<Backend, Candidate>) -> fn(&Candidate) -> bool {
    let followed = |hints: fn(&Candidate) -> Hinted| {
        let ready = || candidates.values().filter(|candidate| candidate.ready).map(hints);
        ready().all(|hint| hint != Hinted::Not) && ready().any(|hint| hint == Hinted::Here)
    };
    if followed(|candidate| candidate.nodes) {
        |candidate| candidate.nodes == Hinted::Here
    } else if followed(|candidate| candidate.zones) {
        |candidate| candidate.zones == Hinted::Here
    } else {
        |_| true
    }
}

fn usable(candidates: &BTreeMap<Backend, Candidate>, wanted: impl Fn(&Candidate) -> bool) -> Vec<Backend> {
    let select = |usable: fn(&Candidate) -> bool| -> Vec<Backend> {
        candidates.iter().filter(|(_, one)| wanted(one) && usable(one)).map(|(backend, _)| *backend).collect()
    };
    let ready = select(|candidate| candidate.ready);
    if ready.is_empty() { select(|candidate| candidate.serving && candidate.terminating) } else { ready }
}

#[cfg(test)]
#[path = "select_tests.rs"]
mod tests;
