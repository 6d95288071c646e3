//! Random histories of objects: whatever the agent went through, the kernel ends with what a fresh start makes of the same objects, and at no moment
//! does an element lead to a chain or slot that is not there.

use super::tests::wire;
use crate::dns::records::Records;
use crate::model::{
    Endpoint, Family, Hints, Kind, Node, ObjectKey, Policy, Protocol, Service, ServiceKind, ServiceOptions, ServicePort, Slice,
    SlicePort, Update,
};
use crate::nft::tests::without_slots;
use crate::nft::{Batch, Kernel, Layout, Memory, NftError, Reading, Usable};
use crate::notices::Notices;
use crate::proxy::Element;
use ipnet::IpNet;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tokio::sync::{mpsc, watch};

/// The objects of a small cluster. Slices belong to whichever service they name, so that endpoints move from slice to slice and slices from service to
/// service.
#[derive(Clone, Debug, Default)]
struct Objects {
    services: BTreeMap<u8, Service>,
    slices: BTreeMap<u8, Slice>,
    node: Option<Node>,
    cidrs: BTreeMap<u8, Vec<IpNet>>,
}

/// One change of one object.
#[derive(Clone, Debug)]
enum Change {
    Service(u8, Option<Box<Service>>),
    Slice(u8, Option<Box<Slice>>),
    Node(Option<Node>),
    Cidr(u8, Option<Vec<IpNet>>),
}

#[derive(Clone, Debug)]
enum Step {
    /// A change that the watch shows.
    Seen(Change),
    /// Changes while the API server was away, and then listings of everything: backwards or not.
    Missed(Vec<Change>, bool),
    /// The agent is killed, and another one starts, perhaps after somebody has removed a family's table.
    Restart(Option<bool>),
}

impl Objects {
    /// Makes the change, and tells how a watch shows it.
    fn change(&mut self, change: Change) -> Update {
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

    /// Full listings of all kinds.
    fn listings(&self, backwards: bool) -> Vec<Update> {
        let services = self.services.values().map(|service| Update::Service(Box::new(service.clone()))).collect();
        let slices = self.slices.values().map(|slice| Update::Slice(Box::new(slice.clone()))).collect();
        let cidrs = self.cidrs.iter();
        let cidrs = cidrs.map(|(n, networks)| Update::ServiceCidr(format!("cidr-{n}").into(), networks.as_slice().into()));
        let mut kinds: Vec<(Kind, Vec<Update>)> = vec![
            (Kind::ServiceCidr, cidrs.collect()),
            (Kind::Namespace, vec![Update::Namespace("default".into())]),
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

/// An in-memory kernel that is looked over after each batch, and that takes nothing more from an agent that was killed.
struct Checked {
    memory: Arc<Mutex<Memory>>,
    killed: Arc<AtomicBool>,
    broken: Arc<Mutex<Option<String>>>,
}

impl Kernel for Checked {
    fn read(&mut self, layout: &Layout) -> Result<Reading, NftError> {
        self.memory.lock().unwrap().read(layout)
    }

    fn commit(&mut self, layout: &Layout, batch: &Batch) -> Result<(), NftError> {
        let mut memory = self.memory.lock().unwrap();
        if self.killed.load(Ordering::SeqCst) {
            return Err(NftError::Unsettled);
        }
        let result = memory.commit(layout, batch);
        if let Err(why) = memory.check() {
            self.broken.lock().unwrap().get_or_insert(why);
        }
        result
    }

    fn forget(&mut self, layout: &Layout, usable: &[Usable]) -> Result<usize, NftError> {
        self.memory.lock().unwrap().forget(layout, usable)
    }

    fn batch_limit(&self) -> usize {
        self.memory.lock().unwrap().batch_limit()
    }
}

struct Agent {
    updates: mpsc::Sender<Update>,
    ready: watch::Receiver<bool>,
    killed: Arc<AtomicBool>,
    _stop: watch::Sender<()>,
}

impl Agent {
    async fn start(
        memory: &Arc<Mutex<Memory>>,
        broken: &Arc<Mutex<Option<String>>>,
        objects: &Objects,
        backwards: bool,
    ) -> Agent {
        let killed = Arc::new(AtomicBool::new(false));
        let kernel = Checked { memory: memory.clone(), killed: killed.clone(), broken: broken.clone() };
        let wired = wire(kernel, Arc::new(Records::new("cluster.local", 30)), Notices::logged(), None);
        let agent = Agent { updates: wired.updates, ready: wired.ready, killed, _stop: wired.stop };
        agent.send(objects.listings(backwards)).await;
        agent
    }

    async fn send(&self, updates: Vec<Update>) {
        for update in updates {
            self.updates.send(update).await.unwrap();
        }
    }
}

fn held(memory: &Mutex<Memory>) -> Vec<Element> {
    let memory = memory.lock().unwrap();
    without_slots(Family::BOTH.iter().flat_map(|family| memory.elements(*family)).collect())
}

async fn live(steps: Vec<Step>, limit: usize) -> Result<(), TestCaseError> {
    let memory = Arc::new(Mutex::new(Memory::with_limit(limit)));
    let broken = Arc::new(Mutex::new(None));
    let mut objects = Objects::default();
    let mut agent = Agent::start(&memory, &broken, &objects, false).await;
    for step in steps {
        match step {
            Step::Seen(change) => agent.send(vec![objects.change(change)]).await,
            Step::Missed(changes, backwards) => {
                changes.into_iter().for_each(|change| drop(objects.change(change)));
                agent.send(objects.listings(backwards)).await;
            }
            Step::Restart(flushed) => {
                agent.killed.store(true, Ordering::SeqCst);
                if let Some(v4) = flushed {
                    memory.lock().unwrap().flush(if v4 { Family::V4 } else { Family::V6 });
                }
                agent = Agent::start(&memory, &broken, &objects, flushed.is_some()).await;
            }
        }
    }
    let fresh = Arc::new(Mutex::new(Memory::default()));
    let mut beginner = Agent::start(&fresh, &broken, &objects, false).await;
    beginner.ready.wait_for(|ready| *ready).await.unwrap();
    let began = Instant::now();
    let taken_in = || agent.updates.capacity() == agent.updates.max_capacity();
    while !(taken_in() && held(&memory) == held(&fresh)) && began.elapsed().as_secs() < 10 {
        tokio::task::yield_now().await;
    }
    prop_assert_eq!(held(&memory), held(&fresh));
    prop_assert_eq!(broken.lock().unwrap().take(), None);
    Ok(())
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

const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

fn any_service() -> impl Strategy<Value = Change> {
    let policy = || prop_oneof![Just(Policy::Cluster), Just(Policy::Local)];
    let ports = proptest::collection::btree_map(0usize..3, any::<bool>(), 1..3);
    let outside = (proptest::collection::btree_set(0u8..3, 0..2), proptest::collection::btree_set(0u8..3, 0..2));
    let rest = (policy(), policy(), any::<bool>(), 0u8..10, 1u8..4);
    (0u8..4, ports, outside, rest).prop_map(
        |(number, ports, (external, balancer), (internal_policy, external_policy, ranges, rare, families))| {
            // A family or both.
            let families: Vec<Family> =
                Family::BOTH.into_iter().zip([1, 2]).filter(|(_, bit)| families & bit != 0).map(|(f, _)| f).collect();
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
                affinity_seconds: None,
                health_check_node_port: 0,
                proxied: rare != 1,
                created: i64::from(rare / 4),
                options: ServiceOptions::default(),
            };
            Change::Service(number, Some(Box::new(service)))
        },
    )
}

fn any_slice() -> impl Strategy<Value = Change> {
    let endpoint = (0u8..8, any::<(bool, bool, bool, bool)>(), 0u8..3);
    let ports = proptest::collection::btree_map(0usize..3, 0u16..2, 0..3);
    (0u8..6, 0u8..4, any::<bool>(), ports, proptest::collection::vec(endpoint, 0..6), 0u8..8).prop_map(
        |(number, service, v4, ports, endpoints, rare)| {
            let family = if v4 { Family::V4 } else { Family::V6 };
            let endpoint = |(host, (ready, serving, terminating, local), hint)| Endpoint {
                ready,
                serving,
                terminating,
                node: Some(if local { "node-1" } else { "node-2" }.into()),
                hints: (hint > 0)
                    .then(|| Arc::new(Hints { zones: [["a", "b"][hint as usize - 1].into()].into(), ..Hints::default() })),
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
                headless: rare == 0,
                triggered: None,
                weight: 1,
            };
            Change::Slice(number, Some(Box::new(slice)))
        },
    )
}

fn any_node() -> impl Strategy<Value = Change> {
    (proptest::collection::btree_set(1u8..4, 0..2), 0u8..3).prop_map(|(hosts, zone)| {
        let addresses = hosts.iter().flat_map(|host| Family::BOTH.map(|family| address(family, 192, *host))).collect();
        let zone = (zone > 0).then(|| ["a", "b"][zone as usize - 1].into());
        Change::Node(Some(Node { addresses, zone, eligible: true, ..Node::default() }))
    })
}

fn any_change() -> impl Strategy<Value = Change> {
    let networks: [IpNet; 3] = ["10.96.0.0/16", "10.96.128.0/17", "fd00:96::/112"].map(|network| network.parse().unwrap());
    prop_oneof![
        8 => any_service(),
        8 => any_slice(),
        2 => any_node(),
        2 => (0u8..4).prop_map(|number| Change::Service(number, None)),
        2 => (0u8..6).prop_map(|number| Change::Slice(number, None)),
        1 => Just(Change::Node(None)),
        1 => (0u8..2, proptest::sample::subsequence(networks.to_vec(), 1..3)).prop_map(|(n, list)| Change::Cidr(n, Some(list))),
        1 => (0u8..2).prop_map(|number| Change::Cidr(number, None)),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => any_change().prop_map(Step::Seen),
        2 => (proptest::collection::vec(any_change(), 0..6), any::<bool>()).prop_map(|(all, backwards)| Step::Missed(all, backwards)),
        1 => proptest::option::of(any::<bool>()).prop_map(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, max_shrink_iters: 500, ..ProptestConfig::default() })]

    #[test]
    fn every_history_of_objects_ends_as_a_fresh_start_and_no_moment_of_it_is_broken(
        steps in proptest::collection::vec(any_step(), 1..40),
        limit in prop_oneof![Just(0usize), 10usize..60],
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(live(steps, limit))?;
    }
}
