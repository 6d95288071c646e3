//! Histories of objects, committed into the in-memory kernel.

mod changes;
mod clients;
mod histories;
mod refused;
mod strangers;

use super::*;
use crate::model::{
    Balance, Endpoint, Family, ObjectKey, Policy, Protocol, Service, ServiceKind, ServiceOptions, ServicePort, Slice, SlicePort,
};
use crate::proxy::{AffinityMap, Backend, Chain, Context, Delta, Dest, DetectLocal, Element, Fate, Packet, Planner, Says, Walk};
use std::collections::BTreeMap;
use std::net::IpAddr;

fn layouts() -> [Layout; 2] {
    Family::BOTH.map(|family| Layout {
        family,
        masquerade_mark: 0x4000,
        masquerade_all: false,
        tracked_dns: false,
        detect_local: DetectLocal::Networks,
    })
}

fn context() -> Context {
    let node: Vec<IpAddr> = vec!["192.0.2.10".parse().unwrap(), "2001:db8::10".parse().unwrap()];
    Context { node_name: "here".into(), node_addresses: node.clone(), nodeport_addresses: node, ..Context::default() }
}

/// A service as the tests vary it.
#[derive(Clone, Debug)]
struct Shape {
    number: u8,
    node_port: bool,
    external: u8,
    local_outside: bool,
    local_inside: bool,
    ranges: bool,
    affinity: Option<u32>,
    balance: Balance,
    endpoints: Vec<(u8, bool, bool)>,
}

impl Shape {
    fn key(&self) -> ObjectKey {
        ObjectKey::new("default", format!("svc-{}", self.number))
    }

    fn service(&self) -> Service {
        let policy = |local| if local { Policy::Local } else { Policy::Cluster };
        Service {
            key: self.key(),
            kind: ServiceKind::ClusterIp,
            cluster_ips: vec![[10, 96, 0, self.number].into(), format!("fd00::{:x}", self.number).parse().unwrap()],
            external_ips: (self.external > 0).then(|| [198, 51, 100, self.external].into()).into_iter().collect(),
            load_balancer_ips: (self.external > 1).then(|| [203, 0, 113, self.external].into()).into_iter().collect(),
            source_ranges: if self.ranges { vec!["10.0.0.0/8".parse().unwrap(), "10.1.0.0/16".parse().unwrap()] } else { vec![] },
            ports: vec![ServicePort {
                name: "http".into(),
                protocol: Protocol::Tcp,
                port: 80,
                node_port: if self.node_port { 30000 + u16::from(self.number) } else { 0 },
            }],
            internal_policy: policy(self.local_inside),
            external_policy: policy(self.local_outside),
            affinity_seconds: self.affinity,
            health_check_node_port: 0,
            proxied: true,
            created: i64::from(self.number),
            options: ServiceOptions { balance: self.balance, ..ServiceOptions::default() },
            labels: None,
        }
    }

    fn slices(&self) -> Vec<Slice> {
        let endpoint = |address: IpAddr, ready: bool, local: bool| Endpoint {
            ready,
            terminating: !ready,
            node: Some(if local { "here" } else { "there" }.into()),
            ..Endpoint::at(address)
        };
        Family::BOTH
            .map(|family| {
                let address = |number: u8| match family {
                    Family::V4 => IpAddr::from([10, 244, 0, number]),
                    Family::V6 => format!("fd00:244::{number:x}").parse().unwrap(),
                };
                let endpoints = self.endpoints.iter().map(|(number, ready, local)| endpoint(address(*number), *ready, *local));
                Slice {
                    key: ObjectKey::new("default", format!("svc-{}-{family}", self.number)),
                    service: self.key(),
                    family,
                    ports: Box::new([SlicePort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }]),
                    endpoints: endpoints.collect(),
                    headless: false,
                    weight: 1,
                    triggered: None,
                    details: None,
                }
            })
            .into()
    }
}

/// Plans and commits, with every promoted service planned again, as the agent does.
struct Agent {
    planner: Planner,
    committer: Committer<Memory>,
    shapes: BTreeMap<u8, Shape>,
}

impl Agent {
    fn start(kernel: Memory, shapes: BTreeMap<u8, Shape>) -> Agent {
        let mut agent = Agent { planner: Planner::default(), committer: Committer::new(kernel, layouts()), shapes };
        let mut delta = statics();
        for number in agent.shapes.keys().copied().collect::<Vec<_>>() {
            agent.plan(number, &mut delta);
        }
        agent.commit(delta);
        agent
    }

    fn plan(&mut self, number: u8, delta: &mut Delta) {
        let mut numbers = vec![number];
        while let Some(number) = numbers.pop() {
            let key = ObjectKey::new("default", format!("svc-{number}"));
            let shape = self.shapes.get(&number);
            let (service, slices) = (shape.map(Shape::service), shape.map(Shape::slices).unwrap_or_default());
            let slices: Vec<&Slice> = slices.iter().collect();
            let outcome = self.planner.update(&key, service.as_ref(), &slices, &context(), delta);
            numbers.extend(outcome.promoted.iter().map(|key| key.name.strip_prefix("svc-").unwrap().parse::<u8>().unwrap()));
        }
    }

    fn set(&mut self, shape: Shape) {
        let number = shape.number;
        self.shapes.insert(number, shape);
        self.replan(number);
    }

    fn replan(&mut self, number: u8) {
        let mut delta = Delta::default();
        self.plan(number, &mut delta);
        self.commit(delta);
    }

    fn commit(&mut self, delta: Delta) -> Committed {
        let committed = self.committer.commit(delta);
        self.committer.kernel().check().unwrap();
        committed
    }

    /// As an agent of another version does.
    fn lay_out(&mut self, masquerade_mark: u32) {
        layouts().into_iter().for_each(|layout| self.committer.set_layout(Layout { masquerade_mark, ..layout }));
        self.commit(Delta::default());
    }

    /// A client connects to a NodePort, or from inside to a ClusterIP: where it goes, and what is remembered, as the packet's way says.
    fn connect(&mut self, number: u8, inside: bool, client: u8) -> Option<Backend> {
        let (source, to) = match inside {
            true => ([10, 244, 9, client], dest(&format!("10.96.0.{number}"), 80)),
            false => ([203, 0, 113, client], dest("192.0.2.10", 30000 + u16::from(number))),
        };
        let packet = Packet { source: source.into(), from_node: false, from_pod_interface: false, to, to_node: !inside };
        let kernel = self.committer.kernel();
        let walk = Walk::new(kernel.elements(Family::V4), false, DetectLocal::Networks).remembering(kernel.clients(Family::V4));
        let trace = walk.trace(&packet);
        let Fate::Balanced(targets) = trace.fate else { return None };
        let backend = targets[usize::from(client) % targets.len()].backend;
        for step in trace.steps {
            if let Says::Remembers(map) | Says::Remembered(map) = step.says {
                assert!(kernel.remember(Family::V4, map, packet.source, backend), "{map} is there");
            }
        }
        kernel.check().unwrap();
        Some(backend)
    }

    fn holds(&mut self) -> Vec<Element> {
        let kernel = self.committer.kernel();
        Family::BOTH.iter().flat_map(|family| kernel.elements(*family)).collect()
    }
}

/// Chains and maps of service ports; which `pick` chains there are is a matter of history.
fn own_chains(made: &Made) -> (Vec<Chain>, Vec<AffinityMap>) {
    let own = made.chains.iter().filter(|chain| !matches!(chain, Chain::Pick(_) | Chain::PickLocal(_)));
    (own.copied().collect(), made.maps.iter().copied().collect())
}

fn statics() -> Delta {
    let mut delta = Delta::default();
    delta.elements.insert(Element::PodCidr("10.244.0.0/16".parse().unwrap()), true);
    delta.elements.insert(Element::ServiceCidr("10.96.0.0/16".parse().unwrap()), true);
    delta
}

fn shape(number: u8, endpoints: &[u8]) -> Shape {
    Shape {
        number,
        node_port: true,
        external: 0,
        local_outside: false,
        local_inside: false,
        ranges: false,
        affinity: None,
        balance: Balance::Random,
        endpoints: endpoints.iter().map(|number| (*number, true, true)).collect(),
    }
}

fn dest(address: &str, port: u16) -> Dest {
    Dest { address: address.parse().unwrap(), protocol: Protocol::Tcp, port }
}

fn sticky(number: u8, endpoints: &[u8]) -> Shape {
    Shape { affinity: Some(60), ..shape(number, endpoints) }
}
