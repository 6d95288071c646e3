use super::*;
use crate::config::CacheConfig;
use crate::dns::chain::Chain;
use crate::dns::forward::Forwarder;
use crate::dns::metrics::Metrics;
use crate::dns::records::Records;
use crate::dns::resolve::Resolver;
use hickory_proto::op::{Edns, Message as Parsed, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::rdata::{A, AAAA, CNAME, MX, SOA, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::net::{Ipv6Addr, SocketAddr};
use tokio::net::UdpSocket;

const CLIENT: &str = "10.0.0.1:5353";
/// What is asked, and whether it can be answered at once as it was asked first.
const ASKED: [(&str, RecordType, bool); 17] = [
    ("one", RecordType::A, true),
    ("many", RecordType::A, true),
    ("six", RecordType::AAAA, true),
    ("alias", RecordType::A, true),
    ("near", RecordType::A, true),
    ("odd", RecordType::A, true),
    ("authentic", RecordType::A, true),
    ("none", RecordType::A, true),
    ("empty", RecordType::AAAA, true),
    ("failed", RecordType::A, true),
    ("text", RecordType::TXT, true),
    ("mail", RecordType::MX, true),
    ("mails", RecordType::MX, false),
    ("backwards", RecordType::A, false),
    ("others", RecordType::A, false),
    ("explained", RecordType::A, true),
    ("wide", RecordType::A, false),
];

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// An upstream server's answer.
fn answer(question: &Parsed) -> Parsed {
    let asked = question.queries[0].name().clone();
    let mut answer = Parsed::new(question.metadata.id, MessageType::Response, OpCode::Query);
    answer.metadata.recursion_available = true;
    answer.add_queries(question.queries.clone());
    if question.edns.is_some() {
        answer.set_edns(Edns::new());
    }
    let address = |owner: &Name, last: u8| Record::from_rdata(owner.clone(), 60, RData::A(A::new(192, 0, 2, last)));
    let alias = |target: &str| Record::from_rdata(asked.clone(), 60, RData::CNAME(CNAME(name(target))));
    let soa = || {
        Record::from_rdata(name("example.com."), 60, RData::SOA(SOA::new(name("ns.example.com."), name("a.b."), 1, 2, 3, 4, 60)))
    };
    let exchange = |preference, host: &str| Record::from_rdata(asked.clone(), 60, RData::MX(MX::new(preference, name(host))));
    let answers = &mut answer.answers;
    match asked.to_lowercase().to_ascii().split('.').next().unwrap() {
        "many" => answers.extend((1..6).map(|last| address(&asked, last))),
        "wide" => answers.extend((1..60).map(|last| address(&asked, last))),
        "six" => answers.extend((1..4_u16).map(|last| {
            let address = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last);
            Record::from_rdata(asked.clone(), 60, RData::AAAA(AAAA(address)))
        })),
        "alias" => {
            let target = name("a.cdn.example.net.");
            answers.extend([alias("a.cdn.example.net."), address(&target, 1), address(&target, 2)]);
        }
        "near" => answers.extend([alias("web.example.com."), address(&name("web.example.com."), 1)]),
        "odd" => answers.extend([address(&name(&asked.to_ascii().to_uppercase()), 1), address(&asked, 2)]),
        "none" => {
            answer.metadata.response_code = ResponseCode::NXDomain;
            answer.authorities.push(soa());
        }
        "empty" => answer.authorities.push(soa()),
        "failed" => answer.metadata.response_code = ResponseCode::ServFail,
        "text" => answers.push(Record::from_rdata(asked.clone(), 60, RData::TXT(TXT::new(vec!["v=spf1 -all".into()])))),
        "mail" => {
            answers.push(exchange(10, "mx.example.com."));
            answer.additionals.push(address(&name("mx.example.com."), 1));
        }
        "mails" => answers.extend([exchange(10, "mx.example.com."), exchange(20, "mx.example.net.")]),
        "backwards" => answers.extend([address(&name("web.example.com."), 1), alias("web.example.com.")]),
        "others" => answers.extend([alias("b."), address(&name("b."), 1), address(&asked, 2)]),
        label => {
            answers.push(address(&asked, 1));
            answer.metadata.authentic_data = label == "authentic";
            if let Some(edns) = answer.edns.as_mut().filter(|_| label == "explained") {
                edns.options_mut().insert(EdnsOption::Unknown(15, vec![0, 9]));
            }
        }
    }
    answer
}

/// A responder that asks such a server, and its metrics. TTLs do not run, so that answers can be compared.
async fn responder() -> (Responder, prometheus::Registry) {
    responder_with(CacheConfig { keep_ttl: true, failure_ttl: 300, ..CacheConfig::default() }).await
}

async fn responder_with(config: CacheConfig) -> (Responder, prometheus::Registry) {
    let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = upstream.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, client) = upstream.recv_from(&mut buffer).await.unwrap();
            let answer = answer(&Parsed::from_vec(&buffer[..length]).unwrap()).to_vec().unwrap();
            upstream.send_to(&answer, client).await.unwrap();
        }
    });
    let registry = prometheus::Registry::new();
    let metrics = Arc::new(Metrics::new(&registry).unwrap());
    let resolver = Resolver::new(Forwarder::to(&[address].into_iter().collect(), metrics.clone()), &config, metrics.clone());
    let records = Arc::new(Records::new("cluster.local", 30));
    let chain = Chain::new(Plan::simple(records.shape().clone(), resolver));
    (Responder::new(records, chain, metrics, "127.0.0.1:53".parse().unwrap()), registry)
}

/// The same question in the ways in which clients ask it.
fn variants(label: &str, rtype: RecordType) -> Vec<Parsed> {
    let ask = |name: Name| {
        let mut question = Parsed::query();
        question.metadata.recursion_desired = true;
        question.add_query(Query::query(name, rtype));
        question
    };
    let plain = ask(name(&format!("{label}.example.com.")));
    let spelled = ask(name(&format!("{}.eXample.cOm.", label.to_uppercase())));
    let mut flags = plain.clone();
    (flags.metadata.authentic_data, flags.metadata.checking_disabled) = (true, true);
    let mut all = vec![plain.clone(), spelled.clone(), flags];
    for (payload, dnssec_ok) in [(512, false), (1232, true), (4096, false)] {
        for base in [&plain, &spelled] {
            let mut edns = Edns::new();
            edns.set_max_payload(payload).set_dnssec_ok(dnssec_ok);
            all.push(base.clone().set_edns(edns).clone());
        }
    }
    all
}

/// With addresses in the order of their values: they are shuffled.
fn in_order(bytes: &[u8]) -> (usize, Parsed, String) {
    let mut message = Parsed::from_vec(bytes).unwrap();
    message.answers.sort_by_key(|record| (record.record_type() != RecordType::CNAME, record.data.to_string()));
    let spelling = message.queries[0].name().to_ascii();
    (bytes.len(), message, spelling)
}

fn sum(registry: &prometheus::Registry, metric: &str, label: &str) -> u64 {
    let families = registry.gather();
    let metrics = families.iter().filter(|family| family.name() == metric).flat_map(|family| family.get_metric());
    let chosen = metrics.filter(|metric| metric.get_label().iter().any(|pair| pair.value() == label));
    chosen.map(|metric| metric.get_counter().get_value() as u64).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_answered_from_a_cache_at_once_is_what_the_other_path_says() {
    let (responder, registry) = responder().await;
    let client: SocketAddr = CLIENT.parse().unwrap();
    let (mut composer, mut counts) = (Composer::new(7), Counts::new(Transport::Udp));
    let mut answered = 0;
    for (label, rtype, is_plain) in ASKED {
        for (variant, question) in variants(label, rtype).into_iter().enumerate() {
            let question = question.to_vec().unwrap();
            responder.answer_datagram(question.clone(), client).await.unwrap();
            for over_tcp in [false, true] {
                let slow = match over_tcp {
                    false => responder.answer_datagram(question.clone(), client).await.unwrap(),
                    true => responder.answer_message(question.clone(), client).await.unwrap(),
                };
                let plan = responder.plan();
                let asked = Message { bytes: &question, over_tcp, now: Instant::now() };
                let fast = answer_at_once(&responder, &plan, None, &mut composer, &mut counts, &asked);
                if variant == 0 && !over_tcp {
                    assert_eq!(fast.is_some(), is_plain, "{label}");
                }
                let Some((fast, tally)) = fast else { continue };
                answered += 1;
                assert_eq!(in_order(fast.bytes), in_order(&slow), "{label}, variant {variant}");
                if !["many", "six", "alias", "odd", "wide"].contains(&label) {
                    assert_eq!(fast.bytes, slow, "{label}, variant {variant}");
                }
                tally.note(&fast, question.len(), std::time::Duration::ZERO);
            }
        }
    }
    assert!(answered > 150, "{answered}");
    let requests = ASKED.len() as u64 * 9 * 3;
    assert_eq!(sum(&registry, "coredns_cache_requests_total", "."), requests + answered);
    let (hits, misses) = (sum(&registry, "coredns_cache_hits_total", "."), sum(&registry, "coredns_cache_misses_total", "."));
    assert_eq!(hits + misses, requests + answered);
    assert_eq!(sum(&registry, "coredns_dns_responses_total", "cache"), hits);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_cache_may_answer_is_left_to_the_other_path() {
    let (responder, _) = responder().await;
    let client: SocketAddr = CLIENT.parse().unwrap();
    let plain = variants("one", RecordType::A).remove(0);
    responder.answer_datagram(plain.to_vec().unwrap(), client).await.unwrap();
    let (mut composer, mut counts) = (Composer::new(7), Counts::new(Transport::Udp));
    let mut is_answered = |question: &Parsed| {
        let (plan, bytes) = (responder.plan(), question.to_vec().unwrap());
        let asked = Message { bytes: &bytes, over_tcp: false, now: Instant::now() };
        answer_at_once(&responder, &plan, None, &mut composer, &mut counts, &asked).is_some()
    };
    assert!(is_answered(&plain));
    let mut iterative = plain.clone();
    iterative.metadata.recursion_desired = false;
    assert!(!is_answered(&iterative), "servers that were told not to look further");
    let mut of_network = plain.clone();
    let mut edns = Edns::new();
    edns.options_mut().insert(EdnsOption::Unknown(10, vec![1; 8]));
    of_network.set_edns(edns);
    assert!(!is_answered(&of_network), "options");
    let unknown = variants("never-asked", RecordType::A).remove(0);
    assert!(!is_answered(&unknown));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_is_left_to_the_other_path_counts_once_toward_a_refresh() {
    let (responder, registry) = responder_with(CacheConfig { prefetch: 3, prefetch_last: 100, ..CacheConfig::default() }).await;
    let question = variants("others", RecordType::A).remove(0).to_vec().unwrap();
    let (mut composer, mut counts) = (Composer::new(7), Counts::new(Transport::Udp));
    // The first time nothing is kept; the third time that it is, the answer is asked for anew.
    for refreshed in [0, 0, 0, 1] {
        let plan = responder.plan();
        let asked = Message { bytes: &question, over_tcp: false, now: Instant::now() };
        let fast = answer_at_once(&responder, &plan, None, &mut composer, &mut counts, &asked);
        assert!(fast.is_none(), "what is kept needs to be written anew");
        responder.answer_datagram(question.clone(), CLIENT.parse().unwrap()).await.unwrap();
        assert_eq!(sum(&registry, "coredns_cache_prefetch_total", "."), refreshed);
    }
}
