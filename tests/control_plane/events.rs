//! Events, with the chart's rights and a real API server's validation.

use super::agent::{Agent, WAYPOST, run_command};
use super::chart;
use super::cluster::{Cluster, NODE_NAME};
use super::kube_proxy;
use super::processes::{eventually, output};
use super::stage::Stage;
use super::table;
use serde_json::Value;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;

/// Two services with one address; the younger one loses it.
const CONFLICT: [&str; 2] = [
    "
apiVersion: v1
kind: Service
metadata: {name: older}
spec:
  externalIPs: [203.0.113.77]
  ports: [{name: http, port: 80}]
",
    "
apiVersion: v1
kind: Service
metadata: {name: younger}
spec:
  externalIPs: [203.0.113.77]
  ports: [{name: http, port: 80}]
",
];

pub fn arrive_and_repeat(cluster: &Cluster) {
    chart::install(cluster);
    let stage = Stage::new(cluster, "events");
    stage.apply(CONFLICT[0]);
    // Creation times have seconds; of two services of one second the first by name would win, which is the older one too.
    stage.apply(CONFLICT[1]);
    let _holder = stage.node.namespace().udp_socket(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 53))).unwrap();

    let mut agent = chart::start_agent(&stage);
    let conflict = await_event(&stage, &stage.name, "AddressConflict", "203.0.113.77", 1);
    assert_eq!(conflict["regarding"]["name"], "younger", "the loser has it: {conflict}");
    let note = conflict["note"].as_str().unwrap();
    assert!(note.contains("203.0.113.77:80/tcp") && note.contains("events/older"), "{note}");
    assert_eq!(conflict["reportingInstance"], NODE_NAME);
    assert!(stage.kubectl(&["describe", "service", "younger"]).contains("AddressConflict"), "kubectl describe shows it");
    let taken = await_event(&stage, "default", "DnsPortTaken", chart::KUBE_DNS, 1);
    assert!(taken["note"].as_str().unwrap().contains("control_plane"), "the holder, this test, is named: {taken}");
    assert!(cluster.kubectl(&["describe", "node", NODE_NAME]).contains("DnsPortTaken"), "kubectl describe shows it");

    // As docs/events.md says.
    let listed = cluster.kubectl(&["get", "events", "--all-namespaces", "--field-selector", "reportingComponent=waypost"]);
    assert!(listed.contains("AddressConflict") && listed.contains("DnsPortTaken"), "{listed}");
    // What another agent says again is counted on the node's Event, and changes nothing about that of the whole cluster.
    agent.process().kill();
    let _agent = chart::start_agent(&stage);
    await_event(&stage, "default", "DnsPortTaken", chart::KUBE_DNS, 2);
    let again = await_event(&stage, &stage.name, "AddressConflict", "203.0.113.77", 1);
    assert_eq!(again["metadata"]["resourceVersion"], conflict["metadata"]["resourceVersion"]);
    chart::uninstall(cluster);
}

/// Each annotation with a value that it cannot have, one that is misspelt, and one of a slice.
const ANNOTATED: &str = "
apiVersion: v1
kind: Service
metadata:
  name: annotated
  annotations:
    waypost.dev/balance: fastest
    waypost.dev/slow-start: soon
    waypost.dev/allowed-sources: 203.0.113.0/24, everybody
    waypost.dev/denied-sources: the bad ones
    waypost.dev/expose-on-nodes: edge in zone
    waypost.dev/balancing: round-robin
spec:
  selector: {app: annotated}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: annotated-by-hand
  labels: {kubernetes.io/service-name: annotated}
  annotations: {waypost.dev/weight: heavy}
addressType: IPv4
endpoints: [{addresses: [10.244.200.9]}]
ports: [{name: http, port: 8080}]
";

pub fn invalid_annotations(cluster: &Cluster) {
    let stage = Stage::new(cluster, "annotations");
    stage.apply(ANNOTATED);
    let _agent = Agent::start(&stage);
    let told = |name: &str, value: &str, kind: &str, object: &str| {
        let event = await_event(&stage, &stage.name, "InvalidAnnotation", &format!("waypost.dev/{name} "), 1);
        let about = (&event["regarding"]["kind"], &event["regarding"]["name"], &event["type"]);
        assert_eq!(about, (&kind.into(), &object.into(), &"Warning".into()), "{event}");
        assert!(event["note"].as_str().is_some_and(|note| note.contains(value)), "{event}");
    };
    for (name, value) in [
        ("balance", "random, round-robin or source-hash"),
        ("slow-start", "a number of seconds from 1 to 3600"),
        ("allowed-sources", "what cannot be read of it allows nobody"),
        ("denied-sources", "nobody may connect"),
        ("expose-on-nodes", "no node exposes the Service"),
        ("balancing", "there is no such annotation"),
    ] {
        told(name, value, "Service", "annotated");
    }
    told("weight", "a whole number from 1 to 100", "EndpointSlice", "annotated-by-hand");
    let described = stage.kubectl(&["describe", "service", "annotated"]);
    assert_eq!(described.matches("InvalidAnnotation").count(), 6, "kubectl describe shows them: {described}");
    // Another wrong value is told as well, and a right one is obeyed.
    stage.kubectl(&[
        "annotate",
        "service",
        "annotated",
        "--overwrite",
        "waypost.dev/balance=quickest",
        "waypost.dev/denied-sources-",
    ]);
    await_event(&stage, &stage.name, "InvalidAnnotation", "quickest", 1);
    stage.kubectl(&["annotate", "service", "annotated", "--overwrite", "waypost.dev/balance=source-hash"]);
    let start = format!("{} . ", stage.cluster_ip("annotated"));
    eventually("it is balanced so", || {
        let services = table::map(stage.node.namespace(), "services");
        let chain = services.iter().find(|(key, _)| key.starts_with(&start)).map(|(_, chain)| chain);
        if chain.is_some_and(|chain| chain.contains("hash-")) { Ok(()) } else { Err(format!("{chain:?}")) }
    });
}

/// The stock kube-proxy in nftables mode: running beside the agent, then stopped with its tables left, then cleaned up after.
pub fn kube_proxy_left_over(cluster: &Cluster) {
    let stage = Stage::new(cluster, "leftover");
    let mut kube_proxy = kube_proxy::start_on(&stage, "leftover-kube-proxy");
    let mut agent = Agent::start_command(&stage, run_command(&cluster.kubeconfig()).args(OTHER_PORTS));
    await_event(&stage, "default", "KubeProxyFound", "it runs here", 1);
    for family in ["ip", "ip6"] {
        await_event(&stage, "default", "KubeProxyFound", &format!("its table {family} kube-proxy is here"), 1);
    }
    let clean_up = || stage.node.namespace().output(Command::new(WAYPOST).args(["cleanup", "--kube-proxy"])).unwrap();
    let refused = clean_up();
    assert!(!refused.status.success(), "it would make everything anew: {refused:?}");
    agent.process().kill();

    kube_proxy.terminate();
    let cleaned = clean_up();
    assert!(cleaned.status.success(), "{cleaned:?}");
    let tables = output(stage.node.namespace(), Command::new("nft").args(["list", "tables"]));
    assert!(!tables.contains("kube-proxy") && tables.contains("waypost"), "{tables}");
}

/// A table of somebody else, which translates before the agent does, and one that translates after it.
pub fn foreign_translation(cluster: &Cluster) {
    let stage = Stage::new(cluster, "foreign");
    for (name, priority) in [("early", "-150"), ("late", "-90")] {
        let chain = format!("{{ type nat hook prerouting priority {priority}; }}");
        output(stage.node.namespace(), Command::new("nft").args(["add", "table", "ip", name]));
        output(stage.node.namespace(), Command::new("nft").args(["add", "chain", "ip", name, "pre", &chain]));
    }
    let _agent = Agent::start_command(&stage, &mut run_command(&cluster.kubeconfig()));
    let event = await_event(&stage, "default", "ForeignTranslation", "ip early pre (priority -150)", 1);
    assert_eq!((&event["regarding"]["kind"], &event["regarding"]["name"]), (&"Node".into(), &NODE_NAME.into()), "{event}");
    assert_eq!((&event["type"], &event["action"]), (&"Warning".into(), &"LookAround".into()), "{event}");
    let all = events(&stage, "default", "ForeignTranslation");
    assert_eq!(all.len(), 1, "whoever translates after the agent is nothing to it: {all:?}");
}

/// kube-proxy has the usual ones.
const OTHER_PORTS: [&str; 2] = ["--healthz-bind-address=127.0.0.1:10266", "--metrics-bind-address=127.0.0.1:10269"];

/// Waits until there is exactly one Event with this reason and this in its note, observed so many times.
pub fn await_event(stage: &Stage, namespace: &str, reason: &str, part: &str, times: u64) -> Value {
    eventually(&format!("an Event {reason}, {times} times"), || {
        let mut found = events(stage, namespace, reason);
        // Other tests have agents on a node of the same name.
        found.retain(|event| event["note"].as_str().is_some_and(|note| note.contains(part)));
        match &found[..] {
            [one] if one["series"]["count"].as_u64().unwrap_or(1) == times => Ok(one.clone()),
            other => Err(format!("{other:?}")),
        }
    })
}

/// The agents' Events in a namespace with this reason.
pub fn events(stage: &Stage, namespace: &str, reason: &str) -> Vec<Value> {
    let list = stage.cluster.kubectl(&["get", "events.events.k8s.io", "--namespace", namespace, "--output", "json"]);
    let list: Value = serde_json::from_str(&list).expect("kubectl prints JSON");
    let items = list["items"].as_array().expect("a list").iter();
    items.filter(|event| event["reason"] == reason && event["reportingController"] == "waypost").cloned().collect()
}
