use super::*;
use hickory_proto::op::OpCode;
use hickory_proto::rr::rdata::{A, CNAME};
use std::time::Duration;
use tokio::net::UdpSocket;

fn name() -> Name {
    "www.example.com.".parse().unwrap()
}

fn question() -> Message {
    let mut question = Message::query();
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(name(), RecordType::A));
    question
}

fn answer(question: &Message, code: ResponseCode, records: &[Record]) -> Message {
    let mut answer = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
    answer.metadata.response_code = code;
    answer.add_queries(question.queries.clone());
    answer.answers.extend_from_slice(records);
    if question.edns.is_some() {
        answer.set_edns(Edns::new());
    }
    answer
}

fn address() -> Record {
    Record::from_rdata(name(), 60, RData::A(A::new(192, 0, 2, 1)))
}

/// A resolver with an upstream server that says this of everything, and an answer in the cache that has expired.
async fn with_stale_answer(code: ResponseCode, records: Vec<Record>, config: CacheConfig) -> Resolver {
    let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address_of_upstream = upstream.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, client) = upstream.recv_from(&mut buffer).await.unwrap();
            let question = Message::from_vec(&buffer[..length]).unwrap();
            upstream.send_to(&answer(&question, code, &records).to_vec().unwrap(), client).await.unwrap();
        }
    });
    let metrics = Arc::new(Metrics::new(&prometheus::Registry::new()).unwrap());
    let config = CacheConfig { stale_after: Duration::from_secs(60), ..config };
    let resolver = Resolver::new(Forwarder::to(&[address_of_upstream].into_iter().collect(), metrics.clone()), &config, metrics);
    let kept = answer(&question(), ResponseCode::NoError, &[address()]).to_vec().unwrap();
    let earlier = Instant::now().checked_sub(Duration::from_secs(2)).unwrap();
    resolver.0.cache.as_ref().unwrap().put(&key(&resolver), Kind::Positive, kept.into(), 1, earlier);
    resolver
}

fn key(resolver: &Resolver) -> Key {
    resolver.0.key_of(&question()).unwrap()
}

fn place() -> Place {
    Place { server: "dns://:53".into(), zone: ".".into(), zones: ".".into() }
}

#[tokio::test]
async fn what_upstreams_say_and_is_not_to_be_kept_ends_what_has_expired() {
    let alias = Record::from_rdata(name(), 60, RData::CNAME(CNAME("nowhere.example.com.".parse().unwrap())));
    let for_no_time = || CacheConfig { positive_ttl: 0, ..CacheConfig::default() };
    for (code, records, config) in [
        (ResponseCode::NXDomain, vec![], CacheConfig::default()),
        (ResponseCode::NoError, vec![alias], CacheConfig::default()),
        (ResponseCode::NoError, vec![address()], for_no_time()),
    ] {
        let resolver = with_stale_answer(code, records.clone(), config).await;
        for _ in 0..3 {
            let resolved = resolver.resolve(&place(), question(), Transport::Udp).await.unwrap();
            let said = (resolved.message.metadata.response_code, resolved.message.answers, resolved.cached);
            assert_eq!(said, (code, records.clone(), false));
        }
        assert_eq!(resolver.cached(), [0, 0]);
    }
}

#[tokio::test]
async fn a_code_that_says_nothing_of_the_name_is_no_better_than_an_expired_answer() {
    for code in [ResponseCode::NotAuth, ResponseCode::YXDomain, ResponseCode::ServFail] {
        let resolver = with_stale_answer(code, vec![], CacheConfig::default()).await;
        let resolved = resolver.resolve(&place(), question(), Transport::Udp).await.unwrap();
        assert!(resolved.cached && resolved.message.answers.len() == 1, "{code}: {}", resolved.message);
    }
}

#[tokio::test]
async fn whoever_joins_a_refresh_that_is_about_to_end_keeps_nobody_from_the_next() {
    let config = CacheConfig { prefetch: 1, ..CacheConfig::default() };
    let resolver = with_stale_answer(ResponseCode::NoError, vec![], config).await;
    let (key, cache) = (key(&resolver), resolver.0.cache.as_ref().unwrap());
    let waiting = futures::future::pending().boxed().shared();
    resolver.0.under_way().asked.extend(waiting.downgrade().map(|waiting| (key.clone(), (1, waiting))));
    let mut asking = Asking { inner: resolver.0.clone(), server: place(), key: key.clone(), number: 1, noted: false };
    asking.keep(Kind::Positive, &answer(&question(), ResponseCode::NoError, &[address()]), 30);
    let soon = Instant::now() + Duration::from_secs(29);
    let is_told_to_refresh = || matches!(cache.get(&key, soon), Found::Fresh { refresh: true, .. });
    assert!(is_told_to_refresh() && !is_told_to_refresh(), "one of them");
    drop(asking);
    assert!(is_told_to_refresh(), "the one that was told has joined what has ended");
}
