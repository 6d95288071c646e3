//! Which endpoints may be chosen, with what share, and why the others are not.

use super::{Cause, SourceSeen, Unused, Used, View};
use crate::model::{AddressKind, Endpoint, Name, Policy, Service, ServicePort, Slice};
use crate::proxy::{
    Backend, Candidate, Dest, Element, Fate, Hinted, Judgement, Packet, Place, Says, Target, Tier, Topology, Trace, judge,
};

/// The endpoints of a service port as a packet finds them.
#[derive(Debug)]
pub struct Lists<'a> {
    /// All of them, and the rules by which some are chosen.
    pub judgement: Judgement<'a>,
    /// Whether the packet asks for endpoints of this node only.
    pub local: bool,
    /// The service's port.
    pub port: &'a ServicePort,
    /// All slices of the service.
    pub slices: Vec<&'a Slice>,
    /// Why it is one of the list's endpoints and none of the others, if it is.
    pub settled: Option<&'static str>,
}

impl<'a> View<'a> {
    /// The endpoints that a packet to a service's destination finds.
    pub(super) fn lists(
        &self,
        service: &'a Service,
        packet: &Packet,
        kind: Option<AddressKind>,
        trace: &Trace,
    ) -> Option<Lists<'a>> {
        let port = port_of(service, &packet.to, kind)?;
        let slices = self.store.slices(&service.key);
        let place = Place { node: &self.context.node_name, zone: self.context.zone.as_deref() };
        let judgement = judge(port, packet.to.family(), &slices, place);
        let policy = if kind == Some(AddressKind::ClusterIp) { service.internal_policy } else { service.external_policy };
        let local = drawn_locally(trace).unwrap_or(policy == Policy::Local);
        let settled = trace.steps.iter().find_map(|step| match step.says {
            Says::Remembered(_) => Some("the client was sent to another one before"),
            Says::Hashed(_) => Some("the hash of the client's address points to another one"),
            _ => None,
        });
        Some(Lists { judgement, local, port, slices, settled })
    }
}

/// The port of a service to which a destination belongs.
fn port_of<'a>(service: &'a Service, dest: &Dest, kind: Option<AddressKind>) -> Option<&'a ServicePort> {
    service.ports.iter().find(|port| {
        let number = if kind == Some(AddressKind::NodePort) { port.node_port } else { port.port };
        number == dest.port && port.protocol == dest.protocol
    })
}

/// Whether the walk ended in a draw among this node's endpoints; `None` when it did not get so far.
fn drawn_locally(trace: &Trace) -> Option<bool> {
    trace.steps.iter().rev().find_map(|step| match step.says {
        Says::Goto(chain) => chain.slots().map(|slots| slots.start >= Element::LOCAL_SLOTS),
        _ => None,
    })
}

impl Lists<'_> {
    /// Those that the packet may be sent to, the likeliest first.
    pub fn used(&self, fate: &Fate) -> Vec<Used> {
        let Fate::Balanced(targets) = fate else { return Vec::new() };
        let slots: u32 = targets.iter().map(|target| target.slots).sum();
        let mut used: Vec<Used> = targets.iter().filter_map(|target| self.one_used(target, slots)).collect();
        used.sort_by(|one, other| {
            other.share.total_cmp(&one.share).then((one.address, one.port).cmp(&(other.address, other.port)))
        });
        used
    }

    fn one_used(&self, target: &Target, slots: u32) -> Option<Used> {
        let candidate = self.judgement.candidates.get(&target.backend)?;
        Some(Used {
            address: target.backend.address,
            port: target.backend.port,
            share: (f64::from(target.slots) * 1000.0 / f64::from(slots)).round() / 10.0,
            source: if target.masqueraded { SourceSeen::Masqueraded } else { SourceSeen::Kept },
            local: candidate.local,
            node: candidate.endpoint.node.as_deref().map(str::to_string),
            because: Cause::new(object(candidate.slice), field(candidate, ""), standing(candidate)),
        })
    }

    /// Those that it is not sent to.
    pub fn unused(&self, used: &[Used], view: &View<'_>) -> Vec<Unused> {
        let is_used = |backend: &Backend| used.iter().any(|one| (one.address, one.port) == (backend.address, backend.port));
        let others = self.judgement.candidates.iter().filter(|(backend, _)| !is_used(backend));
        others.map(|(backend, candidate)| self.one_unused(backend, candidate, view)).collect()
    }

    fn one_unused(&self, backend: &Backend, candidate: &Candidate<'_>, view: &View<'_>) -> Unused {
        let (why, field, value) = self.reason(candidate, view);
        Unused {
            address: backend.address,
            port: backend.port,
            node: candidate.endpoint.node.as_deref().map(str::to_string),
            why,
            because: Cause::new(object(candidate.slice), field, value),
        }
    }

    /// Why a candidate is not in the list that is drawn from, in the order in which the choice asks.
    fn reason(&self, candidate: &Candidate<'_>, view: &View<'_>) -> (String, String, String) {
        let endpoint = candidate.endpoint;
        let (tier, topology) = match self.local {
            true => (self.judgement.local, Topology::Nowhere),
            false => (self.judgement.cluster, self.judgement.topology),
        };
        if self.local && !candidate.local {
            let node = endpoint.node.as_deref().unwrap_or("no node");
            let why = format!("it is on {node}, and the policy asks for endpoints on {}", view.context.node_name);
            return (why, field(candidate, ".nodeName"), endpoint.node.as_deref().unwrap_or_default().to_string());
        }
        if !topology.means(candidate) {
            let hints = endpoint.hints.as_deref();
            let (kind, names, here) = match topology {
                Topology::Nodes => ("forNodes", hints.map(|hints| &*hints.nodes), view.context.node_name.as_str()),
                _ => ("forZones", hints.map(|hints| &*hints.zones), view.context.zone.as_deref().unwrap_or_default()),
            };
            let names = names.map(joined).unwrap_or_default();
            return (format!("it is meant for {names}, and here is {here}"), field(candidate, &format!(".hints.{kind}")), names);
        }
        let is_listed = match tier {
            Tier::Ready => endpoint.ready,
            Tier::Terminating => endpoint.serving && endpoint.terminating,
        };
        if let Some(why) = self.settled.filter(|_| is_listed) {
            return (why.to_string(), field(candidate, ".conditions"), conditions(endpoint));
        }
        let why = match (tier, endpoint.terminating, endpoint.serving) {
            (Tier::Ready, true, true) => "it is terminating, and others are ready",
            (Tier::Ready, true, false) => "it is terminating and serves no longer",
            (Tier::Ready, false, _) => "it is not ready",
            (Tier::Terminating, false, _) => "it is not ready",
            (Tier::Terminating, true, _) => "it is terminating and serves no longer",
        };
        (why.to_string(), field(candidate, ".conditions"), conditions(endpoint))
    }

    /// What made the hints of the endpoints count, or kept them from counting: a sentence, and the field that decided.
    pub fn topology(&self, view: &View<'_>) -> Option<(String, Cause)> {
        if self.local {
            return None;
        }
        let node = format!("Node {}", view.context.node_name);
        let zone = view.context.zone.as_deref().unwrap_or_default();
        match self.judgement.topology {
            Topology::Nodes => {
                let text = format!("every ready endpoint has hints for nodes, and those for {} are used", view.context.node_name);
                Some((text, Cause::new(node, "metadata.name", &view.context.node_name)))
            }
            Topology::Zones => {
                let text = format!("every ready endpoint has hints for zones, and those for {zone} are used");
                Some((text, Cause::new(node, "metadata.labels[topology.kubernetes.io/zone]", zone)))
            }
            Topology::Nowhere => {
                let ready = || self.judgement.candidates.values().filter(|candidate| candidate.endpoint.ready);
                let some_have = ready().any(|candidate| candidate.endpoint.hints.is_some());
                let without = ready().find(|candidate| candidate.zones == Hinted::Not);
                let text = match (some_have, without) {
                    (false, _) => return None,
                    (true, Some(one)) => format!("hints are not followed: {} has none for zones", one.endpoint.address),
                    (true, None) => format!("hints are not followed: no ready endpoint is meant for here (zone {zone:?})"),
                };
                let cause = match without {
                    Some(candidate) => Cause::new(object(candidate.slice), field(candidate, ".hints.forZones"), ""),
                    None => Cause::new(node, "metadata.labels[topology.kubernetes.io/zone]", zone),
                };
                Some((text, cause))
            }
        }
    }

    /// Whether only endpoints that are about to go are left.
    pub fn is_last_resort(&self) -> bool {
        let tier = if self.local { self.judgement.local } else { self.judgement.cluster };
        tier == Tier::Terminating
    }
}

/// The slice as a cause names it.
pub fn object(slice: &Slice) -> String {
    format!("EndpointSlice {}", slice.key)
}

fn field(candidate: &Candidate<'_>, rest: &str) -> String {
    path(candidate.slice, candidate.endpoint, rest)
}

/// The path of an endpoint's field: endpoints are counted as the object has them, whatever the number of their addresses.
pub fn path(slice: &Slice, endpoint: &Endpoint, rest: &str) -> String {
    let before = slice.endpoints.iter().take_while(|other| !std::ptr::eq(*other, endpoint));
    let firsts = before.filter(|other| !other.secondary).count();
    format!("endpoints[{}]{rest}", if endpoint.secondary { firsts.saturating_sub(1) } else { firsts })
}

/// The conditions of a candidate, and its weight where it has one.
fn standing(candidate: &Candidate<'_>) -> String {
    let conditions = conditions(candidate.endpoint);
    match candidate.slice.weight {
        1 => conditions,
        weight => format!("{conditions}, weight {weight} (annotation waypost.dev/weight)"),
    }
}

/// The conditions that matter, as short as they can be said.
pub fn conditions(endpoint: &Endpoint) -> String {
    match (endpoint.ready, endpoint.terminating) {
        (true, false) => "ready".to_string(),
        _ => format!("ready={} serving={} terminating={}", endpoint.ready, endpoint.serving, endpoint.terminating),
    }
}

fn joined(names: &[Name]) -> String {
    names.iter().map(|name| &**name).collect::<Vec<_>>().join(", ")
}
