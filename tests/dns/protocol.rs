//! What clients send that is not a plain question: EDNS, other classes and opcodes, garbage; and a stop that drains.

use crate::battery::cluster;
use crate::wire::{ELSEWHERE, Running, answer_to, client_question, exchange, lines, query, tcp, tcp_bytes, udp, udp_bytes};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::{DNSClass, RecordType};
use proptest::prelude::*;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use waypost::config::{CacheConfig, Upstreams};
use waypost::dns::chain::{Chain, Plan};
use waypost::dns::forward::Forwarder;
use waypost::dns::metrics::Metrics;
use waypost::dns::resolve::Resolver;
use waypost::dns::respond::Responder;

const WEB: &str = "web.default.svc.cluster.local";

/// Asks over both transports and checks that both say the same.
async fn code_of(running: &Running, message: &Message) -> ResponseCode {
    let (over_udp, over_tcp) = (udp(running.ipv4(), message).await, tcp(running.ipv4(), message).await);
    assert_eq!(over_udp.metadata, over_tcp.metadata);
    assert_eq!(over_udp.metadata.id, message.metadata.id);
    assert!(over_udp.answers.is_empty() && over_udp.metadata.message_type == MessageType::Response);
    over_udp.metadata.response_code
}

#[tokio::test(flavor = "multi_thread")]
async fn unusual_questions_are_refused_by_the_book() {
    let running = Running::start(cluster(), &[]);
    for (opcode, number) in [(OpCode::Notify, 4), (OpCode::Status, 2)] {
        let mut message = query(WEB, 1);
        message.metadata.op_code = opcode;
        assert_eq!(code_of(&running, &message).await, ResponseCode::NotImp, "opcode {number}");
    }
    for class in [DNSClass::CH, DNSClass::HS, DNSClass::ANY, DNSClass::Unknown(7)] {
        let mut message = query(WEB, 1);
        message.queries[0].set_query_class(class);
        assert_eq!(code_of(&running, &message).await, ResponseCode::Refused, "class {class}");
    }
    for transfer in [RecordType::AXFR, RecordType::IXFR] {
        let message = query("cluster.local", transfer.into());
        assert_eq!(code_of(&running, &message).await, ResponseCode::Refused, "{transfer}");
    }
    let mut two = query(WEB, 1);
    two.add_query(query(WEB, 28).queries[0].clone());
    assert_eq!(code_of(&running, &two).await, ResponseCode::FormErr);
    let mut none = query(WEB, 1);
    none.queries.clear();
    assert_eq!(code_of(&running, &none).await, ResponseCode::FormErr);
    let mut answered = query(WEB, 1);
    answered.answers = vec![answer_to(&answered, ELSEWHERE).answers[0].clone(); 2];
    assert_eq!(code_of(&running, &answered).await, ResponseCode::FormErr);
    running.serving.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn edns_is_answered_with_edns_and_other_versions_are_not_spoken() {
    let running = Running::start(cluster(), &[]);
    let mut message = query(WEB, 1);
    let mut edns = Edns::new();
    edns.set_version(1).set_max_payload(4096);
    message.set_edns(edns);
    assert_eq!(u16::from(code_of(&running, &message).await), 16, "BADVERS");
    let reply = udp(running.ipv4(), &message).await;
    assert_eq!(reply.edns.as_ref().map(Edns::version), Some(0), "the version that is spoken");

    let mut edns = Edns::new();
    edns.set_max_payload(100);
    edns.options_mut().insert(EdnsOption::Unknown(65_001, vec![1, 2, 3]));
    message.set_edns(edns);
    let reply = udp(running.ipv4(), &message).await;
    assert_eq!(lines(&reply), ["NOERROR", "answer web.default.svc.cluster.local. 30 A 10.96.0.10"]);
    let edns = reply.edns.expect("a question with OPT is answered with OPT");
    assert!(edns.options().options.is_empty() && !edns.flags().dnssec_ok && edns.max_payload() == 1232);
    running.serving.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cd_bit_is_repeated_and_ad_never_set_for_cluster_names() {
    let running = Running::start(cluster(), &[]);
    let mut message = query(WEB, 1);
    message.metadata.recursion_desired = false;
    message.metadata.checking_disabled = true;
    message.metadata.authentic_data = true;
    let header = udp(running.ipv4(), &message).await.metadata;
    assert!(header.checking_disabled && !header.authentic_data && !header.recursion_desired && header.authoritative);
    running.serving.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_and_scraps_get_no_reply_and_stop_nothing() {
    let running = Running::start(cluster(), &[]);
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(running.ipv4()).await.unwrap();
    let mut response = query(WEB, 1);
    response.metadata.message_type = MessageType::Response;
    let question = query(WEB, 1);
    for bytes in [response.to_vec().unwrap(), vec![], vec![0; 11], question.to_vec().unwrap()] {
        socket.send(&bytes).await.unwrap();
    }
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer).await.unwrap();
    assert_eq!(Message::from_vec(&buffer[..length]).unwrap().metadata.id, question.metadata.id);
    running.serving.shutdown().await;
    let nothing_more = socket.try_recv(&mut buffer).unwrap_err();
    assert_eq!(nothing_more.kind(), std::io::ErrorKind::WouldBlock, "one question, one reply");
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_stops_neither_udp_nor_tcp() {
    let running = Running::start(cluster(), &[]);
    let good = query(WEB, 1).to_vec().unwrap();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as usize
    };
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for _ in 0..2000 {
        let mut bytes = good.clone();
        for _ in 0..random() % 8 {
            let place = random() % bytes.len();
            bytes[place] = random() as u8;
        }
        bytes.truncate(random() % (bytes.len() + 1));
        bytes.extend((0..random() % 40).map(|_| random() as u8));
        socket.send_to(&bytes, running.ipv4()).await.unwrap();
    }
    for length in [0_u16, 5, 12, 60, 65_535] {
        let mut stream = TcpStream::connect(running.ipv4()).await.unwrap();
        stream.write_all(&length.to_be_bytes()).await.unwrap();
        let garbage: Vec<u8> = (0..60).map(|_| random() as u8).collect();
        stream.write_all(&garbage).await.unwrap();
    }
    let reply = Message::from_vec(&udp_bytes(running.ipv4(), &good).await).unwrap();
    assert_eq!(reply.answers.len(), 1);
    let reply = Message::from_vec(&tcp_bytes(running.ipv4(), &good).await).unwrap();
    assert_eq!(reply.answers.len(), 1);
    assert_eq!(running.counted("coredns_panics_total", ""), 0);
    running.serving.shutdown().await;
}

proptest! {
    #[test]
    fn any_datagram_gets_a_readable_reply_with_its_own_id_or_silence(
        bytes in proptest::collection::vec(any::<u8>(), 0..200), header in any::<bool>(), question in any::<bool>(),
    ) {
        let mut bytes = bytes;
        if header && bytes.len() >= 12 {
            bytes[2..12].copy_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        }
        if question && bytes.len() >= 12 {
            let good = query(WEB, 1).to_vec().unwrap();
            bytes.splice(12..12, good[12..].iter().copied());
        }
        let registry = prometheus::Registry::new();
        let metrics = Arc::new(Metrics::new(&registry).unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let resolver = Resolver::new(Forwarder::to(&Upstreams::default(), metrics.clone()), &CacheConfig::default(), metrics.clone());
        let responder = Responder::new(Arc::new(cluster()), Chain::new(Plan::simple(cluster().shape().clone(), resolver)), metrics, "127.0.0.1:53".parse().unwrap());
        let client: SocketAddr = "127.0.0.1:4000".parse().unwrap();
        if let Some(reply) = runtime.block_on(responder.answer_datagram(bytes.clone(), client)) {
            prop_assert!(bytes.len() >= 12 && bytes[2] & 0x80 == 0, "a response or a scrap was answered");
            let reply = Message::from_vec(&reply).unwrap();
            prop_assert_eq!(reply.metadata.id, u16::from_be_bytes([bytes[0], bytes[1]]));
            prop_assert_eq!(reply.metadata.message_type, MessageType::Response);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_questions_on_one_connection_are_all_answered() {
    let running = Running::start(cluster(), &[]);
    let mut stream = TcpStream::connect(running.ipv6()).await.unwrap();
    let questions = [query(WEB, 1), query("absent.default.svc.cluster.local", 1), query("db.data.svc.cluster.local", 33)];
    for question in &questions {
        let bytes = question.to_vec().unwrap();
        stream.write_u16(bytes.len() as u16).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
    }
    // As their answers come, so that a slow one does not hold up the others (RFC 7766, section 6.2.1.1).
    let mut open: Vec<u16> = questions.iter().map(|question| question.metadata.id).collect();
    while !open.is_empty() {
        let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut answer).await.unwrap();
        let id = Message::from_vec(&answer).unwrap().metadata.id;
        open.remove(open.iter().position(|asked| *asked == id).expect("an answer to a question that was asked once"));
    }
    running.serving.shutdown().await;
}

/// One thread, so that every task that can run has run when control comes back here: what a careless stop would cut off is
/// cut off before the upstream answers.
#[tokio::test]
async fn a_stop_waits_for_the_answers_under_way_and_then_releases_the_addresses() {
    let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let running = Running::start(cluster(), &[upstream.local_addr().unwrap()]);
    let address = running.ipv4();
    let over_udp = tokio::spawn(async move { udp(address, &query("www.example.com", 1)).await });
    let over_tcp = tokio::spawn(async move { tcp(address, &query("www.example.org", 1)).await });
    let mut forwarded = HashMap::new();
    while forwarded.len() < 2 {
        let (question, from) = client_question(&upstream).await;
        forwarded.insert(question.queries[0].name().to_string(), (question, from));
    }
    let mut stopping = Box::pin(running.serving.shutdown());
    for (name, asking) in [("www.example.com.", over_udp), ("www.example.org.", over_tcp)] {
        for _ in 0..20 {
            assert!(futures::poll!(&mut stopping).is_pending(), "{name} is not answered yet");
            tokio::task::yield_now().await;
        }
        let (question, from) = &forwarded[name];
        upstream.send_to(&answer_to(question, ELSEWHERE).to_vec().unwrap(), from).await.unwrap();
        assert_eq!(asking.await.unwrap().answers.len(), 1, "{name}");
    }
    stopping.await;
    waypost::dns::server::bind(&[address]).expect("the address is free again");
}

/// As while another agent takes over: it reads the same sockets.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_leaves_receives_no_more_and_finishes_its_connections() {
    let mut running = Running::start(cluster(), &[]);
    let address = running.ipv4();
    let mut stream = TcpStream::connect(address).await.unwrap();
    exchange(&mut stream, &query(WEB, 1)).await;
    running.serving.leave().await;
    exchange(&mut stream, &query(WEB, 1)).await;
    waypost::dns::server::bind(&[address]).expect("nobody listens there any more");
    running.serving.shutdown().await;
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "the end of the connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_counted_under_corednss_names() {
    let running = Running::start(cluster(), &[crate::wire::upstream().await]);
    udp(running.ipv4(), &query(WEB, 1)).await;
    tcp(running.ipv6(), &query("absent.default.svc.cluster.local", 28)).await;
    udp(running.ipv4(), &query("www.example.com", 4711)).await;
    for (name, label, count) in [
        ("coredns_dns_requests_total", "", 3),
        ("coredns_dns_requests_total", "tcp", 1),
        ("coredns_dns_requests_total", "2", 1),
        ("coredns_dns_requests_total", "other", 1),
        ("coredns_dns_responses_total", "NXDOMAIN", 1),
        ("coredns_dns_responses_total", "kubernetes", 2),
        ("coredns_dns_responses_total", "forward", 1),
    ] {
        assert_eq!(running.counted(name, label), count, "{name} {label}");
    }
    let names: Vec<String> = running.registry.gather().iter().map(|family| family.name().to_string()).collect();
    for name in [
        "coredns_build_info",
        "coredns_panics_total",
        "coredns_dns_request_duration_seconds",
        "coredns_dns_request_size_bytes",
        "coredns_dns_response_size_bytes",
        "coredns_proxy_request_duration_seconds",
        "coredns_forward_max_concurrent_rejects_total",
    ] {
        assert!(names.iter().any(|known| known == name), "{name} is missing");
    }
    running.serving.shutdown().await;
}
