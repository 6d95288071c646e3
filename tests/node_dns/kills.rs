//! An agent that is killed and started again all the time, under thousands of questions a second.

use crate::world::{ADDRESSES, AGENT_TTL, Agent, FALLBACK_TTL, PATIENCE, World, question, ttl_of};
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
/// A thread of the agent has taken so many questions out of a queue at most and not answered them.
const BATCH: usize = 32;
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
    let datagram = bytes_in_a_queue(&world);
    let mut deaths: Vec<Death> = Vec::new();
    for _ in 0..KILLS {
        let in_hand = (agent.threads("dns-").len() - agent.threads("dns-watchdog").len()) * BATCH;
        let looked = Instant::now();
        let queued = bytes_in_queues(world.node.namespace(), 53).div_ceil(datagram);
        agent.end("-KILL");
        deaths.push(Death { looked, queued, in_hand, gone: Instant::now() });
        agent = Agent::at_home(&world);
        thread::sleep(Duration::from_secs(1).saturating_sub(looked.elapsed()));
    }
    stop.store(true, Ordering::Relaxed);
    let seconds = began.elapsed().as_secs_f64();
    let clients: Vec<Vec<Asked>> = clients.into_iter().map(|client| client.join().unwrap()).collect();

    let asked: usize = clients.iter().map(|questions| questions.len()).sum();
    let mut ttls: BTreeMap<u32, usize> = BTreeMap::new();
    clients.iter().flatten().filter_map(|question| question.ttl).for_each(|ttl| *ttls.entry(ttl).or_default() += 1);
    let lost = clients.iter().flatten().filter(|question| question.ttl.is_none()).count();
    let losses: Vec<Loss> = losses(&clients, &deaths);
    let strange: usize = losses.iter().map(Loss::in_no_queue).sum();
    // A living process that gets no processor for some 50 milliseconds has a full queue.
    let no_room = [&world.server, &world.client].map(|pod| no_room(pod.namespace())).iter().sum::<usize>()
        + no_room(world.node.namespace());
    let told = format!(
        "{asked} questions, {:.0} a second; answered, by TTL: {ttls:?}; unanswered: {lost}, of which {no_room} found a queue full; {losses:#?}",
        asked as f64 / seconds,
    );
    println!("{told}");
    assert!(strange <= no_room, "{strange} questions that lay in no queue of a dead process were lost: {told}");
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

/// How many bytes one datagram takes in the queue of a socket, of the family where it is less.
fn bytes_in_a_queue(world: &World) -> usize {
    let node = world.node.namespace();
    let taken = ["192.0.2.10:5300", "[2001:db8::10]:5300"].map(|address| {
        let address: SocketAddr = address.parse().unwrap();
        let _socket = node.udp_socket(address).unwrap();
        let any: IpAddr = if address.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
        let send = || UdpSocket::bind((any, 0)).unwrap().send_to(&question().unwrap(), address).unwrap();
        world.client.namespace().run(send).unwrap();
        let began = Instant::now();
        loop {
            match bytes_in_queues(node, address.port()) {
                0 => assert!(began.elapsed() < PATIENCE, "the datagram does not arrive"),
                bytes => break bytes,
            }
            thread::sleep(Duration::from_millis(1));
        }
    });
    taken.into_iter().min().unwrap()
}

/// How many bytes lie in the queues of all UDP sockets at this port.
fn bytes_in_queues(namespace: &Namespace, port: u16) -> usize {
    let read = |path: &str| fs::read_to_string(path).unwrap();
    let tables = namespace.run(|| ["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"].map(read)).unwrap();
    let queue = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_at = fields[1].ends_with(&format!(":{port:04X}"));
        let (_, received) = fields[4].split_once(':').unwrap();
        if is_at { usize::from_str_radix(received, 16).unwrap() } else { 0 }
    };
    tables.iter().flat_map(|table| table.lines().skip(1)).map(queue).sum()
}

/// A question of a client.
#[derive(Debug)]
struct Asked {
    /// Before it was sent.
    began: Instant,
    /// The answer's.
    ttl: Option<u32>,
}

/// How a process ended.
struct Death {
    /// When its queues were looked at, right before it was killed.
    looked: Instant,
    /// So many questions lay there.
    queued: usize,
    /// And so many its threads may have had in hand.
    in_hand: usize,
    /// When its end was complete: its queues are gone, and so is its switch.
    gone: Instant,
}

/// Unanswered questions, from the end of one process to the end of the next.
#[derive(Debug, Default)]
struct Loss {
    unanswered: usize,
    /// Of these, those that began when the queues were looked at already, while a later one of the same client was answered by the process: they had
    /// been taken out of the queue.
    overtaken: usize,
    /// And those that were asked before the process had answered its client anything: they were for the servers behind `kube-dns`.
    elsewhere: usize,
    queued: usize,
    in_hand: usize,
    /// Questions that began after the look, and one of each client that was on its way.
    later: usize,
}

impl Loss {
    /// How many of them no process can have taken with it.
    fn in_no_queue(&self) -> usize {
        let beyond = self.unanswered.saturating_sub(self.queued + self.in_hand + self.later);
        beyond.max(self.overtaken.saturating_sub(self.in_hand)).max(self.elsewhere)
    }
}

/// One for each death, and one for what came after all.
fn losses(clients: &[Vec<Asked>], deaths: &[Death]) -> Vec<Loss> {
    let loss = |death: &Death| Loss { queued: death.queued, in_hand: death.in_hand, later: CLIENTS as usize, ..Loss::default() };
    let mut losses: Vec<Loss> = deaths.iter().map(loss).chain([Loss::default()]).collect();
    for questions in clients {
        let life_of = |question: &Asked| deaths.iter().take_while(|death| death.gone < question.began).count();
        for questions in questions.chunk_by(|one, next| life_of(one) == life_of(next)) {
            let life = life_of(&questions[0]);
            let loss = &mut losses[life];
            let is_early = |question: &Asked| deaths.get(life).is_none_or(|death| question.began < death.looked);
            let by_agent = |question: &Asked| question.ttl == Some(AGENT_TTL);
            let first = questions.iter().position(by_agent).unwrap_or(0);
            let last = questions.iter().rposition(|question| is_early(question) && by_agent(question)).unwrap_or(0);
            loss.later += questions.iter().filter(|question| !is_early(question)).count();
            for (number, _) in questions.iter().enumerate().filter(|(_, question)| question.ttl.is_none()) {
                loss.unanswered += 1;
                loss.elsewhere += usize::from(number < first);
                loss.overtaken += usize::from(number >= first && number < last);
            }
        }
    }
    losses
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
        (0..).zip(sent).map(|(id, began)| Asked { began, ttl: answered.get(&id).copied() }).collect()
    })
}

/// Asks, each question with the next number as its id, and says when it began.
fn send(socket: &UdpSocket, stop: &AtomicBool) -> Vec<Instant> {
    let mut question = question().unwrap();
    let mut sent = Vec::new();
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let Ok(id) = u16::try_from(sent.len()) else { break };
        question[..2].copy_from_slice(&id.to_be_bytes());
        // That nobody listened for the question before is told by an error of this one, which is not sent then.
        sent.push(Instant::now());
        while let Err(error) = socket.send(&question) {
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
        }
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
