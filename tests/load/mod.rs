//! Connections, and questions over UDP, without a pause while something happens. Each is tried once, so that each one that is lost counts.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use waypost::lab::{self, Namespace, Outcome};
use waypost::model::Protocol;

/// A connection, or the answer to a question, that takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(10);
/// Whatever else goes wrong, the load ends after this. A test that takes longer fails: it has not seen what came after.
const LONGEST: Duration = Duration::from_secs(420);
/// How long a program lives that is killed again and again.
const LIFE: Duration = Duration::from_secs(1);
/// A client sends the first packet of a connection again after this (`TCP_TIMEOUT_INIT` of the kernel).
const SENT_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// What comes behind a target that is asked over UDP.
const UDP: &str = "/udp";

/// Clients that connect to one target after the other, as fast as they can. A target is an address and port, over TCP, or over UDP with
/// `/udp` behind it: then each question comes from a socket of its own, as a new flow, and must be answered.
pub struct Load {
    state: Arc<State>,
    clients: Vec<Namespace>,
    retransmitted: u64,
    threads: Vec<JoinHandle<Seen>>,
}

#[derive(Default)]
struct State {
    ended: AtomicBool,
    attempts: AtomicUsize,
}

/// What clients saw.
#[derive(Debug, Default)]
pub struct Seen {
    /// How often each server answered.
    pub by: BTreeMap<String, usize>,
    /// How many answers came over UDP.
    pub over_udp: usize,
    /// What was lost: when, to where, and how.
    pub lost: Vec<String>,
    /// First packets of connections that had to be sent again.
    pub sent_again: u64,
    /// Connections that took so long that theirs may be among them: when, to where, and who answered.
    pub late: Vec<String>,
}

impl Load {
    /// Starts a client for each entry. Clients of one namespace share nothing but its ports.
    pub fn start(clients: &[(&Namespace, &[&str])]) -> Load {
        let state = Arc::new(State::default());
        let namespaces: Vec<Namespace> = clients.iter().map(|(client, _)| (*client).clone()).collect();
        for client in &namespaces {
            // Else the ports of connections that are closed are soon all waited for.
            client.set_sysctl("ipv4/tcp_tw_reuse", "1").expect("the namespace is ours");
            client.set_sysctl("ipv4/ip_local_port_range", "1024 65535").expect("the namespace is ours");
        }
        let retransmitted = namespaces.iter().map(retransmitted).sum();
        let start = |(client, targets): &(&Namespace, &[&str])| {
            let targets: Vec<Target> = targets.iter().map(|target| read(target)).collect();
            let (client, state) = ((*client).clone(), state.clone());
            std::thread::spawn(move || client.run(|| connect(&state, &targets)).expect("the namespace is there"))
        };
        let threads = clients.iter().map(start).collect();
        Load { state, clients: namespaces, retransmitted, threads }
    }

    /// How many connections were tried so far.
    pub fn attempts(&self) -> usize {
        self.state.attempts.load(Ordering::Relaxed)
    }

    /// Ends it, and returns what was seen.
    ///
    /// # Panics
    /// When it has ended by itself before.
    pub fn end(mut self) -> Seen {
        let ended = self.threads.iter().filter(|thread| thread.is_finished()).count();
        assert_eq!(ended, 0, "so many clients had ended after {LONGEST:?}, before the test did: nobody saw its end");
        self.state.ended.store(true, Ordering::Relaxed);
        let mut all = Seen::default();
        for thread in self.threads.drain(..) {
            let seen = thread.join().expect("a client's thread");
            seen.by.into_iter().for_each(|(server, count)| *all.by.entry(server).or_default() += count);
            all.over_udp += seen.over_udp;
            all.lost.extend(seen.lost);
            all.late.extend(seen.late);
        }
        all.sent_again = self.clients.iter().map(retransmitted).sum::<u64>() - self.retransmitted;
        all
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::Relaxed);
    }
}

impl Seen {
    /// # Panics
    /// When anything was lost, or came through at the second try only.
    pub fn assert_nothing_lost(&self) {
        let total: usize = self.by.values().sum();
        let lost = self.lost.iter().take(20).cloned().collect::<Vec<_>>().join("\n");
        assert!(self.lost.is_empty(), "{} lost, {total} not: {:?}\n{lost}", self.lost.len(), self.by);
        assert_eq!(self.sent_again, 0, "a first packet got lost, and only the second came through: {:#?}", self.late);
        println!("    of {} connections and {} questions over UDP none was lost", total - self.over_udp, self.over_udp);
    }
}

/// Ends what is running each second and starts it anew, as long as `during` takes; returns how often that was. What is running ends when it is dropped.
///
/// # Panics
/// When `during` or `start` does.
pub fn killing_each_second<T: Send>(running: T, start: impl Fn() -> T + Sync, during: impl FnOnce()) -> usize {
    let ended = AtomicBool::new(false);
    let kill = || {
        let (mut running, mut kills) = (running, 0);
        while !ended.load(Ordering::Relaxed) {
            std::thread::sleep(LIFE);
            drop(running);
            running = start();
            kills += 1;
        }
        kills
    };
    std::thread::scope(|scope| {
        let kills = scope.spawn(kill);
        {
            // Also when a test fails: else the scope would wait for ever.
            let _end = OnDrop(&ended);
            during();
        }
        kills.join().expect("the thread that kills")
    })
}

/// Sets the flag when it is dropped.
struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

type Target = (Protocol, SocketAddr);

fn read(target: &str) -> Target {
    let (protocol, address) = match target.strip_suffix(UDP) {
        Some(address) => (Protocol::Udp, address),
        None => (Protocol::Tcp, target),
    };
    (protocol, address.parse().expect("an address and a port"))
}

fn connect(state: &State, targets: &[Target]) -> Seen {
    let (began, mut seen) = (Instant::now(), Seen::default());
    for (protocol, target) in targets.iter().cycle() {
        if state.ended.load(Ordering::Relaxed) || began.elapsed() > LONGEST {
            break;
        }
        state.attempts.fetch_add(1, Ordering::Relaxed);
        let asked = Instant::now();
        match lab::connect_here(*protocol, *target, PATIENCE) {
            Outcome::Reached { by, .. } => {
                if asked.elapsed() >= SENT_AGAIN_AFTER {
                    seen.late.push(format!("{:?} after {:?}, {target}/{protocol}: {by}", asked.elapsed(), began.elapsed()));
                }
                *seen.by.entry(by).or_default() += 1;
                seen.over_udp += usize::from(*protocol == Protocol::Udp);
            }
            other => seen.lost.push(format!("after {:?}, {target}/{protocol}: {other}", began.elapsed())),
        }
    }
    seen
}

/// How many first packets of connections a client has had to send again.
fn retransmitted(client: &Namespace) -> u64 {
    let read = || std::fs::read_to_string("/proc/thread-self/net/netstat").expect("/proc is there");
    let text = client.run(read).expect("the namespace is there");
    let lines: Vec<Vec<&str>> =
        text.lines().filter(|line| line.starts_with("TcpExt:")).map(|line| line.split(' ').collect()).collect();
    let at = lines[0].iter().position(|name| *name == "TCPSynRetrans").expect("the kernel counts it");
    lines[1][at].parse().expect("a number")
}
