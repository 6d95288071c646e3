//! EndpointSlices as the agent sees them.

use super::{Family, Marks, Name, ObjectKey, Protocol};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

/// Namespace and name of an EndpointSlice.
pub type SliceKey = ObjectKey;

/// One EndpointSlice of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// Namespace and name of the slice.
    pub key: SliceKey,
    /// The Service it belongs to (label `kubernetes.io/service-name`).
    pub service: ObjectKey,
    /// Its `addressType`; slices of type FQDN never get here.
    pub family: Family,
    /// Its ports; those with a nil or zero number are left out.
    pub ports: Box<[SlicePort]>,
    /// Its endpoints, one for each address. DNS shares them.
    pub endpoints: Arc<[Endpoint]>,
    /// Whether it carries the label `service.kubernetes.io/headless`: such slices are for DNS only, as in kube-proxy.
    pub headless: bool,
    /// `waypost.dev/weight`: how much each of its endpoints counts; 1 where there is no such annotation.
    pub weight: u8,
    /// When the pod or Service changed that made the controller write this slice (annotation
    /// `endpoints.kubernetes.io/last-change-trigger-time`): from then on network programming latency counts.
    pub triggered: Option<SystemTime>,
    /// What [`super::Details`] ask for.
    pub details: Option<Arc<SliceDetails>>,
}

/// What few want to know of an EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SliceDetails {
    /// Its labels, which are mostly those of the Service.
    pub labels: Option<Arc<Marks>>,
    /// The pod (`targetRef`) of each of [`Slice::endpoints`].
    pub pods: Option<Box<[Option<Name>]>>,
    /// The zone of each of [`Slice::endpoints`].
    pub zones: Option<Box<[Option<Name>]>>,
}

/// A port of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlicePort {
    /// The port's name; empty when nil. Joined with the Service's port of the same name and protocol.
    pub name: Name,
    /// The protocol.
    pub protocol: Protocol,
    /// The number on the endpoints; never 0.
    pub port: u16,
}

/// One address of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The address.
    pub address: IpAddr,
    /// `conditions.ready`; nil counts as true.
    pub ready: bool,
    /// `conditions.serving`; nil counts as true.
    pub serving: bool,
    /// `conditions.terminating`; nil counts as false.
    pub terminating: bool,
    /// Not the endpoint's first address: kube-proxy sends traffic to the first one only, CoreDNS serves all.
    pub secondary: bool,
    /// `hostname`, under which DNS names the endpoint.
    pub hostname: Option<Name>,
    /// `nodeName`: the endpoint is local on the node with this name, whatever its address.
    pub node: Option<Name>,
    /// `hints`: where this endpoint should be used. Endpoints with equal hints share them.
    pub hints: Option<Arc<Hints>>,
}

impl Endpoint {
    /// A ready endpoint of which nothing else is known.
    pub fn at(address: IpAddr) -> Endpoint {
        Endpoint {
            address,
            ready: true,
            serving: true,
            terminating: false,
            secondary: false,
            hostname: None,
            node: None,
            hints: None,
        }
    }
}

/// Where an endpoint should be used (KEP-2433, KEP-3015). It is the EndpointSlice controller that decides it, from the Service's
/// `trafficDistribution` or the annotation `service.kubernetes.io/topology-mode`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hints {
    /// `forZones`.
    pub zones: Box<[Name]>,
    /// `forNodes`.
    pub nodes: Box<[Name]>,
}
