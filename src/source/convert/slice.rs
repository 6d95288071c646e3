//! EndpointSlices.

use super::{Complaint, Malformed, address, annotations, has_label, key, labels, malformed, port, protocol};
use crate::model::{Details, Endpoint, Family, Hints, Interner, Name, ObjectKey, Slice, SliceDetails, SliceKey, SlicePort};
use crate::source::objects;
use k8s_openapi::jiff::Timestamp;
use std::sync::Arc;
use std::time::SystemTime;

const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// An EndpointSlice; `None` when it concerns neither proxy nor DNS (addresses of type FQDN, or no Service named).
///
/// # Errors
/// [`Malformed`] names the first field with an impossible value.
pub fn slice(object: &objects::EndpointSlice, names: &mut Interner) -> Result<Option<Slice>, Malformed> {
    let labels = object.metadata.labels.as_ref();
    let service = labels.and_then(|labels| labels.get(SERVICE_NAME_LABEL)).map_or("", String::as_str);
    slice_of(object, service, names).map_err(malformed("EndpointSlice", &object.metadata))
}

/// An EndpointSlice's namespace and name, which even a malformed one should have.
///
/// # Errors
/// [`Malformed`] when one of them is missing.
pub fn slice_key(object: &objects::EndpointSlice, names: &mut Interner) -> Result<SliceKey, Malformed> {
    key(&object.metadata, names).map_err(malformed("EndpointSlice", &object.metadata))
}

/// What few want to know of a slice; nothing where nothing is asked for.
pub fn slice_details(object: &objects::EndpointSlice, wanted: &Details, names: &mut Interner) -> Option<Arc<SliceDetails>> {
    if *wanted == Details::default() {
        return None;
    }
    // One for each address, as the endpoints of the slice are.
    let mut of_endpoints = |text: fn(&objects::Endpoint) -> Option<&str>| -> Box<[Option<Name>]> {
        let mut all = Vec::new();
        for entry in object.endpoints.as_deref().unwrap_or_default() {
            let name = text(entry).filter(|text| !text.is_empty()).map(|text| names.intern(text));
            let addresses = entry.addresses.as_deref().unwrap_or_default();
            all.extend(addresses.iter().map(|_| name.clone()));
        }
        all.into()
    };
    Some(Arc::new(SliceDetails {
        labels: labels(&object.metadata, &wanted.labels),
        pods: wanted.pod_names.then(|| of_endpoints(|entry| entry.target_ref.as_ref()?.name.as_deref())),
        zones: wanted.zones.then(|| of_endpoints(|entry| entry.zone.as_deref())),
    }))
}

/// The slice of a service with this name; none where the name is empty.
pub(super) fn slice_of(object: &objects::EndpointSlice, service: &str, names: &mut Interner) -> Result<Option<Slice>, Complaint> {
    if service.is_empty() {
        return Ok(None);
    }
    let Some(family) = family(object.address_type.as_deref())? else { return Ok(None) };
    let key = key(&object.metadata, names)?;
    Ok(Some(Slice {
        service: ObjectKey { namespace: key.namespace.clone(), name: names.intern(service) },
        key,
        family,
        ports: ports(object, names)?,
        endpoints: endpoints(object, family, names)?,
        headless: has_label(&object.metadata, HEADLESS_LABEL),
        weight: annotations::of_slice(&object.metadata).0,
        triggered: triggered(object),
        details: None,
    }))
}

fn family(address_type: Option<&str>) -> Result<Option<Family>, Complaint> {
    match address_type {
        Some("IPv4") => Ok(Some(Family::V4)),
        Some("IPv6") => Ok(Some(Family::V6)),
        Some("FQDN") => Ok(None),
        other => Err(Complaint::new("addressType", other.unwrap_or_default(), "IPv4, IPv6 or FQDN")),
    }
}

/// The ports with a number: a nil one means "all ports", which neither kube-proxy nor the DNS specification can serve.
fn ports(object: &objects::EndpointSlice, names: &mut Interner) -> Result<Box<[SlicePort]>, Complaint> {
    let mut found = Vec::new();
    for (index, entry) in object.ports.as_deref().unwrap_or_default().iter().enumerate() {
        let number = port(|| format!("ports[{index}].port"), entry.port)?;
        if number != 0 {
            found.push(SlicePort {
                name: names.intern(entry.name.as_deref().unwrap_or_default()),
                protocol: protocol(|| format!("ports[{index}].protocol"), entry.protocol.as_deref())?,
                port: number,
            });
        }
    }
    Ok(found.into())
}

fn endpoints(object: &objects::EndpointSlice, family: Family, names: &mut Interner) -> Result<Arc<[Endpoint]>, Complaint> {
    let entries = object.endpoints.as_deref().unwrap_or_default();
    let mut found: Vec<Endpoint> = Vec::with_capacity(entries.len());
    for (index, entry) in entries.iter().enumerate() {
        let conditions = entry.conditions.clone().unwrap_or_default();
        let mut shared = |name: &Option<String>| -> Option<Name> {
            name.as_deref().filter(|name| !name.is_empty()).map(|name| names.intern(name))
        };
        let (hostname, node) = (shared(&entry.hostname), shared(&entry.node_name));
        let hints = hints(entry, found.last(), names);
        for (position, text) in entry.addresses.as_deref().unwrap_or_default().iter().enumerate() {
            let field = || format!("endpoints[{index}].addresses[{position}]");
            let address = address(field, text)?;
            if Family::of(address) != family {
                return Err(Complaint::new(field(), text, "of the slice's addressType"));
            }
            found.push(Endpoint {
                address,
                ready: conditions.ready.unwrap_or(true),
                serving: conditions.serving.unwrap_or(true),
                terminating: conditions.terminating.unwrap_or(false),
                secondary: position > 0,
                hostname: hostname.clone(),
                node: node.clone(),
                hints: hints.clone(),
            });
        }
    }
    Ok(found.into())
}

/// A time that cannot be read is none: it matters to a metric only.
fn triggered(object: &objects::EndpointSlice) -> Option<SystemTime> {
    let text = object.metadata.annotations.as_ref()?.get(objects::TRIGGER_TIME_ANNOTATION)?;
    text.parse::<Timestamp>().ok().map(SystemTime::from)
}

/// The hints of an endpoint, shared with the one before it where they are equal: the controller gives many endpoints the same.
fn hints(entry: &objects::Endpoint, before: Option<&Endpoint>, names: &mut Interner) -> Option<Arc<Hints>> {
    let mut named = |hints: &Option<Vec<objects::Hint>>| -> Box<[Name]> {
        let names_of = hints.as_deref().unwrap_or_default().iter().filter_map(|hint| hint.name.as_deref());
        names_of.filter(|name| !name.is_empty()).map(|name| names.intern(name)).collect()
    };
    let given = entry.hints.as_ref()?;
    let hints = Hints { zones: named(&given.for_zones), nodes: named(&given.for_nodes) };
    if hints == Hints::default() {
        return None;
    }
    let shared = before.and_then(|endpoint| endpoint.hints.clone()).filter(|shared| **shared == hints);
    Some(shared.unwrap_or_else(|| Arc::new(hints)))
}
