//! What the configuration says of the service proxy.

use ipnet::IpNet;
use std::net::IpAddr;

/// The service proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyConfig {
    /// What packets of pods are known by.
    pub detect_local: DetectLocalMode,
    /// Pod networks, for [`DetectLocalMode::ClusterCidr`]: traffic from elsewhere to a ClusterIP is masqueraded. Empty: nothing is (as in
    /// kube-proxy).
    pub cluster_cidrs: Vec<IpNet>,
    /// Service networks: their unallocated addresses are dropped.
    pub service_cidrs: Vec<IpNet>,
    /// On which of the node's addresses NodePorts answer.
    pub nodeport_addresses: NodePortAddresses,
    /// For how many destinations new connections are counted in the metrics; 0: for none.
    pub connection_metrics: usize,
    /// Whether the externalIPs of Services are served.
    pub external_ips: bool,
    /// Masquerade all traffic to ClusterIPs.
    pub masquerade_all: bool,
    /// Whether DNS questions that this node answers are connections like any other (`dns-untracked=false`).
    pub tracked_dns: bool,
    /// Which bit of the packet mark asks for masquerading (kube-proxy's `iptables-masquerade-bit`; 0 to 31).
    pub masquerade_bit: u8,
    /// The kernel's settings of connection tracking.
    pub conntrack: ConntrackConfig,
}

/// The kernel's settings of connection tracking, named as kube-proxy's flags; 0 leaves one alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConntrackConfig {
    /// So many flows for each processor, at most 1,048,576 together. 0 leaves the limit alone, whatever `min` says.
    pub max_per_core: u32,
    /// But at least so many.
    pub min: u32,
    /// How long an established TCP connection without packets is remembered.
    pub tcp_established_seconds: u32,
    /// How long a TCP connection that one side has closed is remembered.
    pub tcp_close_wait_seconds: u32,
    /// Take TCP packets outside the window for part of their connection. Otherwise they arrive untranslated, and the client resets the connection
    /// (kubernetes/kubernetes 117924).
    pub tcp_be_liberal: bool,
    /// How long a UDP flow without an answer is remembered.
    pub udp_seconds: u32,
    /// How long a UDP flow with answers is remembered.
    pub udp_stream_seconds: u32,
}

impl ConntrackConfig {
    /// kube-proxy's, but for the last but two, which is off there.
    pub const DEFAULT: ConntrackConfig = ConntrackConfig {
        max_per_core: 32_768,
        min: 131_072,
        tcp_established_seconds: 86_400,
        tcp_close_wait_seconds: 3600,
        tcp_be_liberal: true,
        udp_seconds: 0,
        udp_stream_seconds: 0,
    };
    /// Everything is left alone.
    pub const UNTOUCHED: ConntrackConfig = ConntrackConfig {
        max_per_core: 0,
        min: 0,
        tcp_established_seconds: 0,
        tcp_close_wait_seconds: 0,
        tcp_be_liberal: false,
        udp_seconds: 0,
        udp_stream_seconds: 0,
    };
}

/// What packets of pods are known by (kube-proxy's `detect-local-mode`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DetectLocalMode {
    /// Their source: in [`ProxyConfig::cluster_cidrs`].
    ClusterCidr,
    /// Their source: in the networks that the Node object names.
    NodeCidr,
    /// The interface by which they come in: this bridge.
    BridgeInterface(Box<str>),
    /// The interface by which they come in: one whose name begins so.
    InterfaceNamePrefix(Box<str>),
}

impl DetectLocalMode {
    /// kube-proxy's name of the mode.
    pub fn name(&self) -> &'static str {
        match self {
            DetectLocalMode::ClusterCidr => "ClusterCIDR",
            DetectLocalMode::NodeCidr => "NodeCIDR",
            DetectLocalMode::BridgeInterface(_) => "BridgeInterface",
            DetectLocalMode::InterfaceNamePrefix(_) => "InterfaceNamePrefix",
        }
    }
}

/// On which of the node's addresses NodePorts answer: on all that are named here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePortAddresses {
    /// The addresses of the Node object.
    pub primary: bool,
    /// Local addresses in these networks; never those of the loopback network.
    pub networks: Vec<IpNet>,
    /// The loopback addresses, for TCP and for processes of the node only.
    pub localhost: bool,
}

impl NodePortAddresses {
    /// The addresses of the Node object and no others.
    pub fn primary() -> NodePortAddresses {
        NodePortAddresses { primary: true, networks: Vec::new(), localhost: false }
    }
}

/// The node's own addresses to which a configured address list refers; see [`NodePortAddresses`].
pub fn in_networks(address: IpAddr, networks: &[IpNet]) -> bool {
    networks.iter().any(|network| network.contains(&address))
}
