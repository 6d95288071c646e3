//! New connections of each destination as metrics.

use super::{CLUSTER, PODS, world};
use crate::world::World;
use libtest_mimic::{Failed, Trial};
use waypost::lab::Outcome;

pub fn tests() -> Vec<Trial> {
    vec![
        Trial::test("connections_are_counted_over_changes_restarts_and_other_layouts", counted),
        Trial::test("connections_are_counted_for_so_many_destinations_or_for_none", bounded),
    ]
}

fn counted() -> Result<(), Failed> {
    let flags = [PODS, "--connection-metrics=1000"];
    let mut world = world("counted", &flags);
    connect(&world, "10.96.0.1:80", 5);
    connect(&world, "[fd00:96::1]:80", 2);
    world.counted(&line("web", "10.96.0.1", 80, 5));
    world.counted(&line("web", "fd00:96::1", 80, 2));
    world.counted(&line("edge", "10.96.0.2", 80, 0));
    // One endpoint more: the element leads to another chain and is made anew.
    let more = CLUSTER.replace("endpoints: [{addresses: [10.244.0.3], nodeName: node-1}]", "endpoints: [{addresses: [10.244.0.3]}, {addresses: [10.244.0.3], nodeName: node-1}, {addresses: [10.244.0.2], conditions: {ready: true}}]");
    assert_ne!(more, CLUSTER);
    world.write(&more);
    world.eventually("it leads to two", || {
        let map = world.run("nft", &["list", "map", "ip", "waypost", "services"]);
        let line = map.lines().find(|line| line.contains("10.96.0.1 . tcp . 80 "));
        if line.is_some_and(|line| line.contains("pick-2")) { Ok(()) } else { Err(map) }
    });
    world.counted(&line("web", "10.96.0.1", 80, 5));
    world.write(CLUSTER);
    world.eventually("it leads to one", || {
        let map = world.run("nft", &["list", "map", "ip", "waypost", "services"]);
        if map.contains("pick-2") { Err(map) } else { Ok(()) }
    });
    connect(&world, "10.96.0.1:80", 1);
    world.counted(&line("web", "10.96.0.1", 80, 6));
    // While no agent is there the kernel counts on.
    end(&mut world);
    connect(&world, "10.96.0.1:80", 1);
    world.start(&flags, 10256);
    world.counted(&line("web", "10.96.0.1", 80, 7));
    end(&mut world);
    world.start(&[PODS, "--connection-metrics=1000", "--masquerade-bit=15"], 10256);
    connect(&world, "10.96.0.1:80", 1);
    world.counted(&line("web", "10.96.0.1", 80, 8));
    world.counted(&line("web", "fd00:96::1", 80, 2));
    Ok(())
}

fn bounded() -> Result<(), Failed> {
    let one = world("one", &[PODS, "--connection-metrics=1"]);
    let targets = ["10.96.0.1:80", "[fd00:96::1]:80", "198.51.100.1:80", "192.0.2.10:30080"];
    targets.iter().for_each(|target| connect(&one, target, 1));
    one.eventually("one is listed and the others are summed up", || {
        let page = one.page("/metrics", 10249)?;
        let listed: Vec<&str> = page.lines().filter(|line| line.starts_with("waypost_service_connections_total{")).collect();
        let counts = |line: &str| line.rsplit(' ').next().and_then(|count| count.parse::<u64>().ok());
        let others = page.lines().find(|line| line.starts_with("waypost_service_connections_other_total ")).and_then(counts);
        let sum = listed.iter().filter_map(|line| counts(line)).sum::<u64>() + others.unwrap_or_default();
        if listed.len() == 1 && sum == 4 { Ok(()) } else { Err(page) }
    });
    let none = world("none", &[PODS]);
    connect(&none, targets[0], 1);
    assert!(!none.page("/metrics", 10249)?.contains("waypost_service_connections"));
    Ok(())
}

fn line(service: &str, address: &str, port: u16, count: u64) -> String {
    format!(
        "waypost_service_connections_total{{address=\"{address}\",namespace=\"shop\",port=\"{port}\",protocol=\"tcp\",service=\"{service}\"}} {count}"
    )
}

/// So many connections, each of which succeeds.
fn connect(world: &World, target: &str, count: usize) {
    for _ in 0..count {
        match world.connect(&world.client, target) {
            Outcome::Reached { .. } => {}
            other => panic!("{target}: {other}"),
        }
    }
}

/// Ends the agent without a word.
fn end(world: &mut World) {
    for mut agent in world.agents.drain(..) {
        agent.kill().unwrap();
        agent.wait().unwrap();
    }
}
