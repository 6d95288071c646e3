//! What a DNS question over UDP costs: this agent beside Knot DNS and CoreDNS with the same names, and beside a responder that only turns datagrams
//! round, which is the floor of any server that uses sockets.
//!
//! `make bench-dns` runs it. Each server answers the same questions in turns; CPU time is the kernel's count for the whole process. Only
//! loopback is used, and each run has a fixed number of questions.

use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg};
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrAny, sendmmsg};
use std::fs;
use std::io::{IoSlice, IoSliceMut, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const SERVICES: usize = 10_000;
const QUESTIONS: usize = 200_000;
const ROUNDS: usize = 7;
const BURST: usize = 32;
const FLOOR: &str = "--floor";
/// An answer that takes longer counts as lost.
const PATIENCE: Duration = Duration::from_millis(200);

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(place) = arguments.iter().position(|argument| argument == FLOOR) {
        return turn_round(arguments[place + 1].parse().unwrap());
    }
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("bench-dns");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(folder.join("manifests")).unwrap();
    fs::write(folder.join("manifests/services.yaml"), manifests()).unwrap();
    fs::write(folder.join("zone"), zone()).unwrap();
    let servers: Vec<Server> = [waypost(&folder), floor(), knot(&folder), coredns(&folder)].into_iter().flatten().collect();
    for (what, questions) in [("address of a service", hits()), ("search path, no such name", misses())] {
        let mut taken: Vec<Vec<Taken>> = servers.iter().map(|_| Vec::new()).collect();
        for _ in 0..ROUNDS {
            for (server, taken) in servers.iter().zip(&mut taken) {
                taken.push(server.ask(&questions));
            }
        }
        report(what, &servers, &taken);
    }
}

/// What a run of one server came to.
#[derive(Clone, Copy)]
struct Taken {
    /// CPU time of the server for each question, microseconds.
    cpu: f64,
    /// Questions a second, the client's work included.
    rate: f64,
    lost: usize,
}

struct Server {
    name: &'static str,
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
            if client.recv(&mut answer).is_ok_and(|length| length > 12 && (answer[7] == 1 || name == "floor")) {
                return Some(server);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn client(&self) -> UdpSocket {
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(self.address).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client
    }

    /// Nanoseconds on a processor, of all its threads.
    fn cpu(&self) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.process.id())).unwrap();
        let of = |path: PathBuf| fs::read_to_string(path).ok()?.split(' ').next()?.parse::<u64>().ok();
        tasks.filter_map(|task| of(task.unwrap().path().join("schedstat"))).sum()
    }

    fn ask(&self, questions: &[Vec<u8>]) -> Taken {
        let clients = [self.client(), self.client()];
        let (cpu, began) = (self.cpu(), Instant::now());
        let mut lost = 0;
        let mut headers = MultiHeaders::preallocate(BURST, None);
        for burst in 0..QUESTIONS / (BURST * clients.len()) {
            let of = |client: usize| questions.iter().cycle().skip((burst * clients.len() + client) * BURST % questions.len());
            clients.iter().enumerate().for_each(|(index, client)| send(client, of(index)));
            lost += clients.iter().map(|client| BURST - receive(client, &mut headers)).sum::<usize>();
        }
        let cpu = self.cpu() - cpu;
        Taken { cpu: cpu as f64 / 1e3 / QUESTIONS as f64, rate: QUESTIONS as f64 / began.elapsed().as_secs_f64(), lost }
    }
}

fn send<'a>(client: &UdpSocket, questions: impl Iterator<Item = &'a Vec<u8>>) {
    let slices: Vec<[IoSlice<'_>; 1]> = questions.take(BURST).map(|question| [IoSlice::new(question)]).collect();
    let mut controls: Vec<_> = slices.iter().map(|_| SendAncillaryBuffer::default()).collect();
    let mut messages: Vec<_> = slices.iter().zip(&mut controls).map(|(slice, control)| MMsgHdr::new(slice, control)).collect();
    assert_eq!(sendmmsg(client, &mut messages, SendFlags::empty()).unwrap(), BURST);
}

/// How many answers came.
fn receive(client: &UdpSocket, headers: &mut MultiHeaders<SockaddrStorage>) -> usize {
    let mut buffers = [[0; 1500]; BURST];
    let mut received = 0;
    while received < BURST {
        let mut slices: Vec<_> = buffers[received..].iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        match recvmmsg(client.as_raw_fd(), headers, slices.iter_mut(), MsgFlags::MSG_WAITFORONE, None) {
            Ok(answers) => received += answers.count(),
            Err(_) => break,
        }
    }
    received
}

fn report(what: &str, servers: &[Server], taken: &[Vec<Taken>]) {
    println!("\n{what}, UDP, {SERVICES} services, {ROUNDS} runs of {QUESTIONS} questions (min / median / max)");
    println!("{:10} {:>22} {:>28} {:>8} {:>8}", "", "CPU µs/question", "questions/s", "× CPU", "lost");
    let spread = |taken: &[Taken], of: fn(&Taken) -> f64| {
        let mut values: Vec<f64> = taken.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        (values[0], values[values.len() / 2], values[values.len() - 1])
    };
    let ours = spread(&taken[0], |taken| taken.cpu).1;
    for (server, taken) in servers.iter().zip(taken) {
        let (cpu, rate) = (spread(taken, |taken| taken.cpu), spread(taken, |taken| taken.rate));
        let lost: usize = taken.iter().map(|taken| taken.lost).sum();
        println!(
            "{:10} {:6.2} /{:6.2} /{:6.2} {:8.0} /{:8.0} /{:8.0} {:8.2} {:8}",
            server.name,
            cpu.0,
            cpu.1,
            cpu.2,
            rate.0,
            rate.1,
            rate.2,
            cpu.1 / ours,
            lost
        );
    }
}

fn waypost(folder: &Path) -> Option<Server> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_waypost"));
    command
        .args(["run", "--role=dns", "--node-name=bench", "--dns-address=127.0.0.1:5301"])
        .arg("--manifests")
        .arg(folder.join("manifests"));
    command.args(["--dns-health-address=", "--dns-ready-address=", "--dns-metrics-address=127.0.0.1:5391"]);
    Server::start("waypost", "127.0.0.1:5301", &mut command)
}

fn floor() -> Option<Server> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    Server::start("floor", "127.0.0.1:5302", command.args([FLOOR, "127.0.0.1:5302"]))
}

fn knot(folder: &Path) -> Option<Server> {
    let text = format!(
        "server:\n  listen: 127.0.0.1@5303\n  rundir: {0}\ndatabase:\n  storage: {0}\ntemplate:\n - id: default\n   storage: {0}\n   journal-content: none\n\
         zone:\n - domain: cluster.local\n   file: zone\n",
        folder.display()
    );
    fs::write(folder.join("knot.conf"), text).unwrap();
    let mut command = Command::new("/usr/sbin/knotd");
    Server::start("knot", "127.0.0.1:5303", command.arg("-c").arg(folder.join("knot.conf")))
}

fn coredns(folder: &Path) -> Option<Server> {
    let corefile =
        format!("cluster.local:5304 {{\n  bind 127.0.0.1\n  file {}/zone\n  prometheus 127.0.0.1:5394\n}}\n", folder.display());
    fs::write(folder.join("Corefile"), corefile).unwrap();
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/coredns"));
    Server::start("coredns", "127.0.0.1:5304", command.arg("-conf").arg(folder.join("Corefile")))
}

/// Sends every datagram back as a response.
fn turn_round(address: SocketAddr) {
    let socket = UdpSocket::bind(address).unwrap();
    let mut headers: MultiHeaders<SockaddrStorage> = MultiHeaders::preallocate(BURST, None);
    let mut buffers = [[0_u8; 1500]; BURST];
    loop {
        let mut slices: Vec<_> = buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let received = recvmmsg(socket.as_raw_fd(), &mut headers, slices.iter_mut(), MsgFlags::MSG_WAITFORONE, None).unwrap();
        let met: Vec<(usize, SocketAddrAny)> = received
            .map(|message| {
                let client = *message.address.unwrap().as_sockaddr_in().unwrap();
                (message.bytes, SocketAddr::from((client.ip(), client.port())).into())
            })
            .collect();
        buffers.iter_mut().take(met.len()).for_each(|buffer| buffer[2] |= 0x80);
        let slices: Vec<_> = met.iter().zip(&buffers).map(|((length, _), buffer)| [IoSlice::new(&buffer[..*length])]).collect();
        let mut controls: Vec<_> = slices.iter().map(|_| SendAncillaryBuffer::default()).collect();
        let messages = met.iter().zip(&slices).zip(&mut controls);
        let mut messages: Vec<_> =
            messages.map(|(((_, client), slice), control)| MMsgHdr::new_with_addr(client, slice, control)).collect();
        let mut sent = 0;
        while sent < messages.len() {
            sent += sendmmsg(&socket, &mut messages[sent..], SendFlags::empty()).unwrap();
        }
    }
}

fn name_of(number: usize) -> String {
    format!("service-{number}.namespace-{}.svc.cluster.local", number % 100)
}

fn address_of(number: usize) -> String {
    format!("10.96.{}.{}", number / 250, number % 250 + 1)
}

fn hits() -> Vec<Vec<u8>> {
    (0..SERVICES).map(|number| question(&name_of(number * 7919 % SERVICES), 1)).collect()
}

fn misses() -> Vec<Vec<u8>> {
    (0..SERVICES)
        .map(|number| question(&format!("www{number}.example.com.namespace-{}.svc.cluster.local", number % 100), 1))
        .collect()
}

fn question(name: &str, rtype: u16) -> Vec<u8> {
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
