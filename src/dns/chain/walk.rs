//! One question's way through a block, plugin by plugin, in CoreDNS's order.

use super::extras::Extras;
use super::hosts::Found;
use super::listener::Listener;
use super::model::AclAction;
use super::plan::Plan;
use super::rewrite::{self, AnswerRule, Renaming};
use super::server::Server;
use super::template;
use super::text;
use crate::dns::answer::{self, Question, Verdict};
use crate::dns::forward::{ForwardError, PROBE_TYPE};
use crate::dns::limits::Limits;
use crate::dns::metrics::{Metrics, Place, Transport};
use crate::dns::name::DomainName;
use crate::dns::records::Records;
use crate::dns::reply::{self, Reply, UDP_PAYLOAD};
use crate::dns::resolve::{Resolved, Resolver};
use crate::dns::shape::PodNames;
use crate::dns::trace::{self, Step};
use futures::FutureExt;
use futures::future::BoxFuture;
use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption, NSIDPayload};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, HINFO, PTR, SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_server::net::xfer::Protocol;
use hickory_server::server::Request;
use rand::seq::SliceRandom;
use std::net::IpAddr;
use tracing::{debug, warn};

/// How often a question may lead to another one inside the server: aliases of services, and whatever plugins look up.
const MAX_DEPTH: usize = 8;
/// The option of extended errors, and two of them (RFC 8914).
const EXTENDED_ERROR: u16 = 15;
const BLOCKED: u16 = 15;
const FILTERED: u16 = 17;
/// The TTL of the answer to ANY (CoreDNS's).
const ANY_TTL: u32 = 8482;
/// The TTL of an address without an SOA beside it (RFC 6147, section 5.1.7).
const DNS64_TTL: u32 = 600;

/// One client's question and everything by which it is answered.
#[derive(Clone, Copy)]
pub(in crate::dns) struct Walk<'a> {
    /// The cluster's names.
    pub records: &'a Records,
    /// What is configured.
    pub plan: &'a Plan,
    /// What is answered on the address on which the question came.
    pub listener: &'a Listener,
    /// What is counted.
    pub metrics: &'a Metrics,
    /// The labels of the metrics.
    pub place: &'a Place,
    /// The question as it came.
    pub request: &'a Request,
    /// What is under way beside.
    pub limits: &'a Limits,
}

/// What is asked, perhaps not what the client has asked.
#[derive(Clone, Debug)]
pub(in crate::dns) struct Asked {
    /// The name as it is spelled.
    pub name: Name,
    /// The same in lower case.
    pub lower: DomainName,
    /// The type.
    pub rtype: RecordType,
    /// The class.
    pub class: DNSClass,
    /// Whether others may be asked to look further.
    pub recursion: bool,
}

impl Asked {
    /// The same question for another name.
    fn with_name(&self, name: DomainName) -> Asked {
        Asked { name: reply::name_to_hickory(&name), lower: name.to_lower(), ..self.clone() }
    }
}

/// What becomes of a question.
pub(in crate::dns) enum Outcome {
    /// This is said.
    Reply(Box<Reply>),
    /// Nobody has said anything; this code is said then. With it the part that failed, in the words of CoreDNS's metrics.
    Code(ResponseCode, &'static str),
    /// Nothing is said at all.
    Silence,
}

impl<'a> Walk<'a> {
    /// Answers a question in this block.
    pub async fn answer(self, server: &'a Server, asked: &Asked) -> Outcome {
        let outcome = self.chain(server, asked, 0).await;
        match (outcome, server.extras.as_ref().and_then(|extras| extras.nsid.as_ref())) {
            (Outcome::Reply(mut reply), Some(nsid)) if self.has_option(EdnsCode::NSID) => {
                if let (Some(edns), Ok(payload)) = (&mut reply.edns, NSIDPayload::new(nsid.clone())) {
                    // An upstream server may have said its own, or the question's.
                    edns.options_mut().remove(EdnsCode::NSID);
                    edns.options_mut().insert(EdnsOption::NSID(payload));
                }
                Outcome::Reply(reply)
            }
            (outcome, _) => outcome,
        }
    }

    /// The whole block.
    async fn chain(self, server: &'a Server, asked: &Asked, depth: usize) -> Outcome {
        let Some(extras) = server.extras.as_deref() else {
            return shuffled(server, self.names(server, asked, depth).await);
        };
        let outcome = self.below_dns64(server, extras, asked, depth).await;
        match (&extras.dns64, outcome) {
            (Some(dns64), Outcome::Reply(reply)) if self.needs_dns64(dns64, asked, &reply) => {
                let question = Asked { rtype: RecordType::A, ..asked.with_name(asked.lower.clone()) };
                let found = match self.look_up(question, depth + 1).await {
                    Outcome::Reply(found) => *found,
                    Outcome::Code(code, _) => self.fresh(code),
                    Outcome::Silence => return Outcome::Silence,
                };
                Outcome::Reply(Box::new(self.translated(dns64, &reply, found, asked)))
            }
            (_, outcome) => outcome,
        }
    }

    fn needs_dns64(self, dns64: &super::extras::Dns64, asked: &Asked, reply: &Reply) -> bool {
        let is_ipv6 = !self.request.src().ip().to_canonical().is_ipv4();
        if asked.rtype != RecordType::AAAA || asked.class != DNSClass::IN || !(dns64.allow_ipv4 || is_ipv6) {
            return false;
        }
        let is_missing = reply.metadata.response_code == ResponseCode::NXDomain && has(&reply.authorities, RecordType::SOA);
        !is_missing && (dns64.translate_all || !has(&reply.answers, RecordType::AAAA))
    }

    /// The answer about IPv4 addresses as one about IPv6 addresses (RFC 6147, section 5.1).
    fn translated(self, dns64: &super::extras::Dns64, empty: &Reply, found: Reply, asked: &Asked) -> Reply {
        let soa = empty.authorities.iter().find(|record| record.record_type() == RecordType::SOA);
        let longest = soa.map_or(DNS64_TTL, |soa| soa.ttl);
        // That the other question failed says nothing about the name.
        let mut reply = self.fresh(found.metadata.response_code);
        reply.origin = "dns64";
        reply.metadata.truncation = found.metadata.truncation;
        reply.authorities = found.authorities;
        reply.additionals = found.additionals;
        reply.answers = found.answers;
        for record in &mut reply.answers {
            // The name as the client has spelled it.
            if record.name == asked.name {
                record.name = asked.name.clone();
            }
            if let RData::A(A(address)) = record.data {
                record.data = RData::AAAA(AAAA(dns64.address(address)));
                record.ttl = record.ttl.min(longest);
            }
        }
        reply
    }

    async fn below_dns64(self, server: &'a Server, extras: &'a Extras, asked: &Asked, depth: usize) -> Outcome {
        if extras.any && asked.rtype == RecordType::ANY {
            let data = RData::HINFO(HINFO::new("ANY obsoleted".to_string(), "See RFC 8482".to_string()));
            return self.say("any", false, vec![Record::from_rdata(asked.name.clone(), ANY_TTL, data)]);
        }
        if let Some(chaos) = extras.chaos.as_ref().filter(|_| asked.class == DNSClass::CH) {
            return self.about_server(chaos, asked);
        }
        shuffled(server, self.rewritten(server, extras, asked, depth).await)
    }

    /// Questions about the server itself, of class CH. There are no others of this class.
    fn about_server(self, chaos: &super::extras::Chaos, asked: &Asked) -> Outcome {
        let texts = match asked.lower.to_string().as_str() {
            _ if asked.rtype != RecordType::TXT => return Outcome::Code(ResponseCode::Refused, ""),
            "authors.bind." => {
                let mut authors = chaos.authors.clone();
                authors.shuffle(&mut rand::rng());
                authors
            }
            "version.bind." | "version.server." => vec![chaos.version.clone()],
            "hostname.bind." | "id.server." => vec![chaos.host_name.clone()],
            _ => return Outcome::Code(ResponseCode::Refused, ""),
        };
        let record = |text| {
            let mut record = Record::from_rdata(asked.name.clone(), 0, RData::TXT(TXT::new(vec![text])));
            record.dns_class = DNSClass::CH;
            record
        };
        self.say("chaos", false, texts.into_iter().map(record).collect())
    }

    async fn rewritten(self, server: &'a Server, extras: &'a Extras, asked: &Asked, depth: usize) -> Outcome {
        let mut question = rewrite::Question { name: asked.lower.to_string(), rtype: asked.rtype.into() };
        let (mut rules, mut is_changed) = (Vec::new(), false);
        for rule in &extras.rewrite {
            let Some(of_answer) = rule.apply(&mut question) else { continue };
            is_changed = true;
            rules.extend(of_answer);
            if !rule.goes_on {
                break;
            }
        }
        if !is_changed {
            return self.searched(server, extras, asked, depth).await;
        }
        let Some(name) = DomainName::parse_escaped(&question.name) else {
            return Outcome::Code(ResponseCode::ServFail, "rewrite");
        };
        trace::note(|| Step::Rewritten { to: name.to_string() });
        let mut changed = if name == asked.lower { asked.clone() } else { asked.with_name(name) };
        changed.rtype = question.rtype.into();
        let mut reply = match self.searched(server, extras, &changed, depth).await {
            Outcome::Reply(reply) => reply,
            Outcome::Code(code, origin) => Box::new(Reply { origin, ..self.fresh(code) }),
            Outcome::Silence => return Outcome::Silence,
        };
        for record in reply.authorities.iter_mut().chain(&mut reply.answers).chain(&mut reply.additionals) {
            // Backwards, as the question was changed forwards.
            rules.iter().rev().for_each(|rule| rewrite_record(rule, record));
        }
        Outcome::Reply(reply)
    }

    /// Walks the client's search path in its place.
    async fn searched(self, server: &'a Server, extras: &'a Extras, asked: &Asked, depth: usize) -> Outcome {
        let Some(autopath) = &extras.autopath else { return self.permitted(server, extras, asked, depth).await };
        let zone = server.shape.as_ref().and_then(|shape| shape.zone_of(asked.lower.as_wire()));
        let path = autopath.path(&asked.lower, zone, || self.namespace_of_client(server));
        let base = path.first().and_then(|first| asked.lower.below(first));
        let Some(base) = base else { return self.permitted(server, extras, asked, depth).await };
        let (mut first, mut tried) = (None, 0);
        // At the end the name alone.
        for domain in path.iter().map(Some).chain([None]) {
            let labels = base.labels().chain(domain.into_iter().flat_map(DomainName::labels));
            let Some(name) = DomainName::from_labels(labels) else { continue };
            let question = if name == asked.lower { asked.clone() } else { asked.with_name(name) };
            let outcome = self.permitted(server, extras, &question, depth).await;
            match outcome {
                Outcome::Reply(mut reply) if reply.metadata.response_code != ResponseCode::NXDomain => {
                    lead_from(&asked.name, &mut reply);
                    self.metrics.searched(self.place, tried);
                    return Outcome::Reply(reply);
                }
                outcome => first = first.or(Some(outcome)),
            }
            tried += 1;
        }
        first.unwrap_or(Outcome::Code(ResponseCode::ServFail, "autopath"))
    }

    /// The namespace of the pod that asks, if pods are watched, or the cluster's services tell it. An address with several, as the node's own is, is
    /// nobody's.
    fn namespace_of_client(self, server: &Server) -> Option<Vec<u8>> {
        let shape = server.shape.as_ref()?;
        let view = self.records.view_as(shape, shape.zones.first()?);
        if shape.pods == PodNames::Verified {
            let namespace = view.namespace_of_pods_at(self.request.src().ip().to_canonical())?;
            return Some(namespace.as_bytes().to_vec());
        }
        let mut namespaces = view.services_at(self.request.src().ip().to_canonical()).map(|service| service.record().namespace());
        let first = namespaces.next()?;
        namespaces.all(|other| other == first).then(|| first.to_vec())
    }

    async fn permitted(self, server: &'a Server, extras: &'a Extras, asked: &Asked, depth: usize) -> Outcome {
        let client = self.request.src().ip();
        let judged = extras.acl.iter().find_map(|acl| acl.judge(&asked.lower, asked.rtype.into(), client));
        match judged {
            None | Some(AclAction::Allow) => self.finished(server, extras, asked, depth).await,
            Some(AclAction::Drop) => Outcome::Silence,
            Some(AclAction::Block) => self.explained(ResponseCode::Refused, BLOCKED, "acl"),
            Some(AclAction::Filter) => self.explained(ResponseCode::NoError, FILTERED, "acl"),
        }
    }

    /// An empty answer with an extended error.
    fn explained(self, code: ResponseCode, error: u16, origin: &'static str) -> Outcome {
        let mut reply = Reply { origin, ..self.fresh(code) };
        add_error(&mut reply, error, "");
        Outcome::Reply(Box::new(reply))
    }

    /// Sets flags, and takes away what is not needed.
    async fn finished(self, server: &'a Server, extras: &'a Extras, asked: &Asked, depth: usize) -> Outcome {
        let outcome = self.made(server, extras, asked, depth).await;
        let Outcome::Reply(mut reply) = outcome else { return outcome };
        let is_positive = reply.metadata.response_code == ResponseCode::NoError && !reply.answers.is_empty();
        if extras.minimal && is_positive {
            reply.authorities.clear();
            reply.additionals.clear();
        }
        for (flag, on) in &extras.header {
            match flag {
                super::values::Flag::Aa => reply.metadata.authoritative = *on,
                super::values::Flag::Ra => reply.metadata.recursion_available = *on,
                super::values::Flag::Rd => reply.metadata.recursion_desired = *on,
            }
        }
        Outcome::Reply(reply)
    }

    /// Templates, listed hosts, names of the cluster, other servers, and what is left.
    async fn made(self, server: &'a Server, extras: &'a Extras, asked: &Asked, depth: usize) -> Outcome {
        let question = template::Question {
            name: &asked.lower,
            rtype: asked.rtype.into(),
            class: asked.class.into(),
            remote: self.request.src().ip(),
        };
        for template in &extras.templates {
            match template.ask(question) {
                template::Outcome::Next => {}
                template::Outcome::Failed => return Outcome::Code(ResponseCode::ServFail, "template"),
                template::Outcome::Sections(_) if template.rcode == u16::from(ResponseCode::ServFail) => {
                    return Outcome::Code(ResponseCode::ServFail, "template");
                }
                template::Outcome::Sections(sections) => return self.by_template(template, sections, asked, depth).await,
            }
        }
        if let Some(hosts) = &extras.hosts {
            let ttl = hosts.ttl();
            let record = |data| Record::from_rdata(asked.name.clone(), server.capped(ttl), data);
            match hosts.find(&asked.lower, asked.rtype.into()) {
                Found::Next => {}
                Found::Failed => return Outcome::Code(ResponseCode::ServFail, "hosts"),
                Found::Addresses(addresses) => {
                    let data = |address| match address {
                        IpAddr::V4(address) => RData::A(A(address)),
                        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
                    };
                    return self.say("hosts", true, addresses.into_iter().map(|address| record(data(address))).collect());
                }
                Found::Names(names) => {
                    let data = |name: &DomainName| RData::PTR(PTR(reply::name_to_hickory(name)));
                    return self.say("hosts", true, names.iter().map(|name| record(data(name))).collect());
                }
            }
        }
        match self.names(server, asked, depth).await {
            Outcome::Code(ResponseCode::ServFail, "") if extras.whoami => self.whoami(asked),
            outcome => outcome,
        }
    }

    async fn by_template(
        self,
        template: &template::Template,
        sections: [Vec<String>; 3],
        asked: &Asked,
        depth: usize,
    ) -> Outcome {
        let mut reply = Reply { origin: "template", ..self.fresh(template.rcode.into()) };
        reply.metadata.authoritative = true;
        let [answer, additional, authority] = sections;
        for text in answer {
            let Some(record) = text::record(&text) else { return Outcome::Code(ResponseCode::ServFail, "template") };
            let target = match &record.data {
                RData::CNAME(CNAME(target)) if matches!(asked.rtype, RecordType::A | RecordType::AAAA) => Some(target.clone()),
                _ => None,
            };
            reply.answers.push(record);
            if let Some(target) = target.as_ref().and_then(reply::from_hickory)
                && let Outcome::Reply(found) = self.look_up(asked.with_name(target), depth + 1).await
            {
                reply.metadata.truncation = found.metadata.truncation;
                reply.answers.extend(found.answers);
            }
        }
        for (texts, section) in [(additional, &mut reply.additionals), (authority, &mut reply.authorities)] {
            for text in texts {
                let Some(record) = text::record(&text) else { return Outcome::Code(ResponseCode::ServFail, "template") };
                section.push(record);
            }
        }
        if let Some((code, text)) = &template.extended_error {
            add_error(&mut reply, *code, text);
        }
        Outcome::Reply(Box::new(reply))
    }

    /// The client's own address and port.
    fn whoami(self, asked: &Asked) -> Outcome {
        let client = self.request.src();
        let address = match client.ip().to_canonical() {
            IpAddr::V4(address) => RData::A(A(address)),
            IpAddr::V6(address) => RData::AAAA(AAAA(address)),
        };
        let transport: &[u8] = if self.request.protocol() == Protocol::Tcp { b"_tcp" } else { b"_udp" };
        let below = Name::from_labels([transport].into_iter().chain(asked.name.iter())).unwrap_or_else(|_| asked.name.clone());
        let mut reply = Reply { origin: "whoami", ..self.fresh(ResponseCode::NoError) };
        reply.metadata.authoritative = true;
        let port = RData::SRV(SRV::new(0, 0, client.port(), Name::root()));
        reply.additionals = vec![Record::from_rdata(asked.name.clone(), 0, address), Record::from_rdata(below, 0, port)];
        Outcome::Reply(Box::new(reply))
    }

    /// The names that are known here, then those that others know.
    async fn names(self, server: &'a Server, asked: &Asked, depth: usize) -> Outcome {
        if let Some(shape) = &server.shape {
            let question = Question { name: asked.lower.as_wire(), rtype: asked.rtype.into() };
            let seed = server.shuffles.then(rand::random);
            if let Verdict::Answer(answer) = answer::answer_as(self.records, shape, question, seed) {
                trace::note(|| Step::Records);
                let mut reply = self.fresh(ResponseCode::NoError);
                reply.fill(&answer, &asked.name);
                if let Some(target) = &answer.pursue {
                    self.pursue(target, asked, depth, &mut reply).await;
                }
                return Outcome::Reply(Box::new(reply));
            }
        }
        self.elsewhere(server, asked).await
    }

    async fn elsewhere(self, server: &'a Server, asked: &Asked) -> Outcome {
        if asked.rtype == PROBE_TYPE && self.plan.is_own_probe(&Query::query(asked.name.clone(), asked.rtype)) {
            // The answer ends its way round.
            return Outcome::Code(ResponseCode::NXDomain, "");
        }
        let Some(resolver) = server.resolver.as_ref().filter(|resolver| resolver.takes(&asked.name)) else {
            return Outcome::Code(ResponseCode::ServFail, "");
        };
        match self.resolve(resolver, asked).await {
            Ok(upstream) => {
                let mut reply = self.fresh(ResponseCode::NoError);
                reply.hand_on(upstream, &asked.name);
                Outcome::Reply(Box::new(reply))
            }
            Err(error) => {
                trace::note(|| Step::Failed { why: error.to_string() });
                match server.logs_errors.then(|| server.failures.may_say()).flatten() {
                    Some(unsaid) => {
                        let unsaid = Some(unsaid).filter(|unsaid| *unsaid > 0);
                        warn!(name = %asked.name, r#type = %asked.rtype, %error, unsaid, "a question was not answered");
                    }
                    None => debug!(name = %asked.name, r#type = %asked.rtype, %error, "a question was not answered"),
                }
                let code = match error {
                    ForwardError::Busy | ForwardError::Crowded => ResponseCode::Refused,
                    ForwardError::NoUpstream | ForwardError::Loop | ForwardError::NoAnswer | ForwardError::Excepted => {
                        ResponseCode::ServFail
                    }
                };
                Outcome::Code(code, "forward")
            }
        }
    }

    async fn resolve(self, resolver: &Resolver, asked: &Asked) -> Result<Resolved, ForwardError> {
        let query = Query::query(asked.name.clone(), asked.rtype);
        let client = if self.request.protocol() == Protocol::Tcp { Transport::Tcp } else { Transport::Udp };
        let _place = self.limits.elsewhere(client == Transport::Tcp).ok_or_else(|| resolver.crowded())?;
        let mut resolved = resolver.resolve(self.place, upstream_query(self.request, query, asked.recursion), client).await?;
        // Only for those who know what it means (RFC 6840, section 5.8).
        let edns = self.request.edns.as_ref();
        let wants_authentic = self.request.metadata.authentic_data || edns.is_some_and(|edns| edns.flags().dnssec_ok);
        resolved.message.metadata.authentic_data &= wants_authentic;
        Ok(resolved)
    }

    /// Resolves the external name at which an ExternalName service points, as if a client had asked for it.
    async fn pursue(self, target: &DomainName, asked: &Asked, depth: usize, reply: &mut Reply) {
        trace::note(|| Step::Alias { target: target.to_string() });
        match self.look_up(asked.with_name(target.clone()), depth + 1).await {
            Outcome::Reply(found) => reply.append(*found),
            _ => {
                reply.metadata.response_code = ResponseCode::ServFail;
                debug!(target = %target, "the target of an ExternalName service was not resolved");
            }
        }
    }

    /// Asks this server itself, from the beginning: perhaps another block is asked. With recursion, whatever the client wants.
    fn look_up(self, asked: Asked, depth: usize) -> BoxFuture<'a, Outcome> {
        async move {
            if depth > MAX_DEPTH {
                return Outcome::Code(ResponseCode::ServFail, "");
            }
            match self.listener.find(asked.lower.as_wire(), asked.rtype.into()) {
                Some(entry) => self.chain(self.plan.server(entry), &Asked { recursion: true, ..asked }, depth).await,
                None => Outcome::Code(ResponseCode::Refused, ""),
            }
        }
        .boxed()
    }

    /// An answer of these records.
    fn say(self, origin: &'static str, authoritative: bool, answers: Vec<Record>) -> Outcome {
        let mut reply = Reply { origin, answers, ..self.fresh(ResponseCode::NoError) };
        reply.metadata.authoritative = authoritative;
        Outcome::Reply(Box::new(reply))
    }

    fn has_option(self, code: EdnsCode) -> bool {
        self.request.edns.as_ref().is_some_and(|edns| edns.option(code).is_some())
    }

    fn fresh(self, code: ResponseCode) -> Reply {
        Reply::to(&self.request.metadata, self.request.edns.as_ref(), code)
    }
}

/// Shuffles addresses that others have given; those of the cluster are shuffled already. Aliases come first.
fn shuffled(server: &Server, mut outcome: Outcome) -> Outcome {
    if let Outcome::Reply(reply) = &mut outcome
        && server.shuffles
        && reply.origin != "kubernetes"
        && reply.metadata.response_code == ResponseCode::NoError
    {
        for section in [&mut reply.answers, &mut reply.authorities, &mut reply.additionals] {
            let order = |record: &Record| match record.record_type() {
                RecordType::CNAME => 0,
                RecordType::A | RecordType::AAAA => 2,
                RecordType::MX => 3,
                _ => 1,
            };
            section.sort_by_key(order);
            for kind in [2, 3] {
                let first = section.partition_point(|record| order(record) < kind);
                let end = section.partition_point(|record| order(record) <= kind);
                section[first..end].shuffle(&mut rand::rng());
            }
        }
    }
    outcome
}

/// Puts an alias from the name that was asked for before an answer about another one, which begins with the name that was found.
fn lead_from(asked: &Name, reply: &mut Reply) {
    if reply.answers.iter().any(|record| record.name == *asked) {
        return;
    }
    let Some(other) = reply.answers.first() else { return };
    let alias = Record::from_rdata(asked.clone(), other.ttl, RData::CNAME(CNAME(other.name.clone())));
    reply.answers.insert(0, alias);
}

fn add_error(reply: &mut Reply, code: u16, text: &str) {
    // Without an OPT record of the client's there is none of ours (RFC 6891, section 7).
    if let Some(edns) = &mut reply.edns {
        let data = [&code.to_be_bytes(), text.as_bytes()].concat();
        edns.options_mut().insert(EdnsOption::Unknown(EXTENDED_ERROR, data));
    }
}

fn has(records: &[Record], kind: RecordType) -> bool {
    records.iter().any(|record| record.record_type() == kind)
}

fn rewrite_record(rule: &AnswerRule, record: &mut Record) {
    match rule {
        AnswerRule::Owner(renaming) => rename(renaming, &mut record.name),
        AnswerRule::Value(renaming) => {
            let name = match &mut record.data {
                RData::SRV(data) => &mut data.target,
                RData::MX(data) => &mut data.exchange,
                RData::CNAME(CNAME(name)) => name,
                RData::NS(data) => &mut data.0,
                RData::NAPTR(data) => &mut data.replacement,
                RData::SOA(data) => &mut data.mname,
                RData::PTR(PTR(name)) => name,
                _ => return,
            };
            rename(renaming, name);
        }
        AnswerRule::Ttl(least, most) => record.ttl = record.ttl.clamp(*least, *most),
    }
}

fn rename(renaming: &Renaming, name: &mut Name) {
    let Some(text) = reply::from_hickory(name).map(|name| name.to_string()) else { return };
    if let Some(renamed) = renaming.rename(&text).and_then(|text| DomainName::parse_escaped(&text)) {
        *name = reply::name_to_hickory(&renamed);
    }
}

/// A question for an upstream: the client's flags (AD, CD) and EDNS options, but our own payload size.
fn upstream_query(request: &Request, query: Query, recursion: bool) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = recursion;
    message.metadata.authentic_data = request.metadata.authentic_data;
    message.metadata.checking_disabled = request.metadata.checking_disabled;
    message.add_query(query);
    if let Some(client) = &request.edns {
        let mut edns: Edns = client.clone();
        edns.set_max_payload(UDP_PAYLOAD);
        // A cookie is between a client and the server it asks (RFC 7873); an upstream would only be confused by it.
        edns.options_mut().remove(EdnsCode::Cookie);
        message.set_edns(edns);
    }
    message
}
