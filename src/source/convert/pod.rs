//! Pods.

use super::{Complaint, Malformed, address, malformed};
use crate::model::{Interner, ObjectKey};
use crate::source::objects;
use std::net::IpAddr;

/// The phases in which a pod has no name in DNS, as in CoreDNS.
const OVER: [&str; 3] = ["Succeeded", "Failed", "Unknown"];

/// The addresses of a pod; none of one that is over, or about to end.
///
/// # Errors
/// [`Malformed`] names the first address that is none.
pub fn pod(object: &objects::Pod) -> Result<Box<[IpAddr]>, Malformed> {
    let Some(status) = &object.status else { return Ok(Box::default()) };
    let is_over = status.phase.as_deref().is_some_and(|phase| OVER.contains(&phase));
    if is_over || object.metadata.deletion_timestamp.is_some() {
        return Ok(Box::default());
    }
    let several = status.pod_ips.as_deref().unwrap_or_default().iter().map(|one| &one.ip).chain([&status.pod_ip]);
    let mut found: Vec<IpAddr> = Vec::new();
    for (index, text) in several.flatten().enumerate().filter(|(_, text)| !text.is_empty()) {
        let address = address(|| format!("status.podIPs[{index}].ip"), text).map_err(malformed("Pod", &object.metadata))?;
        if !found.contains(&address) {
            found.push(address);
        }
    }
    Ok(found.into())
}

/// A pod's namespace and name. The name is not shared: no other object has it.
///
/// # Errors
/// [`Malformed`] when one of them is missing.
pub fn pod_key(object: &objects::Pod, names: &mut Interner) -> Result<ObjectKey, Malformed> {
    match (object.metadata.namespace.as_deref(), object.metadata.name.as_deref()) {
        (Some(namespace), Some(name)) => Ok(ObjectKey::new(names.intern(namespace), name)),
        _ => Err(malformed("Pod", &object.metadata)(Complaint::new("metadata.name", "", "a name, and metadata.namespace one"))),
    }
}
