//! Load while something happens: new connections, requests over one that is kept, datagrams and DNS questions from every node all the time, each without a retry, so that
//! each one that is lost counts.

use super::cluster::{Cluster, NODES};
use super::shop::{self, Shop};
use serde::Deserialize;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, Stdio};

const TOOLBOX: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/cluster-toolbox");
/// Two cores drive the cluster, its load, and whatever else this machine does.
const PAUSE: &str = "--pause=60ms";
/// More than the slowest case; load that ends before it is told to fails its case.
const LIMIT: &str = "--for=15m";

/// Programs that make load until they are told to end.
pub struct Load {
    makers: Vec<Maker>,
}

struct Maker {
    place: String,
    child: Child,
    said: BufReader<ChildStderr>,
}

/// What one kind of load saw at one place.
#[derive(Debug, Deserialize)]
pub struct Report {
    #[serde(skip)]
    place: String,
    load: String,
    attempts: usize,
    failures: usize,
    longest_gap_ms: u64,
    first_failures: Vec<String>,
}

impl Load {
    /// From a pod and from the node itself, on every node, to a Service and to cluster DNS; and from outside to a NodePort of the
    /// first node.
    pub fn start(cluster: &Cluster, shop: &Shop) -> Load {
        Load::with_node_local_dns(cluster, shop, &[])
    }

    /// As [`Load::start`], and on these nodes it asks at the address of NodeLocal DNSCache as well.
    pub fn with_node_local_dns(cluster: &Cluster, shop: &Shop, nodes: &[u8]) -> Load {
        Load::from_everywhere(cluster, shop, &|node| {
            let mut servers = format!("{}:53", shop::DNS);
            if nodes.contains(&node) {
                servers += &format!(",{}:53", shop::NODE_LOCAL_DNS);
            }
            let name = format!("--name=web.{}.svc.cluster.local.", shop::NAMESPACE);
            vec![format!("--dns={servers}"), format!("--dns-tcp={servers}"), name]
        })
    }

    /// As [`Load::start`], but asks no questions.
    pub fn of_services(cluster: &Cluster, shop: &Shop) -> Load {
        Load::from_everywhere(cluster, shop, &|_| Vec::new())
    }

    /// From outside alone, to this address and port.
    pub fn from_outside(cluster: &Cluster, target: &str) -> Load {
        let maker =
            Maker::start(cluster, "the host outside".into(), &["outside", TOOLBOX, PAUSE, LIMIT, &format!("--tcp={target}")]);
        Load { makers: vec![maker] }
    }

    fn from_everywhere(cluster: &Cluster, shop: &Shop, more: &dyn Fn(u8) -> Vec<String>) -> Load {
        let services = ["tcp", "kept", "udp"].map(|kind| format!("--{kind}={}:80", shop.cluster_ip));
        let node_port = format!("{}:{}", shop::address_of_node(1), shop::NODE_PORT);
        let mut load = Load::from_outside(cluster, &node_port);
        for node in NODES {
            let number = node.to_string();
            let more = more(node);
            let inside: Vec<&str> = [PAUSE, LIMIT].into_iter().chain(services.iter().chain(&more).map(String::as_str)).collect();
            let pod = shop::process_of_client(cluster, node).to_string();
            let in_pod = ["node", &number, "nsenter", "--target", &pod, "--net", TOOLBOX];
            load.makers.push(Maker::start(cluster, format!("a pod on node{node}"), &[&in_pod[..], &inside].concat()));
            load.makers.push(Maker::start(cluster, format!("node{node}"), &[&["node", &number, TOOLBOX], &inside[..]].concat()));
        }
        load
    }

    /// Ends it, and returns what was seen.
    pub fn end(mut self) -> Vec<Report> {
        // All are told before the first is waited for, so that they end together.
        for maker in &mut self.makers {
            drop(maker.child.stdin.take());
        }
        self.makers.iter_mut().flat_map(Maker::reports).collect()
    }
}

impl Maker {
    fn start(cluster: &Cluster, place: String, arguments: &[&str]) -> Maker {
        let mut command = cluster.command("scripts/cluster");
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("scripts/cluster can be started");
        let mut maker = Maker { place, said: BufReader::new(child.stderr.take().expect("it is a pipe")), child };
        let mut line = String::new();
        let read = maker.said.read_line(&mut line);
        assert!(read.is_ok() && line == "load begins\n", "load from {}: {line}", maker.place);
        maker
    }

    fn reports(&mut self) -> Vec<Report> {
        let (mut text, mut said) = (String::new(), String::new());
        self.child.stdout.as_mut().expect("it is a pipe").read_to_string(&mut text).expect("a report is text");
        self.said.read_to_string(&mut said).expect("what it says is text");
        let status = self.child.wait().expect("it is a child");
        assert!(status.success() && !text.is_empty(), "load from {} ended with {status}: {said}", self.place);
        let reports = text.lines().map(|line| serde_json::from_str(line).expect("a report is JSON"));
        reports.map(|report: Report| Report { place: self.place.clone(), ..report }).collect()
    }
}

impl Drop for Maker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// # Panics
/// When anything was lost, or when so little was tried that nothing could be.
pub fn assert_nothing_lost(reports: &[Report]) {
    assert_lost_at_most(reports, |_| 0);
}

/// As [`assert_nothing_lost`], but of what a report is about so many may be.
pub fn assert_lost_at_most(reports: &[Report], allowed: impl Fn(&Report) -> usize) {
    let lost: Vec<String> = reports.iter().filter(|report| report.failures > allowed(report)).map(Report::to_line).collect();
    assert!(lost.is_empty(), "lost under load:\n{}", lost.join("\n"));
    // One that waits in vain for most of a short test tries little else.
    let idle: Vec<String> = reports.iter().filter(|report| report.attempts < 3).map(Report::to_line).collect();
    assert!(idle.is_empty(), "hardly any load:\n{}", idle.join("\n"));
    let attempts: usize = reports.iter().map(|report| report.attempts).sum();
    let failures: usize = reports.iter().map(|report| report.failures).sum();
    let gap = reports.iter().map(|report| report.longest_gap_ms).max().unwrap_or_default();
    eprintln!("    of {attempts} connections and questions {failures} were lost; the longest wait was {gap} ms");
}

impl Report {
    /// Whether these are DNS questions.
    pub fn is_dns(&self) -> bool {
        self.load.starts_with("dns")
    }

    /// Whether these are DNS questions of a process of a node, not of a pod.
    pub fn is_dns_of_a_node(&self) -> bool {
        self.is_dns() && self.place.starts_with("node")
    }

    /// Whether a pod of this node, or the node itself, saw it.
    pub fn is_on_node(&self, node: u8) -> bool {
        self.place.ends_with(&format!("node{node}"))
    }

    fn to_line(&self) -> String {
        format!(
            "{}, {}: {} of {} failed, longest gap {} ms: {}",
            self.place,
            self.load,
            self.failures,
            self.attempts,
            self.longest_gap_ms,
            self.first_failures.join("; ")
        )
    }
}
