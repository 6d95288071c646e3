//! The chart is upgraded, rolled back and taken away, under load.

use super::cluster::NODES;
use super::documents::run;
use super::eventually::eventually;
use super::load::{Load, assert_nothing_lost};
use super::shop;
use super::state::{Stage, State, await_no_agents};

const GUIDE: &str = "docs/operate.md";

pub fn there_and_back(stage: &Stage) {
    let shop = stage.with_waypost();
    let cluster = &stage.cluster;
    // Another name for the same image: what is tested is how one agent takes over from another.
    for node in NODES {
        let tag = ["ctr", "--namespace=k8s.io", "images", "tag", "--force", "docker.io/library/waypost:0.1.0"];
        cluster.node(node, &[&tag[..], &["docker.io/library/waypost:0.1.1"]].concat());
    }
    let load = Load::start(cluster, &shop);
    run(stage, GUIDE, "Upgrading");
    await_image(stage, "waypost:0.1.1");
    run(stage, GUIDE, "Rolling back");
    await_image(stage, "waypost:0.1.0");
    assert_nothing_lost(&load.end());
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
