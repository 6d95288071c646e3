//! An agent that is killed and started again all the time, under thousands of questions a second.

use crate::world::{ADDRESSES, AGENT_TTL, Agent, FALLBACK_TTL, World, question, ttl_of};
use libtest_mimic::{Failed, Trial};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use waypost::lab::Namespace;

/// So many questions a second are asked, or as many as this machine manages.
const RATE: u32 = 5_000;
/// Each has a socket of its own, for all its questions.
const CLIENTS: u32 = 12;
const KILLS: usize = 8;
/// So many questions of one client may be answered before an earlier one of it: a thread that has a batch in hand may have to wait for a processor.
const IN_HAND: usize = 16;
/// And for so long.
const WAITS: Duration = Duration::from_millis(250);
/// How long after the last answer the next one may come.
const QUIET: Duration = Duration::from_secs(5);

pub fn tests() -> Vec<Trial> {
    vec![Trial::test(
        "an_agent_killed_each_second_under_load_takes_no_question_with_it_but_those_in_its_queues",
        killed_each_second,
    )]
}

fn killed_each_second() -> Result<(), Failed> {
    let world = World::new("kills");
    let _server = Agent::behind_kube_dns(&world);
    let mut agent = Agent::at_home(&world);
    let stop = Arc::new(AtomicBool::new(false));
    let began = Instant::now();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (namespace, stop) = (world.client.namespace().clone(), stop.clone());
            thread::spawn(move || questions_of(&namespace, number, &stop))
        })
        .collect();
    // When each process was killed, and when its end was complete: its queues are gone, and so is its switch.
    let mut deaths: Vec<[Instant; 2]> = Vec::new();
    for _ in 0..KILLS {
        let killed = Instant::now();
        agent.end("-KILL");
        deaths.push([killed, Instant::now()]);
        agent = Agent::at_home(&world);
        thread::sleep(Duration::from_secs(1).saturating_sub(killed.elapsed()));
    }
    stop.store(true, Ordering::Relaxed);
    let seconds = began.elapsed().as_secs_f64();
    let clients: Vec<Vec<Asked>> = clients.into_iter().map(|client| client.join().unwrap()).collect();

    let asked: usize = clients.iter().map(|questions| questions.len()).sum();
    let mut ttls: BTreeMap<u32, usize> = BTreeMap::new();
    clients.iter().flatten().filter_map(|question| question.ttl).for_each(|ttl| *ttls.entry(ttl).or_default() += 1);
    let lost = clients.iter().flatten().filter(|question| question.ttl.is_none()).count();
    let strange: Vec<String> = clients.iter().flat_map(|questions| lost_in_no_queue(questions, &deaths)).collect();
    // A living process that gets no processor for some 50 milliseconds has a full queue.
    let no_room = [&world.server, &world.client].map(|pod| no_room(pod.namespace())).iter().sum::<usize>()
        + no_room(world.node.namespace());
    let ends: Vec<Duration> = deaths.iter().map(|[killed, gone]| gone.duration_since(*killed)).collect();
    let told = format!(
        "{asked} questions, {:.0} a second; answered, by TTL: {ttls:?}; unanswered: {lost}, of which {no_room} found a queue full; from the signal to the end of each process: {ends:?}",
        asked as f64 / seconds,
    );
    println!("{told}");
    assert!(strange.len() <= no_room, "questions that lay in no queue of a dead process were lost: {strange:?}; {told}");
    assert!(ttls.len() == 2 && ttls.contains_key(&AGENT_TTL) && ttls.contains_key(&FALLBACK_TTL), "{told}");
    Ok(())
}

/// How many datagrams found no room in the queue of their socket, in this namespace.
fn no_room(namespace: &Namespace) -> usize {
    let read = |path: &str| fs::read_to_string(path).unwrap();
    let [ipv4, ipv6] = namespace.run(|| ["/proc/thread-self/net/snmp", "/proc/thread-self/net/snmp6"].map(read)).unwrap();
    let mut lines = ipv4.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, values) = (lines.next().unwrap().split(' '), lines.next().unwrap().split(' '));
    let of_ipv4 = names.zip(values).find(|(name, _)| *name == "RcvbufErrors").unwrap().1;
    let of_ipv6 = ipv6.lines().find_map(|line| line.strip_prefix("Udp6RcvbufErrors")).unwrap().trim();
    of_ipv4.parse::<usize>().unwrap() + of_ipv6.parse::<usize>().unwrap()
}

/// A question of a client.
#[derive(Debug)]
struct Asked {
    sent: Instant,
    /// The answer's.
    ttl: Option<u32>,
}

/// Lost questions of a client that no process can have taken with it: those that were sent after one was gone, and those after which it answered many
/// others before it was killed.
fn lost_in_no_queue(questions: &[Asked], deaths: &[[Instant; 2]]) -> Vec<String> {
    let mut strange = Vec::new();
    for (number, question) in questions.iter().enumerate().filter(|(_, question)| question.ttl.is_none()) {
        let Some([killed, _]) = deaths.iter().find(|[_, gone]| question.sent <= *gone) else {
            strange.push("after all".to_string());
            continue;
        };
        let later = questions[number..].iter().take_while(|later| later.sent < *killed);
        let answered = later.filter(|later| later.ttl == Some(AGENT_TTL)).count();
        if answered > IN_HAND && *killed - question.sent > WAITS {
            strange.push(format!("{:?} before a kill, and {answered} were answered meanwhile", *killed - question.sent));
        }
    }
    strange
}

fn questions_of(namespace: &Namespace, number: u32, stop: &AtomicBool) -> Vec<Asked> {
    let address: IpAddr = ADDRESSES[number as usize % ADDRESSES.len()].parse().unwrap();
    namespace.run(|| ask(SocketAddr::new(address, 53), stop)).unwrap()
}

fn ask(server: SocketAddr, stop: &AtomicBool) -> Vec<Asked> {
    let any: IpAddr = if server.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).unwrap();
    socket.connect(server).unwrap();
    socket.set_read_timeout(Some(QUIET)).unwrap();
    thread::scope(|scope| {
        let answers = scope.spawn(|| answers(&socket));
        let sent = send(&socket, stop);
        let answered = answers.join().unwrap();
        (0..).zip(sent).map(|(id, sent)| Asked { sent, ttl: answered.get(&id).copied() }).collect()
    })
}

/// Asks, each question with the next number as its id, and says when.
fn send(socket: &UdpSocket, stop: &AtomicBool) -> Vec<Instant> {
    let mut question = question().unwrap();
    let mut sent = Vec::new();
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let Ok(id) = u16::try_from(sent.len()) else { break };
        question[..2].copy_from_slice(&id.to_be_bytes());
        // That nobody listened for the question before is told by an error of this one, which is not sent then.
        while let Err(error) = socket.send(&question) {
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
        }
        sent.push(Instant::now());
        // Who is late does not catch up: that would be another load.
        next = Instant::now().max(next + Duration::from_secs(1) * CLIENTS / RATE);
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    sent
}

/// The TTL of the answer to each id, until none has come for a while.
fn answers(socket: &UdpSocket) -> BTreeMap<u16, u32> {
    let mut answered = BTreeMap::new();
    let mut reply = [0; 1500];
    loop {
        match socket.recv(&mut reply) {
            Ok(length) => {
                let id = u16::from_be_bytes([reply[0], reply[1]]);
                answered.insert(id, ttl_of(&reply[..length]).unwrap());
            }
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            Err(error) if is_over(&error) => return answered,
            Err(error) => panic!("{error}"),
        }
    }
}

fn is_over(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
