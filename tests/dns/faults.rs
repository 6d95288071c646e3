//! Upstreams that lie, that speak TCP only, and that lead back to the server that asks them.

use crate::battery::cluster;
use crate::wire::{ELSEWHERE, Running, answer_over_tcp, answer_to, client_question, query, udp, upstream};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, RecordType};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::{TcpListener, UdpSocket};
use tokio::time::{sleep, timeout};

const LIE: Ipv4Addr = Ipv4Addr::new(6, 6, 6, 6);
const PATIENCE: Duration = Duration::from_secs(30);

fn addresses(reply: &Message) -> Vec<Ipv4Addr> {
    let address = |record: &hickory_proto::rr::Record| match record.data {
        RData::A(A(address)) => Some(address),
        _ => None,
    };
    reply.answers.iter().filter_map(address).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_from_elsewhere_or_one_that_cannot_be_read_is_not_believed() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let other_port = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let other_address = UdpSocket::bind(("127.0.0.2", address.port())).await.unwrap();
        loop {
            let (question, client) = client_question(&socket).await;
            let lie = answer_to(&question, LIE).to_vec().unwrap();
            other_port.send_to(&lie, client).await.unwrap();
            other_address.send_to(&lie, client).await.unwrap();
            // Cut in the middle of its record, of its header, and nothing at all.
            for length in [lie.len() - 3, 7, 0] {
                socket.send_to(&lie[..length], client).await.unwrap();
            }
            let mut more_records_than_there_are = lie.clone();
            more_records_than_there_are[7] = 200;
            socket.send_to(&more_records_than_there_are, client).await.unwrap();
            socket.send_to(&answer_to(&question, ELSEWHERE).to_vec().unwrap(), client).await.unwrap();
        }
    });
    let running = Running::start(cluster(), &[address]);
    assert_eq!(addresses(&udp(running.ipv4(), &query("www.example.com", 1)).await), [ELSEWHERE]);
    running.serving.shutdown().await;
}

/// An upstream that answers over TCP. Over UDP it is silent, or nobody is there.
async fn tcp_only(silent: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    if silent {
        let socket = UdpSocket::bind(address).await.unwrap();
        tokio::spawn(async move { while socket.recv(&mut [0; 512]).await.is_ok() {} });
    }
    answer_over_tcp(listener, |question| answer_to(question, ELSEWHERE));
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_speaks_tcp_only_is_asked_over_tcp() {
    for silent in [false, true] {
        let running = Running::start(cluster(), &[tcp_only(silent).await]);
        for name in ["a.example.com", "b.example.com"] {
            assert_eq!(addresses(&udp(running.ipv4(), &query(name, 1)).await), [ELSEWHERE], "{name}, silent over UDP: {silent}");
        }
        assert!(running.counted("coredns_proxy_conn_cache_hits_total", "tcp") >= 1, "the connection is used again");
        running.serving.shutdown().await;
    }
}

/// A forwarder without a mind of its own: what it gets goes to one of its targets, in turns. Without targets nothing exists.
#[derive(Clone, Default)]
struct Relay {
    targets: Arc<Mutex<Vec<SocketAddr>>>,
    turns: Arc<AtomicUsize>,
    /// Questions of clients that came here.
    asked: Arc<AtomicUsize>,
    /// Nothing goes on any more.
    ends: Arc<AtomicBool>,
}

impl Relay {
    async fn start() -> (Relay, SocketAddr) {
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let address = socket.local_addr().unwrap();
        let relay = Relay::default();
        let own = relay.clone();
        tokio::spawn(async move {
            let mut buffer = vec![0; 65_535];
            loop {
                let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
                let (relay, socket, question) = (own.clone(), socket.clone(), buffer[..length].to_vec());
                tokio::spawn(async move {
                    let answer = relay.pass_on(&question).await;
                    socket.send_to(&answer, client).await.unwrap();
                });
            }
        });
        (relay, address)
    }

    async fn pass_on(&self, question: &[u8]) -> Vec<u8> {
        let message = Message::from_vec(question).unwrap();
        if message.queries[0].query_type() != RecordType::HINFO {
            self.asked.fetch_add(1, Ordering::SeqCst);
        }
        let mut answer = answer_to(&message, ELSEWHERE);
        let targets = self.targets.lock().unwrap().clone();
        if targets.is_empty() || self.ends.load(Ordering::SeqCst) {
            answer.answers.clear();
            answer.metadata.response_code = ResponseCode::NXDomain;
            return answer.to_vec().unwrap();
        }
        let target = targets[self.turns.fetch_add(1, Ordering::SeqCst) % targets.len()];
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(target).await.unwrap();
        socket.send(question).await.unwrap();
        let mut buffer = vec![0; 65_535];
        let length = timeout(PATIENCE, socket.recv(&mut buffer)).await.map_or(Ok(0), |received| received).unwrap_or(0);
        buffer.truncate(length);
        buffer
    }
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waited = async {
        while !is_so() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, waited).await.unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}"));
}

fn leads_back(running: &Running, relay: SocketAddr) -> bool {
    running.shown("waypost_dns_upstream_loop", &relay.to_string()) == 1.0
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_leads_back_is_left_out_until_it_does_so_no_more() {
    let (relay, address) = Relay::start().await;
    let upstreams = format!("{address},{}", upstream().await);
    let running = Running::configured(cluster(), &[("dns-upstream", &upstreams), ("dns-forward-policy", "sequential")]);
    // Everybody behaves when the server starts; the loop begins later, and is found when questions fail.
    assert_eq!(udp(running.ipv4(), &query("before.example.com", 1)).await.metadata.response_code, ResponseCode::NXDomain);
    relay.targets.lock().unwrap().push(running.ipv4());
    assert_eq!(addresses(&udp(running.ipv4(), &query("first.example.com", 1)).await), [ELSEWHERE], "the other one answers");
    until("the loop is found", || leads_back(&running, address)).await;

    let before = relay.asked.load(Ordering::SeqCst);
    for number in 0..5 {
        let reply = udp(running.ipv4(), &query(&format!("then-{number}.example.com"), 1)).await;
        assert_eq!(addresses(&reply), [ELSEWHERE]);
    }
    // It is checked meanwhile (`. NS`), but no client's question goes there.
    assert!(relay.asked.load(Ordering::SeqCst) <= before + 2);

    relay.ends.store(true, Ordering::SeqCst);
    until("the loop is gone", || !leads_back(&running, address)).await;
    until("it is well again", || relay.asked.load(Ordering::SeqCst) > before).await;
    for number in 0.. {
        let reply = udp(running.ipv4(), &query(&format!("after-{number}.example.com"), 1)).await;
        if reply.metadata.response_code == ResponseCode::NXDomain {
            break;
        }
        assert!(number < 1000, "it is asked first again");
        sleep(Duration::from_millis(20)).await;
    }
    running.serving.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_every_upstream_leads_back_questions_fail_at_once_and_the_cluster_is_served() {
    let (relay, address) = Relay::start().await;
    let running = Running::start(cluster(), &[address]);
    relay.targets.lock().unwrap().push(running.ipv4());
    let reply = udp(running.ipv4(), &query("www.example.com", 1)).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    until("the loop is found", || leads_back(&running, address)).await;
    let before = relay.asked.load(Ordering::SeqCst);
    for number in 0..20 {
        let reply = udp(running.ipv4(), &query(&format!("n-{number}.example.com"), 1)).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    }
    assert!(relay.asked.load(Ordering::SeqCst) <= before + 2, "nothing is sent round");
    let reply = udp(running.ipv4(), &query("web.default.svc.cluster.local", 1)).await;
    assert_eq!(reply.answers.len(), 1);
    running.serving.shutdown().await;
}

/// The Deployment's servers with `dnsPolicy: ClusterFirst`: each asks the Service that all of them stand behind.
#[tokio::test(flavor = "multi_thread")]
async fn servers_that_ask_each_other_through_one_address_find_it_out() {
    let (relay, address) = Relay::start().await;
    let all: Vec<Running> = (0..3).map(|_| Running::start(cluster(), &[address])).collect();
    relay.targets.lock().unwrap().extend(all.iter().map(Running::ipv4));
    for running in &all {
        let reply = udp(running.ipv4(), &query("www.example.com", 1)).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    }
    // Who has found it passes no more probes on, so that the others' come back only by the relay's own choice: with another question, another probe.
    for running in &all {
        let mut number = 0;
        while !leads_back(running, address) {
            assert!(number < 500, "each finds the loop");
            let reply = udp(running.ipv4(), &query(&format!("again-{number}.example.com"), 1)).await;
            assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
            sleep(Duration::from_millis(20)).await;
            number += 1;
        }
    }
    for running in all {
        running.serving.shutdown().await;
    }
}
