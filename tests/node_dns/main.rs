//! DNS on the node and its dead man's switch, with the real program: agents on the node, and a server behind `kube-dns`.

mod after_commit;
mod asked;
#[path = "../begin/mod.rs"]
mod begin;
mod connections;
mod corefile;
mod fragments;
mod handover;
mod kills;
mod load;
mod log;
mod refusals;
mod resolvers;
mod tracked;
mod watchdog;
mod world;

use libtest_mimic::{Failed, Trial};
use std::process::Command;
use world::{AGENT_TTL, Agent, FALLBACK_TTL, World};

fn main() {
    let arguments = begin::in_a_user_namespace();
    if let Err(error) = resolvers::configure_this_host() {
        eprintln!("{error}");
        std::process::exit(1);
    }
    let mut tests = vec![
        Trial::test("a_killed_agent_leaves_the_node_with_dns_and_comes_home", a_killed_agent_leaves_the_node_with_dns),
        Trial::test("a_stopped_agent_leaves_the_node_with_dns_and_cleanup_takes_everything_away", stop_and_clean_up),
    ];
    tests.extend(connections::tests());
    tests.extend(corefile::tests());
    tests.extend(fragments::tests());
    tests.extend(refusals::tests());
    tests.extend(handover::tests());
    tests.extend(kills::tests());
    tests.extend(log::tests());
    tests.extend(asked::tests());
    tests.extend(after_commit::tests());
    tests.extend(resolvers::tests());
    tests.extend(tracked::tests());
    tests.extend(watchdog::tests());
    libtest_mimic::run(&arguments, tests).exit();
}

fn a_killed_agent_leaves_the_node_with_dns() -> Result<(), Failed> {
    let world = World::new("killed");
    let _server = Agent::behind_kube_dns(&world);
    let mut agent = Agent::at_home(&world);
    world.answered_with(AGENT_TTL);
    agent.end("-KILL");
    world.answered_with(FALLBACK_TTL);
    let _agent = Agent::at_home(&world);
    world.answered_with(AGENT_TTL);
    Ok(())
}

fn stop_and_clean_up() -> Result<(), Failed> {
    let world = World::new("stopped");
    let _server = Agent::behind_kube_dns(&world);
    let mut agent = Agent::at_home(&world);
    let clean_up = || world.node.namespace().output(Command::new(env!("CARGO_BIN_EXE_waypost")).arg("cleanup"));
    let is_refused = || -> Result<(), Failed> {
        let refused = clean_up()?;
        assert!(
            !refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("an agent runs here"),
            "{refused:?}"
        );
        Ok(())
    };
    is_refused()?;
    world.answered_with(AGENT_TTL);
    agent.end("-TERM");
    world.answered_with(FALLBACK_TTL);
    // One without DNS, and without a place to hand over.
    let mut without_dns = Agent::on_node(&world, &["--role=proxy"]);
    without_dns.says("ready");
    is_refused()?;
    without_dns.end("-KILL");
    let output = clean_up()?;
    assert!(output.status.success(), "{output:?}");
    let left = world.node.namespace().output(Command::new("nft").args(["list", "tables"]))?;
    assert_eq!(String::from_utf8_lossy(&left.stdout), "", "no table is left");
    let addresses = world.node.namespace().output(Command::new("ip").args(["-o", "address", "show", "lo"]))?;
    let addresses = String::from_utf8_lossy(&addresses.stdout).into_owned();
    assert!(
        addresses.contains("192.0.2.10") && !addresses.contains("10.96.0.10") && !addresses.contains("169.254"),
        "{addresses}"
    );
    Ok(())
}
