//! Clients that ask and connect without a pause, so that each try that is lost shows.

use crate::world::{ADDRESSES, PATIENCE, World, ask_from_within, ask_within, server};
use std::collections::BTreeMap;
use std::fmt::{self, Debug, Formatter};
use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use waypost::lab::{self, Namespace, Outcome};
use waypost::model::Protocol;

/// Each asks, or connects, one time after the other.
pub const CLIENTS: usize = 8;
/// Between two tries of one client: the machine may be a small one, and many clients ask.
const PAUSE: Duration = Duration::from_millis(3);

/// Clients that never pause for long, each on a thread of its own.
pub struct Load {
    stop: Arc<AtomicBool>,
    tries: Arc<[AtomicUsize]>,
    clients: Vec<JoinHandle<Seen>>,
}

/// What clients saw.
#[derive(Debug, Default)]
pub struct Seen {
    /// How often each.
    pub ttls: BTreeMap<u32, usize>,
    pub failures: Vec<Failure>,
}

/// A try that got nothing.
pub struct Failure {
    /// Whether nobody was there. Otherwise somebody was, and did not answer.
    pub refused: bool,
    what: String,
}

type Attempt = Box<dyn FnMut(usize) -> Result<Option<u32>, Failure> + Send>;

impl Load {
    /// From a pod and from the node: questions over UDP and TCP to every address, each from a socket of its own; questions from one socket; and
    /// connections to a Service.
    pub fn start(world: &World) -> Load {
        Load::with_time_limit(world, PATIENCE)
    }

    /// The same, where nobody waits for an answer for longer than this.
    pub fn with_time_limit(world: &World, limit: Duration) -> Load {
        let mut attempts: Vec<(Namespace, Attempt)> = Vec::new();
        for namespace in [world.client.namespace(), world.node.namespace()] {
            for tcp in [false, true] {
                let asking = move |turn: usize| {
                    let address = ADDRESSES[turn % ADDRESSES.len()];
                    let what = format!("{address}, tcp: {tcp}");
                    ask_within(server(address), tcp, limit).map(Some).map_err(|error| Failure::of(&what, &error))
                };
                attempts.push((namespace.clone(), Box::new(asking)));
            }
            // One socket for all questions: whatever the kernel remembers of it must never be in the way.
            let mut socket = None;
            let same_socket = move |_| {
                let socket = socket.get_or_insert_with(|| {
                    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                    socket.connect(server("10.96.0.10")).unwrap();
                    socket
                });
                ask_from_within(socket, limit).map(Some).map_err(|error| Failure::of("one socket", &error))
            };
            attempts.push((namespace.clone(), Box::new(same_socket)));
            let connecting = |_| match lab::connect_here(Protocol::Tcp, "10.96.0.1:80".parse().unwrap(), PATIENCE) {
                Outcome::Reached { by, .. } if by == "web" => Ok(None),
                other => Err(Failure { refused: other == Outcome::Refused, what: format!("10.96.0.1:80: {other}") }),
            };
            attempts.push((namespace.clone(), Box::new(connecting)));
        }
        assert_eq!(attempts.len(), CLIENTS);
        let (stop, tries) = (Arc::new(AtomicBool::new(false)), (0..CLIENTS).map(|_| AtomicUsize::new(0)).collect::<Arc<[_]>>());
        let client = |(number, (namespace, mut attempt)): (usize, (Namespace, Attempt))| {
            let (stop, tries) = (stop.clone(), tries.clone());
            let work = move || {
                let mut seen = Seen::default();
                while !stop.load(Ordering::Relaxed) {
                    match attempt(tries[number].load(Ordering::Relaxed)) {
                        Ok(ttl) => ttl.into_iter().for_each(|ttl| *seen.ttls.entry(ttl).or_default() += 1),
                        Err(failure) => seen.failures.push(failure),
                    }
                    tries[number].fetch_add(1, Ordering::Relaxed);
                    thread::sleep(PAUSE);
                }
                seen
            };
            thread::spawn(move || namespace.run(work).unwrap())
        };
        let clients = attempts.into_iter().enumerate().map(client).collect();
        let load = Load { stop, tries, clients };
        load.goes_on();
        load
    }

    /// Waits until every client has made a few more attempts.
    pub fn goes_on(&self) {
        let goals: Vec<usize> = self.tries.iter().map(|tries| tries.load(Ordering::Relaxed) + 6).collect();
        let began = Instant::now();
        while self.tries.iter().zip(&goals).any(|(tries, goal)| tries.load(Ordering::Relaxed) < *goal) {
            assert!(began.elapsed() < 3 * PATIENCE, "a client is stuck");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Ends it, and returns what all have seen.
    pub fn end(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Seen::default();
        for client in self.clients {
            let seen = client.join().unwrap();
            seen.ttls.into_iter().for_each(|(ttl, count)| *all.ttls.entry(ttl).or_default() += count);
            all.failures.extend(seen.failures);
        }
        all
    }

    /// The TTLs of all answers.
    pub fn end_without_failure(self) -> BTreeMap<u32, usize> {
        let Seen { ttls, failures } = self.end();
        assert!(failures.is_empty(), "{failures:?}");
        ttls
    }

    pub fn end_with_at_most(self, limit: usize) {
        let Seen { failures, .. } = self.end();
        assert!(failures.len() <= limit, "{} failures, of which {limit} may be: {failures:?}", failures.len());
    }
}

impl Debug for Failure {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl Failure {
    fn of(what: &str, error: &io::Error) -> Failure {
        let refused = error.kind() == io::ErrorKind::ConnectionRefused;
        Failure { refused, what: format!("{what}: {error}") }
    }
}
