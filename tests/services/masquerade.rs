//! Whose packets are masqueraded, and who is taken for a pod, under each mode of detection.

use super::{CLUSTER, PODS, family_of, listing_loads_again, source_at, world};
use crate::world::World;
use libtest_mimic::{Failed, Trial};
use std::net::IpAddr;
use waypost::lab::Outcome;

const CLUSTER_IPS: [&str; 2] = ["10.96.0.1:80", "[fd00:96::1]:80"];
/// Of the Service with policy Local whose endpoint is not on this node: only pods and the node itself pass by the policy.
const LOCAL_POLICY: [&str; 2] = ["198.51.100.2:80", "[2001:db8:1::2]:80"];

pub fn tests() -> Vec<Trial> {
    vec![
        Trial::test("without_a_mode_and_networks_nothing_is_masqueraded_and_nobody_is_a_pod", nothing),
        Trial::test("pods_are_known_by_several_cluster_networks", cluster_networks),
        Trial::test("pods_are_known_by_the_networks_of_the_node_as_soon_as_it_has_any", node_networks),
        Trial::test("pods_are_known_by_their_bridge", bridge),
        Trial::test("pods_are_known_by_how_the_names_of_their_interfaces_begin", prefix),
        Trial::test("with_masquerade_all_pods_are_masqueraded_too_and_are_still_pods", everything),
        Trial::test("the_mark_is_the_chosen_bit_and_leaves_no_trace", mark),
    ]
}

fn nothing() -> Result<(), Failed> {
    let world = world("nothing", &[]);
    CLUSTER_IPS.iter().for_each(|target| kept(&world, target));
    LOCAL_POLICY.iter().for_each(|target| pod_is_a_stranger(&world, target));
    Ok(())
}

/// The pods' addresses are in the second networks of their families only.
fn cluster_networks() -> Result<(), Failed> {
    let world = world("networks", &["--cluster-cidr=10.1.0.0/16,10.244.0.0/24,fd01::/48,fd00:244::/64"]);
    pods_are_known(&world);
    listing_loads_again(&world)
}

fn node_networks() -> Result<(), Failed> {
    let world = world("node-networks", &["--detect-local-mode=NodeCIDR", "--cluster-cidr=0.0.0.0/0"]);
    world.await_log(&["no podCIDRs"]);
    CLUSTER_IPS.iter().for_each(|target| kept(&world, target));
    LOCAL_POLICY.iter().for_each(|target| pod_is_a_stranger(&world, target));
    // One family first.
    let with =
        |networks: &str| CLUSTER.replace("status: {addresses", &format!("spec: {{podCIDRs: [{networks}]}}\nstatus: {{addresses"));
    world.write(&with("10.244.0.0/24"));
    world.eventually("the outside is masqueraded", || is_masqueraded(&world, CLUSTER_IPS[0]));
    pod_is_known(&world, LOCAL_POLICY[0]);
    kept(&world, CLUSTER_IPS[1]);
    pod_is_a_stranger(&world, LOCAL_POLICY[1]);
    world.write(&with("10.244.0.0/24, \"fd00:244::/64\""));
    world.eventually("the outside is masqueraded", || is_masqueraded(&world, CLUSTER_IPS[1]));
    pods_are_known(&world);
    // Another network: no new table is needed, and the client is no pod any more.
    world.write(&with("10.244.9.0/24, \"fd00:244::/64\""));
    world.eventually("the client is masqueraded", || match source_at(&world, &world.client, CLUSTER_IPS[0]) {
        source if source == own(&world, CLUSTER_IPS[0]) => Ok(()),
        source => Err(format!("the server sees {source}")),
    });
    for family in ["IPv4", "IPv6"] {
        world.counted(&format!("waypost_nftables_rebuilds_total{{ip_family=\"{family}\"}} 2"));
    }
    Ok(())
}

fn bridge() -> Result<(), Failed> {
    // The client's own link plays the bridge.
    let world =
        with_link_named("bridge", "cni0").started(&["--detect-local-mode=BridgeInterface", "--pod-bridge-interface=cni0"]);
    pods_are_known(&world);
    listing_loads_again(&world)
}

fn prefix() -> Result<(), Failed> {
    let flags = ["--detect-local-mode=InterfaceNamePrefix", "--pod-interface-name-prefix=cali"];
    let world = with_link_named("prefix", "cali7f3a").started(&flags);
    pods_are_known(&world);
    listing_loads_again(&world)
}

/// A world whose client has a link of this name, which is the first that the lab makes.
fn with_link_named(name: &str, link: &str) -> World {
    let world = World::prepared(name, CLUSTER);
    world.run("ip", &["link", "set", "veth1", "name", link]);
    world
}

fn everything() -> Result<(), Failed> {
    let world = world("everything", &[PODS, "--masquerade-all=true"]);
    for target in CLUSTER_IPS {
        assert_eq!(source_at(&world, &world.client, target), own(&world, target), "{target}");
        assert_eq!(is_masqueraded(&world, target), Ok(()));
    }
    LOCAL_POLICY.iter().for_each(|target| pod_is_known(&world, target));
    listing_loads_again(&world)
}

fn mark() -> Result<(), Failed> {
    let world = world("mark", &[PODS, "--masquerade-bit=20"]);
    // Somebody else's mark on everything, and a look at what leaves.
    for family in ["ip", "ip6"] {
        world.run("nft", &["add", "table", family, "probe"]);
        world.run("nft", &["add", "chain", family, "probe", "early", "{ type filter hook prerouting priority -150; }"]);
        world.run("nft", &["add", "rule", family, "probe", "early", "meta mark set 0x8"]);
        world.run("nft", &["add", "chain", family, "probe", "late", "{ type filter hook postrouting priority 300; }"]);
        world.run("nft", &["add", "rule", family, "probe", "late", "meta mark & 0x8 == 0x8 counter comment \"kept\""]);
        world.run("nft", &["add", "rule", family, "probe", "late", "meta mark & 0x104000 != 0 counter comment \"left\""]);
    }
    for target in CLUSTER_IPS {
        assert_eq!(is_masqueraded(&world, target), Ok(()));
        assert_eq!(source_at(&world, &world.client, target), address_of_client(&world, target));
    }
    for family in ["ip", "ip6"] {
        let rules = world.run("nft", &["list", "chain", family, "waypost", "nat-postrouting"]);
        assert_eq!(rules.matches(" masquerade fully-random").count(), rules.matches(" masquerade").count(), "{rules}");
        let listing = world.run("nft", &["list", "chain", family, "probe", "late"]);
        let count = |comment: &str| {
            let line = listing.lines().find(|line| line.contains(comment)).unwrap_or_else(|| panic!("{listing}"));
            line.split("packets ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().parse::<u64>().unwrap()
        };
        assert!(count("kept") > 0 && count("left") == 0, "{listing}");
    }
    Ok(())
}

fn pods_are_known(world: &World) {
    for target in CLUSTER_IPS {
        assert_eq!(source_at(world, &world.client, target), address_of_client(world, target), "{target}");
        assert_eq!(is_masqueraded(world, target), Ok(()), "{target}");
        world.reached(world.node.namespace(), target);
    }
    LOCAL_POLICY.iter().for_each(|target| pod_is_known(world, target));
}

/// The outside reaches the Service with its own address.
fn kept(world: &World, target: &str) {
    let source = source_at(world, &world.outside, target);
    assert!(world.outside.addresses().contains(&source), "{target}: the server sees {source}");
}

/// Whether the outside is seen as the node.
fn is_masqueraded(world: &World, target: &str) -> Result<(), String> {
    let source = source_at(world, &world.outside, target);
    if source == own(world, target) { Ok(()) } else { Err(format!("{target}: the server sees {source}")) }
}

/// The client passes by the policy with its own address, the outside does not.
fn pod_is_known(world: &World, target: &str) {
    assert_eq!(source_at(world, &world.client, target), address_of_client(world, target), "{target}");
    assert_eq!(world.connect(&world.outside, target), Outcome::TimedOut, "{target}");
}

fn pod_is_a_stranger(world: &World, target: &str) {
    world.reached(world.node.namespace(), target);
    assert_eq!(world.connect(&world.client, target), Outcome::TimedOut, "{target}");
}

/// The node's address of the target's family.
fn own(world: &World, target: &str) -> IpAddr {
    *world.node.addresses().iter().find(|address| address.is_ipv4() == family_of(target)).unwrap()
}

fn address_of_client(world: &World, target: &str) -> IpAddr {
    *world.client.addresses().iter().find(|address| address.is_ipv4() == family_of(target)).unwrap()
}
