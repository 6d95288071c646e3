//! What settings and annotations make of Services: the real program on a folder of manifests, with real packets.

mod asked;
#[path = "../begin/mod.rs"]
mod begin;
mod company;
mod conntrack;
mod counters;
mod established;
#[path = "../examples/mod.rs"]
mod examples;
mod external_ips;
#[path = "../load/mod.rs"]
mod load;
mod masquerade;
mod rolling;
mod sources;
mod takeover;
mod topology;
#[path = "../world/mod.rs"]
mod world;

use libtest_mimic::Failed;
use std::net::{IpAddr, SocketAddr};
use waypost::lab::{Namespace, Outcome};
use world::{CLUSTER, PODS, World};

fn main() {
    let arguments = begin::in_a_user_namespace();
    libtest_mimic::run(
        &arguments,
        [
            asked::tests(),
            masquerade::tests(),
            external_ips::tests(),
            conntrack::tests(),
            sources::tests(),
            counters::tests(),
            takeover::tests(),
            topology::tests(),
            rolling::tests(),
            company::tests(),
            established::tests(),
        ]
        .into_iter()
        .flatten()
        .collect(),
    )
    .exit();
}

fn world(name: &str, flags: &[&str]) -> World {
    World::prepared(name, CLUSTER).started(flags)
}

/// The address that the server sees, once it is reached.
fn source_at(world: &World, from: impl AsRef<Namespace>, target: &str) -> IpAddr {
    world.reached(&from, target);
    match world.connect(from, target) {
        Outcome::Reached { seen_source, .. } => seen_source.ip(),
        other => panic!("{target}: {other}\n{}", world.run("nft", &["list", "ruleset"])),
    }
}

/// What nft lists of the tables loads again and is then listed alike.
fn listing_loads_again(world: &World) -> Result<(), Failed> {
    let listing = world.run("nft", &["-s", "list", "ruleset"]);
    let elsewhere = Namespace::new()?;
    let file = std::env::temp_dir().join(format!("waypost-services-{}-{:p}", std::process::id(), &elsewhere));
    std::fs::write(&file, &listing)?;
    let nft = |arguments: &[&str]| elsewhere.output(std::process::Command::new("nft").args(arguments));
    let loaded = nft(&["-f", &file.display().to_string()])?;
    std::fs::remove_file(&file)?;
    assert!(loaded.status.success(), "{listing}\n{}", String::from_utf8_lossy(&loaded.stderr));
    let again = String::from_utf8_lossy(&nft(&["-s", "list", "ruleset"])?.stdout).into_owned();
    let sorted = |text: &str| {
        let mut words: Vec<String> = text.split([',', '{', '}', '\n']).map(|word| word.trim().to_string()).collect();
        words.sort_unstable();
        words
    };
    assert_eq!(sorted(&again), sorted(&listing));
    Ok(())
}

fn family_of(target: &str) -> bool {
    target.parse::<SocketAddr>().unwrap().is_ipv4()
}
