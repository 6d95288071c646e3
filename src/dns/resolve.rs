//! A question for elsewhere: answered from the cache, or asked at the upstream servers, once for all who wait for the same.

use super::cache::{Cache, Found, Key, Kind, Refresh};
use super::fast::Wanted;
use super::forward::{ForwardError, Forwarder, PROBE_TYPE};
use super::metrics::{Metrics, Place, Transport};
use super::name::DomainName;
use super::reply;
use super::trace::{self, Step};
use crate::config::CacheConfig;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use hickory_proto::op::{Edns, Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::time::timeout;

/// That nobody answered is remembered for this long, in seconds (the least that RFC 9520 allows).
const SILENCE_TTL: u32 = 1;
/// The TTL of an answer without any record, which says none, in seconds: CoreDNS's.
const EMPTY_TTL: u32 = 5;
/// The extended error "Stale Answer" (RFC 8914).
const STALE_ANSWER: [u8; 2] = [0, 3];
/// The EDNS option of extended errors.
const EXTENDED_ERROR: u16 = 15;

/// Resolves names outside the cluster. Clones are one.
#[derive(Clone)]
pub struct Resolver(Arc<Inner>);

struct Inner {
    forwarders: Vec<Forwarder>,
    cache: Option<Cache>,
    scope: Scope,
    under_way: Mutex<UnderWay>,
    metrics: Arc<Metrics>,
}

type Outcome = Result<Arc<Message>, ForwardError>;
type Fetching = Shared<BoxFuture<'static, Outcome>>;
/// What those who wait for an answer keep going, and others may join.
#[derive(Default)]
struct UnderWay {
    /// Each with its number: when it ends because nobody waits any more, another one may have taken its place already.
    asked: HashMap<Key, (u64, WeakShared<BoxFuture<'static, Outcome>>)>,
    last: u64,
}

/// Which names are kept in the cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Those in these zones; none: all.
    pub zones: Vec<DomainName>,
    /// No answers for names in these.
    pub without_positive: Vec<DomainName>,
    /// No denials for names in these.
    pub without_negative: Vec<DomainName>,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// It, with another id than the question's.
    pub message: Message,
    /// Whether the cache had it.
    pub cached: bool,
}

impl Resolver {
    /// A resolver that asks by this forwarder.
    pub fn new(forwarder: Forwarder, cache: &CacheConfig, metrics: Arc<Metrics>) -> Resolver {
        Resolver::of(vec![forwarder], Some(cache), Scope::default(), metrics)
    }

    /// A resolver that asks by the first forwarder that takes a name, with a cache before all of them.
    pub fn of(forwarders: Vec<Forwarder>, cache: Option<&CacheConfig>, scope: Scope, metrics: Arc<Metrics>) -> Resolver {
        let cache = cache.filter(|cache| cache.is_on()).map(Cache::new);
        Resolver(Arc::new(Inner { forwarders, cache, scope, under_way: Mutex::default(), metrics }))
    }

    /// Addresses of our own, which are never asked.
    pub fn never_ask(&self, own: &[SocketAddr]) {
        self.0.forwarders.iter().for_each(|forwarder| forwarder.never_ask(own));
    }

    /// Whether this question that has arrived is one of our own, sent to find loops.
    pub fn is_own_probe(&self, query: &Query) -> bool {
        self.0.forwarders.iter().any(|forwarder| forwarder.is_own_probe(query))
    }

    /// The servers that are asked at present.
    pub fn upstreams(&self) -> Vec<SocketAddr> {
        self.0.forwarders.iter().flat_map(Forwarder::upstreams).collect()
    }

    /// A question is refused because too many wait already.
    pub fn crowded(&self) -> ForwardError {
        self.0.metrics.rejected();
        ForwardError::Crowded
    }

    /// How many answers the cache has: positive ones, and negative ones with failures.
    pub fn cached(&self) -> [usize; 2] {
        self.0.cache.as_ref().map_or([0, 0], Cache::entries)
    }

    /// Whether both are one.
    pub fn is_same(&self, other: &Resolver) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether this name is asked at upstream servers.
    pub fn takes(&self, name: &Name) -> bool {
        self.0.forwarders.iter().any(|forwarder| forwarder.takes(name))
    }

    /// An answer that was kept and needs no more than to be sent, its sort, and the seconds that it has left.
    pub(super) fn kept(&self, wanted: Wanted<'_>, now: Instant) -> Option<(Arc<[u8]>, Kind, u32)> {
        self.0.cache.as_ref()?.get_plain(wanted.key, now)
    }

    /// What was kept needs more than that: the question comes again, and counts only then.
    pub(super) fn kept_is_left(&self, wanted: Wanted<'_>) {
        if let Some(cache) = &self.0.cache {
            cache.take_back(wanted.key);
        }
    }

    /// Answers a question that came to this server (the label of the metrics), of a client that came so.
    ///
    /// # Errors
    /// Nobody answered, and nothing that was once answered may be served.
    pub async fn resolve(&self, server: &Place, question: Message, client: Transport) -> Result<Resolved, ForwardError> {
        let (Some(cache), Some(key)) = (&self.0.cache, self.0.key_of(&question)) else {
            return self.0.ask(&question, client).await.map(|message| Resolved { message, cached: false });
        };
        let count = |note: fn(&Metrics, &Place)| self.0.count(server, note);
        count(Metrics::cache_asked);
        match cache.get(&key, Instant::now()) {
            Found::Fresh { answer, kind, ttl, refresh } => {
                if refresh {
                    count(Metrics::cache_prefetched);
                    tokio::spawn(self.fetch(server, key, question, client));
                }
                self.serve(server, &answer, kind, ttl, false)
            }
            Found::Stale { answer, kind, refresh } => {
                if refresh == Refresh::First {
                    // It goes on when it takes longer than this client has to wait.
                    let fetching = tokio::spawn(self.fetch(server, key.clone(), question, client));
                    if let Ok(Ok(Ok(message))) = timeout(cache.config().stale_after, fetching).await
                        && is_refresh(&message)
                    {
                        // As CoreDNS counts it: there was an answer, though another one is given.
                        self.0.count_hit(server, kind);
                        return Ok(Resolved { message: Arc::unwrap_or_clone(message), cached: false });
                    }
                    cache.late(&key, &answer, Instant::now());
                } else if refresh == Refresh::Meanwhile {
                    count(Metrics::cache_prefetched);
                    tokio::spawn(self.fetch(server, key, question, client));
                }
                count(Metrics::cache_served_stale);
                self.serve(server, &answer, kind, cache.config().stale_ttl, true)
            }
            Found::Nothing => {
                count(Metrics::cache_missed);
                let message = self.fetch(server, key, question, client).await?;
                Ok(Resolved { message: Arc::unwrap_or_clone(message), cached: false })
            }
        }
    }

    /// Serves what was kept, with this TTL. Cached answers say that they are authoritative, as CoreDNS's do: old C libraries drop others.
    fn serve(&self, server: &Place, answer: &[u8], kind: Kind, ttl: u32, stale: bool) -> Result<Resolved, ForwardError> {
        self.0.count_hit(server, kind);
        // We wrote it ourselves.
        let mut message = Message::from_vec(answer).map_err(|_| ForwardError::NoAnswer)?;
        trace::note(|| {
            let kept_for = message.all_sections().map(|record| record.ttl).next().unwrap_or(ttl);
            Step::Cache { age: kept_for.saturating_sub(ttl), left: if stale { 0 } else { ttl }, stale }
        });
        set_ttl(&mut message, ttl);
        message.metadata.authoritative = true;
        if stale {
            let mut edns = Edns::new();
            edns.options_mut().insert(EdnsOption::Unknown(EXTENDED_ERROR, STALE_ANSWER.into()));
            message.set_edns(edns);
        }
        Ok(Resolved { message, cached: true })
    }

    /// Asks the upstream servers, or joins those who wait for the same. Goes on for as long as one of them waits.
    fn fetch(&self, server: &Place, key: Key, question: Message, client: Transport) -> Fetching {
        let mut under_way = self.0.under_way();
        if let Some(fetching) = under_way.asked.get(&key).and_then(|(_, fetching)| fetching.upgrade()) {
            trace::note(|| Step::Joined);
            return fetching;
        }
        under_way.last += 1;
        let number = under_way.last;
        let asking = Asking { inner: self.0.clone(), server: server.clone(), key: key.clone(), number, noted: false };
        let fetching = trace::carried(asking.ask(question, client)).boxed().shared();
        under_way.asked.extend(fetching.downgrade().map(|fetching| (key, (number, fetching))));
        fetching
    }
}

impl Inner {
    /// Counts what is done for clients; what people ask for themselves would distort it.
    fn count(&self, server: &Place, note: fn(&Metrics, &Place)) {
        if !trace::is_watched() {
            note(&self.metrics, server);
        }
    }

    /// Counts that the cache had an answer of this sort.
    fn count_hit(&self, server: &Place, kind: Kind) {
        if !trace::is_watched() {
            self.metrics.cache_hit(server, kind);
        }
    }

    /// Asks by the forwarder that takes the name.
    async fn ask(&self, question: &Message, client: Transport) -> Result<Message, ForwardError> {
        let name = question.queries.first().map(|query| query.name());
        let forwarder = self.forwarders.iter().find(|forwarder| name.is_some_and(|name| forwarder.takes(name)));
        match forwarder {
            Some(forwarder) => forwarder.ask(question, client).await,
            None => Err(ForwardError::Excepted),
        }
    }

    /// The key of a question; `None` where others must not see the answer: one for a part of the network only (client subnet), or one from a server
    /// that was told not to look further.
    fn key_of(&self, question: &Message) -> Option<Key> {
        let query = question.queries.first().filter(|_| question.metadata.recursion_desired)?;
        // A question by which somebody looks for a loop does not wait for another one that does: its own.
        if query.query_type() == PROBE_TYPE {
            return None;
        }
        let edns = question.edns.as_ref();
        if edns.is_some_and(|edns| edns.option(EdnsCode::Subnet).is_some()) {
            return None;
        }
        let name: DomainName = reply::from_hickory(query.name())?.to_lower();
        let in_scope = self.scope.zones.is_empty() || is_in(&self.scope.zones, &name);
        if !in_scope {
            return None;
        }
        let dnssec_ok = edns.is_some_and(|edns| edns.flags().dnssec_ok);
        Some(Key::new(name.as_wire(), query.query_type().into(), dnssec_ok, question.metadata.checking_disabled))
    }

    /// Whether an answer of this sort is to be kept.
    fn keeps(&self, kind: Kind, question: &Message) -> bool {
        let without = match kind {
            Kind::Positive => &self.scope.without_positive,
            Kind::Negative | Kind::Failure => &self.scope.without_negative,
        };
        let name = || question.queries.first().and_then(|query| reply::from_hickory(query.name()));
        without.is_empty() || !name().is_some_and(|name| is_in(without, &name.to_lower()))
    }

    fn under_way(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A question on its way to the upstream servers. However it ends, others may ask again afterwards.
struct Asking {
    inner: Arc<Inner>,
    server: Place,
    key: Key,
    number: u64,
    /// The cache knows what came of it.
    noted: bool,
}

impl Asking {
    async fn ask(mut self, mut question: Message, client: Transport) -> Outcome {
        // Whether the data are authentic is kept for those who want to know (RFC 6840, section 5.7).
        question.metadata.authentic_data = true;
        let mut answer = match self.inner.ask(&question, client).await {
            Ok(answer) => answer,
            Err(error) => {
                if error == ForwardError::NoAnswer {
                    self.keep(Kind::Failure, &failure(question), SILENCE_TTL);
                }
                return Err(error);
            }
        };
        if let Some((kind, ttl)) = classify(&answer)
            && self.inner.keeps(kind, &question)
            && let Some(lifetime) =
                self.inner.cache.as_ref().map(|cache| cache.lifetime(kind, ttl)).filter(|lifetime| *lifetime > 0)
        {
            set_ttl(&mut answer, lifetime);
            spell(&mut answer);
            // All but extended errors is between two servers.
            if let Some(edns) = &mut answer.edns {
                edns.options_mut().as_mut().retain(|(code, _)| *code == EdnsCode::Unknown(EXTENDED_ERROR));
            }
            self.keep(kind, &answer, lifetime);
        }
        if !self.noted && is_refresh(&answer) && !answer.metadata.truncation {
            self.forget();
        }
        Ok(Arc::new(answer))
    }

    fn keep(&mut self, kind: Kind, answer: &Message, lifetime: u32) {
        let (Some(cache), Some(bytes)) = (&self.inner.cache, reply::to_bytes(answer)) else { return };
        let evicted = cache.put(&self.key, kind, bytes.into(), lifetime, Instant::now());
        self.inner.metrics.cache_kept(&self.server, kind, evicted, cache.entries());
        self.noted = true;
    }

    /// What was kept is not what the upstream servers say, and that is not to be kept.
    fn forget(&mut self) {
        if let Some(cache) = &self.inner.cache {
            cache.remove(&self.key);
            self.inner.metrics.cache_kept(&self.server, Kind::Negative, 0, cache.entries());
        }
        self.noted = true;
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let mut under_way = self.inner.under_way();
        if under_way.asked.get(&self.key).is_none_or(|(number, _)| *number != self.number) {
            return;
        }
        match &self.inner.cache {
            Some(cache) if self.noted => cache.ended(&self.key),
            Some(cache) => cache.failed(&self.key, Instant::now()),
            None => {}
        }
        under_way.asked.remove(&self.key);
    }
}

fn is_in(zones: &[DomainName], name: &DomainName) -> bool {
    zones.iter().any(|zone| zone.is_above(name.as_wire()))
}

/// Whether an answer takes the place of one that has expired (RFC 8767, section 5): with any other code the servers have failed.
fn is_refresh(answer: &Message) -> bool {
    let code = answer.metadata.response_code;
    matches!(code, ResponseCode::NoError | ResponseCode::NXDomain)
}

/// The sort of an answer and the smallest TTL in it; `None` for what must not be kept (RFC 2308).
fn classify(answer: &Message) -> Option<(Kind, u32)> {
    if answer.metadata.truncation {
        return None;
    }
    let has_soa = answer.authorities.iter().any(|record| record.record_type() == RecordType::SOA);
    let kind = match answer.metadata.response_code {
        ResponseCode::NXDomain if has_soa => Kind::Negative,
        ResponseCode::NoError if answers_question(answer) => Kind::Positive,
        ResponseCode::NoError if has_soa => Kind::Negative,
        // A load balancer that knows no IPv6 would be asked at each connection.
        ResponseCode::NoError if answer.answers.is_empty() && answer.authorities.is_empty() => {
            return Some((Kind::Negative, EMPTY_TTL));
        }
        ResponseCode::ServFail | ResponseCode::NotImp => return Some((Kind::Failure, 0)),
        _ => return None,
    };
    let ttl = |record: &Record| match &record.data {
        RData::SOA(soa) if kind == Kind::Negative => record.ttl.min(soa.minimum),
        _ => record.ttl,
    };
    let sections = [&answer.answers, &answer.authorities, &answer.additionals];
    Some((kind, sections.into_iter().flatten().map(ttl).min().unwrap_or(0)))
}

/// Whether it has what was asked for, and not only aliases that lead nowhere.
fn answers_question(answer: &Message) -> bool {
    let Some(asked) = answer.queries.first().map(|query| query.query_type()) else { return false };
    answer.answers.iter().any(|record| record.record_type() == asked || asked == RecordType::ANY)
}

fn set_ttl(message: &mut Message, ttl: u32) {
    let sections = [&mut message.answers, &mut message.authorities, &mut message.additionals];
    sections.into_iter().flatten().for_each(|record| record.ttl = ttl);
}

/// Has answers about the name of the question spell it as it does, so that its bytes stand in the message once.
fn spell(message: &mut Message) {
    let Some(name) = message.queries.first().map(|query| query.name().clone()) else { return };
    // Names are compared without regard to case.
    message.answers.iter_mut().filter(|record| record.name == name).for_each(|record| record.name = name.clone());
}

/// What is said when nobody has answered this.
fn failure(question: Message) -> Message {
    let mut failure = Message::new(question.metadata.id, MessageType::Response, question.metadata.op_code);
    failure.metadata.response_code = ResponseCode::ServFail;
    failure.metadata.recursion_available = true;
    failure.add_queries(question.queries);
    failure
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
