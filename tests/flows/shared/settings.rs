//! How the node's agent is set, and kube-proxy in its place.

use std::path::{Path, PathBuf};

/// Settings that both programs know. Each has a world of its own.
#[derive(Debug)]
pub struct Settings {
    /// A name for messages and folders.
    pub name: &'static str,
    /// The name of the Node object that the node goes by.
    pub node: &'static str,
    /// By what pods are known.
    pub pods: Pods,
    /// Whether externalIPs are served.
    pub external_ips: bool,
    /// Whether all traffic to ClusterIPs is masqueraded.
    pub masquerade_all: bool,
    /// Where NodePorts answer, as the agent's flag has it. kube-proxy is told the networks only: it has `primary` by default, and no
    /// `localhost` in nftables mode.
    pub nodeport_addresses: &'static [&'static str],
    /// The bit of the packet mark.
    pub masquerade_bit: u8,
    /// Whether the objects of the folder `later` come, once those of `cluster` are served.
    pub later: bool,
}

/// By what pods are known: the modes of both programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pods {
    /// Their networks in the whole cluster; none: by nothing.
    ClusterCidrs(&'static [&'static str]),
    /// The networks of the Node object.
    NodeCidrs,
    /// The interface by which they come.
    Bridge(&'static str),
    /// How the names of their interfaces begin.
    InterfacePrefix(&'static str),
}

/// Most rows.
pub const USUAL: Settings = Settings {
    name: "usual",
    node: "node-1",
    pods: Pods::ClusterCidrs(&["10.244.0.0/16", "fd00:244::/64"]),
    external_ips: true,
    masquerade_all: false,
    nodeport_addresses: &["primary"],
    masquerade_bit: 14,
    later: false,
};
/// Everything to ClusterIPs is masqueraded, and another bit is used for it.
pub const MASQUERADE_ALL: Settings = Settings { name: "masquerade-all", masquerade_all: true, masquerade_bit: 20, ..USUAL };
/// Nobody knows who is a pod.
pub const NO_CLUSTER_CIDR: Settings = Settings { name: "no-cluster-cidr", pods: Pods::ClusterCidrs(&[]), ..USUAL };
/// NodePorts answer on every address of the node.
pub const EVERYWHERE: Settings = Settings { name: "everywhere", nodeport_addresses: &["0.0.0.0/0", "::/0"], ..USUAL };
/// NodePorts answer in one network, of one family.
pub const ONE_NETWORK: Settings = Settings { name: "one-network", nodeport_addresses: &["198.18.0.0/24"], ..USUAL };
/// NodePorts answer on loopback addresses too.
pub const LOCALHOST: Settings = Settings { name: "localhost", nodeport_addresses: &["primary", "localhost"], ..USUAL };
/// A node with an IPv4 address only, as far as its object says, and in no zone.
pub const IPV4_NODE: Settings = Settings { name: "ipv4-node", node: "node-4", ..USUAL };

/// Pods are known by the networks of the Node.
pub const NODE_CIDRS: Settings = Settings { name: "node-cidrs", node: "node-4", pods: Pods::NodeCidrs, ..USUAL };
/// Pods are known by a bridge. Here it is the link of the pod `client`, which the lab makes first.
pub const BRIDGE: Settings = Settings { name: "bridge", pods: Pods::Bridge("veth1"), ..USUAL };
/// Pods are known by the names of their links.
pub const INTERFACE_PREFIX: Settings = Settings { name: "interface-prefix", pods: Pods::InterfacePrefix("vet"), ..USUAL };
/// externalIPs are switched off.
pub const NO_EXTERNAL_IPS: Settings = Settings { name: "no-external-ips", external_ips: false, ..USUAL };

/// More objects come while the agent runs.
pub const LATER: Settings = Settings { name: "later", later: true, ..USUAL };

/// All of them.
pub const ALL_SETTINGS: &[&Settings] = &[
    &USUAL,
    &MASQUERADE_ALL,
    &NO_CLUSTER_CIDR,
    &NODE_CIDRS,
    &BRIDGE,
    &INTERFACE_PREFIX,
    &EVERYWHERE,
    &ONE_NETWORK,
    &LOCALHOST,
    &IPV4_NODE,
    &NO_EXTERNAL_IPS,
    &LATER,
];

impl Settings {
    /// The folder of the cluster's objects, and that of those that come later.
    pub fn folders(&self) -> Vec<PathBuf> {
        let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/flows");
        [Some("cluster"), self.later.then_some("later")].into_iter().flatten().map(|name| all.join(name)).collect()
    }

    /// The networks in which NodePorts answer; none where it is on the primary addresses.
    pub fn nodeport_networks(&self) -> Vec<&'static str> {
        self.nodeport_addresses.iter().copied().filter(|address| address.contains('/')).collect()
    }
}
