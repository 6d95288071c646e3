//! What keeps the server from being misused: networks that may ask, a rate for each client, sizes and numbers that are too large.

use crate::battery::cluster;
use crate::wire::{Running, query, tcp, udp};
use hickory_proto::op::Message;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::{sleep, timeout};

const WEB: &str = "web.default.svc.cluster.local";
const DROPPED: &str = "waypost_dns_dropped_questions_total";
const LIMIT: Duration = Duration::from_secs(20);

async fn asking_from(address: &str, server: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind((address, 0)).await.unwrap();
    socket.connect(server).await.unwrap();
    socket
}

async fn ask(socket: &UdpSocket) {
    socket.send(&query(WEB, 1).to_vec().unwrap()).await.unwrap();
}

async fn answer(socket: &UdpSocket) -> Message {
    let mut buffer = [0; 1500];
    let length = timeout(LIMIT, socket.recv(&mut buffer)).await.expect("an answer").unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let waiting = async {
        while !so() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LIMIT, waiting).await.unwrap_or_else(|_| panic!("still not: {what}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_in_an_allowed_network_gets_no_answer_over_udp_or_tcp() {
    let running = Running::configured(cluster(), &[("dns-allow-from", "127.0.0.2/31,192.0.2.0/24")]);
    let server = running.ipv4();
    let (stranger, friend) = (asking_from("127.0.0.1", server).await, asking_from("127.0.0.3", server).await);
    ask(&stranger).await;
    ask(&friend).await;
    assert_eq!(answer(&friend).await.answers.len(), 1);
    until("the stranger's question is counted", || running.counted(DROPPED, "source") == 1).await;
    assert!(stranger.try_recv(&mut [0; 1500]).is_err(), "silence");

    let mut connection = TcpStream::connect(server).await.unwrap();
    let closed = timeout(LIMIT, connection.read(&mut [0])).await.expect("the end of the connection");
    assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
    until("and the connection", || running.counted(DROPPED, "source") == 2).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    assert_eq!(over(socket.connect(server)).await.answers.len(), 1);
    running.serving.shutdown().await;
}

async fn over(connecting: impl Future<Output = std::io::Result<TcpStream>>) -> Message {
    crate::wire::exchange(&mut connecting.await.unwrap(), &query(WEB, 1)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_asks_too_often_is_sent_to_tcp_and_the_others_do_not_notice() {
    let running = Running::configured(cluster(), &[("dns-rate-limit", "1"), ("dns-rate-limit-slip", "2")]);
    let server = running.ipv4();
    let hasty = asking_from("127.0.0.1", server).await;
    let asked = 60;
    for _ in 0..asked {
        ask(&hasty).await;
    }
    let calm = asking_from("127.0.0.9", server).await;
    ask(&calm).await;
    assert_eq!(answer(&calm).await.answers.len(), 1);
    let (mut whole, mut cut) = (0, 0);
    let counted = || {
        let slips = running.counted("waypost_dns_rate_limit_slips_total", "");
        (running.counted("coredns_dns_requests_total", "udp") - 1, slips, running.counted(DROPPED, "rate"))
    };
    until(
        "each question is counted once",
        || matches!(counted(), (answered, slips, dropped) if answered + slips + dropped == asked),
    )
    .await;
    let (answered, slips, dropped) = counted();
    for _ in 0..answered + slips {
        let reply = answer(&hasty).await;
        assert_eq!(reply.queries[0].name().to_string(), format!("{WEB}."));
        match reply.metadata.truncation {
            true if reply.answers.is_empty() => cut += 1,
            true => panic!("{reply:?}"),
            false => whole += 1,
        }
    }
    assert_eq!((whole, cut), (answered, slips));
    assert!(whole >= 1 && cut >= 1 && dropped >= 1, "{whole} {cut} {dropped}");
    assert!(cut.abs_diff(dropped) <= 1, "every second one: {cut} {dropped}");
    assert!(hasty.try_recv(&mut [0; 1500]).is_err(), "silence otherwise");
    for _ in 0..5 {
        assert_eq!(tcp(server, &query(WEB, 1)).await.answers.len(), 1, "over TCP nobody can pretend to be another one");
    }
    running.serving.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_that_are_longer_than_any_gets_no_answer_and_do_no_harm() {
    let running = Running::configured(cluster(), &[]);
    let socket = asking_from("127.0.0.1", running.ipv4()).await;
    let mut long = query(WEB, 1).to_vec().unwrap();
    long.resize(5000, 0);
    socket.send(&long).await.unwrap();
    until("it is counted", || running.counted(DROPPED, "size") == 1).await;
    assert_eq!(udp(running.ipv4(), &query(WEB, 1)).await.answers.len(), 1);
    assert!(socket.try_recv(&mut [0; 1500]).is_err());
    running.serving.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_more_than_allowed_ends_the_oldest() {
    let running = Running::configured(cluster(), &[("dns-tcp-connections", "2")]);
    let mut connections = Vec::new();
    for _ in 0..3 {
        let mut connection = TcpStream::connect(running.ipv4()).await.unwrap();
        // Answered, so that the server has accepted it.
        assert_eq!(crate::wire::exchange(&mut connection, &query(WEB, 1)).await.answers.len(), 1);
        connections.push(connection);
    }
    let ended = timeout(LIMIT, connections[0].read(&mut [0])).await.expect("the end of the first");
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    for connection in &mut connections[1..] {
        assert_eq!(crate::wire::exchange(connection, &query(WEB, 1)).await.answers.len(), 1);
    }
    running.serving.shutdown().await;
}
