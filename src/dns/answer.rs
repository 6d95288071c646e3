//! From a question to the sections of its answer, by the Kubernetes DNS specification 1.1.0 and, beyond it, CoreDNS's habits.
//!
//! Pure: no socket, no DNS library. A question is a lower-cased name in wire form and a type; an owner name that equals the
//! question is said as [`Owner::Question`], so that whoever encodes the answer echoes the client's spelling (0x20) for free.

use super::lookup::{self, Node};
use super::name::DomainName;
use super::records::{Records, Unheard, View};
use super::service_record::{RecordKind, ShownEndpoint};
use super::shape::Shape;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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
pub(super) const SOA_TTL_MAX: u32 = 300;

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

/// Answers a question, with the records in their own shape. `seed` decides the order of addresses: equal seeds give equal answers.
pub fn answer(records: &Records, question: Question<'_>, seed: u64) -> Verdict {
    answer_as(records, records.shape(), question, Some(seed))
}

/// Answers a question, with the records in this shape. Without a seed addresses stay in their order.
pub fn answer_as(records: &Records, shape: &Shape, question: Question<'_>, seed: Option<u64>) -> Verdict {
    if let Some(zone) = shape.reverse_zone_of(question.name) {
        return reverse(&records.view_as(shape, zone), question);
    }
    let Some(zone) = shape.zone_of(question.name) else { return Verdict::Elsewhere };
    let mut answer = follow(&records.view_as(shape, zone), question);
    if answer.code == Code::NxDomain && answer.answers.is_empty() && shape.lets_through(question.name) {
        return Verdict::Elsewhere;
    }
    if let Some(seed) = seed {
        shuffle_addresses(&mut answer.answers, seed);
    }
    Verdict::Answer(answer)
}

/// Answers from the zone, through aliases inside it.
fn follow(view: &View<'_>, question: Question<'_>) -> Answer {
    let mut answer = Answer::default();
    let mut alias: Option<DomainName> = None;
    for _ in 0..=MAX_ALIASES {
        let name = alias.as_ref().map_or(question.name, |alias| alias.as_wire());
        let owner = alias.clone().map_or(Owner::Question, Owner::Name);
        let node = lookup::find(view, name);
        if let (Node::Service(service), true) = (&node, question.rtype != rtype::CNAME)
            && let RecordKind::Alias(Some(target)) = &service.kind
        {
            answer.answers.push(Record { owner, ttl: view.ttl(), data: Data::Cname(target.clone()) });
            let target = target.to_lower();
            if !view.zone().is_above(target.as_wire()) {
                answer.pursue = Some(target);
                return answer;
            }
            alias = Some(target);
            continue;
        }
        fill(view, &node, owner, question.rtype, &mut answer);
        return answer;
    }
    Answer { code: Code::ServFail, ..Answer::default() }
}

/// Fills in the records of one type at a node, or the negative answer.
fn fill(view: &View<'_>, node: &Node<'_>, owner: Owner, rtype: u16, answer: &mut Answer) {
    let before = answer.answers.len();
    let mut put = |ttl, data| answer.answers.push(Record { owner: owner.clone(), ttl, data });
    match node {
        Node::Missing if view.is_synced() => answer.code = Code::NxDomain,
        Node::Missing | Node::Unheard => {
            *answer = Answer { code: Code::ServFail, ..Answer::default() };
            return;
        }
        Node::Bare => {}
        Node::Apex if rtype == rtype::SOA => put(soa_ttl(view), soa(view)),
        Node::Apex if rtype == rtype::NS => {
            let servers = name_servers(view);
            answer.additional = servers.iter().map(|(name, address)| address_record(view, name, *address)).collect();
            let distinct: BTreeSet<DomainName> = servers.into_iter().map(|(name, _)| name).collect();
            distinct.into_iter().for_each(|name| put(view.ttl(), Data::Ns(name)));
        }
        Node::Apex => {}
        Node::Version if rtype == rtype::TXT => put(VERSION_TTL, Data::Txt(VERSION)),
        Node::Version => {}
        Node::NameServer => put_addresses(view, name_servers(view).into_iter().map(|(_, address)| address), rtype, put),
        _ if rtype == rtype::SRV => put_services(view, node, owner, answer),
        Node::Service(service) if rtype == rtype::CNAME => {
            if let RecordKind::Alias(Some(target)) = &service.kind {
                put(view.ttl(), Data::Cname(target.clone()));
            }
        }
        _ => {
            let mut addresses = Vec::new();
            node.each_address(|address| addresses.push(address));
            put_addresses(view, addresses, rtype, put);
        }
    }
    if answer.answers.len() == before {
        answer.authority.push(apex_record(view));
    }
}

/// Names and addresses of the zone's name servers: those of the Services to which the addresses that DNS is served on belong, so that they stay
/// the same whichever server answers; without such a Service the addresses themselves (CoreDNS's `ns.go`).
fn name_servers(view: &View<'_>) -> Vec<(DomainName, IpAddr)> {
    let own = view.records().name_server();
    let mut servers = BTreeSet::new();
    for service in own.iter().flat_map(|address| view.services_at(*address)) {
        let label_and_address = |endpoint: ShownEndpoint<'_>| (endpoint.label(), endpoint.address);
        let of_service: Vec<(Vec<u8>, IpAddr)> = match service.kind {
            RecordKind::ClusterIp => service.cluster_ips.iter().map(|address| (Vec::new(), *address)).collect(),
            RecordKind::Headless => service.endpoints().map(label_and_address).collect(),
            RecordKind::Alias(_) | RecordKind::SlicesOnly => Vec::new(),
        };
        let named = |(label, address): (Vec<u8>, IpAddr)| Some((in_zone(view, &[&label, &service.labels, b"\x03svc"])?, address));
        servers.extend(of_service.into_iter().filter_map(named));
    }
    if servers.is_empty() {
        let name = in_zone(view, &[b"\x02ns\x03dns"]);
        servers.extend(own.iter().filter_map(|address| Some((name.clone()?, *address))));
    }
    servers.into_iter().collect()
}

/// Adds each address of the asked family once.
fn put_addresses(view: &View<'_>, addresses: impl IntoIterator<Item = IpAddr>, rtype: u16, mut put: impl FnMut(u32, Data)) {
    let mut seen = HashSet::new();
    for address in addresses {
        match address {
            IpAddr::V4(v4) if rtype == rtype::A && seen.insert(address) => put(view.ttl(), Data::A(v4)),
            IpAddr::V6(v6) if rtype == rtype::AAAA && seen.insert(address) => put(view.ttl(), Data::Aaaa(v6)),
            _ => {}
        }
    }
}

/// Adds SRV records and the addresses of their targets. Weights share 100 among the pairs of address and port, before
/// duplicates go, as CoreDNS counts them.
fn put_services(view: &View<'_>, node: &Node<'_>, owner: Owner, answer: &mut Answer) {
    let Some(service) = node.service() else { return };
    let mut targets = Vec::new();
    node.each_target(|target| targets.push(target));
    let weight = (100 / targets.len().max(1)).max(1) as u16;
    let (mut services, mut glue, mut sets) = (HashSet::new(), HashSet::new(), HashMap::new());
    let mut addresses = Vec::new();
    for target in targets {
        let mut labels = Vec::with_capacity(16);
        target.push_labels(&mut labels);
        let Some(name) = in_zone(view, &[&labels, &service.labels, b"\x03svc"]) else { continue };
        if glue.insert((name.clone(), target.address)) {
            let next = sets.len();
            let set = *sets.entry((name.clone(), target.address.is_ipv4())).or_insert(next);
            addresses.push((set, address_record(view, &name, target.address)));
        }
        if services.insert((name.clone(), target.port)) {
            let data = Data::Srv { priority: 0, weight, port: target.port, target: name };
            answer.answers.push(Record { owner: owner.clone(), ttl: view.ttl(), data });
        }
    }
    // Those of a name and family stand together: where there is not room for all of them there is for none.
    addresses.sort_by_key(|(set, _)| *set);
    answer.additional.extend(addresses.into_iter().map(|(_, record)| record));
}

/// What is known about a reverse name. What is not known is asked elsewhere where the shape says so, and does not exist otherwise.
fn reverse(view: &View<'_>, question: Question<'_>) -> Verdict {
    if question.rtype == rtype::PTR {
        let Ok(targets) = lookup::reverse_address(question.name).map_or(Ok(Vec::new()), |address| names_at(view, address)) else {
            return Verdict::Answer(Answer { code: Code::ServFail, ..Answer::default() });
        };
        let pointer = |target| Record { owner: Owner::Question, ttl: view.ttl(), data: Data::Ptr(target) };
        if !targets.is_empty() {
            return Verdict::Answer(Answer { answers: targets.into_iter().map(pointer).collect(), ..Answer::default() });
        }
    }
    // The zone itself is answered in any case, as CoreDNS does.
    let is_apex = question.name == view.zone().as_wire();
    if !is_apex && view.shape().lets_through(question.name) {
        return Verdict::Elsewhere;
    }
    let node = if is_apex { Node::Apex } else { Node::Missing };
    let mut answer = Answer::default();
    fill(view, &node, Owner::Question, question.rtype, &mut answer);
    Verdict::Answer(answer)
}

/// The names at an address, in the first zone.
fn names_at(view: &View<'_>, address: IpAddr) -> Result<Vec<DomainName>, Unheard> {
    let Some(zone) = view.shape().zones.first() else { return Ok(Vec::new()) };
    let mut targets = Vec::new();
    lookup::each_name_at(view, address, |service, endpoint| {
        let label = endpoint.map(|endpoint| endpoint.label()).unwrap_or_default();
        targets.extend(DomainName::concat(&[&label, &service.labels, b"\x03svc"], zone));
    })?;
    let mut seen = HashSet::new();
    targets.retain(|target| seen.insert(target.clone()));
    Ok(targets)
}

fn in_zone(view: &View<'_>, labels: &[&[u8]]) -> Option<DomainName> {
    DomainName::concat(labels, view.zone())
}

fn address_record(view: &View<'_>, owner: &DomainName, address: IpAddr) -> Record {
    let data = match address {
        IpAddr::V4(address) => Data::A(address),
        IpAddr::V6(address) => Data::Aaaa(address),
    };
    Record { owner: Owner::Name(owner.clone()), ttl: view.ttl(), data }
}

fn apex_record(view: &View<'_>) -> Record {
    Record { owner: Owner::Name(view.zone().clone()), ttl: soa_ttl(view), data: soa(view) }
}

fn soa_ttl(view: &View<'_>) -> u32 {
    view.ttl().min(SOA_TTL_MAX)
}

fn soa(view: &View<'_>) -> Data {
    let name = |labels: &[u8]| in_zone(view, &[labels]).unwrap_or_else(|| view.zone().clone());
    Data::Soa {
        primary: name(b"\x02ns\x03dns"),
        mailbox: name(b"\x0ahostmaster"),
        serial: view.records().serial(),
        refresh: 7200,
        retry: 1800,
        expire: 86400,
        minimum: view.ttl(),
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
