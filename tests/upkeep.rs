//! What the agent keeps up while others change the host under it: NodePorts on addresses that come and go, its tables, its DNS addresses.
//! The real program on a folder of manifests, with real packets.

mod begin;
mod world;

use libtest_mimic::{Failed, Trial};
use world::{CLUSTER, PODS, World};

fn main() {
    let arguments = begin::in_a_user_namespace();
    let tests = vec![
        Trial::test("node_ports_answer_on_the_primary_addresses_and_no_others", primary),
        Trial::test("node_ports_follow_the_addresses_of_the_node", all_addresses),
        Trial::test("node_ports_answer_in_the_given_networks_only", networks),
        Trial::test("node_ports_answer_on_localhost_in_both_families_and_only_there", localhost),
        Trial::test("a_localhost_port_that_is_taken_is_named_and_served_once_it_is_free", localhost_taken),
        Trial::test("a_flushed_ruleset_is_put_right", flushed),
        Trial::test("an_edited_element_and_an_edited_rule_are_put_right", edited),
        Trial::test("whatever_is_removed_or_edited_in_either_family_is_put_right_because_the_kernel_tells", told_by_the_kernel),
        Trial::test("what_was_edited_while_no_agent_ran_is_put_right_at_the_next_start", edited_meanwhile),
        Trial::test("a_program_that_works_on_its_own_tables_disturbs_nobody", own_tables),
        Trial::test("two_agents_on_one_node_do_not_undo_each_others_work", two_agents),
        Trial::test("a_dns_address_that_was_removed_is_there_again", dns_address),
        Trial::test("dns_addresses_are_there_again_after_their_link_was_down", dns_link),
    ];
    libtest_mimic::run(&arguments, tests).exit();
}

fn primary() -> Result<(), Failed> {
    let world = standard("primary", &[]);
    world.reached(&world.outside, "192.0.2.10:30080");
    world.reached(&world.outside, "[2001:db8::10]:30080");
    add_address(&world, "192.0.2.99");
    world.refused(&world.outside, "192.0.2.99:30080");
    Ok(())
}

fn all_addresses() -> Result<(), Failed> {
    let world = standard("all", &["--nodeport-addresses=all"]);
    world.reached(&world.outside, "192.0.2.10:30080");
    world.refused(world.node.namespace(), "127.0.0.1:30080");
    for (address, target) in [("192.0.2.99", "192.0.2.99:30080"), ("2001:db8::99", "[2001:db8::99]:30080")] {
        add_address(&world, address);
        world.reached(&world.outside, target);
        world.run("ip", &["address", "delete", &full(address), "dev", "lo"]);
        world.eventually("the address is gone from the table", || {
            let table = world.run("nft", &["list", "ruleset"]);
            if table.contains(address) { Err(table) } else { Ok(()) }
        });
    }
    Ok(())
}

fn networks() -> Result<(), Failed> {
    let world = standard("networks", &["--nodeport-addresses=198.51.100.0/24"]);
    add_address(&world, "198.51.100.9");
    world.reached(&world.outside, "198.51.100.9:30080");
    world.refused(&world.outside, "192.0.2.10:30080");
    Ok(())
}

fn localhost() -> Result<(), Failed> {
    let world = standard("localhost", &["--nodeport-addresses=localhost"]);
    world.reached(world.node.namespace(), "127.0.0.1:30080");
    world.reached(world.node.namespace(), "[::1]:30080");
    world.refused(&world.outside, "192.0.2.10:30080");
    let both = standard("localhost-too", &["--nodeport-addresses=primary,localhost"]);
    both.reached(both.node.namespace(), "127.0.0.1:30080");
    both.reached(&both.outside, "192.0.2.10:30080");
    Ok(())
}

fn localhost_taken() -> Result<(), Failed> {
    let world = World::prepared("localhost-taken", CLUSTER);
    let holder = world.node.namespace().tcp_listener("127.0.0.1:30080".parse().unwrap()).unwrap();
    let world = world.started(&[PODS, "--nodeport-addresses=localhost"]);
    world.await_log(&["LocalhostNodePortTaken", "shop/web", "127.0.0.1:30080", "upkeep"]);
    drop(holder);
    world.reached(world.node.namespace(), "127.0.0.1:30080");
    Ok(())
}

fn flushed() -> Result<(), Failed> {
    let world = standard("flushed", &[]);
    world.reached(&world.client, "10.96.0.1:80");
    world.run("nft", &["flush", "ruleset"]);
    world.await_log(&["TableRepaired", "table ip waypost", "by nft"]);
    world.await_log(&["TableRepaired", "table ip6 waypost"]);
    world.reached(&world.client, "10.96.0.1:80");
    world.reached(&world.client, "[fd00:96::1]:80");
    world.counted("waypost_nftables_repairs_total{ip_family=\"IPv4\"} 1");
    // One family alone.
    world.run("nft", &["delete", "table", "ip6", "waypost"]);
    world.counted("waypost_nftables_repairs_total{ip_family=\"IPv6\"} 2");
    world.reached(&world.client, "[fd00:96::1]:80");
    world.counted("waypost_nftables_repairs_total{ip_family=\"IPv4\"} 1");
    Ok(())
}

fn edited() -> Result<(), Failed> {
    let world = standard("edited", &[]);
    // A rule in the place of another, before anything else: neither a name nor a number tells, and the agent has not looked at the table since it made it.
    let chain = world.run("nft", &["--handle", "list", "chain", "ip", "waypost", "nat-prerouting"]);
    let handle =
        chain.lines().find_map(|line| line.split("goto balance # handle ").nth(1)).expect("the rule is there").to_string();
    world.run("nft", &["replace", "rule", "ip", "waypost", "nat-prerouting", "handle", &handle, "counter"]);
    world.counted("waypost_nftables_repairs_total{ip_family=\"IPv4\"} 1");
    world.reached(&world.client, "10.96.0.1:80");
    world.run("nft", &["delete", "element", "ip", "waypost", "services", "{ 10.96.0.1 . tcp . 80 }"]);
    world.counted("waypost_nftables_repairs_total{ip_family=\"IPv4\"} 2");
    world.reached(&world.client, "10.96.0.1:80");
    world.run("nft", &["add", "element", "ip", "waypost", "cluster-ips", "{ 10.96.0.77 }"]);
    world.counted("waypost_nftables_repairs_total{ip_family=\"IPv4\"} 3");
    assert!(!world.run("nft", &["list", "ruleset"]).contains("10.96.0.77"));
    world.run("nft", &["chain", "ip", "waypost", "filter-forward", "{ policy drop; }"]);
    world.counted("waypost_nftables_repairs_total{ip_family=\"IPv4\"} 4");
    world.run("nft", &["add", "table", "ip", "waypost", "{ flags dormant; }"]);
    world.counted("waypost_nftables_repairs_total{ip_family=\"IPv4\"} 5");
    world.reached(&world.client, "10.96.0.1:80");
    Ok(())
}

/// Only repairs of which the kernel's notice came first have a duration; the comparison without any comes after five minutes, long after this test.
fn told_by_the_kernel() -> Result<(), Failed> {
    let world = standard("told", &[]);
    type Edit<'a> = (&'a str, &'a dyn Fn(&[&str]) -> Vec<String>);
    for (family, label, web, unknown) in [("ip", "IPv4", "10.96.0.1", "10.96.0.77"), ("ip6", "IPv6", "fd00:96::1", "fd00:96::77")]
    {
        let target = if family == "ip" { format!("{web}:80") } else { format!("[{web}]:80") };
        let nft = |words: &[&str]| vec![words.join(" ")];
        let edits: [Edit<'_>; 8] = [
            ("the rules are flushed", &|table| nft(&[&["flush", "table"], table].concat())),
            ("the table is deleted", &|table| nft(&[&["delete", "table"], table].concat())),
            ("a map is flushed", &|table| nft(&[&["flush", "map"], table, &["endpoints"]].concat())),
            ("an element is deleted", &|table| {
                nft(&[&["delete", "element"], table, &["services {", web, ". tcp . 80 }"]].concat())
            }),
            ("an element leads elsewhere", &|table| {
                let element = |verb: &str, to: &str| {
                    [&[verb, "element"], table, &["services {", web, ". tcp . 80", to, "}"]].concat().join(" ")
                };
                vec![element("delete", ""), element("add", ": goto refuse")]
            }),
            ("an element is added", &|table| nft(&[&["add", "element"], table, &["cluster-ips {", unknown, "}"]].concat())),
            ("a rule is deleted", &|table| {
                let listed = world.run("nft", &[&["--handle", "list", "chain"], table, &["nat-output"]].concat());
                let handle =
                    listed.lines().find_map(|line| line.split("goto balance # handle ").nth(1)).expect("the rule is there");
                nft(&[&["delete", "rule"], table, &["nat-output", "handle", handle]].concat())
            }),
            ("a rule is added", &|table| nft(&[&["insert", "rule"], table, &["guard", "drop"]].concat())),
        ];
        for ((what, edit), number) in edits.into_iter().zip(1..) {
            world.run("nft", &[&edit(&[family, "waypost"]).join("; ")]);
            world.counted(&format!("waypost_nftables_repairs_total{{ip_family=\"{label}\"}} {number}"));
            world.counted(&format!("waypost_nftables_repair_duration_seconds_count{{ip_family=\"{label}\"}} {number}"));
            println!("    {family}: {what}, and it was put right");
            world.reached(&world.client, &target);
            world.reached(world.node.namespace(), &target);
        }
        let page = world.page("/metrics", 10249)?;
        let of = |line: &&str| line.starts_with("waypost_nftables_repair_duration_seconds_sum") && line.contains(label);
        println!("    {}", page.lines().find(of).unwrap_or_default());
    }
    Ok(())
}

/// None of these changes the number of rules, chains or elements.
fn edited_meanwhile() -> Result<(), Failed> {
    let mut world = standard("edited-meanwhile", &[]);
    let handle = |world: &World, chain: &str| {
        let listed = world.run("nft", &["--handle", "list", "chain", "ip", "waypost", chain]);
        let handle = listed.lines().rev().find_map(|line| line.split(" # handle ").nth(1));
        handle.expect("there is a rule").to_string()
    };
    let replace = |world: &World, chain: &str, rule: &[&str]| {
        let handle = handle(world, chain);
        world.run("nft", &[&["replace", "rule", "ip", "waypost", chain, "handle", &handle], rule].concat());
    };
    type Edit<'a> = &'a dyn Fn(&World);
    let edits: [(&str, Edit<'_>); 5] = [
        ("nat-prerouting", &|world| replace(world, "nat-prerouting", &["counter"])),
        ("pick-1", &|world| replace(world, "pick-1", &["ip", "saddr", "10.244.0.2", "drop"])),
        ("nat-postrouting", &|world| replace(world, "nat-postrouting", &["masquerade"])),
        ("filter-forward", &|world| {
            world.run("nft", &["delete", "chain", "ip", "waypost", "filter-forward"]);
            let base = "{ type filter hook forward priority 10; }";
            world.run("nft", &["add", "chain", "ip", "waypost", "filter-forward", base]);
            world.run("nft", &["add", "rule", "ip", "waypost", "filter-forward", "ct", "state", "new", "goto", "refusals"]);
        }),
        ("filter-output", &|world| drop(world.run("nft", &["chain", "ip", "waypost", "filter-output", "{ policy drop; }"]))),
    ];
    for (chain, edit) in edits {
        stop(&mut world)?;
        edit(&world);
        world.start(&[PODS], 10256);
        world.await_log(&["made the table anew", "family=IPv4", chain]);
        world.counted("waypost_nftables_repairs_total{ip_family=\"IPv4\"} 1");
        world.reached(&world.client, "10.96.0.1:80");
    }
    assert_eq!(world.log().matches("TableRepaired").count(), edits.len(), "{}", world.log());
    // What nobody has touched is left alone.
    stop(&mut world)?;
    let before = world.log().matches("made the table anew").count();
    world.start(&[PODS], 10256);
    assert_eq!(world.log().matches("made the table anew").count(), before, "{}", world.log());
    Ok(())
}

fn stop(world: &mut World) -> Result<(), Failed> {
    for mut agent in world.agents.drain(..) {
        agent.kill()?;
        agent.wait()?;
    }
    Ok(())
}

fn own_tables() -> Result<(), Failed> {
    let world = standard("own-tables", &[]);
    for number in 0..50 {
        world.run("nft", &["add", "table", "ip", &format!("theirs-{number}")]);
    }
    // A disturbance after them is noticed, and they were none.
    world.run("nft", &["flush", "chain", "ip", "waypost", "guard"]);
    world.counted("waypost_nftables_repairs_total{ip_family=\"IPv4\"} 1");
    assert_eq!(world.log().matches("TableRepaired").count(), 1, "{}", world.log());
    Ok(())
}

/// As while one agent takes over from another.
fn two_agents() -> Result<(), Failed> {
    let mut world = standard("two-agents", &[]);
    world.start(&[PODS, "--healthz-bind-address=127.0.0.1:10266", "--metrics-bind-address=127.0.0.1:10269"], 10266);
    for number in 10..40 {
        let address = format!("198.51.100.{number}");
        let more = CLUSTER.replace("externalIPs: [", &format!("externalIPs: [{address}, "));
        assert!(more.contains(&address));
        world.write(&more);
        world.eventually("it is in the table", || {
            let table = world.run("nft", &["list", "map", "ip", "waypost", "services"]);
            if table.contains(&address) { Ok(()) } else { Err(table) }
        });
    }
    world.reached(&world.client, "198.51.100.39:80");
    assert!(!world.log().contains("TableRepaired"), "{}", world.log());
    Ok(())
}

fn dns_address() -> Result<(), Failed> {
    let world = standard("dns-address", &["--dns-address=169.254.20.10,fd00:96::a", "--dns-upstream=192.0.2.53"]);
    for address in ["169.254.20.10", "fd00:96::a"] {
        world.eventually("the address is there", || has(&world, address));
        world.run("ip", &["address", "delete", &full(address), "dev", "lo"]);
        world.await_log(&["DnsAddressRepaired", address]);
        world.eventually("the address is there again", || has(&world, address));
    }
    world.counted("waypost_dns_address_repairs_total 2");
    let dig = world.run("dig", &["@169.254.20.10", "+short", "+tries=1", "web.shop.svc.cluster.local"]);
    assert_eq!(dig.trim(), "10.96.0.1");
    Ok(())
}

/// The kernel takes the IPv6 addresses of a link that goes down.
fn dns_link() -> Result<(), Failed> {
    let world = standard("dns-link", &["--dns-address=169.254.20.10,fd00:96::a", "--dns-upstream=192.0.2.53"]);
    let addresses = ["169.254.20.10", "fd00:96::a"];
    addresses.into_iter().for_each(|address| world.eventually("the address is there", || has(&world, address)));
    world.run("ip", &["link", "set", "lo", "down"]);
    world.run("ip", &["link", "set", "lo", "up"]);
    world.await_log(&["DnsAddressRepaired", "fd00:96::a"]);
    for address in addresses {
        world.eventually("the address is there", || has(&world, address));
        let server = format!("@{address}");
        let dig = || world.run("dig", &[&server, "+short", "+tries=1", "web.shop.svc.cluster.local"]);
        world.eventually("it is answered on", || match dig() {
            answer if answer.trim() == "10.96.0.1" => Ok(()),
            other => Err(other),
        });
    }
    Ok(())
}

/// A world of this cluster.
fn standard(name: &str, flags: &[&str]) -> World {
    World::prepared(name, CLUSTER).started(&[&[PODS], flags].concat())
}

/// Gives the node an address, to which the host outside has a route already.
fn add_address(world: &World, address: &str) {
    world.node.add_address(address.parse().unwrap()).unwrap();
}

fn has(world: &World, address: &str) -> Result<(), String> {
    let listed = world.run("ip", &["-o", "address", "show", "dev", "lo"]);
    if listed.contains(&format!(" {} ", full(address))) { Ok(()) } else { Err(listed) }
}

fn full(address: &str) -> String {
    format!("{address}/{}", if address.contains(':') { 128 } else { 32 })
}
