//! The API server goes away and comes back; so does the agent.

use super::agent::{Agent, await_answer, await_no_name, http_get, run_command};
use super::cluster::Cluster;
use super::processes::{eventually, output};
use super::services::{WEB, await_everywhere, await_not_in_kernel, await_pods, service_addresses};
use super::stage::{Stage, next_addresses};
use super::table::{self, Monitor};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use waypost::lab::Pod;
use waypost::model::Protocol;

/// Makes the services `web`, which stays, and `doomed`, which the test deletes, each with a pod; returns their addresses once both answer.
fn serve_two(stage: &mut Stage) -> (Vec<IpAddr>, Vec<IpAddr>) {
    stage.apply(WEB);
    stage.kubectl(&["create", "service", "clusterip", "doomed", "--tcp=80:8080"]);
    stage.add_pod("web", "web-1");
    stage.add_pod("doomed", "doomed-1");
    let web = service_addresses(stage, "web");
    let doomed = service_addresses(stage, "doomed");
    await_everywhere(stage, &web, &["web-1"]);
    await_pods(stage.client.namespace(), doomed[0], 80, Protocol::Tcp, &["doomed-1"]);
    (web, doomed)
}

pub fn api_server_restart(cluster: &Cluster) {
    let mut stage = Stage::new(cluster, "api-server-restart");
    let _agent = Agent::start(&stage);
    let (web, doomed) = serve_two(&mut stage);

    // The agent must not be back before the deletion: a restarted API server has no memory of what watchers missed.
    stage.relay.cut();
    cluster.restart_api_server(|| await_everywhere(&stage, &web, &["web-1"]));
    stage.kubectl(&["delete", "service", "doomed"]);
    stage.add_pod("web", "web-2");
    await_pods(stage.client.namespace(), doomed[0], 80, Protocol::Tcp, &["doomed-1"]);
    stage.relay.restore();

    await_no_name(stage.client.namespace(), &stage.dns_name("doomed"));
    await_not_in_kernel(&stage, &doomed);
    await_everywhere(&stage, &web, &["web-1", "web-2"]);
}

pub fn agent_restart(cluster: &Cluster) {
    let mut stage = Stage::new(cluster, "agent-restart");
    let mut agent = Agent::start(&stage);
    let (web, doomed) = serve_two(&mut stage);

    let status = agent.process().terminate();
    assert!(status.success(), "SIGTERM ends the agent well: {status}");
    // The data path stays without it.
    await_pods(stage.client.namespace(), web[0], 80, Protocol::Tcp, &["web-1"]);
    stage.kubectl(&["delete", "service", "doomed"]);
    stage.kubectl(&["create", "service", "clusterip", "late", "--tcp=80:8080"]);
    stage.add_pod("late", "late-1");
    let late = stage.cluster_ip("late");

    let _agent = Agent::start(&stage);
    await_answer(stage.client.namespace(), &stage.dns_name("late"), "A", &[&late.to_string()]);
    await_pods(stage.client.namespace(), late, 80, Protocol::Tcp, &["late-1"]);
    await_not_in_kernel(&stage, &doomed);
    await_everywhere(&stage, &web, &["web-1"]);
}

/// As after a reboot: the tables are gone, and the API server is not there yet.
pub fn start_without_api_server(cluster: &Cluster) {
    let mut stage = Stage::new(cluster, "last-state");
    let state = cluster.directory().join("last-state");
    let command = || {
        let mut command = run_command(&cluster.kubeconfig());
        command.arg("--state-dir").arg(&state);
        command
    };
    let mut agent = Agent::start_command(&stage, &mut command());
    agent.await_ready();
    let (web, doomed) = serve_two(&mut stage);
    eventually("what it knows is on disk", || {
        let (_, page) = http_get(stage.node.namespace(), "127.0.0.1:10249", "/metrics")?;
        let saved = page.lines().find_map(|line| line.strip_prefix("waypost_last_state_saved_timestamp_seconds "));
        match saved.and_then(|value| value.parse::<f64>().ok()) {
            Some(time) if time > 0.0 => Ok(()),
            _ => Err(format!("{saved:?}")),
        }
    });
    agent.process().terminate();
    output(stage.node.namespace(), Command::new("nft").args(["flush", "ruleset"]));
    stage.relay.cut();
    stage.kubectl(&["delete", "service", "doomed"]);

    let agent = Agent::start_command(&stage, &mut command());
    agent.await_ready();
    await_everywhere(&stage, &web, &["web-1"]);
    await_pods(stage.client.namespace(), doomed[0], 80, Protocol::Tcp, &["doomed-1"]);
    let (status, page) = http_get(stage.node.namespace(), "127.0.0.1:10256", "/readyz").unwrap();
    assert!(status == 200 && page.contains("with the last known state"), "{status} {page}");
    stage.relay.restore();
    await_not_in_kernel(&stage, &doomed);
    await_no_name(stage.client.namespace(), &stage.dns_name("doomed"));
    await_everywhere(&stage, &web, &["web-1"]);
    eventually("the state is the API server's", || match http_get(stage.node.namespace(), "127.0.0.1:10256", "/readyz")? {
        (200, page) if page == "ok\n" => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

pub fn kill_during_download(cluster: &Cluster) {
    let stage = Stage::new(cluster, "download");
    let mut agent = Agent::start(&stage);
    let server = stage.node.pod("files-1", &next_addresses()).unwrap();
    let download = Download::serve(&server, 8080);
    stage.announce(&server, "files");
    stage.kubectl(&["create", "service", "clusterip", "files", "--tcp=80:8080"]);
    let address = stage.cluster_ip("files");
    await_answer(stage.client.namespace(), &stage.dns_name("files"), "A", &[&address.to_string()]);
    super::processes::eventually("the service leads to its pod", || {
        let balanced = table::balanced(stage.node.namespace());
        balanced.get(&format!("{address} . 6 . 80")).map(|_| ()).ok_or(format!("{balanced:?}"))
    });

    let target = SocketAddr::new(address, 80);
    thread::scope(|scope| {
        let client = scope.spawn(|| stage.client.namespace().run(|| download.receive(target)).unwrap());
        download.await_progress();
        let before = table::handles(stage.node.namespace());
        let monitor = Monitor::start(stage.node.namespace(), cluster.directory(), &stage.name);
        agent.process().kill();
        download.await_progress();
        let _agent = Agent::start(&stage);
        download.await_progress();
        assert_eq!(monitor.changes(), Vec::<String>::new(), "a restarted agent writes nothing that was already right");
        assert_eq!(table::handles(stage.node.namespace()), before);
        download.finish.store(true, Ordering::SeqCst);
        let received = client.join().unwrap().expect("the download goes through");
        assert_eq!(received, download.sent.load(Ordering::SeqCst), "every byte arrived");
    });
}

/// An endless file: each byte follows from its place, so that a lost or doubled piece shows.
struct Download {
    sent: AtomicU64,
    received: AtomicU64,
    finish: AtomicBool,
}

const PIECE: usize = 64 * 1024;

impl Download {
    /// Serves the file to one client, until [`Download::finish`].
    fn serve(pod: &Pod, port: u16) -> &'static Download {
        let download: &Download =
            Box::leak(Box::new(Download { sent: 0.into(), received: 0.into(), finish: AtomicBool::new(false) }));
        let listener = pod.namespace().tcp_listener(SocketAddr::new(pod.addresses()[0], port)).unwrap();
        listener.set_nonblocking(false).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client comes");
            while !download.finish.load(Ordering::SeqCst) {
                let start = download.sent.load(Ordering::SeqCst);
                stream.write_all(&piece(start)).expect("the client takes everything");
                download.sent.fetch_add(PIECE as u64, Ordering::SeqCst);
            }
        });
        download
    }

    /// Downloads to the end of the file and returns its length.
    fn receive(&self, target: SocketAddr) -> std::io::Result<u64> {
        let mut stream = TcpStream::connect(target)?;
        stream.set_read_timeout(Some(super::processes::PATIENCE))?;
        let mut buffer = vec![0; PIECE];
        loop {
            let place = self.received.load(Ordering::SeqCst);
            let count = stream.read(&mut buffer)?;
            if count == 0 {
                return Ok(place);
            }
            let expected = (place..).map(byte_at);
            assert!(buffer[..count].iter().copied().zip(expected).all(|(byte, expected)| byte == expected), "at {place}");
            self.received.fetch_add(count as u64, Ordering::SeqCst);
        }
    }

    /// Waits until some more of the file has arrived.
    fn await_progress(&self) {
        let enough = self.received.load(Ordering::SeqCst) + 4 * PIECE as u64;
        super::processes::eventually("the download goes on", || match self.received.load(Ordering::SeqCst) {
            received if received >= enough => Ok(()),
            received => Err(format!("{received} bytes have arrived")),
        });
    }
}

fn piece(start: u64) -> Vec<u8> {
    (start..).take(PIECE).map(byte_at).collect()
}

/// A prime, so that no round number of bytes can be missing unnoticed.
fn byte_at(place: u64) -> u8 {
    (place % 251) as u8
}
