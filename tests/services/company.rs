//! Others have rules at the same hooks, at our priorities and around them: their traffic and ours both go where they should.

use super::{CLUSTER, PODS};
use crate::world::World;
use libtest_mimic::{Failed, Trial};
use waypost::lab::Outcome;

/// Traffic of its own that it translates, or drops, before us, at our very priorities, and after us; and what it would do with ours, if it came to that.
const THEIRS: &str = "
add table inet theirs
add chain inet theirs drop-before { type filter hook prerouting priority -115; }
add chain inet theirs drop-beside { type filter hook prerouting priority -110; }
add chain inet theirs nat-before { type nat hook prerouting priority -105; }
add chain inet theirs nat-beside { type nat hook prerouting priority -101; }
add chain inet theirs nat-after { type nat hook prerouting priority -100; }
add chain inet theirs drop-after { type filter hook forward priority 1; }
add chain inet theirs nat-out { type nat hook postrouting priority 100; }
add rule inet theirs drop-before tcp dport 4441 drop
add rule inet theirs drop-beside tcp dport 4442 drop
add rule inet theirs drop-after tcp dport 4443 drop
add rule inet theirs nat-before ip daddr 203.0.114.1 tcp dport 80 dnat ip to 10.244.0.3:8080
add rule inet theirs nat-before ip6 daddr 2001:db8:f::1 tcp dport 80 dnat ip6 to [fd00:244::3]:8080
add rule inet theirs nat-beside ip daddr 203.0.114.2 tcp dport 80 dnat ip to 10.244.0.3:8080
add rule inet theirs nat-beside ip6 daddr 2001:db8:f::2 tcp dport 80 dnat ip6 to [fd00:244::3]:8080
add rule inet theirs nat-after ip daddr 203.0.114.3 tcp dport 80 dnat ip to 10.244.0.3:8080
add rule inet theirs nat-after ip6 daddr 2001:db8:f::3 tcp dport 80 dnat ip6 to [fd00:244::3]:8080
add rule inet theirs nat-after ip daddr 10.96.0.1 tcp dport 80 dnat ip to 10.244.0.99:1
add rule inet theirs nat-after ip6 daddr fd00:96::1 tcp dport 80 dnat ip6 to [fd00:244::99]:1
add rule inet theirs nat-out oifname dummy9 masquerade
";

const INSIDE: [&str; 8] = [
    "10.96.0.1:80",
    "[fd00:96::1]:80",
    "203.0.114.1:80",
    "203.0.114.2:80",
    "203.0.114.3:80",
    "[2001:db8:f::1]:80",
    "[2001:db8:f::2]:80",
    "[2001:db8:f::3]:80",
];
const OUTSIDE: [&str; 4] = ["192.0.2.10:30080", "[2001:db8::10]:30080", "198.51.100.1:80", "[2001:db8:1::1]:80"];

pub fn tests() -> Vec<Trial> {
    vec![
        Trial::test("beside_a_table_that_was_there_before_at_the_same_priorities_both_work", || beside(true)),
        Trial::test("beside_a_table_that_comes_later_at_the_same_priorities_both_work", || beside(false)),
    ]
}

fn beside(they_are_first: bool) -> Result<(), Failed> {
    let mut world = World::prepared(if they_are_first { "company-first" } else { "company-later" }, CLUSTER);
    let load = |world: &World| {
        let file = std::env::temp_dir().join(format!("waypost-company-{}-{they_are_first}", std::process::id()));
        std::fs::write(&file, THEIRS).unwrap();
        world.run("nft", &["-f", &file.display().to_string()]);
        std::fs::remove_file(&file).unwrap();
        world.run("nft", &["list", "table", "inet", "theirs"])
    };
    let before = they_are_first.then(|| load(&world));
    world.start(&[PODS], 10256);
    let theirs = before.unwrap_or_else(|| load(&world));
    INSIDE.iter().for_each(|target| world.reached(&world.client, target));
    OUTSIDE.iter().for_each(|target| world.reached(&world.outside, target));
    // 8080 answers there; to these ports it is refused without them.
    for port in [4441, 4442, 4443] {
        let outcome = world.connect(&world.client, &format!("10.244.0.3:{port}"));
        assert_eq!(outcome, Outcome::TimedOut, "they drop {port}");
    }
    if they_are_first {
        for chain in ["nat-before (priority -105)", "nat-beside (priority -101)"] {
            world.await_log(&["ForeignTranslation", "inet theirs", chain]);
        }
        assert!(!world.log().contains("nat-after"), "what comes after us is no concern: {}", world.log());
    }
    // A change of ours leaves theirs alone, and an agent that starts again does.
    world.write(&CLUSTER.replace("198.51.100.1,", "198.51.100.1, 198.51.100.9,"));
    world.reached(&world.outside, "198.51.100.9:80");
    for mut agent in world.agents.drain(..) {
        agent.kill()?;
        agent.wait()?;
    }
    world.start(&[PODS], 10256);
    INSIDE.iter().for_each(|target| world.reached(&world.client, target));
    assert_eq!(world.run("nft", &["list", "table", "inet", "theirs"]), theirs);
    assert!(!world.log().contains("TableRepaired") && !world.log().contains("KernelRefused"), "{}", world.log());
    Ok(())
}
