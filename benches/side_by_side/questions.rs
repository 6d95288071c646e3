//! What a DNS question over UDP costs: this agent beside Knot DNS and CoreDNS with the same names, and beside a responder that only turns datagrams
//! round, which is the floor of any server that uses sockets.
//!
//! Each server answers the same questions in turns; CPU time is the kernel's count for the whole process. Only loopback is used, and each run
//! has a fixed number of questions.

use super::ROUNDS;
use super::report::{Row, Spread, Unit, percentile};
use crate::agent::WAYPOST;
use crate::cluster::tool;
use crate::processes::outside_id;
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
const BURST: usize = 32;
/// The argument that makes this program the responder.
pub const FLOOR: &str = "--floor";
/// Latencies are taken at this rate, for so long.
const RATE: u32 = 20_000;
const PACED: Duration = Duration::from_secs(4);
/// An answer that takes longer counts as lost.
const PATIENCE: Duration = Duration::from_millis(200);

/// All rows. A server that is not installed is left out.
pub fn rows() -> Vec<Row> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-dns");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(folder.join("manifests")).unwrap();
    fs::write(folder.join("manifests/services.yaml"), manifests()).unwrap();
    fs::write(folder.join("zone"), zone()).unwrap();
    let servers: Vec<Server> = [waypost(&folder), floor(), knot(&folder), coredns(&folder)].into_iter().flatten().collect();
    let mut rows = Vec::new();
    let costs = [
        ("dns-cpu", "processor time for the address of a service, UDP", hits(), Some(2.6e-6)),
        ("dns-missing-cpu", "processor time for a name of the search path that is missing, UDP", misses(), None),
    ];
    for (name, what, questions, goal) in costs {
        let taken = in_turns(&servers, |server| server.ask(&questions));
        let floor = of(&servers, &taken, FLOOR_NAME, |taken| taken.cpu);
        let floor = Spread::of(&floor).map_or(0.0, |floor| floor.median * 1e6);
        for peer in [COREDNS, KNOT] {
            let both = |value: fn(&Taken) -> f64| [OURS, peer].map(|name| of(&servers, &taken, name, value));
            let lost: usize = of(&servers, &taken, OURS, |taken| taken.lost as f64).iter().sum::<f64>() as usize;
            let note = format!("a responder that only turns datagrams round: {floor:.2} µs; lost here: {lost}");
            rows.push(Row::new(name, what, 0, Unit::Seconds).beside(peer, both(|taken| taken.cpu)).goal(goal, None).note(note));
            if name == "dns-cpu" {
                let row = Row::new("dns-rate", "questions a second over UDP, client included", 0, Unit::PerSecond);
                rows.push(row.beside(peer, both(|taken| taken.rate)).goal(None, 1.0));
            }
        }
    }
    let questions = hits();
    let taken = in_turns(&servers, |server| server.ask_at_a_pace(&questions));
    for (name, what, share, goal) in [
        ("dns-p50", "20,000 questions a second over UDP: p50", 0.5, None),
        ("dns-p99", "20,000 questions a second over UDP: p99", 0.99, Some(3.0)),
    ] {
        let both = [OURS, COREDNS].map(|name| of(&servers, &taken, name, |latencies| percentile(latencies, share)));
        rows.push(Row::new(name, what, 0, Unit::Seconds).beside(COREDNS, both).goal(None, goal));
    }
    rows
}

const OURS: &str = "waypost";
const FLOOR_NAME: &str = "floor";
const KNOT: &str = "Knot DNS";
const COREDNS: &str = "CoreDNS";

/// What each server came to in each round.
fn in_turns<T>(servers: &[Server], mut measure: impl FnMut(&Server) -> T) -> Vec<Vec<T>> {
    let mut taken: Vec<Vec<T>> = servers.iter().map(|_| Vec::new()).collect();
    for _ in 0..ROUNDS {
        servers.iter().zip(&mut taken).for_each(|(server, taken)| taken.push(measure(server)));
    }
    taken
}

/// A value of one server, round by round.
fn of<T>(servers: &[Server], taken: &[Vec<T>], name: &str, value: impl Fn(&T) -> f64) -> Vec<f64> {
    let found = servers.iter().zip(taken).find(|(server, _)| server.name == name);
    found.map(|(_, taken)| taken.iter().map(value).collect()).unwrap_or_default()
}

/// What a run of one server came to.
#[derive(Clone, Copy)]
struct Taken {
    /// CPU time of the server for each question, seconds.
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
            if client.recv(&mut answer).is_ok_and(|length| length > 12 && (answer[7] == 1 || name == FLOOR_NAME)) {
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
        let tasks = fs::read_dir(format!("/proc/{}/task", outside_id(self.process.id()))).unwrap();
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
        Taken { cpu: cpu as f64 / 1e9 / QUESTIONS as f64, rate: QUESTIONS as f64 / began.elapsed().as_secs_f64(), lost }
    }

    /// How long each answer takes when questions come at a steady rate, whether or not earlier ones are answered; one that does not come
    /// counts as long as the client's patience.
    fn ask_at_a_pace(&self, questions: &[Vec<u8>]) -> Vec<f64> {
        let client = self.client();
        client.set_nonblocking(true).unwrap();
        let count = (RATE as f64 * PACED.as_secs_f64()) as usize;
        // By the number that the question carries.
        let mut sent: Vec<Option<Instant>> = vec![None; 1 << 16];
        let (mut latencies, mut next, mut answer) = (Vec::with_capacity(count), 0, [0; 1500]);
        let began = Instant::now();
        while next < count || (latencies.len() < count && began.elapsed() < PACED + PATIENCE) {
            let due = (began.elapsed().as_secs_f64() * f64::from(RATE)) as usize;
            while next < due.min(count) {
                let mut question = questions[next % questions.len()].clone();
                question[..2].copy_from_slice(&(next as u16).to_be_bytes());
                sent[usize::from(next as u16)] = Some(Instant::now());
                // A full buffer is a lost question.
                let _ = client.send(&question);
                next += 1;
            }
            while client.recv(&mut answer).is_ok() {
                let number = usize::from(u16::from_be_bytes([answer[0], answer[1]]));
                latencies.extend(sent[number].take().map(|sent| sent.elapsed().as_secs_f64()));
            }
            std::hint::spin_loop();
        }
        latencies.resize(count, PATIENCE.as_secs_f64());
        latencies
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

fn waypost(folder: &Path) -> Option<Server> {
    let mut command = Command::new(WAYPOST);
    command
        .args(["run", "--role=dns", "--node-name=bench", "--dns-address=127.0.0.1:5301"])
        .arg("--manifests")
        .arg(folder.join("manifests"));
    command.args(["--dns-health-address=", "--dns-ready-address=", "--dns-metrics-address=127.0.0.1:5391"]);
    Server::start(OURS, "127.0.0.1:5301", &mut command)
}

fn floor() -> Option<Server> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    Server::start(FLOOR_NAME, "127.0.0.1:5302", command.args([FLOOR, "127.0.0.1:5302"]))
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
    let corefile =
        format!("cluster.local:5304 {{\n  bind 127.0.0.1\n  file {}/zone\n  prometheus 127.0.0.1:5394\n}}\n", folder.display());
    fs::write(folder.join("Corefile"), corefile).unwrap();
    let mut command = tool("coredns");
    Server::start(COREDNS, "127.0.0.1:5304", command.arg("-conf").arg(folder.join("Corefile")))
}

/// Sends every datagram back as a response.
pub fn turn_round(address: SocketAddr) -> ! {
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
