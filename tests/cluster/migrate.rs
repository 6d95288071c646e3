//! A cluster with the stock kube-proxy and CoreDNS is moved to Waypost as docs/migrate.md says, and back, under load.

use super::cluster::NODES;
use super::documents::{run, run_for};
use super::eventually::eventually;
use super::load::{Load, assert_lost_at_most, assert_nothing_lost};
use super::shop::{self, Shop};
use super::state::{Stage, State};
use std::fs;
use std::path::Path;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const GUIDE: &str = "docs/migrate.md";

pub fn in_and_back(stage: &Stage) {
    stage.bring_to(State::Stock);
    let cluster = &stage.cluster;
    let shop = Shop::open(cluster);
    let service = || cluster.get(&["--namespace=kube-system", "service", "kube-dns"])["metadata"]["uid"].clone();
    let before = service();

    takes_over_configurations(stage);
    stage.leave_to(|| {
        let load = Load::start(cluster, &shop);
        run(stage, GUIDE, "Before the first node");
        for node in NODES {
            run_for(stage, GUIDE, "Each node", node);
            let tables = cluster.node(node, &["nft", "list", "tables"]);
            assert!(tables.contains("waypost-dns-") && !tables.contains("kube-proxy"), "{tables}");
        }
        run(stage, GUIDE, "After the last node");
        assert_eq!(service(), before, "the Service is the one that was there");
        assert_nothing_lost(&load.end());
        // Nothing of what was there before is needed any more.
        let pods = cluster.kubectl(&["--namespace=kube-system", "get", "pods", "--output=name"]);
        assert!(!pods.contains("kube-proxy"), "{pods}");
        eventually("CoreDNS has gone", || {
            let pods = cluster.kubectl(&["--namespace=kube-system", "get", "pods", "--output=name"]);
            if pods.contains("coredns") { Err(pods) } else { Ok(()) }
        });
        for node in NODES {
            shop::exec(cluster, "client", node, &["curl", "--silent", "--fail", "--max-time", "10", "http://web.shop/"]).unwrap();
        }

        let load = Load::start(cluster, &shop);
        run(stage, GUIDE, "Back to kube-proxy and CoreDNS");
        for node in NODES {
            run_for(stage, GUIDE, "Each node back", node);
            let left = cluster.node(node, &["sh", "-c", "nft list tables; ip address show lo"]);
            assert!(left.contains("kube-proxy") && !left.contains("waypost") && !left.contains(shop::DNS), "{left}");
        }
        run(stage, GUIDE, "At the end");
        // The document says why: a question under way while the address that it was asked from is removed.
        assert_lost_at_most(&load.end(), |report| usize::from(report.is_dns_of_a_node()));
        assert_eq!(service(), before, "the Service is the one that was there");
        State::Stock
    });
}

/// The commands write files where they are run.
fn takes_over_configurations(stage: &Stage) {
    let written = ["kube-proxy.yaml", "values.yaml", "coredns.yaml", "dns-values.yaml"].map(|name| Path::new(ROOT).join(name));
    run(stage, GUIDE, "kube-proxy's configuration");
    run(stage, GUIDE, "CoreDNS's configuration");
    let [_, values, _, dns_values] = &written;
    let values = [values, dns_values].map(|file| fs::read_to_string(file).expect("it was written"));
    written.iter().for_each(|file| fs::remove_file(file).expect("it was written"));
    assert!(values[0].contains("clusterCIDRs"), "{}", values[0]);
    assert!(values[1].contains("dns"), "{}", values[1]);
}
