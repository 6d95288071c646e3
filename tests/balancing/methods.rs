//! The examples of `docs/balancing.md`, with real connections.

use super::world::{World, slices};
use libtest_mimic::Failed;
use std::collections::BTreeSet;
use std::time::Duration;
use waypost::model::Protocol::Tcp;

const ADDRESSES: [&str; 2] = ["10.96.0.1:80", "[fd00:96::1]:80"];

/// The example that contains this, with the addresses that an API server would have given it, and these pods behind it.
fn example(needle: &str, pods: &[u8]) -> String {
    let document = include_str!("../../docs/balancing.md");
    let blocks = document.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let found: Vec<&str> = blocks.filter(|block| block.contains(needle)).collect();
    assert_eq!(found.len(), 1, "one example has {needle:?}");
    let given = found[0].replacen("spec:\n", "spec:\n  clusterIPs: [10.96.0.1, 'fd00:96::1']\n", 1);
    let slices = if given.contains("EndpointSlice") { String::new() } else { slices(pods) };
    format!("{given}{slices}")
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

pub fn weights_split_between_two_slices() -> Result<(), Failed> {
    let objects = example("web-canary", &[]);
    let world = World::new(&objects);
    let endpoints = world.nft(&["list", "map", "ip", "waypost", "endpoints"]);
    let slots = |pod: &str| endpoints.matches(&format!(" : {pod} . 8080")).count();
    assert_eq!((slots("10.244.0.11"), slots("10.244.0.12")), (9, 1), "{endpoints}");
    // One after the other, the shares are exact.
    let turns = "{name: web, namespace: shop, annotations: {waypost.dev/balance: round-robin}}";
    let world = World::new(&objects.replacen("{name: web, namespace: shop}", turns, 1));
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
