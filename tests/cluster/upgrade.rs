//! The chart is upgraded, rolled back and taken away, under load.

use super::cluster::{NODES, finish};
use super::documents::run;
use super::eventually::eventually;
use super::load::{Load, assert_nothing_lost};
use super::shop;
use super::state::{Stage, State, await_no_agents};

const GUIDE: &str = "docs/operate.md";

pub fn there_and_back(stage: &Stage) {
    let shop = stage.with_waypost();
    let cluster = &stage.cluster;
    bring_next_version(stage);
    let is_served_by = |version: &str, mark: &str| {
        await_image(stage, &format!("waypost:{version}"));
        for node in NODES {
            let page = cluster.node(node, &["curl", "--silent", "--fail", "http://127.0.0.1:10249/version"]);
            assert_eq!(page, format!("waypost {version}\n"), "node{node}");
            let table = cluster.node(node, &["nft", "--terse", "list", "table", "ip", "waypost"]);
            assert!(
                table.contains(mark),
                "node{node}: the table of another layout: {}",
                table.lines().take(3).collect::<String>()
            );
        }
    };
    is_served_by("0.1.0", "mark 0x4000");
    let load = Load::start(cluster, &shop);
    run(stage, GUIDE, "Upgrading");
    is_served_by("0.1.1", "mark 0x8000");
    run(stage, GUIDE, "Rolling back");
    is_served_by("0.1.0", "mark 0x4000");
    assert_nothing_lost(&load.end());
}

/// Brings an image onto the nodes that is another version's in what matters to the one before: it says another version, and its tables have
/// other rules.
fn bring_next_version(stage: &Stage) {
    let mut build = stage.cluster.command("scripts/image");
    build.env("WAYPOST_VERSION", "0.1.1").args(["dev", "--env", "WAYPOST_MASQUERADE_BIT=15"]);
    finish(&mut build).unwrap_or_else(|error| panic!("{error}"));
    for node in NODES {
        stage.cluster.node(node, &["ctr", "--namespace=k8s.io", "images", "import", "target/image/waypost-0.1.1.tar"]);
    }
}

pub fn away_without_cleanup(stage: &Stage) {
    let shop = stage.with_waypost();
    let cluster = &stage.cluster;
    stage.leave_to(|| {
        let load = Load::of_services(cluster, &shop);
        cluster.helm(&["uninstall", "waypost", "--wait"]).unwrap();
        await_no_agents(cluster);
        for node in NODES {
            let left = traces(stage, node);
            assert!(left.contains("table ip waypost") && left.contains(shop::DNS), "what the document says: {left}");
            assert!(!left.contains("waypost-dns-"), "the switch goes with its agent: {left}");
        }
        cluster.script(&["install-waypost"]);
        assert_nothing_lost(&load.end());
        State::Waypost
    });
}

pub fn away_with_cleanup(stage: &Stage) {
    stage.with_waypost();
    stage.leave_to(|| {
        run(stage, GUIDE, "Taking it away");
        for node in NODES {
            let left = traces(stage, node);
            assert!(!left.contains("waypost") && !left.contains(shop::DNS) && !left.contains("169.254.20.10"), "{left}");
        }
        State::Bare
    });
}

/// Waits until every pod of Waypost has this image, and those that end have ended.
fn await_image(stage: &Stage, image: &str) {
    let wanted = ["--namespace=kube-system", "get", "pods", "--selector=app.kubernetes.io/name=waypost"];
    eventually(&format!("all have {image}"), || {
        let images = stage.cluster.kubectl(&[&wanted[..], &["--output=jsonpath={.items[*].spec.containers[*].image}"]].concat());
        if images.split(' ').all(|found| found == image) { Ok(()) } else { Err(images) }
    });
}

/// The tables of a node, and the addresses of its `lo`.
fn traces(stage: &Stage, node: u8) -> String {
    stage.cluster.node(node, &["sh", "-c", "nft list tables; ip address show lo"])
}
