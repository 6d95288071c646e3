//! Settings of DNS, written as the documents show them, and what each does. `tests/settings.rs` has those that need a node.

use crate::battery::cluster;
use crate::wire::{ELSEWHERE, LIMIT, Running, answer_to, fake_upstream, query, udp};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{SOA, TXT};
use hickory_proto::rr::{Name, RData, Record};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// An upstream server that does what the first label of a name says.
#[derive(Clone, Default)]
struct Upstream {
    asked: Arc<Mutex<HashMap<String, usize>>>,
    /// From now on everything fails.
    broken: Arc<AtomicBool>,
}

impl Upstream {
    async fn start(&self) -> SocketAddr {
        let upstream = self.clone();
        fake_upstream(move |question, _| upstream.answer(question)).await
    }

    fn asked(&self, name: &str) -> usize {
        self.asked.lock().unwrap().get(&format!("{name}.")).copied().unwrap_or_default()
    }

    fn answer(&self, question: &Message) -> Vec<Message> {
        let name = question.queries[0].name().clone();
        *self.asked.lock().unwrap().entry(name.to_string()).or_default() += 1;
        let mut answer = answer_to(question, ELSEWHERE);
        let text = name.to_string();
        let label = text.split('.').next().unwrap_or_default();
        if label == "silent" {
            return vec![];
        } else if label == "failing" || self.broken.load(Ordering::SeqCst) {
            answer.answers.clear();
            answer.metadata.response_code = ResponseCode::ServFail;
        } else if label == "missing" {
            let zone: Name = "example.com.".parse().unwrap();
            answer.answers.clear();
            answer.metadata.response_code = ResponseCode::NXDomain;
            let soa = SOA::new(zone.clone(), zone.clone(), 1, 1, 1, 1, 60);
            answer.add_authority(Record::from_rdata(zone, 60, RData::SOA(soa)));
        } else if let Some(seconds) = label.strip_prefix("ttl-") {
            answer.answers[0].ttl = seconds.parse().unwrap();
        } else if label.starts_with("large-") {
            let text = TXT::new(vec!["x".repeat(250); 4]);
            answer.answers = vec![Record::from_rdata(name, 60, RData::TXT(text))];
        }
        vec![answer]
    }
}

/// A server with these flags, written as on the command line, that asks these upstream servers.
fn as_shown(flags: &str, upstreams: &[SocketAddr]) -> Running {
    let upstreams = upstreams.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let flags = flags.split_whitespace().map(|flag| flag.trim_start_matches("--").split_once('=').expect("a flag and its value"));
    let flags: Vec<(&str, &str)> = flags.chain([("dns-upstream", upstreams.as_str())]).collect();
    Running::configured(cluster(), &flags)
}

async fn ask(running: &Running, name: &str) -> Message {
    udp(running.ipv4(), &query(name, 1)).await
}

/// How often the upstream server is asked when a client asks twice.
async fn asked_twice(flags: &str, name: &str) -> usize {
    let upstream = Upstream::default();
    let running = as_shown(flags, &[upstream.start().await]);
    ask(&running, name).await;
    ask(&running, name).await;
    running.serving.shutdown().await;
    upstream.asked(name)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cache_keeps_what_its_settings_say() {
    for (flag, name) in [
        ("--dns-cache-ttl=0", "www.example.com"),
        ("--dns-cache-negative-ttl=0", "missing.example.com"),
        ("--dns-cache-failure-ttl=0", "failing.example.com"),
        ("--dns-cache-entries=0", "www.example.com"),
    ] {
        let kept = asked_twice("", name).await;
        assert_eq!(asked_twice(flag, name).await, 2 * kept, "{flag} and {name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cache_keeps_short_answers_as_long_as_its_setting_says() {
    for (flag, seconds) in [("", 5), ("--dns-cache-min-ttl=20", 20)] {
        let running = as_shown(flag, &[Upstream::default().start().await]);
        ask(&running, "ttl-1.example.com").await;
        let left = ask(&running, "ttl-1.example.com").await.answers[0].ttl;
        assert!(left <= seconds && left + 5 > seconds, "{flag}: {left}");
        running.serving.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cache_takes_as_much_memory_as_its_setting_says() {
    for (flag, is_full) in [("", false), ("--dns-cache-size=1", true)] {
        let running = as_shown(flag, &[Upstream::default().start().await]);
        for number in 0..1500 {
            let reply = udp(running.ipv4(), &query(&format!("large-{number}.example.com"), 16)).await;
            assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
        }
        assert_eq!(running.counted("coredns_cache_evictions_total", "success") > 0, is_full, "{flag}");
        running.serving.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_was_asked_for_as_often_as_the_setting_says_is_asked_again_before_it_expires() {
    let upstream = Upstream::default();
    let running = as_shown("--dns-cache-prefetch=2", &[upstream.start().await]);
    let asking = async {
        while running.counted("coredns_cache_prefetch_total", "") == 0 {
            ask(&running, "ttl-5.example.com").await;
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LIMIT, asking).await.expect("it is fetched again");
    running.serving.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_answers_are_served_while_the_upstream_servers_fail_if_the_setting_says_so() {
    for (flag, stale) in [("--dns-cache-serve-stale=60", true), ("--dns-cache-serve-stale=0", false)] {
        let upstream = Upstream::default();
        let flags = format!("{flag} --dns-cache-min-ttl=1");
        let running = as_shown(&flags, &[upstream.start().await]);
        ask(&running, "ttl-1.example.com").await;
        upstream.broken.store(true, Ordering::SeqCst);
        let expired = async {
            loop {
                let reply = ask(&running, "ttl-1.example.com").await;
                match reply.metadata.response_code {
                    ResponseCode::ServFail => return false,
                    _ if running.counted("coredns_cache_served_stale_total", "") > 0 => return reply.answers.len() == 1,
                    _ => sleep(Duration::from_millis(20)).await,
                }
            }
        };
        assert_eq!(timeout(LIMIT, expired).await.expect("it expires"), stale, "{flag}");
        running.serving.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn so_many_questions_are_forwarded_at_a_time_as_the_setting_says() {
    let upstream = Upstream::default();
    let running = as_shown("--dns-forward-max-concurrent=2", &[upstream.start().await]);
    let server = running.ipv4();
    let names = ["silent.a.example", "silent.b.example"];
    let waiting: Vec<_> = names.map(|name| tokio::spawn(async move { udp(server, &query(name, 1)).await })).into();
    let both_wait = async {
        while names.iter().any(|name| upstream.asked(name) == 0) {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LIMIT, both_wait).await.expect("both are asked");
    assert_eq!(ask(&running, "www.example.com").await.metadata.response_code, ResponseCode::Refused);
    assert_eq!(running.counted("coredns_forward_max_concurrent_rejects_total", ""), 1);
    waiting.iter().for_each(|task| task.abort());
    running.serving.shutdown().await;
}

/// Without it the next server is asked after a second, which is no hedge.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_server_is_asked_after_the_time_that_the_setting_says() {
    for (flag, hedges) in [("--dns-forward-hedge=100", true), ("--dns-forward-hedge=0", false)] {
        let silent = fake_upstream(|_, _| vec![]).await;
        let flags = format!("{flag} --dns-forward-policy=sequential");
        let running = as_shown(&flags, &[silent, Upstream::default().start().await]);
        assert_eq!(ask(&running, "www.example.com").await.answers.len(), 1, "{flag}");
        assert_eq!(running.counted("waypost_dns_hedges_total", "") > 0, hedges, "{flag}");
        running.serving.shutdown().await;
    }
}
