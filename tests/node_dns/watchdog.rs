//! An agent that hangs keeps its sockets, and must not keep the questions.

use crate::world::{ADDRESSES, AGENT_TTL, Agent, FALLBACK_TTL, PATIENCE, World, question, server, ttl_of};
use libtest_mimic::{Failed, Trial};
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::net::{IpAddr, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};
use waypost::nft::LAPSE;

/// The kernel counts the time of elements in ticks, of at most 10 ms.
const TICKS: Duration = Duration::from_millis(20);
/// Between two rounds of questions.
const ROUND: Duration = Duration::from_millis(40);
/// For a look whether an answer is there.
const NO_TIME: Duration = Duration::from_millis(1);

pub fn tests() -> Vec<Trial> {
    vec![
        Trial::test("a_stopped_process_leaves_the_node_with_dns_a_second_later_and_comes_home_when_it_goes_on", stopped),
        Trial::test("an_agent_whose_dns_threads_alone_hang_leaves_the_node_with_dns", threads_hang),
    ]
}

fn stopped() -> Result<(), Failed> {
    let world = World::new("process-hangs");
    let _server = Agent::behind_kube_dns(&world);
    let agent = Agent::at_home(&world);
    world.answered_with(AGENT_TTL);
    for _ in 0..2 {
        lapses_a_second_after_the_last_beat(&world)?;
        agent.signal("-STOP");
        // Nothing that this process does comes later.
        let lapsed = stands_still(&agent) + LAPSE + TICKS;
        let namespaces = [world.client.namespace(), world.node.namespace()];
        let asked: Vec<Asked> = thread::scope(|scope| {
            let clients = namespaces.map(|namespace| scope.spawn(|| namespace.run(|| ask_until_after(lapsed)).unwrap()));
            clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
        });
        let (before, after): (Vec<Asked>, Vec<Asked>) = asked.into_iter().partition(|question| question.began < lapsed);
        for question in &after {
            assert_eq!(question.answer(PATIENCE), Some(FALLBACK_TTL), "the element has lapsed: {question:?}");
        }
        let unanswered: Vec<Asked> = before.into_iter().filter(|question| question.answer(NO_TIME).is_none()).collect();
        world.answered_with(FALLBACK_TTL);
        println!("{} questions were not answered while the process stood still", unanswered.len());
        agent.signal("-CONT");
        for question in &unanswered {
            assert!(question.answer(PATIENCE).is_some(), "it lay in no queue: {question:?}");
        }
        world.soon_answered_with(AGENT_TTL);
        world.answered_with(AGENT_TTL);
    }
    Ok(())
}

/// The kernel holds questions for a second after a beat, and no longer.
fn lapses_a_second_after_the_last_beat(world: &World) -> Result<(), Failed> {
    let nft = |words: &[&str]| -> Result<String, Failed> {
        let output = world.node.namespace().output(Command::new("nft").args(words))?;
        assert!(output.status.success(), "{words:?}: {output:?}");
        Ok(String::from_utf8(output.stdout)?)
    };
    let tables = nft(&["list", "tables"])?;
    let switch: Vec<&str> = tables.lines().filter(|line| line.contains("waypost-dns-")).collect();
    assert_eq!(switch.len(), 2, "one for each family: {tables}");
    for table in switch {
        let set = nft(&[&["list", "set"], &table.split(' ').skip(1).collect::<Vec<_>>()[..], &["alive"]].concat())?;
        let told: Vec<&str> = set.lines().map(str::trim).filter(|line| line.starts_with("timeout")).collect();
        assert_eq!(told, ["timeout 1s"], "{set}");
        // An element may have a time of its own, and then says so.
        assert!(!set.contains(" timeout "), "{set}");
    }
    Ok(())
}

/// Waits until no thread of it runs, and says since when: the kernel tells its parent of the last one.
fn stands_still(agent: &Agent) -> Instant {
    let process = Pid::from_raw(agent.process.id() as i32);
    let status = waitpid(process, Some(WaitPidFlag::WUNTRACED)).unwrap();
    assert_eq!(status, WaitStatus::Stopped(process, Signal::SIGSTOP));
    Instant::now()
}

/// A question over a socket of its own.
#[derive(Debug)]
struct Asked {
    began: Instant,
    socket: UdpSocket,
}

impl Asked {
    /// The TTL of its answer, if it comes within this time.
    fn answer(&self, limit: Duration) -> Option<u32> {
        self.socket.set_read_timeout(Some(limit)).unwrap();
        let mut reply = [0; 1500];
        let length = self.socket.recv(&mut reply).ok()?;
        ttl_of(&reply[..length]).ok()
    }
}

/// Questions to each address, one round after the other, until a few rounds have begun after this moment.
fn ask_until_after(moment: Instant) -> Vec<Asked> {
    let mut asked = Vec::new();
    loop {
        let round = Instant::now();
        for address in ADDRESSES {
            let any: IpAddr = if address.contains(':') { [0u16; 8].into() } else { [0, 0, 0, 0].into() };
            let socket = UdpSocket::bind((any, 0)).unwrap();
            socket.connect(server(address)).unwrap();
            let began = Instant::now();
            socket.send(&question().unwrap()).unwrap();
            asked.push(Asked { began, socket });
        }
        if round > moment + 3 * ROUND {
            return asked;
        }
        thread::sleep(ROUND);
    }
}

/// Those that answer over TCP stand still, then those that answer over UDP, then one of these; all else goes on, the watchdog too.
fn threads_hang() -> Result<(), Failed> {
    let world = World::new("threads-hang");
    let _server = Agent::behind_kube_dns(&world);
    let agent = Agent::at_home(&world);
    // Until it has a name of its own a new thread has that of the thread that started it: the watchdog must not be taken for one of them.
    let began = Instant::now();
    while agent.threads("dns-watchdog").is_empty() {
        assert!(began.elapsed() < PATIENCE, "the watchdog does not run");
        thread::sleep(Duration::from_millis(1));
    }
    let watchdog = agent.threads("dns-watchdog");
    let over_udp: Vec<_> = agent.threads("dns-").into_iter().filter(|thread| !watchdog.contains(thread)).collect();
    let one_of_them = over_udp[..1].to_vec();
    for threads in [agent.threads("tokio-rt"), over_udp, one_of_them] {
        let hanging = Hanging::threads(threads);
        world.soon_answered_with(FALLBACK_TTL);
        world.answered_with(FALLBACK_TTL);
        // A thread may have been stopped while it held the log, so what the watchdog says is seen only afterwards.
        drop(hanging);
        world.soon_answered_with(AGENT_TTL);
        world.answered_with(AGENT_TTL);
        agent.says("DNS hangs");
        agent.says("DNS is alive again");
    }
    Ok(())
}

/// Threads of another process that stand still until this is dropped. A failed test has to let go of them as well: a traced thread that
/// is killed stays until its tracer waits for it, and so does its process.
struct Hanging(Vec<Pid>);

impl Hanging {
    fn threads(threads: Vec<Pid>) -> Hanging {
        assert!(!threads.is_empty(), "there are such threads");
        let mut hanging = Hanging(Vec::new());
        for thread in threads {
            ptrace::seize(thread, ptrace::Options::empty()).unwrap();
            hanging.0.push(thread);
            ptrace::interrupt(thread).unwrap();
            waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
        }
        hanging
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        for thread in &self.0 {
            let _ = ptrace::detach(*thread, None);
        }
    }
}
