//! The life of a service: made with kubectl, resolved, reached, scaled, deleted.

use super::agent::{Agent, await_answer, await_no_name};
use super::cluster::{Cluster, NODE_NAME};
use super::processes::eventually;
use super::stage::Stage;
use super::table;
use serde_json::json;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use waypost::lab::{self, Namespace, Outcome};
use waypost::model::Protocol;

/// One try; longer than any answer takes here, shorter than a person's patience.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Both families, two protocols; port names and target port names as people write them.
pub const WEB: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  ipFamilyPolicy: PreferDualStack
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: http}
  - {name: datagrams, port: 53, targetPort: 5353, protocol: UDP}
";

pub fn made_with_kubectl(cluster: &Cluster) {
    let mut stage = Stage::new(cluster, "made-with-kubectl");
    let _agent = Agent::start(&stage);
    stage.add_pod("hello", "hello-1");
    stage.kubectl(&["create", "service", "clusterip", "hello", "--tcp=80:8080"]);
    let address = stage.cluster_ip("hello");
    await_answer(stage.client.namespace(), &stage.dns_name("hello"), "A", &[&address.to_string()]);
    await_pods(stage.client.namespace(), address, 80, Protocol::Tcp, &["hello-1"]);
    // The node's own processes come the same way.
    await_pods(stage.node.namespace(), address, 80, Protocol::Tcp, &["hello-1"]);
}

pub fn scaled(cluster: &Cluster) {
    let mut stage = Stage::new(cluster, "scaled");
    let _agent = Agent::start(&stage);
    stage.apply(WEB);
    stage.add_pod("web", "web-1");
    let addresses = service_addresses(&stage, "web");
    assert_eq!(addresses.len(), 2, "the service is dual-stack");
    await_everywhere(&stage, &addresses, &["web-1"]);
    stage.add_pod("web", "web-2");
    stage.add_pod("web", "web-3");
    await_everywhere(&stage, &addresses, &["web-1", "web-2", "web-3"]);
    stage.remove_pod("web-1");
    await_everywhere(&stage, &addresses, &["web-2", "web-3"]);
    stage.remove_pod("web-2");
    stage.remove_pod("web-3");
    for address in &addresses {
        await_outcome(stage.client.namespace(), SocketAddr::new(*address, 80), Protocol::Tcp, &Outcome::Refused);
    }
    stage.add_pod("web", "web-4");
    await_everywhere(&stage, &addresses, &["web-4"]);
}

pub fn deleted(cluster: &Cluster) {
    let mut stage = Stage::new(cluster, "deleted");
    let _agent = Agent::start(&stage);
    stage.apply(WEB);
    stage.add_pod("web", "web-1");
    let addresses = service_addresses(&stage, "web");
    await_everywhere(&stage, &addresses, &["web-1"]);
    stage.kubectl(&["delete", "service", "web"]);
    await_no_name(stage.client.namespace(), &stage.dns_name("web"));
    await_not_in_kernel(&stage, &addresses);
    await_outcome(stage.client.namespace(), SocketAddr::new(addresses[0], 80), Protocol::Tcp, &Outcome::TimedOut);
}

pub fn headless_and_external(cluster: &Cluster) {
    let mut stage = Stage::new(cluster, "headless");
    let _agent = Agent::start(&stage);
    stage.kubectl(&["create", "service", "clusterip", "db", "--clusterip=None", "--tcp=5432:8080"]);
    stage.kubectl(&["create", "service", "externalname", "elsewhere", "--external-name=example.org"]);
    let first = stage.add_pod("db", "db-1").addresses()[0].to_string();
    await_answer(stage.client.namespace(), &stage.dns_name("db"), "A", &[&first]);
    let second = stage.add_pod("db", "db-2").addresses()[0].to_string();
    await_answer(stage.client.namespace(), &stage.dns_name("db"), "A", &[&first, &second]);
    await_answer(stage.client.namespace(), &stage.dns_name("elsewhere"), "CNAME", &["example.org."]);
}

pub fn node_port(cluster: &Cluster) {
    let mut stage = Stage::new(cluster, "node-port");
    let _agent = Agent::start(&stage);
    stage.add_pod("shop", "shop-1");
    stage.kubectl(&["create", "service", "nodeport", "shop", "--tcp=80:8080"]);
    let port: u16 = stage.service_field("shop", ".spec.ports[0].nodePort").parse().unwrap();
    let node = stage.node.addresses()[0];
    await_pods(stage.outside.namespace(), node, port, Protocol::Tcp, &["shop-1"]);
}

/// The Node's address becomes another one, and is joined by a second.
pub fn node_address_changes(cluster: &Cluster) {
    let mut stage = Stage::new(cluster, "node-address");
    let _agent = Agent::start(&stage);
    stage.add_pod("shop", "shop-1");
    stage.kubectl(&["create", "service", "nodeport", "shop", "--tcp=80:8080"]);
    let port: u16 = stage.service_field("shop", ".spec.ports[0].nodePort").parse().unwrap();
    let [before, after]: [IpAddr; 2] = ["192.0.2.10".parse().unwrap(), "192.0.2.77".parse().unwrap()];
    stage.node.add_address(after).unwrap();
    let outside = stage.outside.namespace();
    await_pods(outside, before, port, Protocol::Tcp, &["shop-1"]);
    await_outcome(outside, SocketAddr::new(after, port), Protocol::Tcp, &Outcome::Refused);
    // Addresses are merged by their type: others have to be taken away.
    let addresses = |list: &[IpAddr]| {
        let list: Vec<_> = list.iter().map(|address| json!({"type": "InternalIP", "address": address})).collect();
        let patch = json!([{"op": "replace", "path": "/status/addresses", "value": list}]).to_string();
        cluster.kubectl(&["patch", "node", NODE_NAME, "--subresource=status", "--type=json", "--patch", &patch]);
    };
    addresses(&[after]);
    await_pods(outside, after, port, Protocol::Tcp, &["shop-1"]);
    await_outcome(outside, SocketAddr::new(before, port), Protocol::Tcp, &Outcome::Refused);
    addresses(&[before, "2001:db8::10".parse().unwrap()]);
    await_pods(outside, before, port, Protocol::Tcp, &["shop-1"]);
    await_outcome(outside, SocketAddr::new(after, port), Protocol::Tcp, &Outcome::Refused);
}

/// The addresses of a service, first things first.
pub fn service_addresses(stage: &Stage, service: &str) -> Vec<IpAddr> {
    let list = stage.service_field(service, ".spec.clusterIPs[*]");
    list.split_whitespace().map(|address| address.parse().unwrap()).collect()
}

/// Waits until the web service's name, both families and both protocols lead to exactly these pods.
pub fn await_everywhere(stage: &Stage, addresses: &[IpAddr], pods: &[&str]) {
    for address in addresses {
        let kind = if address.is_ipv4() { "A" } else { "AAAA" };
        await_answer(stage.client.namespace(), &stage.dns_name("web"), kind, &[&address.to_string()]);
        await_pods(stage.client.namespace(), *address, 80, Protocol::Tcp, pods);
        await_pods(stage.client.namespace(), *address, 53, Protocol::Udp, pods);
    }
}

/// Waits until connections are answered by each of these pods, and by no other in 8 tries a pod.
pub fn await_pods(from: &Namespace, address: IpAddr, port: u16, protocol: Protocol, pods: &[&str]) {
    let expected: BTreeSet<_> = pods.iter().map(|pod| pod.to_string()).collect();
    let target = SocketAddr::new(address, port);
    eventually(&format!("{protocol} {target} leads to {pods:?}"), || {
        let tries = (0..8 * pods.len()).map(|_| lab::connect(from, protocol, target, TIMEOUT));
        let by: Result<BTreeSet<_>, _> =
            tries.map(|outcome| outcome.by().map(str::to_string).ok_or(outcome.to_string())).collect();
        match by? {
            by if by == expected => Ok(()),
            by => Err(format!("{by:?} answered")),
        }
    });
}

/// Waits until a try ends like this.
pub fn await_outcome(from: &Namespace, target: SocketAddr, protocol: Protocol, expected: &Outcome) {
    eventually(&format!("{protocol} {target} is {expected}"), || match lab::connect(from, protocol, target, TIMEOUT) {
        outcome if outcome == *expected => Ok(()),
        outcome => Err(outcome.to_string()),
    });
}

/// Waits until the kernel knows no destination with one of these addresses.
pub fn await_not_in_kernel(stage: &Stage, addresses: &[IpAddr]) {
    eventually(&format!("{addresses:?} are gone from the kernel"), || {
        let node = stage.node.namespace();
        let keys = ["services", "endpoints"].into_iter().flat_map(|name| table::map(node, name).into_keys());
        let left: Vec<_> = keys.filter(|key| addresses.iter().any(|address| key.starts_with(&format!("{address} . ")))).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}
