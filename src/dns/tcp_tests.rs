//! What a connection holds, and for how long.

use super::*;
use crate::config::{CacheConfig, GuardConfig};
use crate::dns::chain::{Chain, Plan};
use crate::dns::forward::Forwarder;
use crate::dns::limits::ORPHANS;
use crate::dns::metrics::Metrics;
use crate::dns::records::Records;
use crate::dns::resolve::Resolver;
use crate::model::{Endpoint, Family, ObjectKey, Service, ServiceKind, Slice};
use futures::FutureExt;
use hickory_proto::op::{Message as Parsed, Query};
use hickory_proto::rr::RecordType;
use std::collections::BTreeSet;
use std::net::IpAddr;
use tokio::io::AsyncReadExt;
use tokio::net::TcpSocket;

const PATIENCE: Duration = Duration::from_secs(60);
/// Whoever asks for this gets an answer of this many addresses, of which two are enough to be sent.
const CROWD: (&str, u16) = ("crowd.data.svc.cluster.local.", 900);
/// Whoever asks for this waits for another server, which says nothing.
const ELSEWHERE: &str = "www.example.com.";

/// A server whose upstream server takes connections and says nothing.
struct Silent {
    responder: Arc<Responder>,
    registry: prometheus::Registry,
    upstream: TcpListener,
    /// Nobody says that it ends.
    stop: watch::Sender<Stop>,
}

/// So many questions over TCP are worked on.
async fn silent(places: usize) -> Silent {
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let registry = prometheus::Registry::new();
    let metrics = Arc::new(Metrics::new(&registry).unwrap());
    let upstreams = [upstream.local_addr().unwrap()].into_iter().collect();
    let forwarder = Forwarder::to(&upstreams, metrics.clone()).with_deadline(10 * PATIENCE);
    let records = Arc::new(Records::new("cluster.local", 30));
    publish_crowd(&records);
    let plan = Plan::simple(records.shape().clone(), Resolver::new(forwarder, &CacheConfig::default(), metrics.clone()));
    let chain = Chain::limited(plan, Limits::of(1, places, usize::MAX));
    let responder = Arc::new(Responder::new(records, chain, metrics, "127.0.0.1:53".parse().unwrap()));
    Silent { responder, registry, upstream, stop: watch::Sender::new(Stop::Not) }
}

fn publish_crowd(records: &Records) {
    let key = ObjectKey::new("data", "crowd");
    let service = Service::of_kind(key.clone(), ServiceKind::Headless);
    let address = |number: u16| IpAddr::from([10, 77, (number >> 8) as u8, number as u8]);
    let slice = Slice {
        key: ObjectKey::new("data", "crowd-1"),
        service: key.clone(),
        family: Family::V4,
        ports: Box::new([]),
        endpoints: (0..CROWD.1).map(|number| Endpoint::at(address(number))).collect(),
        headless: true,
        weight: 1,
        triggered: None,
        details: None,
    };
    records.publish(&key, Some(&service), &[&slice]);
}

fn question(name: &str) -> Vec<u8> {
    let mut message = Parsed::query();
    message.add_query(Query::query(name.parse().unwrap(), RecordType::A));
    message.metadata.recursion_desired = true;
    message.to_vec().unwrap()
}

/// A connection on which this has been asked so many times, and its client's end. Little fits between them.
async fn asked(responder: &Arc<Responder>, name: &str, times: usize) -> (Conversation, TcpStream) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_send_buffer_size(16 << 10).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let client = TcpSocket::new_v4().unwrap();
    client.set_recv_buffer_size(16 << 10).unwrap();
    let (client, accepted) = tokio::join!(client.connect(listener.local_addr().unwrap()), listener.accept());
    let (stream, address) = accepted.unwrap();
    let registry = prometheus::Registry::new();
    let guard = Arc::new(Guard::new(GuardConfig::default(), Arc::new(Metrics::new(&registry).unwrap())));
    let mut conversation = Conversation::new(stream, address, responder, &guard, &Arc::new(Clerks::new()));
    let question = question(name);
    conversation.inbox.bytes = [&(question.len() as u16).to_be_bytes(), &question[..]].concat().repeat(times);
    (conversation, client.unwrap())
}

#[tokio::test]
async fn answers_that_are_long_enough_are_sent_before_others_are_made() {
    let server = silent(1).await;
    let (mut conversation, _client) = asked(&server.responder, CROWD.0, 20).await;
    let mut answers = Vec::new();
    for _ in 0..10 {
        answers.clear();
        let client = conversation.client;
        let next = conversation.clerks.any().answer(&mut conversation.inbox, client, &server.responder, &mut answers);
        assert!(matches!(next, Next::Send) && answers.len() > ENOUGH && answers.len() < 2 * ENOUGH, "{} bytes", answers.len());
    }
}

/// On a single thread the others come only when this connection lets them.
#[tokio::test]
async fn other_connections_have_their_turn_between_long_answers() {
    const ROUNDS: usize = 20;
    let server = silent(1).await;
    let (conversation, client) = asked(&server.responder, CROWD.0, 2 * ROUNDS).await;
    let mut client = client.into_std().unwrap();
    client.set_nonblocking(false).unwrap();
    let reads = thread::spawn(move || {
        client.shutdown(std::net::Shutdown::Write).unwrap();
        std::io::copy(&mut client, &mut std::io::sink()).unwrap()
    });
    let holding = tokio::spawn(conversation.hold(server.stop.subscribe()));
    let mut seen = BTreeSet::new();
    while !holding.is_finished() {
        seen.insert(counted(&server.registry));
        yield_now().await;
    }
    assert!(reads.join().unwrap() > (2 * ROUNDS * usize::from(CROWD.1) * 16) as u64);
    assert!(seen.len() > ROUNDS, "{seen:?}");
}

/// How many questions have been answered.
fn counted(registry: &prometheus::Registry) -> u64 {
    let families = registry.gather();
    let requests = families.iter().filter(|family| family.name() == "coredns_dns_requests_total");
    requests.flat_map(|family| family.get_metric()).map(|metric| metric.get_counter().get_value() as u64).sum()
}

#[tokio::test]
async fn a_client_that_does_not_take_the_rest_of_an_answer_loses_its_connection() {
    let server = silent(1).await;
    let (mut conversation, client) = asked(&server.responder, CROWD.0, 100).await;
    conversation.outbox.idle = Duration::from_millis(50);
    timeout(PATIENCE, conversation.hold(server.stop.subscribe())).await.expect("it is given up");
    drop(client);
}

#[tokio::test]
async fn a_connection_without_a_question_ends_and_one_whose_answer_is_awaited_does_not() {
    let server = silent(1).await;
    let idle = Duration::from_millis(50);
    let (mut conversation, _client) = asked(&server.responder, ELSEWHERE, 0).await;
    conversation.outbox.idle = idle;
    timeout(PATIENCE, conversation.hold(server.stop.subscribe())).await.expect("it has nothing to say");
    let (mut conversation, mut client) = asked(&server.responder, ELSEWHERE, 1).await;
    conversation.outbox.idle = idle;
    let mut holding = tokio::spawn(conversation.hold(server.stop.subscribe()));
    let (_asker, _) = server.upstream.accept().await.unwrap();
    assert!(timeout(10 * idle, &mut holding).await.is_err(), "its answer is still to come");
    // And it is still listened to.
    let more = question(CROWD.0);
    client.write_all(&[&(more.len() as u16).to_be_bytes(), &more[..]].concat()).await.unwrap();
    assert!(timeout(PATIENCE, client.read_u16()).await.expect("another answer").unwrap() > CROWD.1);
    holding.abort();
}

#[tokio::test]
async fn a_connection_on_which_nothing_can_be_sent_any_more_ends_at_once_with_all_that_it_waits_for() {
    let server = silent(1).await;
    let (mut conversation, _client) = asked(&server.responder, ELSEWHERE, 0).await;
    assert!(conversation.answer_later(question(ELSEWHERE)).await);
    conversation.outbox.broken.notify_one();
    let goes_on = timeout(IDLE / 2, conversation.read(&mut server.stop.subscribe())).await.expect("it is told");
    assert!(!goes_on && conversation.answers.is_empty());
}

#[tokio::test]
async fn a_connection_has_so_many_questions_worked_on_and_leaves_the_others_where_they_are() {
    let server = silent(2 * MAX_QUESTIONS).await;
    let (conversation, _client) = asked(&server.responder, ELSEWHERE, 2 * MAX_QUESTIONS).await;
    let places = conversation.places.clone();
    let holding = tokio::spawn(conversation.hold(server.stop.subscribe()));
    let full = async {
        while places.available_permits() > 0 {
            yield_now().await;
        }
    };
    timeout(PATIENCE, full).await.expect("it has as many as it may");
    let limits = server.responder.limits();
    let others: Vec<_> = std::iter::from_fn(|| limits.tcp().now_or_never().flatten()).collect();
    assert_eq!(others.len(), MAX_QUESTIONS, "places are left for other connections");
    holding.abort();
}

#[tokio::test]
async fn of_the_questions_whose_clients_have_gone_only_so_many_are_worked_on() {
    const MORE: usize = 8;
    let server = silent(2 * ORPHANS).await;
    let limits = server.responder.limits();
    let mut answering = Vec::new();
    for _ in 0..ORPHANS + MORE {
        let place = limits.tcp().await.unwrap();
        let client = "127.0.0.1:5353".parse().unwrap();
        answering.push(Answering::begin(server.responder.clone(), question(ELSEWHERE), client, place));
    }
    // All of them wait for this.
    let (asker, _) = server.upstream.accept().await.unwrap();
    let tasks: Vec<AbortHandle> = answering.iter().map(|one| one.task.abort_handle()).collect();
    drop(answering);
    let ended = async |count: usize| {
        let ended = || tasks.iter().filter(|task| task.is_finished()).count();
        let enough = async {
            while ended() < count {
                yield_now().await;
            }
        };
        timeout(PATIENCE, enough).await.expect("they end");
        ended()
    };
    assert_eq!(ended(MORE).await, MORE, "the others go on");
    assert!(limits.orphan().is_none());
    drop((asker, server.upstream));
    ended(ORPHANS + MORE).await;
    assert!(limits.orphan().is_some(), "whoever ends leaves its place to the next one");
}
