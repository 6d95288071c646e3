//! What `waypost dig` asks, without its socket.

use crate::battery::cluster;
use crate::wire::upstream;
use std::sync::Arc;
use tokio::net::UdpSocket;
use waypost::config::{RunArgs, Surroundings, load};
use waypost::dns::chain::{Chain, Plan, plan::from_flags};
use waypost::dns::dig::{Desk, DigRequest};
use waypost::dns::metrics::Metrics;
use waypost::dns::trace::Step;

fn desk(upstreams: &str, registry: &prometheus::Registry) -> Desk {
    let flags = [("role", "dns"), ("dns-address", "127.0.0.1:5353"), ("node-name", "node"), ("dns-upstream", upstreams)];
    let (config, _) = load(&RunArgs::of(&flags), &Surroundings::default()).unwrap();
    let metrics = Arc::new(Metrics::new(registry).unwrap());
    let plan = Plan::new(from_flags(&config.dns), &config.dns, &metrics, None).unwrap();
    Desk { chain: Chain::new(plan), records: Arc::new(cluster()), metrics }
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_do_not_answer_are_named_and_so_are_names_for_which_there_is_no_time() {
    let sockets = [UdpSocket::bind("127.0.0.1:0").await.unwrap(), UdpSocket::bind("127.0.0.1:0").await.unwrap()];
    let servers = sockets.each_ref().map(|socket| socket.local_addr().unwrap().to_string());
    let desk = desk(&servers.join(","), &prometheus::Registry::new());
    let search = ["a", "b", "c", "d", "e"].map(|domain| format!("{domain}.example")).to_vec();
    let request = DigRequest { name: "www.example.org".into(), search, ..DigRequest::default() };
    let dug = desk.dig(&request).await.unwrap();
    assert!(!dug.attempts.is_empty() && dug.attempts.len() + dug.unasked.len() == 6, "{dug:#?}");
    assert_eq!(dug.unasked.last().map(String::as_str), Some("www.example.org."), "{dug:#?}");
    for attempt in &dug.attempts {
        assert_eq!(attempt.code, "SERVFAIL", "{attempt:#?}");
        let failed: Vec<&String> = attempt
            .steps
            .iter()
            .filter_map(|step| match step {
                Step::Upstream { server, outcome, .. } if outcome != "NOERROR" => Some(server),
                _ => None,
            })
            .collect();
        assert!(servers.iter().all(|server| failed.contains(&server)), "{attempt:#?}");
        assert!(attempt.steps.iter().any(|step| matches!(step, Step::Failed { why } if why.contains("no upstream server"))));
    }
}

#[tokio::test]
async fn what_people_ask_is_not_counted_among_the_questions_of_clients() {
    let registry = prometheus::Registry::new();
    let desk = desk("192.0.2.1", &registry);
    let request = DigRequest { name: "web.default.svc.cluster.local".into(), ..DigRequest::default() };
    assert_eq!(desk.dig(&request).await.unwrap().attempts[0].code, "NOERROR");
    let counted = ["coredns_dns_requests_total", "coredns_dns_responses_total", "coredns_dns_request_duration_seconds"];
    let families: Vec<String> = registry.gather().iter().map(|family| family.name().to_string()).collect();
    assert!(!counted.iter().any(|name| families.contains(&name.to_string())), "{families:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_people_ask_does_not_count_in_the_cache_and_what_they_make_an_upstream_server_do_does() {
    let registry = prometheus::Registry::new();
    let desk = desk(&upstream().await.to_string(), &registry);
    let request = DigRequest { name: "www.example.com".into(), ..DigRequest::default() };
    let mut from_cache = 0;
    for _ in 0..2 {
        let dug = desk.dig(&request).await.unwrap();
        assert_eq!(dug.attempts[0].code, "NOERROR");
        from_cache += dug.attempts[0].steps.iter().filter(|step| matches!(step, Step::Cache { .. })).count();
    }
    assert_eq!(from_cache, 1);
    let shown: Vec<String> = registry.gather().iter().map(|family| family.name().to_string()).collect();
    let has = |name: &str| shown.contains(&name.to_string());
    let of_clients = ["requests", "hits", "misses", "served_stale", "prefetch"].map(|what| format!("coredns_cache_{what}_total"));
    assert!(!of_clients.iter().any(|name| has(name)), "{shown:?}");
    assert!(has("coredns_proxy_request_duration_seconds"), "{shown:?}");
}
