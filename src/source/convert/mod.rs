//! From Kubernetes objects to the model: pure functions, with kube-proxy's and CoreDNS's reading of every field.
//!
//! The API server validates what it stores, so a complaint is rare; but a bad value must cost one object, never the listing. Addresses
//! are read as leniently as Kubernetes reads stored ones (leading zeros, IPv4 mapped into IPv6).

mod annotations;
mod import;
mod node;
mod pod;
mod service;
mod slice;
#[cfg(test)]
mod tests;

pub use annotations::{of_service as service_annotations, of_slice as slice_annotations};
pub use import::{IMPORT_LABEL, import, import_key, imported_slice};
pub use node::{namespace, node, service_cidr, service_cidr_name};
pub use pod::{pod, pod_key};
pub use service::{service, service_key};
use slice::slice_of;
pub use slice::{slice, slice_details, slice_key};

use crate::model::{Interner, LabelNames, Marks, ObjectKey, Protocol};
use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// An object with a value that cannot be what it should be. It counts as absent until it is corrected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {object}: {complaint}; it is ignored until it is corrected")]
pub struct Malformed {
    /// The object's kind, as `kubectl` takes it: `Service`.
    pub kind: &'static str,
    /// Its namespace and name, or just its name.
    pub object: String,
    /// What is wrong.
    pub complaint: Complaint,
}

/// One field with an impossible value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// The field's path in the object: `spec.ports[0].port`.
    pub field: String,
    /// The value found, as written; empty when the field is missing.
    pub value: String,
    /// What the value must be.
    pub expected: &'static str,
    /// What applies to an object that is in use all the same.
    pub meanwhile: &'static str,
}

impl Complaint {
    fn new(field: impl Into<String>, value: impl fmt::Display, expected: &'static str) -> Complaint {
        Complaint { field: field.into(), value: value.to_string(), expected, meanwhile: "the default applies" }
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.value.is_empty() {
            write!(f, "{} is missing, it must be {}", self.field, self.expected)
        } else {
            write!(f, "{} is {:?}, it must be {}", self.field, self.value, self.expected)
        }
    }
}

/// Gives a complaint about a field the name of the object.
fn malformed(kind: &'static str, metadata: &ObjectMeta) -> impl FnOnce(Complaint) -> Malformed {
    let name = metadata.name.as_deref().unwrap_or("(unnamed)");
    let object = match metadata.namespace.as_deref() {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_string(),
    };
    move |complaint| Malformed { kind, object, complaint }
}

/// Namespace and name of a namespaced object.
fn key(metadata: &ObjectMeta, names: &mut Interner) -> Result<ObjectKey, Complaint> {
    let mut part = |field, value: &Option<String>| match value.as_deref() {
        Some(text) if !text.is_empty() => Ok(names.intern(text)),
        _ => Err(Complaint::new(field, "", "a name")),
    };
    Ok(ObjectKey { namespace: part("metadata.namespace", &metadata.namespace)?, name: part("metadata.name", &metadata.name)? })
}

/// The labels of an object that are to be read.
pub fn labels(metadata: &ObjectMeta, names: &LabelNames) -> Option<Arc<Marks>> {
    Marks::read(names, metadata.labels.iter().flatten().map(|(name, value)| (name.as_str(), value.as_str())))
}

fn has_label(metadata: &ObjectMeta, label: &str) -> bool {
    metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(label))
}

/// A port number; `None` and 0 are none at all.
fn port(field: impl FnOnce() -> String, number: Option<i64>) -> Result<u16, Complaint> {
    let number = number.unwrap_or(0);
    u16::try_from(number).map_err(|_| Complaint::new(field(), number, "a port number from 1 to 65535"))
}

fn protocol(field: impl FnOnce() -> String, name: Option<&str>) -> Result<Protocol, Complaint> {
    match name {
        None | Some("" | "TCP") => Ok(Protocol::Tcp),
        Some("UDP") => Ok(Protocol::Udp),
        Some("SCTP") => Ok(Protocol::Sctp),
        Some(other) => Err(Complaint::new(field(), other, "TCP, UDP or SCTP")),
    }
}

fn address(field: impl FnOnce() -> String, text: &str) -> Result<IpAddr, Complaint> {
    let address = text.parse().or_else(|_| without_leading_zeros(text).parse());
    address.map(|address: IpAddr| address.to_canonical()).map_err(|_| Complaint::new(field(), text, "an IP address"))
}

fn addresses(field: &str, texts: Option<&[String]>) -> Result<Vec<IpAddr>, Complaint> {
    let texts = texts.unwrap_or_default().iter().enumerate();
    texts.map(|(index, text)| address(|| format!("{field}[{index}]"), text)).collect()
}

fn network(field: impl FnOnce() -> String, text: &str) -> Result<IpNet, Complaint> {
    let text = text.trim();
    let network = text.parse().or_else(|_| without_leading_zeros(text).parse());
    network.map(|network: IpNet| network.trunc()).map_err(|_| Complaint::new(field(), text, "a network such as 10.0.0.0/8"))
}

/// `010.0.0.01/8` as `10.0.0.1/8`: Go once read such octets as decimal, so stored objects may still hold them.
fn without_leading_zeros(text: &str) -> String {
    let (address, length) = text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
    let octets = address.split('.').map(|octet| match octet.trim_start_matches('0') {
        "" if !octet.is_empty() => "0",
        digits => digits,
    });
    let address = octets.collect::<Vec<_>>().join(".");
    length.map_or(address.clone(), |length| format!("{address}/{length}"))
}
