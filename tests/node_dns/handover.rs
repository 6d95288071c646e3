//! Agents that take over from each other on one node, under questions and connections that never pause.

use crate::load::{CLIENTS, Load};
use crate::world::{AGENT_TTL, Agent, FALLBACK_TTL, PATIENCE, World, ask_over, connect, server};
use libtest_mimic::{Failed, Trial};
use std::collections::BTreeSet;
use std::io;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use waypost::lab::{self, Outcome};
use waypost::model::Protocol;

pub fn tests() -> Vec<Trial> {
    vec![
        Trial::test("agents_hand_over_without_an_unanswered_question_or_a_failed_connection", hand_over),
        Trial::test("an_agent_that_listens_at_other_addresses_takes_over_all_the_same", other_addresses),
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
    let mut kept = Kept::of(&world, 40)?;
    let changes = Changes::watch(&world);
    let load = Load::start(&world);
    for ttl in 41..45 {
        let new = second(&world, ttl);
        new.says("took over from the agent before");
        probe(&world, ttl, "readyz").expect("the new one is ready");
        probe(&world, ttl - 1, "readyz").expect("and the old one no less: to say so would have it ended early");
        assert_eq!(kept.end()?, BTreeSet::from([ttl - 1]), "the connection is the old one's until its end");
        // New connections are the new one's.
        kept = Kept::of(&world, ttl)?;
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

/// A connection over which somebody asks all the time: an idle one would be closed.
struct Kept {
    stop: Arc<AtomicBool>,
    asking: JoinHandle<io::Result<BTreeSet<u32>>>,
}

impl Kept {
    /// One that the agent with this TTL has. On a busy machine the heart of an agent may miss a beat, and the server elsewhere gets it: then
    /// another one is made.
    fn of(world: &World, ttl: u32) -> Result<Kept, Failed> {
        let began = Instant::now();
        loop {
            let mut connection = world.client.namespace().run(|| connect(server("10.96.0.10"))).unwrap()?;
            match ask_over(&mut connection)? {
                answered if answered == ttl => return Ok(Kept::asking_over(connection)),
                FALLBACK_TTL if began.elapsed() < PATIENCE => {}
                answered => return Err(format!("a new connection is {answered}'s, not {ttl}'s").into()),
            }
        }
    }

    fn asking_over(mut connection: TcpStream) -> Kept {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let asking = thread::spawn(move || {
            let mut answered = BTreeSet::new();
            while !stopped.load(Ordering::Relaxed) {
                answered.insert(ask_over(&mut connection)?);
                thread::sleep(Duration::from_millis(100));
            }
            // Once more, after everything that has happened.
            answered.insert(ask_over(&mut connection)?);
            Ok(answered)
        });
        Kept { stop, asking }
    }

    /// Closes it, and says who has answered.
    fn end(self) -> io::Result<BTreeSet<u32>> {
        self.stop.store(true, Ordering::Relaxed);
        self.asking.join().expect("it does not panic")
    }
}

/// As where scraping is switched on, and off again.
fn other_addresses() -> Result<(), Failed> {
    let world = World::new("addresses");
    let _server = Agent::behind_kube_dns(&world);
    let mut old = second(&world, 40);
    old.says("this node answers its own DNS questions");
    for (ttl, address) in (41..).zip(["0.0.0.0:10249", "127.0.0.1:10249", ":10249"]) {
        let flags = [flags(&world, ttl).0, vec![format!("--metrics-bind-address={address}")]].concat();
        let new = Agent::on_node(&world, &Flags(flags).each());
        new.says("took over from the agent before");
        assert!(old.end("-TERM").success(), "{}", old.log());
        let page = world.node.namespace().run(|| lab::connect_here(Protocol::Tcp, "127.0.0.1:10249".parse().unwrap(), PATIENCE));
        assert_ne!(page?, Outcome::Refused, "{address}");
        old = new;
    }
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
        let began = Instant::now();
        while !world.is_answered_with(40) {
            assert!(began.elapsed() < PATIENCE, "{}", old.log());
            // If it had got so far, the old one ends, so that it is started anew; which it may do only after an answer or two.
            if let Some(end) = old.process.try_wait()? {
                assert!(!end.success());
                old = second(&world, 40);
                old.says("this node answers its own DNS questions");
            }
        }
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
    agent.says("--healthz-bind-address: cannot listen on [::]:10256");
    agent.says("if kube-proxy still runs on this node, remove it first");
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
