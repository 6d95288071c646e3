//! The chart on a cluster that has nothing for services and names, or that has the stock kube-proxy and CoreDNS, by the words of the documents.

use super::cluster::NODES;
use super::documents::run;
use super::shop::{self, Shop};
use super::state::{Stage, State};
use serde_json::Value;

const GUIDE: &str = "docs/install.md";

/// Every object that the chart made runs as it says: nothing was patched, nothing was weakened.
pub fn ready_as_the_chart_says(stage: &Stage) {
    stage.bring_to(State::Bare);
    stage.leave_to(|| {
        run(stage, GUIDE, "The image");
        run(stage, GUIDE, "A new cluster by kubeadm");
        State::Waypost
    });
    run(stage, GUIDE, "See it work");
    run(stage, "docs/security.md", "What it may do");
    run(stage, "docs/security.md", "Which ports are open");
    let cluster = &stage.cluster;
    let agents = cluster.get(&["--namespace=kube-system", "daemonset", "waypost-agent"]);
    assert_eq!(agents["status"]["numberReady"], NODES.len(), "{agents}");
    let servers = cluster.get(&["--namespace=kube-system", "deployment", "waypost-dns"]);
    assert_eq!(servers["status"]["readyReplicas"], servers["spec"]["replicas"], "{servers}");

    let pods = cluster.get(&["--namespace=kube-system", "pods", "--selector=app.kubernetes.io/name=waypost"]);
    for pod in pods["items"].as_array().expect("a list") {
        let component = pod["metadata"]["labels"]["app.kubernetes.io/component"].as_str().expect("the chart labels its pods");
        let workload = if component == "agent" { &agents } else { &servers };
        let (wanted, spec) = (&workload["spec"]["template"]["spec"], &pod["spec"]);
        for field in ["hostNetwork", "serviceAccountName", "priorityClassName", "securityContext", "dnsPolicy"] {
            assert_eq!(spec[field], wanted[field], "{component}: {field}");
        }
        assert_eq!(spec["containers"][0]["securityContext"], wanted["containers"][0]["securityContext"], "{component}");
        assert_eq!(spec["containers"][0]["image"], wanted["containers"][0]["image"], "{component}");
        assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0, "{component}: it has not started at once: {pod}");
        assert_eq!(
            capabilities_of(stage, pod),
            if component == "agent" { AGENTS_MAY } else { 0 },
            "{component}: capabilities in effect"
        );
    }
}

/// By the README alone, word for word.
pub fn by_the_readme(stage: &Stage) {
    stage.bring_to(State::Stock);
    let cluster = &stage.cluster;
    Shop::open(cluster);
    stage.leave_to(|| {
        run(stage, "README.md", "Installing");
        for node in NODES {
            let tables = cluster.node(node, &["nft", "list", "tables"]);
            assert!(tables.contains("waypost-dns-") && !tables.contains("kube-proxy"), "{tables}");
            shop::exec(cluster, "client", node, &["curl", "--silent", "--fail", "--max-time", "10", "http://web.shop/"]).unwrap();
        }
        State::Waypost
    });
}

/// NET_BIND_SERVICE (10) and NET_ADMIN (12).
const AGENTS_MAY: u64 = 1 << 10 | 1 << 12;

/// What the kernel says that the pod's process may do.
fn capabilities_of(stage: &Stage, pod: &Value) -> u64 {
    let node = pod["spec"]["nodeName"].as_str().and_then(|name| name.strip_prefix("node")?.parse().ok()).expect("it has a node");
    let container = pod["status"]["containerStatuses"][0]["containerID"].as_str().expect("its container runs");
    let process = shop::process_of(&stage.cluster, node, container).to_string();
    let status = stage.cluster.node(node, &["cat", &format!("/proc/{process}/status")]);
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).expect("the kernel tells");
    u64::from_str_radix(effective.trim(), 16).expect("it is a number")
}
