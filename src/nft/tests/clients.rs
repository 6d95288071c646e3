//! Who is remembered, whose turn it is, and what belongs to one service port.

use super::*;
use crate::proxy::{List, Set};

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

/// A packet on its way through the rules while a batch comes into force finds a chain of that batch empty.
#[test]
fn the_chain_of_another_count_is_there_before_anything_leads_to_it() {
    let mut agent = Agent::start(Memory::default(), BTreeMap::from([(1, sticky(1, &[1, 2, 3]))]));
    for endpoints in [&[1, 2, 3, 4][..], &[1, 2, 3]] {
        let before = agent.committer.kernel().commits.len();
        agent.set(sticky(1, endpoints));
        let commits = &agent.committer.kernel().commits[before..];
        let makes: Vec<&Batch> = commits.iter().filter(|batch| !batch.made.is_empty()).collect();
        assert!(!makes.is_empty() && makes.iter().all(|batch| batch.elements.is_empty()), "{commits:?}");
    }
    assert_eq!(agent.committer.kernel().made(Family::V4).chains.iter().filter(|chain| matches!(chain, Chain::Own(_))).count(), 1);
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
    let commits = &agent.committer.kernel().commits[batches..];
    let removes = |batch: &&Batch| batch.elements.remove.iter().any(|element| matches!(element, Element::Service(..)));
    let usable = &commits.iter().find(removes).unwrap().usable;
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
