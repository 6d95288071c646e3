//! DNS servers with the same 10,000 names on loopback: this agent, Knot DNS, CoreDNS, and a responder that only turns datagrams round, which is the
//! floor of any server that uses sockets. Those that forward ask one upstream server.

use super::paced::PATIENCE;
use super::responders::{FLOOR, UPSTREAM};
use crate::agent::WAYPOST;
use crate::cluster::tool;
use crate::processes::outside_id;
use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub const SERVICES: usize = 10_000;
pub const OURS: &str = "waypost";
pub const FLOOR_NAME: &str = "floor";
pub const KNOT: &str = "Knot DNS";
pub const COREDNS: &str = "CoreDNS";
const UPSTREAM_ADDRESS: &str = "127.0.0.1:5305";

/// One that runs until it is dropped.
pub struct Server {
    pub name: &'static str,
    address: SocketAddr,
    process: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    /// All of them, and the upstream server. One that is not installed is left out.
    pub fn start_all() -> (Vec<Server>, Server) {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-dns");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(folder.join("manifests")).unwrap();
        fs::write(folder.join("manifests/services.yaml"), manifests()).unwrap();
        fs::write(folder.join("zone"), zone()).unwrap();
        let upstream = responder("upstream", UPSTREAM, UPSTREAM_ADDRESS).expect("this program runs");
        let all = [waypost(&folder), responder(FLOOR_NAME, FLOOR, "127.0.0.1:5302"), knot(&folder), coredns(&folder)];
        (all.into_iter().flatten().collect(), upstream)
    }

    /// Started, and answering the last of all names.
    fn start(name: &'static str, address: &str, command: &mut Command) -> Option<Server> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = match command.spawn() {
            Ok(process) => process,
            Err(error) => {
                eprintln!("{name} is left out: {error}");
                return None;
            }
        };
        let server = Server { name, address: address.parse().unwrap(), process };
        let began = Instant::now();
        let client = server.client();
        let question = question(&name_of(SERVICES - 1), 1);
        loop {
            assert!(began.elapsed() < Duration::from_secs(60), "{name} does not answer");
            let mut answer = [0; 1500];
            let _ = client.send(&question);
            // The number of answers, or of anything for the floor.
            if client.recv(&mut answer).is_ok_and(|length| length > 12 && (answer[7] == 1 || name == FLOOR_NAME)) {
                return Some(server);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn client(&self) -> UdpSocket {
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(self.address).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client
    }

    pub fn connection(&self) -> TcpStream {
        let connection = TcpStream::connect(self.address).expect("the server listens on TCP");
        connection.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        connection.set_nodelay(true).unwrap();
        connection
    }

    /// Its processor time so far as the kernel has seen it at its ticks: in the program, and in the kernel.
    pub fn ticks(&self) -> [u64; 2] {
        let stat = fs::read_to_string(format!("/proc/{}/stat", outside_id(self.process.id()))).unwrap();
        // Behind the name, which may have spaces.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        [11, 12].map(|index| fields[index].parse().unwrap())
    }

    /// Nanoseconds on a processor, of all its threads.
    pub fn cpu(&self) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", outside_id(self.process.id()))).unwrap();
        let of = |path: PathBuf| fs::read_to_string(path).ok()?.split(' ').next()?.parse::<u64>().ok();
        tasks.filter_map(|task| of(task.unwrap().path().join("schedstat"))).sum()
    }
}

fn waypost(folder: &Path) -> Option<Server> {
    let mut command = Command::new(WAYPOST);
    command
        .args(["run", "--role=dns", "--node-name=bench", "--dns-address=127.0.0.1:5301"])
        .arg("--manifests")
        .arg(folder.join("manifests"));
    command.args(["--dns-health-address=", "--dns-ready-address=", "--dns-metrics-address=127.0.0.1:5391"]);
    command.arg(format!("--dns-upstream={UPSTREAM_ADDRESS}"));
    Server::start(OURS, "127.0.0.1:5301", &mut command)
}

fn responder(name: &'static str, argument: &str, address: &str) -> Option<Server> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    Server::start(name, address, command.args([argument, address]))
}

fn knot(folder: &Path) -> Option<Server> {
    let text = format!(
        "server:\n  listen: 127.0.0.1@5303\n  rundir: {0}\ndatabase:\n  storage: {0}\ntemplate:\n - id: default\n   storage: {0}\n   journal-content: none\n\
         zone:\n - domain: cluster.local\n   file: zone\n",
        folder.display()
    );
    fs::write(folder.join("knot.conf"), text).unwrap();
    let mut command = Command::new("/usr/sbin/knotd");
    Server::start(KNOT, "127.0.0.1:5303", command.arg("-c").arg(folder.join("knot.conf")))
}

fn coredns(folder: &Path) -> Option<Server> {
    let corefile = format!(
        "cluster.local:5304 {{\n  bind 127.0.0.1\n  file {}/zone\n  prometheus 127.0.0.1:5394\n}}\n\
         .:5304 {{\n  bind 127.0.0.1\n  forward . {UPSTREAM_ADDRESS}\n  cache 30\n  prometheus 127.0.0.1:5394\n}}\n",
        folder.display()
    );
    fs::write(folder.join("Corefile"), corefile).unwrap();
    let mut command = tool("coredns");
    Server::start(COREDNS, "127.0.0.1:5304", command.arg("-conf").arg(folder.join("Corefile")))
}

/// The name of a service.
pub fn name_of(number: usize) -> String {
    format!("service-{number}.namespace-{}.svc.cluster.local", number % 100)
}

/// Its address.
pub fn address_of(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 96, (number / 250) as u8, (number % 250 + 1) as u8)
}

/// A question as it is sent.
pub fn question(name: &str, rtype: u16) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend_from_slice(&rtype.to_be_bytes());
    bytes.extend_from_slice(&[0, 1]);
    bytes
}

fn manifests() -> Vec<u8> {
    let mut text = Vec::new();
    for number in 0..100 {
        writeln!(text, "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: namespace-{number}}}").unwrap();
    }
    for number in 0..SERVICES {
        writeln!(
            text,
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: service-{number}, namespace: namespace-{}}}\n\
             spec: {{clusterIP: {address}, clusterIPs: [{address}], ports: [{{name: http, port: 80}}]}}",
            number % 100,
            address = address_of(number),
        )
        .unwrap();
    }
    text
}

fn zone() -> Vec<u8> {
    let mut text = Vec::new();
    writeln!(
        text,
        "$ORIGIN cluster.local.\n@ 30 SOA ns.dns hostmaster 1 7200 1800 86400 30\n@ 30 NS ns.dns\nns.dns 30 A 127.0.0.1"
    )
    .unwrap();
    for number in 0..SERVICES {
        writeln!(text, "{}. 30 A {}", name_of(number), address_of(number)).unwrap();
    }
    text
}
