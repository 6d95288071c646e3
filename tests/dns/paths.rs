//! The two paths of a question, over UDP and over TCP, say the same: byte by byte, but for the order of addresses.

use crate::battery::{cases, cluster, endpoint, headless, slice, type_number};
use crate::both::Both;
use crate::wire::query;
use hickory_proto::op::{Edns, Message};
use hickory_proto::rr::Name;
use proptest::prelude::*;
use waypost::dns::fast::Composer;
use waypost::dns::records::Records;
use waypost::model::Endpoint;

/// The same question in all the ways in which clients ask it.
fn variants(name: &str, rtype: u16) -> Vec<Message> {
    let plain = query(name, rtype);
    let mut spelled = plain.clone();
    let odd: String = name.chars().enumerate().map(|(at, c)| if at % 2 == 0 { c.to_ascii_uppercase() } else { c }).collect();
    spelled.queries[0].set_name(Name::from_labels(odd.split('.').map(str::as_bytes)).unwrap());
    let mut unusual_flags = plain.clone();
    unusual_flags.metadata.recursion_desired = false;
    unusual_flags.metadata.checking_disabled = true;
    unusual_flags.metadata.authentic_data = true;
    unusual_flags.metadata.truncation = true;
    let mut all = vec![plain.clone(), spelled.clone(), unusual_flags];
    for (payload, dnssec_ok) in [(0, false), (512, true), (700, false), (1232, true), (65_535, false)] {
        for base in [&plain, &spelled] {
            let mut edns = Edns::new();
            edns.set_max_payload(payload).set_dnssec_ok(dnssec_ok);
            all.push(base.clone().set_edns(edns).clone());
        }
    }
    all
}

/// With what the battery has no reason to ask for: long answers.
fn crowded_cluster() -> Records {
    let records = cluster();
    let many = |range: std::ops::Range<u16>, prefix: &str| {
        range.map(|number| endpoint(&format!("{prefix}{}.{}", number / 200, number % 200))).collect::<Vec<_>>()
    };
    for (key, count) in [("data/large", 1000), ("data/forty", 40), ("data/seventy", 70), ("data/twenty", 20)] {
        let ports = ["peer/tcp/7000", "client/tcp/2379"];
        let slices = [slice(key, &ports, many(0..count, "10.9.")), slice(key, &ports[..1], many(count / 2..count, "10.9."))];
        records.publish(&slices[0].service, Some(&headless(key)), &slices.iter().collect::<Vec<_>>());
    }
    // Hosts with many addresses of both families: where one has no room, all of its family go.
    let of_host = |number: usize, address: &str| Endpoint {
        hostname: Some(["left", "right"][number % 2].into()),
        ..endpoint(&format!("{address}{number}"))
    };
    let hosts =
        ["10.8.0.", "fd00::8:"].map(|address| slice("data/hosts", &["peer/tcp/7000"], (0..24).map(|n| of_host(n, address))));
    records.publish(&hosts[0].service, Some(&headless("data/hosts")), &hosts.iter().collect::<Vec<_>>());
    records
}

const CROWDED: [&str; 6] = [
    "hosts.data.svc.cluster.local",
    "large.data.svc.cluster.local",
    "forty.data.svc.cluster.local",
    "seventy.data.svc.cluster.local",
    "_peer._tcp.twenty.data.svc.cluster.local",
    "10-9-0-3.twenty.data.svc.cluster.local",
];

#[test]
fn both_paths_say_the_same_to_the_whole_battery_however_it_is_asked() {
    let both = Both::over(crowded_cluster());
    let types = [1, 28, 33, 12, 6, 2, 5, 16, 255, 65, 4711];
    let (mut fast, mut fast_over_tcp, mut left) = (0, 0, Vec::new());
    let own = cases().into_iter().map(|case| (case.name, type_number(&case.rtype)));
    let crowded = CROWDED.iter().flat_map(|name| types.map(|rtype| ((*name).to_string(), rtype)));
    for (name, rtype) in own.chain(crowded) {
        for (variant, message) in variants(&name, rtype).into_iter().enumerate() {
            fast_over_tcp += usize::from(both.agree_on_message(&message.to_vec().unwrap()));
            if both.agree_on(&message.to_vec().unwrap()) {
                fast += 1;
            } else if variant == 0 {
                left.push((name.clone(), rtype));
            }
        }
    }
    // What is left to the other path is left for a reason.
    for (name, rtype) in &left {
        let reply = Message::from_vec(&both.slow(&query(name, *rtype).to_vec().unwrap()).unwrap()).unwrap();
        let is_alias = reply.answers.iter().any(|answer| u16::from(answer.record_type()) == 5);
        let is_elsewhere = !reply.metadata.authoritative && reply.metadata.response_code.low() == 2;
        let is_zones_own =
            ["cluster.local", "dns-version.cluster.local", "ns.dns.cluster.local"].contains(&name.to_lowercase().as_str());
        let is_long = CROWDED.contains(&name.as_str()) && *rtype == 33;
        assert!(is_alias || is_elsewhere || is_zones_own || is_long || is_of_an_alias(name), "{name} {rtype}: {reply:?}");
    }
    assert!(fast > 3500, "{fast} questions were answered by the fast path, {} of the battery were not", left.len());
    assert!(fast_over_tcp > 3500, "{fast_over_tcp} over TCP");
}

fn is_of_an_alias(name: &str) -> bool {
    cases()
        .iter()
        .any(|case| case.name == name && case.expected.iter().any(|line| line.contains(" CNAME ") || line == "SERVFAIL"))
}

#[test]
fn before_everything_is_listed_both_paths_know_the_same() {
    let records = Records::new("cluster.local", 30);
    crate::battery::publish_all(&records);
    let both = Both::over(records);
    let answered =
        cases().iter().filter(|case| both.agree_on(&query(&case.name, type_number(&case.rtype)).to_vec().unwrap())).count();
    assert!(answered > 200, "{answered}");
}

#[test]
fn the_fast_path_allocates_nothing_once_it_is_warm() {
    let records = crowded_cluster();
    let asked = cases().into_iter().map(|case| (case.name, type_number(&case.rtype)));
    let crowded = CROWDED.iter().flat_map(|name| [1, 28, 33].map(|rtype| ((*name).to_string(), rtype)));
    let questions: Vec<Vec<u8>> =
        asked.chain(crowded).flat_map(|(name, rtype)| variants(&name, rtype)).map(|message| message.to_vec().unwrap()).collect();
    let mut composer = Composer::new(7);
    let mut answered = |questions: &[Vec<u8>]| {
        let view = records.view();
        questions.iter().filter(|question| composer.answer(&view, question).is_some()).count()
    };
    let first = answered(&questions);
    let mut again = 0;
    let counted = allocation_counter::measure(|| again = answered(&questions));
    assert!(again == first && again > 3000, "{again} {first}");
    assert_eq!(counted.count_total, 0, "allocations for {again} questions");
}

/// Where the fast path leaves an answer to the other one, because not every name in it could be pointed to.
#[test]
fn both_paths_say_the_same_over_tcp_up_to_the_longest_answer_of_the_fast_one() {
    let border = 1000..1040;
    let records = cluster();
    for count in border.clone() {
        let slice =
            slice(&format!("data/of-{count}"), &[], (0..count).map(|n| endpoint(&format!("10.9.{}.{}", n / 200, n % 200))));
        records.publish(&slice.service, Some(&headless(&format!("data/of-{count}"))), &[&slice]);
    }
    let both = Both::over(records);
    let of = |count: usize| variants(&format!("of-{count}.data.svc.cluster.local"), 1);
    let is_fast = |message: &Message| both.agree_on_message(&message.to_vec().unwrap());
    let fast = border.clone().flat_map(of).filter(is_fast).count();
    let all = border.flat_map(of).count();
    assert!(fast > 0 && fast < all, "{fast} of {all}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Bytes changed, cut off and added: what the fast path takes for a plain question is one, and what is not one it leaves alone.
    #[test]
    fn both_paths_say_the_same_to_damaged_questions(
        which in any::<prop::sample::Index>(),
        variant in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in prop::option::weighted(0.1, any::<prop::sample::Index>()),
        added in prop::collection::vec(any::<u8>(), 0..2),
    ) {
        thread_local!(static BOTH: Both = Both::over(crowded_cluster()));
        let cases = cases();
        let case = which.get(&cases);
        let mut datagram = variant.get(&variants(&case.name, type_number(&case.rtype))).to_vec().unwrap();
        for (place, byte) in changes {
            let place = place.index(datagram.len());
            datagram[place] = byte;
        }
        if let Some(cut) = cut {
            datagram.truncate(cut.index(datagram.len()));
        }
        datagram.extend(added);
        BOTH.with(|both| both.agree_on(&datagram));
    }

    /// Names made of the cluster's own labels, in any order.
    #[test]
    fn both_paths_say_the_same_about_names_made_of_known_labels(
        labels in prop::collection::vec(prop::sample::select(&LABELS[..]), 0..8),
        rtype in prop::sample::select(&[1_u16, 28, 33, 12, 6, 255][..]),
        variant in any::<prop::sample::Index>(),
    ) {
        thread_local!(static BOTH: Both = Both::over(crowded_cluster()));
        let name = [&labels[..], &["cluster", "local"]].concat().join(".");
        let datagram = variant.get(&variants(&name, rtype)).to_vec().unwrap();
        BOTH.with(|both| both.agree_on(&datagram));
    }
}

const LABELS: [&str; 22] = [
    "svc",
    "pod",
    "default",
    "data",
    "web",
    "large",
    "twenty",
    "db",
    "plain",
    "_tcp",
    "_udp",
    "_http",
    "_",
    "_peer",
    "tcp",
    "10-9-0-3",
    "10-244-1-2",
    "dns",
    "ns",
    "web-0",
    "kubernetes",
    "absent",
];
