//! A node with pods for one test, and a namespace of the API server with its name.

use super::cluster::{API_PORT, Cluster, NODE_NAME};
use super::relay::Relay;
use k8s_openapi::api::core::v1::Pod as PodObject;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use waypost::lab::{Namespace, Node, Pod, Serve};

/// Where the agent serves DNS on the node.
pub const DNS_ADDRESS: &str = "169.254.20.10";

/// No two pods ever have the same address, so that nothing of an earlier test can be taken for this one's.
static PODS_SO_FAR: AtomicU16 = AtomicU16::new(0);

/// A node with pods.
pub struct Stage<'a> {
    /// The control plane.
    pub cluster: &'a Cluster,
    /// The node.
    pub node: Node,
    /// The namespace of the API server that the test has for itself.
    pub name: String,
    /// The node's way to the API server.
    pub relay: Relay,
    /// A pod that serves nothing and belongs to no service.
    pub client: Pod,
    /// A host outside the cluster, and the node's default gateway.
    pub outside: Pod,
    pods: BTreeMap<String, Pod>,
}

impl<'a> Stage<'a> {
    /// An empty node, joined to the API server.
    pub fn new(cluster: &'a Cluster, name: &str) -> Stage<'a> {
        cluster.kubectl(&["create", "namespace", name]);
        let addresses: [IpAddr; 2] = ["192.0.2.10".parse().unwrap(), "2001:db8::10".parse().unwrap()];
        let node = Node::new(&addresses).unwrap();
        let relay = relay_into(cluster, node.namespace());
        let client = node.pod("client", &next_addresses()).unwrap();
        let outside = node.pod("outside", &["198.51.100.7".parse().unwrap(), "2001:db8:1::7".parse().unwrap()]).unwrap();
        node.set_gateway(&outside).unwrap();
        Stage { cluster, node, name: name.to_string(), relay, client, outside, pods: BTreeMap::new() }
    }

    /// Starts a pod with the label `app: <app>`, serving HTTP on port 8080 and UDP on 5353, and tells the API server that it is ready.
    pub fn add_pod(&mut self, app: &str, name: &str) -> &Pod {
        let pod = self.node.pod(name, &next_addresses()).unwrap();
        pod.serve(Serve::Http, 8080).unwrap();
        pod.serve(Serve::Udp, 5353).unwrap();
        self.announce(&pod, app);
        self.pods.entry(name.to_string()).or_insert(pod)
    }

    /// Another namespace's way to the API server.
    pub fn relay_into(&self, namespace: &Namespace) -> Relay {
        relay_into(self.cluster, namespace)
    }

    /// Tells the API server about a pod with the label `app: <app>`, as scheduler and kubelet would.
    pub fn announce(&self, pod: &Pod, app: &str) {
        self.announce_in(pod, &self.name, &[("app", app)]);
    }

    /// Tells the API server about a pod in any of its namespaces.
    pub fn announce_in(&self, pod: &Pod, namespace: &str, labels: &[(&str, &str)]) {
        let labels: BTreeMap<_, _> = labels.iter().copied().collect();
        self.announce_at(pod.name(), namespace, &json!({ "labels": labels }), pod.addresses());
    }

    /// Tells the API server about a pod with these labels and annotations, at these addresses.
    pub fn announce_at(&self, name: &str, namespace: &str, metadata: &Value, addresses: &[IpAddr]) {
        let objects = self.pod_objects(namespace);
        let object: PodObject = serde_json::from_value(json!({
            "metadata": { "name": name, "labels": metadata["labels"], "annotations": metadata["annotations"] },
            "spec": {
                "nodeName": NODE_NAME,
                "containers": [{ "name": "main", "image": "none", "ports": [
                    { "name": "http", "containerPort": 8080 },
                    { "name": "datagrams", "containerPort": 5353, "protocol": "UDP" },
                ] }],
            },
        }))
        .unwrap();
        let all: Vec<_> = addresses.iter().map(|address| json!({ "ip": address })).collect();
        let status = json!({ "status": {
            "phase": "Running",
            "podIP": addresses[0],
            "podIPs": all,
            "conditions": [{ "type": "Ready", "status": "True" }],
            "containerStatuses": [
                { "name": "main", "ready": true, "restartCount": 0, "image": "none", "imageID": "none", "state": { "running": {} } },
            ],
        } });
        self.cluster.runtime().block_on(async {
            objects.create(&PostParams::default(), &object).await.unwrap();
            objects.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
        });
    }

    /// The first address of a pod.
    pub fn pod_address(&self, name: &str) -> IpAddr {
        self.pods.get(name).unwrap_or_else(|| panic!("there is no pod {name}")).addresses()[0]
    }

    /// Ends a pod and removes its object.
    pub fn remove_pod(&mut self, name: &str) {
        // No kubelet is there to confirm the end of a grace period.
        let now = DeleteParams::default().grace_period(0);
        self.cluster.runtime().block_on(self.pod_objects(&self.name).delete(name, &now)).unwrap();
        self.pods.remove(name).unwrap_or_else(|| panic!("there is no pod {name}")).kill();
    }

    /// Runs kubectl in the test's namespace.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        self.cluster.kubectl(&[&["--namespace", &self.name], arguments].concat())
    }

    /// Applies objects to the test's namespace.
    pub fn apply(&self, objects: &str) {
        self.cluster.apply_in(&self.name, objects);
    }

    /// A field of a service.
    pub fn service_field(&self, service: &str, path: &str) -> String {
        self.kubectl(&["get", "service", service, "--output", &format!("jsonpath={{{path}}}")])
    }

    /// The first address of a service.
    pub fn cluster_ip(&self, service: &str) -> IpAddr {
        self.service_field(service, ".spec.clusterIP").parse().unwrap()
    }

    /// The full name of a service in DNS.
    pub fn dns_name(&self, service: &str) -> String {
        format!("{service}.{}.svc.cluster.local", self.name)
    }

    fn pod_objects(&self, namespace: &str) -> Api<PodObject> {
        Api::namespaced(self.cluster.client(), namespace)
    }
}

impl AsRef<Namespace> for Stage<'_> {
    fn as_ref(&self) -> &Namespace {
        self.node.namespace()
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.cluster.kubectl(&["delete", "namespace", &self.name, "--wait=false"]);
            self.kubectl(&["delete", "services,pods", "--all", "--wait=false", "--force", "--grace-period=0"]);
        }
    }
}

/// An IPv4 and an IPv6 address of the pod networks.
pub fn next_addresses() -> [IpAddr; 2] {
    let number = PODS_SO_FAR.fetch_add(1, Ordering::Relaxed) + 2;
    let [high, low] = number.to_be_bytes();
    [IpAddr::from([10, 244, high, low]), Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, number).into()]
}

/// A namespace's way to the API server.
pub fn relay_into(cluster: &Cluster, namespace: &Namespace) -> Relay {
    let listener = namespace.tcp_listener(SocketAddr::from(([127, 0, 0, 1], API_PORT))).unwrap();
    Relay::start(cluster.runtime().handle(), listener, API_PORT)
}
