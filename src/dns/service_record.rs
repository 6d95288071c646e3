//! What DNS keeps of one Service: addresses, ports and ready endpoints, and nothing else.

use super::name::{DomainName, Labels, MAX_LABEL, push_label};
use super::shape::Shape;
use crate::model::{self, Endpoint, Import, ImportedSlice, Name, ObjectKey, Protocol, Service, ServiceKind, Slice, SliceDetails};
use std::collections::BTreeSet;
use std::io::Write;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

/// The labels `<service><namespace>` in lower-case wire form: a piece of every name of the Service, so that a question's
/// own bytes are the key.
pub type ServiceLabels = Arc<[u8]>;

/// One Service, ready to answer from.
#[derive(Debug, PartialEq, Eq)]
pub struct ServiceRecord {
    pub labels: ServiceLabels,
    pub kind: RecordKind,
    pub cluster_ips: Box<[IpAddr]>,
    pub ports: Box<[Port]>,
    pub groups: Box<[Group]>,
    /// The labels of the object, where some shape looks at them.
    pub marks: Option<Arc<model::Marks>>,
}

/// How the Service's names answer.
#[derive(Debug, PartialEq, Eq)]
pub enum RecordKind {
    ClusterIp,
    Headless,
    /// ExternalName; `None` when its target is an IP address or no name at all: then the name does not exist, as in CoreDNS.
    Alias(Option<DomainName>),
    /// Slices without a Service: their addresses have reverse names, nothing else exists.
    SlicesOnly,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Port {
    pub name: Name,
    pub protocol: Protocol,
    pub number: u16,
}

/// Endpoints that share their ports. Two are equal when the same is answered from both.
#[derive(Debug)]
pub struct Group {
    /// The other cluster that they are in, lower case, of an imported service.
    pub cluster: Option<Name>,
    pub ports: Box<[Port]>,
    /// Those of the slice, which shares them: there may be hundreds of thousands. The ready ones have names.
    endpoints: Arc<[Endpoint]>,
    /// What some shapes want to know of them.
    details: Option<Arc<SliceDetails>>,
}

impl ServiceRecord {
    /// The record of a Service and its slices; `None` when there is neither, or when the names cannot be labels.
    pub fn new(key: &ObjectKey, service: Option<&Service>, slices: &[&Slice]) -> Option<ServiceRecord> {
        if service.is_none() && slices.is_empty() {
            return None;
        }
        let kind = match service.map(|service| &service.kind) {
            None => RecordKind::SlicesOnly,
            Some(ServiceKind::ClusterIp) => RecordKind::ClusterIp,
            Some(ServiceKind::Headless) => RecordKind::Headless,
            Some(ServiceKind::ExternalName(target)) => RecordKind::Alias(alias_target(target)),
        };
        Some(ServiceRecord {
            labels: service_labels(key)?,
            cluster_ips: service.map(|service| service.cluster_ips.as_slice().into()).unwrap_or_default(),
            ports: service.map(service_ports).unwrap_or_default(),
            groups: slices.iter().map(|slice| group(slice)).filter(Group::has_names).collect(),
            kind,
            marks: service.and_then(|service| service.labels.clone()),
        })
    }

    /// The record of a ServiceImport and its slices; `None` when there is no ServiceImport, or when the names cannot be labels.
    pub fn of_import(key: &ObjectKey, import: Option<&Import>, slices: &[&ImportedSlice]) -> Option<ServiceRecord> {
        let import = import?;
        let port =
            |(name, protocol, number): &(Name, Protocol, u16)| Port { name: name.clone(), protocol: *protocol, number: *number };
        let imported = |of: &&ImportedSlice| Group { cluster: Some(of.cluster.to_ascii_lowercase().into()), ..group(&of.slice) };
        Some(ServiceRecord {
            labels: service_labels(key)?,
            kind: if import.headless { RecordKind::Headless } else { RecordKind::ClusterIp },
            cluster_ips: import.addresses.clone(),
            ports: import.ports.iter().map(port).collect(),
            groups: slices.iter().map(imported).filter(Group::has_names).collect(),
            marks: None,
        })
    }

    /// The label of the namespace, lower case.
    pub fn namespace(&self) -> &[u8] {
        Labels::of(&self.labels).nth(1).unwrap_or_default()
    }

    /// Every address with a reverse name.
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        self.cluster_ips
            .iter()
            .copied()
            .chain(self.groups.iter().flat_map(Group::ready).map(|(_, endpoint)| endpoint.address))
            .collect()
    }
}

impl Group {
    /// The endpoints that have names, and their places in the slice.
    fn ready(&self) -> impl Iterator<Item = (usize, &Endpoint)> {
        self.endpoints.iter().enumerate().filter(|(_, endpoint)| endpoint.ready)
    }

    /// By what they are named, and where they are.
    fn named(&self) -> impl Iterator<Item = (IpAddr, [Option<&Name>; 3])> {
        self.ready()
            .map(|(place, one)| (one.address, [one.hostname.as_ref(), self.detail(pods, place), self.detail(zones, place)]))
    }

    fn has_names(&self) -> bool {
        self.ready().next().is_some()
    }

    /// What is known of the pod, or of the zone, of the endpoint at this place.
    fn detail(&self, of: fn(&SliceDetails) -> Option<&[Option<Name>]>, place: usize) -> Option<&Name> {
        of(self.details.as_deref()?)?.get(place)?.as_ref()
    }

    fn marks(&self) -> Option<&Arc<model::Marks>> {
        self.details.as_ref()?.labels.as_ref()
    }

    /// Whether the zones of its endpoints are known.
    fn knows_zones(&self) -> bool {
        self.details.as_ref().is_some_and(|details| details.zones.is_some())
    }

    /// Whether a shape shows them, by the labels of the slice; `None` when what decides it is not known.
    fn is_shown(&self, shape: &Shape) -> Option<bool> {
        match &shape.labels {
            None => Some(true),
            Some(selector) => selector.judges(self.marks()?),
        }
    }
}

fn pods(details: &SliceDetails) -> Option<&[Option<Name>]> {
    details.pods.as_deref()
}

fn zones(details: &SliceDetails) -> Option<&[Option<Name>]> {
    details.zones.as_deref()
}

impl PartialEq for Group {
    fn eq(&self, other: &Group) -> bool {
        self.cluster == other.cluster
            && self.ports == other.ports
            && self.marks() == other.marks()
            && self.knows_zones() == other.knows_zones()
            && self.named().eq(other.named())
    }
}

impl Eq for Group {}

/// A Service as a shape shows it.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    record: &'a ServiceRecord,
    shape: &'a Shape,
}

/// Some of its endpoints as the shape shows them.
#[derive(Clone, Copy, Debug)]
pub struct ShownGroup<'a> {
    group: &'a Group,
    shape: &'a Shape,
}

/// An endpoint as a shape shows it.
#[derive(Clone, Copy, Debug)]
pub struct ShownEndpoint<'a> {
    /// The address.
    pub address: IpAddr,
    /// By which it is named, if not by its address.
    name: Option<&'a Name>,
    /// The zone that it is in.
    pub zone: Option<&'a Name>,
}

impl Deref for Shown<'_> {
    type Target = ServiceRecord;

    fn deref(&self) -> &ServiceRecord {
        self.record
    }
}

impl<'a> Shown<'a> {
    pub fn new(record: &'a ServiceRecord, shape: &'a Shape) -> Shown<'a> {
        Shown { record, shape }
    }

    /// The record itself.
    pub fn record(self) -> &'a ServiceRecord {
        self.record
    }

    /// Whether it is known of all slices whether they are shown.
    pub fn is_known(self) -> bool {
        self.record.groups.iter().all(|group| group.is_shown(self.shape).is_some())
    }

    /// The same of those slices that have this address.
    pub fn knows_endpoints_at(self, address: IpAddr) -> bool {
        let is_there = |group: &&Group| group.ready().any(|(_, endpoint)| endpoint.address == address);
        self.record.groups.iter().filter(is_there).all(|group| group.is_shown(self.shape).is_some())
    }

    /// Whether it is known of all endpoints in which zone of nodes they are.
    pub fn knows_zones(self) -> bool {
        self.record.groups.iter().all(Group::knows_zones)
    }

    /// Its endpoints, by the ports that they share.
    pub fn groups(self) -> impl Iterator<Item = ShownGroup<'a>> {
        self.record.groups.iter().map(move |group| ShownGroup { group, shape: self.shape }).filter(|group| group.is_shown())
    }

    /// Every ready endpoint.
    pub fn endpoints(self) -> impl Iterator<Item = ShownEndpoint<'a>> {
        self.groups().flat_map(ShownGroup::endpoints)
    }

    /// Whether some port of the Service (or, headless, of its endpoints) has this protocol label.
    pub fn has_protocol(self, label: &[u8]) -> bool {
        let matches = |port: &Port| is_protocol(label, port.protocol);
        match self.record.kind {
            RecordKind::ClusterIp => self.record.ports.iter().any(matches),
            RecordKind::Headless => self.groups().any(|group| group.ports().iter().any(matches)),
            RecordKind::Alias(_) | RecordKind::SlicesOnly => false,
        }
    }
}

impl<'a> ShownGroup<'a> {
    fn is_shown(&self) -> bool {
        self.group.is_shown(self.shape).is_some_and(|is_shown| is_shown)
    }

    /// The ports.
    pub fn ports(self) -> &'a [Port] {
        &self.group.ports
    }

    /// The other cluster that they are in.
    pub fn cluster(self) -> Option<&'a Name> {
        self.group.cluster.as_ref()
    }

    /// The endpoints.
    pub fn endpoints(self) -> impl Iterator<Item = ShownEndpoint<'a>> {
        let ShownGroup { group, shape } = self;
        group.ready().map(move |(place, endpoint)| {
            let is_name = |name: &&Name| name.split('.').all(|part| (1..=MAX_LABEL).contains(&part.len()));
            let pod = || group.detail(pods, place).filter(|_| shape.pod_names).filter(is_name);
            ShownEndpoint {
                address: endpoint.address,
                name: endpoint.hostname.as_ref().filter(is_name).or_else(pod),
                zone: group.detail(zones, place).filter(|_| shape.zonal),
            }
        })
    }
}

impl Port {
    /// Whether `_port._proto` means this port. Underscores may be left out, and `_` alone matches anything, both as in CoreDNS.
    pub fn is(&self, port: &[u8], protocol: &[u8]) -> bool {
        let port = without_underscore(port);
        (port.is_empty() || port.eq_ignore_ascii_case(self.name.as_bytes())) && is_protocol(protocol, self.protocol)
    }
}

impl ShownEndpoint<'_> {
    /// The endpoint's own labels, mostly one, in wire form: its host name, else its pod's name where that is shown, else its address with dashes.
    pub fn label(&self) -> Vec<u8> {
        let mut wire = Vec::with_capacity(16);
        self.push_label(&mut wire);
        wire
    }

    /// Appends them.
    pub fn push_label(&self, wire: &mut Vec<u8>) {
        match self.name {
            // The dots of a pod's name part labels, as in CoreDNS.
            Some(name) => name.split('.').for_each(|part| {
                wire.push(part.len() as u8);
                wire.extend(part.bytes().map(|byte| byte.to_ascii_lowercase()));
            }),
            None => {
                let text = dashed(self.address);
                wire.push(text.as_bytes().len() as u8);
                wire.extend_from_slice(text.as_bytes());
            }
        }
    }

    /// Whether this is the endpoint that a (lower-case) label names, when the label read as an address is `address`. One that is named by a pod with dots in its
    /// name cannot be asked for: two labels are a port, and more are too many.
    pub fn is_named(&self, label: &[u8], address: Option<IpAddr>) -> bool {
        match self.name {
            Some(name) => !name.contains('.') && name.as_bytes().eq_ignore_ascii_case(label),
            None => address == Some(self.address),
        }
    }
}

/// The address that a dashed label stands for, if it is written exactly as [`dashed`] writes it.
pub fn undashed(label: &[u8]) -> Option<IpAddr> {
    let address = pod_address(label)?;
    (dashed(address).as_bytes() == label).then_some(address)
}

/// The address in a pod's name, by CoreDNS's rule: exactly three dashes, none doubled, is IPv4; all else is tried as IPv6.
pub fn pod_address(label: &[u8]) -> Option<IpAddr> {
    let mut text = [0; MAX_LABEL];
    let text = text.get_mut(..label.len())?;
    text.copy_from_slice(label);
    let is_v4 = label.iter().filter(|byte| **byte == b'-').count() == 3 && !label.windows(2).any(|pair| pair == b"--");
    text.iter_mut().filter(|byte| **byte == b'-').for_each(|byte| *byte = if is_v4 { b'.' } else { b':' });
    let text = std::str::from_utf8(text).ok()?;
    if is_v4 { text.parse().ok().map(IpAddr::V4) } else { text.parse().ok().map(IpAddr::V6) }
}

/// An address as a label, without an allocation.
struct Dashed {
    text: [u8; MAX_LABEL],
    length: usize,
}

impl Dashed {
    fn as_bytes(&self) -> &[u8] {
        &self.text[..self.length]
    }
}

/// An address as a label. A label must not end in a dash: such an IPv6 address gets a zero at the end, as in CoreDNS.
fn dashed(address: IpAddr) -> Dashed {
    let mut text = [0; MAX_LABEL];
    let mut rest = &mut text[..];
    write!(rest, "{address}").expect("an address is shorter than a label");
    let mut length = MAX_LABEL - rest.len();
    text[..length].iter_mut().filter(|byte| matches!(byte, b':' | b'.')).for_each(|byte| *byte = b'-');
    if text[..length].ends_with(b"-") {
        text[length] = b'0';
        length += 1;
    }
    Dashed { text, length }
}

/// The key of a Service; `None` when namespace or name is no label.
pub fn service_labels(key: &ObjectKey) -> Option<ServiceLabels> {
    let mut wire = Vec::with_capacity(key.name.len() + key.namespace.len() + 2);
    push_label(&mut wire, key.name.as_bytes())?;
    push_label(&mut wire, key.namespace.as_bytes())?;
    wire.make_ascii_lowercase();
    Some(wire.into())
}

fn alias_target(target: &str) -> Option<DomainName> {
    let target = target.trim_end_matches('.');
    if target.is_empty() || target.parse::<IpAddr>().is_ok() {
        return None;
    }
    DomainName::parse(target)
}

fn service_ports(service: &Service) -> Box<[Port]> {
    let port = |port: &crate::model::ServicePort| Port { name: port.name.clone(), protocol: port.protocol, number: port.port };
    service.ports.iter().map(port).collect()
}

fn group(slice: &Slice) -> Group {
    let ports =
        slice.ports.iter().map(|port| Port { name: port.name.clone(), protocol: port.protocol, number: port.port }).collect();
    Group { cluster: None, ports, endpoints: slice.endpoints.clone(), details: slice.details.clone() }
}

fn is_protocol(label: &[u8], protocol: Protocol) -> bool {
    let label = without_underscore(label);
    label.is_empty() || label.eq_ignore_ascii_case(protocol.name().as_bytes())
}

fn without_underscore(label: &[u8]) -> &[u8] {
    label.strip_prefix(b"_").unwrap_or(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_without_a_host_name_are_named_by_their_address() {
        for (address, label) in [
            ("10.0.0.1", "10-0-0-1"),
            ("2001:db8::1", "2001-db8--1"),
            ("2001:db8::", "2001-db8--0"),
            ("::1", "--1"),
            ("::ffff:10.0.0.1", "--ffff-10-0-0-1"),
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(dashed(address).as_bytes(), label.as_bytes());
            if !label.starts_with("--ffff") {
                assert_eq!(undashed(label.as_bytes()), Some(address), "{label}");
            }
        }
    }

    #[test]
    fn a_label_that_is_written_differently_names_no_endpoint() {
        for label in ["10-0-0-01", "2001-db8-0-0-0-0-0-1", "web-0", "", "-", "2001-db8--00"] {
            assert_eq!(undashed(label.as_bytes()), None, "{label}");
        }
    }

    #[test]
    fn pod_names_follow_corednss_rule_for_families() {
        assert_eq!(pod_address(b"10-1-2-3"), "10.1.2.3".parse().ok());
        assert_eq!(pod_address(b"--1"), "::1".parse().ok());
        assert_eq!(pod_address(b"fd00--1-2"), "fd00::1:2".parse().ok());
        assert_eq!(pod_address(b"300-1-2-3"), None);
        assert_eq!(pod_address(b"web"), None);
    }
}
