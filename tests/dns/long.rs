//! Long answers: whole over TCP for as long as a message can hold them, as three others read them.

use crate::battery::{cluster, endpoint, headless, slice, type_number};
use crate::wire::{Running, query, tcp_bytes, udp_bytes};
use domain::base::Message as Judge;
use domain::rdata::{A, Srv};
use hickory_proto::op::{Edns, Message};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use tokio::process::Command;
use waypost::dns::records::Records;
use waypost::model::{Endpoint, Service, ServiceKind};

/// The longest message over TCP.
const MOST: usize = 65_535;

/// Headless Services with many endpoints, and aliases for them.
fn long_lists() -> Records {
    let records = cluster();
    let v4 = |number: usize| endpoint(&format!("10.9.{}.{}", number / 200, number % 200));
    let v6 = |number: usize| endpoint(&format!("fd00::9:{number:x}"));
    // Two hosts with many addresses of both families each.
    let named = |number: usize, endpoint: Endpoint| Endpoint { hostname: Some(["left", "right"][number % 2].into()), ..endpoint };
    let lists: [(&str, Vec<Endpoint>, Vec<Endpoint>); 4] = [
        ("data/four", (0..4000).map(v4).collect(), Vec::new()),
        ("data/six", Vec::new(), (0..2300).map(v6).collect()),
        ("data/thousand", (0..1000).map(v4).collect(), Vec::new()),
        ("data/hosts", (0..24).map(|n| named(n, v4(n))).collect(), (0..24).map(|n| named(n, v6(n))).collect()),
    ];
    for (key, v4, v6) in lists {
        let slices = [slice(key, &["peer/tcp/7000"], v4), slice(key, &["peer/tcp/7000"], v6)];
        records.publish(&slices[0].service, Some(&headless(key)), &slices.iter().collect::<Vec<_>>());
        let kind = ServiceKind::ExternalName(format!("{}.data.svc.cluster.local", key.replace("data/", "")).into());
        let alias = Service { kind, ..headless(&key.replace('/', "/of-")) };
        records.publish(&alias.key, Some(&alias), &[]);
    }
    records
}

/// The answer over TCP to a question that is spelled oddly: as bytes, and as hickory reads them.
async fn long_answer(server: SocketAddr, service: &str, rtype: &str) -> (Vec<u8>, Message) {
    let spelled = format!("{service}.dAtA.SvC.cluster.LOCAL");
    let question = query(&spelled, type_number(rtype));
    let bytes = tcp_bytes(server, &question.to_vec().unwrap()).await;
    let message = Message::from_vec(&bytes).unwrap();
    let said = format!("{service} {rtype}: {} answers in {} bytes", message.answers.len(), bytes.len());
    assert!(!message.metadata.truncation && bytes.len() <= MOST, "{said}");
    assert!(message.queries[0].name().eq_case(question.queries[0].name()), "{said}");
    assert!(message.answers[0].name.eq_case(question.queries[0].name()), "the first owner is spelled as the question");
    (bytes, message)
}

fn owners(records: &[Record], rtype: RecordType) -> BTreeSet<String> {
    records.iter().filter(|record| record.record_type() == rtype).map(|record| record.name.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_addresses_are_whole_over_tcp_and_behind_an_alias_as_well() {
    let running = Running::start(long_lists(), &[]);
    for (service, owner) in [("Four", "Four.dAtA.SvC.cluster.LOCAL."), ("OF-Four", "four.data.svc.cluster.local.")] {
        let (bytes, message) = long_answer(running.ipv4(), service, "A").await;
        assert_eq!(owners(&message.answers, RecordType::A), BTreeSet::from([owner.to_string()]));
        let judge = Judge::from_octets(&bytes[..]).unwrap();
        let mut seen = BTreeSet::new();
        for record in judge.answer().unwrap().limit_to::<A>() {
            let record = record.unwrap();
            assert_eq!(format!("{}.", record.owner()), owner, "spelled as it is");
            seen.insert(record.data().addr());
        }
        assert_eq!(seen.len(), 4000, "{service}");
    }
    for service in ["six", "of-six"] {
        let (_, message) = long_answer(running.ipv6(), service, "AAAA").await;
        assert_eq!(message.answers.iter().filter(|record| record.record_type() == RecordType::AAAA).count(), 2300);
    }
    running.serving.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_targets_are_whole_over_tcp_with_as_many_of_their_addresses_as_fit() {
    let running = Running::start(long_lists(), &[]);
    for (service, owner) in [
        ("Thousand", "Thousand.dAtA.SvC.cluster.LOCAL."),
        ("_peer._TCP.thousand", "_peer._TCP.thousand.dAtA.SvC.cluster.LOCAL."),
        ("of-thousand", "thousand.data.svc.cluster.local."),
    ] {
        let (bytes, message) = long_answer(running.ipv4(), service, "SRV").await;
        assert_eq!(owners(&message.answers, RecordType::SRV), BTreeSet::from([owner.to_string()]));
        let targets: BTreeSet<String> = message
            .answers
            .iter()
            .filter_map(|record| match &record.data {
                RData::SRV(srv) => Some(srv.target.to_string()),
                _ => None,
            })
            .collect();
        assert_eq!(targets.len(), 1000, "{service}");
        let glued = owners(&message.additionals, RecordType::A);
        assert!(glued.len() >= 200 && glued.is_subset(&targets), "{service}: {} addresses", glued.len());
        assert!(MOST - bytes.len() < 40, "{service}: there would be room for more in {} bytes", bytes.len());
        let judge = Judge::from_octets(&bytes[..]).unwrap();
        let read = judge.answer().unwrap().limit_to::<Srv<_>>();
        let read: BTreeSet<String> = read.map(|record| format!("{}.", record.unwrap().data().target())).collect();
        assert_eq!(read, targets, "{service}");
    }
    running.serving.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dig_reads_long_answers() {
    let running = Running::start(long_lists(), &[]);
    for (name, rtype, count) in [("oF-fOUr", "A", 4000), ("thOUsand", "SRV", 1000), ("_peer._tcp.thousand", "SRV", 1000)] {
        let name = format!("{name}.data.svc.cluster.local");
        let mut dig = Command::new("dig");
        dig.args(["+tcp", "+tries=1", "+time=20", "+noall", "+answer", "+comments", "-p", &running.ipv4().port().to_string()]);
        let said = dig.args(["@127.0.0.1", &name, rtype]).output().await.expect("dig runs: apt install bind9-dnsutils");
        let text = String::from_utf8(said.stdout).unwrap();
        let found = text.lines().filter(|line| line.split_whitespace().nth(3) == Some(rtype)).count();
        assert!(said.status.success() && found == count, "{name} {rtype}: {found} lines");
        assert!(text.contains("status: NOERROR") && !text.contains("Warning") && !text.contains(" tc "), "{name} {rtype}");
    }
    running.serving.shutdown().await;
}

/// More than any message holds.
#[tokio::test(flavor = "multi_thread")]
async fn what_no_message_holds_is_cut_at_its_end_and_says_so() {
    let records = long_lists();
    let many = (0..5000).map(|number| endpoint(&format!("10.9.{}.{}", number / 200, number % 200)));
    let slice = slice("data/more", &["peer/tcp/7000"], many);
    records.publish(&slice.service, Some(&headless("data/more")), &[&slice]);
    let running = Running::start(records, &[]);
    for (rtype, at_least) in [("A", 4090), ("SRV", 1100)] {
        let bytes = tcp_bytes(running.ipv4(), &query("more.data.svc.cluster.local", type_number(rtype)).to_vec().unwrap()).await;
        let message = Message::from_vec(&bytes).unwrap();
        let count = message.answers.len();
        assert!(message.metadata.truncation && count >= at_least, "{rtype}: {count} in {} bytes", bytes.len());
        assert!(message.additionals.is_empty() && MOST - bytes.len() < 64, "{rtype}: {} bytes", bytes.len());
    }
    running.serving.shutdown().await;
}

/// RFC 2181, section 9: what would be a part of a set of records is left out, without the flag TC.
#[tokio::test(flavor = "multi_thread")]
async fn addresses_of_a_target_are_there_all_or_not_at_all() {
    let running = Running::start(long_lists(), &[]);
    let mut question = query("hosts.data.svc.cluster.local", type_number("SRV"));
    let mut sets = BTreeMap::new();
    for size in [512, 600, 700, 800, 1000, 1232] {
        let mut edns = Edns::new();
        edns.set_max_payload(size);
        let bytes = udp_bytes(running.ipv4(), &question.set_edns(edns).to_vec().unwrap()).await;
        let message = Message::from_vec(&bytes).unwrap();
        assert!(!message.metadata.truncation && message.answers.len() == 2 && bytes.len() <= usize::from(size), "{size}");
        let mut found: BTreeMap<(Name, RecordType), usize> = BTreeMap::new();
        message.additionals.iter().for_each(|record| *found.entry((record.name.clone(), record.record_type())).or_default() += 1);
        assert!(found.values().all(|count| *count == 12), "{size}: {found:?}");
        sets.insert(size, found.len());
    }
    assert_eq!(sets[&512], 1, "{sets:?}");
    assert!(sets[&1232] >= 3 && sets.values().is_sorted(), "{sets:?}");
    running.serving.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_over_udp_has_1232_bytes_at_most_unless_its_block_says_otherwise() {
    for (bufsize, most) in [("", 1232), ("bufsize 700", 700), ("bufsize 4096", 4096)] {
        let running = Running::by_corefile(long_lists(), &format!("cluster.local {{\n    kubernetes\n    {bufsize}\n}}\n"));
        for asked in [512, 600, 1232, 2000, 4096, 65_535] {
            let mut edns = Edns::new();
            edns.set_max_payload(asked);
            let mut question = query("four.data.svc.cluster.local", type_number("A"));
            let bytes = udp_bytes(running.ipv4(), &question.set_edns(edns).to_vec().unwrap()).await;
            let limit = usize::from(asked.min(most));
            assert!((limit - 15..=limit).contains(&bytes.len()), "{bufsize}: {asked} asked for, {} bytes", bytes.len());
        }
        let plain = udp_bytes(running.ipv4(), &query("four.data.svc.cluster.local", type_number("A")).to_vec().unwrap()).await;
        assert!(plain.len() <= 512, "{bufsize}: {} bytes", plain.len());
        running.serving.shutdown().await;
    }
}
