//! A Service as the agent sees it.

use super::{Family, Labels, Marks, Name, ObjectKey, Protocol, Selector};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// A Service: where it is reached, and how its traffic is to be treated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Namespace and name.
    pub key: ObjectKey,
    /// ClusterIP (NodePort and LoadBalancer included), headless, or ExternalName.
    pub kind: ServiceKind,
    /// `clusterIPs`: at most one of each family; empty for headless and ExternalName services.
    pub cluster_ips: Vec<IpAddr>,
    /// `externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// Addresses of `status.loadBalancer.ingress` that the node must serve (ipMode `VIP` or unset).
    pub load_balancer_ips: Vec<IpAddr>,
    /// `loadBalancerSourceRanges`; empty means unrestricted.
    pub source_ranges: Vec<IpNet>,
    /// Ports, as declared.
    pub ports: Vec<ServicePort>,
    /// `internalTrafficPolicy`.
    pub internal_policy: Policy,
    /// `externalTrafficPolicy`.
    pub external_policy: Policy,
    /// Session affinity by client address, with its time-out in seconds; `None` without affinity.
    pub affinity_seconds: Option<u32>,
    /// `healthCheckNodePort`; 0 when the Service has none.
    pub health_check_node_port: u16,
    /// False when the label `service.kubernetes.io/service-proxy-name` gives the Service to another proxy.
    /// Its names are served all the same.
    pub proxied: bool,
    /// Creation time, seconds since 1970: of two services that claim one address and port the older wins.
    pub created: i64,
    /// What our own annotations ask for.
    pub options: ServiceOptions,
    /// Its labels, where [`super::Details`] ask for them.
    pub labels: Option<Arc<Marks>>,
}

/// What the annotations `waypost.dev/…` of a Service ask for; the default where there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceOptions {
    /// `waypost.dev/balance`.
    pub balance: Balance,
    /// `waypost.dev/slow-start`: for so many seconds a newly ready endpoint gets less than its share; `None` means all of it at once.
    pub slow_start: Option<u32>,
    /// `waypost.dev/allowed-sources`: who may connect, to any address; `None` means everybody.
    pub allowed_sources: Option<Box<[IpNet]>>,
    /// `waypost.dev/denied-sources`: who may not, whoever else may.
    pub denied_sources: Box<[IpNet]>,
    /// `waypost.dev/expose-on-nodes`: the nodes on which NodePorts, load balancer addresses and externalIPs are served; `None` means all.
    pub exposed_on: Option<Selector>,
}

/// How new connections are spread over the endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Balance {
    /// Each goes anywhere.
    #[default]
    Random,
    /// One endpoint after the other.
    RoundRobin,
    /// The client's address decides, on every node alike.
    SourceHash,
}

impl Service {
    /// A Service of which nothing else is known.
    pub fn of_kind(key: ObjectKey, kind: ServiceKind) -> Service {
        Service {
            key,
            kind,
            cluster_ips: Vec::new(),
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            source_ranges: Vec::new(),
            ports: Vec::new(),
            internal_policy: Policy::Cluster,
            external_policy: Policy::Cluster,
            affinity_seconds: None,
            health_check_node_port: 0,
            proxied: true,
            created: 0,
            options: ServiceOptions::default(),
            labels: None,
        }
    }

    /// The addresses of one kind.
    pub fn addresses(&self, kind: AddressKind) -> &[IpAddr] {
        match kind {
            AddressKind::ClusterIp => &self.cluster_ips,
            AddressKind::LoadBalancer => &self.load_balancer_ips,
            AddressKind::ExternalIp => &self.external_ips,
            AddressKind::NodePort => &[],
        }
    }

    /// Whether a node with these labels serves other addresses of the Service than its ClusterIPs.
    pub fn is_exposed_on(&self, labels: &Labels) -> bool {
        self.options.exposed_on.as_ref().is_none_or(|selector| selector.selects(labels))
    }

    /// The ClusterIP of a family.
    pub fn cluster_ip(&self, family: Family) -> Option<IpAddr> {
        self.cluster_ips.iter().copied().find(|address| Family::of(*address) == family)
    }
}

/// What kind of Service this is, as far as proxy and DNS are concerned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceKind {
    /// Has (or will get) a ClusterIP; NodePort and LoadBalancer services too.
    ClusterIp,
    /// `clusterIP: None`: names only, one address for each ready endpoint.
    Headless,
    /// An alias for this DNS name (as written, without a trailing dot).
    ExternalName(Box<str>),
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// The port's name; empty when it has none. Slices are joined by name and protocol, never by `targetPort`.
    pub name: Name,
    /// The protocol.
    pub protocol: Protocol,
    /// The port on the service's addresses.
    pub port: u16,
    /// The port on the node's addresses; 0 when the service has none.
    pub node_port: u16,
}

/// A traffic policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Policy {
    /// Any endpoint.
    #[default]
    Cluster,
    /// Endpoints on the node that received the packet.
    Local,
}

/// The kinds of address under which a Service is reached, in the order in which they win over each other when two services
/// claim one address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AddressKind {
    /// `clusterIPs`.
    ClusterIp,
    /// `status.loadBalancer.ingress`.
    LoadBalancer,
    /// `externalIPs`.
    ExternalIp,
    /// A node address with `nodePort`.
    NodePort,
}

impl fmt::Display for AddressKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AddressKind::ClusterIp => "ClusterIP",
            AddressKind::LoadBalancer => "load balancer address",
            AddressKind::ExternalIp => "externalIP",
            AddressKind::NodePort => "NodePort",
        })
    }
}
