//! How long the first start takes, and how much memory: Waypost against kube-proxy in nftables mode, in turns, each on a node of its
//! own, with the same API server. Run by `make bench`.

use super::agent::{Agent, http_get, run_command};
use super::cluster::Cluster;
use super::kube_proxy;
use super::processes::Process;
use super::scale::{self, ENDPOINTS};
use super::stage::Stage;
use super::table;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

/// How many services, and how often each program starts on them.
const SIZES: [(u32, usize); 2] = [(1_000, 5), (10_000, 3)];
/// How often readiness is asked for: small against what is measured.
const STEP: Duration = Duration::from_millis(2);
const PATIENCE: Duration = Duration::from_secs(300);

/// What one start took.
struct Start {
    seconds: f64,
    megabytes: f64,
}

pub fn run() -> ExitCode {
    let cluster = Cluster::start("first-start");
    cluster.kubectl(&["create", "namespace", "many"]);
    let mut services = 0;
    for (size, rounds) in SIZES {
        println!("\n{size} services with {ENDPOINTS} endpoints each: making them …");
        cluster.runtime().block_on(scale::load(cluster.client(), "many", services..size));
        services = size;
        println!("{:>6} {:>12} {:>12}", "round", "waypost", "kube-proxy");
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 1..=rounds {
            ours.push(start_waypost(&cluster, &format!("waypost-{size}-{round}"), size));
            theirs.push(start_kube_proxy(&cluster, &format!("kube-proxy-{size}-{round}"), size));
            println!("{round:>6} {:>10.3} s {:>10.3} s", ours[round - 1].seconds, theirs[round - 1].seconds);
        }
        report("median", "s", median(&ours, |start| start.seconds), median(&theirs, |start| start.seconds));
        report("RSS", "MB", median(&ours, |start| start.megabytes), median(&theirs, |start| start.megabytes));
    }
    println!("\nTimes: from the start of the process to its own word that everything is programmed, which was then checked.");
    println!("RSS: its peak; that of the nft programs which kube-proxy runs is not counted.");
    ExitCode::SUCCESS
}

fn report(what: &str, unit: &str, ours: f64, theirs: f64) {
    println!("{what:>6} {ours:>10.3} {unit} {theirs:>9.3} {unit}   kube-proxy / waypost = {:.1}", theirs / ours);
}

fn start_waypost(cluster: &Cluster, name: &str, size: u32) -> Start {
    let stage = Stage::new(cluster, name);
    let began = Instant::now();
    let mut agent = Agent::start_command(&stage, &mut run_command(&cluster.kubeconfig()));
    wait(|| http_get(stage.node.namespace(), "127.0.0.1:10256", "/readyz").is_ok_and(|(status, _)| status == 200));
    let seconds = began.elapsed().as_secs_f64();
    let start = Start { seconds, megabytes: megabytes(agent.process()) };
    assert!(table::map(stage.node.namespace(), "endpoints").len() >= (size * ENDPOINTS) as usize, "not everything is programmed");
    start
}

fn start_kube_proxy(cluster: &Cluster, name: &str, size: u32) -> Start {
    let stage = Stage::new(cluster, name);
    let began = Instant::now();
    let process = kube_proxy::start_on(&stage, name);
    let seconds = began.elapsed().as_secs_f64();
    let start = Start { seconds, megabytes: megabytes(&process) };
    let mut nft = Command::new("nft");
    let listing = super::processes::output(stage.node.namespace(), nft.args(["list", "map", "ip", "kube-proxy", "service-ips"]));
    assert!(listing.matches(" : goto ").count() >= size as usize, "not everything is programmed");
    start
}

fn wait(mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "it was not ready within {PATIENCE:?}");
        std::thread::sleep(STEP);
    }
}

fn megabytes(process: &Process) -> f64 {
    process.peak_memory() as f64 / 1e6
}

fn median(starts: &[Start], value: impl Fn(&Start) -> f64) -> f64 {
    let mut values: Vec<_> = starts.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
