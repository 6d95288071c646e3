//! A cluster with the stock kube-proxy and CoreDNS, and with NodeLocal DNSCache on some of its nodes, is moved to Waypost as docs/migrate.md says, and
//! back, under load.

use super::cluster::{Cluster, NODES};
use super::documents::{run, run_for};
use super::eventually::eventually;
use super::load::{Load, Report, assert_lost_at_most};
use super::shop::{self, Shop};
use super::state::{Stage, State};
use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const GUIDE: &str = "docs/migrate.md";
/// The nodes that have what behaves as NodeLocal DNSCache; the first one has none.
const CACHED: &[u8] = &[2, 3];

pub fn in_and_back(stage: &Stage) {
    stage.bring_to(State::Stock);
    let cluster = &stage.cluster;
    let shop = Shop::open(cluster);
    let service = || cluster.get(&["--namespace=kube-system", "service", "kube-dns"])["metadata"]["uid"].clone();
    let before = service();

    cluster.script(&["build-images"]);
    stage.leave_to(|| {
        cluster.script(&["install-node-local-dns", "node1"]);
        for node in NODES {
            assert_eq!(has_node_local_dns(cluster, node), CACHED.contains(&node), "node{node}");
        }
        let values = Imported::from(stage);
        let load = Load::with_node_local_dns(cluster, &shop, CACHED);
        run(stage, GUIDE, "Before the first node");
        run(stage, GUIDE, "Before the first node with NodeLocal DNSCache");
        for node in NODES {
            let heading = if CACHED.contains(&node) { "Each node with NodeLocal DNSCache" } else { "Each node" };
            run_for(stage, GUIDE, heading, node);
            let tables = cluster.node(node, &["nft", "list", "tables"]);
            assert!(tables.contains("waypost-dns-") && !tables.contains("kube-proxy"), "{tables}");
            assert!(!has_node_local_dns(cluster, node), "node{node}");
        }
        run(stage, GUIDE, "After the last node");
        let agents = cluster.get(&["--namespace=kube-system", "daemonset", "waypost-agent"]);
        let everywhere = serde_json::json!({ "kubernetes.io/os": "linux" });
        assert_eq!(agents["spec"]["template"]["spec"]["nodeSelector"], everywhere, "new nodes get an agent without the label");
        assert_eq!(service(), before, "the Service is the one that was there");
        assert_lost_at_most(&load.end(), in_the_caches_hand);
        values.are_obeyed(cluster);
        drop(values);
        // Nothing of what was there before is needed any more.
        let pods = cluster.kubectl(&["--namespace=kube-system", "get", "pods", "--output=name"]);
        assert!(!pods.contains("kube-proxy") && !pods.contains("node-local-dns"), "{pods}");
        eventually("CoreDNS has gone", || {
            let pods = cluster.kubectl(&["--namespace=kube-system", "get", "pods", "--output=name"]);
            if pods.contains("coredns") { Err(pods) } else { Ok(()) }
        });
        for node in NODES {
            shop::exec(cluster, "client", node, &["curl", "--silent", "--fail", "--max-time", "10", "http://web.shop/"]).unwrap();
        }

        // As one is that has joined since.
        cluster.kubectl(&["label", "node", "node3", "service-proxy-"]);
        let load = Load::with_node_local_dns(cluster, &shop, CACHED);
        run(stage, GUIDE, "Back to kube-proxy and CoreDNS");
        let agents = cluster.get(&["--namespace=kube-system", "daemonset", "waypost-agent"]);
        assert_eq!(agents["status"]["desiredNumberScheduled"], NODES.len(), "no node has lost its agent");
        for node in NODES {
            let heading = if CACHED.contains(&node) { "Each node back to NodeLocal DNSCache" } else { "Each node back" };
            run_for(stage, GUIDE, heading, node);
            let left = cluster.node(node, &["sh", "-c", "nft list tables; ip address show lo"]);
            assert!(left.contains("kube-proxy") && !left.contains("waypost") && !left.contains(shop::DNS), "{left}");
            assert_eq!(has_node_local_dns(cluster, node), CACHED.contains(&node), "node{node}");
        }
        run(stage, GUIDE, "At the end");
        // The document says why: a question under way while the address that it was asked from is removed.
        assert_lost_at_most(&load.end(), |report| usize::from(report.is_dns_of_a_node()));
        assert_eq!(service(), before, "the Service is the one that was there");
        run(stage, GUIDE, "When connections may be refused for a moment");
        run(stage, GUIDE, "At the end, with NodeLocal DNSCache");
        for name in ["kube-proxy", "node-local-dns"] {
            let selector =
                &cluster.get(&["--namespace=kube-system", "daemonset", name])["spec"]["template"]["spec"]["nodeSelector"];
            let labels = ["service-proxy", "node-dns"];
            assert!(labels.iter().all(|label| selector[label].is_null()), "nodes that join get {name}: {selector}");
        }
        cluster.script(&["remove-node-local-dns"]);
        State::Stock
    });
}

/// What the document says that can be lost: NodeLocal DNSCache takes with it what it has in hand.
fn in_the_caches_hand(report: &Report) -> usize {
    usize::from(report.is_dns() && CACHED.iter().any(|node| report.is_on_node(*node)))
}

/// Whether questions of this node go to a cache on it.
fn has_node_local_dns(cluster: &Cluster, node: u8) -> bool {
    let seen = cluster.node(node, &["sh", "-c", "nft list tables; ip -oneline link"]);
    let (rules, link) = (seen.contains("table ip nodelocaldns"), seen.contains(": nodelocaldns:"));
    assert_eq!(rules, link, "{seen}");
    rules
}

/// The values that were made of the configurations of kube-proxy and CoreDNS. The commands write files where they are run; they go with this.
struct Imported([PathBuf; 4]);

impl Imported {
    fn from(stage: &Stage) -> Imported {
        let imported = Imported(
            ["kube-proxy.yaml", "values.yaml", "coredns.yaml", "dns-values.yaml"].map(|name| Path::new(ROOT).join(name)),
        );
        run(stage, GUIDE, "kube-proxy's configuration");
        run(stage, GUIDE, "CoreDNS's configuration");
        imported
    }

    /// The agents and the DNS servers have been given both by helm: networks from kube-proxy's, zones from CoreDNS's.
    fn are_obeyed(&self, cluster: &Cluster) {
        for map in ["waypost-agent", "waypost-dns"] {
            let map = cluster.get(&["--namespace=kube-system", "configmap", map]);
            let config = map["data"]["waypost.yaml"].as_str().expect("the chart writes it");
            assert!(config.contains("dns-zones") && config.contains("max-concurrent: 1000"), "of the Corefile: {config}");
        }
        let table = cluster.node(1, &["nft", "list", "set", "ip", "waypost", "pod-cidrs"]);
        assert!(table.contains("10.244.0.0/16"), "kube-proxy's clusterCIDR: {table}");
    }
}

impl Drop for Imported {
    fn drop(&mut self) {
        for file in &self.0 {
            // One that was not written is not there.
            let _ = fs::remove_file(file);
        }
    }
}
