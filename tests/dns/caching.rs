//! Answers from upstream servers, kept for a while.

use crate::battery::cluster;
use crate::wire::{ELSEWHERE, Running, answer_to, client_question, fake_upstream, query, tcp, udp};
use hickory_proto::op::{Edns, Message, ResponseCode};
use hickory_proto::rr::rdata::opt::{ClientSubnet, EdnsOption};
use hickory_proto::rr::rdata::{A, CNAME, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;
use waypost::config::CacheConfig;

/// An upstream that counts what it is asked, and can be told to fail.
struct Upstream {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    down: Arc<AtomicBool>,
}

impl Upstream {
    /// `answer` makes an answer of a question and its number, from 1.
    async fn answering(answer: impl Fn(&Message, usize) -> Message + Send + 'static) -> Upstream {
        let (asked, down) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, is_down) = (asked.clone(), down.clone());
        let address = fake_upstream(move |question, _| {
            let number = count.fetch_add(1, Ordering::SeqCst) + 1;
            if is_down.load(Ordering::SeqCst) {
                vec![code(question, ResponseCode::ServFail)]
            } else {
                vec![answer(question, number)]
            }
        })
        .await;
        Upstream { address, asked, down }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn code(question: &Message, code: ResponseCode) -> Message {
    let mut answer = answer_to(question, ELSEWHERE);
    answer.answers.clear();
    answer.metadata.response_code = code;
    answer
}

/// An address that tells which question it is the answer to.
fn numbered(question: &Message, number: usize) -> Message {
    answer_to(question, Ipv4Addr::new(203, 0, 113, number as u8))
}

fn number_of(reply: &Message) -> u8 {
    match &reply.answers[0].data {
        RData::A(A(address)) => address.octets()[3],
        other => panic!("{other}"),
    }
}

fn soa(ttl: u32, minimum: u32) -> Record {
    let name: Name = "example.com.".parse().unwrap();
    Record::from_rdata(name.clone(), ttl, RData::SOA(SOA::new(name.clone(), name, 1, 1, 1, 1, minimum)))
}

fn start(upstream: &Upstream, cache: CacheConfig) -> Running {
    Running::with_cache(cluster(), &[upstream.address], &cache)
}

/// The answer of an upstream server that compresses names well.
fn long_answer(question: &[u8], addresses: u16) -> Vec<u8> {
    // Header, name with the root, type and class.
    let end = 12 + Message::from_vec(question).unwrap().queries[0].name().len() + 1 + 4;
    let mut answer = [&question[..2], &[0x81, 0x80, 0, 1], &addresses.to_be_bytes(), &[0; 4], &question[12..end]].concat();
    for number in 0..addresses {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 9]);
        answer.extend(number.to_be_bytes());
    }
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_fills_a_message_is_kept_as_well() {
    const ADDRESSES: u16 = 4000;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let count = count.clone();
            tokio::spawn(async move {
                while let Ok(length) = stream.read_u16().await {
                    let mut question = vec![0; length.into()];
                    stream.read_exact(&mut question).await.unwrap();
                    // And not a question that looks for loops.
                    let is_clients = Message::from_vec(&question).unwrap().queries[0].query_type() == RecordType::A;
                    count.fetch_add(is_clients.into(), Ordering::SeqCst);
                    let answer = long_answer(&question, ADDRESSES);
                    stream.write_all(&[&(answer.len() as u16).to_be_bytes(), &answer[..]].concat()).await.unwrap();
                }
            });
        }
    });
    let running = Running::with_cache(cluster(), &[address], &CacheConfig::default());
    for _ in 0..3 {
        let reply = tcp(running.ipv4(), &query("a-long-list.of.addresses.example.com", 1)).await;
        assert!(reply.answers.len() == usize::from(ADDRESSES) && !reply.metadata.truncation, "{} addresses", reply.answers.len());
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1, "asked once");
    running.serving.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_answer_is_from_memory_with_aa_and_in_the_askers_spelling() {
    let upstream = Upstream::answering(numbered).await;
    let running = start(&upstream, CacheConfig::default());
    let first = udp(running.ipv4(), &query("www.example.com", 1)).await;
    assert!(!first.metadata.authoritative && first.answers[0].ttl == 30, "60 seconds are cut to 30, as in CoreDNS");
    let question = query("wWw.example.COM", 1);
    let second = udp(running.ipv4(), &question).await;
    assert!(second.metadata.authoritative && second.metadata.recursion_available && number_of(&second) == 1);
    assert!(second.answers[0].name.eq_case(question.queries[0].name()), "{}", second.answers[0].name);
    assert_eq!((second.metadata.id, upstream.asked()), (question.metadata.id, 1));
    for (name, label, count) in [
        ("coredns_cache_requests_total", "", 2),
        ("coredns_cache_misses_total", "", 1),
        ("coredns_cache_hits_total", "success", 1),
        ("coredns_dns_responses_total", "forward", 1),
        ("coredns_dns_responses_total", "cache", 1),
    ] {
        assert_eq!(running.counted(name, label), count, "{name} {label}");
    }
    running.serving.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn types_and_the_flags_do_and_cd_have_answers_of_their_own() {
    let upstream = Upstream::answering(numbered).await;
    let running = start(&upstream, CacheConfig::default());
    let plain = query("www.example.com", 1);
    let (mut dnssec, mut unchecked, mut sized, mut authentic) = (plain.clone(), plain.clone(), plain.clone(), plain.clone());
    dnssec.set_edns(Edns::new());
    dnssec.edns.as_mut().unwrap().set_dnssec_ok(true);
    unchecked.metadata.checking_disabled = true;
    sized.set_edns(Edns::new());
    authentic.metadata.authentic_data = true;
    let mut numbers = Vec::new();
    for question in [&plain, &dnssec, &unchecked, &sized, &authentic] {
        numbers.push(number_of(&udp(running.ipv4(), question).await));
    }
    assert_eq!(numbers, [1, 2, 3, 1, 1]);
    running.serving.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn that_data_are_authentic_is_told_to_those_who_ask() {
    let upstream = Upstream::answering(|question, number| {
        let mut answer = numbered(question, number);
        answer.metadata.authentic_data = question.metadata.authentic_data;
        answer
    })
    .await;
    let running = start(&upstream, CacheConfig::default());
    let plain = query("www.example.com", 1);
    let mut authentic = plain.clone();
    authentic.metadata.authentic_data = true;
    for (question, told) in [(&plain, false), (&authentic, true), (&plain, false)] {
        assert_eq!(udp(running.ipv4(), question).await.metadata.authentic_data, told);
    }
    assert_eq!(upstream.asked(), 1);
    running.serving.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_one_client_may_hear_is_not_kept() {
    let upstream = Upstream::answering(numbered).await;
    let running = start(&upstream, CacheConfig::default());
    let plain = query("www.example.com", 1);
    let (mut subnet, mut not_recursive) = (plain.clone(), plain.clone());
    subnet.set_edns(Edns::new());
    subnet.edns.as_mut().unwrap().options_mut().insert(EdnsOption::Subnet(ClientSubnet::new(
        "192.0.2.0".parse().unwrap(),
        24,
        0,
    )));
    not_recursive.metadata.recursion_desired = false;
    let mut numbers = Vec::new();
    for question in [&subnet, &not_recursive, &plain, &subnet, &not_recursive, &plain] {
        numbers.push(number_of(&udp(running.ipv4(), question).await));
    }
    assert_eq!(numbers, [1, 2, 3, 4, 5, 3]);
    running.serving.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn denials_are_kept_by_their_soa_failures_for_a_moment_and_refusals_not_at_all() {
    let upstream = Upstream::answering(|question, number| match question.queries[0].name().to_string().as_str() {
        "no.example.com." => {
            let mut answer = code(question, ResponseCode::NXDomain);
            answer.authorities.push(soa(60, 12));
            answer
        }
        "no-soa.example.com." => code(question, ResponseCode::NXDomain),
        "empty.example.com." => code(question, ResponseCode::NoError),
        "dangling.example.com." => {
            let mut answer = numbered(question, number);
            answer.answers[0].data = RData::CNAME(CNAME("target.example.com.".parse().unwrap()));
            answer
        }
        "failing.example.com." => code(question, ResponseCode::ServFail),
        _ => code(question, ResponseCode::Refused),
    })
    .await;
    // Longer than any machine stands still between two questions.
    let running =
        start(&upstream, CacheConfig { failure_ttl: 300, min_negative_ttl: 300, negative_ttl: 300, ..CacheConfig::default() });
    // Failing and refusing servers are asked once more by themselves, so that how often they are asked the first time is not the point.
    for (name, kept, ttl) in [
        ("no.example.com", true, Some(300)),
        ("no-soa.example.com", false, None),
        ("empty.example.com", true, None),
        ("dangling.example.com", false, Some(60)),
        ("failing.example.com", true, None),
        ("refusing.example.com", false, None),
    ] {
        let first = udp(running.ipv4(), &query(name, 1)).await;
        let shown = first.answers.iter().chain(&first.authorities).map(|record| record.ttl).next();
        assert_eq!(shown, ttl, "{name}");
        let before = upstream.asked();
        let second = udp(running.ipv4(), &query(name, 1)).await;
        assert_eq!(second.metadata.response_code, first.metadata.response_code, "{name}");
        assert_eq!(upstream.asked() == before, kept, "{name}");
    }
    running.serving.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_questions_at_once_are_one_to_the_upstream() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let running = Running::start(cluster(), &[socket.local_addr().unwrap()]);
    let mut clients = JoinSet::new();
    for _ in 0..100 {
        let server = running.ipv4();
        clients.spawn(async move { udp(server, &query("www.example.com", 1)).await });
    }
    // All of them must wait before the answer comes.
    while running.counted("coredns_cache_requests_total", "") < 100 {
        tokio::task::yield_now().await;
    }
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let upstream = tokio::spawn(async move {
        loop {
            let (question, from) = client_question(&socket).await;
            // Who gets no answer for a second is checked by another question.
            if question.queries[0].query_type() == RecordType::A {
                count.fetch_add(1, Ordering::SeqCst);
            }
            socket.send_to(&answer_to(&question, ELSEWHERE).to_vec().unwrap(), from).await.unwrap();
        }
    });
    let answers = clients.join_all().await;
    assert!(answers.iter().all(|answer| answer.answers.len() == 1));
    // On a machine so slow that a second goes by the question is asked again, but never for each client.
    assert!((1..=10).contains(&asked.load(Ordering::SeqCst)), "{asked:?}");
    upstream.abort();
    running.serving.shutdown().await;
}

/// Seconds, of which time itself has to pass a few.
fn short_lived() -> CacheConfig {
    CacheConfig { positive_ttl: 1, min_ttl: 1, failure_ttl: 1, prefetch: 0, ..CacheConfig::default() }
}

/// Asks until the answer is what it should be: time passes in between.
async fn until(running: &Running, what: &str, is_it: impl Fn(&Message) -> bool) -> Message {
    let mut reply = Message::query();
    for _ in 0..600 {
        reply = udp(running.ipv4(), &query("www.example.com", 1)).await;
        if is_it(&reply) {
            return reply;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{what} did not happen: {reply:?}")
}

#[tokio::test(flavor = "multi_thread")]
async fn while_every_upstream_fails_the_last_answer_is_served_with_the_ttl_of_the_rfc() {
    let upstream = Upstream::answering(numbered).await;
    let running = start(&upstream, short_lived());
    udp(running.ipv4(), &query("www.example.com", 1)).await;
    upstream.down.store(true, Ordering::SeqCst);
    let stale = until(&running, "a stale answer", |reply| reply.answers.iter().any(|record| record.ttl == 30)).await;
    assert!(stale.metadata.response_code == ResponseCode::NoError && number_of(&stale) == 1);
    assert!(running.counted("coredns_cache_served_stale_total", "") >= 1);
    let mut question = query("www.example.com", 1);
    question.set_edns(Edns::new());
    let explained = udp(running.ipv4(), &question).await;
    let error = explained.edns.unwrap().option(15.into()).cloned();
    assert_eq!(error, Some(EdnsOption::Unknown(15, vec![0, 3])), "the client can see that it is stale");

    upstream.down.store(false, Ordering::SeqCst);
    until(&running, "a fresh answer", |reply| number_of(reply) > 1).await;
    running.serving.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_says_nothing_does_not_keep_clients_from_the_last_answer() {
    let silent = Arc::new(AtomicBool::new(false));
    let is_silent = silent.clone();
    let address = fake_upstream(
        move |question, _| if is_silent.load(Ordering::SeqCst) { vec![] } else { vec![answer_to(question, ELSEWHERE)] },
    )
    .await;
    let running = Running::with_cache(cluster(), &[address], &short_lived());
    udp(running.ipv4(), &query("www.example.com", 1)).await;
    silent.store(true, Ordering::SeqCst);
    until(&running, "a stale answer", |reply| reply.answers.iter().any(|record| record.ttl == 30)).await;
    running.serving.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_stale_answers_a_failure_is_told() {
    let upstream = Upstream::answering(numbered).await;
    let running = start(&upstream, CacheConfig { serve_stale: Duration::ZERO, ..short_lived() });
    udp(running.ipv4(), &query("www.example.com", 1)).await;
    upstream.down.store(true, Ordering::SeqCst);
    until(&running, "a failure", |reply| reply.metadata.response_code == ResponseCode::ServFail).await;
    running.serving.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_popular_name_is_fetched_before_it_expires() {
    let upstream = Upstream::answering(numbered).await;
    // Fetched anew from the fourth second on, and there for another 26, so that nobody has to wait on a slow machine either.
    let cache = CacheConfig { prefetch: 2, prefetch_last: 90, ..CacheConfig::default() };
    let running = start(&upstream, cache);
    until(&running, "a second answer", |reply| number_of(reply) > 1).await;
    assert!(running.counted("coredns_cache_prefetch_total", "") >= 1);
    assert_eq!(running.counted("coredns_cache_misses_total", ""), 1, "nobody but the first had to wait");
    running.serving.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cache_holds_no_more_than_it_may() {
    let upstream = Upstream::answering(numbered).await;
    let running = start(&upstream, CacheConfig { entries: 10, negative_entries: 10, ..CacheConfig::default() });
    for number in 0..50 {
        udp(running.ipv4(), &query(&format!("name-{number}.example.com"), 1)).await;
    }
    assert_eq!(running.counted("coredns_cache_evictions_total", "success"), 40);
    assert_eq!(running.shown("coredns_cache_entries", "success"), 10.0);
    running.serving.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_is_switched_off_keeps_nothing() {
    let upstream = Upstream::answering(numbered).await;
    let running = start(&upstream, CacheConfig { positive_ttl: 0, negative_ttl: 0, ..CacheConfig::default() });
    for number in 1..4 {
        let reply = udp(running.ipv4(), &query("www.example.com", 1)).await;
        assert_eq!((number_of(&reply), reply.answers[0].ttl), (number, 60));
    }
    running.serving.shutdown().await;
}
