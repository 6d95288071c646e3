//! Flags, environment and one YAML file, made into one validated [`Config`].

use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// Everything that `waypost run` needs to know, validated.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Which half of the agent runs.
    pub role: Role,
    /// The name of this node.
    pub node_name: String,
    /// Where the objects come from.
    pub cluster: ClusterSource,
    /// The service proxy.
    pub proxy: ProxyConfig,
    /// Cluster DNS.
    pub dns: DnsConfig,
    /// Health, readiness and metrics.
    pub admin: AdminConfig,
    /// Logging.
    pub log: LogConfig,
}

/// Which half of the agent runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Service proxy and DNS, on every node.
    All,
    /// The service proxy only.
    Proxy,
    /// DNS only: needs no privileges.
    Dns,
}

/// Where the objects come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterSource {
    /// The service account and environment of a pod.
    InCluster,
    /// This kubeconfig file.
    Kubeconfig(PathBuf),
    /// This API server; credentials come from the service account where there is one.
    ApiServer(String),
    /// A folder of manifests, watched for changes.
    Manifests(PathBuf),
}

/// The service proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyConfig {
    /// Pod networks: traffic from elsewhere to a ClusterIP is masqueraded. Empty: nothing is (as in kube-proxy).
    pub cluster_cidrs: Vec<IpNet>,
    /// Service networks: their unallocated addresses are dropped.
    pub service_cidrs: Vec<IpNet>,
    /// On which of the node's addresses NodePorts answer.
    pub nodeport_addresses: NodePortAddresses,
    /// Masquerade all traffic to ClusterIPs.
    pub masquerade_all: bool,
    /// Which bit of the packet mark asks for masquerading (kube-proxy's `iptables-masquerade-bit`; 0 to 31).
    pub masquerade_bit: u8,
}

/// On which of the node's addresses NodePorts answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// The addresses of the Node object.
    Primary,
    /// Local addresses in these networks.
    Networks(Vec<IpNet>),
}

/// Cluster DNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsConfig {
    /// The cluster domain, lower case, without a trailing dot.
    pub domain: String,
    /// Where DNS is served, UDP and TCP.
    pub addresses: Vec<SocketAddr>,
    /// TTL of the cluster's records in seconds (0 to 3600).
    pub ttl: u32,
    /// Where names outside the cluster domain are asked.
    pub upstreams: Upstreams,
}

/// Where names outside the cluster domain are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upstreams {
    /// The name servers in this file, read again when it changes.
    ResolvConf(PathBuf),
    /// These servers.
    Servers(Vec<SocketAddr>),
}

/// Health, readiness and metrics; equal addresses share one listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminConfig {
    /// `/healthz`, `/livez`, `/readyz`: kube-proxy's health port (default 0.0.0.0:10256).
    pub healthz: Option<SocketAddr>,
    /// `/metrics` and `/proxyMode`: kube-proxy's metrics port (default 127.0.0.1:10249).
    pub metrics: Option<SocketAddr>,
    /// `/health`: CoreDNS's health port (default 8080).
    pub dns_health: Option<SocketAddr>,
    /// `/ready`: CoreDNS's readiness port (default 8181).
    pub dns_ready: Option<SocketAddr>,
    /// `/metrics`: CoreDNS's metrics port (default 9153).
    pub dns_metrics: Option<SocketAddr>,
}

/// Logging.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// For people or for machines.
    pub format: LogFormat,
    /// A tracing filter: a level, or `target=level` pairs.
    pub filter: String,
}

/// The shape of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One readable line an event.
    Human,
    /// One JSON object an event.
    Json,
}

/// The node's own addresses to which a configured address list refers; see [`NodePortAddresses`].
pub fn in_networks(address: IpAddr, networks: &[IpNet]) -> bool {
    networks.iter().any(|network| network.contains(&address))
}
