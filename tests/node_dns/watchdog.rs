//! An agent that hangs keeps its sockets, and must not keep the questions.

use crate::world::{AGENT_TTL, Agent, FALLBACK_TTL, PATIENCE, World};
use libtest_mimic::{Failed, Trial};
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

pub fn tests() -> Vec<Trial> {
    vec![
        Trial::test("a_stopped_process_leaves_the_node_with_dns_and_comes_home_when_it_goes_on", stopped),
        Trial::test("an_agent_whose_dns_threads_alone_hang_leaves_the_node_with_dns", threads_hang),
    ]
}

fn stopped() -> Result<(), Failed> {
    let world = World::new("process-hangs");
    let _server = Agent::behind_kube_dns(&world);
    let agent = Agent::at_home(&world);
    world.answered_with(AGENT_TTL);
    for _ in 0..2 {
        agent.signal("-STOP");
        world.soon_answered_with(FALLBACK_TTL);
        world.answered_with(FALLBACK_TTL);
        agent.signal("-CONT");
        world.soon_answered_with(AGENT_TTL);
        world.answered_with(AGENT_TTL);
    }
    Ok(())
}

/// Everything but the threads that answer goes on, the watchdog too.
fn threads_hang() -> Result<(), Failed> {
    let world = World::new("threads-hang");
    let _server = Agent::behind_kube_dns(&world);
    let agent = Agent::at_home(&world);
    // Until it has a name of its own a new thread has that of the thread that started it: the watchdog must not be taken for one of them.
    let began = Instant::now();
    while threads_of(&agent, "dns-watchdog").is_empty() {
        assert!(began.elapsed() < PATIENCE, "the watchdog does not run");
        thread::sleep(Duration::from_millis(1));
    }
    let hanging = Hanging::threads(threads_of(&agent, "tokio-rt"));
    world.soon_answered_with(FALLBACK_TTL);
    world.answered_with(FALLBACK_TTL);
    // A thread may have been stopped while it held the log, so what the watchdog says is seen only afterwards.
    drop(hanging);
    agent.says("DNS hangs");
    world.soon_answered_with(AGENT_TTL);
    world.answered_with(AGENT_TTL);
    agent.says("DNS is alive again");
    Ok(())
}

/// Threads of another process that stand still until this is dropped. A failed test has to let go of them as well: a traced thread that
/// is killed stays until its tracer waits for it, and so does its process.
struct Hanging(Vec<Pid>);

impl Hanging {
    fn threads(threads: Vec<Pid>) -> Hanging {
        assert!(!threads.is_empty(), "the runtime has threads");
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

fn threads_of(agent: &Agent, name: &str) -> Vec<Pid> {
    let tasks = fs::read_dir(format!("/proc/{}/task", agent.process.id())).unwrap().flatten();
    let named = tasks.filter(|task| fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.starts_with(name)));
    named.map(|task| Pid::from_raw(task.file_name().to_string_lossy().parse().unwrap())).collect()
}
