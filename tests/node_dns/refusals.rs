//! Agents that are killed, again and again, while their node asks: what they had in hand is lost, and nothing else.

use crate::load::{CLIENTS, Load};
use crate::world::{AGENT_TTL, Agent, FALLBACK_TTL, World};
use libtest_mimic::{Failed, Trial};
use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

const KILLS: usize = 10;
/// Whoever asks a process that dies waits in vain.
const LIMIT: Duration = Duration::from_secs(1);

pub fn tests() -> Vec<Trial> {
    vec![Trial::test("agents_that_are_killed_lose_what_they_have_in_hand_and_refuse_nothing", nothing_is_refused)]
}

fn nothing_is_refused() -> Result<(), Failed> {
    let world = World::new("killed-often");
    let _server = Agent::behind_kube_dns(&world);
    let mut agent = Agent::at_home(&world);
    let (knocker, load) = (Knocker::start(&world), Load::with_time_limit(&world, LIMIT));
    for _ in 0..KILLS {
        load.goes_on();
        knocker.goes_on();
        agent.end("-KILL");
        load.goes_on();
        agent = Agent::at_home(&world);
    }
    let (seen, refused) = (load.end(), knocker.end());
    let failures = &seen.failures;
    assert!(refused == 0 && !failures.iter().any(|failure| failure.refused), "{refused} knocks were refused, and {failures:?}");
    assert!(failures.len() <= KILLS * CLIENTS, "{failures:?}");
    assert!([AGENT_TTL, FALLBACK_TTL].iter().all(|ttl| seen.ttls.contains_key(ttl)), "{:?}", seen.ttls);
    Ok(())
}

/// Sends to the DNS port of the node, much more often than anybody asks, and counts how often nobody was there.
struct Knocker {
    stop: Arc<AtomicBool>,
    knocks: Arc<AtomicUsize>,
    thread: JoinHandle<usize>,
}

impl Knocker {
    fn start(world: &World) -> Knocker {
        let (stop, knocks) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (told, counted, namespace) = (stop.clone(), knocks.clone(), world.node.namespace().clone());
        let knock = move || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect("10.96.0.10:53").unwrap();
            let mut refused = 0;
            while !told.load(Ordering::Relaxed) {
                // The kernel tells of an earlier one that came back. No question, so that nobody has work with it.
                match socket.send(b"?") {
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => refused += 1,
                    _ => drop(counted.fetch_add(1, Ordering::Relaxed)),
                }
                thread::sleep(Duration::from_micros(50));
            }
            refused
        };
        Knocker { stop, knocks, thread: thread::spawn(move || namespace.run(knock).unwrap()) }
    }

    /// Waits until it has knocked a few more times.
    fn goes_on(&self) {
        let goal = self.knocks.load(Ordering::Relaxed) + 10;
        while self.knocks.load(Ordering::Relaxed) < goal {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// How often nobody was there.
    fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}
