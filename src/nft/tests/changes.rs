//! What a change of a Service makes of the table.

use super::*;
use crate::model::AddressKind;
use crate::proxy::{Refusal, Set};

#[test]
fn one_endpoint_less_touches_few_elements() {
    let mut agent = Agent::start(Memory::default(), BTreeMap::from([(1, shape(1, &[1, 2, 3]))]));
    let before = agent.committer.kernel().commits.len();
    agent.set(shape(1, &[1, 3]));
    let commits = agent.committer.kernel().commits[before..].to_vec();
    assert_eq!(commits.len(), 2, "one for each family: {commits:?}");
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
