//! One destination: an address, protocol and port that clients connect to, and what becomes of their packets.

use super::Balancing;
use crate::model::{Family, Protocol};
use ipnet::IpNet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// What a client connects to: ClusterIP, load balancer address, externalIP, or a node address with a NodePort.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Dest {
    /// The address.
    pub address: IpAddr,
    /// The protocol.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
}

impl Dest {
    /// The family of the address.
    pub fn family(&self) -> Family {
        Family::of(self.address)
    }
}

impl fmt::Display for Dest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", SocketAddr::new(self.address, self.port), self.protocol)
    }
}

/// Where a connection is sent: an endpoint's address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Backend {
    /// The endpoint's address.
    pub address: IpAddr,
    /// The endpoint's port.
    pub port: u16,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::new(self.address, self.port).fmt(f)
    }
}

/// What should become of new connections to a destination.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Destination {
    /// How an endpoint is chosen; `None` when the destination is only refused.
    pub entry: Option<Entry>,
    /// Endpoints anywhere. Programmed lists are in slot order.
    pub cluster: Arc<[Backend]>,
    /// Endpoints on this node, for destinations with a policy Local.
    pub local: Arc<[Backend]>,
    /// How one of a list is chosen.
    pub balancing: Balancing,
    /// What becomes of connections that find no endpoint.
    pub refusal: Option<Refusal>,
    /// Who may connect, where that is not everybody: few destinations have any, and all are in memory.
    pub sources: Option<Box<Sources>>,
}

/// Who may connect to a destination.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// Who may (`loadBalancerSourceRanges`, `waypost.dev/allowed-sources`), merged so that no two overlap; `None` means everybody.
    pub allowed: Option<Vec<IpNet>>,
    /// Who may not, whoever else may (`waypost.dev/denied-sources`), merged.
    pub denied: Vec<IpNet>,
}

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Entry {
    /// A ClusterIP: any endpoint.
    Cluster,
    /// A ClusterIP with internalTrafficPolicy Local: endpoints of this node.
    Local,
    /// An outside address with externalTrafficPolicy Cluster: any endpoint, masqueraded.
    Outside,
    /// An outside address with externalTrafficPolicy Local: endpoints of this node with the source kept; pods and the node itself
    /// reach any endpoint.
    OutsideLocal,
}

/// What becomes of connections that find no endpoint (kube-proxy's verdicts).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Refusal {
    /// No usable endpoint anywhere: refused.
    Reject,
    /// Endpoints exist, but none on this node, and the policy is Local: dropped, so that a load balancer looks elsewhere.
    Drop,
}
