//! What the agent finds at its first start: a table of another layout, or kube-proxy's leftovers.

use super::{PODS, world};
use crate::load::Load;
use crate::world::World;
use libtest_mimic::{Failed, Trial};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;
use waypost::lab::Outcome;

const TARGETS: [&str; 2] = ["10.96.0.1:80", "[fd00:96::1]:80"];
const PATIENCE: Duration = Duration::from_secs(10);

/// As kube-proxy's nftables mode would send the connections elsewhere: to a host that is not there any more.
const NFTABLES: &str = "
add table ip kube-proxy
add chain ip kube-proxy nat-prerouting { type nat hook prerouting priority dstnat; }
add rule ip kube-proxy nat-prerouting ip daddr 10.96.0.1 tcp dport 80 dnat to 10.244.0.99:8080
";

const IPTABLES: &str = "*nat
:KUBE-SERVICES - [0:0]
:KUBE-SVC-ERIFXISQEP7F7OF4 - [0:0]
-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp --dport 80 -j KUBE-SVC-ERIFXISQEP7F7OF4
-A KUBE-SVC-ERIFXISQEP7F7OF4 -p tcp -j DNAT --to-destination 10.244.0.99:8080
COMMIT
";

pub fn tests() -> Vec<Trial> {
    vec![
        Trial::test("a_table_of_another_layout_is_replaced_without_losing_a_connection", layouts),
        Trial::test("beside_kube_proxys_nftables_rules_services_work_and_they_are_removed_on_demand", beside_nftables),
        Trial::test("beside_kube_proxys_iptables_rules_services_work_and_they_are_removed_on_demand", beside_iptables),
    ]
}

/// The agents differ in what shapes the rules, as two versions do. Clients connect without a pause, and one connection is open all the time.
fn layouts() -> Result<(), Failed> {
    let mut world = world("layouts", &[PODS]);
    let open: Vec<TcpStream> = TARGETS.iter().map(|target| world.client.namespace().run(|| open(target)).unwrap()).collect();
    let load = Load::start(&[(world.client.namespace(), &TARGETS[..1]), (world.client.namespace(), &TARGETS[1..])]);
    for (number, bit) in [20, 21, 22, 23, 14].into_iter().enumerate() {
        for mut agent in world.agents.drain(..) {
            agent.kill()?;
            agent.wait()?;
        }
        let before = load.attempts();
        world.start(&[PODS, &format!("--masquerade-bit={bit}")], 10256);
        world.eventually("clients have connected meanwhile", || match load.attempts() {
            more if more > before => Ok(()),
            _ => Err("nobody has".into()),
        });
        let rebuilt = world.log().matches("made the table anew").count();
        assert_eq!(rebuilt, 2 * (number + 2), "each layout brings a table in each family\n{}", world.log());
    }
    load.end().assert_nothing_lost();
    for mut stream in open {
        stream.write_all(b"still there?")?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer)?;
        assert_eq!(&answer, b"still there?");
    }
    Ok(())
}

/// An open connection, whose server has said its line and repeats what it hears.
fn open(target: &str) -> TcpStream {
    let address: SocketAddr = target.parse().unwrap();
    let stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line).unwrap();
    assert!(line.starts_with("server "), "{line}");
    stream
}

fn beside_nftables() -> Result<(), Failed> {
    beside("beside-nftables", "nft", &["-f"], NFTABLES, "kube-proxy")
}

fn beside_iptables() -> Result<(), Failed> {
    beside("beside-iptables", "iptables-nft-restore", &[], IPTABLES, "KUBE-SERVICES")
}

/// kube-proxy's rules are there first, and lead nowhere.
fn beside(name: &str, program: &str, arguments: &[&str], rules: &str, trace: &str) -> Result<(), Failed> {
    let world = World::prepared(name, super::CLUSTER);
    let file = std::env::temp_dir().join(format!("waypost-{name}-{}", std::process::id()));
    std::fs::write(&file, rules)?;
    world.run(program, &[arguments, &[&file.display().to_string()]].concat());
    std::fs::remove_file(&file)?;
    let reached = |world: &World, when: &str| match world.connect(&world.client, TARGETS[0]) {
        Outcome::Reached { by, .. } => assert_eq!(by, "server", "{when}"),
        other => panic!("{when}: {other}\n{}", world.run("nft", &["list", "ruleset"])),
    };
    assert!(!matches!(world.connect(&world.client, TARGETS[0]), Outcome::Reached { .. }), "the leftovers lead nowhere");
    let world = world.started(&[PODS]);
    reached(&world, "beside the leftovers");
    world.await_log(&["KubeProxyFound"]);
    let mut cleanup = Command::new(env!("CARGO_BIN_EXE_waypost"));
    let removed = world.node.namespace().output(cleanup.args(["cleanup", "--kube-proxy"]))?;
    assert!(removed.status.success(), "{removed:?}");
    let ruleset = world.run("nft", &["list", "ruleset"]);
    assert!(!ruleset.contains(trace) && ruleset.contains("table ip waypost"), "{ruleset}");
    reached(&world, "after the clean-up");
    Ok(())
}
