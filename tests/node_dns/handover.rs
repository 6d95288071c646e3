//! Agents that take over from each other on one node, under questions and connections that never pause.

use crate::world::{ADDRESSES, AGENT_TTL, Agent, FALLBACK_TTL, PATIENCE, World, ask, ask_from, ask_over, connect};
use libtest_mimic::{Failed, Trial};
use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use waypost::lab::{self, Namespace, Outcome};
use waypost::model::Protocol;

/// Between two questions of one client: the machine may be a small one, and six clients ask.
const PAUSE: Duration = Duration::from_millis(3);

pub fn tests() -> Vec<Trial> {
    vec![
        Trial::test("agents_hand_over_without_an_unanswered_question_or_a_failed_connection", hand_over),
        Trial::test("an_agent_that_is_not_ready_changes_nothing_and_is_not_taken_for_ready", not_ready),
        Trial::test("an_agent_killed_while_it_hands_over_costs_no_more_than_what_it_had_in_hand", old_is_killed),
        Trial::test("an_agent_killed_while_it_takes_over_leaves_the_other_one_serving", new_is_killed),
        Trial::test("of_two_agents_started_at_once_one_serves", at_once),
        Trial::test("a_port_that_is_not_another_agents_is_the_error_that_it_was", foreign_port),
    ]
}

fn hand_over() -> Result<(), Failed> {
    let world = World::new("hand-over");
    let _server = Agent::behind_kube_dns(&world);
    let mut old = second(&world, 40);
    old.says("this node answers its own DNS questions");
    let mut kept = world.client.namespace().run(|| connect(server("10.96.0.10"))).unwrap()?;
    let changes = Changes::watch(&world);
    let load = Load::start(&world);
    for ttl in 41..45 {
        let new = second(&world, ttl);
        new.says("took over from the agent before");
        probe(&world, ttl, "readyz").expect("the new one is ready");
        probe(&world, ttl - 1, "readyz").expect("and the old one no less: to say so would have it ended early");
        // The connection is the old one's until its end.
        assert_eq!(ask_over(&mut kept)?, ttl - 1);
        kept = world.client.namespace().run(|| connect(server("10.96.0.10"))).unwrap()?;
        assert_eq!(ask_over(&mut kept)?, ttl, "new connections are the new one's");
        load.goes_on();
        assert!(old.end("-TERM").success(), "{}", old.log());
        load.goes_on();
        old = new;
    }
    let ttls = load.end_without_failure();
    // On a busy machine the heart of an agent may miss some beats; a gap between two agents would be another thing.
    let elsewhere = ttls.get(&FALLBACK_TTL).copied().unwrap_or(0);
    assert!(ttls.contains_key(&44) && elsewhere * 20 < ttls.values().sum(), "hardly ever had somebody else to answer: {ttls:?}");
    let changed = changes.end();
    assert!(!changed.iter().any(|line| line.contains(" waypost ")), "the table was taken over as it was: {changed:?}");
    assert!(changed.iter().any(|line| line.contains("waypost-dns")), "the switches were seen: {changed:?}");
    Ok(())
}

fn not_ready() -> Result<(), Failed> {
    let world = World::new("not-ready");
    let _server = Agent::behind_kube_dns(&world);
    let mut old = second(&world, 40);
    old.says("this node answers its own DNS questions");
    let load = Load::start(&world);
    // Nobody answers there.
    let stuck = Agent::with_source(&world, "--api-server=https://127.0.0.1:1", &flags(&world, 41).each());
    stuck.says("another agent serves this node");
    load.goes_on();
    assert!(probe(&world, 41, "readyz").unwrap_err().contains("another agent of this node to hand over"));
    probe(&world, 41, "livez").expect("which is no reason to start it anew");
    probe(&world, 40, "readyz").expect("the old one serves as before");
    let ttls = load.end_without_failure();
    assert!(ttls.keys().all(|ttl| [40, FALLBACK_TTL].contains(ttl)), "{ttls:?}");
    // It takes the place as soon as that is free, and the servers elsewhere answer until it is ready.
    old.end("-KILL");
    stuck.says("the agent before has ended");
    world.answered_with(FALLBACK_TTL);
    drop(stuck);
    let _next = Agent::at_home(&world);
    world.answered_with(AGENT_TTL);
    Ok(())
}

fn old_is_killed() -> Result<(), Failed> {
    let world = World::new("old-killed");
    let _server = Agent::behind_kube_dns(&world);
    let mut old = second(&world, 40);
    old.says("this node answers its own DNS questions");
    let load = Load::start(&world);
    let mut kills = 0;
    // Earlier and later on the way; where exactly depends on the machine, and must not matter.
    for (ttl, after) in (41..).zip([0, 10, 20, 40, 80, 160].map(Duration::from_millis)) {
        let new = second(&world, ttl);
        thread::sleep(after);
        old.end("-KILL");
        kills += 1;
        new.says("this node answers its own DNS questions");
        world.answered_with(ttl);
        load.goes_on();
        old = new;
    }
    load.end_with_at_most(kills * CLIENTS);
    Ok(())
}

fn new_is_killed() -> Result<(), Failed> {
    let world = World::new("new-killed");
    let _server = Agent::behind_kube_dns(&world);
    let mut old = second(&world, 40);
    old.says("this node answers its own DNS questions");
    let load = Load::start(&world);
    let mut kills = 0;
    for (ttl, after) in (41..).zip([0, 10, 20, 40, 80, 160].map(Duration::from_millis)) {
        let mut new = second(&world, ttl);
        thread::sleep(after);
        new.end("-KILL");
        kills += 1;
        // If it had got so far, the old one ends, so that it is started anew.
        if new.log().contains("took over") || old.log().contains("only finishes its connections") {
            assert!(!old.process.wait()?.success());
            old = second(&world, 40);
            old.says("this node answers its own DNS questions");
        }
        world.answered_with(40);
        load.goes_on();
    }
    load.end_with_at_most(kills * CLIENTS);
    Ok(())
}

fn at_once() -> Result<(), Failed> {
    let world = World::new("at-once");
    let _server = Agent::behind_kube_dns(&world);
    for round in 0..3 {
        let mut both = [second(&world, 40 + 2 * round), second(&world, 41 + 2 * round)];
        // The later one takes over from the earlier one, whichever is which.
        let began = Instant::now();
        while both.iter().filter(|agent| agent.log().contains("took over from the agent before")).count() != 1 {
            assert!(began.elapsed() < PATIENCE, "{}\n---\n{}", both[0].log(), both[1].log());
            thread::sleep(Duration::from_millis(5));
        }
        let later = both.iter().position(|agent| agent.log().contains("took over from")).unwrap();
        world.answered_with(40 + 2 * round + later as u32);
        both[1 - later].says("only finishes its connections");
        // Without the one that serves, the other one ends as well, to be started anew.
        both[later].end("-KILL");
        assert!(!both[1 - later].process.wait()?.success());
        world.answered_with(FALLBACK_TTL);
    }
    Ok(())
}

fn foreign_port() -> Result<(), Failed> {
    let world = World::new("foreign");
    let _holder = world.node.namespace().tcp_listener("0.0.0.0:10256".parse().unwrap())?;
    let mut agent = second(&world, 40);
    assert!(!agent.process.wait()?.success());
    agent.says("--healthz-bind-address: cannot listen on 0.0.0.0:10256");
    Ok(())
}

/// An agent that can hand over and take over, with a socket of its own for probes.
fn second(world: &World, ttl: u32) -> Agent {
    Agent::on_node(world, &flags(world, ttl).each())
}

struct Flags(Vec<String>);

impl Flags {
    fn each(&self) -> Vec<&str> {
        self.0.iter().map(String::as_str).collect()
    }
}

fn flags(world: &World, ttl: u32) -> Flags {
    let folder = world.folder.sockets();
    Flags(vec![
        format!("--dns-ttl={ttl}"),
        format!("--handover-socket={}", folder.join("handover.sock").display()),
        format!("--probe-socket={}", probe_socket(world, ttl).display()),
    ])
}

fn probe_socket(world: &World, ttl: u32) -> PathBuf {
    world.folder.sockets().join(format!("probe-{ttl}.sock"))
}

/// As a kubelet does.
fn probe(world: &World, ttl: u32, page: &str) -> Result<String, String> {
    let socket = probe_socket(world, ttl);
    let output = Command::new(env!("CARGO_BIN_EXE_waypost")).args(["probe", page, "--socket"]).arg(socket).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(text) } else { Err(text) }
}

fn server(address: &str) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), 53)
}

/// Each asks, or connects, one time after the other.
const CLIENTS: usize = 8;

/// Clients that never pause for long, each on a thread of its own.
struct Load {
    stop: Arc<AtomicBool>,
    tries: Arc<[AtomicUsize]>,
    clients: Vec<JoinHandle<Seen>>,
}

/// What a client saw.
#[derive(Default)]
struct Seen {
    /// How often each.
    ttls: BTreeMap<u32, usize>,
    failures: Vec<String>,
}

type Attempt = Box<dyn FnMut(usize) -> Result<Option<u32>, String> + Send>;

impl Load {
    fn start(world: &World) -> Load {
        let mut attempts: Vec<(Namespace, Attempt)> = Vec::new();
        for namespace in [world.client.namespace(), world.node.namespace()] {
            for tcp in [false, true] {
                let asking = move |turn: usize| {
                    let address = ADDRESSES[turn % ADDRESSES.len()];
                    ask(server(address), tcp).map(Some).map_err(|error| format!("{address}, tcp: {tcp}: {error}"))
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
                ask_from(socket).map(Some).map_err(|error| format!("one socket: {error}"))
            };
            attempts.push((namespace.clone(), Box::new(same_socket)));
            let connecting = |_| match lab::connect_here(Protocol::Tcp, "10.96.0.1:80".parse().unwrap(), PATIENCE) {
                Outcome::Reached { by, .. } if by == "web" => Ok(None),
                other => Err(format!("10.96.0.1:80: {other}")),
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
    fn goes_on(&self) {
        let goals: Vec<usize> = self.tries.iter().map(|tries| tries.load(Ordering::Relaxed) + 6).collect();
        let began = Instant::now();
        while self.tries.iter().zip(&goals).any(|(tries, goal)| tries.load(Ordering::Relaxed) < *goal) {
            assert!(began.elapsed() < 3 * PATIENCE, "a client is stuck");
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn end(self) -> Seen {
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
    fn end_without_failure(self) -> BTreeMap<u32, usize> {
        let Seen { ttls, failures } = self.end();
        assert_eq!(failures, Vec::<String>::new());
        ttls
    }

    fn end_with_at_most(self, limit: usize) {
        let Seen { failures, .. } = self.end();
        assert!(failures.len() <= limit, "{} failures, of which {limit} may be: {failures:?}", failures.len());
    }
}

/// Whoever changes the node's nftables is seen.
struct Changes {
    monitor: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Changes {
    fn watch(world: &World) -> Changes {
        use std::io::{BufRead, BufReader};
        let mut command = Command::new("nft");
        command.arg("monitor").stdout(Stdio::piped()).stdin(Stdio::null());
        let mut monitor = world.node.namespace().spawn(&mut command).unwrap();
        let output = BufReader::new(monitor.stdout.take().unwrap());
        let lines = Arc::new(Mutex::new(Vec::new()));
        let told = lines.clone();
        thread::spawn(move || output.lines().map_while(Result::ok).for_each(|line| told.lock().unwrap().push(line)));
        // It listens once it tells of a change.
        let began = Instant::now();
        while lines.lock().unwrap().is_empty() {
            for verb in ["add", "delete"] {
                world.node.namespace().output(Command::new("nft").args([verb, "table", "ip", "probe"])).unwrap();
            }
            assert!(began.elapsed() < PATIENCE, "nft monitor says nothing");
        }
        Changes { monitor, lines }
    }

    fn end(mut self) -> Vec<String> {
        let _ = self.monitor.kill();
        let _ = self.monitor.wait();
        self.lines.lock().unwrap().clone()
    }
}
