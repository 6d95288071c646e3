//! Nodes, Namespaces and ServiceCIDRs.

use super::{Complaint, Malformed, address, malformed, network};
use crate::model::{Family, Interner, Labels, Name, Node};
use crate::source::objects;
use ipnet::IpNet;
use std::net::IpAddr;

/// The cluster autoscaler's taint on a node that it is about to remove.
const TO_BE_DELETED_TAINT: &str = "ToBeDeletedByClusterAutoscaler";

/// Where the node stands, for topology hints.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// A Node: its primary addresses, its zone, its labels, the networks of its pods, and whether load balancers should send traffic to it.
///
/// # Errors
/// [`Malformed`] names an InternalIP or ExternalIP that is no address, or a network of pods that is none.
pub fn node(object: &objects::Node) -> Result<Node, Malformed> {
    let internal = addresses(object, "InternalIP").map_err(malformed("Node", &object.metadata))?;
    let external = addresses(object, "ExternalIP").map_err(malformed("Node", &object.metadata))?;
    let first_of = |family| internal.iter().chain(&external).copied().find(|address| Family::of(*address) == family);
    let taints = object.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let to_be_deleted = taints.iter().any(|taint| taint.key.as_deref() == Some(TO_BE_DELETED_TAINT));
    let zone = object.metadata.labels.as_ref().and_then(|labels| labels.get(ZONE_LABEL)).filter(|zone| !zone.is_empty());
    Ok(Node {
        addresses: Family::BOTH.into_iter().filter_map(first_of).collect(),
        eligible: object.metadata.deletion_timestamp.is_none() && !to_be_deleted,
        zone: zone.map(|zone| zone.as_str().into()),
        labels: labels(object),
        pod_cidrs: pod_cidrs(object).map_err(malformed("Node", &object.metadata))?,
    })
}

fn labels(object: &objects::Node) -> Labels {
    let labels = object.metadata.labels.iter().flatten();
    labels.map(|(key, value)| (key.as_str().into(), value.as_str().into())).collect()
}

/// `podCIDRs`, or where only the older `podCIDR` is set, that.
fn pod_cidrs(object: &objects::Node) -> Result<Box<[IpNet]>, Complaint> {
    let Some(spec) = &object.spec else { return Ok(Box::default()) };
    let several = spec.pod_cidrs.as_deref().unwrap_or_default();
    let texts = if several.is_empty() { spec.pod_cidr.as_slice() } else { several };
    let of = |(index, text): (usize, &String)| network(|| format!("spec.podCIDRs[{index}]"), text);
    texts.iter().filter(|text| !text.is_empty()).enumerate().map(of).collect()
}

/// A Namespace's name. One that is being deleted still exists: its services are answered until they are gone.
///
/// # Errors
/// [`Malformed`] when it has no name.
pub fn namespace(object: &objects::Namespace, names: &mut Interner) -> Result<Name, Malformed> {
    match object.metadata.name.as_deref() {
        Some(name) if !name.is_empty() => Ok(names.intern(name)),
        _ => Err(malformed("Namespace", &object.metadata)(Complaint::new("metadata.name", "", "a name"))),
    }
}

/// A ServiceCIDR's name and networks. One that is being deleted still counts: it goes when no address of it is in use any more.
///
/// # Errors
/// [`Malformed`] when it has no name, or one of its networks is none.
pub fn service_cidr(object: &objects::ServiceCidr, names: &mut Interner) -> Result<(Name, Box<[IpNet]>), Malformed> {
    let name = service_cidr_name(object, names)?;
    let texts = object.spec.as_ref().and_then(|spec| spec.cidrs.as_deref()).unwrap_or_default().iter().enumerate();
    let networks: Result<_, Complaint> = texts.map(|(index, text)| network(|| format!("spec.cidrs[{index}]"), text)).collect();
    Ok((name, networks.map_err(malformed("ServiceCIDR", &object.metadata))?))
}

/// A ServiceCIDR's name, which even a malformed one should have.
///
/// # Errors
/// [`Malformed`] when it has none.
pub fn service_cidr_name(object: &objects::ServiceCidr, names: &mut Interner) -> Result<Name, Malformed> {
    match object.metadata.name.as_deref() {
        Some(name) if !name.is_empty() => Ok(names.intern(name)),
        _ => Err(malformed("ServiceCIDR", &object.metadata)(Complaint::new("metadata.name", "", "a name"))),
    }
}

fn addresses(object: &objects::Node, type_: &str) -> Result<Vec<IpAddr>, Complaint> {
    let entries = object.status.as_ref().and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    let of_type = entries.iter().enumerate().filter(|(_, entry)| entry.type_.as_deref() == Some(type_));
    of_type
        .map(|(index, entry)| {
            address(|| format!("status.addresses[{index}].address"), entry.address.as_deref().unwrap_or_default())
        })
        .collect()
}
