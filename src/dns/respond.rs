//! One question in, one reply out: the rules of the protocol, then the records, then the upstreams.

use super::at_once::FromCache;
use super::chain::log::{Line, Log};
use super::chain::server_label;
use super::chain::{Asked, AtOnce, Chain, Entry, Outcome, Plan, Server, Walk};
use super::fast::{Kept, Wanted};
use super::limits::Limits;
use super::metrics::{CacheHits, Metrics, Place, Transport};
use super::records::Records;
use super::reply::{self, PLAIN_UDP_PAYLOAD, Reply, UDP_PAYLOAD};
use super::tally::Tally;
use super::top::Top;
use arc_swap::Guard;
use futures::FutureExt;
use hickory_proto::op::{Header, HeaderCounts, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use hickory_server::net::xfer::Protocol;
use hickory_server::server::Request;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;
use tracing::{error, info};

const HEADER_BYTES: usize = 12;

/// Answers questions, whatever they came in by.
#[derive(Clone)]
pub struct Responder {
    records: Arc<Records>,
    chain: Chain,
    metrics: Arc<Metrics>,
    /// The address on which they came.
    address: SocketAddr,
    /// The address label of CoreDNS's metrics, such as `dns://:53`.
    server: Arc<str>,
    /// The labels of what no block answers.
    dropped: Place,
}

/// A reply, where there is one, and where it was made.
struct Answered {
    reply: Reply,
    place: Place,
    /// The block that has made it.
    source: Option<(Arc<Plan>, Entry)>,
}

impl Responder {
    /// A responder for the sockets that listen on this address.
    pub fn new(records: Arc<Records>, chain: Chain, metrics: Arc<Metrics>, address: SocketAddr) -> Responder {
        let server = server_label(address);
        let dropped = Place { server: server.clone(), zone: "dropped".into(), zones: "".into() };
        Responder { records, chain, metrics, address, server, dropped }
    }

    /// The names of the cluster.
    pub(super) fn records(&self) -> &Records {
        &self.records
    }

    /// What is configured at present.
    pub(super) fn plan(&self) -> Guard<Arc<Plan>> {
        self.chain.published().load()
    }

    /// Which plain questions may be answered from the records at once, without a look at anything else.
    pub(super) fn at_once<'a>(&self, plan: &'a Plan) -> Option<&'a AtOnce> {
        plan.listener(self.address).at_once()
    }

    /// What the cache has for a plain question, where nothing but cluster names and the cache would look at it.
    pub(super) fn kept<'a>(&self, plan: &'a Plan, wanted: Wanted<'_>, now: Instant) -> Option<FromCache<'a>> {
        let entry = plan.listener(self.address).find(wanted.name, wanted.rtype)?;
        let server = plan.server(entry);
        let (answer, kind, ttl) = server.resolver_alone(wanted.name)?.kept(wanted, now)?;
        Some(FromCache { kept: Kept { answer, ttl, shuffles: server.shuffles }, kind, entry })
    }

    /// The reply cannot be made of what [`Responder::kept`] has found: the question comes to the other path.
    pub(super) fn kept_is_left(&self, plan: &Plan, wanted: Wanted<'_>) {
        let entry = plan.listener(self.address).find(wanted.name, wanted.rtype);
        if let Some(resolver) = entry.and_then(|entry| plan.server(entry).resolver_alone(wanted.name)) {
            resolver.kept_is_left(wanted);
        }
    }

    /// The counts of a thread that answers at once in this zone and by this part, for clients that come so.
    pub(super) fn tally(&self, entry: &Entry, transport: Transport, origin: &'static str) -> Arc<Tally> {
        self.metrics.tally(&entry.place(&self.server), transport, self.address.is_ipv6(), origin)
    }

    /// The counters of a zone's cache.
    pub(super) fn cache_hits(&self, entry: &Entry) -> CacheHits {
        self.metrics.cache_hits(&entry.place(&self.server))
    }

    /// Who asks for what, while somebody looks.
    pub(super) fn top(&self) -> &Top {
        &self.metrics.top
    }

    /// What is under way.
    pub(super) fn limits(&self) -> &Arc<Limits> {
        self.chain.limits()
    }

    /// Counts a panic of such a thread.
    pub(super) fn panicked(&self) {
        self.metrics.panicked();
    }

    /// Answers one datagram; `None` where silence is the right answer: less than a header, or a response (answering those would
    /// let a forged datagram start two servers talking to each other).
    pub async fn answer_datagram(&self, datagram: Vec<u8>, client: SocketAddr) -> Option<Vec<u8>> {
        self.answer_bytes(datagram, client, Transport::Udp).await
    }

    /// The same for a message that came over TCP.
    pub async fn answer_message(&self, message: Vec<u8>, client: SocketAddr) -> Option<Vec<u8>> {
        self.answer_bytes(message, client, Transport::Tcp).await
    }

    /// The same for a question of our own about ourselves, which nobody counts or logs. As over TCP, because nothing is cut then.
    pub async fn explore(&self, message: Vec<u8>, client: SocketAddr) -> Option<Vec<u8>> {
        let request = Request::from_bytes(message, client, Protocol::Tcp).ok()?;
        let Answered { mut reply, .. } = self.reply(&request).await?;
        Some(reply.fit(request.queries.queries().first().map(|query| query.original()), u16::MAX))
    }

    async fn answer_bytes(&self, bytes: Vec<u8>, client: SocketAddr, transport: Transport) -> Option<Vec<u8>> {
        let header = Header::read(&mut BinDecoder::new(bytes.get(..HEADER_BYTES)?)).ok()?;
        if header.metadata.message_type == MessageType::Response {
            return None;
        }
        let refusal = if header.metadata.op_code != OpCode::Query {
            Some(ResponseCode::NotImp)
        } else {
            has_wrong_counts(&header.counts).then_some(ResponseCode::FormErr)
        };
        let protocol = match transport {
            Transport::Udp => Protocol::Udp,
            Transport::Tcp => Protocol::Tcp,
        };
        let request = match (refusal, Request::from_bytes(bytes, client, protocol)) {
            (None, Ok(request)) => request,
            (refusal, _) => {
                let code = refusal.unwrap_or(ResponseCode::FormErr);
                return Some(Reply::to(&header.metadata, None, code).fit(None, PLAIN_UDP_PAYLOAD));
            }
        };
        self.answer(&request, transport).await
    }

    /// Answers a request within what its client takes, and counts it.
    async fn answer(&self, request: &Request, transport: Transport) -> Option<Vec<u8>> {
        let started = Instant::now();
        let outcome = AssertUnwindSafe(self.reply(request)).catch_unwind().await;
        let Answered { mut reply, place, source } = outcome.unwrap_or_else(|_| {
            self.metrics.panicked();
            error!(client = %request.src(), "answering a DNS question panicked: please report this with the lines above");
            let reply = Reply::to(&request.metadata, request.edns.as_ref(), ResponseCode::ServFail);
            Some(Answered { reply, place: self.dropped.clone(), source: None })
        })?;
        let query = request.queries.queries().first().map(|query| query.original());
        if self.metrics.top.is_watched()
            && let Some(name) = query.and_then(|query| reply::from_hickory(query.name()))
        {
            self.metrics.top.note(name.to_lower().as_wire(), request.src().ip());
        }
        let server = source.as_ref().map(|(plan, entry)| plan.server(entry));
        let limit = match (transport, &request.edns) {
            (Transport::Tcp, _) => u16::MAX,
            (Transport::Udp, Some(edns)) => {
                edns.max_payload().max(PLAIN_UDP_PAYLOAD).min(server.map_or(UDP_PAYLOAD, Server::bufsize))
            }
            (Transport::Udp, None) => PLAIN_UDP_PAYLOAD,
        };
        let bytes = reply.fit(query, limit);
        self.count(request, &reply, &place, bytes.len(), transport, started);
        for log in server.map(Server::logs).unwrap_or_default() {
            self.log(log, request, &reply, bytes.len(), transport, started);
        }
        Some(bytes)
    }

    async fn reply(&self, request: &Request) -> Option<Answered> {
        if request.metadata.message_type == MessageType::Response {
            return None;
        }
        let fresh = |code| Reply::to(&request.metadata, request.edns.as_ref(), code);
        let dropped = |code| Some(Answered { reply: fresh(code), place: self.dropped.clone(), source: None });
        let [question] = request.queries.queries() else { return dropped(ResponseCode::FormErr) };
        let query = question.original();
        if let Some(code) = refusal(request, query.query_type()) {
            return dropped(code);
        }
        let Some(name) = reply::from_hickory(query.name()) else { return dropped(ResponseCode::FormErr) };
        let asked = Asked {
            name: query.name().clone(),
            lower: name.to_lower(),
            rtype: query.query_type(),
            class: query.query_class(),
            recursion: request.metadata.recursion_desired,
        };
        let plan = self.chain.plan();
        let listener = plan.listener(self.address);
        let Some(entry) = listener.find(asked.lower.as_wire(), asked.rtype.into()) else {
            return dropped(ResponseCode::Refused);
        };
        let place = entry.place(&self.server);
        let walk = Walk {
            records: &self.records,
            plan: &plan,
            listener,
            metrics: &self.metrics,
            place: &place,
            request,
            limits: self.chain.limits(),
        };
        let server = plan.server(entry);
        let is_known = asked.class == DNSClass::IN || asked.class == DNSClass::CH && server.answers_chaos();
        let outcome = if is_known { walk.answer(server, &asked).await } else { Outcome::Code(ResponseCode::Refused, "") };
        let reply = match outcome {
            Outcome::Reply(reply) => *reply,
            Outcome::Code(code, origin) => Reply { origin, ..fresh(code) },
            Outcome::Silence => return None,
        };
        let source = Some((plan.clone(), entry.clone()));
        Some(Answered { reply, place, source })
    }

    fn log(&self, log: &Log, request: &Request, reply: &Reply, size: usize, transport: Transport, started: Instant) {
        let Some(query) = request.queries.queries().first().map(|query| query.original()) else { return };
        let Some(name) = reply::from_hickory(query.name()).map(|name| name.to_lower()) else { return };
        let metadata = &reply.metadata;
        let flags = [
            ("qr", true),
            ("aa", metadata.authoritative),
            ("tc", metadata.truncation),
            ("rd", metadata.recursion_desired),
            ("ra", metadata.recursion_available),
            ("ad", metadata.authentic_data),
            ("cd", metadata.checking_disabled),
        ];
        let line = log.line(&Line {
            name: &name,
            rtype: query.query_type().into(),
            class: query.query_class().to_string(),
            transport: if transport == Transport::Udp { "udp" } else { "tcp" },
            client: request.src(),
            local: self.address,
            id: request.metadata.id,
            size: request.as_slice().len(),
            dnssec_ok: request.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok),
            bufsize: request.edns.as_ref().map_or(PLAIN_UDP_PAYLOAD, |edns| edns.max_payload()),
            code: metadata.response_code.into(),
            has_answer: !reply.answers.is_empty(),
            flags: flags.into_iter().filter(|(_, is_set)| *is_set).map(|(flag, _)| flag).collect(),
            answer_size: size,
            took: started.elapsed(),
        });
        if let Some(line) = line {
            info!(target: "waypost::dns::log", "{line}");
        }
    }

    fn count(&self, request: &Request, reply: &Reply, place: &Place, size: usize, transport: Transport, started: Instant) {
        let rtype = request.queries.queries().first().map(|query| query.query_type());
        self.metrics.answered(&super::metrics::Answered {
            place,
            transport,
            ipv6: request.src().is_ipv6(),
            rtype: rtype.map_or(0, u16::from),
            request_bytes: request.as_slice().len(),
            response_bytes: size,
            dnssec_ok: request.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok),
            code: reply.metadata.response_code.into(),
            origin: reply.origin,
            started,
        });
    }
}

/// Whether sections have more records than they may have in a query, or there is not one question: as CoreDNS sees it.
fn has_wrong_counts(counts: &HeaderCounts) -> bool {
    counts.queries != 1 || counts.answers > 1 || counts.authorities > 1 || counts.additionals > 2
}

/// What must be refused before any name is looked at.
fn refusal(request: &Request, rtype: RecordType) -> Option<ResponseCode> {
    if request.edns.as_ref().is_some_and(|edns| edns.version() != 0) {
        return Some(ResponseCode::BADVERS);
    }
    matches!(rtype, RecordType::AXFR | RecordType::IXFR).then_some(ResponseCode::Refused)
}
