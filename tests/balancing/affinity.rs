//! Session affinity with real connections.

use super::world::{World, eventually, nft, slices};
use libtest_mimic::Failed;
use std::collections::BTreeSet;
use waypost::lab::Namespace;
use waypost::model::Protocol::{Tcp, Udp};

/// All addresses of `web`, over TCP.
const ADDRESSES: [&str; 4] = ["10.96.0.1:80", "192.0.2.10:30080", "198.51.100.1:80", "198.51.100.2:80"];
const ADDRESSES_V6: [&str; 2] = ["[fd00:96::1]:80", "[2001:db8::10]:30080"];

fn web(seconds: u32, policy: &str, pods: &[u8]) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: shop}}\nspec:\n\
         \x20 type: LoadBalancer\n  clusterIPs: [10.96.0.1, 'fd00:96::1']\n  externalIPs: [198.51.100.1]\n\
         \x20 externalTrafficPolicy: {policy}\n\
         \x20 sessionAffinity: ClientIP\n  sessionAffinityConfig: {{clientIP: {{timeoutSeconds: {seconds}}}}}\n\
         \x20 ports:\n  - {{name: http, port: 80, nodePort: 30080}}\n  - {{name: echo, port: 7, protocol: UDP, nodePort: 30007}}\n\
         \x20 - {{name: sig, port: 99, protocol: SCTP, nodePort: 30099}}\n\
         status: {{loadBalancer: {{ingress: [{{ip: 198.51.100.2}}]}}}}\n{}",
        slices(pods)
    )
}

pub fn one_endpoint_whichever_address_is_used() -> Result<(), Failed> {
    let world = World::new(&web(3600, "Cluster", &[1, 2, 3]));
    for addresses in [&ADDRESSES[..], &ADDRESSES_V6] {
        for client in [&world.client, &world.outside] {
            let first = world.reach(client, Tcp, addresses[0]);
            for address in addresses.iter().cycle().take(16) {
                assert_eq!(world.reach(client, Tcp, address), first, "{} to {address}", client.name());
            }
        }
    }
    for addresses in [["10.96.0.1:7", "192.0.2.10:30007"], ["[fd00:96::1]:7", "[2001:db8::10]:30007"]] {
        let first = world.reach(&world.client, Udp, addresses[0]);
        for address in addresses.iter().cycle().take(12) {
            assert_eq!(world.reach(&world.client, Udp, address), first, "to {address}");
        }
    }
    let clients: usize = world.remembered("ip").into_iter().map(|(_, count)| count).sum();
    assert_eq!(clients, 3, "two over TCP, one over UDP");
    Ok(())
}

pub fn the_clients_of_an_endpoint_that_goes_are_sent_elsewhere_and_stay_there() -> Result<(), Failed> {
    let mut world = World::new(&web(3600, "Cluster", &[1, 2, 3]));
    for (family, to) in [("ip", "10.96.0.1:80"), ("ip6", "[fd00:96::1]:80")] {
        world.apply(&web(3600, "Cluster", &[1, 2, 3]));
        let first = world.reach(&world.client, Tcp, to);
        let rest: Vec<u8> = (1..=3).filter(|number| format!("pod-{number}") != first).collect();
        world.apply(&web(3600, "Cluster", &rest));
        assert!(world.remembered(family).iter().all(|(_, count)| *count == 0), "{:?}", world.remembered(family));
        let second = world.reach(&world.client, Tcp, to);
        assert_ne!(second, first);
        // The endpoint that was gone comes back, and others with it: the client stays where it is.
        world.apply(&web(3600, "Cluster", &[1, 2, 3]));
        for _ in 0..16 {
            assert_eq!(world.reach(&world.client, Tcp, to), second);
        }
    }
    Ok(())
}

pub fn a_client_is_forgotten_after_its_time_and_new_connections_renew_it() -> Result<(), Failed> {
    let mut world = World::new(&web(3600, "Cluster", &[1, 2, 3]));
    world.reach(&world.client, Tcp, ADDRESSES[0]);
    let left = |world: &World| {
        let table = world.nft(&["list", "table", "ip", "waypost"]);
        let time = table.split(" expires ").nth(1).expect("somebody is remembered").split(' ').next().unwrap().to_string();
        seconds(&time)
    };
    eventually("some of its time is over", || left(&world) < 3598);
    let before = left(&world);
    world.reach(&world.client, Tcp, ADDRESSES[0]);
    assert!(left(&world) > before, "its time began anew");
    // Another time-out counts from the next connection on, and nobody is forgotten for it.
    world.apply(&web(1, "Cluster", &[1, 2, 3]));
    assert_eq!(world.remembered("ip").iter().map(|(_, count)| count).sum::<usize>(), 1);
    world.reach(&world.client, Tcp, ADDRESSES[0]);
    eventually("the client is forgotten", || world.remembered("ip").iter().all(|(_, count)| *count == 0));
    let mut seen = BTreeSet::new();
    eventually("it has been sent to every endpoint", || {
        seen.insert(world.reach(&world.client, Tcp, ADDRESSES[0]));
        eventually("the client is forgotten", || world.remembered("ip").iter().all(|(_, count)| *count == 0));
        seen.len() > 1
    });
    Ok(())
}

/// `59m58s123ms` as seconds.
fn seconds(text: &str) -> u64 {
    let mut total = 0;
    let mut number = String::new();
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match (letter, letters.peek()) {
            ('0'..='9', _) => number.push(letter),
            ('m', Some('s')) => break,
            _ => {
                let unit = match letter {
                    'h' => 3600,
                    'm' => 60,
                    _ => 1,
                };
                total += unit * std::mem::take(&mut number).parse::<u64>().unwrap();
            }
        }
    }
    total
}

pub fn affinity_never_leads_past_a_policy_local() -> Result<(), Failed> {
    // One endpoint here, one elsewhere: from inside a client may be sent to either, from outside to the one here.
    let world = World::new(&web(3600, "Local", &[1, 3]));
    let inside = world.reach(&world.client, Tcp, ADDRESSES[3]);
    for address in ADDRESSES.iter().cycle().take(12) {
        assert_eq!(world.reach(&world.client, Tcp, address), inside);
    }
    for client in [&world.outside, &world.client] {
        for address in ADDRESSES[1..].iter().cycle().take(6) {
            let by = world.reach(client, Tcp, address);
            assert!(client.name() == "client" || by == "pod-1", "{by} is not on this node");
        }
    }
    // A client outside that has been sent elsewhere, by a ClusterIP, still gets the endpoint here by the load balancer.
    let mut far = world.reach(&world.outside, Tcp, ADDRESSES[0]);
    for _ in 0..64 {
        if far == "pod-3" {
            break;
        }
        for (map, _) in world.remembered("ip").iter().filter(|(map, _)| !map.starts_with("affinity-local")) {
            world.nft(&["flush", "map", "ip", "waypost", map]);
        }
        far = world.reach(&world.outside, Tcp, ADDRESSES[0]);
    }
    assert_eq!((far.as_str(), world.reach(&world.outside, Tcp, ADDRESSES[3]).as_str()), ("pod-3", "pod-1"));
    Ok(())
}

pub fn a_restart_writes_nothing_and_forgets_nobody() -> Result<(), Failed> {
    let objects = web(3600, "Local", &[1, 2, 3]);
    let mut world = World::new(&objects);
    let reach = |world: &World| -> Vec<String> {
        let inside = ADDRESSES.iter().chain(&ADDRESSES_V6).map(|to| world.reach(&world.client, Tcp, to));
        let outside = ADDRESSES[1..].iter().chain(&ADDRESSES_V6[1..]).map(|to| world.reach(&world.outside, Tcp, to));
        inside.chain(outside).collect()
    };
    let before = reach(&world);
    for family in world.restart(&objects).families {
        assert_eq!((family.elements, family.batches, family.rebuilt), (0, 0, None), "{}", family.family);
    }
    assert_eq!(reach(&world), before);
    // Without affinity nothing of it is left.
    world.apply(
        &objects.replace("sessionAffinity: ClientIP", "sessionAffinity: None").replace("sessionAffinityConfig", "ignored"),
    );
    for family in ["ip", "ip6"] {
        let table = world.nft(&["list", "table", family, "waypost"]);
        assert!(!table.contains("affinity-") && !table.contains("sticky-"), "{table}");
    }
    Ok(())
}

pub fn a_table_of_another_layout_takes_over_who_was_sent_where() -> Result<(), Failed> {
    let objects = web(3600, "Local", &[1, 2, 3]);
    let mut world = World::new(&objects);
    let targets: Vec<&str> = ADDRESSES.iter().chain(&ADDRESSES_V6).copied().collect();
    let reach = |world: &World| -> Vec<String> {
        let inside = targets.iter().map(|to| world.reach(&world.client, Tcp, to));
        inside
            .chain([world.reach(&world.client, Udp, "10.96.0.1:7"), world.reach(&world.client, Udp, "[fd00:96::1]:7")])
            .collect()
    };
    let before = reach(&world);
    for mark in [0x8000, 0x1_0000, 0x2_0000, 0x4000] {
        for family in world.restart_with(&objects, mark).families {
            assert!(family.rebuilt.is_some() && family.error.is_none(), "{family:?}");
        }
        let remembered: usize = ["ip", "ip6"].iter().flat_map(|family| world.remembered(family)).map(|(_, count)| count).sum();
        assert_eq!(remembered, 4, "before anybody has connected again");
        assert_eq!(reach(&world), before);
    }
    // The time that is left is the one that was left: some must be gone for the difference to be seen.
    eventually("a part of their hour is gone", || {
        world.nft(&["list", "table", "ip", "waypost"]).split(" expires ").skip(1).all(is_less)
    });
    world.restart_with(&objects, 0x8000);
    let table = world.nft(&["list", "table", "ip", "waypost"]);
    let mut left = table.split(" expires ").skip(1);
    assert!(left.clone().count() == 2 && left.all(is_less), "{table}");
    // Of an endpoint that went meanwhile nobody is taken over.
    let gone: u8 = before[0].strip_prefix("pod-").unwrap().parse()?;
    let rest: Vec<u8> = (1..=3).filter(|number| *number != gone).collect();
    world.restart_with(&web(3600, "Local", &rest), 0x4000);
    assert_ne!(world.reach(&world.client, Tcp, targets[0]), before[0]);
    Ok(())
}

/// Whether this begins with an hour less a tenth of a second or more, in nft's words.
fn is_less(left: &str) -> bool {
    let left = left.split(' ').next().unwrap_or_default();
    match left.strip_prefix("59m59s") {
        Some(rest) => rest.trim_end_matches("ms").parse().unwrap_or(0) <= 900,
        None => left.starts_with("59m"),
    }
}

pub fn nft_lists_it_and_loads_what_it_lists() -> Result<(), Failed> {
    let world = World::new(&web(3600, "Local", &[1, 2, 3]));
    for family in ["ip", "ip6"] {
        let table = world.nft(&["-s", "list", "table", family, "waypost"]);
        let address = if family == "ip" { "ip" } else { "ip6" };
        for expected in [
            format!("typeof {address} saddr : {address} daddr . th dport"),
            "timeout 1h".into(),
            "chain sticky-random-local-".into(),
            "chain remember-outside-local-".into(),
            format!("meta l4proto sctp dnat {address} to {address} saddr map @affinity-"),
            format!("meta l4proto udp ct original {address} daddr . meta l4proto . ct original proto-dst vmap @sticky"),
        ] {
            assert!(table.contains(&expected), "there is no {expected:?} in\n{table}");
        }
    }
    // nft 1.0.6 itself has not enough registers for the IPv6 rules that remember.
    let listing = world.nft(&["-s", "list", "table", "ip", "waypost"]);
    let elsewhere = Namespace::new()?;
    let file = std::env::temp_dir().join(format!("waypost-balancing-{}", std::process::id()));
    std::fs::write(&file, &listing)?;
    nft(&elsewhere, &["-f", &file.display().to_string()]);
    std::fs::remove_file(&file)?;
    let sorted = |listing: &str| {
        let mut words: Vec<String> = listing.split([',', '{', '}', '\n']).map(|word| word.trim().to_string()).collect();
        words.sort_unstable();
        words
    };
    assert_eq!(sorted(&nft(&elsewhere, &["-s", "list", "table", "ip", "waypost"])), sorted(&listing));
    Ok(())
}
