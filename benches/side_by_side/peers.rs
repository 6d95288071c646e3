//! This agent and its peers, each on a node of its own with the same API server.

use crate::agent::{Agent, http_get, run_command};
use crate::cluster::{Cluster, NODE_NAME, tool};
use crate::dns_oracle::kubeadms_corefile;
use crate::kube_proxy;
use crate::processes::Process;
use crate::stage::{DNS_ADDRESS, Stage};
use nix::sys::signal::Signal;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often readiness is asked for: small against what is measured, and against the work that asking makes.
pub const STEP: Duration = Duration::from_millis(2);
const STEP_OF_PEERS: Duration = Duration::from_millis(20);
/// Tens of thousands of services take kube-proxy minutes.
const PATIENCE: Duration = Duration::from_secs(900);
/// Where CoreDNS answers on its node.
const COREDNS_ADDRESS: &str = "192.0.2.10";

/// What a start took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Start {
    /// From the start of the process until everything is programmed and DNS answers.
    pub seconds: f64,
    /// From the last object of the lists to the end of the commits: the program's own word.
    pub commit: f64,
    /// The most memory that it had in RAM, in bytes; of both programs, where there are two.
    pub memory: f64,
    /// What came and went between the node and the API server, in bytes.
    pub wire: f64,
}

/// What serves a node.
pub trait Server {
    /// Its processes.
    fn processes(&mut self) -> Vec<&mut Process>;

    /// Where it answers DNS.
    fn dns_address(&self) -> &'static str;

    /// Stops it for a moment, so that it takes no processor time from the other one; or lets it go on.
    fn freeze(&mut self, frozen: bool) {
        let signal = if frozen { Signal::SIGSTOP } else { Signal::SIGCONT };
        self.processes().into_iter().for_each(|process| process.signal(signal));
    }

    /// The processor time that it has used, with that of the programs that it has run, in seconds.
    fn processor_time(&mut self) -> f64 {
        self.processes().into_iter().map(|process| process.processor_time()).sum()
    }
}

/// This agent.
pub struct Waypost(pub Agent);

/// kube-proxy and CoreDNS.
pub struct Peers {
    kube_proxy: Process,
    coredns: Process,
}

impl Server for Waypost {
    fn processes(&mut self) -> Vec<&mut Process> {
        vec![self.0.process()]
    }

    fn dns_address(&self) -> &'static str {
        DNS_ADDRESS
    }
}

impl Server for Peers {
    fn processes(&mut self) -> Vec<&mut Process> {
        vec![&mut self.kube_proxy, &mut self.coredns]
    }

    fn dns_address(&self) -> &'static str {
        COREDNS_ADDRESS
    }
}

impl Waypost {
    /// Starts it and waits until it is ready; with a folder for its last known state, if one is given.
    pub fn start(stage: &Stage, state: Option<&Path>) -> (Waypost, Start) {
        let node = stage.node.namespace();
        let (carried, began) = (stage.relay.carried(), Instant::now());
        let mut command = run_command(&stage.cluster.kubeconfig());
        command.args(state.map(|folder| format!("--state-dir={}", folder.display())));
        let mut agent = Agent::start_command(stage, &mut command);
        wait("waypost is ready", STEP, || http_get(node, "127.0.0.1:10256", "/readyz").is_ok_and(|(status, _)| status == 200));
        let seconds = began.elapsed().as_secs_f64();
        let line = agent.await_line(&["ready", "took="]);
        // Of its last start, where it has had several.
        let line =
            agent.printed().lines().rfind(|line| line.contains("ready") && line.contains("took=")).map_or(line, str::to_string);
        let commit = line.split_once("took=").and_then(|(_, rest)| seconds_of(rest)).expect("the line says how long it took");
        let start = Start {
            seconds,
            commit,
            memory: agent.process().peak_memory() as f64,
            wire: (stage.relay.carried() - carried) as f64,
        };
        (Waypost(agent), start)
    }

    /// Ends it as an upgrade does.
    pub fn stop(mut self) {
        self.0.process().terminate();
    }
}

impl Peers {
    /// Starts both at once and waits until both are ready.
    pub fn start(stage: &Stage) -> (Peers, Start) {
        let (node, cluster) = (stage.node.namespace(), stage.cluster);
        let corefile = corefile(cluster);
        let (carried, began) = (stage.relay.carried(), Instant::now());
        let more = format!("hostnameOverride: {NODE_NAME}\nclusterCIDR: {}\n", crate::cluster::POD_CIDRS);
        let kube_proxy = kube_proxy::start(cluster, node, &format!("kube-proxy-{}", stage.name), &more);
        let mut coredns = tool("coredns");
        coredns.arg("-conf").arg(&corefile);
        let coredns = Process::start(node, cluster.directory(), &format!("coredns-{}", stage.name), &mut coredns);
        wait("kube-proxy and CoreDNS are ready", STEP_OF_PEERS, || {
            kube_proxy::is_synced(node) && http_get(node, "127.0.0.1:8181", "/ready").is_ok_and(|(status, _)| status == 200)
        });
        let seconds = began.elapsed().as_secs_f64();
        let (_, metrics) = http_get(node, "127.0.0.1:10249", "/metrics").expect("kube-proxy shows its metrics");
        let start = Start {
            seconds,
            commit: sum_of(&metrics, "kubeproxy_sync_full_proxy_rules_duration_seconds_sum"),
            memory: (kube_proxy.peak_memory() + coredns.peak_memory()) as f64,
            wire: (stage.relay.carried() - carried) as f64,
        };
        (Peers { kube_proxy, coredns }, start)
    }

    /// Ends both as an upgrade does.
    pub fn stop(mut self) {
        self.processes().into_iter().for_each(|process| {
            process.terminate();
        });
    }
}

/// kubeadm's Corefile, on the node's address.
fn corefile(cluster: &Cluster) -> PathBuf {
    let path = cluster.directory().join("bench.Corefile");
    let corefile = kubeadms_corefile(&cluster.kubeconfig().display().to_string(), [None, Some(""), None]);
    fs::write(&path, corefile.replacen("errors", &format!("errors\n    bind {COREDNS_ADDRESS}"), 1)).unwrap();
    path
}

/// Waits, and looks every so often.
pub fn wait(what: &str, step: Duration, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(step);
    }
}

/// All values of a metric, whatever their labels, added up.
fn sum_of(metrics: &str, name: &str) -> f64 {
    let of_name = metrics.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
    of_name.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// A duration as Rust shows it, at the beginning of a text.
fn seconds_of(text: &str) -> Option<f64> {
    let text = text.split_whitespace().next()?;
    let unit = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let factor = match &text[unit..] {
        "s" => 1.0,
        "ms" => 1e-3,
        "µs" => 1e-6,
        _ => return None,
    };
    Some(text[..unit].parse::<f64>().ok()? * factor)
}
