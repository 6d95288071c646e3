//! A log that nobody reads: standard error is a pipe, and full.

use crate::world::{AGENT_TTL, Agent, PATIENCE, World, server};
use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use libtest_mimic::{Failed, Trial};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::{Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

/// What the pipe is filled with.
const FILLING: u8 = b'.';
const A_MOMENT: Duration = Duration::from_millis(500);

pub fn tests() -> Vec<Trial> {
    vec![
        Trial::test("an_agent_whose_log_nobody_reads_answers_follows_changes_and_ends", nobody_reads),
        Trial::test("what_the_log_could_not_take_at_first_is_all_there_once_it_is_read", read_later),
        Trial::test("what_a_program_says_before_it_ends_is_never_lost", last_words),
    ]
}

fn nobody_reads() -> Result<(), Failed> {
    let world = World::new("log-stalls");
    let _server = Agent::behind_kube_dns(&world);
    let (_pipe, log) = full_pipe()?;
    // Each question to an upstream server has a line, too.
    let mut agent = Agent::logging_to(&world, log.into(), &["--dns-ttl=30", "--log-level=trace"]);
    world.soon_answered_with(AGENT_TTL);
    world.folder.replace(
        "late.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: late, namespace: shop}\nspec: {clusterIP: 10.96.0.77, ports: [{port: 80}]}\n",
    );
    world.client.namespace().run(|| resolves("late.shop.svc.cluster.local.", Ipv4Addr::new(10, 96, 0, 77)))?;
    world.soon_answered_with(AGENT_TTL);
    agent.signal("-TERM");
    assert!(ended(&mut agent)?.success(), "it ends in good order, though nobody reads its last words");
    Ok(())
}

fn read_later() -> Result<(), Failed> {
    let world = World::new("log-is-late");
    let _server = Agent::behind_kube_dns(&world);
    let (mut pipe, log) = full_pipe()?;
    let mut agent = Agent::logging_to(&world, log.into(), &["--dns-ttl=30"]);
    world.soon_answered_with(AGENT_TTL);
    let reader = thread::spawn(move || {
        let mut text = Vec::new();
        pipe.read_to_end(&mut text).map(|_| text)
    });
    agent.signal("-TERM");
    assert!(ended(&mut agent)?.success());
    let text = reader.join().expect("the reader does not panic")?;
    let text = String::from_utf8(text.into_iter().skip_while(|byte| *byte == FILLING).collect())?;
    let mut rest = &text[..];
    for said in ["starting", "this node answers its own DNS questions", "stopping", "stopped"] {
        let at = rest.find(said).unwrap_or_else(|| panic!("{said:?} is missing, or in the wrong place:\n{text}"));
        rest = &rest[at..];
    }
    assert!(!text.contains("were lost"), "{text}");
    Ok(())
}

/// Errors before and after logging has begun.
fn last_words() -> Result<(), Failed> {
    let world = World::new("log-ends");
    let run = |flags: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_waypost"));
        world.node.namespace().output(command.args(["run", "--node-name=node-1"]).args(flags).env("NO_COLOR", "1"))
    };
    let ending = |flags: &[&str], code: i32, said: &[&str]| -> Result<(), Failed> {
        let output = run(flags)?;
        let text = String::from_utf8(output.stderr)?;
        assert_eq!(output.status.code(), Some(code), "{text}");
        let mut lines = text.lines();
        for words in said {
            assert!(lines.any(|line| line.contains(words)), "{words:?} is missing, or in the wrong place:\n{text}");
        }
        assert_eq!(lines.next(), None, "it is the last line:\n{text}");
        Ok(())
    };
    ending(&["--cluster-cidr=nowhere"], 2, &["error: "])?;
    let nowhere = format!("--manifests={}", world.folder.sockets().join("nowhere").display());
    // More than once: what is lost at the end is lost by chance.
    for _ in 0..20 {
        ending(&[&nowhere], 1, &["starting", "error: "])?;
    }
    Ok(())
}

/// A pipe that takes nothing until somebody reads: where to do that, and its other end.
fn full_pipe() -> Result<(File, File), Failed> {
    let (reader, writer) = io::pipe()?;
    let (reader, mut writer) = (File::from(OwnedFd::from(reader)), File::from(OwnedFd::from(writer)));
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    loop {
        match writer.write(&[FILLING; 4096]) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error.into()),
        }
    }
    // It belongs to the pipe's end, and not to the descriptor.
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::empty()))?;
    Ok((reader, writer))
}

/// Waits until the name has this address.
fn resolves(name: &str, address: Ipv4Addr) {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect(server("10.96.0.10")).unwrap();
    socket.set_read_timeout(Some(A_MOMENT)).unwrap();
    let mut message = Message::query();
    message.add_query(Query::query(name.parse::<Name>().unwrap(), RecordType::A));
    let question = message.to_vec().unwrap();
    let began = Instant::now();
    loop {
        let mut reply = [0; 1500];
        let length = socket.send(&question).and_then(|_| socket.recv(&mut reply)).unwrap_or(0);
        let reply = Message::from_vec(&reply[..length]).ok();
        if reply.is_some_and(|reply| reply.answers.iter().any(|record| record.data == RData::A(address.into()))) {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{name} has not got its address");
    }
}

/// Waits until it ends by itself.
fn ended(agent: &mut Agent) -> Result<ExitStatus, Failed> {
    let end = pidfd_open(Pid::from_child(&agent.process), PidfdFlags::empty())?;
    let patience = Timespec::try_from(PATIENCE)?;
    let ended = poll(&mut [PollFd::new(&end, PollFlags::IN)], Some(&patience))?;
    assert_eq!(ended, 1, "it does not end");
    Ok(agent.process.wait()?)
}
