//! The fast path: plain questions that the records can answer, or a cache, from a datagram to the bytes of its reply, without an allocation.
//!
//! It says exactly what the other path says (`respond.rs`, `answer.rs`, `reply.rs`), byte by byte, but for the order of addresses, and leaves to
//! that path whatever is not plain: other classes and opcodes, EDNS with options, aliases, the zone's own records, and names outside the zone.
//! What a name is, both ask of the same code (`lookup.rs`). Pure.

mod ask;
mod compose;
mod kept;

pub use kept::{Kept, Wanted};

use super::answer::{SOA_TTL_MAX, rtype};
use super::cache::Key;
use super::lookup::{self, Node, Target};
use super::name::MAX_NAME;
use super::records::{Unheard, View};
use super::service_record::{RecordKind, ServiceRecord};
use ask::Asked;
use compose::{Data, Reply, Section};
use std::net::IpAddr;

/// SRV records and reverse names are compared with each other; where there are more, the other path does it.
const MOST_COMPARED: usize = 64;

const NX_DOMAIN: u8 = 3;
const SERV_FAIL: u8 = 2;

/// Answers questions. Each thread has its own, because its memory is used again for each question.
pub struct Composer {
    reply: Reply,
    lower: Vec<u8>,
    addresses: Vec<IpAddr>,
    names: Names,
    kept: Vec<u8>,
    random: u64,
}

/// A reply, and what the metrics want to know of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Composed<'a> {
    /// The whole datagram.
    pub bytes: &'a [u8],
    /// The type that was asked for.
    pub rtype: u16,
    /// The response code.
    pub code: u8,
    /// Whether the DO bit was set.
    pub dnssec_ok: bool,
}

impl Composer {
    /// One that shuffles addresses by this seed.
    pub fn new(seed: u64) -> Composer {
        Composer {
            reply: Reply::default(),
            lower: Vec::with_capacity(MAX_NAME + Key::TAIL),
            addresses: Vec::new(),
            names: Names::default(),
            kept: Vec::new(),
            random: seed | 1,
        }
    }

    /// The reply to a datagram, from the records; `None` where the other path must look at it.
    pub fn answer(&mut self, view: &View<'_>, datagram: &[u8]) -> Option<Composed<'_>> {
        self.answer_asked(Some(view), &Asked::read(datagram)?, |_| None, |_| ())
    }

    /// The same for a message that came over TCP.
    pub fn answer_message(&mut self, view: &View<'_>, message: &[u8]) -> Option<Composed<'_>> {
        self.answer_asked(Some(view), &Asked::read_message(message)?, |_| None, |_| ())
    }

    /// The reply to a datagram, or to a message that came over TCP, from the records, or else made of what `find` has for it in a cache;
    /// `leave` is told where that cannot be done.
    pub fn answer_with(
        &mut self,
        view: Option<&View<'_>>,
        message: &[u8],
        over_tcp: bool,
        find: impl FnOnce(Wanted<'_>) -> Option<Kept>,
        leave: impl FnOnce(Wanted<'_>),
    ) -> Option<Composed<'_>> {
        let asked = if over_tcp { Asked::read_message(message) } else { Asked::read(message) };
        self.answer_asked(view, &asked?, find, leave)
    }

    fn answer_asked(
        &mut self,
        view: Option<&View<'_>>,
        asked: &Asked<'_>,
        find: impl FnOnce(Wanted<'_>) -> Option<Kept>,
        leave: impl FnOnce(Wanted<'_>),
    ) -> Option<Composed<'_>> {
        self.lower.clear();
        self.lower.extend(asked.name.iter().map(u8::to_ascii_lowercase));
        let mut lower = std::mem::take(&mut self.lower);
        let of_records =
            view.and_then(|view| self.compose(view, asked, &lower)).filter(|_| !(asked.over_tcp && self.reply.is_cut()));
        let code = of_records.or_else(|| self.compose_kept(asked, &mut lower, find, leave));
        self.lower = lower;
        let (code, rtype, dnssec_ok) = (code?, asked.rtype, asked.wants_dnssec());
        let bytes = match of_records {
            Some(_) => {
                self.reply.code(code);
                self.reply.finish(asked)
            }
            None => &self.kept,
        };
        Some(Composed { bytes, rtype, code, dnssec_ok })
    }

    /// Writes the whole reply that is made of what a cache has, and says the code.
    fn compose_kept(
        &mut self,
        asked: &Asked<'_>,
        name: &mut Vec<u8>,
        find: impl FnOnce(Wanted<'_>) -> Option<Kept>,
        leave: impl FnOnce(Wanted<'_>),
    ) -> Option<u8> {
        if !asked.is_recursive() {
            return None;
        }
        name.extend(Key::tail(asked.rtype, asked.wants_dnssec(), asked.is_unchecked()));
        let wanted = Wanted { name: &name[..asked.name.len()], rtype: asked.rtype, key: name };
        let code = kept::compose(&mut self.kept, asked, &find(wanted)?, |limit| below(&mut self.random, limit));
        if code.is_none() {
            leave(wanted);
        }
        code
    }

    /// An empty reply that sends a client to TCP; `None` where the question is not plain.
    pub fn to_tcp(&mut self, datagram: &[u8]) -> Option<&[u8]> {
        let asked = Asked::read(datagram)?;
        self.reply.begin(&asked);
        self.reply.sends_to_tcp();
        Some(self.reply.finish(&asked))
    }

    /// An empty reply that says that something failed; `None` where the question is not plain.
    pub fn failure(&mut self, datagram: &[u8]) -> Option<&[u8]> {
        let asked = Asked::read(datagram)?;
        self.reply.begin(&asked);
        self.reply.code(SERV_FAIL);
        Some(self.reply.finish(&asked))
    }

    /// Writes everything but the end, and says the code.
    fn compose(&mut self, view: &View<'_>, asked: &Asked<'_>, name: &[u8]) -> Option<u8> {
        self.reply.begin(asked);
        if asked.rtype == rtype::PTR {
            match self.pointers(view, asked, name)? {
                Ok(true) => return Some(0),
                Ok(false) => {}
                Err(Unheard) => return Some(SERV_FAIL),
            }
        }
        lookup::relative(view.zone(), name)?;
        let node = lookup::find(view, name);
        match &node {
            // Seldom asked, and made of other things than one service.
            Node::Apex | Node::Version | Node::NameServer => return None,
            Node::Unheard => return Some(SERV_FAIL),
            Node::Missing if !view.is_synced() => return Some(SERV_FAIL),
            // Asked elsewhere.
            Node::Missing if view.shape().lets_through(name) => return None,
            Node::Missing => return self.nothing(view).then_some(NX_DOMAIN),
            _ if node.service().is_some_and(|service| matches!(service.kind, RecordKind::Alias(_))) => return None,
            _ if asked.is_for_addresses() => self.addresses(view, asked, &node),
            _ if asked.rtype == rtype::SRV => self.services(view, asked, &node)?,
            _ => {}
        }
        let is_empty = self.reply.count(Section::Answer) == 0;
        (!is_empty || self.nothing(view)).then_some(0)
    }

    /// The zone's SOA, which goes with a negative answer. False in the rare case that it does not fit.
    fn nothing(&mut self, view: &View<'_>) -> bool {
        let zone = without_root(view.zone().as_wire());
        let mut name = [0; MAX_NAME];
        let mut name_of = |labels: &[u8]| match name.get_mut(..labels.len() + zone.len()) {
            Some(place) if place.len() < MAX_NAME => {
                place[..labels.len()].copy_from_slice(labels);
                place[labels.len()..].copy_from_slice(zone);
                (name, labels.len() + zone.len())
            }
            _ => {
                name[..zone.len()].copy_from_slice(zone);
                (name, zone.len())
            }
        };
        let (primary, mailbox) = (name_of(b"\x02ns\x03dns"), name_of(b"\x0ahostmaster"));
        let numbers = [view.records().serial(), 7200, 1800, 86400, view.ttl()];
        let data = Data::Zone { primary: &primary.0[..primary.1], mailbox: &mailbox.0[..mailbox.1], numbers };
        self.reply.record(Section::Authority, zone, rtype::SOA, view.ttl().min(SOA_TTL_MAX), data)
    }

    /// Each address of the asked family once, in any order, as many as fit.
    fn addresses(&mut self, view: &View<'_>, asked: &Asked<'_>, node: &Node<'_>) {
        let is_v4 = asked.rtype == rtype::A;
        self.addresses.clear();
        node.each_address(|address| {
            if address.is_ipv4() == is_v4 {
                self.addresses.push(address);
            }
        });
        if asked.over_tcp && !self.reply.may_have(self.addresses.len()) {
            return;
        }
        if self.addresses.len() > 1 {
            self.addresses.sort_unstable();
            self.addresses.dedup();
        }
        let owner = without_root(asked.name);
        for place in 0..self.addresses.len() {
            let other = place + below(&mut self.random, self.addresses.len() - place);
            self.addresses.swap(place, other);
            let fits = match self.addresses[place] {
                IpAddr::V4(v4) => self.reply.record(Section::Answer, owner, rtype::A, view.ttl(), Data::Bytes(&v4.octets())),
                IpAddr::V6(v6) => self.reply.record(Section::Answer, owner, rtype::AAAA, view.ttl(), Data::Bytes(&v6.octets())),
            };
            if !fits {
                return self.reply.truncated();
            }
        }
    }

    /// SRV records and the addresses of their targets. `None` when there are too many.
    fn services(&mut self, view: &View<'_>, asked: &Asked<'_>, node: &Node<'_>) -> Option<()> {
        let Some(service) = node.service() else { return Some(()) };
        self.names.clear();
        let mut count = 0_usize;
        node.each_target(|target| {
            count += 1;
            if count <= MOST_COMPARED {
                self.names.push(view, &service, target);
            }
        });
        if count > MOST_COMPARED {
            return None;
        }
        let weight = (100 / count.max(1)).max(1) as u16;
        let owner = without_root(asked.name);
        for (index, target) in self.names.entries.iter().enumerate() {
            let is_new = |before: &Entry| before.port != target.port || self.names.of(before) != self.names.of(target);
            if self.names.entries[..index].iter().all(is_new) {
                let data = Data::Service { numbers: [0, weight, target.port], target: self.names.of(target) };
                if !self.reply.record(Section::Answer, owner, rtype::SRV, view.ttl(), data) {
                    self.reply.truncated();
                    return Some(());
                }
            }
        }
        self.addresses_of_targets(view.ttl());
        Some(())
    }

    /// The addresses of the targets; all of a name and family or none, and none after the first that do not fit.
    fn addresses_of_targets(&mut self, ttl: u32) {
        let entries = &self.names.entries;
        let is_of_one_set = |one: &Entry, other: &Entry| {
            one.address.is_ipv4() == other.address.is_ipv4() && self.names.of(one) == self.names.of(other)
        };
        for (index, first) in entries.iter().enumerate() {
            if entries[..index].iter().any(|before| is_of_one_set(before, first)) {
                continue;
            }
            let before = self.reply.mark();
            for (index, target) in entries.iter().enumerate().skip(index).filter(|(_, target)| is_of_one_set(target, first)) {
                let is_again = |before: &Entry| before.address == target.address && is_of_one_set(before, target);
                if entries[..index].iter().any(is_again) {
                    continue;
                }
                let owner = self.names.of(target);
                let fits = match target.address {
                    IpAddr::V4(v4) => self.reply.record(Section::Additional, owner, rtype::A, ttl, Data::Bytes(&v4.octets())),
                    IpAddr::V6(v6) => self.reply.record(Section::Additional, owner, rtype::AAAA, ttl, Data::Bytes(&v6.octets())),
                };
                if !fits {
                    self.reply.back_to(before);
                    return;
                }
            }
        }
    }

    /// The names at an address of the cluster, and whether there are any. `None` when there are too many.
    fn pointers(&mut self, view: &View<'_>, asked: &Asked<'_>, name: &[u8]) -> Option<Result<bool, Unheard>> {
        let is_shown = view.shape().reverse_zone_of(name).is_some();
        let Some(address) = lookup::reverse_address(name).filter(|_| is_shown) else { return Some(Ok(false)) };
        self.names.clear();
        let mut count = 0_usize;
        let told = lookup::each_name_at(view, address, |service, endpoint| {
            count += 1;
            if count <= MOST_COMPARED {
                self.names.push(view, &service, Target { endpoint, cluster: None, address, port: 0 });
            }
        });
        if told.is_err() {
            return Some(Err(Unheard));
        }
        if count > MOST_COMPARED {
            return None;
        }
        let owner = without_root(asked.name);
        for (index, target) in self.names.entries.iter().enumerate() {
            if self.names.entries[..index].iter().all(|before| self.names.of(before) != self.names.of(target))
                && !self.reply.record(Section::Answer, owner, rtype::PTR, view.ttl(), Data::Name(self.names.of(target)))
            {
                self.reply.truncated();
                break;
            }
        }
        Some(Ok(!self.names.entries.is_empty()))
    }
}

/// A number below this one.
fn below(random: &mut u64, limit: usize) -> usize {
    // Xorshift (Marsaglia), as in the other path.
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    (*random >> 32) as usize % limit
}

/// Names of hosts, with address and port.
#[derive(Default)]
struct Names {
    spelled: Vec<u8>,
    entries: Vec<Entry>,
}

struct Entry {
    start: usize,
    end: usize,
    address: IpAddr,
    port: u16,
}

impl Names {
    fn clear(&mut self) {
        self.spelled.clear();
        self.entries.clear();
    }

    /// Adds `endpoint.service.namespace.svc.zone`, unless it is too long for a name.
    fn push(&mut self, view: &View<'_>, service: &ServiceRecord, target: Target<'_>) {
        let start = self.spelled.len();
        target.push_labels(&mut self.spelled);
        self.spelled.extend_from_slice(&service.labels);
        self.spelled.extend_from_slice(b"\x03svc");
        self.spelled.extend_from_slice(without_root(view.zone().as_wire()));
        let end = self.spelled.len();
        if end - start < MAX_NAME {
            self.entries.push(Entry { start, end, address: target.address, port: target.port });
        }
    }

    fn of(&self, entry: &Entry) -> &[u8] {
        &self.spelled[entry.start..entry.end]
    }
}

fn without_root(name: &[u8]) -> &[u8] {
    name.strip_suffix(&[0]).unwrap_or(name)
}
