//! The examples of `docs/balancing.md`, with real connections.

use super::examples;
use super::world::{World, address, slices};
use libtest_mimic::Failed;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;
use waypost::lab::connect;
use waypost::model::Protocol::Tcp;
use waypost::model::{Family, Protocol};
use waypost::proxy::{Dest, DetectLocal, Fate, Packet, Walk};

const ADDRESSES: [&str; 2] = ["10.96.0.1:80", "[fd00:96::1]:80"];

/// The example that contains this, and these pods behind it.
fn example(needle: &str, pods: &[u8]) -> String {
    varied(needle, pods, |_| {})
}

/// The same, with a Service as the test varies it.
fn varied(needle: &str, pods: &[u8], vary: impl FnOnce(&mut Value)) -> String {
    let mut objects = examples::example("balancing.md", needle);
    vary(objects.iter_mut().find(|object| object["kind"] == "Service").expect("the example has a Service"));
    let has_slices = objects.iter().any(|object| object["kind"] == "EndpointSlice");
    format!("{}{}", examples::manifests(&objects), if has_slices { String::new() } else { slices(pods) })
}

/// Who answers so many connections in a row.
fn answers(world: &World, to: &str, count: usize) -> Vec<String> {
    (0..count).map(|_| world.reach(&world.client, Tcp, to)).collect()
}

pub fn session_affinity() -> Result<(), Failed> {
    let world = World::new(&example("sessionAffinity: ClientIP", &[1, 2, 3]));
    for to in ADDRESSES {
        assert_eq!(answers(&world, to, 16).into_iter().collect::<BTreeSet<_>>().len(), 1);
    }
    Ok(())
}

pub fn round_robin_takes_one_after_the_other() -> Result<(), Failed> {
    let objects = example("balance: round-robin", &[1, 2, 3]);
    let mut world = World::new(&objects);
    for to in ADDRESSES {
        let seen = answers(&world, to, 12);
        assert_eq!(seen[..3].iter().collect::<BTreeSet<_>>().len(), 3, "{seen:?}");
        assert!(seen.windows(4).all(|four| four[0] == four[3]), "{seen:?}");
    }
    for family in world.restart(&objects).families {
        assert_eq!((family.elements, family.batches, family.rebuilt), (0, 0, None), "{}", family.family);
    }
    let table = world.nft(&["list", "table", "ip", "waypost"]);
    assert!(table.contains("numgen inc mod 3 map @endpoints"), "{table}");
    Ok(())
}

pub fn source_hash_sends_a_client_to_one_endpoint_and_moves_only_those_of_one_that_goes() -> Result<(), Failed> {
    let of = |pods: &[u8]| example("balance: source-hash", pods);
    let mut world = World::new(&of(&[1, 2, 3]));
    for to in ADDRESSES {
        world.apply(&of(&[1, 2, 3]));
        let first = answers(&world, to, 12);
        assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), 1, "{first:?}");
        let own: u8 = first[0].strip_prefix("pod-").unwrap().parse()?;
        let others: Vec<u8> = (1..=3).filter(|number| *number != own).collect();
        world.apply(&of(&[own.min(others[0]), own.max(others[0])]));
        assert_eq!(answers(&world, to, 6), first[..6], "another endpoint went");
        world.apply(&of(&others));
        let second = answers(&world, to, 6);
        assert!(second.iter().all(|by| *by == second[0] && *by != first[0]), "{second:?}");
        // What was before is again, because nothing but the endpoints decides.
        world.apply(&of(&[1, 2, 3]));
        assert_eq!(answers(&world, to, 6), first[..6]);
    }
    let table = world.nft(&["list", "table", "ip6", "waypost"]);
    assert!(table.contains("jhash ip6 saddr mod 1021 seed 0x77617970 map @endpoints"), "{table}");
    Ok(())
}

/// The walk computes the kernel's hash.
pub fn a_hash_sends_each_client_where_the_walk_says() -> Result<(), Failed> {
    let world = World::new(&varied("balance: source-hash", &[1, 2, 3], |service| {
        service["spec"]["ports"] = json!([{ "name": "echo", "port": 7, "protocol": "UDP" }]);
    }));
    for (family, to) in Family::BOTH.into_iter().zip(["10.96.0.1:7", "[fd00:96::1]:7"]) {
        let clients: BTreeSet<IpAddr> = (0..64).map(|_| some_address(family)).collect();
        let pod = world.node.pod("clients", &clients.iter().copied().collect::<Vec<_>>())?;
        let walk = Walk::new(world.holds(family), false, DetectLocal::Networks).by_one_client();
        let target: SocketAddr = to.parse()?;
        for source in clients {
            let to = Dest { address: target.ip(), protocol: Protocol::Udp, port: target.port() };
            let packet = Packet { source, from_node: false, from_pod_interface: true, to, to_node: false };
            let Fate::Balanced(targets) = walk.fate(&packet) else { return Err(format!("{source} is not balanced").into()) };
            let [target_of_walk] = targets.as_slice() else { return Err(format!("{source}: {targets:?}").into()) };
            let ask = || {
                let socket = UdpSocket::bind((source, 0))?;
                socket.set_read_timeout(Some(super::world::PATIENCE))?;
                socket.connect(target)?;
                socket.send(b"who is there?")?;
                let mut line = [0; 128];
                socket.recv(&mut line).map(|length| String::from_utf8_lossy(&line[..length]).into_owned())
            };
            let answer = pod.namespace().run(ask)??;
            let number = (1..=3).find(|number| address(family, *number) == target_of_walk.backend.address);
            assert_eq!(answer.split(' ').next(), number.map(|number| format!("pod-{number}")).as_deref(), "{source}");
        }
    }
    Ok(())
}

/// Any address of the pod networks that is nobody's.
fn some_address(family: Family) -> IpAddr {
    let random: [u8; 8] = RandomState::new().hash_one(0).to_ne_bytes();
    match family {
        Family::V4 => [10, 244, 128 | random[0], random[1]].into(),
        Family::V6 => {
            let [a, b, c, d] = [0, 2, 4, 6].map(|at| u16::from_ne_bytes([random[at], random[at + 1]]));
            Ipv6Addr::new(0xfd00, 0x244, 0, 1, a, b, c, d).into()
        }
    }
}

/// As for a packet that went to its chain before a batch made the list shorter, and draws after that.
pub fn a_connection_that_draws_a_slot_that_is_gone_takes_another() -> Result<(), Failed> {
    for method in ["random", "round-robin"] {
        let service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": "web", "namespace": "shop", "annotations": { "waypost.dev/balance": method } },
            "spec": {
                "clusterIPs": ["10.96.0.1", "fd00:96::1"], "type": "LoadBalancer", "externalTrafficPolicy": "Local",
                "ports": [{ "name": "http", "port": 80, "nodePort": 30080 }],
            },
        });
        let world = World::new(&format!("{service}\n{}", slices(&[1, 2, 3])));
        for family in ["ip", "ip6"] {
            let endpoints = world.nft(&["list", "map", family, "waypost", "endpoints"]);
            let elements = endpoints.split(['{', '}', ',']).map(str::trim).filter(|part| part.contains(" . tcp . "));
            let others: Vec<&str> =
                elements.filter(|element| !element.contains(" . 0 : ") && !element.contains(" . 65536 : ")).collect();
            assert!(others.len() >= 5, "{endpoints}");
            world.nft(&["delete", "element", family, "waypost", "endpoints", &format!("{{ {} }}", others.join(", "))]);
        }
        for (client, to) in [
            (&world.client, ADDRESSES[0]),
            (&world.client, ADDRESSES[1]),
            (&world.outside, "192.0.2.10:30080"),
            (&world.outside, "[2001:db8::10]:30080"),
        ] {
            let answered: BTreeSet<String> = (0..24).map(|_| world.reach(client, Tcp, to)).collect();
            assert_eq!(answered.len(), 1, "{method}, {to}: {answered:?}");
        }
        // What may only be served here is served nowhere else, though there are others.
        world.nft(&["delete", "element", "ip", "waypost", "endpoints", "{ 192.0.2.10 . tcp . 30080 . 65536 }"]);
        let elsewhere = connect(&world.outside, Tcp, "192.0.2.10:30080".parse().unwrap(), Duration::from_secs(1));
        assert!(elsewhere.by().is_none(), "{method}: {elsewhere}");
        // The policy of a ClusterIP changes, and with it goes the whole list.
        for (family, address, endpoint) in [("ip", "10.96.0.1", "10.244.0.12"), ("ip6", "fd00:96::1", "fd00:244::12")] {
            let change = |what, slot: &str| {
                let element = format!("{{ {address} . tcp . 80 . {slot} }}");
                world.nft(&[what, "element", family, "waypost", "endpoints", &element]);
            };
            change("add", &format!("65536 : {endpoint} . 8080"));
            change("delete", "0");
        }
        for to in ADDRESSES {
            assert_eq!(world.reach(&world.client, Tcp, to), "pod-2", "{method}");
        }
    }
    Ok(())
}

pub fn weights_split_between_two_slices() -> Result<(), Failed> {
    let objects = example("web-canary", &[]);
    let world = World::new(&objects);
    let endpoints = world.nft(&["list", "map", "ip", "waypost", "endpoints"]);
    let slots = |pod: &str| endpoints.matches(&format!(" : {pod} . 8080")).count();
    assert_eq!((slots("10.244.0.11"), slots("10.244.0.12")), (9, 1), "{endpoints}");
    // One after the other, the shares are exact.
    let world = World::new(&varied("web-canary", &[], |service| {
        service["metadata"]["annotations"] = json!({ "waypost.dev/balance": "round-robin" });
    }));
    let seen = answers(&world, ADDRESSES[0], 20);
    assert_eq!(seen.iter().filter(|by| *by == "pod-2").count(), 2, "{seen:?}");
    Ok(())
}

pub fn slow_start_gives_a_newly_ready_endpoint_its_share_in_steps() -> Result<(), Failed> {
    let of = |pods: &[u8]| example("slow-start", pods);
    let mut world = World::new(&of(&[1, 2]));
    let slots = |world: &World| {
        let endpoints = world.nft(&["list", "map", "ip", "waypost", "endpoints"]);
        ["10.244.0.11", "10.244.0.13"].map(|pod| endpoints.matches(&format!(" : {pod} . 8080")).count())
    };
    assert_eq!(slots(&world), [1, 0], "at the start everything counts as warmed up");
    world.apply(&of(&[1, 2, 3]));
    assert_eq!(slots(&world), [10, 1]);
    for to in ADDRESSES {
        world.reach(&world.client, Tcp, to);
    }
    world.now += Duration::from_secs(15);
    world.apply(&of(&[1, 2, 3]));
    assert_eq!(slots(&world), [2, 1], "half of the time is half of the share");
    world.now += Duration::from_secs(15);
    world.apply(&of(&[1, 2, 3]));
    assert_eq!(slots(&world), [1, 1]);
    Ok(())
}
