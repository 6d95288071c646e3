//! A reply on its way out: our records as hickory's, encoding, and cutting to what the client can take.

use super::answer::{self, Answer, Code, Data, Owner};
use super::encode::Encoder;
use super::name::DomainName;
use super::resolve::Resolved;
use hickory_proto::op::{Edns, Header, HeaderCounts, Message, Metadata, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, OPT, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record};
use hickory_proto::serialize::binary::BinEncodable;

/// The largest UDP payload that is advertised, and sent unless a server block says otherwise (`bufsize`): it fits the smallest IPv6 packet with room for
/// headers, so that no answer is ever fragmented (DNS flag day 2020).
pub const UDP_PAYLOAD: u16 = 1232;
/// The largest UDP payload for a client that says nothing about its size (RFC 1035, section 4.2.1).
pub const PLAIN_UDP_PAYLOAD: u16 = 512;

/// A reply, except for the question that it repeats.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Id, flags and response code.
    pub metadata: Metadata,
    /// The answer section.
    pub answers: Vec<Record>,
    /// The authority section.
    pub authorities: Vec<Record>,
    /// The additional section, without OPT.
    pub additionals: Vec<Record>,
    /// The OPT record, where the client sent one.
    pub edns: Option<Edns>,
    /// Which part of Waypost the answer is from, in the words of CoreDNS's metrics: `kubernetes`, `forward`, `cache` or nothing.
    pub origin: &'static str,
}

impl Reply {
    /// An empty reply to a request: id, opcode, RD and CD repeated, and an OPT record if the client sent one.
    pub fn to(request: &Metadata, client: Option<&Edns>, code: ResponseCode) -> Reply {
        let mut metadata = Metadata::response_from_request(request);
        metadata.response_code = code;
        let edns = client.map(|client| {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_PAYLOAD).set_dnssec_ok(client.flags().dnssec_ok);
            edns
        });
        Reply { metadata, answers: Vec::new(), authorities: Vec::new(), additionals: Vec::new(), edns, origin: "" }
    }

    /// Puts in an answer from the cluster's records; `question` is the owner name as the client spelled it.
    pub fn fill(&mut self, answer: &Answer, question: &Name) {
        self.origin = "kubernetes";
        self.metadata.authoritative = true;
        self.metadata.response_code = match answer.code {
            Code::NoError => ResponseCode::NoError,
            Code::ServFail => ResponseCode::ServFail,
            Code::NxDomain => ResponseCode::NXDomain,
        };
        let convert = |records: &[answer::Record]| records.iter().map(|record| to_hickory(record, question)).collect();
        self.answers = convert(&answer.answers);
        self.authorities = convert(&answer.authority);
        self.additionals = convert(&answer.additional);
    }

    /// Hands on an upstream's reply: its code, its flags but those that belong to the client's request, and its sections. `question` is the name
    /// as the client spelled it: whoever asked first may have spelled it differently.
    pub fn hand_on(&mut self, resolved: Resolved, question: &Name) {
        self.origin = if resolved.cached { "cache" } else { "forward" };
        let upstream = resolved.message;
        let ours = self.metadata;
        self.metadata = upstream.metadata;
        self.metadata.id = ours.id;
        self.metadata.recursion_desired = ours.recursion_desired;
        self.metadata.checking_disabled = ours.checking_disabled;
        self.answers = upstream.answers;
        // Names are compared without regard to case.
        self.answers.iter_mut().filter(|record| record.name == *question).for_each(|record| record.name = question.clone());
        self.authorities = upstream.authorities;
        self.additionals = upstream.additionals;
        if let (Some(edns), Some(theirs)) = (&mut self.edns, upstream.edns) {
            *edns.options_mut() = theirs.options().clone();
        } else if self.metadata.response_code.high() > 0 {
            // Without an OPT record the upper bits of the code cannot be said, and the rest would mean something else.
            self.metadata.response_code = ResponseCode::ServFail;
        }
    }

    /// Appends what is said about the external name at which an alias points. The last name decides on the code
    /// (RFC 6604).
    pub fn append(&mut self, target: Reply) {
        self.metadata.response_code = target.metadata.response_code;
        self.answers.extend(target.answers);
        self.authorities.extend(target.authorities);
    }

    /// Cuts the reply to `limit` bytes and returns its encoding. Addresses of targets go first, silently, and all of a name and type together: the client
    /// can ask for them. If answers must go, as many as fit stay and TC says so (RFC 2181, section 9); old resolvers make do with them.
    pub fn fit(&mut self, query: Option<&Query>, limit: u16) -> Vec<u8> {
        let mut message = Encoder::new(limit.into());
        query.into_iter().for_each(|query| message.question(query));
        let mut opt = opt_record(self.edns.as_ref(), &self.metadata);
        if !message.keep(opt.len())
            && let Some(edns) = &mut self.edns
        {
            // An upstream's options that a client has no room for: without any there is always enough.
            *edns.options_mut() = OPT::default();
            opt = opt_record(Some(edns), &self.metadata);
            message.keep(opt.len());
        }
        let answers = message.records(&self.answers).len();
        let behind_answers = message.length();
        let mut authorities = message.records(&self.authorities).len();
        let mut additionals = 0;
        if answers == self.answers.len() && authorities == self.authorities.len() {
            let behind_authorities = message.length();
            let ends = message.records(&self.additionals);
            additionals = whole_sets(&self.additionals, ends.len());
            message.back_to(additionals.checked_sub(1).map_or(behind_authorities, |last| ends[last]));
        } else {
            message.back_to(behind_answers);
            authorities = 0;
            self.metadata.truncation = true;
        }
        let bytes = message.into_bytes();
        self.answers.truncate(answers);
        self.authorities.truncate(authorities);
        self.additionals.truncate(additionals);
        finished(bytes, self.metadata, [query.is_some().into(), answers, authorities, additionals], &opt)
    }
}

/// A message as it is, in wire form; `None` when it is longer than any can be. hickory writes out names in full after a while, and takes more room.
pub(super) fn to_bytes(message: &Message) -> Option<Vec<u8>> {
    let opt = opt_record(message.edns.as_ref(), &message.metadata);
    let mut encoder = Encoder::new(usize::from(u16::MAX).checked_sub(opt.len())?);
    message.queries.iter().for_each(|query| encoder.question(query));
    let sections = [&message.answers, &message.authorities, &message.additionals];
    let [answers, authorities, additionals] = sections.map(Vec::len);
    let is_whole = sections.into_iter().all(|section| encoder.records(section).len() == section.len());
    let counts = [message.queries.len(), answers, authorities, additionals];
    is_whole.then(|| finished(encoder.into_bytes(), message.metadata, counts, &opt))
}

/// The OPT record in wire form, which has the upper bits of the code; nothing where there is none.
fn opt_record(edns: Option<&Edns>, metadata: &Metadata) -> Vec<u8> {
    let Some(mut opt) = edns.cloned() else { return Vec::new() };
    opt.set_rcode_high(metadata.response_code.high());
    opt.to_bytes().unwrap_or_default()
}

/// Adds the OPT record and the header, with the counts of questions, answers, authorities and additional records.
fn finished(mut bytes: Vec<u8>, metadata: Metadata, counts: [usize; 4], opt: &[u8]) -> Vec<u8> {
    bytes.extend_from_slice(opt);
    let [queries, answers, authorities, additionals] = counts.map(|count| u16::try_from(count).unwrap_or(u16::MAX));
    let counts = HeaderCounts { queries, answers, authorities, additionals: additionals + u16::from(!opt.is_empty()) };
    let header = Header { metadata, counts }.to_bytes().unwrap_or_default();
    bytes[..header.len()].copy_from_slice(&header);
    bytes
}

/// How many of these records are kept where so many fit, without a part of a set (RFC 2181, section 9).
fn whole_sets(records: &[Record], fitting: usize) -> usize {
    let set = |place: usize| records.get(place).map(|record| (&record.name, record.record_type()));
    (0..=fitting).rev().find(|kept| *kept == 0 || set(*kept) != set(kept - 1)).unwrap_or(0)
}

/// A name of hickory's in our form; `None` for names that are not fully qualified.
pub fn from_hickory(name: &Name) -> Option<DomainName> {
    DomainName::from_labels(name.iter())
}

/// One of our names in hickory's form.
pub fn name_to_hickory(name: &DomainName) -> Name {
    Name::from_labels(name.labels()).unwrap_or_else(|_| Name::root())
}

fn to_hickory(record: &answer::Record, question: &Name) -> Record {
    let owner = match &record.owner {
        Owner::Question => question.clone(),
        Owner::Name(name) => name_to_hickory(name),
    };
    let data = match &record.data {
        Data::A(address) => RData::A(A(*address)),
        Data::Aaaa(address) => RData::AAAA(AAAA(*address)),
        Data::Cname(name) => RData::CNAME(CNAME(name_to_hickory(name))),
        Data::Ns(name) => RData::NS(NS(name_to_hickory(name))),
        Data::Ptr(name) => RData::PTR(PTR(name_to_hickory(name))),
        Data::Srv { priority, weight, port, target } => RData::SRV(SRV::new(*priority, *weight, *port, name_to_hickory(target))),
        Data::Txt(text) => RData::TXT(TXT::new(vec![(*text).to_string()])),
        Data::Soa { primary, mailbox, serial, refresh, retry, expire, minimum } => {
            let seconds = |value: &u32| i32::try_from(*value).unwrap_or(i32::MAX);
            let (primary, mailbox) = (name_to_hickory(primary), name_to_hickory(mailbox));
            RData::SOA(SOA::new(primary, mailbox, *serial, seconds(refresh), seconds(retry), seconds(expire), *minimum))
        }
    };
    Record::from_rdata(owner, record.ttl, data)
}
