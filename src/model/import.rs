//! Services of other clusters (KEP-1645), which DNS alone knows: how they are reached is the matter of whoever imports them.

use super::{Name, ObjectKey, Protocol, Slice};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// A ServiceImport.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Import {
    /// Namespace and name.
    pub key: ObjectKey,
    /// `spec.type` is `Headless`: the endpoints' addresses are answered, not its own.
    pub headless: bool,
    /// `spec.ips`.
    pub addresses: Box<[IpAddr]>,
    /// `spec.ports`: name, protocol and number.
    pub ports: Box<[(Name, Protocol, u16)]>,
}

/// An EndpointSlice of a ServiceImport.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportedSlice {
    /// The slice; its service is the ServiceImport.
    pub slice: Slice,
    /// The cluster that its endpoints are in (label `multicluster.kubernetes.io/source-cluster`); empty where it does not say.
    pub cluster: Name,
}
