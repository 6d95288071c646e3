//! How much clients may have under way, and for how long they may say nothing.

use crate::battery::{cluster, endpoint, headless, slice};
use crate::wire::{ELSEWHERE, LIMIT, Running, answer_to, exchange, fake_upstream, query, tcp, udp, upstream};
use hickory_proto::op::{Edns, Message, ResponseCode};
use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata::opt::EdnsOption;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use waypost::dns::limits::Limits;

/// An upstream that says nothing, and tells which clients' questions have come.
async fn silent() -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let (heard, questions) = mpsc::unbounded_channel();
    let address = fake_upstream(move |question, _| {
        let name = question.queries[0].name().to_string();
        if name.starts_with("wait-") {
            heard.send(name).unwrap();
        }
        vec![]
    })
    .await;
    (address, questions)
}

/// A server with this upstream, on which so many questions over UDP are worked on.
fn serving(upstream: SocketAddr, udp: usize) -> Running {
    let corefile = format!(". {{\n    kubernetes cluster.local\n    forward . {upstream}\n    loadbalance\n}}");
    Running::limited(cluster(), &corefile, Limits::of(udp, 16, 1 << 20))
}

/// Has so many questions wait for the upstream server.
async fn waiting(server: SocketAddr, count: usize, heard: &mut mpsc::UnboundedReceiver<String>) -> JoinSet<Message> {
    let mut clients = JoinSet::new();
    for number in 0..count {
        clients.spawn(async move { udp(server, &query(&format!("wait-{number}.example.com"), 1)).await });
        while heard.recv().await.unwrap() != format!("wait-{number}.example.com.") {}
    }
    clients
}

/// A question that the records answer, but not the threads that receive it.
fn unusual() -> Message {
    let mut question = query("web.default.svc.cluster.local", 1);
    let mut edns = Edns::new();
    edns.options_mut().insert(EdnsOption::Unknown(65_001, vec![7]));
    question.set_edns(edns);
    question
}

#[tokio::test(flavor = "multi_thread")]
async fn more_questions_over_udp_than_there_are_places_fail_at_once_and_the_cluster_is_served() {
    let (address, mut heard) = silent().await;
    let running = serving(address, 1);
    let waiting = waiting(running.ipv4(), 1, &mut heard).await;
    let reply = udp(running.ipv4(), &query("www.example.com", 1)).await;
    assert!(reply.metadata.response_code == ResponseCode::ServFail && reply.queries.len() == 1, "{reply:?}");
    assert_eq!(running.counted("waypost_dns_dropped_questions_total", "busy"), 1);
    assert_eq!(udp(running.ipv4(), &query("web.default.svc.cluster.local", 1)).await.answers.len(), 1);
    assert_eq!(tcp(running.ipv4(), &unusual()).await.answers.len(), 1);
    drop(waiting);
    running.serving.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_that_wait_for_upstream_servers_leave_places_to_others() {
    let (address, mut heard) = silent().await;
    let running = serving(address, 4);
    let waiting = waiting(running.ipv4(), 3, &mut heard).await;
    assert_eq!(udp(running.ipv4(), &query("www.example.com", 1)).await.metadata.response_code, ResponseCode::Refused);
    assert_eq!(running.counted("coredns_forward_max_concurrent_rejects_total", ""), 1);
    assert_eq!(udp(running.ipv4(), &unusual()).await.answers.len(), 1);
    assert_eq!(running.counted("waypost_dns_dropped_questions_total", "busy"), 0);
    drop(waiting);
    running.serving.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_over_tcp_that_is_longer_than_any_question_ends_the_connection() {
    let running = Running::start(cluster(), &[upstream().await]);
    let mut stream = TcpStream::connect(running.ipv4()).await.unwrap();
    stream.write_all(&5000_u16.to_be_bytes()).await.unwrap();
    assert_eq!(stream.read(&mut [0; 16]).await.unwrap_or(0), 0);
    assert_eq!(running.counted("waypost_dns_dropped_questions_total", "size"), 1);
    running.serving.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forwarded_question_whose_connection_is_cut_is_asked_to_its_end_and_its_answer_kept() {
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = upstream.local_addr().unwrap().to_string();
    let running = Running::configured(cluster(), &[("dns-tcp-connections", "1"), ("dns-upstream", &address)]);
    let (outside, mut others) = (query("www.example.com", 1), Vec::new());
    let bytes = outside.to_vec().unwrap();
    let mut first = TcpStream::connect(running.ipv4()).await.unwrap();
    first.write_all(&[&(bytes.len() as u16).to_be_bytes(), &bytes[..]].concat()).await.unwrap();
    let (question, mut asker) = loop {
        // Looks for loops go over other connections, and get no answer.
        let (mut asker, _) = upstream.accept().await.unwrap();
        let mut question = vec![0; asker.read_u16().await.unwrap().into()];
        asker.read_exact(&mut question).await.unwrap();
        let question = Message::from_vec(&question).unwrap();
        if question.queries[0].query_type() == RecordType::A {
            break (question, asker);
        }
        others.push(asker);
    };
    // One more than allowed ends the oldest.
    assert_eq!(tcp(running.ipv4(), &query("web.default.svc.cluster.local", 1)).await.answers.len(), 1);
    assert_eq!(timeout(LIMIT, first.read(&mut [0])).await.expect("its end").unwrap_or(0), 0);
    let answer = answer_to(&question, ELSEWHERE).to_vec().unwrap();
    asker.write_all(&[&(answer.len() as u16).to_be_bytes(), &answer[..]].concat()).await.unwrap();
    // Nobody answers upstream over UDP.
    assert_eq!(udp(running.ipv4(), &outside).await.answers.len(), 1);
    running.serving.shutdown().await;
}

/// A server of headless Services with addresses that are sent as they are asked for, and with more, which are not.
fn crowds() -> Running {
    let records = cluster();
    for count in CROWDS {
        let name = format!("data/crowd-{count}");
        let address = |number: u16| endpoint(&format!("10.77.{}.{}", number / 256, number % 256));
        let slice = slice(&name, &[], (0..count).map(address));
        records.publish(&slice.service, Some(&headless(&name)), &[&slice]);
    }
    let corefile = ". {\n    kubernetes cluster.local\n    loadbalance\n}";
    Running::limited(records, corefile, Limits::of(16, 16, 200_000))
}

const CROWDS: [u16; 2] = [900, 1400];

fn of_crowd(count: u16) -> Message {
    query(&format!("crowd-{count}.data.svc.cluster.local"), 1)
}

/// One that has room for little.
async fn narrow(server: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(server).await.unwrap()
}

/// The oldest one ends for a new one only where there are as many as there may be.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_have_ended_take_no_place_from_those_that_go_on() {
    const PLACES: usize = 16;
    let running = Running::configured(cluster(), &[("dns-tcp-connections", &PLACES.to_string())]);
    let question = query("web.default.svc.cluster.local", 1);
    let mut oldest = TcpStream::connect(running.ipv4()).await.unwrap();
    for _ in 0..3 * PLACES {
        let mut short = TcpStream::connect(running.ipv4()).await.unwrap();
        assert_eq!(exchange(&mut short, &question).await.answers.len(), 1);
        short.shutdown().await.unwrap();
        assert_eq!(timeout(LIMIT, short.read(&mut [0; 16])).await.expect("the server ends it").unwrap(), 0);
    }
    assert_eq!(exchange(&mut oldest, &question).await.answers.len(), 1);
    running.serving.shutdown().await;
}

/// More than its share of what may lie about: long answers, none of which is taken.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_whose_client_asks_and_takes_no_answers_ends_and_others_go_on() {
    let running = crowds();
    for count in CROWDS {
        let before = running.counted("waypost_dns_dropped_questions_total", "unsent");
        let question = of_crowd(count).to_vec().unwrap();
        let bytes = [&(question.len() as u16).to_be_bytes(), &question[..]].concat();
        let mut greedy = narrow(running.ipv4()).await;
        let asks = async { while greedy.write_all(&bytes).await.is_ok() {} };
        timeout(2 * LIMIT, asks).await.expect("the server ends it");
        // A client that is merely slow is given up for being slow.
        assert!(running.counted("waypost_dns_dropped_questions_total", "unsent") > before);
        assert_eq!(tcp(running.ipv4(), &of_crowd(count)).await.answers.len(), usize::from(count));
    }
    running.serving.shutdown().await;
}

/// It has asked for a multiple of what lies on the way before it takes the first answer, and takes each in pieces.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_its_answers_slowly_gets_each_one_whole() {
    let running = crowds();
    for count in CROWDS {
        let mut slow = narrow(running.ipv4()).await;
        for round in 0..20_u16 {
            let numbers = round * 8..(round + 1) * 8;
            for number in numbers.clone() {
                let mut question = of_crowd(count);
                question.metadata.id = number;
                let question = question.to_vec().unwrap();
                slow.write_all(&[&(question.len() as u16).to_be_bytes(), &question[..]].concat()).await.unwrap();
            }
            let mut answered = BTreeSet::new();
            for _ in numbers.clone() {
                let mut answer = vec![0; usize::from(slow.read_u16().await.unwrap())];
                for piece in answer.chunks_mut(1000) {
                    slow.read_exact(piece).await.unwrap();
                }
                let answer = Message::from_vec(&answer).unwrap();
                assert_eq!(answer.answers.len(), usize::from(count));
                answered.insert(answer.metadata.id);
            }
            assert_eq!(answered, numbers.collect());
        }
    }
    running.serving.shutdown().await;
}

/// What is not worth an answer costs nothing that stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_empty_messages_without_a_pause_keeps_nobody_from_an_answer() {
    let running = Running::start(cluster(), &[upstream().await]);
    let mut stream = TcpStream::connect(running.ipv4()).await.unwrap();
    stream.write_all(&[0; 200_000]).await.unwrap();
    assert_eq!(exchange(&mut stream, &query("web.default.svc.cluster.local", 1)).await.answers.len(), 1);
    running.serving.shutdown().await;
}

/// The times are CoreDNS's (10 seconds); what counts is that they end (RFC 7766, section 6.2.3), and for whom.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_say_nothing_are_closed_and_one_that_asks_goes_on() {
    let running = Running::start(cluster(), &[upstream().await]);
    let server = running.ipv4();
    let question = query("web.default.svc.cluster.local", 1);
    let bytes = question.to_vec().unwrap();
    let mut idle = JoinSet::new();
    // Nothing at all, half a length, and half a question.
    for said in [vec![], vec![0], [&[0, bytes.len() as u8], &bytes[..9]].concat()] {
        idle.spawn(async move {
            let mut stream = TcpStream::connect(server).await.unwrap();
            stream.write_all(&said).await.unwrap();
            timeout(3 * LIMIT, stream.read(&mut [0; 16])).await.expect("the server ends it").unwrap_or(0)
        });
    }
    let asked = question.clone();
    idle.spawn(async move {
        let mut stream = TcpStream::connect(server).await.unwrap();
        exchange(&mut stream, &asked).await;
        timeout(3 * LIMIT, stream.read(&mut [0; 16])).await.expect("the server ends it").unwrap_or(0)
    });
    let mut busy = TcpStream::connect(server).await.unwrap();
    while !idle.is_empty() {
        exchange(&mut busy, &question).await;
        tokio::select! {
            Some(ended) = idle.join_next() => assert_eq!(ended.unwrap(), 0),
            () = sleep(Duration::from_secs(1)) => {}
        }
    }
    assert_eq!(exchange(&mut busy, &question).await.answers.len(), 1);
    running.serving.shutdown().await;
}

/// Of questions that the records answer at once, that they answer by the other path, and that others answer.
#[tokio::test(flavor = "multi_thread")]
async fn questions_that_come_together_and_end_in_other_pieces_than_they_began_are_all_answered() {
    const QUESTIONS: u16 = 300;
    let running = Running::start(cluster(), &[upstream().await]);
    let questions = (0..QUESTIONS).flat_map(|number| {
        let mut question = match number % 3 {
            0 => query("web.default.svc.cluster.local", 1),
            1 => unusual(),
            _ => query("www.example.com", 1),
        };
        question.metadata.id = number;
        let bytes = question.to_vec().unwrap();
        [&(bytes.len() as u16).to_be_bytes(), &bytes[..]].concat()
    });
    let questions: Vec<u8> = questions.collect();
    let (mut from, mut to) = TcpStream::connect(running.ipv4()).await.unwrap().into_split();
    tokio::spawn(async move {
        for piece in questions.chunks(997) {
            to.write_all(piece).await.unwrap();
        }
    });
    let mut answered = BTreeSet::new();
    for _ in 0..QUESTIONS {
        let mut answer = vec![0; timeout(LIMIT, from.read_u16()).await.expect("there is another answer").unwrap().into()];
        from.read_exact(&mut answer).await.unwrap();
        let answer = Message::from_vec(&answer).unwrap();
        assert_eq!(answer.answers.len(), 1, "{answer:?}");
        answered.insert(answer.metadata.id);
    }
    assert_eq!(answered, (0..QUESTIONS).collect());
    assert_eq!(running.counted("coredns_dns_requests_total", "tcp"), u64::from(QUESTIONS));
    running.serving.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_comes_late_finds_its_connection() {
    // Silent until it is told. What comes first then may be a check of the server, or the question asked again.
    let speaks = Arc::new(AtomicBool::new(false));
    let told = speaks.clone();
    let slow = fake_upstream(move |question, _| match told.load(Ordering::SeqCst) {
        true => vec![answer_to(question, ELSEWHERE)],
        false => vec![],
    })
    .await;
    let corefile = format!(". {{\n    forward . {slow} {{\n        prefer_udp\n    }}\n}}");
    let running = Running::by_corefile(cluster(), &corefile);
    let mut stream = TcpStream::connect(running.ipv4()).await.unwrap();
    let question = query("www.example.com", 1);
    let bytes = question.to_vec().unwrap();
    stream.write_all(&[&(bytes.len() as u16).to_be_bytes(), &bytes[..]].concat()).await.unwrap();
    // Its client has said its last word, and waits.
    stream.shutdown().await.unwrap();
    speaks.store(true, Ordering::SeqCst);
    let mut answer = Vec::new();
    timeout(LIMIT, stream.read_to_end(&mut answer)).await.expect("the server ends it").unwrap();
    assert_eq!(Message::from_vec(&answer[2..]).unwrap().answers.len(), 1);
    running.serving.shutdown().await;
}
