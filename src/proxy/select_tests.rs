use super::*;
use crate::model::{Hints, ObjectKey, Protocol, SlicePort};
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

const HERE: Place<'static> = Place { node: "n1", zone: Some("a") };

fn endpoint(last: u8, node: &str, zones: &[&str], nodes: &[&str]) -> Endpoint {
    let names = |names: &[&str]| names.iter().map(|name| Name::from(*name)).collect();
    let hints = (!zones.is_empty() || !nodes.is_empty()).then(|| Arc::new(Hints { zones: names(zones), nodes: names(nodes) }));
    Endpoint { node: Some(node.into()), hints, ..Endpoint::at(IpAddr::from([10, 0, 0, last])) }
}

fn slice(endpoints: Vec<Endpoint>) -> Slice {
    Slice {
        key: ObjectKey::new("shop", "web-1"),
        service: ObjectKey::new("shop", "web"),
        family: Family::V4,
        ports: Box::new([SlicePort { name: "".into(), protocol: Protocol::Tcp, port: 8080 }]),
        endpoints: endpoints.into(),
        headless: false,
        weight: 1,
        triggered: None,
        details: None,
    }
}

fn port() -> ServicePort {
    ServicePort { name: "".into(), protocol: Protocol::Tcp, port: 80, node_port: 0 }
}

/// The last bytes of the chosen addresses.
fn lasts(backends: &[Backend]) -> Vec<u8> {
    let last = |backend: &Backend| match backend.address {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(address) => address.octets()[15],
    };
    backends.iter().map(last).collect()
}

fn chosen(endpoints: &[Endpoint]) -> Vec<u8> {
    lasts(&choose(&port(), Family::V4, &[&slice(endpoints.to_vec())], HERE).cluster)
}

#[test]
fn hints_for_zones_are_followed_when_every_ready_endpoint_has_one() {
    let near = endpoint(1, "n1", &["a"], &[]);
    let far = endpoint(2, "n2", &["b"], &[]);
    let both = endpoint(3, "n3", &["b", "a"], &[]);
    assert_eq!(chosen(&[near.clone(), far.clone(), both]), [1, 3]);
    let without = endpoint(4, "n4", &[], &[]);
    assert_eq!(chosen(&[near.clone(), far.clone(), without.clone()]), [1, 2, 4], "one without a hint, and none counts");
    let leaving = Endpoint { ready: false, terminating: true, ..without };
    assert_eq!(chosen(&[near.clone(), far.clone(), leaving]), [1], "only ready ones have to have one");
    assert_eq!(chosen(&[far.clone(), endpoint(5, "n5", &["c"], &[])]), [2, 5], "none is for this zone");
    let nowhere = Place { node: "n1", zone: None };
    let all = choose(&port(), Family::V4, &[&slice(vec![near, far])], nowhere).cluster;
    assert_eq!(lasts(&all), [1, 2], "a node without a zone is in no zone");
}

#[test]
fn hints_for_nodes_come_before_those_for_zones() {
    let here = endpoint(1, "n1", &["a"], &["n1"]);
    let beside = endpoint(2, "n2", &["a"], &["n2"]);
    let far = endpoint(3, "n3", &["b"], &["n3"]);
    assert_eq!(chosen(&[here.clone(), beside.clone(), far.clone()]), [1]);
    assert_eq!(chosen(&[beside.clone(), far.clone()]), [2], "none is for this node, so the zone decides");
    let without = endpoint(4, "n4", &["a"], &[]);
    assert_eq!(chosen(&[here, beside, far, without]), [1, 2, 4], "one has no hint for nodes, so the zone decides");
}

#[test]
fn neither_the_local_list_nor_the_last_resort_asks_for_hints() {
    let here_for_others = endpoint(1, "n1", &["b"], &[]);
    let there_for_us = endpoint(2, "n2", &["a"], &[]);
    let choice = choose(&port(), Family::V4, &[&slice(vec![here_for_others, there_for_us])], HERE);
    assert_eq!((lasts(&choice.cluster), lasts(&choice.local)), (vec![2], vec![1]));
    let leaving = |last, zone| Endpoint { ready: false, terminating: true, ..endpoint(last, "n2", &[zone], &[]) };
    assert_eq!(chosen(&[leaving(1, "a"), leaving(2, "b")]), [1, 2]);
}

#[test]
fn a_health_check_counts_addresses_of_ready_local_endpoints() {
    let second_port = SlicePort { name: "more".into(), protocol: Protocol::Tcp, port: 8081 };
    let leaving = Endpoint { ready: false, terminating: true, ..endpoint(3, "n1", &[], &[]) };
    let mut slice = slice(vec![endpoint(1, "n1", &["b"], &[]), endpoint(2, "n2", &[], &[]), leaving]);
    slice.ports = [&*slice.ports, &[second_port]].concat().into();
    assert_eq!(local_ready(Family::V4, &[&slice], "n1"), 1);
    assert_eq!(local_ready(Family::V6, &[&slice], "n1"), 0);
}

/// kube-proxy's CategorizeEndpoints, word for word: the other opinion.
fn categorized(endpoints: &[Endpoint]) -> (Vec<u8>, Vec<u8>) {
    let has = |names: &[Name], wanted: &str| names.iter().any(|name| &**name == wanted);
    let hints = |endpoint: &Endpoint| endpoint.hints.as_deref().cloned().unwrap_or_default();
    let ready: Vec<&Endpoint> = endpoints.iter().filter(|endpoint| endpoint.ready).collect();
    let all_have_nodes = ready.iter().all(|endpoint| !hints(endpoint).nodes.is_empty());
    let for_node = |endpoint: &&&Endpoint| has(&hints(endpoint).nodes, "n1");
    let all_have_zones = ready.iter().all(|endpoint| !hints(endpoint).zones.is_empty());
    let for_zone = |endpoint: &&&Endpoint| has(&hints(endpoint).zones, "a");
    let mut cluster: Vec<&Endpoint> = if all_have_nodes && ready.iter().any(|endpoint| for_node(&endpoint)) {
        ready.iter().filter(for_node).copied().collect()
    } else if all_have_zones && ready.iter().any(|endpoint| for_zone(&endpoint)) {
        ready.iter().filter(for_zone).copied().collect()
    } else {
        ready.clone()
    };
    let is_local = |endpoint: &&Endpoint| endpoint.node.as_deref() == Some("n1");
    let leaving: Vec<&Endpoint> = endpoints.iter().filter(|endpoint| endpoint.serving && endpoint.terminating).collect();
    if cluster.is_empty() {
        cluster = leaving.clone();
    }
    let mut local: Vec<&Endpoint> = ready.iter().copied().filter(is_local).collect();
    if local.is_empty() {
        local = leaving.into_iter().filter(is_local).collect();
    }
    let numbers = |endpoints: Vec<&Endpoint>| {
        let last = |endpoint: &Endpoint| match endpoint.address {
            IpAddr::V4(address) => Ipv4Addr::octets(&address)[3],
            IpAddr::V6(_) => 0,
        };
        endpoints.into_iter().map(last).collect()
    };
    (numbers(cluster), numbers(local))
}

const ZONES: &[&[&str]] = &[&[], &["a"], &["b"], &["a", "b"]];
const NODES: &[&[&str]] = &[&[], &["n1"], &["n2"]];

prop_compose! {
    fn any_endpoint()(
        (ready, serving, terminating) in any::<(bool, bool, bool)>(),
        node in prop::sample::select(&["n1", "n2"][..]),
        zones in prop::sample::select(ZONES),
        nodes in prop::sample::select(NODES),
    ) -> Endpoint {
        Endpoint { ready, serving, terminating, ..endpoint(0, node, zones, nodes) }
    }
}

/// Up to five endpoints, each with an address of its own.
fn any_endpoints() -> impl Strategy<Value = Vec<Endpoint>> {
    let number = |(last, one): (u8, Endpoint)| Endpoint { address: IpAddr::from([10, 0, 0, last]), ..one };
    proptest::collection::vec(any_endpoint(), 0..6).prop_map(move |endpoints| (1..).zip(endpoints).map(number).collect())
}

proptest! {
    #[test]
    fn every_choice_is_the_one_that_kube_proxy_makes(endpoints in any_endpoints()) {
        let choice = choose(&port(), Family::V4, &[&slice(endpoints.clone())], HERE);
        prop_assert_eq!((lasts(&choice.cluster), lasts(&choice.local)), categorized(&endpoints));
    }

    #[test]
    fn a_service_with_a_ready_endpoint_always_has_somebody_to_answer(endpoints in any_endpoints()) {
        let choice = choose(&port(), Family::V4, &[&slice(endpoints.clone())], HERE);
        prop_assert!(!choice.cluster.is_empty() || endpoints.iter().all(|endpoint| !endpoint.ready));
    }
}
