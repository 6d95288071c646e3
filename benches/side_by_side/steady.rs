//! A node in its steady state: what it costs when nothing happens, connections through it, and what its programs weigh.

use super::ROUNDS;
use super::changes::Pair;
use super::peers::{STEP, Server};
use super::report::{Row, Unit, percentile};
use crate::agent::WAYPOST;
use crate::cluster::tool;
use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};
use waypost::lab::Serve;

/// After a start caches are written and memory is given back; not the steady state yet.
const SETTLE: Duration = Duration::from_secs(10);
const WINDOW: Duration = Duration::from_secs(20);
const CONNECTIONS: usize = 1000;
/// The scheduler puts client and server on one processor or on two, for a while each: many short turns see both.
const TURNS: usize = 3 * ROUNDS;
const PORT: u16 = 8081;

/// The processor time of both while nothing happens, side by side.
pub fn idle(size: u32, pair: &mut Pair<'_>) -> Row {
    sleep(SETTLE);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let now = |pair: &mut Pair<'_>| [on_threads(&mut pair.ours.1), on_threads(&mut pair.theirs.1)];
        let (before, began) = (now(pair), Instant::now());
        sleep(WINDOW);
        let (after, seconds) = (now(pair), began.elapsed().as_secs_f64());
        ours.push((after[0] - before[0]) / seconds);
        theirs.push((after[1] - before[1]) / seconds);
    }
    let row = Row::new("idle", "processor time while nothing happens", size, Unit::Share);
    row.beside("kube-proxy + CoreDNS", [ours, theirs]).goal(0.001, None)
}

/// The processor time of all threads, in seconds; finer than the ticks in which that of a process is counted.
fn on_threads(server: &mut dyn Server) -> f64 {
    let of_process = |id: u32| -> f64 {
        let threads = fs::read_dir(format!("/proc/{id}/task")).expect("the process is running").flatten();
        let nanoseconds = threads.filter_map(|thread| {
            fs::read_to_string(thread.path().join("schedstat")).ok()?.split(' ').next()?.parse::<f64>().ok()
        });
        nanoseconds.sum::<f64>() / 1e9
    };
    server.processes().into_iter().map(|process| of_process(process.outside_id())).sum()
}

/// Connections from a pod through a ClusterIP to a pod: how long each takes, and how many a second one client makes.
pub fn connections(size: u32, pair: &mut Pair<'_>) -> Vec<Row> {
    for stage in [&mut pair.ours.0, &mut pair.theirs.0] {
        stage.kubectl(&["create", "service", "clusterip", "target", &format!("--tcp=80:{PORT}")]);
        let name = format!("target-{}", stage.name);
        stage.add_pod("target", &name).serve(Serve::Tcp, PORT).unwrap();
    }
    let [ours, theirs] = pair.in_turns(TURNS, |stage, _| {
        let address = stage.cluster_ip("target");
        stage.client.namespace().run(|| connect_often(SocketAddr::new(address, 80))).expect("the pod's namespace is there")
    });
    let of = |value: fn(&(f64, f64)) -> f64| [&ours, &theirs].map(|rounds| rounds.iter().map(value).collect());
    // Where few services are, both find them at once; kube-proxy's way is as long as ours.
    let times = if size >= 50_000 { 1.0 } else { 0.95 };
    let time = Row::new("connection-p50", "a connection through a ClusterIP, p50", size, Unit::Seconds);
    let rate = Row::new("connection-rate", "connections a second through a ClusterIP, one client", size, Unit::PerSecond);
    vec![
        time.beside("kube-proxy", of(|(time, _)| *time)).goal(None, times),
        rate.beside("kube-proxy", of(|(_, rate)| *rate)).goal(None, times),
    ]
}

fn connect_often(to: SocketAddr) -> (f64, f64) {
    let mut done = 0;
    super::peers::wait("the service answers", STEP, || {
        done += usize::from(TcpStream::connect_timeout(&to, Duration::from_millis(100)).is_ok());
        done > 10
    });
    let began = Instant::now();
    let connect = |_| {
        let began = Instant::now();
        let mut connection = TcpStream::connect_timeout(&to, Duration::from_secs(5)).expect("the service answers");
        let took = began.elapsed().as_secs_f64();
        // Until the server has it, so that its queue never overflows.
        connection.read_exact(&mut [0]).expect("the server says who it is");
        took
    };
    let took: Vec<f64> = (0..CONNECTIONS).map(connect).collect();
    (percentile(&took, 0.5), CONNECTIONS as f64 / began.elapsed().as_secs_f64())
}

/// What the programs weigh.
pub fn sizes() -> Vec<Row> {
    let weight = |path: &Path| fs::metadata(path).map(|file| file.len() as f64).ok();
    let of_tools = |names: &[&str]| names.iter().filter_map(|name| weight(Path::new(tool(name).get_program()))).sum::<f64>();
    let peers = of_tools(&["kube-proxy", "coredns"]);
    let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/image/waypost.tar");
    let of = |path: &Path| [weight(path).into_iter().collect(), vec![peers]];
    let binary = Row::new("binary", "size of the program", 0, Unit::Bytes);
    let packed = Row::new("image", "size of the image, not compressed", 0, Unit::Bytes);
    let rows = [
        binary.beside("kube-proxy + CoreDNS", of(Path::new(WAYPOST))).note("as this benchmark was built"),
        packed.beside("their programs alone:", of(&image)).note("target/image/waypost.tar, where `make image` has made it"),
    ];
    rows.into_iter().filter(|row| !row.ours.is_empty()).map(|row| row.goal(15e6, None)).collect()
}
