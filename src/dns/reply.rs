//! A reply on its way out: our records as hickory's, encoding, and cutting to what the client can take.

use super::answer::{self, Answer, Code, Data, Owner};
use super::name::DomainName;
use super::resolve::Resolved;
use hickory_proto::op::{Edns, Message, Metadata, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record};
use hickory_proto::serialize::binary::{BinDecoder, BinEncoder};
use hickory_server::zone_handler::{MessageResponse, MessageResponseBuilder, Queries};
use std::slice::Iter;

/// The largest UDP payload that is sent, and advertised: it fits the smallest IPv6 packet with room for headers, so that no
/// answer is ever fragmented (DNS flag day 2020).
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

type Response<'a> = MessageResponse<'a, 'a, Iter<'a, Record>, Iter<'a, Record>, Iter<'a, Record>, Iter<'a, Record>>;

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

    /// Appends what an upstream says about the external name at which an alias points. The last name decides on the code
    /// (RFC 6604).
    pub fn append(&mut self, upstream: Message) {
        self.metadata.response_code = upstream.metadata.response_code;
        self.answers.extend(upstream.answers);
        self.authorities.extend(upstream.authorities);
    }

    /// Cuts the reply to `limit` bytes and returns its encoding. Addresses of targets go first, silently: the client can ask
    /// for them. If answers must go, as many as fit stay and TC says so (RFC 2181, section 9); old resolvers make do with them.
    pub fn fit(&mut self, queries: &Queries, limit: u16) -> Vec<u8> {
        if let Some(bytes) = self.encode(queries, self.answers.len(), limit) {
            return bytes;
        }
        self.additionals.clear();
        if let Some(bytes) = self.encode(queries, self.answers.len(), limit) {
            return bytes;
        }
        self.authorities.clear();
        self.metadata.truncation = true;
        let (mut fits, mut too_many) = (0, self.answers.len() + 1);
        while too_many - fits > 1 {
            let middle = fits + (too_many - fits) / 2;
            match self.encode(queries, middle, limit) {
                Some(_) => fits = middle,
                None => too_many = middle,
            }
        }
        self.answers.truncate(fits);
        self.encode(queries, fits, u16::MAX).unwrap_or_default()
    }

    fn response<'a>(&'a self, queries: &'a Queries, answers: usize) -> Response<'a> {
        let builder = MessageResponseBuilder::new(queries, self.edns.as_ref());
        builder.build(self.metadata, &self.answers[..answers], &self.authorities, &[], &self.additionals)
    }

    /// The encoding with the first `answers` answers; `None` when it is longer than `limit`. The encoder leaves out what does not
    /// fit, so it is the counts that tell.
    fn encode(&self, queries: &Queries, answers: usize, limit: u16) -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity(512);
        let mut encoder = BinEncoder::new(&mut bytes);
        encoder.set_max_size(limit);
        let sent = self.response(queries, answers).destructive_emit(&mut encoder).ok()?.counts();
        let whole = usize::from(sent.answers) == answers
            && usize::from(sent.authorities) == self.authorities.len()
            && usize::from(sent.additionals) == self.additionals.len() + usize::from(self.edns.is_some());
        whole.then_some(bytes)
    }
}

/// No question, for replies to messages that could not be read.
pub fn no_queries() -> Option<Queries> {
    Queries::read(&mut BinDecoder::new(&[]), 0).ok()
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
