//! What is timed, and what takes its time.

use super::*;
use std::time::SystemTime;

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_timed_until_its_names_are_served_unless_it_is_older_than_the_agent() {
    let agent = start(None);
    let triggered = |at, address: &str| match slice() {
        Update::Slice(slice) => {
            let endpoints = [Endpoint::at(address.parse().unwrap())].into();
            Update::Slice(Box::new(Slice { triggered: Some(at), endpoints, ..*slice }))
        }
        other => other,
    };
    let counted = |agent: &Agent| {
        let families = agent.dns_metrics.gather();
        let timed = families.iter().filter(|family| family.name() == "coredns_kubernetes_dns_programming_duration_seconds");
        let metrics: Vec<_> = timed.flat_map(|family| family.get_metric()).collect();
        metrics
            .iter()
            .map(|metric| (metric.get_label()[0].value().to_string(), metric.get_histogram().get_sample_count()))
            .collect::<Vec<_>>()
    };
    let old = triggered(std::time::SystemTime::UNIX_EPOCH, "10.244.0.2");
    for updates in [listing(Kind::Service, vec![web()]), listing(Kind::Slice, vec![old]), namespaces(), node()] {
        agent.send(updates).await;
    }
    agent.ready.clone().wait_for(|ready| *ready).await.unwrap();
    assert_eq!(counted(&agent), Vec::<(String, u64)>::new());
    agent.send([triggered(std::time::SystemTime::now(), "10.244.0.3")]).await;
    agent.until("the change is timed", |agent| counted(agent) == [("cluster_ip".to_string(), 1)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newly_ready_endpoint_gets_its_share_in_steps() {
    let agent = start(None);
    let Update::Service(mut slow) = web() else { panic!("it is a service") };
    slow.options.slow_start = Some(3);
    for updates in
        [listing(Kind::Service, vec![Update::Service(slow)]), listing(Kind::Slice, vec![slice()]), namespaces(), node()]
    {
        agent.send(updates).await;
    }
    agent.ready.clone().wait_for(|ready| *ready).await.unwrap();
    assert!(agent.holds(routed()), "at the agent's start everything counts as warmed up");
    let Update::Slice(mut more) = slice() else { panic!("it is a slice") };
    more.endpoints = ["10.244.0.2", "10.244.0.3"].map(|address| Endpoint::at(address.parse().unwrap())).into();
    agent.send([Update::Slice(more)]).await;
    let dest = Dest { address: "10.96.0.1".parse().unwrap(), protocol: Protocol::Tcp, port: 80 };
    agent.until("both have their share", |agent| agent.holds(Element::Service(dest, Chain::Pick(2)))).await;
    let added: Vec<Element> = agent.memory.lock().unwrap().commits.iter().flat_map(|batch| batch.elements.add.clone()).collect();
    assert!(added.contains(&Element::Service(dest, Chain::Pick(11))), "it began with one slot of eleven");
    let between = (12..20).any(|slots| added.contains(&Element::Service(dest, Chain::Pick(slots))));
    assert!(between, "and grew from there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_timed_until_it_is_in_the_kernel_unless_its_slice_is_headless() {
    let agent = start(None);
    for updates in [listing(Kind::Service, vec![web()]), listing(Kind::Slice, vec![]), namespaces(), node()] {
        agent.send(updates).await;
    }
    agent.ready.clone().wait_for(|ready| *ready).await.unwrap();
    let timed = |agent: &Agent| {
        let metric = agent.metric("kubeproxy_network_programming_duration_seconds", Family::V4);
        metric.get_histogram().get_sample_count()
    };
    let triggered = |headless: bool| match slice() {
        Update::Slice(slice) => Update::Slice(Box::new(Slice { triggered: Some(SystemTime::now()), headless, ..*slice })),
        other => other,
    };
    let changes = |agent: &Agent| {
        let families = agent.proxy_metrics.gather();
        let name = "kubeproxy_sync_proxy_rules_endpoint_changes_total";
        let metric = families.iter().find(|metric| metric.name() == name).expect("there is such a metric");
        metric.get_metric()[0].get_counter().get_value() as u64
    };
    agent.send([triggered(true)]).await;
    agent.until("it is taken in", |agent| agent.updates.capacity() == agent.updates.max_capacity()).await;
    assert!(!agent.holds(routed()), "kube-proxy does not look at such a slice");
    agent.send([triggered(false)]).await;
    agent.until("it is programmed", |agent| agent.holds(routed())).await;
    agent.until("and timed", |agent| timed(agent) > 0).await;
    assert_eq!((timed(&agent), changes(&agent)), (1, 1), "and what it does not look at is no change to it");
}
