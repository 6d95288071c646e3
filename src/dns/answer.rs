//! From a question to the sections of its answer, by the Kubernetes DNS specification 1.1.0 and, beyond it, CoreDNS's habits.
//!
//! Pure: no socket, no DNS library. A question is a lower-cased name in wire form and a type; an owner name that equals the
//! question is said as [`Owner::Question`], so that whoever encodes the answer echoes the client's spelling (0x20) for free.

use super::name::{DomainName, Labels};
use super::records::Records;
use super::service_record::{EndpointRecord, Group, Port, RecordKind, ServiceRecord, pod_address, undashed};
use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// The record types that the cluster's names know (IANA numbers). Any other type is NODATA where the name exists.
pub mod rtype {
    /// An IPv4 address.
    pub const A: u16 = 1;
    /// A name server of a zone.
    pub const NS: u16 = 2;
    /// An alias.
    pub const CNAME: u16 = 5;
    /// The start of a zone.
    pub const SOA: u16 = 6;
    /// A reverse name.
    pub const PTR: u16 = 12;
    /// Text.
    pub const TXT: u16 = 16;
    /// An IPv6 address.
    pub const AAAA: u16 = 28;
    /// Port and host of a service (RFC 2782).
    pub const SRV: u16 = 33;
}

/// How many aliases are followed before the chain counts as broken; CoreDNS follows as many.
pub const MAX_ALIASES: usize = 10;
const VERSION: &str = "1.1.0";
const VERSION_TTL: u32 = 28_800;
const SOA_TTL_MAX: u32 = 300;

/// A question of class IN.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The name in wire form, lower case.
    pub name: &'a [u8],
    /// The record type.
    pub rtype: u16,
}

/// What the records have to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This is the answer.
    Answer(Answer),
    /// The name is not the cluster's: ask elsewhere.
    Elsewhere,
}

/// An authoritative answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The response code.
    pub code: Code,
    /// The answer section.
    pub answers: Vec<Record>,
    /// The authority section: the zone's SOA where the answer is negative.
    pub authority: Vec<Record>,
    /// The additional section: addresses of the targets.
    pub additional: Vec<Record>,
    /// The answer ends in an alias for this name outside the cluster: resolve it and append what comes.
    pub pursue: Option<DomainName>,
}

/// The response codes that records can lead to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Code {
    /// The name exists, though perhaps without records of this type.
    #[default]
    NoError,
    /// Cannot say: not everything has been listed yet, or an alias goes round in circles.
    ServFail,
    /// The name does not exist.
    NxDomain,
}

/// A resource record of class IN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The owner.
    pub owner: Owner,
    /// Time to live, seconds.
    pub ttl: u32,
    /// Type and data.
    pub data: Data,
}

/// The owner of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The name of the question, spelled as the client spelled it.
    Question,
    /// Another name.
    Name(DomainName),
}

/// Type and data of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// An IPv4 address.
    A(Ipv4Addr),
    /// An IPv6 address.
    Aaaa(Ipv6Addr),
    /// The name behind an alias.
    Cname(DomainName),
    /// A name server.
    Ns(DomainName),
    /// The name at an address.
    Ptr(DomainName),
    /// Where a service is (RFC 2782).
    Srv {
        /// Lower ones are tried first.
        priority: u16,
        /// The share among equal priorities.
        weight: u16,
        /// The port.
        port: u16,
        /// The host.
        target: DomainName,
    },
    /// One string.
    Txt(&'static str),
    /// The zone's parameters (RFC 1035, section 3.3.13); times in seconds.
    Soa {
        /// The zone's name server.
        primary: DomainName,
        /// Who runs it, as a name.
        mailbox: DomainName,
        /// The version: Unix time of the last change.
        serial: u32,
        /// How often a secondary should look.
        refresh: u32,
        /// How soon it should look again after a failure.
        retry: u32,
        /// When it should stop answering.
        expire: u32,
        /// How long a negative answer may be remembered (RFC 2308).
        minimum: u32,
    },
}

/// Answers a question. `seed` decides the order of addresses: equal seeds give equal answers.
pub fn answer(records: &Records, question: Question<'_>, seed: u64) -> Verdict {
    if let Some(answer) = reverse(records, question) {
        return Verdict::Answer(answer);
    }
    if !is_in_zone(records, question.name) {
        return Verdict::Elsewhere;
    }
    let mut answer = follow(records, question);
    shuffle_addresses(&mut answer.answers, seed);
    Verdict::Answer(answer)
}

/// Answers from the zone, through aliases inside it.
fn follow(records: &Records, question: Question<'_>) -> Answer {
    let mut answer = Answer::default();
    let mut alias: Option<DomainName> = None;
    for _ in 0..=MAX_ALIASES {
        let name = alias.as_ref().map_or(question.name, |alias| alias.as_wire());
        let owner = alias.clone().map_or(Owner::Question, Owner::Name);
        let node = find(records, name);
        if let (Node::Service(service), true) = (&node, question.rtype != rtype::CNAME)
            && let RecordKind::Alias(Some(target)) = &service.kind
        {
            answer.answers.push(Record { owner, ttl: records.ttl(), data: Data::Cname(target.clone()) });
            let target = target.to_lower();
            if !is_in_zone(records, target.as_wire()) {
                answer.pursue = Some(target);
                return answer;
            }
            alias = Some(target);
            continue;
        }
        fill(records, &node, owner, question.rtype, &mut answer);
        return answer;
    }
    Answer { code: Code::ServFail, ..Answer::default() }
}

/// What a name in the zone is.
enum Node {
    Missing,
    /// Exists without records: names above others, and endpoints' protocols.
    Bare,
    Apex,
    Version,
    NameServer,
    Service(Arc<ServiceRecord>),
    Port {
        service: Arc<ServiceRecord>,
        port: Vec<u8>,
        protocol: Vec<u8>,
    },
    Endpoint {
        service: Arc<ServiceRecord>,
        label: Vec<u8>,
        address: Option<IpAddr>,
    },
    Pod(IpAddr),
}

fn is_in_zone(records: &Records, name: &[u8]) -> bool {
    relative(records, name).is_some()
}

/// The part of a name in front of the zone, in wire form without the root; `None` outside.
fn relative<'a>(records: &Records, name: &'a [u8]) -> Option<&'a [u8]> {
    let zone = records.zone().as_wire();
    let length = name.len().checked_sub(zone.len())?;
    let (front, back) = name.split_at(length);
    let whole_labels = || Labels::of(front).map(|label| label.len() + 1).sum::<usize>() == front.len();
    (back == zone && whole_labels()).then_some(front)
}

fn find(records: &Records, name: &[u8]) -> Node {
    let Some(front) = relative(records, name) else { return Node::Missing };
    let labels: Vec<&[u8]> = Labels::of(front).collect();
    match labels.as_slice() {
        [] => Node::Apex,
        [b"dns-version"] => Node::Version,
        [b"dns"] | [b"svc"] | [b"pod"] => Node::Bare,
        [b"ns", b"dns"] => Node::NameServer,
        [namespace, b"svc" | b"pod"] => if_namespace(records, namespace, Node::Bare),
        [label, namespace, b"pod"] => match pod_address(label) {
            Some(address) => if_namespace(records, namespace, Node::Pod(address)),
            None => Node::Missing,
        },
        [below @ .., service, namespace, b"svc"] => {
            let key_length = service.len() + namespace.len() + 2;
            let key_end = front.len() - b"\x03svc".len();
            match records.service(&front[key_end - key_length..key_end]) {
                Some(service) => find_in_service(service, below),
                None => Node::Missing,
            }
        }
        _ => Node::Missing,
    }
}

fn if_namespace(records: &Records, namespace: &[u8], node: Node) -> Node {
    if records.has_namespace(namespace) { node } else { Node::Missing }
}

fn find_in_service(service: Arc<ServiceRecord>, below: &[&[u8]]) -> Node {
    let exists = match &service.kind {
        RecordKind::ClusterIp => true,
        RecordKind::Headless => service.endpoints().next().is_some(),
        RecordKind::Alias(target) => target.is_some() && below.is_empty(),
        RecordKind::SlicesOnly => false,
    };
    if !exists {
        return Node::Missing;
    }
    match below {
        [] => Node::Service(service),
        [label] => {
            let address = undashed(label);
            if service.endpoints().any(|endpoint| endpoint.is_named(label, address)) {
                Node::Endpoint { service, label: label.to_vec(), address }
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
                _ => service.groups.iter().any(|group| group.ports.iter().any(matches)),
            };
            if found { Node::Port { service, port: port.to_vec(), protocol: protocol.to_vec() } } else { Node::Missing }
        }
        _ => Node::Missing,
    }
}

/// Fills in the records of one type at a node, or the negative answer.
fn fill(records: &Records, node: &Node, owner: Owner, rtype: u16, answer: &mut Answer) {
    let before = answer.answers.len();
    let mut put = |ttl, data| answer.answers.push(Record { owner: owner.clone(), ttl, data });
    match node {
        Node::Missing if records.is_synced() => answer.code = Code::NxDomain,
        Node::Missing => {
            *answer = Answer { code: Code::ServFail, ..Answer::default() };
            return;
        }
        Node::Bare => {}
        Node::Apex if rtype == rtype::SOA => put(soa_ttl(records), soa(records)),
        Node::Apex if rtype == rtype::NS => {
            let servers = name_servers(records);
            answer.additional = servers.iter().map(|(name, address)| address_record(records, name, *address)).collect();
            let distinct: BTreeSet<DomainName> = servers.into_iter().map(|(name, _)| name).collect();
            distinct.into_iter().for_each(|name| put(records.ttl(), Data::Ns(name)));
        }
        Node::Apex => {}
        Node::Version if rtype == rtype::TXT => put(VERSION_TTL, Data::Txt(VERSION)),
        Node::Version => {}
        Node::NameServer => put_addresses(records, name_servers(records).into_iter().map(|(_, address)| address), rtype, put),
        Node::Pod(address) => put_addresses(records, [*address], rtype, put),
        Node::Service(service) => match (&service.kind, rtype) {
            (RecordKind::Alias(Some(target)), rtype::CNAME) => put(records.ttl(), Data::Cname(target.clone())),
            (_, rtype::SRV) => put_services(records, service_targets(service, |_| true), owner, answer),
            (RecordKind::ClusterIp, _) => put_addresses(records, service.cluster_ips.iter().copied(), rtype, put),
            _ => put_addresses(records, service.endpoints().map(|endpoint| endpoint.address), rtype, put),
        },
        Node::Port { service, port, protocol } => {
            let matches = |candidate: &Port| candidate.is(port, protocol);
            if rtype == rtype::SRV {
                put_services(records, service_targets(service, matches), owner, answer);
            } else if service.kind == RecordKind::ClusterIp {
                put_addresses(records, service.cluster_ips.iter().copied(), rtype, put);
            } else {
                let groups = service.groups.iter().filter(|group| group.ports.iter().any(matches));
                put_addresses(records, groups.flat_map(addresses_of), rtype, put);
            }
        }
        Node::Endpoint { service, label, address } => {
            if rtype == rtype::SRV {
                let mut targets = endpoint_targets(service, |_| true);
                targets.retain(|target| target.label.get(1..) == Some(label));
                put_services(records, Targets { labels: &service.labels, list: targets }, owner, answer);
            } else {
                let named = service.endpoints().filter(|endpoint| endpoint.is_named(label, *address));
                put_addresses(records, named.map(|endpoint| endpoint.address), rtype, put);
            }
        }
    }
    if answer.answers.len() == before {
        answer.authority.push(apex_record(records));
    }
}

/// Names and addresses of the zone's name servers: those of the Services to which the addresses that DNS is served on belong, so that they stay
/// the same whichever server answers; without such a Service the addresses themselves (CoreDNS's `ns.go`).
fn name_servers(records: &Records) -> Vec<(DomainName, IpAddr)> {
    let own = records.name_server();
    let mut servers = BTreeSet::new();
    for service in own.iter().flat_map(|address| records.services_at(*address)) {
        let label_and_address = |endpoint: &EndpointRecord| (endpoint.label(), endpoint.address);
        let of_service: Vec<(Vec<u8>, IpAddr)> = match service.kind {
            RecordKind::ClusterIp => service.cluster_ips.iter().map(|address| (Vec::new(), *address)).collect(),
            RecordKind::Headless => service.endpoints().map(label_and_address).collect(),
            RecordKind::Alias(_) | RecordKind::SlicesOnly => Vec::new(),
        };
        let named =
            |(label, address): (Vec<u8>, IpAddr)| Some((in_zone(records, &[&label, &service.labels, b"\x03svc"])?, address));
        servers.extend(of_service.into_iter().filter_map(named));
    }
    if servers.is_empty() {
        let name = in_zone(records, &[b"\x02ns\x03dns"]);
        servers.extend(own.iter().filter_map(|address| Some((name.clone()?, *address))));
    }
    servers.into_iter().collect()
}

/// Adds each address of the asked family once.
fn put_addresses(records: &Records, addresses: impl IntoIterator<Item = IpAddr>, rtype: u16, mut put: impl FnMut(u32, Data)) {
    let mut seen = HashSet::new();
    for address in addresses {
        match address {
            IpAddr::V4(v4) if rtype == rtype::A && seen.insert(address) => put(records.ttl(), Data::A(v4)),
            IpAddr::V6(v6) if rtype == rtype::AAAA && seen.insert(address) => put(records.ttl(), Data::Aaaa(v6)),
            _ => {}
        }
    }
}

/// The targets of an SRV answer.
struct Targets<'a> {
    labels: &'a [u8],
    list: Vec<Target>,
}

struct Target {
    /// The endpoint's label in wire form; empty for the Service itself.
    label: Vec<u8>,
    address: IpAddr,
    port: u16,
}

fn service_targets(service: &ServiceRecord, matches: impl Fn(&Port) -> bool) -> Targets<'_> {
    let list = match service.kind {
        RecordKind::ClusterIp => {
            let ports: Vec<u16> = service.ports.iter().filter(|port| matches(port)).map(|port| port.number).collect();
            let pairs = service.cluster_ips.iter().flat_map(|address| ports.iter().map(|port| (*address, *port)));
            pairs.map(|(address, port)| Target { label: Vec::new(), address, port }).collect()
        }
        _ => endpoint_targets(service, matches),
    };
    Targets { labels: &service.labels, list }
}

fn endpoint_targets(service: &ServiceRecord, matches: impl Fn(&Port) -> bool) -> Vec<Target> {
    let mut list = Vec::new();
    for group in &service.groups {
        for endpoint in &group.endpoints {
            let ports = group.ports.iter().filter(|port| matches(port));
            list.extend(ports.map(|port| Target { label: endpoint.label(), address: endpoint.address, port: port.number }));
        }
    }
    list
}

/// Adds SRV records and the addresses of their targets. Weights share 100 among the pairs of address and port, before
/// duplicates go, as CoreDNS counts them.
fn put_services(records: &Records, targets: Targets<'_>, owner: Owner, answer: &mut Answer) {
    let weight = (100 / targets.list.len().max(1)).max(1) as u16;
    let (mut services, mut glue) = (HashSet::new(), HashSet::new());
    for target in targets.list {
        let Some(name) = in_zone(records, &[&target.label, targets.labels, b"\x03svc"]) else { continue };
        if glue.insert((name.clone(), target.address)) {
            answer.additional.push(address_record(records, &name, target.address));
        }
        if services.insert((name.clone(), target.port)) {
            let data = Data::Srv { priority: 0, weight, port: target.port, target: name };
            answer.answers.push(Record { owner: owner.clone(), ttl: records.ttl(), data });
        }
    }
}

/// The answer to a reverse question about an address that the cluster knows.
fn reverse(records: &Records, question: Question<'_>) -> Option<Answer> {
    if question.rtype != rtype::PTR {
        return None;
    }
    let address = reverse_address(question.name)?;
    let mut targets = Vec::new();
    for service in records.services_at(address) {
        if service.kind == RecordKind::ClusterIp && service.cluster_ips.contains(&address) {
            targets.extend(in_zone(records, &[&service.labels, b"\x03svc"]));
            continue;
        }
        let endpoints = service.endpoints().filter(|endpoint| endpoint.address == address);
        targets.extend(endpoints.filter_map(|endpoint| in_zone(records, &[&endpoint.label(), &service.labels, b"\x03svc"])));
    }
    let mut seen = HashSet::new();
    targets.retain(|target| seen.insert(target.clone()));
    let pointer = |target| Record { owner: Owner::Question, ttl: records.ttl(), data: Data::Ptr(target) };
    (!targets.is_empty()).then(|| Answer { answers: targets.into_iter().map(pointer).collect(), ..Answer::default() })
}

/// The address in a whole name under `in-addr.arpa` or `ip6.arpa` (RFC 1035, section 3.5; RFC 3596, section 2.5).
fn reverse_address(name: &[u8]) -> Option<IpAddr> {
    let labels: Vec<&[u8]> = Labels::of(name).collect();
    match labels.as_slice() {
        [d, c, b, a, b"in-addr", b"arpa"] => {
            let octets = [a, b, c, d].map(|label| octet(label));
            let [Some(a), Some(b), Some(c), Some(d)] = octets else { return None };
            Some(IpAddr::V4(Ipv4Addr::new(a, b, c, d)))
        }
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

fn addresses_of(group: &Group) -> impl Iterator<Item = IpAddr> {
    group.endpoints.iter().map(|endpoint| endpoint.address)
}

fn in_zone(records: &Records, labels: &[&[u8]]) -> Option<DomainName> {
    DomainName::concat(labels, records.zone())
}

fn address_record(records: &Records, owner: &DomainName, address: IpAddr) -> Record {
    let data = match address {
        IpAddr::V4(address) => Data::A(address),
        IpAddr::V6(address) => Data::Aaaa(address),
    };
    Record { owner: Owner::Name(owner.clone()), ttl: records.ttl(), data }
}

fn apex_record(records: &Records) -> Record {
    Record { owner: Owner::Name(records.zone().clone()), ttl: soa_ttl(records), data: soa(records) }
}

fn soa_ttl(records: &Records) -> u32 {
    records.ttl().min(SOA_TTL_MAX)
}

fn soa(records: &Records) -> Data {
    let name = |labels: &[u8]| in_zone(records, &[labels]).unwrap_or_else(|| records.zone().clone());
    Data::Soa {
        primary: name(b"\x02ns\x03dns"),
        mailbox: name(b"\x0ahostmaster"),
        serial: records.serial(),
        refresh: 7200,
        retry: 1800,
        expire: 86400,
        minimum: records.ttl(),
    }
}

/// Shuffles the addresses at the end of the answer section; aliases before them keep their places (CoreDNS's `loadbalance`).
fn shuffle_addresses(answers: &mut [Record], seed: u64) {
    let first = answers.iter().position(|record| matches!(record.data, Data::A(_) | Data::Aaaa(_))).unwrap_or(answers.len());
    let addresses = &mut answers[first..];
    let mut state = seed | 1;
    for last in (1..addresses.len()).rev() {
        // Xorshift (Marsaglia): fair enough for spreading clients, and a nanosecond a step.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        addresses.swap(last, ((state >> 32) as usize) % (last + 1));
    }
}
