//! What a DNS question costs: over UDP and TCP, for names of the cluster and for forwarded ones, and how long an answer takes.
//!
//! Each server answers the same questions in turns; CPU time is the kernel's count for the whole process. Only loopback is used, and each run
//! has a fixed number of questions.

use super::ROUNDS;
use super::paced::ask_at_a_pace;
use super::report::{Row, Spread, Unit, percentile};
use super::servers::{COREDNS, FLOOR_NAME, KNOT, OURS, SERVICES, Server, name_of, question};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg};
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, sendmmsg};
use std::cell::Cell;
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Instant;

const QUESTIONS: usize = 200_000;
/// Of those that a server asks another one.
const FORWARDED: usize = 20_000;
const BURST: usize = 32;

/// All rows.
pub fn rows() -> Vec<Row> {
    let (servers, _upstream) = Server::start_all();
    let servers: Vec<&Server> = servers.iter().collect();
    let mut rows = over_udp(&servers);
    rows.extend(over_tcp(&servers));
    rows.extend(forwarded(&servers));
    rows.extend(latencies(&servers));
    rows
}

fn over_udp(servers: &[&Server]) -> Vec<Row> {
    let mut rows = Vec::new();
    let costs = [
        ("dns-cpu", "processor time for the address of a service, UDP", hits(), Some(2.6e-6)),
        ("dns-missing-cpu", "processor time for a name of the search path that is missing, UDP", misses(), None),
    ];
    for (name, what, questions, goal) in costs {
        let taken = in_turns(servers, |server| ask(server, &questions, QUESTIONS));
        let floor = of(servers, &taken, FLOOR_NAME, |taken| taken.cpu);
        let floor = Spread::of(&floor).map_or(0.0, |floor| floor.median * 1e6);
        for peer in [COREDNS, KNOT] {
            let both = |value: fn(&Taken) -> f64| beside(servers, &taken, peer, value);
            let lost = lost(servers, &taken);
            let note = format!("a responder that only turns datagrams round: {floor:.2} µs; lost here: {lost}");
            rows.push(Row::new(name, what, 0, Unit::Seconds).beside(peer, both(|taken| taken.cpu)).goal(goal, None).note(note));
            if name == "dns-cpu" {
                let row = Row::new("dns-rate", "questions a second over UDP, client included", 0, Unit::PerSecond);
                rows.push(row.beside(peer, both(|taken| taken.rate)).goal(None, 1.0));
            }
        }
    }
    rows
}

fn over_tcp(servers: &[&Server]) -> Vec<Row> {
    let (with_tcp, questions) = (of_names(servers, &[OURS, COREDNS, KNOT]), hits());
    let taken = in_turns(&with_tcp, |server| ask_over_tcp(server, &questions));
    let row = |peer| {
        let row = Row::new("dns-tcp-cpu", "processor time for the address of a service, TCP", 0, Unit::Seconds);
        row.beside(peer, beside(&with_tcp, &taken, peer, |taken| taken.cpu))
            .goal(None, if peer == COREDNS { Some(2.0) } else { None })
    };
    let note = format!("one connection, {BURST} questions at a time");
    vec![row(COREDNS).note(note.clone()), row(KNOT).note(note)]
}

/// Names that another server knows: those that are in the cache, and each for the first time.
fn forwarded(servers: &[&Server]) -> Vec<Row> {
    let forwarding = of_names(servers, &[OURS, COREDNS]);
    let (cached, new) = (forwarded_names("cached", 1000), Cell::new(0));
    let taken_cached = in_turns(&forwarding, |server| {
        ask(server, &cached, cached.len());
        ask(server, &cached, QUESTIONS)
    });
    let taken_new = in_turns(&forwarding, |server| {
        new.set(new.get() + 1);
        ask(server, &forwarded_names(&format!("new-{}", new.get()), FORWARDED), FORWARDED)
    });
    let row = |name, what, taken: &[Vec<Taken>]| {
        let row = Row::new(name, what, 0, Unit::Seconds).beside(COREDNS, beside(&forwarding, taken, COREDNS, |taken| taken.cpu));
        row.goal(None, 2.0).note(format!("lost here: {}", lost(&forwarding, taken)))
    };
    vec![
        row("dns-cached-cpu", "processor time for a forwarded name in the cache, UDP", &taken_cached),
        row("dns-forwarded-cpu", "processor time for a name that is forwarded, UDP", &taken_new),
    ]
}

fn latencies(servers: &[&Server]) -> Vec<Row> {
    let questions = hits();
    let taken = in_turns(servers, |server| ask_at_a_pace(&server.client(), &questions));
    let row = |(name, what, share, goal): (_, _, f64, Option<f64>)| {
        let both = beside(servers, &taken, COREDNS, |latencies| percentile(latencies, share));
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

/// How many questions this agent has not answered.
fn lost(servers: &[&Server], taken: &[Vec<Taken>]) -> f64 {
    of(servers, taken, OURS, |taken| taken.lost as f64).iter().sum()
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
    let framed = |question: &Vec<u8>| [&(question.len() as u16).to_be_bytes(), question.as_slice()].concat();
    let framed: Vec<Vec<u8>> = questions.iter().map(framed).collect();
    measured(server, QUESTIONS, |burst| {
        let burst = framed.iter().cycle().skip(burst * 2 * BURST % framed.len()).take(2 * BURST);
        connection.write_all(&burst.cloned().collect::<Vec<_>>().concat()).expect("the server reads");
        (0..2 * BURST).for_each(|_| read_answer(&mut connection));
        0
    })
}

/// Has it asked in pairs of bursts; each call says how many questions were lost.
fn measured(server: &Server, count: usize, mut ask_two_bursts: impl FnMut(usize) -> usize) -> Taken {
    let (cpu, began, bursts) = (server.cpu(), Instant::now(), count / (2 * BURST));
    let lost = (0..bursts).map(&mut ask_two_bursts).sum();
    let (cpu, count) = (server.cpu() - cpu, (bursts * 2 * BURST) as f64);
    Taken { cpu: cpu as f64 / 1e9 / count, rate: count / began.elapsed().as_secs_f64(), lost }
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

fn read_answer(connection: &mut TcpStream) {
    let (mut length, mut answer) = ([0; 2], [0; 1500]);
    connection.read_exact(&mut length).expect("the server answers");
    let length = usize::from(u16::from_be_bytes(length));
    connection.read_exact(&mut answer[..length]).expect("an answer is whole");
    assert_eq!(answer[7], 1, "a service has an address");
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
