//! ServiceImports and their EndpointSlices (KEP-1645), as CoreDNS reads them.

use super::{Complaint, Malformed, addresses, key, malformed, port, protocol, slice_of};
use crate::model::{Import, ImportedSlice, Interner, Name, ObjectKey, Protocol};
use crate::source::objects;

/// The label by which a slice belongs to a ServiceImport; slices without it are not watched here.
pub const IMPORT_LABEL: &str = "multicluster.kubernetes.io/service-name";
const CLUSTER_LABEL: &str = "multicluster.kubernetes.io/source-cluster";

/// A ServiceImport.
///
/// # Errors
/// [`Malformed`] names the first field with an impossible value.
pub fn import(object: &objects::ServiceImport, names: &mut Interner) -> Result<Import, Malformed> {
    read(object, names).map_err(malformed("ServiceImport", &object.metadata))
}

/// A ServiceImport's namespace and name, which even a malformed one should have.
///
/// # Errors
/// [`Malformed`] when one of them is missing.
pub fn import_key(object: &objects::ServiceImport, names: &mut Interner) -> Result<ObjectKey, Malformed> {
    key(&object.metadata, names).map_err(malformed("ServiceImport", &object.metadata))
}

/// A slice of a ServiceImport; `None` when it is of none, or its addresses are names.
///
/// # Errors
/// [`Malformed`] names the first field with an impossible value.
pub fn imported_slice(object: &objects::EndpointSlice, names: &mut Interner) -> Result<Option<ImportedSlice>, Malformed> {
    let label = |label| object.metadata.labels.as_ref().and_then(|labels| labels.get(label)).map_or("", String::as_str);
    let cluster = names.intern(label(CLUSTER_LABEL));
    let slice = slice_of(object, label(IMPORT_LABEL), names).map_err(malformed("EndpointSlice", &object.metadata))?;
    Ok(slice.map(|slice| ImportedSlice { slice, cluster }))
}

fn read(object: &objects::ServiceImport, names: &mut Interner) -> Result<Import, Complaint> {
    let spec = object.spec.clone().unwrap_or_default();
    let headless = match spec.type_.as_deref() {
        Some("Headless") => true,
        Some("ClusterSetIP") | None => false,
        Some(other) => return Err(Complaint::new("spec.type", other, "ClusterSetIP or Headless")),
    };
    let mut ports: Vec<(Name, Protocol, u16)> = Vec::new();
    for (index, entry) in spec.ports.as_deref().unwrap_or_default().iter().enumerate() {
        let number = port(|| format!("spec.ports[{index}].port"), entry.port)?;
        let protocol = protocol(|| format!("spec.ports[{index}].protocol"), entry.protocol.as_deref())?;
        ports.push((names.intern(entry.name.as_deref().unwrap_or_default()), protocol, number));
    }
    Ok(Import {
        key: key(&object.metadata, names)?,
        headless,
        addresses: addresses("spec.ips", spec.ips.as_deref())?.into(),
        ports: ports.into(),
    })
}
