//! The battery of questions, asked in process and over UDP and TCP; and what the table cannot say.

use crate::battery::{self, Case, ask, cases, cluster, endpoint, headless, objects, publish_all, slice, type_number};
use crate::wire::{ELSEWHERE, Running, lines, query, tcp, udp, upstream};
use hickory_proto::op::{Edns, Message};
use proptest::prelude::*;
use waypost::config::CacheConfig;
use waypost::dns::answer::{Code, Question, Verdict, answer_as};
use waypost::dns::name::DomainName;
use waypost::dns::records::Records;
use waypost::dns::shape::{PodNames, Shape};
use waypost::model::{ObjectKey, Service, Slice};
use waypost::store::PodMove;

#[test]
fn every_question_of_the_battery_is_answered_as_written() {
    let records = cluster();
    if std::env::var_os("UPDATE_QUESTIONS").is_some() {
        rewrite(&records);
    }
    let cases = cases();
    assert!(cases.len() >= 300, "the table has {} questions", cases.len());
    let wrong: Vec<String> =
        cases.iter().filter_map(|case| mismatch(case, &case.expected, &ask(&records, &case.name, &case.rtype))).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_battery_gets_the_same_answers_over_udp_and_tcp_and_both_families() {
    // Answers from the cache have other flags.
    let no_cache = CacheConfig { positive_ttl: 0, negative_ttl: 0, ..CacheConfig::default() };
    let running = Running::with_cache(cluster(), &[upstream().await], &no_cache);
    let mut wrong = Vec::new();
    for case in cases() {
        let question = query(&case.name, type_number(&case.rtype));
        for reply in
            [udp(running.ipv4(), &question).await, udp(running.ipv6(), &question).await, tcp(running.ipv4(), &question).await]
        {
            wrong.extend(mismatch(&case, &on_the_wire(&case, &reply), &lines(&reply)));
            wrong.extend(wrong_header(&case, &question, &reply));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    running.serving.shutdown().await;
}

/// Writes the table anew with what is answered now: to be read before it is committed.
fn rewrite(records: &Records) {
    let answered = |question: &str| {
        let (name, rtype) = question.split_once(' ').expect("a question is a name and a type");
        let mut lines = ask(records, name, rtype);
        // The code comes first, then the sections in the order of a message.
        let place = |line: &String| {
            ["answer", "authority", "additional", "pursue"].iter().position(|word| line.starts_with(word)).map_or(0, |at| at + 1)
        };
        lines.sort_by_key(|line| (place(line), line.clone()));
        format!("> {question}\n{}\n\n", lines.join("\n"))
    };
    let mut text = String::new();
    for line in battery::QUESTIONS.lines() {
        match line.strip_prefix("> ") {
            Some(question) => text += &answered(question),
            None if line.starts_with('#') => text += &format!("{line}\n"),
            None => {}
        }
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/dns/questions.txt");
    std::fs::write(path, text.trim_end().to_string() + "\n").unwrap();
    panic!("{path} is written anew: compile again");
}

fn mismatch(case: &Case, expected: &[String], answered: &[String]) -> Option<String> {
    (expected != answered).then(|| format!("{} {}\n  expected {expected:#?}\n  answered {answered:#?}", case.name, case.rtype))
}

/// What the table expects, with the upstream's part filled in. The reply's own spelling of names is checked by the in-process run.
fn on_the_wire(case: &Case, reply: &Message) -> Vec<String> {
    let mut expected = case.expected.clone();
    if expected == ["ELSEWHERE"] {
        expected = vec!["NOERROR".to_string(), format!("answer {}. 60 A {ELSEWHERE}", case.name)];
    }
    for line in &mut expected {
        if let Some(target) = line.strip_prefix("pursue ") {
            *line = format!("answer {target} 60 A {ELSEWHERE}");
        }
    }
    // The server of this test listens on both families, and the zone's name server has the addresses of the server.
    if expected.iter().any(|line| line.starts_with("additional ns.dns")) {
        expected.push("additional ns.dns.cluster.local. 30 AAAA ::1".to_string());
    }
    if case.name == "ns.dns.cluster.local" && case.rtype == "AAAA" {
        expected = vec!["NOERROR".to_string(), "answer ns.dns.cluster.local. 30 AAAA ::1".to_string()];
    }
    assert!(reply.edns.is_none(), "no OPT record was sent, so none may come back");
    expected.sort();
    expected
}

fn wrong_header(case: &Case, question: &Message, reply: &Message) -> Option<String> {
    let elsewhere = case.expected == ["ELSEWHERE"];
    let header = &reply.metadata;
    let right = header.id == question.metadata.id
        && header.recursion_desired
        && !header.truncation
        && header.authoritative != elsewhere
        && header.recursion_available == elsewhere
        && reply.queries == question.queries
        && reply.queries[0].name().eq_case(question.queries[0].name());
    (!right).then(|| format!("{} {}: header {header:?}", case.name, case.rtype))
}

#[test]
fn verified_names_of_pods_are_those_of_pods_that_are_there_and_before_these_are_listed_nobody_can_say() {
    let records = cluster();
    let shape = Shape { pods: PodNames::Verified, ..records.shape().clone() };
    let code = |name: &str, rtype: u16| {
        let name = DomainName::parse(&format!("{name}.pod.cluster.local")).unwrap();
        match answer_as(&records, &shape, Question { name: name.as_wire(), rtype }, None) {
            Verdict::Answer(answer) => (answer.code, answer.answers.len()),
            Verdict::Elsewhere => panic!("{name} is the cluster's"),
        }
    };
    let pod = |address: &str, is_there| {
        let address = address.parse().unwrap();
        records.move_pod(&PodMove { namespace: "default".into(), address, labels: None, is_there });
    };
    pod("10.1.2.3", true);
    assert_eq!(code("10-1-2-3.default", 1), (Code::NoError, 1));
    assert_eq!(code("fd00--9.default", 28), (Code::ServFail, 0));
    records.set_pods_listed(true);
    assert_eq!(code("fd00--9.default", 28), (Code::NxDomain, 0));
    assert_eq!(code("10-1-2-3.data", 1), (Code::NxDomain, 0), "another namespace");
    assert_eq!(code("10-1-2-3.default", 28), (Code::NoError, 0), "it has no address of this family");
    // Two pods of the host's network have one address.
    pod("fd00::9", true);
    pod("fd00::9", true);
    pod("fd00::9", false);
    assert_eq!(code("fd00--9.default", 28), (Code::NoError, 1));
    pod("fd00::9", false);
    assert_eq!(code("fd00--9.default", 28), (Code::NxDomain, 0));
    assert_eq!(code("default", 1), (Code::NoError, 0));
}

#[test]
fn before_everything_is_listed_nothing_is_said_not_to_exist() {
    let records = Records::new("cluster.local", 30);
    publish_all(&records);
    for case in cases() {
        let answered = ask(&records, &case.name, &case.rtype);
        let expected =
            if case.expected.contains(&"NXDOMAIN".to_string()) { vec!["SERVFAIL".to_string()] } else { case.expected.clone() };
        assert_eq!(answered, expected, "{} {}", case.name, case.rtype);
    }
    assert!(!records.is_synced());
}

#[test]
fn what_is_withdrawn_leaves_nothing_behind() {
    let records = cluster();
    for (service, slices) in objects() {
        records.publish(&key_of(service.as_ref(), &slices), None, &[]);
    }
    assert_eq!(records.service_count(), 0);
    for case in cases().iter().filter(|case| case.name.ends_with("arpa")) {
        assert_eq!(ask(&records, &case.name, &case.rtype), ["ELSEWHERE"], "{}", case.name);
    }
    assert_eq!(ask(&records, "web.default.svc.cluster.local", "A"), ["NXDOMAIN", "authority SOA"]);
}

#[test]
fn addresses_are_shuffled_but_equal_seeds_agree() {
    let records = cluster();
    let order = |seed| {
        let name = waypost::dns::name::DomainName::parse("plain.data.svc.cluster.local").unwrap();
        waypost::dns::answer::answer(&records, waypost::dns::answer::Question { name: name.as_wire(), rtype: 1 }, seed)
    };
    assert_eq!(order(3), order(3));
    let orders: Vec<_> = (0..64).map(|seed| format!("{:?}", order(seed * 0x9e37_79b9))).collect();
    let distinct: std::collections::HashSet<_> = orders.iter().collect();
    assert_eq!(distinct.len(), 6, "three addresses have six orders");
}

proptest! {
    /// However the cluster came to be what it is, it answers like a fresh one.
    #[test]
    fn any_history_of_changes_ends_in_the_answers_of_a_fresh_start(steps in proptest::collection::vec((0_usize..27, 0_usize..4), 0..80)) {
        let objects = objects();
        let (lived, fresh) = (Records::new("cluster.local", 30), Records::new("cluster.local", 30));
        let mut last = vec![None; objects.len()];
        for (index, variant) in steps {
            let index = index % objects.len();
            publish_variant(&lived, &objects[index], variant);
            last[index] = Some(variant);
        }
        for (object, variant) in objects.iter().zip(last) {
            if let Some(variant) = variant {
                publish_variant(&fresh, object, variant);
            }
        }
        for case in cases() {
            prop_assert_eq!(ask(&lived, &case.name, &case.rtype), ask(&fresh, &case.name, &case.rtype), "{}", case.name);
        }
        prop_assert_eq!(lived.service_count(), fresh.service_count());
    }
}

/// The whole object, its Service alone, its slices alone, or nothing.
fn publish_variant(records: &Records, (service, slices): &(Option<Service>, Vec<Slice>), variant: usize) {
    let all: Vec<&Slice> = slices.iter().collect();
    let key = key_of(service.as_ref(), slices);
    match variant {
        0 => records.publish(&key, service.as_ref(), &all),
        1 => records.publish(&key, service.as_ref(), &[]),
        2 => records.publish(&key, None, &all),
        _ => records.publish(&key, None, &[]),
    }
}

fn key_of(service: Option<&Service>, slices: &[Slice]) -> ObjectKey {
    service.map_or_else(|| slices[0].service.clone(), |service| service.key.clone())
}

fn large_service() -> Records {
    let records = cluster();
    let endpoints = (0..200).map(|number| endpoint(&format!("10.9.{}.{}", number / 100, number % 100)));
    let slice = slice("data/large", &["peer/tcp/7000"], endpoints);
    records.publish(&slice.service, Some(&headless("data/large")), &[&slice]);
    records
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_too_long_is_cut_over_udp_and_whole_over_tcp() {
    let running = Running::start(large_service(), &[]);
    let question = query("large.data.svc.cluster.local", 1);
    let bytes = crate::wire::udp_bytes(running.ipv4(), &question.to_vec().unwrap()).await;
    let reply = Message::from_vec(&bytes).unwrap();
    assert!(bytes.len() <= 512 && reply.metadata.truncation, "{} bytes", bytes.len());
    assert!(reply.answers.len() > 20, "as many answers as fit are kept: {}", reply.answers.len());

    let mut wide = question.clone();
    let mut edns = Edns::new();
    edns.set_max_payload(65_000).set_dnssec_ok(true);
    wide.set_edns(edns);
    let bytes = crate::wire::udp_bytes(running.ipv6(), &wide.to_vec().unwrap()).await;
    let reply = Message::from_vec(&bytes).unwrap();
    assert!(bytes.len() <= 1232 && reply.metadata.truncation, "{} bytes", bytes.len());
    assert!(reply.answers.len() > 70, "{}", reply.answers.len());
    let edns = reply.edns.expect("OPT is kept when answers are cut");
    assert!(edns.max_payload() == 1232 && edns.flags().dnssec_ok && edns.version() == 0);

    for rtype in ["A", "SRV"] {
        let reply = tcp(running.ipv4(), &query("large.data.svc.cluster.local", type_number(rtype))).await;
        assert!(!reply.metadata.truncation && reply.answers.len() == 200, "{rtype}: {}", reply.answers.len());
    }
    let glue = udp(running.ipv4(), &query("plain.data.svc.cluster.local", 33)).await;
    assert!(!glue.metadata.truncation && glue.answers.len() == 6, "addresses of targets are given up before answers are cut");
    running.serving.shutdown().await;
}
