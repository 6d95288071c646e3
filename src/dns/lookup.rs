//! What a name is: the tree of the cluster's names, by the Kubernetes DNS specification 1.1.0 and CoreDNS's habits.
//!
//! Pure, and without allocation: what is found is borrowed from the records and the question.

use super::name::{DomainName, Labels, push_label};
use super::records::{Unheard, View};
use super::service_record::{Port, RecordKind, Shown, ShownEndpoint, ShownGroup, pod_address, undashed};
use super::shape::{PodNames, Shape};
use crate::model::Name;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The most labels that a name of the cluster has before the zone: `_port._proto.service.namespace.svc`.
const MAX_LABELS: usize = 5;

/// What a name in the zone is.
pub enum Node<'a> {
    Missing,
    /// Nobody can say yet whether it exists.
    Unheard,
    /// Exists without records: names above others, and endpoints' protocols.
    Bare,
    Apex,
    Version,
    NameServer,
    Service(Shown<'a>),
    Port {
        service: Shown<'a>,
        port: &'a [u8],
        protocol: &'a [u8],
    },
    Endpoint {
        service: Shown<'a>,
        label: &'a [u8],
        address: Option<IpAddr>,
        /// The other cluster that it is in, of an imported service.
        cluster: Option<&'a [u8]>,
    },
    /// The endpoints of a headless service in a zone of nodes.
    Zonal {
        service: Shown<'a>,
        /// The zone, in wire form without the root: its name may have dots.
        zone: &'a [u8],
        /// Whether all endpoints count where the zone has none (`prefer`, as opposed to `pin`).
        prefers: bool,
    },
    Pod(IpAddr),
}

/// The part of a (lower-case) name in front of the zone, in wire form without the root; `None` outside.
pub fn relative<'a>(zone: &DomainName, name: &'a [u8]) -> Option<&'a [u8]> {
    zone.is_above(name).then(|| &name[..name.len() - zone.as_wire().len()])
}

/// Finds a lower-case name of the zone.
pub fn find<'a>(view: &'a View<'_>, name: &'a [u8]) -> Node<'a> {
    let Some(front) = relative(view.zone(), name) else { return Node::Missing };
    let mut labels = [&[][..]; MAX_LABELS];
    let mut count = 0;
    for label in Labels::of(front) {
        let Some(place) = labels.get_mut(count) else { return find_in_zone(view, front) };
        *place = label;
        count += 1;
    }
    match labels[..count] {
        [] => Node::Apex,
        [b"dns-version"] => Node::Version,
        [b"dns"] | [b"svc"] => Node::Bare,
        [.., b"pod"] if view.shape().pods == PodNames::Disabled => Node::Missing,
        [b"pod"] => Node::Bare,
        [b"ns", b"dns"] => Node::NameServer,
        [namespace, b"svc" | b"pod"] => if_namespace(view, namespace, Node::Bare),
        [label, namespace, b"pod"] => match pod_address(label) {
            Some(address) if view.shape().pods == PodNames::Verified => verified(view, namespace, address),
            Some(address) => if_namespace(view, namespace, Node::Pod(address)),
            None => Node::Missing,
        },
        [ref below @ .., service, namespace, b"svc"] => match view.service(key_in(front, service, namespace)) {
            Ok(Some(service)) if view.is_multicluster() => find_in_import(view.shape(), service, below),
            Ok(Some(service)) => find_in_service(view.shape(), service, below),
            Ok(None) => Node::Missing,
            Err(Unheard) => Node::Unheard,
        },
        _ => Node::Missing,
    }
}

fn if_namespace<'a>(view: &View<'_>, namespace: &[u8], node: Node<'a>) -> Node<'a> {
    match view.has_namespace(namespace) {
        Ok(true) => node,
        Ok(false) => Node::Missing,
        Err(Unheard) => Node::Unheard,
    }
}

fn verified<'a>(view: &View<'_>, namespace: &[u8], address: IpAddr) -> Node<'a> {
    match view.has_pod(namespace, address) {
        Ok(true) => if_namespace(view, namespace, Node::Pod(address)),
        Ok(false) => Node::Missing,
        Err(Unheard) => Node::Unheard,
    }
}

/// The labels of service and namespace, which stand before `svc` at the end of these.
fn key_in<'a>(front: &'a [u8], service: &[u8], namespace: &[u8]) -> &'a [u8] {
    let end = front.len() - b"\x03svc".len();
    &front[end - service.len() - namespace.len() - 2..end]
}

/// Names for a zone of nodes, which are longer than all others: `zone.pin._zone.service.namespace.svc` and the same with `prefer`.
fn find_in_zone<'a>(view: &'a View<'_>, front: &'a [u8]) -> Node<'a> {
    if !view.shape().zonal || view.is_multicluster() {
        return Node::Missing;
    }
    let count = Labels::of(front).count();
    let mut last = Labels::of(front).skip(count - MAX_LABELS);
    let last: [&[u8]; MAX_LABELS] = std::array::from_fn(|_| last.next().unwrap_or_default());
    let [directive, b"_zone", service, namespace, b"svc"] = last else { return Node::Missing };
    let prefers = match directive {
        b"pin" => false,
        b"prefer" => true,
        _ => return Node::Missing,
    };
    let zone = &front[..front.len() - last.iter().map(|label| label.len() + 1).sum::<usize>()];
    match view.service(key_in(front, service, namespace)) {
        Ok(Some(service)) if service.kind == RecordKind::Headless && !service.knows_zones() => Node::Unheard,
        Ok(Some(service)) if service.kind == RecordKind::Headless => Node::Zonal { service, zone, prefers },
        Ok(_) => Node::Missing,
        Err(Unheard) => Node::Unheard,
    }
}

fn is_zone(wire: &[u8], zone: &str) -> bool {
    let same = |(label, part): (&[u8], &str)| label.eq_ignore_ascii_case(part.as_bytes());
    Labels::of(wire).count() == zone.split('.').count() && Labels::of(wire).zip(zone.split('.')).all(same)
}

fn find_in_service<'a>(shape: &Shape, service: Shown<'a>, below: &[&'a [u8]]) -> Node<'a> {
    let exists = match &service.kind {
        RecordKind::ClusterIp => shape.empty_services || service.endpoints().next().is_some(),
        RecordKind::Headless => shape.endpoints && service.endpoints().next().is_some(),
        RecordKind::Alias(target) => target.is_some() && below.is_empty(),
        RecordKind::SlicesOnly => false,
    };
    if !exists {
        return Node::Missing;
    }
    match *below {
        [] => Node::Service(service),
        [label] => {
            let address = undashed(label);
            if shape.endpoints && service.endpoints().any(|endpoint| endpoint.is_named(label, address)) {
                Node::Endpoint { service, label, address, cluster: None }
            } else if service.has_protocol(label) {
                Node::Bare
            } else {
                Node::Missing
            }
        }
        [port, protocol] => {
            let matches = |candidate: &Port| candidate.is(port, protocol);
            let found = match service.kind {
                RecordKind::ClusterIp => service.ports.iter().any(matches),
                _ => service.groups().any(|group| group.ports().iter().any(matches)),
            };
            if found { Node::Port { service, port, protocol } } else { Node::Missing }
        }
        _ => Node::Missing,
    }
}

/// Names of services of other clusters: an endpoint is `endpoint.cluster`, so that two labels are a port only where one of them says so with an
/// underscore (CoreDNS's `parse.go`).
fn find_in_import<'a>(shape: &Shape, service: Shown<'a>, below: &[&'a [u8]]) -> Node<'a> {
    let is_there = |group: ShownGroup<'_>, cluster: &[u8]| group.cluster().is_some_and(|name| name.as_bytes() == cluster);
    match *below {
        [cluster] if service.groups().any(|group| shape.endpoints && is_there(group, cluster)) => Node::Bare,
        [label] if service.has_protocol(label) => Node::Bare,
        [_] => Node::Missing,
        [label, cluster] if !label.starts_with(b"_") && !cluster.starts_with(b"_") => {
            let address = undashed(label);
            let mut endpoints = service.groups().filter(|group| is_there(*group, cluster)).flat_map(ShownGroup::endpoints);
            if shape.endpoints && endpoints.any(|endpoint| endpoint.is_named(label, address)) {
                Node::Endpoint { service, label, address, cluster: Some(cluster) }
            } else {
                Node::Missing
            }
        }
        _ => find_in_service(shape, service, below),
    }
}

/// The target of an SRV record.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// The endpoint; `None` stands for the Service itself.
    pub endpoint: Option<ShownEndpoint<'a>>,
    /// The other cluster that the endpoint is in.
    pub cluster: Option<&'a Name>,
    pub address: IpAddr,
    pub port: u16,
}

impl<'a> Node<'a> {
    /// Tells every address at this node, of both families and perhaps some of them twice. The name server's are not the node's own.
    pub fn each_address(&self, mut tell: impl FnMut(IpAddr)) {
        match *self {
            Node::Pod(address) => tell(address),
            Node::Service(service) | Node::Port { service, .. } if service.kind == RecordKind::ClusterIp => {
                service.cluster_ips.iter().for_each(|address| tell(*address));
            }
            Node::Service(service) => service.endpoints().for_each(|endpoint| tell(endpoint.address)),
            Node::Port { service, port, protocol } => {
                let has_port = |group: &ShownGroup<'_>| group.ports().iter().any(|candidate| candidate.is(port, protocol));
                let endpoints = service.groups().filter(has_port).flat_map(ShownGroup::endpoints);
                endpoints.for_each(|endpoint| tell(endpoint.address));
            }
            Node::Endpoint { service, label, address, cluster } => {
                let endpoints = service.groups().filter(|group| is_in(group.cluster(), cluster)).flat_map(ShownGroup::endpoints);
                endpoints.filter(|endpoint| endpoint.is_named(label, address)).for_each(|endpoint| tell(endpoint.address));
            }
            Node::Zonal { service, zone, prefers } => {
                each_in_zone(service, zone, prefers, |_, endpoint| tell(endpoint.address));
            }
            Node::Missing | Node::Unheard | Node::Bare | Node::Apex | Node::Version | Node::NameServer => {}
        }
    }

    /// Tells the target of each SRV record at this node, perhaps some of them twice; and nothing where there are no such records.
    pub fn each_target(&self, mut tell: impl FnMut(Target<'a>)) {
        match *self {
            Node::Service(service) => each_target_of(service, |_| true, tell),
            Node::Port { service, port, protocol } => each_target_of(service, |candidate| candidate.is(port, protocol), tell),
            Node::Endpoint { service, label, address, cluster } => each_endpoint_of(
                service,
                |_| true,
                |target| {
                    let is_named = target.endpoint.is_some_and(|endpoint| endpoint.is_named(label, address));
                    if is_named && is_in(target.cluster, cluster) {
                        tell(target);
                    }
                },
            ),
            Node::Zonal { service, zone, prefers } => each_in_zone(service, zone, prefers, |group, endpoint| {
                let target = |port: &Port| Target {
                    endpoint: Some(endpoint),
                    cluster: None,
                    address: endpoint.address,
                    port: port.number,
                };
                group.ports().iter().map(target).for_each(&mut tell);
            }),
            _ => {}
        }
    }

    /// The Service to which the node belongs.
    pub fn service(&self) -> Option<Shown<'a>> {
        match *self {
            Node::Service(service)
            | Node::Port { service, .. }
            | Node::Endpoint { service, .. }
            | Node::Zonal { service, .. } => Some(service),
            _ => None,
        }
    }
}

/// Whether endpoints of this cluster are meant.
fn is_in(own: Option<&Name>, asked: Option<&[u8]>) -> bool {
    asked.is_none_or(|asked| own.is_some_and(|own| own.as_bytes() == asked))
}

impl Target<'_> {
    /// Appends the labels in front of the service's: the endpoint, and the cluster that it is in.
    pub fn push_labels(&self, wire: &mut Vec<u8>) {
        if let Some(endpoint) = self.endpoint {
            endpoint.push_label(wire);
            if let Some(cluster) = self.cluster {
                // One that is no label makes the whole name none, which is then left out.
                let _ = push_label(wire, cluster.as_bytes());
            }
        }
    }
}

/// Tells the endpoints in a zone of nodes; all of them where there are none and they are preferred only.
fn each_in_zone<'a>(service: Shown<'a>, zone: &[u8], prefers: bool, mut tell: impl FnMut(ShownGroup<'a>, ShownEndpoint<'a>)) {
    let all = || service.groups().flat_map(|group| group.endpoints().map(move |endpoint| (group, endpoint)));
    let is_there = |endpoint: &ShownEndpoint<'_>| endpoint.zone.is_some_and(|name| is_zone(zone, name));
    let everywhere = prefers && !all().any(|(_, endpoint)| is_there(&endpoint));
    all().filter(|(_, endpoint)| everywhere || is_there(endpoint)).for_each(|(group, endpoint)| tell(group, endpoint));
}

fn each_target_of<'a>(service: Shown<'a>, matches: impl Fn(&Port) -> bool, mut tell: impl FnMut(Target<'a>)) {
    if service.kind != RecordKind::ClusterIp {
        return each_endpoint_of(service, matches, tell);
    }
    for address in &service.record().cluster_ips {
        let ports = service.record().ports.iter().filter(|port| matches(port));
        ports.for_each(|port| tell(Target { endpoint: None, cluster: None, address: *address, port: port.number }));
    }
}

fn each_endpoint_of<'a>(service: Shown<'a>, matches: impl Fn(&Port) -> bool, mut tell: impl FnMut(Target<'a>)) {
    for group in service.groups() {
        for endpoint in group.endpoints() {
            let ports = group.ports().iter().filter(|port| matches(port));
            let cluster = group.cluster();
            ports.for_each(|port| {
                tell(Target { endpoint: Some(endpoint), cluster, address: endpoint.address, port: port.number })
            });
        }
    }
}

/// The address in a whole name under `in-addr.arpa` or `ip6.arpa` (RFC 1035, section 3.5; RFC 3596, section 2.5).
pub fn reverse_address(name: &[u8]) -> Option<IpAddr> {
    let mut labels = [&[][..]; 34];
    let mut count = 0;
    for label in Labels::of(name) {
        *labels.get_mut(count)? = label;
        count += 1;
    }
    match &labels[..count] {
        [d, c, b, a, b"in-addr", b"arpa"] => Some(IpAddr::V4(Ipv4Addr::new(octet(a)?, octet(b)?, octet(c)?, octet(d)?))),
        [nibbles @ .., b"ip6", b"arpa"] if nibbles.len() == 32 => {
            let mut value = 0_u128;
            for label in nibbles.iter().rev() {
                let [digit] = label else { return None };
                value = value << 4 | u128::from(char::from(*digit).to_digit(16)?);
            }
            Some(IpAddr::V6(Ipv6Addr::from_bits(value)))
        }
        _ => None,
    }
}

/// A decimal octet without leading zeros: there is one reverse name for an address.
fn octet(label: &[u8]) -> Option<u8> {
    let canonical = label == b"0" || !label.starts_with(b"0");
    let text = std::str::from_utf8(label).ok().filter(|text| canonical && text.bytes().all(|byte| byte.is_ascii_digit()))?;
    text.parse().ok()
}

/// Tells the names at an address that the cluster knows: each one's Service, and the endpoint if it is one's. Perhaps some of them twice.
///
/// # Errors
/// Nobody can say yet which names there are.
pub fn each_name_at<'a>(
    view: &'a View<'_>,
    address: IpAddr,
    mut tell: impl FnMut(Shown<'a>, Option<ShownEndpoint<'a>>),
) -> Result<(), Unheard> {
    for (service, is_own) in view.named_at(address)? {
        if is_own {
            tell(service, None);
            continue;
        }
        let endpoints = service.endpoints().filter(|endpoint| view.shape().endpoints && endpoint.address == address);
        endpoints.for_each(|endpoint| tell(service, Some(endpoint)));
    }
    Ok(())
}
