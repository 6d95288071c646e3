//! Histories of objects, committed into the in-memory kernel.

use super::*;
use crate::model::{
    AddressKind, Balance, Endpoint, Family, ObjectKey, Policy, Protocol, Service, ServiceKind, ServiceOptions, ServicePort,
    Slice, SlicePort,
};
use crate::proxy::{
    AffinityMap, Backend, Chain, Context, Delta, Dest, DetectLocal, Element, Fate, List, Packet, Planner, Refusal, Says, Set,
    Walk,
};
use proptest::prelude::*;
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

#[test]
fn one_endpoint_less_touches_few_elements() {
    let mut agent = Agent::start(Memory::default(), BTreeMap::from([(1, shape(1, &[1, 2, 3]))]));
    let before = agent.committer.kernel().commits.len();
    agent.set(shape(1, &[1, 3]));
    let commits = agent.committer.kernel().commits[before..].to_vec();
    assert_eq!(commits.len(), 2, "one batch a family: {commits:?}");
    // ClusterIP and NodePort: a slot moves, a slot goes, and the count changes; besides, one hairpin pair goes.
    assert!(commits.iter().all(|batch| batch.elements.len() <= 11), "{commits:?}");
}

#[test]
fn a_restart_writes_nothing() {
    let mut agent = Agent::start(Memory::default(), BTreeMap::from([(1, shape(1, &[1, 2, 3, 4]))]));
    agent.set(shape(1, &[4, 2]));
    let mut kernel = agent.committer.kernel().clone();
    kernel.commits.clear();
    let mut again = Agent::start(kernel, agent.shapes);
    assert_eq!(again.committer.kernel().commits, vec![]);
}

#[test]
fn what_is_no_longer_wanted_is_removed_at_the_start() {
    let mut agent = Agent::start(Memory::default(), BTreeMap::from([(1, shape(1, &[1])), (2, shape(2, &[2]))]));
    let kernel = agent.committer.kernel().clone();
    let mut again = Agent::start(kernel, BTreeMap::from([(2, shape(2, &[2]))]));
    let mut fresh = Agent::start(Memory::default(), BTreeMap::from([(2, shape(2, &[2]))]));
    assert_eq!(again.holds(), fresh.holds());
}

#[test]
fn a_rejected_destination_is_set_aside_and_the_rest_goes_on() {
    let culprit = Element::Service(dest("10.96.0.2", 80), Chain::Pick(1));
    let kernel = Memory::refusing(culprit);
    let shapes = (1..=9).map(|number| (number, shape(number, &[number]))).collect();
    let mut agent = Agent::start(kernel, shapes);
    let held = agent.holds();
    assert!(!held.iter().any(|element| element.dest() == Some(dest("10.96.0.2", 80))));
    for number in [1, 3, 9] {
        assert!(held.contains(&Element::Service(dest(&format!("10.96.0.{number}"), 80), Chain::Pick(1))));
    }
    assert!(agent.committer.is_behind());

    let reads = agent.committer.kernel().commits.len();
    agent.set(shape(1, &[1, 7]));
    assert_eq!(agent.committer.kernel().commits.len() - reads, 2, "a known culprit does not disturb later commits");

    agent.committer.kernel().refuses.clear();
    agent.committer.distrust();
    agent.commit(Delta::default());
    assert!(agent.holds().contains(&culprit));
    assert!(!agent.committer.is_behind());
}

#[test]
fn a_culprit_is_reported_once() {
    let culprit = Element::Service(dest("10.96.0.2", 80), Chain::Pick(1));
    let mut committer = Committer::new(Memory::refusing(culprit), layouts());
    let mut planner = Planner::default();
    let mut delta = statics();
    let (service, slices) = (shape(2, &[1]).service(), shape(2, &[1]).slices());
    planner.update(&service.key, Some(&service), &slices.iter().collect::<Vec<_>>(), &context(), &mut delta);
    let rejected = |committed: Committed| committed.families.into_iter().flat_map(|family| family.rejected).collect::<Vec<_>>();
    let first = rejected(committer.commit(delta));
    assert_eq!(first.iter().map(|one| one.what).collect::<Vec<_>>(), vec![Part::Dest(dest("10.96.0.2", 80))]);
    committer.distrust();
    assert_eq!(rejected(committer.commit(Delta::default())), vec![]);
}

#[test]
fn a_culprit_in_another_layout_leaves_the_old_table_in_force_until_one_batch_replaces_it() {
    let shapes: BTreeMap<u8, Shape> = (1..=9).map(|number| (number, shape(number, &[number]))).collect();
    let mut agent = Agent::start(Memory::default(), shapes);
    let before = agent.holds();
    let culprits = [2, 7].map(|number| Element::Service(dest(&format!("10.96.0.{number}"), 80), Chain::Pick(1)));
    agent.committer.kernel().refuses.extend(culprits);
    agent.committer.kernel().commits.clear();
    agent.lay_out(0x8000);
    let commits = agent.committer.kernel().commits.clone();
    assert_eq!(commits.iter().map(|batch| batch.rebuild).collect::<Vec<_>>(), [true, true], "one batch a family: {commits:#?}");
    let dests = culprits.map(|culprit| culprit.dest());
    let expected: Vec<Element> = before.into_iter().filter(|element| !dests.contains(&element.dest())).collect();
    assert_eq!(agent.holds(), expected);
    assert!(agent.committer.is_behind(), "the culprits are still wanted");
}

#[test]
fn a_new_table_that_is_refused_whatever_it_holds_leaves_the_old_one() {
    let mut agent = Agent::start(Memory::default(), BTreeMap::from([(1, shape(1, &[1]))]));
    let before = agent.holds();
    agent.committer.kernel().refuses_rebuild = true;
    layouts().into_iter().for_each(|layout| agent.committer.set_layout(Layout { masquerade_mark: 0x8000, ..layout }));
    let reads = agent.committer.kernel().reads;
    let committed = agent.commit(Delta::default());
    assert!(committed.families.iter().all(|family| family.error.is_some() && family.rejected.is_empty()), "{committed:?}");
    assert_eq!(agent.committer.kernel().reads - reads, 2, "what was just refused is not tried again at once");
    assert_eq!(agent.holds(), before);
}

#[test]
fn what_a_stranger_does_is_noticed_while_the_kernel_refuses_something_else() {
    let culprit = Element::Service(dest("10.96.0.2", 80), Chain::Pick(1));
    let shapes = (1..=4).map(|number| (number, shape(number, &[number]))).collect();
    let mut agent = Agent::start(Memory::refusing(culprit), shapes);
    let disturbed = |agent: &mut Agent| {
        agent.committer.distrust();
        let committed = agent.commit(Delta::default());
        committed.families.iter().map(|outcome| outcome.disturbed).collect::<Vec<_>>()
    };
    let before = agent.holds();
    assert_eq!(disturbed(&mut agent), [false, false], "what is refused is nobody's doing");
    let edited = Element::Service(dest("10.96.0.3", 80), Chain::Pick(1));
    assert!(agent.committer.kernel().remove(Family::V4, &edited));
    assert_eq!(disturbed(&mut agent), [true, false]);
    assert_eq!(agent.holds(), before);
    agent.committer.kernel().flush(Family::V6);
    assert_eq!(disturbed(&mut agent), [false, true]);
    assert_eq!(agent.holds(), before);
}

#[test]
fn rules_that_a_stranger_changed_while_no_agent_ran_are_put_right_and_told_at_the_next_start() {
    let mut agent = Agent::start(Memory::default(), BTreeMap::from([(1, shape(1, &[1, 2]))]));
    let mut kernel = agent.committer.kernel().clone();
    kernel.edit(Family::V6);
    let mut next = Committer::new(kernel, layouts());
    let mut delta = statics();
    agent.planner = Planner::default();
    agent.plan(1, &mut delta);
    let committed = next.commit(delta);
    let told: Vec<_> = committed.families.iter().map(|outcome| (outcome.disturbed, outcome.rebuilt.is_some())).collect();
    assert_eq!(told, [(false, false), (true, true)]);
    assert!(matches!(next.kernel().read(&layouts()[1]), Ok(Reading::Ours(_))));
}

#[test]
fn a_network_takes_the_place_of_another_that_it_overlaps_though_the_kernel_refuses_something_else() {
    let [narrow, wide] = ["10.96.0.0/16", "10.96.0.0/12"].map(|network| Element::ServiceCidr(network.parse().unwrap()));
    let culprit = Element::Service(dest("10.96.0.2", 80), Chain::Pick(1));
    let mut agent = Agent::start(Memory::refusing(culprit), BTreeMap::from([(1, shape(1, &[1]))]));
    for (before, after) in [(narrow, wide), (wide, narrow)] {
        let mut delta = Delta { elements: [(before, false), (after, true)].into(), ..Delta::default() };
        agent.shapes.insert(2, shape(2, &[after.set() as u8]));
        agent.plan(2, &mut delta);
        let committed = agent.commit(delta);
        let refused: Vec<Part> = committed.families.iter().flat_map(|family| &family.rejected).map(|one| one.what).collect();
        assert!(refused.iter().all(|part| matches!(part, Part::Dest(_))), "{refused:?}");
        let held = agent.holds();
        assert!(held.contains(&after) && !held.contains(&before), "{held:?}");
        agent.committer.distrust();
    }
    let commits = &agent.committer.kernel().commits;
    let halves = commits.iter().filter(|batch| batch.elements.remove.contains(&narrow) != batch.elements.add.contains(&wide));
    assert_eq!(halves.filter(|batch| batch.elements.remove.contains(&narrow)).count(), 0, "never without the one and the other");
}

#[test]
fn an_element_that_leads_to_a_chain_which_finds_nothing_is_told() {
    let (to, pick) = (dest("198.51.100.1", 80), Chain::Pick(1));
    let endpoint = Element::Endpoint(to, 0, Backend { address: [10, 244, 0, 1].into(), port: 8080 });
    let outside = Element::Service(to, Chain::Outside);
    let outside_local = Element::Service(to, Chain::OutsideLocal);
    let list = Element::ClusterList(to, pick);
    let drop = Element::Unserved(to, Refusal::Drop);
    let check = |elements: &[Element]| leads_somewhere(elements.iter());
    check(&[outside, list, endpoint]).unwrap();
    assert!(check(&[outside]).unwrap_err().contains("outside"));
    assert!(check(&[outside, list]).unwrap_err().contains("0 of 1"));
    check(&[outside_local, list, endpoint, drop]).unwrap();
    assert!(check(&[outside_local, list, endpoint]).unwrap_err().contains("outside-local"));
    assert!(check(&[outside_local, drop]).unwrap_err().contains("outside-local"));

    let sticky = Shape { affinity: Some(60), external: 1, local_outside: true, ..shape(1, &[1]) };
    let mut agent = Agent::start(Memory::default(), BTreeMap::from([(1, sticky)]));
    let held = agent.committer.kernel().elements(Family::V4);
    check(&held).unwrap();
    // Whichever element is taken away that others go on to, it is missed.
    for gone in held.iter().filter(|element| matches!(element.set(), Set::Endpoints | Set::ClusterLists | Set::LocalLists)) {
        let rest: Vec<Element> = held.iter().filter(|element| *element != gone).copied().collect();
        check(&rest).expect_err(&format!("{gone:?}"));
    }
}

#[test]
fn a_flushed_table_is_made_anew() {
    let mut agent = Agent::start(Memory::default(), BTreeMap::from([(1, shape(1, &[1, 2]))]));
    let before = agent.holds();
    agent.committer.kernel().flush(Family::V4);
    agent.set(shape(3, &[3]));
    agent.shapes.remove(&3);
    agent.replan(3);
    assert_eq!(agent.holds(), before);
}

#[test]
fn a_table_of_another_layout_is_replaced_in_one_batch() {
    let mut agent = Agent::start(Memory::default(), BTreeMap::from([(1, shape(1, &[1, 2]))]));
    let mut kernel = agent.committer.kernel().clone();
    kernel.commits.clear();
    let others = layouts().map(|layout| Layout { masquerade_mark: 0x8000, ..layout });
    let mut committer = Committer::new(kernel, others);
    let mut planner = Planner::default();
    let mut delta = statics();
    let (service, slices) = (shape(1, &[1, 2]).service(), shape(1, &[1, 2]).slices());
    planner.update(&service.key, Some(&service), &slices.iter().collect::<Vec<_>>(), &context(), &mut delta);
    committer.commit(delta);
    assert_eq!(committer.kernel().commits.iter().map(|batch| batch.rebuild).collect::<Vec<_>>(), vec![true, true]);
    committer.kernel().check().unwrap();
}

#[test]
fn the_older_service_keeps_an_address_that_two_claim_and_the_younger_gets_it_later() {
    let with_external = |number| Shape { external: 7, ..shape(number, &[number]) };
    let mut agent = Agent::start(Memory::default(), BTreeMap::from([(2, with_external(2)), (1, with_external(1))]));
    let shared = dest("203.0.113.7", 80);
    let owner_of = |agent: &mut Agent| {
        let held = agent.holds();
        held.iter().find_map(|element| match element {
            Element::Endpoint(dest, 0, backend) if *dest == shared => Some(*backend),
            _ => None,
        })
    };
    assert_eq!(owner_of(&mut agent), Some(Backend { address: [10, 244, 0, 1].into(), port: 8080 }));
    agent.shapes.remove(&1);
    agent.replan(1);
    assert_eq!(owner_of(&mut agent), Some(Backend { address: [10, 244, 0, 2].into(), port: 8080 }));
}

#[test]
fn a_lost_claim_names_both_services_and_the_kind_of_address() {
    let mut planner = Planner::default();
    let mut conflicts = Vec::new();
    for number in [1, 2] {
        let service = Shape { external: 7, ..shape(number, &[number]) }.service();
        conflicts = planner.update(&service.key, Some(&service), &[], &context(), &mut Delta::default()).conflicts;
    }
    let found: Vec<_> = conflicts.iter().map(|one| (one.loser.to_string(), one.winner.to_string(), one.kind)).collect();
    let expected = |kind| ("default/svc-2".to_string(), "default/svc-1".to_string(), kind);
    assert_eq!(found, vec![expected(AddressKind::ExternalIp), expected(AddressKind::LoadBalancer)]);
}

#[test]
fn policies_refuse_or_drop_where_no_endpoint_can_be_used() {
    let here = |local| Shape { local_outside: true, local_inside: true, endpoints: vec![(1, true, local)], ..shape(1, &[]) };
    let nodeport = dest("192.0.2.10", 30001);
    let cluster_ip = dest("10.96.0.1", 80);
    let mut agent = Agent::start(Memory::default(), BTreeMap::from([(1, here(false))]));
    let held = agent.holds();
    assert!(held.contains(&Element::Unserved(cluster_ip, Refusal::Drop)), "{held:?}");
    assert!(held.contains(&Element::Unserved(nodeport, Refusal::Drop)));
    assert!(held.contains(&Element::Service(nodeport, Chain::OutsideLocal)), "pods and the node still reach every endpoint");
    agent.set(here(true));
    let held = agent.holds();
    assert!(held.contains(&Element::Service(cluster_ip, Chain::PickLocal(1))), "{held:?}");
    assert!(held.contains(&Element::LocalList(nodeport, Chain::PickLocal(1))));
    agent.set(Shape { endpoints: vec![], ..here(true) });
    let held = agent.holds();
    assert!(held.contains(&Element::Unserved(cluster_ip, Refusal::Reject)));
    assert!(held.contains(&Element::Unserved(nodeport, Refusal::Reject)));
}

fn sticky(number: u8, endpoints: &[u8]) -> Shape {
    Shape { affinity: Some(60), ..shape(number, endpoints) }
}

#[test]
fn a_client_goes_where_it_went_before_whichever_address_it_uses() {
    let mut agent = Agent::start(Memory::default(), BTreeMap::from([(1, sticky(1, &[1, 2, 3]))]));
    let clients: Vec<_> = (1..4).map(|client| agent.connect(1, false, client).unwrap()).collect();
    assert_ne!(clients[0], clients[1]);
    for again in 0..3u8 {
        // Two services have no clients in common, and endpoints that come do not disturb.
        agent.set(sticky(2, &[again]));
        agent.set(sticky(1, &[1, 2, 3, 4 + again]));
        assert_eq!((1..4).map(|client| agent.connect(1, false, client).unwrap()).collect::<Vec<_>>(), clients);
    }
    let held = agent.holds();
    let leads =
        |to| held.iter().find(|element| element.dest() == Some(to) && element.set() == Set::Sticky).and_then(Element::chain);
    let (inside, outside) = (leads(dest("10.96.0.1", 80)).unwrap(), leads(dest("192.0.2.10", 30001)).unwrap());
    assert_eq!(inside, outside, "ClusterIP and NodePort are remembered in the same place");
}

#[test]
fn an_endpoints_clients_are_forgotten_in_the_batch_that_removes_it() {
    let mut agent = Agent::start(Memory::default(), BTreeMap::from([(1, sticky(1, &[1, 2, 3]))]));
    let before: Vec<_> = (1..4).map(|client| agent.connect(1, false, client).unwrap()).collect();
    let batches = agent.committer.kernel().commits.len();
    let gone = before[0].address;
    let IpAddr::V4(address) = gone else { panic!("it is IPv4") };
    let rest: Vec<u8> = [1, 2, 3].into_iter().filter(|number| *number != address.octets()[3]).collect();
    agent.set(sticky(1, &rest));
    let usable = &agent.committer.kernel().commits[batches].usable;
    assert_eq!(usable.len(), 1, "{usable:?}");
    assert!(usable[0].endpoints.iter().all(|backend| backend.address != gone));
    let after = agent.committer.kernel().clients(Family::V4);
    let expected: Vec<_> = before.iter().copied().filter(|backend| backend.address != gone).collect();
    assert_eq!(after.values().copied().collect::<Vec<_>>(), expected);
}

#[test]
fn a_client_that_was_remembered_while_its_endpoint_went_is_forgotten_at_the_next_look() {
    let mut agent = Agent::start(Memory::default(), BTreeMap::from([(1, sticky(1, &[1, 2]))]));
    agent.connect(1, false, 1).unwrap();
    let kernel = agent.committer.kernel();
    let ((map, client), _) = kernel.clients(Family::V4).pop_first().unwrap();
    kernel.remember(Family::V4, map, client, Backend { address: [10, 244, 0, 77].into(), port: 8080 });
    agent.committer.distrust();
    agent.commit(Delta::default());
    assert!(agent.committer.kernel().clients(Family::V4).is_empty());
}

#[test]
fn clients_from_inside_and_from_outside_are_remembered_apart_under_a_policy_local() {
    let endpoints = vec![(1, true, true), (2, true, false)];
    let shape = Shape { local_outside: true, endpoints, ..sticky(1, &[]) };
    let mut agent = Agent::start(Memory::default(), BTreeMap::from([(1, shape)]));
    agent.connect(1, false, 1).unwrap();
    agent.connect(1, true, 1).unwrap();
    let lists: Vec<List> = agent.committer.kernel().clients(Family::V4).keys().map(|(map, _)| map.list).collect();
    assert_eq!(lists, [List::Cluster, List::Local]);
    agent.committer.distrust();
    agent.commit(Delta::default());
    assert_eq!(agent.committer.kernel().clients(Family::V4).len(), 2, "a comparison forgets nobody");
}

#[test]
fn a_restart_forgets_no_client_and_what_belongs_to_a_service_port_goes_with_it() {
    let mut agent = Agent::start(Memory::default(), BTreeMap::from([(1, sticky(1, &[1, 2, 3]))]));
    let clients: Vec<_> = (1..4).map(|client| agent.connect(1, false, client).unwrap()).collect();
    let mut kernel = agent.committer.kernel().clone();
    kernel.commits.clear();
    let mut again = Agent::start(kernel, agent.shapes);
    assert_eq!(again.committer.kernel().commits, vec![]);
    assert_eq!((1..4).map(|client| again.connect(1, false, client).unwrap()).collect::<Vec<_>>(), clients);
    let (chains, maps) = own_chains(&again.committer.kernel().made(Family::V4));
    assert_eq!((chains.len(), maps.len()), (2, 1), "{chains:?}");
    again.set(shape(1, &[1, 2, 3]));
    assert_eq!(own_chains(&again.committer.kernel().made(Family::V4)), (vec![], vec![]));
}

#[test]
fn each_service_port_takes_turns_of_its_own() {
    let robin = |number| Shape { balance: Balance::RoundRobin, ..shape(number, &[1, 2]) };
    let mut agent = Agent::start(Memory::default(), BTreeMap::from([(1, robin(1)), (2, robin(2))]));
    let held = agent.holds();
    let leads = |to, set| held.iter().find(|element| element.dest() == Some(to) && element.set() == set).and_then(Element::chain);
    let first = leads(dest("10.96.0.1", 80), Set::Services).unwrap();
    assert!(matches!(first, Chain::Own(_)), "{first}");
    assert_eq!(leads(dest("192.0.2.10", 30001), Set::ClusterLists), Some(first), "its addresses share the turns");
    assert_ne!(leads(dest("10.96.0.2", 80), Set::Services), Some(first));
    agent.set(shape(1, &[1, 2]));
    agent.set(shape(2, &[1, 2]));
    assert_eq!(own_chains(&agent.committer.kernel().made(Family::V4)), (vec![], vec![]));
}

#[test]
fn a_hash_table_keeps_its_slots_when_an_endpoint_goes() {
    let hash = |endpoints: &[u8]| Shape { balance: Balance::SourceHash, node_port: false, ..shape(1, endpoints) };
    let mut agent = Agent::start(Memory::default(), BTreeMap::from([(1, hash(&[1, 2, 3, 4]))]));
    let before = agent.committer.kernel().commits.len();
    agent.set(hash(&[1, 2, 4]));
    let batch = agent.committer.kernel().commits[before].clone();
    assert!(batch.made.is_empty() && batch.gone.is_empty(), "the table's size is the same: no rule changes");
    let moved = batch.elements.add.iter().filter(|element| element.set() == Set::Endpoints).count();
    assert!((250..300).contains(&moved), "{moved} of 1021 slots change hands");
}

fn any_shape() -> impl Strategy<Value = Shape> {
    let endpoints = proptest::collection::vec((0u8..12, any::<bool>(), any::<bool>()), 0..8);
    let affinity = proptest::option::of(1u32..3);
    let balance = prop_oneof![8 => Just(Balance::Random), 4 => Just(Balance::RoundRobin), 1 => Just(Balance::SourceHash)];
    (0u8..4, any::<(bool, bool, bool, bool)>(), 0u8..4, (affinity, balance), endpoints).prop_map(
        |(number, (node_port, local_outside, local_inside, ranges), external, (affinity, balance), mut endpoints)| {
            endpoints.sort();
            endpoints.dedup_by_key(|endpoint| endpoint.0);
            Shape { number, node_port, external, local_outside, local_inside, ranges, affinity, balance, endpoints }
        },
    )
}

#[derive(Clone, Debug)]
enum Step {
    Set(Shape),
    Connect { number: u8, inside: bool, client: u8 },
    Delete(u8),
    Restart,
    Relayout(u32),
    Flush,
}

#[test]
fn a_table_of_another_layout_takes_over_the_clients_whose_endpoint_is_still_one() {
    let sticky = |endpoints: &[u8]| Shape { affinity: Some(60), ..shape(1, endpoints) };
    let mut agent = Agent::start(Memory::default(), [(1, sticky(&[1, 2, 3]))].into());
    for client in 1..10 {
        agent.connect(1, true, client);
    }
    let before = agent.committer.kernel().clients(Family::V4);
    assert_eq!(before.len(), 9);
    agent.lay_out(0x8000);
    assert_eq!(agent.committer.kernel().clients(Family::V4), before);
    // Another agent finds the table, and one endpoint less.
    let kernel = agent.committer.kernel().clone();
    let mut next = Agent::start(kernel, [(1, sticky(&[1, 2]))].into());
    let after = next.committer.kernel().clients(Family::V4);
    let expected = before.into_iter().filter(|(_, backend)| backend.address != IpAddr::from([10, 244, 0, 3]));
    assert_eq!(after, expected.collect());
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => any_shape().prop_map(Step::Set),
        6 => (0u8..4, any::<bool>(), 1u8..4).prop_map(|(number, inside, client)| Step::Connect { number, inside, client }),
        2 => (0u8..4).prop_map(Step::Delete),
        1 => Just(Step::Restart),
        1 => (20u32..24).prop_map(Step::Relayout),
        1 => Just(Step::Flush),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever happened before, the kernel ends up with what a fresh start makes, and never holds a verdict to unfilled slots.
    #[test]
    fn every_history_ends_in_the_state_of_a_fresh_start(steps in proptest::collection::vec(any_step(), 1..25), limit in 0usize..40) {
        let mut agent = Agent::start(Memory::with_limit(limit), BTreeMap::new());
        for step in steps {
            match step {
                Step::Set(shape) => agent.set(shape),
                Step::Connect { number, inside, client } => drop(agent.connect(number, inside, client)),
                Step::Delete(number) => {
                    agent.shapes.remove(&number);
                    agent.replan(number);
                }
                Step::Restart => agent = Agent::start(agent.committer.kernel().clone(), agent.shapes),
                Step::Relayout(bit) => agent.lay_out(1 << bit),
                Step::Flush => {
                    agent.committer.kernel().flush(Family::V4);
                    agent.committer.distrust();
                    agent.commit(Delta::default());
                }
            }
        }
        let mut fresh = Agent::start(Memory::default(), agent.shapes.clone());
        prop_assert_eq!(without_slots(agent.holds()), without_slots(fresh.holds()));
        for family in Family::BOTH {
            let own = |agent: &mut Agent| own_chains(&agent.committer.kernel().made(family));
            prop_assert_eq!(own(&mut agent), own(&mut fresh));
        }
        prop_assert!(!agent.committer.is_behind());
    }
}
