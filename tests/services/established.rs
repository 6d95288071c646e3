//! Connections that are open, and connections that are refused.

use super::{CLUSTER, PODS};
use crate::world::World;
use libtest_mimic::{Failed, Trial};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use waypost::lab::{Namespace, Outcome};

const PATIENCE: Duration = Duration::from_secs(20);
const TARGETS: [&str; 2] = ["10.96.0.1:80", "[fd00:96::1]:80"];
const FROM_OUTSIDE: [&str; 2] = ["192.0.2.10:30080", "[2001:db8::10]:30080"];
/// The kernel sends a client an ICMP error a second, and a few more at first.
const REFUSED: usize = 40;

pub fn tests() -> Vec<Trial> {
    vec![
        Trial::test("open_connections_go_on_whatever_becomes_of_their_service", open),
        Trial::test("refused_connections_are_reset_without_an_icmp_error", refused),
    ]
}

/// A connection that stays, to a server that repeats what it is told.
struct Open {
    target: &'static str,
    stream: BufReader<TcpStream>,
}

impl Open {
    fn new(from: &Namespace, target: &'static str) -> Result<Open, Failed> {
        let to: SocketAddr = target.parse()?;
        let stream = from.run(|| TcpStream::connect_timeout(&to, PATIENCE))??;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut open = Open { target, stream: BufReader::new(stream) };
        let greeting = open.line()?;
        if greeting.starts_with("server ") { Ok(open) } else { Err(format!("{target}: {greeting}").into()) }
    }

    fn line(&mut self) -> Result<String, Failed> {
        let mut line = String::new();
        self.stream.read_line(&mut line).map_err(|error| format!("{}: {error}", self.target))?;
        Ok(line)
    }

    fn goes_on(&mut self, word: &str) -> Result<(), Failed> {
        writeln!(self.stream.get_mut(), "{word}")?;
        let line = self.line()?;
        if line.trim() == word { Ok(()) } else { Err(format!("{}: {line:?} instead of {word}", self.target).into()) }
    }
}

fn open() -> Result<(), Failed> {
    let world = World::prepared("open", CLUSTER).started(&[PODS]);
    TARGETS.iter().for_each(|target| world.reached(&world.client, target));
    let inside = TARGETS.iter().map(|target| Open::new(world.client.namespace(), target));
    let outside = FROM_OUTSIDE.iter().map(|target| Open::new(world.outside.namespace(), target));
    let mut all = inside.chain(outside).collect::<Result<Vec<_>, _>>()?;
    let closed = "metadata: {name: web, namespace: shop, annotations: {waypost.dev/allowed-sources: \"\"}}";
    let denied = CLUSTER.replace("metadata: {name: web, namespace: shop}", closed);
    let emptied = CLUSTER
        .replace("{addresses: [10.244.0.3], nodeName: node-1}", "")
        .replace("{addresses: [\"fd00:244::3\"], nodeName: node-1}", "");
    let end = CLUSTER.find("---\napiVersion: v1\nkind: Service").expect("a Service");
    let stages = [
        ("denied to everybody", denied.as_str(), Outcome::TimedOut),
        ("without endpoints", emptied.as_str(), Outcome::Refused),
        ("gone", &CLUSTER[..end], Outcome::TimedOut),
    ];
    for (what, manifests, meanwhile) in stages {
        world.write(manifests);
        for target in TARGETS {
            world.eventually(&format!("{what}: new connections to {target} are {meanwhile}"), || {
                match world.connect(&world.client, target) {
                    outcome if outcome == meanwhile => Ok(()),
                    outcome => Err(outcome.to_string()),
                }
            });
        }
        all.iter_mut().try_for_each(|open| open.goes_on(&what.replace(' ', "-")))?;
    }
    Ok(())
}

fn refused() -> Result<(), Failed> {
    let manifests = CLUSTER.replace("10.244.0.3], nodeName: node-1}", "10.244.0.3], conditions: {ready: false}}");
    let manifests = manifests.replace("fd00:244::3\"], nodeName: node-1}", "fd00:244::3\"], conditions: {ready: false}}");
    let world = World::prepared("refused", &manifests).started(&[PODS]);
    for (client, targets) in [(&world.client, TARGETS), (&world.outside, FROM_OUTSIDE)] {
        let before = icmp_errors(client.namespace())?;
        for target in targets {
            (0..REFUSED).for_each(|_| world.refused(client, target));
        }
        assert_eq!(icmp_errors(client.namespace())?, before, "{} was told by ICMP", client.name());
    }
    Ok(())
}

/// How many "destination unreachable" messages have come in, in both families.
fn icmp_errors(namespace: &Namespace) -> Result<[u64; 2], Failed> {
    let read = || {
        Ok::<_, std::io::Error>(["snmp", "snmp6"].map(|file| std::fs::read_to_string(format!("/proc/thread-self/net/{file}"))))
    };
    let [v4, v6] = namespace.run(read)??;
    let (v4, v6) = (v4?, v6?);
    let lines: Vec<Vec<&str>> =
        v4.lines().filter(|line| line.starts_with("Icmp: ")).map(|line| line.split(' ').collect()).collect();
    let at = lines[0].iter().position(|name| *name == "InDestUnreachs").ok_or("the kernel counts it")?;
    let v6 = v6.lines().find_map(|line| line.strip_prefix("Icmp6InDestUnreachs")).ok_or("the kernel counts it")?;
    Ok([lines[1][at].parse()?, v6.trim().parse()?])
}
