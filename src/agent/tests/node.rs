//! What the Node object changes.

use super::*;
use crate::model::{Labels, Requirement, Selector};
use crate::proxy::Refusal;

fn of_node(addresses: &[&str], labels: &[(&str, &str)]) -> Update {
    let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
    let labels: Labels = labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    Update::Node(Node { addresses, eligible: true, labels, ..Node::default() })
}

fn node_port(address: &str) -> Element {
    Element::Service(Dest { address: address.parse().unwrap(), protocol: Protocol::Tcp, port: 30080 }, Chain::Outside)
}

async fn ready(service: Update) -> Agent {
    let agent = start(None);
    for updates in [listing(Kind::Service, vec![service]), listing(Kind::Slice, vec![slice()]), namespaces(), node()] {
        agent.send(updates).await;
    }
    agent.ready.clone().wait_for(|ready| *ready).await.unwrap();
    agent
}

#[tokio::test(flavor = "multi_thread")]
async fn nodeports_follow_the_addresses_of_the_node_object() {
    let Update::Service(mut service) = web() else { panic!("it is a service") };
    service.cluster_ips.push("fd00::1".parse().unwrap());
    let agent = ready(Update::Service(service)).await;
    assert!(agent.holds(node_port("192.0.2.10")), "primary is the default");
    agent.send([of_node(&["192.0.2.20", "2001:db8::20"], &[])]).await;
    let refused = |address: &str| {
        Element::Unserved(Dest { address: address.parse().unwrap(), protocol: Protocol::Tcp, port: 30080 }, Refusal::Reject)
    };
    agent.until("they answer on the new address", |agent| agent.holds(node_port("192.0.2.20"))).await;
    agent.until("and in the other family", |agent| agent.holds_in(Family::V6, refused("2001:db8::20"))).await;
    assert!(!agent.holds(node_port("192.0.2.10")), "and no more on the old one");
    agent.send([Update::NodeGone]).await;
    agent.until("without a Node they answer nowhere", |agent| !agent.holds(node_port("192.0.2.20"))).await;
    assert!(agent.holds(routed()), "the ClusterIP stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_labels_that_a_service_asks_for_have_it_planned_again() {
    let Update::Service(mut service) = web() else { panic!("it is a service") };
    let ssd = Requirement::In("disk".into(), Box::new(["ssd".into()]));
    service.options.exposed_on = Some(Selector(Box::new([ssd])));
    let agent = ready(Update::Service(service)).await;
    let commits = |agent: &Agent| {
        agent.metric("kubeproxy_sync_proxy_rules_duration_seconds", Family::V4).get_histogram().get_sample_count()
    };
    assert!(agent.holds(routed()) && !agent.holds(node_port("192.0.2.10")));
    let before = commits(&agent);
    agent.send([of_node(&["192.0.2.10"], &[("written-by", "another-program")])]).await;
    agent.until("it is taken in", |agent| agent.updates.capacity() == agent.updates.max_capacity()).await;
    agent.send([of_node(&["192.0.2.10"], &[("written-by", "another-program"), ("disk", "ssd")])]).await;
    agent.until("it is exposed", |agent| agent.holds(node_port("192.0.2.10"))).await;
    agent.until("the commit is over", |agent| commits(agent) > before).await;
    assert_eq!(commits(&agent), before + 1, "nothing was committed for the first change");
    agent.send([of_node(&["192.0.2.10"], &[("disk", "hdd")])]).await;
    agent.until("it is hidden", |agent| !agent.holds(node_port("192.0.2.10"))).await;
}
