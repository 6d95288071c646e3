//! What a DNS question costs: over UDP and TCP, for names of the cluster and for forwarded ones, and how long an answer takes.
//!
//! Each server answers the same questions in turns; CPU time is the kernel's count for the whole process. Only loopback is used, and each run
//! has a fixed number of questions.

use super::paced::{RATE, ask_at_a_pace};
use super::report::{Row, Spread, Unit, percentile};
use super::responders::ELSEWHERE;
use super::servers::{COREDNS, FLOOR_NAME, KNOT, OURS, SERVICES, Server, address_of, name_of, question};
use super::{Bench, ROUNDS};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg};
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, sendmmsg};
use std::cell::Cell;
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

const QUESTIONS: usize = 200_000;
/// Connections with one question each.
const CONNECTIONS: usize = 5_000;
/// Of those that a server asks another one.
const FORWARDED: usize = 20_000;
/// Names that are in a cache.
const CACHED: usize = 1000;
/// How they begin.
const CACHED_PREFIX: &str = "cached";
const BURST: usize = 32;
/// A server on a busy machine is asked no longer than this: then fewer questions have to do.
const LONGEST: Duration = Duration::from_secs(20);

/// Rows that are measured together.
type Group = (&'static [&'static str], fn(&[&Server]) -> Vec<Row>);

const GROUPS: &[Group] = &[
    (&["dns-cpu", "dns-rate"], hit),
    (&["dns-missing-cpu"], missed),
    (&["dns-tcp-cpu"], over_tcp),
    (&["dns-tcp-one-cpu"], over_connections),
    (&["dns-cached-cpu"], cached),
    (&["dns-forwarded-cpu"], forwarded),
    (&["dns-p50", "dns-p99"], latencies),
];

/// Measures all rows that are wanted.
pub fn measure(bench: &Bench, rows: &mut Vec<Row>) {
    let (servers, _upstream) = Server::start_all();
    let servers: Vec<&Server> = servers.iter().collect();
    for (names, measure) in GROUPS.iter().filter(|(names, _)| bench.wants(names)) {
        bench.attempt(names, || {
            bench.add(rows, measure(&servers));
            of_names(&servers, &[OURS]).into_iter().for_each(answers_everything);
        });
    }
}

/// No row was reached by leaving work out: every name of the cluster and of elsewhere has the address that it should, over UDP and TCP.
///
/// # Panics
/// With the first name that has not.
fn answers_everything(server: &Server) {
    let of_cluster = (0..SERVICES).map(|number| (name_of(number), address_of(number)));
    let elsewhere = (0..CACHED).map(|number| (format!("{CACHED_PREFIX}-{number}.example.com"), ELSEWHERE));
    let (client, mut connection) = (server.client(), server.connection());
    for (name, address) in of_cluster.chain(elsewhere) {
        let (question, mut answer) = (question(&name, 1), [0; 1500]);
        // A datagram may be lost on a busy machine.
        let length = (0..10).find_map(|_| {
            client.send(&question).expect("the server is there");
            client.recv(&mut answer).ok()
        });
        assert!(
            answer[..length.unwrap_or(0)].ends_with(&address.octets()),
            "{name} over UDP: {:?}",
            &answer[..length.unwrap_or(0)]
        );
        connection.write_all(&framed(&question)).expect("the server reads");
        let length = read_answer(&mut connection, &mut answer);
        assert!(answer[..length].ends_with(&address.octets()), "{name} over TCP: {:?}", &answer[..length]);
    }
    let missing = question(&format!("www.{}", name_of(0)), 1);
    connection.write_all(&framed(&missing)).expect("the server reads");
    let mut answer = [0; 1500];
    read_answer(&mut connection, &mut answer);
    assert_eq!(answer[3] & 0x0f, 3, "what does not exist is said to");
}

fn hit(servers: &[&Server]) -> Vec<Row> {
    let taken = in_turns(servers, |server| ask(server, &hits(), QUESTIONS));
    let cost = over_udp("dns-cpu", "processor time for the address of a service, UDP", servers, &taken);
    let rate = [COREDNS, KNOT].map(|peer| {
        let row = Row::new("dns-rate", "questions a second over UDP, client included", 0, Unit::PerSecond);
        row.beside(peer, beside(servers, &taken, peer, |taken| taken.rate)).goal(None, 1.0)
    });
    cost.map(|row| row.goal(2.6e-6, None)).into_iter().chain(rate).collect()
}

fn missed(servers: &[&Server]) -> Vec<Row> {
    let taken = in_turns(servers, |server| ask(server, &misses(), QUESTIONS));
    over_udp("dns-missing-cpu", "processor time for a name of the search path that is missing, UDP", servers, &taken).into()
}

/// What an answer costs, beside both peers.
fn over_udp(name: &'static str, what: &'static str, servers: &[&Server], taken: &[Vec<Taken>]) -> [Row; 2] {
    let floor = of(servers, taken, FLOOR_NAME, |taken| taken.cpu);
    let floor = Spread::of(&floor).map_or(0.0, |floor| floor.median * 1e6);
    [COREDNS, KNOT].map(|peer| {
        let row = Row::new(name, what, 0, Unit::Seconds).beside(peer, beside(servers, taken, peer, |taken| taken.cpu));
        row.note(format!("a responder that only turns datagrams round: {floor:.2} µs; {}", asked(servers, taken)))
    })
}

fn over_tcp(servers: &[&Server]) -> Vec<Row> {
    let questions = hits();
    let name = "dns-tcp-cpu";
    beside_both(name, "processor time for the address of a service, TCP", servers, |server| ask_over_tcp(server, &questions))
}

fn over_connections(servers: &[&Server]) -> Vec<Row> {
    let questions = hits();
    let what = "processor time for the address of a service, a TCP connection for each question";
    beside_both("dns-tcp-one-cpu", what, servers, |server| ask_over_connections(server, &questions))
}

/// What an answer over TCP costs, beside both peers.
fn beside_both(name: &'static str, what: &'static str, servers: &[&Server], ask: impl FnMut(&Server) -> Taken) -> Vec<Row> {
    let with_tcp = of_names(servers, &[OURS, COREDNS, KNOT]);
    let taken = in_turns(&with_tcp, ask);
    let row = |peer| {
        let row = Row::new(name, what, 0, Unit::Seconds).note(asked(&with_tcp, &taken));
        row.beside(peer, beside(&with_tcp, &taken, peer, |taken| taken.cpu))
    };
    vec![row(COREDNS).goal(None, 2.0), row(KNOT)]
}

/// Names that another server knows, and that are in the cache.
fn cached(servers: &[&Server]) -> Vec<Row> {
    let names = forwarded_names(CACHED_PREFIX, CACHED);
    beside_coredns("dns-cached-cpu", "processor time for a forwarded name in the cache, UDP", servers, |server| {
        ask(server, &names, names.len());
        ask(server, &names, QUESTIONS)
    })
}

/// Names that another server knows, each for the first time.
fn forwarded(servers: &[&Server]) -> Vec<Row> {
    let round = Cell::new(0);
    beside_coredns("dns-forwarded-cpu", "processor time for a name that is forwarded, UDP", servers, |server| {
        round.set(round.get() + 1);
        ask(server, &forwarded_names(&format!("new-{}", round.get()), FORWARDED), FORWARDED)
    })
}

fn beside_coredns(name: &'static str, what: &'static str, servers: &[&Server], ask: impl FnMut(&Server) -> Taken) -> Vec<Row> {
    let forwarding = of_names(servers, &[OURS, COREDNS]);
    let taken = in_turns(&forwarding, ask);
    let row = Row::new(name, what, 0, Unit::Seconds).beside(COREDNS, beside(&forwarding, &taken, COREDNS, |taken| taken.cpu));
    vec![row.goal(None, 2.0).note(asked(&forwarding, &taken))]
}

fn latencies(servers: &[&Server]) -> Vec<Row> {
    let (servers, questions) = (of_names(servers, &[OURS, COREDNS]), hits());
    let taken = in_turns(&servers, |server| ask_at_a_pace(&server.client(), &questions, RATE));
    let row = |(name, what, share, goal): (_, _, f64, Option<f64>)| {
        let both = beside(&servers, &taken, COREDNS, |latencies| percentile(latencies, share));
        Row::new(name, what, 0, Unit::Seconds).beside(COREDNS, both).goal(None, goal)
    };
    let rows = [
        ("dns-p50", "20,000 questions a second over UDP: p50", 0.5, None),
        ("dns-p99", "20,000 questions a second over UDP: p99", 0.99, Some(3.0)),
    ];
    rows.map(row).into()
}

fn of_names<'a>(servers: &[&'a Server], names: &[&str]) -> Vec<&'a Server> {
    servers.iter().copied().filter(|server| names.contains(&server.name)).collect()
}

/// What each server came to in each round.
fn in_turns<T>(servers: &[&Server], mut measure: impl FnMut(&Server) -> T) -> Vec<Vec<T>> {
    let mut taken: Vec<Vec<T>> = servers.iter().map(|_| Vec::new()).collect();
    for _ in 0..ROUNDS {
        servers.iter().zip(&mut taken).for_each(|(server, taken)| taken.push(measure(server)));
    }
    taken
}

/// A value of one server, round by round.
fn of<T>(servers: &[&Server], taken: &[Vec<T>], name: &str, value: impl Fn(&T) -> f64) -> Vec<f64> {
    let found = servers.iter().zip(taken).find(|(server, _)| server.name == name);
    found.map(|(_, taken)| taken.iter().map(value).collect()).unwrap_or_default()
}

/// A value of this agent and of a peer.
fn beside<T>(servers: &[&Server], taken: &[Vec<T>], peer: &str, value: impl Fn(&T) -> f64) -> [Vec<f64>; 2] {
    [OURS, peer].map(|name| of(servers, taken, name, &value))
}

/// How many questions each server was asked, and has not answered, and where its time went.
fn asked(servers: &[&Server], taken: &[Vec<Taken>]) -> String {
    let of_server = |(server, taken): (&&Server, &Vec<Taken>)| {
        let sum = |value: fn(&Taken) -> usize| taken.iter().map(value).sum::<usize>();
        let [program, kernel] = [0, 1].map(|index| taken.iter().map(|taken| taken.ticks[index]).sum::<u64>());
        let share = 100 * kernel / (program + kernel).max(1);
        let (asked, lost) = (sum(|taken| taken.asked), sum(|taken| taken.lost));
        format!("{}: {asked} asked, {lost} lost, {share} % of its time in the kernel", server.name)
    };
    servers.iter().zip(taken).map(of_server).collect::<Vec<_>>().join("; ")
}

/// What a run of one server came to.
#[derive(Clone, Copy)]
struct Taken {
    /// CPU time of the server for each question, seconds.
    cpu: f64,
    /// Questions a second, the client's work included.
    rate: f64,
    asked: usize,
    lost: usize,
    /// In the program, and in the kernel.
    ticks: [u64; 2],
}

/// Asks this many questions over UDP, in bursts from two sockets.
fn ask(server: &Server, questions: &[Vec<u8>], count: usize) -> Taken {
    let clients = [server.client(), server.client()];
    let mut headers = MultiHeaders::preallocate(BURST, None);
    measured(server, count, |burst| {
        let of = |client: usize| questions.iter().cycle().skip((burst * clients.len() + client) * BURST % questions.len());
        clients.iter().enumerate().for_each(|(index, client)| send(client, of(index)));
        clients.iter().map(|client| BURST - receive(client, &mut headers)).sum::<usize>()
    })
}

/// Asks over one TCP connection, as many questions at a time as over UDP.
fn ask_over_tcp(server: &Server, questions: &[Vec<u8>]) -> Taken {
    let mut connection = server.connection();
    let framed: Vec<Vec<u8>> = questions.iter().map(|question| framed(question)).collect();
    measured(server, QUESTIONS, |burst| {
        let burst = framed.iter().cycle().skip(burst * 2 * BURST % framed.len()).take(2 * BURST);
        connection.write_all(&burst.cloned().collect::<Vec<_>>().concat()).expect("the server reads");
        let mut answer = [0; 1500];
        for _ in 0..2 * BURST {
            read_answer(&mut connection, &mut answer);
            assert_eq!(answer[7], 1, "a service has an address");
        }
        0
    })
}

/// Asks each question over a connection of its own, one after the other.
fn ask_over_connections(server: &Server, questions: &[Vec<u8>]) -> Taken {
    let framed: Vec<Vec<u8>> = questions.iter().map(|question| framed(question)).collect();
    measured(server, CONNECTIONS, |burst| {
        for question in framed.iter().cycle().skip(burst * 2 * BURST % framed.len()).take(2 * BURST) {
            let (mut connection, mut answer) = (server.connection(), [0; 1500]);
            connection.write_all(question).expect("the server reads");
            read_answer(&mut connection, &mut answer);
            assert_eq!(answer[7], 1, "a service has an address");
        }
        0
    })
}

/// Has it asked in pairs of bursts, as long as there is time; each call says how many questions were lost.
fn measured(server: &Server, count: usize, mut ask_two_bursts: impl FnMut(usize) -> usize) -> Taken {
    let (cpu, ticks, began) = (server.cpu(), server.ticks(), Instant::now());
    let (mut bursts, mut lost) = (0, 0);
    while bursts < count / (2 * BURST) && began.elapsed() < LONGEST {
        lost += ask_two_bursts(bursts);
        bursts += 1;
    }
    let (cpu, asked, rate) =
        (server.cpu() - cpu, bursts * 2 * BURST, (bursts * 2 * BURST) as f64 / began.elapsed().as_secs_f64());
    let (before, after) = (ticks, server.ticks());
    Taken { cpu: cpu as f64 / 1e9 / asked as f64, rate, asked, lost, ticks: [after[0] - before[0], after[1] - before[1]] }
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

/// A question as it is sent over TCP.
fn framed(question: &[u8]) -> Vec<u8> {
    [&(question.len() as u16).to_be_bytes(), question].concat()
}

/// Reads an answer that comes over TCP, and says how long it is.
fn read_answer(connection: &mut TcpStream, answer: &mut [u8; 1500]) -> usize {
    let mut length = [0; 2];
    connection.read_exact(&mut length).expect("the server answers");
    let length = usize::from(u16::from_be_bytes(length));
    connection.read_exact(&mut answer[..length]).expect("an answer is whole");
    length
}

fn hits() -> Vec<Vec<u8>> {
    (0..SERVICES).map(|number| question(&name_of(number * 7919 % SERVICES), 1)).collect()
}

fn misses() -> Vec<Vec<u8>> {
    (0..SERVICES)
        .map(|number| question(&format!("www{number}.example.com.namespace-{}.svc.cluster.local", number % 100), 1))
        .collect()
}

fn forwarded_names(prefix: &str, count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|number| question(&format!("{prefix}-{number}.example.com"), 1)).collect()
}
