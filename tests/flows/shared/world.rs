//! The cluster of the table as namespaces, without anything that serves it yet, and the driving of its rows with real packets.

use super::{Client, Expect, Flow};
use std::collections::{BTreeMap, BTreeSet};
use std::iter;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;
use waypost::lab::{self, LabError, Namespace, Node, Outcome, Pod, Serve};
use waypost::model::Protocol;

/// A dropped connection is one that has no answer after this long.
const DROPPED: Duration = Duration::from_millis(400);
const PATIENCE: Duration = Duration::from_secs(10);
/// With three endpoints one of them is missed by so many connections once in 10^10 runs.
const CONNECTIONS: usize = 60;
/// So many connections are made even when all have answered: somebody might who may not.
const AT_LEAST: usize = 12;
/// So many connections show whether an endpoint has half of them or a third.
const MANY_CONNECTIONS: usize = 720;
/// So often each endpoint has its turns.
const ROUNDS: usize = 6;
/// Without affinity two endpoints would not be told from one once in 8 million runs.
const STICKY_CONNECTIONS: usize = 24;

/// The pods that serve, with their addresses; `client` is [`Client::Pod`], `far` is [`Client::FarPod`].
const PODS: &[(&str, [&str; 2])] = &[
    ("client", ["10.244.0.2", "fd00:244::2"]),
    ("near", ["10.244.0.3", "fd00:244::3"]),
    ("leaving", ["10.244.0.4", "fd00:244::4"]),
    ("beside", ["10.244.0.5", "fd00:244::5"]),
    ("far", ["10.244.1.3", "fd00:244::1:3"]),
    ("other", ["10.244.1.4", "fd00:244::1:4"]),
    ("leaving-far", ["10.244.1.5", "fd00:244::1:5"]),
];
/// The node's addresses of which its object tells.
const NODE: [&str; 2] = ["192.0.2.10", "2001:db8::10"];
/// Other addresses of the node: a second network, and those that a load balancer's agent has put there.
const NODE_TOO: &[&str] = &[
    "198.18.0.10",
    "2001:db8:18::10",
    "198.51.104.50",
    "2001:db8:51:4::50",
    "198.51.105.50",
    "2001:db8:51:5::50",
    "198.51.105.60",
    "2001:db8:51:5::60",
];
/// "Operation not permitted".
const EPERM: i32 = 1;
const OUTSIDE: [&str; 2] = ["203.0.113.9", "2001:db8:9::9"];
const STRANGER: [&str; 2] = ["203.0.114.9", "2001:db8:a::9"];

/// A client's addresses.
pub fn addresses(from: Client) -> Vec<IpAddr> {
    parse(match from {
        Client::Pod => &PODS[0].1,
        Client::FarPod => &PODS[4].1,
        Client::Node => &NODE,
        Client::Outside => &OUTSIDE,
        Client::Stranger => &STRANGER,
    })
}

/// All addresses of the node.
pub fn node_addresses() -> impl Iterator<Item = IpAddr> {
    parse(&NODE).into_iter().chain(parse(NODE_TOO)).chain(parse(&["127.0.0.1", "::1"]))
}

/// Who answers on this address.
pub fn pod_of(address: IpAddr) -> &'static str {
    let text = address.to_string();
    let pod = PODS.iter().find(|(_, addresses)| addresses.contains(&text.as_str()));
    pod.map_or(if NODE.contains(&text.as_str()) { "host" } else { "nobody" }, |(name, _)| name)
}

fn parse(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().expect("an address")).collect()
}

/// Node, pods and hosts.
pub struct World {
    /// The node.
    pub node: Node,
    pods: Vec<Pod>,
    outside: Pod,
    stranger: Pod,
}

impl World {
    /// Makes everything, and every server listen.
    pub fn build() -> Result<World, LabError> {
        let node = Node::new(&parse(&NODE))?;
        // Rows run side by side, and their ICMP errors must not be counted against each other.
        node.namespace().set_sysctl("ipv4/icmp_ratelimit", "0")?;
        node.namespace().set_sysctl("ipv6/icmp/ratelimit", "0")?;
        parse(NODE_TOO).into_iter().try_for_each(|address| node.add_address(address))?;
        node.serve("host", Serve::Tcp, 8088)?;
        node.serve("host", Serve::Udp, 7078)?;
        let mut pods = Vec::new();
        for (name, addresses) in PODS {
            let pod = node.pod(name, &parse(addresses))?;
            [8080, 9090].into_iter().try_for_each(|port| pod.serve(Serve::Tcp, port))?;
            [7007, 7017].into_iter().try_for_each(|port| pod.serve(Serve::Udp, port))?;
            pods.push(pod);
        }
        let outside = node.host("outside", &parse(&OUTSIDE))?;
        let stranger = node.host("stranger", &parse(&STRANGER))?;
        node.set_gateway(&outside)?;
        Ok(World { node, pods, outside, stranger })
    }

    /// Drives one row: `expect` must happen to its packets.
    pub fn drive(&self, flow: &Flow, expect: Expect) -> Result<(), String> {
        let (client, to, own) = (self.namespace_of(flow.from), flow.target(), flow.source());
        let is_node = |seen: IpAddr| node_addresses().any(|address| address == seen);
        let is_kept = |by: &str, seen| seen == own || by == pod_of(own) && is_node(seen);
        // A rule that stops a datagram of the node as it leaves is an error of the sending program already.
        let stopped = Outcome::Other(std::io::Error::from_raw_os_error(EPERM).to_string());
        let is_stopped = |outcome: &Outcome| flow.from == Client::Node && flow.protocol == Protocol::Udp && *outcome == stopped;
        let once = |timeout, wanted: Outcome| match lab::connect(client, flow.protocol, to, timeout) {
            outcome if outcome == wanted || is_stopped(&outcome) => Ok(()),
            outcome => Err(outcome.to_string()),
        };
        match expect {
            Expect::Kept(pods) => spread(client, flow.protocol, to, pods, is_kept),
            Expect::Either(pods) => answered(lab::connect(client, flow.protocol, to, PATIENCE), pods, &|_, _| true).map(drop),
            Expect::Sticky(pods, others) => sticky(client, flow.protocol, to, others, pods),
            Expect::Hashed(pod, others) => sticky(client, flow.protocol, to, others, &[pod]),
            Expect::InTurn(pods, others) => in_turn(client, flow.protocol, to, others, pods),
            Expect::Shares(pods) => shares(client, flow.protocol, to, pods, is_kept),
            Expect::Masqueraded(pods) | Expect::HandedOn(pods) => {
                spread(client, flow.protocol, to, pods, |_, seen| is_node(seen))
            }
            Expect::Refused => once(PATIENCE, Outcome::Refused),
            Expect::Dropped => once(DROPPED, Outcome::TimedOut),
            Expect::Untouched if is_node(to.ip()) => once(PATIENCE, Outcome::Refused),
            Expect::Untouched => once(DROPPED, Outcome::TimedOut),
        }
    }

    /// What a program prints on the node.
    pub fn output(&self, program: &str, arguments: &[&str]) -> String {
        output(self.node.namespace(), program, arguments)
    }

    fn namespace_of(&self, from: Client) -> &Namespace {
        match from {
            Client::Pod => self.pods[0].namespace(),
            Client::FarPod => self.pods[4].namespace(),
            Client::Node => self.node.namespace(),
            Client::Outside => self.outside.namespace(),
            Client::Stranger => self.stranger.namespace(),
        }
    }
}

/// What a program prints in a namespace.
///
/// # Panics
/// When it fails, with what it says.
pub fn output(namespace: &Namespace, program: &str, arguments: &[&str]) -> String {
    let output = namespace.output(Command::new(program).args(arguments)).expect("the program is installed (see make setup)");
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Connects until every wanted pod has answered; nobody else may, and each must see the right source.
fn spread(
    client: &Namespace,
    protocol: Protocol,
    to: SocketAddr,
    pods: &[&str],
    right_source: impl Fn(&str, IpAddr) -> bool,
) -> Result<(), String> {
    let mut missing: BTreeSet<&str> = pods.iter().copied().collect();
    for number in 1..=CONNECTIONS {
        let by = answered(lab::connect(client, protocol, to, PATIENCE), pods, &right_source)?;
        missing.remove(by.as_str());
        if missing.is_empty() && number >= AT_LEAST {
            break;
        }
    }
    if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?} never answered")) }
}

/// Connects many times and counts who answers. A pod may be off its share by five standard deviations: once in two million runs it would.
fn shares(
    client: &Namespace,
    protocol: Protocol,
    to: SocketAddr,
    pods: &[&str],
    right_source: impl Fn(&str, IpAddr) -> bool,
) -> Result<(), String> {
    let connect = || (0..MANY_CONNECTIONS).map(|_| lab::connect_here(protocol, to, PATIENCE)).collect::<Vec<_>>();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for outcome in client.run(connect).map_err(|error| error.to_string())? {
        *counts.entry(answered(outcome, pods, &right_source)?).or_default() += 1;
    }
    for pod in pods.iter().collect::<BTreeSet<_>>() {
        let share = pods.iter().filter(|other| *other == pod).count() as f64 / pods.len() as f64;
        let (count, mean) = (counts.get(*pod).copied().unwrap_or(0) as f64, MANY_CONNECTIONS as f64 * share);
        if (count - mean).abs() > 5.0 * (mean * (1.0 - share)).sqrt() {
            return Err(format!("{pod} should have about {mean} of {MANY_CONNECTIONS} connections: {counts:?}"));
        }
    }
    Ok(())
}

/// So many connections to several destinations, one after the other, and who answered, which must be one of these pods.
fn rounds<'a>(
    (client, protocol): (&'a Namespace, Protocol),
    to: SocketAddr,
    others: &[&str],
    pods: &'a [&str],
    count: usize,
) -> impl Iterator<Item = (SocketAddr, Result<String, String>)> + 'a {
    let others = others.iter().map(|text| text.parse().expect("an address and port"));
    let targets: Vec<SocketAddr> = iter::once(to).chain(others).collect();
    let connect = move |target| answered(lab::connect(client, protocol, target, PATIENCE), pods, &|_, _| true);
    targets.into_iter().cycle().take(count).map(move |target| (target, connect(target)))
}

/// Of as many connections in a row as there are turns, whenever one begins to count, each pod has as many as it is named.
fn in_turn(client: &Namespace, protocol: Protocol, to: SocketAddr, others: &[&str], pods: &[&str]) -> Result<(), String> {
    let turns = rounds((client, protocol), to, others, pods, ROUNDS * pods.len()).map(|(_, by)| by);
    let seen: Vec<String> = turns.collect::<Result<_, _>>()?;
    let mut wanted = pods.to_vec();
    wanted.sort_unstable();
    let is_right = |turns: &[String]| {
        let mut turns: Vec<&str> = turns.iter().map(String::as_str).collect();
        turns.sort_unstable();
        turns == wanted
    };
    if seen.windows(pods.len()).all(is_right) { Ok(()) } else { Err(format!("they are not taken in turn: {seen:?}")) }
}

/// Connects to several destinations in turn: one and the same pod must answer.
fn sticky(client: &Namespace, protocol: Protocol, to: SocketAddr, others: &[&str], pods: &[&str]) -> Result<(), String> {
    let mut first: Option<String> = None;
    for (target, by) in rounds((client, protocol), to, others, pods, STICKY_CONNECTIONS) {
        let by = by?;
        let first = first.get_or_insert_with(|| by.clone());
        if *first != by {
            return Err(format!("{first} answered before, and now at {target} {by}"));
        }
    }
    Ok(())
}

/// Who answered, if it was one of the wanted and saw the right source.
fn answered(outcome: Outcome, pods: &[&str], right_source: &impl Fn(&str, IpAddr) -> bool) -> Result<String, String> {
    match outcome {
        Outcome::Reached { by, seen_source } if pods.contains(&by.as_str()) && right_source(&by, seen_source.ip()) => Ok(by),
        outcome => Err(outcome.to_string()),
    }
}
