//! ServiceCIDR objects: more addresses for services while the cluster runs.

use super::agent::{Agent, WAYPOST};
use super::cluster::{Cluster, NODE_NAME, POD_CIDRS};
use super::processes::{eventually, output};
use super::services::await_pods;
use super::stage::Stage;
use std::process::Command;
use waypost::lab::Namespace;
use waypost::model::Protocol;

/// One lies within the other, which is an error to the kernel unless they are merged.
const MORE: &str = "
apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: {name: more}
spec: {cidrs: [10.99.0.0/16]}
---
apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: {name: more-again}
spec: {cidrs: [10.99.8.0/24, \"fd00:99::/112\"]}
";

pub fn follow_objects(cluster: &Cluster) {
    let mut stage = Stage::new(cluster, "service-cidrs");
    let mut command = Command::new(WAYPOST);
    command.arg("run").arg("--kubeconfig").arg(cluster.kubeconfig());
    command.args([
        format!("--node-name={NODE_NAME}"),
        format!("--cluster-cidr={POD_CIDRS}"),
        "--service-cidr=10.98.0.0/16".into(),
    ]);
    let agent = Agent::start_command(&stage, &mut command);
    agent.await_ready();
    // The API server has made an object of its own networks; the flag's are there besides.
    await_networks(stage.node.namespace(), "ip", &["10.96.0.0/16", "10.98.0.0/16"]);

    cluster.apply(MORE);
    await_networks(stage.node.namespace(), "ip", &["10.96.0.0/16", "10.98.0.0/15"]);
    await_networks(stage.node.namespace(), "ip6", &["fd00:96::/112", "fd00:99::/112"]);
    stage.add_pod("hello", "hello-1");
    stage.kubectl(&["create", "service", "clusterip", "hello", "--clusterip=10.99.8.8", "--tcp=80:8080"]);
    await_pods(stage.client.namespace(), stage.cluster_ip("hello"), 80, Protocol::Tcp, &["hello-1"]);

    cluster.kubectl(&["delete", "service", "hello", "--namespace", &stage.name]);
    cluster.kubectl(&["delete", "servicecidr", "more", "more-again"]);
    await_networks(stage.node.namespace(), "ip", &["10.96.0.0/16", "10.98.0.0/16"]);
}

/// Waits until the kernel's set holds these networks.
pub fn await_networks(node: &Namespace, family: &str, expected: &[&str]) {
    eventually(&format!("the {family} networks are {expected:?}"), || {
        let listing = output(node, Command::new("nft").args(["list", "set", family, "waypost", "service-cidrs"]));
        let inside =
            listing.split_once("elements = {").and_then(|(_, rest)| rest.split_once('}')).map_or("", |(inside, _)| inside);
        let found: Vec<&str> = inside.split(',').map(str::trim).filter(|network| !network.is_empty()).collect();
        if found == expected { Ok(()) } else { Err(listing) }
    });
}
