//! With tracked questions (`--dns-untracked=false`): the switch does the same, and who judges by connection tracking sees connections.

use crate::world::{ADDRESSES, AGENT_TTL, Agent, FALLBACK_TTL, PATIENCE, World, ask_from_within, server};
use libtest_mimic::{Failed, Trial};
use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};
use waypost::nft::{DnsSwitch, Tracking, knows_zones};

/// What refuses packets that are not tracked, and connections that nobody began, as firewalls do.
const FIREWALL: &str = "
table inet firewall {
    chain input {
        type filter hook input priority 10; policy accept;
        udp dport 53 ct state untracked drop
        tcp dport 53 ct state { untracked, invalid } drop
    }
}
";

/// What the agent's table does for the cluster's DNS service.
const SERVICE: &str = "
table ip service {
    chain prerouting {
        type nat hook prerouting priority dstnat - 1; policy accept;
        ip daddr 10.96.0.10 udp dport 53 dnat to 10.244.0.20:5353
    }
}
";

pub fn tests() -> Vec<Trial> {
    vec![
        Trial::test("tracked_questions_pass_a_firewall_that_wants_connections_and_follow_the_agent", follow_the_agent),
        Trial::test("tracked_questions_are_answered_where_no_server_is_behind_kube_dns", nobody_behind),
        Trial::test("tracked_questions_of_kept_sockets_are_answered_by_whoever_is_there", || kept_sockets("socket", tracked)),
        Trial::test("untracked_questions_of_kept_sockets_are_answered_by_whoever_is_there", || {
            kept_sockets("kept", Agent::at_home)
        }),
        Trial::test(
            "without_conntrack_zones_tracked_questions_come_here_and_one_sockets_stay_until_its_flow_lapses",
            without_zones,
        ),
    ]
}

fn tracked(world: &World) -> Agent {
    let agent = Agent::on_node(world, &["--dns-ttl=30", "--dns-untracked=false"]);
    agent.says("this node answers its own DNS questions");
    agent
}

fn nft(world: &World, ruleset: &str) -> Result<(), Failed> {
    let path = world.folder.sockets().join("firewall.nft");
    std::fs::write(&path, ruleset)?;
    let output = world.node.namespace().output(Command::new("nft").arg("-f").arg(path))?;
    assert!(output.status.success(), "{output:?}");
    Ok(())
}

fn follow_the_agent() -> Result<(), Failed> {
    let world = World::new("tracked");
    let _server = Agent::behind_kube_dns(&world);
    let mut agent = tracked(&world);
    nft(&world, FIREWALL)?;
    world.answered_with(AGENT_TTL);
    let flows = world.node.namespace().output(Command::new("conntrack").args(["-L", "-p", "udp"]))?;
    let flows = String::from_utf8_lossy(&flows.stdout).into_owned();
    for address in ["10.96.0.10", "169.254.20.10"] {
        let of_client = format!("src=10.244.0.2 dst={address}");
        let back = format!("src={address} dst=10.244.0.2");
        assert!(
            flows.lines().any(|line| [&of_client, &back, "zone=30564"].into_iter().all(|part| line.contains(part))),
            "{address}, tracked in the zone of its own and not translated:\n{flows}"
        );
    }
    agent.end("-KILL");
    world.answered_with(FALLBACK_TTL);
    let mut agent = tracked(&world);
    world.answered_with(AGENT_TTL);
    agent.signal("-STOP");
    world.soon_answered_with(FALLBACK_TTL);
    agent.signal("-CONT");
    world.soon_answered_with(AGENT_TTL);
    agent.end("-TERM");
    world.answered_with(FALLBACK_TTL);
    Ok(())
}

fn nobody_behind() -> Result<(), Failed> {
    let world = World::new("alone");
    // Slices of the same names, without endpoints.
    let text = std::fs::read_to_string(world.folder.objects().join("cluster.yaml"))?;
    let alone = text.replace("endpoints: [{addresses: [10.244.0.20]}]", "endpoints: []");
    let alone = alone.replace("endpoints: [{addresses: [\"fd00:244::20\"]}]", "endpoints: []");
    assert_ne!(text, alone);
    world.folder.replace("cluster.yaml", &alone);
    let _agent = tracked(&world);
    world.answered_with(AGENT_TTL);
    Ok(())
}

/// Connected sockets, in a pod and in the node's own namespace, to every address: all their questions are of one flow each.
fn kept_sockets(name: &str, start: fn(&World) -> Agent) -> Result<(), Failed> {
    let world = World::new(name);
    let _server = Agent::behind_kube_dns(&world);
    let mut agent = start(&world);
    let mut sockets: Vec<(String, UdpSocket)> = Vec::new();
    for (place, client) in [("a pod", world.client.namespace()), ("the node", world.node.namespace())] {
        for address in ADDRESSES {
            let any: SocketAddr = if address.contains(':') { "[::]:0".parse()? } else { "0.0.0.0:0".parse()? };
            let socket = client.run(move || -> std::io::Result<UdpSocket> {
                let socket = UdpSocket::bind(any)?;
                socket.connect(server(address))?;
                Ok(socket)
            })??;
            sockets.push((format!("{address} from {place}"), socket));
        }
    }
    let all_answered_with = |ttl: u32| {
        for (way, socket) in &sockets {
            let began = Instant::now();
            loop {
                // A refusal that is late, or an answer from before, is no end.
                match ask_from_within(socket, Duration::from_millis(500)) {
                    Ok(answered) if answered == ttl => break,
                    other => assert!(began.elapsed() < PATIENCE, "{way}: not {ttl} but {other:?}"),
                }
            }
        }
    };
    all_answered_with(AGENT_TTL);
    for signal in ["-TERM", "-KILL"] {
        agent.end(signal);
        all_answered_with(FALLBACK_TTL);
        agent = start(&world);
        all_answered_with(AGENT_TTL);
    }
    agent.signal("-STOP");
    all_answered_with(FALLBACK_TTL);
    agent.signal("-CONT");
    all_answered_with(AGENT_TTL);
    Ok(())
}

/// What is left on a kernel without them. Kernels that have them show it as well, when they are not told of a zone.
fn without_zones() -> Result<(), Failed> {
    let world = World::new("zoneless");
    assert!(world.node.namespace().run(knows_zones)??, "this kernel has them");
    nft(&world, FIREWALL)?;
    nft(&world, SERVICE)?;
    world.node.add_address("10.96.0.10".parse()?)?;
    let (here, there) = (
        world.node.namespace().udp_socket(server("10.96.0.10"))?,
        world.server.namespace().udp_socket("10.244.0.20:5353".parse()?)?,
    );
    for socket in [&here, &there] {
        socket.set_read_timeout(Some(PATIENCE))?;
    }
    let client = || -> Result<UdpSocket, Failed> {
        let socket = world.client.namespace().udp_socket("0.0.0.0:0".parse()?)?;
        socket.connect(server("10.96.0.10"))?;
        Ok(socket)
    };
    let address = "10.96.0.10".parse()?;
    let (switch, heart) = world.node.namespace().run(|| DnsSwitch::make(&[address], Tracking::TrackedWithoutZone))??;
    let asks = |client: &UdpSocket, server: &UdpSocket| -> Result<(), Failed> {
        heart.beat();
        client.send(b"question")?;
        assert_eq!(server.recv_from(&mut [0; 16])?.1, client.local_addr()?);
        Ok(())
    };
    let keeps_its_socket = client()?;
    asks(&keeps_its_socket, &here)?;
    // As the kernel does when the agent is killed.
    drop(switch);
    asks(&client()?, &there)?;
    asks(&keeps_its_socket, &here)?;
    Ok(())
}
