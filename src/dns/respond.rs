//! One question in, one reply out: the rules of the protocol, then the records, then the upstreams.

use super::answer::{self, Answer, Code, Question, Verdict};
use super::forward::ForwardError;
use super::metrics::{Metrics, Transport};
use super::name::DomainName;
use super::records::Records;
use super::reply::{self, PLAIN_UDP_PAYLOAD, Reply, UDP_PAYLOAD};
use super::resolve::{Resolved, Resolver};
use super::tally::Tally;
use futures::FutureExt;
use hickory_proto::op::{Edns, Header, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use hickory_server::net::xfer::Protocol;
use hickory_server::server::Request;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Semaphore;
use tracing::{debug, error};

const HEADER_BYTES: usize = 12;
/// How many questions over TCP are worked on at a time; more wait on their connections.
const TCP_QUESTIONS: usize = 4096;

/// Answers questions, whatever they came in by.
#[derive(Clone)]
pub struct Responder {
    records: Arc<Records>,
    resolver: Resolver,
    metrics: Arc<Metrics>,
    /// The address label of CoreDNS's metrics, such as `dns://:53`.
    server: Arc<str>,
    tcp_questions: Arc<Semaphore>,
}

impl Responder {
    /// A responder for the sockets that listen on this port.
    pub fn new(records: Arc<Records>, resolver: Resolver, metrics: Arc<Metrics>, port: u16) -> Responder {
        let tcp_questions = Arc::new(Semaphore::new(TCP_QUESTIONS));
        let server: Arc<str> = format!("dns://:{port}").into();
        metrics.cache_of(&server);
        Responder { records, resolver, metrics, server, tcp_questions }
    }

    /// The names of the cluster.
    pub(super) fn records(&self) -> &Records {
        &self.records
    }

    /// Whether a plain question that the records can answer may be answered from them at once, without a look at anything else.
    pub(super) fn may_answer_at_once(&self) -> bool {
        true
    }

    /// The counts of a thread that does so, for clients of one family.
    pub(super) fn tally(&self, ipv6: bool) -> Arc<Tally> {
        self.metrics.tally(&self.server, ipv6)
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
        let _working = self.tcp_questions.acquire().await.ok()?;
        self.answer_bytes(message, client, Transport::Tcp).await
    }

    async fn answer_bytes(&self, bytes: Vec<u8>, client: SocketAddr, transport: Transport) -> Option<Vec<u8>> {
        let header = Header::read(&mut BinDecoder::new(bytes.get(..HEADER_BYTES)?)).ok()?;
        if header.metadata.message_type == MessageType::Response {
            return None;
        }
        let refusal = if header.metadata.op_code != OpCode::Query {
            Some(ResponseCode::NotImp)
        } else {
            (header.counts.queries != 1).then_some(ResponseCode::FormErr)
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
        let limit = match (transport, &request.edns) {
            (Transport::Tcp, _) => u16::MAX,
            (Transport::Udp, Some(edns)) => edns.max_payload().clamp(PLAIN_UDP_PAYLOAD, UDP_PAYLOAD),
            (Transport::Udp, None) => PLAIN_UDP_PAYLOAD,
        };
        self.answer(&request, limit, transport).await
    }

    /// Answers a request within `limit` bytes, and counts it.
    async fn answer(&self, request: &Request, limit: u16, transport: Transport) -> Option<Vec<u8>> {
        let started = Instant::now();
        let outcome = AssertUnwindSafe(self.reply(request)).catch_unwind().await;
        let mut reply = outcome.unwrap_or_else(|_| {
            self.metrics.panicked();
            error!(client = %request.src(), "answering a DNS question panicked: please report this with the lines above");
            Some(Reply::to(&request.metadata, request.edns.as_ref(), ResponseCode::ServFail))
        })?;
        let query = request.queries.queries().first().map(|query| query.original());
        let bytes = reply.fit(query, limit);
        self.count(request, &reply, bytes.len(), transport, started);
        Some(bytes)
    }

    async fn reply(&self, request: &Request) -> Option<Reply> {
        if request.metadata.message_type == MessageType::Response {
            return None;
        }
        let client = request.edns.as_ref();
        let fresh = |code| Reply::to(&request.metadata, client, code);
        let [question] = request.queries.queries() else { return Some(fresh(protocol_error(request))) };
        if let Some(code) = refusal(request) {
            return Some(fresh(code));
        }
        let query = question.original();
        let (Some(name), rtype) = (reply::from_hickory(query.name()), query.query_type()) else {
            return Some(fresh(ResponseCode::FormErr));
        };
        let lower = name.to_lower();
        let question = Question { name: lower.as_wire(), rtype: rtype.into() };
        let mut reply = fresh(ResponseCode::NoError);
        match answer::answer(&self.records, question, rand::random()) {
            Verdict::Answer(answer) => {
                reply.fill(&answer, query.name());
                if let Some(target) = &answer.pursue {
                    self.pursue(request, target, rtype, &mut reply).await;
                }
            }
            // The answer ends its way round.
            Verdict::Elsewhere if self.resolver.is_own_probe(query) => reply.metadata.response_code = ResponseCode::NXDomain,
            Verdict::Elsewhere => match self.resolve(request, upstream_query(request, query.clone())).await {
                Ok(upstream) => reply.hand_on(upstream, query.name()),
                Err(error) => fail(&mut reply, query, &error),
            },
        }
        Some(reply)
    }

    /// Resolves the external name at which an ExternalName service points.
    async fn pursue(&self, request: &Request, target: &DomainName, rtype: RecordType, reply: &mut Reply) {
        let query = Query::query(reply::name_to_hickory(target), rtype);
        let mut message = upstream_query(request, query.clone());
        message.metadata.recursion_desired = true;
        match self.resolve(request, message).await {
            Ok(upstream) => reply.append(upstream.message),
            Err(error) => {
                reply.fill(&Answer { code: Code::ServFail, ..Answer::default() }, query.name());
                debug!(target = %query.name(), %error, "the target of an ExternalName service was not resolved");
            }
        }
    }

    async fn resolve(&self, request: &Request, question: Message) -> Result<Resolved, ForwardError> {
        let mut resolved = self.resolver.resolve(&self.server, question).await?;
        // Only for those who know what it means (RFC 6840, section 5.8).
        let wants_authentic = request.metadata.authentic_data || request.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok);
        resolved.message.metadata.authentic_data &= wants_authentic;
        Ok(resolved)
    }

    fn count(&self, request: &Request, reply: &Reply, size: usize, transport: Transport, started: Instant) {
        let rtype = request.queries.queries().first().map(|query| query.query_type());
        self.metrics.answered(&super::metrics::Answered {
            server: &self.server,
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

/// What must be refused before any name is looked at.
fn refusal(request: &Request) -> Option<ResponseCode> {
    let [question] = request.queries.queries() else { return Some(protocol_error(request)) };
    if request.metadata.op_code != OpCode::Query {
        return Some(ResponseCode::NotImp);
    }
    if request.answers.len() > 1 || request.authorities.len() > 1 || request.additionals.len() > 1 {
        return Some(ResponseCode::FormErr);
    }
    if request.edns.as_ref().is_some_and(|edns| edns.version() != 0) {
        return Some(ResponseCode::BADVERS);
    }
    let transfer = matches!(question.query_type(), RecordType::AXFR | RecordType::IXFR);
    (question.query_class() != DNSClass::IN || transfer).then_some(ResponseCode::Refused)
}

fn protocol_error(request: &Request) -> ResponseCode {
    if request.metadata.op_code == OpCode::Query { ResponseCode::FormErr } else { ResponseCode::NotImp }
}

/// The client's question for an upstream: its flags (RD, AD, CD) and EDNS options, but our own payload size.
fn upstream_query(request: &Request, query: Query) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = request.metadata.recursion_desired;
    message.metadata.authentic_data = request.metadata.authentic_data;
    message.metadata.checking_disabled = request.metadata.checking_disabled;
    message.add_query(query);
    if let Some(client) = &request.edns {
        let mut edns: Edns = client.clone();
        edns.set_max_payload(UDP_PAYLOAD);
        // A cookie is between a client and the server it asks (RFC 7873); an upstream would only be confused by it.
        edns.options_mut().remove(hickory_proto::rr::rdata::opt::EdnsCode::Cookie);
        message.set_edns(edns);
    }
    message
}

fn fail(reply: &mut Reply, query: &Query, error: &ForwardError) {
    reply.origin = "forward";
    reply.metadata.response_code = match error {
        ForwardError::Busy => ResponseCode::Refused,
        ForwardError::NoUpstream | ForwardError::Loop | ForwardError::NoAnswer | ForwardError::Excepted => ResponseCode::ServFail,
    };
    debug!(name = %query.name(), %error, "a question was not answered");
}
