//! A Corefile that is broken when an agent of a node starts.

use super::world::{AGENT_TTL, Agent, FALLBACK_TTL, World};
use libtest_mimic::{Failed, Trial};

const GOOD: &str = ". {\n    kubernetes cluster.local {\n        ttl 30\n    }\n    reload 2s\n}\n";
const BROKEN: &str = ". {\n    kubernetes cluster.local\n    dnstap /run/tap\n}\n";
const COMPLAINT: &str = "Corefile:3: the plugin dnstap is not there";

pub fn tests() -> Vec<Trial> {
    vec![Trial::test(
        "a_corefile_that_is_broken_at_the_start_costs_no_service_and_is_obeyed_once_it_is_mended",
        broken_at_the_start,
    )]
}

fn broken_at_the_start() -> Result<(), Failed> {
    let world = World::new("corefile");
    let _server = Agent::behind_kube_dns(&world);
    let corefile = world.folder.sockets().join("Corefile");
    let flags =
        [format!("--corefile={}", corefile.display()), format!("--state-dir={}", world.folder.sockets().join("state").display())];
    let start = || Agent::on_node(&world, &[&flags[0], &flags[1]]);
    std::fs::write(&corefile, BROKEN)?;
    let mut agent = start();
    agent.says(COMPLAINT);
    agent.says("ready: all that was listed is in place");
    // `kube-dns` is a service as well: that it answers shows that services are programmed.
    world.answered_with(FALLBACK_TTL);
    std::fs::write(&corefile, GOOD)?;
    agent.says("this node answers its own DNS questions");
    world.answered_with(AGENT_TTL);
    agent.end("-TERM");

    // As after a reboot, with an edit that nobody has tried.
    std::fs::write(&corefile, BROKEN)?;
    let agent = start();
    agent.says(COMPLAINT);
    agent.says("DNS does what it was told last");
    agent.says("this node answers its own DNS questions");
    world.answered_with(AGENT_TTL);
    Ok(())
}
