//! What runs on the cluster for the tests: pods that answer and pods that ask on every node, and Services of every kind.

use super::cluster::Cluster;
use super::eventually::eventually;
use serde_json::Value;

/// The namespace of everything.
pub const NAMESPACE: &str = "shop";
/// Where kubelets tell pods to ask.
pub const DNS: &str = "10.96.0.10";
/// Where NodeLocal DNSCache answers besides, and the agents in its place.
pub const NODE_LOCAL_DNS: &str = "169.254.20.10";
/// Of the Service `web-node`, for TCP.
pub const NODE_PORT: u16 = 30080;
/// Of the Service `web-node`, for UDP.
pub const NODE_PORT_UDP: u16 = 30081;
/// What a load balancer's controller would have written into the Service `web-lb`.
pub const LOAD_BALANCER: &str = "203.0.113.50";

const OBJECTS: &str = include_str!("shop.yaml");

/// What the tests need to know of it.
pub struct Shop {
    /// Of the Service `web`.
    pub cluster_ip: String,
    /// Of the Service `web`, too.
    pub cluster_ip6: String,
}

impl Shop {
    /// Makes it, or finds it, and waits until its pods run.
    pub fn open(cluster: &Cluster) -> Shop {
        cluster.apply(OBJECTS);
        let status = format!(r#"{{"status": {{"loadBalancer": {{"ingress": [{{"ip": "{LOAD_BALANCER}"}}]}}}}}}"#);
        cluster.kubectl(&["--namespace", NAMESPACE, "patch", "service", "web-lb", "--subresource=status", "--patch", &status]);
        for set in ["web", "client", "host-client"] {
            let name = format!("daemonset/{set}");
            cluster.kubectl(&["--namespace", NAMESPACE, "rollout", "status", &name, "--timeout=120s"]);
        }
        let web = cluster.get(&["--namespace", NAMESPACE, "service", "web"]);
        let ip = |index: usize| web["spec"]["clusterIPs"][index].as_str().expect("the Service has both families").to_string();
        Shop { cluster_ip: ip(0), cluster_ip6: ip(1) }
    }
}

/// The name of this node's pod of a DaemonSet (`web`, `client`, `host-client`).
pub fn pod(cluster: &Cluster, set: &str, node: u8) -> String {
    let pod = pod_object(cluster, set, node);
    pod["metadata"]["name"].as_str().expect("a pod has a name").to_string()
}

/// The process id, on its node, of the client pod.
pub fn process_of_client(cluster: &Cluster, node: u8) -> u32 {
    // The API server may know a container that has ended already.
    eventually(&format!("the client's container runs on node{node}"), || {
        let pod = pod_object(cluster, "client", node);
        try_process_of(cluster, node, pod["status"]["containerStatuses"][0]["containerID"].as_str().expect("it has run"))
    })
}

/// The process id, on its node, of the container that the API server knows by this id.
pub fn process_of(cluster: &Cluster, node: u8, container: &str) -> u32 {
    try_process_of(cluster, node, container).unwrap_or_else(|error| panic!("{error}"))
}

fn try_process_of(cluster: &Cluster, node: u8, container: &str) -> Result<u32, String> {
    let container = container.trim_start_matches("containerd://");
    let tasks = cluster.node(node, &["ctr", "--namespace", "k8s.io", "tasks", "list"]);
    let task = tasks.lines().find_map(|line| line.strip_prefix(container)).ok_or_else(|| format!("{container} in\n{tasks}"))?;
    Ok(task.split_whitespace().next().and_then(|id| id.parse().ok()).expect("ctr prints process ids"))
}

fn pod_object(cluster: &Cluster, set: &str, node: u8) -> Value {
    let (label, field) = (format!("app={set}"), format!("spec.nodeName=node{node}"));
    eventually(&format!("{set} runs on node{node}"), || {
        let pods = cluster.get(&["--namespace", NAMESPACE, "pods", "--selector", &label, "--field-selector", &field]);
        let running = |pod: &&Value| {
            pod["status"]["containerStatuses"][0]["ready"] == true && pod["metadata"]["deletionTimestamp"].is_null()
        };
        pods["items"].as_array().and_then(|pods| pods.iter().find(running)).cloned().ok_or_else(|| pods.to_string())
    })
}

/// What a command prints in this node's pod of a DaemonSet; an error is what it said.
pub fn exec(cluster: &Cluster, set: &str, node: u8, command: &[&str]) -> Result<String, String> {
    let pod = pod(cluster, set, node);
    cluster.try_kubectl(&[&["--namespace", NAMESPACE, "exec", &pod, "--"], command].concat())
}

/// The address of a node.
pub fn address_of_node(node: u8) -> String {
    format!("192.0.2.{}", 10 + node)
}
