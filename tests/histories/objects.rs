//! Random objects of a small cluster and their histories, for the in-memory kernel (in the library) and for the real one.

use ipnet::IpNet;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use waypost::model::{
    Balance, Endpoint, Family, Hints, Kind, Labels, Node, ObjectKey, Policy, Protocol, Requirement, Selector, Service,
    ServiceKind, ServiceOptions, ServicePort, Slice, SlicePort, Update,
};
use waypost::proxy::Dest;

/// The objects of a small cluster. Slices belong to whichever service they name, so that endpoints move from slice to slice and slices from service to
/// service.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    services: BTreeMap<u8, Service>,
    slices: BTreeMap<u8, Slice>,
    node: Option<Node>,
    cidrs: BTreeMap<u8, Vec<IpNet>>,
}

/// One change of one object.
#[derive(Clone, Debug)]
pub enum Change {
    Service(u8, Option<Box<Service>>),
    Slice(u8, Option<Box<Slice>>),
    Node(Option<Node>),
    Cidr(u8, Option<Vec<IpNet>>),
}

/// What happens next.
#[derive(Clone, Debug)]
pub enum Step {
    /// A change that the watch shows.
    Seen(Change),
    /// Changes while the API server was away, and then listings of everything: backwards or not.
    Missed(Vec<Change>, bool),
    /// A client connects to every port of a Service's ClusterIPs.
    Connect(u8, u8),
    /// Nothing, for as long as the agent needs for what it knows; else it takes all in at once.
    Pause,
    /// The agent is killed, and another one starts with these [`SETTINGS`], perhaps after somebody has removed a family's table.
    Restart(Option<bool>, usize),
}

/// A setting and its value.
pub type Flags = &'static [(&'static str, &'static str)];

/// Settings that make tables of different layouts. With the first ones, those of the first agent, the networks of the Node object do so too.
pub const SETTINGS: [Flags; 4] = [
    &[("detect-local-mode", "NodeCIDR")],
    &[("detect-local-mode", "NodeCIDR"), ("masquerade-bit", "15")],
    &[("detect-local-mode", "BridgeInterface"), ("pod-bridge-interface", "cni0")],
    &[("masquerade-all", "true")],
];

impl Objects {
    /// Makes the change, and tells how a watch shows it.
    pub fn change(&mut self, change: Change) -> Update {
        match change {
            Change::Service(number, Some(service)) => {
                self.services.insert(number, (*service).clone());
                Update::Service(service)
            }
            Change::Service(number, None) => {
                self.services.remove(&number);
                Update::ServiceGone(service_key(number))
            }
            Change::Slice(number, Some(slice)) => {
                self.slices.insert(number, (*slice).clone());
                Update::Slice(slice)
            }
            Change::Slice(number, None) => {
                self.slices.remove(&number);
                Update::SliceGone(slice_key(number))
            }
            Change::Node(node) => {
                self.node = node.clone();
                node.map_or(Update::NodeGone, Update::Node)
            }
            Change::Cidr(number, networks) => {
                let name = format!("cidr-{number}");
                match &networks {
                    Some(networks) => self.cidrs.insert(number, networks.clone()),
                    None => self.cidrs.remove(&number),
                };
                networks.map_or(Update::ServiceCidrGone(name.as_str().into()), |networks| {
                    Update::ServiceCidr(name.as_str().into(), networks.into())
                })
            }
        }
    }

    /// The node as it is now.
    pub fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    /// Full listings of all kinds.
    pub fn listings(&self, backwards: bool) -> Vec<Update> {
        let services = self.services.values().map(|service| Update::Service(Box::new(service.clone()))).collect();
        let slices = self.slices.values().map(|slice| Update::Slice(Box::new(slice.clone()))).collect();
        let cidrs = self.cidrs.iter();
        let cidrs = cidrs.map(|(n, networks)| Update::ServiceCidr(format!("cidr-{n}").into(), networks.as_slice().into()));
        let mut kinds: Vec<(Kind, Vec<Update>)> = vec![
            (Kind::ServiceCidr, cidrs.collect()),
            (Kind::Namespace, vec![Update::Namespace("default".into(), None)]),
            (Kind::Node, self.node.iter().cloned().map(Update::Node).collect()),
            (Kind::Service, services),
            (Kind::Slice, slices),
        ];
        if backwards {
            kinds.reverse();
            kinds.iter_mut().for_each(|(_, updates)| updates.reverse());
        }
        let listing = |(kind, updates): (Kind, Vec<Update>)| {
            std::iter::once(Update::ListBegin(kind)).chain(updates).chain([Update::ListEnd(kind)])
        };
        kinds.into_iter().flat_map(listing).collect()
    }
}

fn service_key(number: u8) -> ObjectKey {
    ObjectKey::new("default", format!("svc-{number}"))
}

fn slice_key(number: u8) -> ObjectKey {
    ObjectKey::new("default", format!("slice-{number}"))
}

fn address(family: Family, network: u8, host: u8) -> IpAddr {
    match family {
        Family::V4 => [10, network, 0, host].into(),
        Family::V6 => format!("fd00:{network:x}::{host:x}").parse().unwrap(),
    }
}

/// The protocols of the ports of Services, which have the numbers from 80 up.
const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

/// Whether endpoints get their shares gradually: a history with such Services has its end a second after its last change.
fn any_service(slow_start: bool) -> impl Strategy<Value = Change> {
    let policy = || prop_oneof![Just(Policy::Cluster), Just(Policy::Local)];
    let ports = proptest::collection::btree_map(0usize..3, any::<bool>(), 1..4);
    let outside = (proptest::collection::btree_set(0u8..3, 0..2), proptest::collection::btree_set(0u8..3, 0..2));
    let rest = (policy(), policy(), any::<bool>(), 0u8..16, 1u8..6);
    (0u8..4, ports, outside, rest, any_spread(slow_start)).prop_map(
        |(
            number,
            ports,
            (external, balancer),
            (internal_policy, external_policy, ranges, rare, families),
            (affinity_seconds, mut options),
        )| {
            // A hash table has a thousand slots for each address: a few will do.
            if options.balance == Balance::SourceHash && (number > 0 || ports.len() > 1) {
                options.balance = Balance::RoundRobin;
            }
            // A family or both.
            let families: Vec<Family> = Family::BOTH
                .into_iter()
                .zip([1, 2])
                .filter(|(_, bit)| families > 3 || families & bit != 0)
                .map(|(f, _)| f)
                .collect();
            let of = |network: u8, hosts: Vec<u8>| -> Vec<IpAddr> {
                families.iter().flat_map(|family| hosts.iter().map(|host| address(*family, network, *host))).collect()
            };
            let port = |(index, node_port): (usize, bool)| ServicePort {
                name: ["http", "dns", "sctp"][index].into(),
                protocol: PROTOCOLS[index],
                port: 80 + index as u16,
                node_port: if node_port { 30_000 + u16::from(number) + 10 * index as u16 } else { 0 },
            };
            let service = Service {
                key: service_key(number),
                kind: if rare == 0 { ServiceKind::Headless } else { ServiceKind::ClusterIp },
                cluster_ips: if rare == 0 { vec![] } else { of(96, vec![number]) },
                external_ips: of(97, external.into_iter().collect()),
                // Of the same networks: two services may want one address.
                load_balancer_ips: of(97, balancer.into_iter().collect()),
                source_ranges: if ranges { vec!["10.0.0.0/8".parse().unwrap(), "10.1.0.0/16".parse().unwrap()] } else { vec![] },
                ports: ports.into_iter().map(port).collect(),
                internal_policy,
                external_policy,
                affinity_seconds,
                health_check_node_port: 0,
                proxied: rare != 1,
                created: i64::from(rare / 4),
                options,
                labels: None,
            };
            Change::Service(number, Some(Box::new(service)))
        },
    )
}

/// How connections are spread, and who may make them.
fn any_spread(slow_start: bool) -> impl Strategy<Value = (Option<u32>, ServiceOptions)> {
    let balance = prop_oneof![3 => Just(Balance::Random), 1 => Just(Balance::RoundRobin), 1 => Just(Balance::SourceHash)];
    let affinity = prop_oneof![2 => Just(None), 1 => Just(Some(10_800)), 1 => Just(Some(60))];
    let networks = || {
        let all: Vec<IpNet> = ["10.0.0.0/8", "10.244.9.1/32", "fd00::/16"].map(|network| network.parse().unwrap()).into();
        proptest::sample::subsequence(all, 0..3).prop_map(Vec::into_boxed_slice)
    };
    let sources = (proptest::option::weighted(0.2, networks()), prop_oneof![4 => Just(Box::default()), 1 => networks()]);
    let exposed = proptest::option::weighted(0.3, any_selector());
    (affinity, balance, sources, exposed, any::<bool>()).prop_map(
        move |(affinity, balance, (allowed_sources, denied_sources), exposed_on, slow)| {
            let slow_start = (slow_start && slow).then_some(1);
            (affinity, ServiceOptions { balance, slow_start, allowed_sources, denied_sources, exposed_on })
        },
    )
}

/// Which nodes expose a Service, by the labels that [`any_node`] has.
fn any_selector() -> impl Strategy<Value = Selector> {
    let disk = || ("disk".into(), Box::from(["ssd".into()]));
    let one = prop_oneof![
        3 => Just(Requirement::Exists("edge".into())),
        1 => Just(Requirement::Absent("edge".into())),
        2 => Just(disk()).prop_map(|(key, values)| Requirement::In(key, values)),
        1 => Just(disk()).prop_map(|(key, values)| Requirement::NotIn(key, values)),
        1 => Just(Requirement::Never),
    ];
    proptest::collection::vec(one, 1..3).prop_map(|all| Selector(all.into()))
}

fn any_slice() -> impl Strategy<Value = Change> {
    let endpoint = (0u8..8, any::<(bool, bool, bool, bool)>(), any_hints());
    let ports = proptest::collection::btree_map(0usize..3, 0u16..2, 0..4);
    (0u8..8, 0u8..4, any::<bool>(), ports, proptest::collection::vec(endpoint, 0..6), 0u8..16).prop_map(
        |(number, service, v4, ports, endpoints, rare)| {
            let family = if v4 { Family::V4 } else { Family::V6 };
            let endpoint = |(host, (ready, serving, terminating, local), hints)| Endpoint {
                ready,
                serving,
                terminating,
                node: Some(if local { "node-1" } else { "node-2" }.into()),
                hints,
                ..Endpoint::at(address(family, 244, host))
            };
            let port = |(index, offset): (usize, u16)| SlicePort {
                name: ["http", "dns", "sctp"][index].into(),
                protocol: PROTOCOLS[index],
                port: 8080 + offset,
            };
            let slice = Slice {
                key: slice_key(number),
                service: service_key(service),
                family,
                ports: ports.into_iter().map(port).collect(),
                endpoints: endpoints.into_iter().map(endpoint).collect(),
                headless: rare < 2,
                triggered: None,
                details: None,
                weight: if rare < 12 { 1 } else { rare - 10 },
            };
            Change::Slice(number, Some(Box::new(slice)))
        },
    )
}

/// Mostly some, because one endpoint without any makes those of all the others void.
fn any_hints() -> impl Strategy<Value = Option<Arc<Hints>>> {
    let some = |names: [&'static str; 2]| proptest::sample::subsequence(names.to_vec(), 0..=2);
    let hints = (some(["a", "b"]), some(["node-1", "node-2"])).prop_map(|(zones, nodes)| {
        let names = |texts: Vec<&str>| texts.into_iter().map(Into::into).collect();
        Arc::new(Hints { zones: names(zones), nodes: names(nodes) })
    });
    proptest::option::weighted(0.85, hints)
}

/// This node, in a zone or in none, with labels and networks of pods that come and go.
fn any_node() -> impl Strategy<Value = Change> {
    let labels = proptest::sample::subsequence(vec![("edge", "true"), ("disk", "ssd"), ("disk", "hdd")], 0..=3);
    let networks: [IpNet; 3] = ["10.244.0.0/24", "10.244.1.0/24", "fd00:244::/64"].map(|network| network.parse().unwrap());
    let pod_cidrs = proptest::sample::subsequence(networks.to_vec(), 0..=3);
    (proptest::collection::btree_set(1u8..4, 0..2), 0u8..3, labels, pod_cidrs).prop_map(|(hosts, zone, labels, pod_cidrs)| {
        let addresses = hosts.iter().flat_map(|host| Family::BOTH.map(|family| address(family, 192, *host))).collect();
        let zone = (zone > 0).then(|| ["a", "b"][zone as usize - 1].into());
        let labels: Labels = labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        Change::Node(Some(Node { addresses, eligible: true, zone, pod_cidrs: pod_cidrs.into(), labels }))
    })
}

fn any_change(slow_start: bool) -> impl Strategy<Value = Change> {
    let networks: [IpNet; 3] = ["10.96.0.0/16", "10.96.128.0/17", "fd00:96::/112"].map(|network| network.parse().unwrap());
    prop_oneof![
        8 => any_service(slow_start),
        8 => any_slice(),
        3 => any_node(),
        2 => (0u8..4).prop_map(|number| Change::Service(number, None)),
        2 => (0u8..8).prop_map(|number| Change::Slice(number, None)),
        1 => Just(Change::Node(None)),
        1 => (0u8..2, proptest::sample::subsequence(networks.to_vec(), 1..3)).prop_map(|(n, list)| Change::Cidr(n, Some(list))),
        1 => (0u8..2).prop_map(|number| Change::Cidr(number, None)),
    ]
}

/// A history of at most so many steps, with or without Services that start slowly. It begins with a cluster in which there is something to change.
pub fn any_history(slow_start: bool, steps: usize) -> impl Strategy<Value = Vec<Step>> {
    let objects = proptest::collection::vec(any_change(slow_start), 0..60);
    (objects, proptest::collection::vec(any_step(slow_start), 1..steps))
        .prop_map(|(objects, steps)| [Step::Missed(objects, false), Step::Pause].into_iter().chain(steps).collect())
}

fn any_step(slow_start: bool) -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => any_change(slow_start).prop_map(Step::Seen),
        8 => Just(Step::Pause),
        6 => (0u8..4, 1u8..5).prop_map(|(service, client)| Step::Connect(service, client)),
        2 => (proptest::collection::vec(any_change(slow_start), 0..6), any::<bool>()).prop_map(|(all, backwards)| Step::Missed(all, backwards)),
        1 => (proptest::option::of(any::<bool>()), 0..SETTINGS.len()).prop_map(|(flushed, settings)| Step::Restart(flushed, settings)),
    ]
}

/// What [`Step::Connect`] goes to.
pub fn targets(service: u8) -> impl Iterator<Item = Dest> {
    let of = move |family| PROTOCOLS.into_iter().zip(80..).map(move |(protocol, port)| (family, protocol, port));
    let all = Family::BOTH.into_iter().flat_map(of);
    all.map(move |(family, protocol, port)| Dest { address: address(family, 96, service), protocol, port })
}
