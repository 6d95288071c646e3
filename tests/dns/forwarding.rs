//! Names outside the cluster: upstreams that are silent, slow, lying, cut short or gone.

use crate::battery::cluster;
use crate::wire::{ELSEWHERE, Running, answer_over_tcp, answer_to, client_question, fake_upstream, query, tcp, udp, upstream};
use hickory_proto::op::{Edns, Message, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::rdata::{A, NULL};
use hickory_proto::rr::{RData, Record};
use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::mpsc;
use waypost::config::{CacheConfig, Upstreams};
use waypost::dns::chain::{Chain, Plan};
use waypost::dns::forward::Forwarder;
use waypost::dns::metrics::Metrics;
use waypost::dns::resolve::Resolver;

const LIE: Ipv4Addr = Ipv4Addr::new(6, 6, 6, 6);

/// Asks a server with these upstreams for an external name.
async fn resolve(upstreams: &[SocketAddr]) -> Message {
    let running = Running::start(cluster(), upstreams);
    let reply = udp(running.ipv4(), &query("www.example.com", 1)).await;
    running.serving.shutdown().await;
    reply
}

fn addresses(reply: &Message) -> Vec<Ipv4Addr> {
    let address = |record: &Record| match record.data {
        RData::A(A(address)) => Some(address),
        _ => None,
    };
    reply.answers.iter().filter_map(address).collect()
}

fn code(question: &Message, code: ResponseCode) -> Message {
    let mut answer = answer_to(question, ELSEWHERE);
    answer.answers.clear();
    answer.metadata.response_code = code;
    answer
}

/// An address where nothing listens.
async fn nobody() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_with_another_id_or_question_is_not_believed() {
    let lying = fake_upstream(|question, _| {
        let (mut wrong_id, mut wrong_name, mut wrong_type) =
            (answer_to(question, LIE), answer_to(&query("www.example.org", 1), LIE), answer_to(question, LIE));
        wrong_id.metadata.id = question.metadata.id.wrapping_add(1);
        wrong_name.metadata.id = question.metadata.id;
        wrong_type.queries[0].set_query_type(28.into());
        let mut no_question = answer_to(question, LIE);
        no_question.queries.clear();
        vec![wrong_id, wrong_name, wrong_type, no_question, question.clone(), answer_to(question, ELSEWHERE)]
    })
    .await;
    assert_eq!(addresses(&resolve(&[lying]).await), [ELSEWHERE]);
}

/// RFC 5452, section 9.2: whoever cannot see a question has to guess id and port, and what it saw before is of no help. The bounds are at least six standard
/// deviations from what is expected of numbers drawn at random.
#[tokio::test(flavor = "multi_thread")]
async fn ids_and_source_ports_of_forwarded_questions_tell_nothing_about_the_next_ones() {
    const QUESTIONS: usize = 1500;
    const AT_A_TIME: usize = 50;
    let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let running = Running::start(cluster(), &[upstream.local_addr().unwrap()]);
    let (told, mut seen) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (question, client) = client_question(&upstream).await;
            if question.queries[0].query_type() == hickory_proto::rr::RecordType::A {
                told.send((question.metadata.id, client.port())).unwrap();
            }
            upstream.send_to(&answer_to(&question, ELSEWHERE).to_vec().unwrap(), client).await.unwrap();
        }
    });
    for first in (0..QUESTIONS).step_by(AT_A_TIME) {
        let ask = |number: usize| {
            let question = query(&format!("n{number}.example.com"), 1);
            let server = running.ipv4();
            async move { udp(server, &question).await }
        };
        futures::future::join_all((first..first + AT_A_TIME).map(ask)).await;
    }
    let mut pairs = Vec::new();
    while let Ok(pair) = seen.try_recv() {
        pairs.push(pair);
    }
    assert!(pairs.len() >= QUESTIONS, "{} questions", pairs.len());
    pairs.truncate(QUESTIONS);
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let range: Vec<u16> = range.split_whitespace().map(|bound| bound.parse().unwrap()).collect();
    let ids: Vec<u16> = pairs.iter().map(|(id, _)| *id).collect();
    let ports: Vec<u16> = pairs.iter().map(|(_, port)| *port).collect();
    is_unpredictable("ids", &ids, 0, u16::MAX);
    is_unpredictable("ports", &ports, range[0], range[1]);
    // And neither tells the other.
    let apart: Vec<u16> = pairs.iter().map(|(id, port)| id.wrapping_sub(*port)).collect();
    is_unpredictable("distances", &apart, 0, u16::MAX);
    running.serving.shutdown().await;
}

/// Few occur twice, they are spread evenly, and so are the steps from each to the next one.
fn is_unpredictable(what: &str, numbers: &[u16], least: u16, most: u16) {
    const SHARES: usize = 8;
    let count = numbers.len() as f64;
    let values = f64::from(most - least) + 1.0;
    let steps: Vec<f64> = numbers.windows(2).map(|pair| (f64::from(pair[1]) - f64::from(pair[0])).rem_euclid(values)).collect();
    let numbers: Vec<f64> = numbers.iter().map(|number| f64::from(*number) - f64::from(least)).collect();
    for (of, numbers) in [("", &numbers), ("steps between ", &steps)] {
        let distinct = numbers.iter().map(|number| *number as u32).collect::<HashSet<_>>().len() as f64;
        let expected = count * count / 2.0 / values;
        let twice = numbers.len() as f64 - distinct;
        assert!(twice <= expected + 6.0 * expected.sqrt() + 6.0, "{of}{what}: {twice} occur again, {expected:.0} are expected");
        let mut shares = [0.0; SHARES];
        numbers.iter().for_each(|number| shares[(number * SHARES as f64 / values) as usize] += 1.0);
        let (even, deviation) = (count / SHARES as f64, (count / SHARES as f64).sqrt());
        assert!(shares.iter().all(|share: &f64| (share - even).abs() < 6.0 * deviation), "{of}{what} are uneven: {shares:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_may_answer_in_another_spelling() {
    let upstream = fake_upstream(|question, _| {
        let mut answer = answer_to(question, ELSEWHERE);
        let name = answer.queries[0].name().to_lowercase();
        answer.queries[0].set_name(name);
        vec![answer]
    })
    .await;
    let running = Running::start(cluster(), &[upstream]);
    let question = query("wWw.ExAmple.com", 1);
    let reply = udp(running.ipv4(), &question).await;
    assert_eq!(addresses(&reply), [ELSEWHERE]);
    assert!(reply.queries[0].name().eq_case(question.queries[0].name()), "the client's spelling comes back");
    running.serving.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_datagram_is_sent_again() {
    let lossy = fake_upstream(|question, number| if number == 0 { vec![] } else { vec![answer_to(question, ELSEWHERE)] }).await;
    assert_eq!(addresses(&resolve(&[lossy]).await), [ELSEWHERE]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_upstreams_first_answer_still_counts_after_a_retry() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let (first, client) = client_question(&socket).await;
        let (_, other) = client_question(&socket).await;
        assert_ne!(client, other, "a retry comes from another port");
        socket.send_to(&answer_to(&first, ELSEWHERE).to_vec().unwrap(), client).await.unwrap();
    });
    assert_eq!(addresses(&resolve(&[address]).await), [ELSEWHERE]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_or_missing_upstream_is_passed_over() {
    let silent = fake_upstream(|_, _| vec![]).await;
    assert_eq!(addresses(&resolve(&[silent, nobody().await, upstream().await]).await), [ELSEWHERE]);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_every_upstream_fails_the_client_hears_servfail() {
    for upstreams in [vec![], vec![nobody().await], vec![nobody().await, fake_upstream(|_, _| vec![]).await]] {
        let reply = resolve(&upstreams).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail, "{upstreams:?}");
        assert!(!reply.metadata.authoritative);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_refuses_is_no_answer_while_another_may_have_one() {
    let refusing = fake_upstream(|question, _| vec![code(question, ResponseCode::Refused)]).await;
    for _ in 0..4 {
        assert_eq!(addresses(&resolve(&[refusing, upstream().await]).await), [ELSEWHERE]);
    }
    assert_eq!(resolve(&[refusing]).await.metadata.response_code, ResponseCode::Refused, "its code is handed on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_negative_answer_is_an_answer() {
    let negative = fake_upstream(|question, _| vec![code(question, ResponseCode::NXDomain)]).await;
    let reply = resolve(&[negative]).await;
    assert!(reply.metadata.response_code == ResponseCode::NXDomain && reply.metadata.recursion_available);
}

/// An upstream whose UDP answers are cut, with 100 addresses over TCP on the same port if `with_tcp`.
async fn cut_short(with_tcp: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let socket = UdpSocket::bind(address).await.unwrap();
    tokio::spawn(async move {
        loop {
            let (question, client) = client_question(&socket).await;
            let mut answer = answer_to(&question, ELSEWHERE);
            answer.metadata.truncation = true;
            socket.send_to(&answer.to_vec().unwrap(), client).await.unwrap();
        }
    });
    if with_tcp {
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut question = vec![0; usize::from(stream.read_u16().await.unwrap())];
                stream.read_exact(&mut question).await.unwrap();
                let mut answer = answer_to(&Message::from_vec(&question).unwrap(), ELSEWHERE);
                answer.answers = vec![answer.answers[0].clone(); 100];
                let bytes = answer.to_vec().unwrap();
                stream.write_u16(bytes.len() as u16).await.unwrap();
                stream.write_all(&bytes).await.unwrap();
            }
        });
    }
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstreams_cut_answer_is_fetched_over_tcp_and_cut_for_the_client_alone() {
    let running = Running::start(cluster(), &[cut_short(true).await]);
    let question = query("www.example.com", 1);
    let whole = tcp(running.ipv4(), &question).await;
    assert!(whole.answers.len() == 100 && !whole.metadata.truncation);
    let cut = udp(running.ipv4(), &question).await;
    assert!(cut.answers.len() < 100 && cut.answers.len() > 20 && cut.metadata.truncation, "{}", cut.answers.len());
    running.serving.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_answer_is_better_than_none_where_tcp_fails() {
    let reply = resolve(&[cut_short(false).await]).await;
    assert!(reply.metadata.truncation && addresses(&reply) == [ELSEWHERE]);
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_and_edns_options_travel_up_and_unknown_types_down() {
    let (heard, mut questions) = mpsc::unbounded_channel();
    let upstream = fake_upstream(move |question, _| {
        heard.send(question.clone()).unwrap();
        let mut answer = answer_to(question, ELSEWHERE);
        let data = RData::Unknown { code: 4711.into(), rdata: NULL::with(vec![1, 0, 255]) };
        answer.answers[0].data = data;
        answer.metadata.authentic_data = true;
        let mut edns = Edns::new();
        edns.options_mut().insert(EdnsOption::Unknown(15, vec![0, 22]));
        answer.set_edns(edns);
        vec![answer]
    })
    .await;
    let running = Running::start(cluster(), &[upstream]);
    let mut question = query("www.example.com", 4711);
    question.metadata.checking_disabled = true;
    question.metadata.authentic_data = true;
    let mut edns = Edns::new();
    edns.set_max_payload(4096).set_dnssec_ok(true);
    edns.options_mut().insert(EdnsOption::Unknown(65_001, vec![7]));
    edns.options_mut().insert(EdnsOption::Unknown(10, vec![1, 2, 3, 4, 5, 6, 7, 8]));
    question.set_edns(edns);
    let reply = udp(running.ipv4(), &question).await;

    let heard = questions.recv().await.unwrap();
    assert!(heard.metadata.recursion_desired && heard.metadata.checking_disabled && heard.metadata.authentic_data);
    let edns = heard.edns.unwrap();
    assert!(edns.flags().dnssec_ok && edns.max_payload() == 1232);
    assert_eq!(edns.option(EdnsCode::Unknown(65_001)), Some(&EdnsOption::Unknown(65_001, vec![7])));
    assert_eq!(edns.option(EdnsCode::Cookie), None, "a cookie is between the client and the server that it asks");

    assert!(reply.metadata.authentic_data && reply.metadata.id == question.metadata.id);
    assert!(matches!(&reply.answers[0].data, RData::Unknown { rdata, .. } if rdata.anything == [1, 0, 255]));
    let edns = reply.edns.unwrap();
    assert!(edns.flags().dnssec_ok && edns.option(EdnsCode::Unknown(15)).is_some(), "extended errors come back");
    running.serving.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_for_the_cluster_domain_is_never_forwarded() {
    let (heard, mut questions) = mpsc::unbounded_channel();
    let upstream = fake_upstream(move |question, _| {
        heard.send(question.queries[0].name().to_string()).unwrap();
        vec![answer_to(question, ELSEWHERE)]
    })
    .await;
    let running = Running::start(cluster(), &[upstream]);
    for case in crate::battery::cases()
        .iter()
        .filter(|case| case.name.to_lowercase().ends_with("cluster.local") && case.name.contains("svc"))
    {
        udp(running.ipv4(), &query(&case.name, crate::battery::type_number(&case.rtype))).await;
    }
    udp(running.ipv4(), &query("last.example.com", 1)).await;
    let mut forwarded = Vec::new();
    while forwarded.last().is_none_or(|name| name != "last.example.com.") {
        forwarded.push(questions.recv().await.unwrap());
    }
    // The alias is asked for with several types.
    forwarded.dedup();
    assert_eq!(
        forwarded,
        ["www.example.com.", "last.example.com."],
        "the target of an ExternalName service, and the last question"
    );
    running.serving.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_external_target_that_fails_is_a_failure_and_one_that_does_not_exist_does_not_exist() {
    let alias = query("outside.default.svc.cluster.local", 1);
    let running = Running::start(cluster(), &[nobody().await]);
    let reply = udp(running.ipv4(), &alias).await;
    assert!(reply.metadata.response_code == ResponseCode::ServFail && reply.answers.len() == 1, "the alias is known");
    running.serving.shutdown().await;

    let negative = fake_upstream(|question, _| vec![code(question, ResponseCode::NXDomain)]).await;
    let running = Running::start(cluster(), &[negative]);
    let reply = udp(running.ipv4(), &alias).await;
    assert!(reply.metadata.response_code == ResponseCode::NXDomain && reply.answers.len() == 1, "RFC 6604");
    running.serving.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_never_asks_itself() {
    let registry = prometheus::Registry::new();
    let metrics = Arc::new(Metrics::new(&registry).unwrap());
    let sockets = waypost::dns::server::bind(&["127.0.0.1:0".parse().unwrap()]).unwrap();
    let own = sockets.local_addrs()[0];
    let forwarder = Forwarder::to(&[own].into_iter().collect(), metrics.clone());
    let resolver = Resolver::new(forwarder, &CacheConfig::default(), metrics.clone());
    let serving = sockets
        .serve(Arc::new(cluster()), Chain::new(Plan::simple(cluster().shape().clone(), resolver.clone())), metrics)
        .unwrap();
    assert!(resolver.upstreams().is_empty());
    let reply = udp(own, &query("www.example.com", 1)).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    serving.shutdown().await;
}

#[tokio::test]
async fn a_changed_resolv_conf_is_read_again_and_a_missing_one_awaited() {
    let file = std::env::temp_dir().join(format!("waypost-dns-test-{}.conf", std::process::id()));
    let metrics = Arc::new(Metrics::new(&prometheus::Registry::new()).unwrap());
    let forwarder = Forwarder::to(&Upstreams::resolv_conf(&file), metrics);
    assert!(forwarder.upstreams().is_empty());
    std::fs::write(&file, "nameserver 192.0.2.1\n").unwrap();
    assert_eq!(forwarder.upstreams(), ["192.0.2.1:53".parse().unwrap()]);
    std::fs::write(&file, "nameserver 192.0.2.1\nnameserver 2001:db8::53\n").unwrap();
    assert_eq!(forwarder.upstreams().len(), 2);
    forwarder.never_ask(&["192.0.2.1:53".parse().unwrap()]);
    assert_eq!(forwarder.upstreams(), ["[2001:db8::53]:53".parse().unwrap()]);
    std::fs::remove_file(&file).unwrap();
    assert_eq!(forwarder.upstreams().len(), 1, "the old list stays when the file is gone");
}

/// An upstream that answers everything with an address that ends like this, and tells what it was asked.
async fn telling(number: u8) -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let (heard, questions) = mpsc::unbounded_channel();
    let address = fake_upstream(move |question, _| {
        heard.send(question.queries[0].name().to_string()).unwrap();
        vec![answer_to(question, Ipv4Addr::new(203, 0, 113, number))]
    })
    .await;
    (address, questions)
}

#[tokio::test(flavor = "multi_thread")]
async fn stub_zones_are_asked_at_their_own_servers_and_the_longest_zone_wins() {
    let (others, _heard_1) = telling(1).await;
    let (corp, _heard_2) = telling(2).await;
    let (lab, _heard_3) = telling(3).await;
    let stubs = format!("corp.example={corp},lab.corp.example={lab}");
    let running = Running::configured(cluster(), &[("dns-upstream", &others.to_string()), ("dns-stub-zone", &stubs)]);
    for (name, number) in
        [("www.example.com", 1), ("corp.example", 2), ("a.CORP.example", 2), ("a.lab.corp.example", 3), ("notcorp.example", 1)]
    {
        let reply = udp(running.ipv4(), &query(name, 1)).await;
        assert_eq!(addresses(&reply), [Ipv4Addr::new(203, 0, 113, number)], "{name}");
    }
    running.serving.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn excepted_domains_are_not_forwarded() {
    let (upstream, mut heard) = telling(1).await;
    let running =
        Running::configured(cluster(), &[("dns-upstream", &upstream.to_string()), ("dns-forward-except", "private.example")]);
    let reply = udp(running.ipv4(), &query("a.Private.example", 1)).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(udp(running.ipv4(), &query("b.example", 1)).await.answers.len(), 1);
    assert_eq!(heard.recv().await.as_deref(), Some("b.example."), "nothing else was asked before");
    running.serving.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tcp_alone_questions_share_a_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (accepted, mut connections) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            accepted.send(()).unwrap();
            tokio::spawn(async move {
                while let Ok(length) = stream.read_u16().await {
                    let mut question = vec![0; usize::from(length)];
                    stream.read_exact(&mut question).await.unwrap();
                    let question = Message::from_vec(&question).unwrap();
                    let bytes = answer_to(&question, ELSEWHERE).to_vec().unwrap();
                    stream.write_u16(bytes.len() as u16).await.unwrap();
                    stream.write_all(&bytes).await.unwrap();
                    if question.queries[0].name().to_string() == "last.example.com." {
                        return;
                    }
                }
            });
        }
    });
    let running = Running::configured(cluster(), &[("dns-upstream", &address.to_string()), ("dns-forward-tcp", "true")]);
    for name in ["a.example.com", "b.example.com", "last.example.com", "new.example.com"] {
        assert_eq!(addresses(&udp(running.ipv4(), &query(name, 1)).await), [ELSEWHERE], "{name}");
    }
    let mut count = 0;
    while connections.try_recv().is_ok() {
        count += 1;
    }
    assert_eq!(count, 2, "one until the server closed it, then another");
    assert_eq!(running.counted("coredns_proxy_conn_cache_misses_total", "tcp"), 2);
    assert!(running.counted("coredns_proxy_conn_cache_hits_total", "tcp") >= 2);
    running.serving.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_server_is_overtaken_by_the_next_and_checked_until_it_is_well() {
    let well = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_well = well.clone();
    let slow = fake_upstream(move |question, _| match is_well.load(std::sync::atomic::Ordering::SeqCst) {
        true => vec![answer_to(question, LIE)],
        false => vec![],
    })
    .await;
    let (quick, _heard) = telling(2).await;
    let upstreams = format!("{slow},{quick}");
    let running = Running::configured(cluster(), &[("dns-upstream", &upstreams), ("dns-forward-policy", "sequential")]);
    let first = udp(running.ipv4(), &query("first.example.com", 1)).await;
    assert_eq!(addresses(&first), [Ipv4Addr::new(203, 0, 113, 2)]);
    assert_eq!(running.counted("waypost_dns_hedges_total", ""), 1);
    while running.counted("coredns_proxy_healthcheck_failures_total", &slow.to_string()) < 3 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(addresses(&udp(running.ipv4(), &query("second.example.com", 1)).await), [Ipv4Addr::new(203, 0, 113, 2)]);
    assert_eq!(running.counted("waypost_dns_hedges_total", ""), 1, "who is down is asked last");
    assert_eq!(running.counted("coredns_forward_healthcheck_broken_total", ""), 0);

    well.store(true, std::sync::atomic::Ordering::SeqCst);
    for number in 0.. {
        let reply = udp(running.ipv4(), &query(&format!("third-{number}.example.com"), 1)).await;
        if addresses(&reply) == [LIE] {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        assert!(number < 1000, "a server that is well again is asked first");
    }
    running.serving.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_every_server_is_down_they_are_asked_all_the_same() {
    let nobody = nobody().await.to_string();
    let running = Running::configured(cluster(), &[("dns-upstream", &nobody), ("dns-forward-max-fails", "1")]);
    for number in 0.. {
        let reply = udp(running.ipv4(), &query(&format!("name-{number}.example.com"), 1)).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
        if running.counted("coredns_forward_healthcheck_broken_total", "") > 0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        assert!(number < 1000, "it is down after two failed checks");
    }
    running.serving.shutdown().await;
}

/// An upstream that says over which transport it was asked: 1 is UDP, 2 is TCP.
async fn of_both_transports() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let socket = UdpSocket::bind(address).await.unwrap();
    let say = |question: &Message, number| answer_to(question, Ipv4Addr::new(203, 0, 113, number));
    tokio::spawn(async move {
        loop {
            let (question, client) = client_question(&socket).await;
            socket.send_to(&say(&question, 1).to_vec().unwrap(), client).await.unwrap();
        }
    });
    answer_over_tcp(listener, move |question| say(question, 2));
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_go_on_by_the_transport_by_which_they_came_unless_said_otherwise() {
    let upstream = of_both_transports().await;
    for (options, by_udp, by_tcp) in [("", 1, 2), ("prefer_udp", 1, 1), ("force_tcp", 2, 2), ("prefer_udp\n force_tcp", 2, 2)] {
        let corefile = format!(". {{\n forward . {upstream} {{\n {options}\n }}\n}}");
        let running = Running::by_corefile(cluster(), &corefile);
        let question = query("www.example.com", 1);
        let asked = |number| vec![Ipv4Addr::new(203, 0, 113, number)];
        assert_eq!(addresses(&udp(running.ipv4(), &question).await), asked(by_udp), "UDP with {options:?}");
        assert_eq!(addresses(&tcp(running.ipv4(), &question).await), asked(by_tcp), "TCP with {options:?}");
        running.serving.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_over_tcp_is_answered_where_the_upstream_takes_no_connections() {
    let running = Running::start(cluster(), &[upstream().await]);
    assert_eq!(addresses(&tcp(running.ipv4(), &query("www.example.com", 1)).await), [ELSEWHERE]);
    running.serving.shutdown().await;
}

/// By the servers that were asked, in order, for so many different names.
async fn asked_by_policy(policy: &str, servers: &[SocketAddr], questions: usize) -> Vec<u8> {
    let servers: Vec<String> = servers.iter().map(ToString::to_string).collect();
    let corefile = format!(". {{\n forward . {} {{\n {policy}\n }}\n}}", servers.join(" "));
    let running = Running::by_corefile(cluster(), &corefile);
    let mut asked = Vec::new();
    for number in 0..questions {
        let reply = udp(running.ipv4(), &query(&format!("name-{number}.example.com"), 1)).await;
        asked.push(addresses(&reply)[0].octets()[3]);
    }
    running.serving.shutdown().await;
    asked
}

#[tokio::test(flavor = "multi_thread")]
async fn each_policy_asks_the_servers_in_its_order() {
    let (first, _heard) = telling(1).await;
    let (second, _heard_too) = telling(2).await;
    let (third, _heard_as_well) = telling(3).await;
    let servers = [first, second, third];
    assert_eq!(asked_by_policy("policy sequential", &servers, 4).await, [1; 4]);
    let turns = asked_by_policy("policy round_robin", &servers, 6).await;
    assert!(turns[..3].iter().collect::<std::collections::BTreeSet<_>>().len() == 3 && turns[..3] == turns[3..], "{turns:?}");
    // One of a million times one of three is not drawn in 40 draws.
    for policy in ["policy random", ""] {
        let drawn = asked_by_policy(policy, &servers, 40).await;
        assert_eq!(drawn.iter().collect::<std::collections::BTreeSet<_>>().len(), 3, "{drawn:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_has_failed_is_asked_what_the_health_check_says() {
    let (told, mut heard) = mpsc::unbounded_channel();
    let silent = fake_upstream(move |question, _| {
        let asked = &question.queries[0];
        told.send((asked.name().to_string(), question.metadata.recursion_desired)).unwrap();
        vec![]
    })
    .await;
    for (options, name, recursion) in [
        ("health_check 50ms", ".", true),
        ("health_check 50ms no_rec", ".", false),
        ("health_check 50ms domain alive.example no_rec", "alive.example.", false),
    ] {
        let corefile = format!(". {{\n forward . {silent} {{\n {options}\n }}\n}}");
        let running = Running::by_corefile(cluster(), &corefile);
        assert_eq!(udp(running.ipv4(), &query("www.example.com", 1)).await.metadata.response_code, ResponseCode::ServFail);
        let is_check = |heard: &(String, bool)| *heard == (name.to_string(), recursion);
        while !is_check(&heard.recv().await.unwrap()) {}
        running.serving.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_used_again_for_as_long_as_expire_says() {
    for (expire, hits) in [("0s", false), ("60s", true)] {
        let upstream = of_both_transports().await;
        let corefile = format!(". {{\n forward . {upstream} {{\n force_tcp\n expire {expire}\n }}\n}}");
        let running = Running::by_corefile(cluster(), &corefile);
        for number in 0..3 {
            tcp(running.ipv4(), &query(&format!("name-{number}.example.com"), 1)).await;
        }
        assert_eq!(running.counted("coredns_proxy_conn_cache_hits_total", "tcp") > 0, hits, "{expire}");
        running.serving.shutdown().await;
    }
}
