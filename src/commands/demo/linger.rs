//! What comes after the tour: a shell in the client pod, edits applied live, or both.

use super::cluster::{Cluster, DOMAIN, dns_addresses};
use super::dns;
use super::scratch::{Editable, Scratch, program};
use super::screen::{Screen, short};
use crate::model::{ObjectKey, Protocol, Service};
use crate::source::manifests;
use anyhow::Context;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};

/// Editors write a file in several steps.
const SETTLED: Duration = Duration::from_millis(60);

/// How long a new name may take to appear.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why the demo does not just wait on.
enum Event {
    /// A manifest was written.
    Edited,
    /// The shell is closed.
    ShellClosed,
    /// The user or the system wants an end.
    Signal,
}

/// What the user asked for.
#[derive(Clone, Copy, Debug)]
pub struct Wishes {
    /// A shell in the client pod.
    pub shell: bool,
    /// Edits applied live.
    pub watch: bool,
}

/// What is there to work with.
pub struct Stage<'a> {
    /// The running cluster.
    pub cluster: &'a mut Cluster,
    /// The memory file system.
    pub scratch: &'a Scratch,
    /// The output.
    pub screen: &'a Screen,
    /// The agent's runtime.
    pub runtime: &'a Handle,
}

/// Stays until the shell is closed or a signal comes.
pub fn linger(wishes: Wishes, folder: Option<&Path>, stage: Stage<'_>) -> anyhow::Result<()> {
    let Stage { cluster, scratch, screen, runtime } = stage;
    let (events, event) = mpsc::channel();
    // From here on signals end the loop below, so that the shell and the files on the disk go in an orderly way.
    catch_signals(runtime, wishes.shell, &events)?;
    let editable = if wishes.watch && folder.is_none() { Some(Editable::new()?) } else { None };
    let folder = folder.or(editable.as_ref().map(|editable| editable.folder.as_path())).filter(|_| wishes.watch);
    let watcher = folder.map(|folder| watch(folder, wishes.shell, screen, events.clone())).transpose()?;
    let shell = if wishes.shell { Some(open_shell(cluster, scratch, screen, events)?) } else { None };
    while let Event::Edited = next(&event) {
        if let Some(folder) = folder {
            reload(folder, cluster, screen);
        }
    }
    drop(watcher);
    if let Some(shell) = shell {
        close_shell(shell, &event);
    }
    Ok(())
}

/// The next event; edits that follow each other closely are one.
fn next(event: &Receiver<Event>) -> Event {
    let mut next = event.recv().unwrap_or(Event::Signal);
    while let Event::Edited = next {
        match event.recv_timeout(SETTLED) {
            Ok(later) => next = later,
            Err(_) => break,
        }
    }
    next
}

fn catch_signals(runtime: &Handle, in_shell: bool, events: &Sender<Event>) -> anyhow::Result<()> {
    let _context = runtime.enter();
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let mut signals = signal(kind).context("catching signals")?;
        // At a shell Ctrl-C is meant for what runs there.
        let meant_for_shell = in_shell && kind == SignalKind::interrupt();
        let events = events.clone();
        runtime.spawn(async move {
            while signals.recv().await.is_some() {
                if !meant_for_shell {
                    let _ = events.send(Event::Signal);
                }
            }
        });
    }
    Ok(())
}

fn watch(folder: &Path, in_shell: bool, screen: &Screen, events: Sender<Event>) -> anyhow::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading the files is an event too.
        if event.is_ok_and(|event| !matches!(event.kind, EventKind::Access(_))) {
            let _ = events.send(Event::Edited);
        }
    })?;
    watcher.watch(folder, RecursiveMode::NonRecursive).with_context(|| format!("watching {}", folder.display()))?;
    screen.heading(
        "Live",
        &format!("edit, add or remove manifests in this folder{}", if in_shell { "" } else { "; Ctrl-C ends it" }),
    );
    screen.line(&screen.strong(&folder.display().to_string()));
    Ok(watcher)
}

/// Applies the folder as it is now; a mistake in it leaves the cluster as it was.
fn reload(folder: &Path, cluster: &mut Cluster, screen: &Screen) {
    let before: BTreeSet<_> = cluster.services().map(|service| service.key.clone()).collect();
    let begun = Instant::now();
    let applied = manifests::read(folder).map_err(anyhow::Error::from).and_then(|manifests| cluster.apply(manifests));
    match applied {
        Err(error) => screen.line(&format!("not applied: {error:#}")),
        Ok(changes) if changes.lines.is_empty() => {}
        Ok(changes) => {
            println!();
            changes.lines.iter().for_each(|change| screen.line(change));
            screen.line(&screen.faint(&format!("applied in {}", short(begun.elapsed()))));
            let told = cluster.told();
            let new = cluster.services().filter(|service| !before.contains(&service.key) && !service.cluster_ips.is_empty());
            let names: Vec<_> = new.map(|service| (service.key.clone(), service.cluster_ips[0])).collect();
            for (key, address) in names {
                screen.line(&screen.faint(&resolvable(cluster, &key, address.is_ipv4(), told)));
            }
        }
    }
}

/// Waits for a new name to be answered and says how long that took.
fn resolvable(cluster: &Cluster, key: &ObjectKey, v4: bool, told: Instant) -> String {
    let name = format!("{}.{}.svc.{DOMAIN}", key.name, key.namespace);
    let record_type = if v4 { RecordType::A } else { RecordType::AAAA };
    let answered = cluster.client.namespace().run(|| {
        while told.elapsed() < PATIENCE {
            let reply = dns::ask(dns_addresses()[0], &name, record_type);
            if reply.is_ok_and(|reply| reply.code == ResponseCode::NoError && !reply.answers.is_empty()) {
                return true;
            }
            thread::sleep(Duration::from_millis(1));
        }
        false
    });
    match answered {
        Ok(true) => format!("{name} is answered {} after the agent was told", short(told.elapsed())),
        _ => format!("{name} is not answered yet"),
    }
}

/// A shell in the client pod, with a resolver and tools that fit.
fn open_shell(cluster: &Cluster, scratch: &Scratch, screen: &Screen, events: Sender<Event>) -> anyhow::Result<Pid> {
    let namespace = cluster.busiest_namespace();
    let tools = scratch.tools(cluster)?;
    screen.heading("A shell in the client pod", "exit or Ctrl-D ends the demo");
    if let Err(error) = scratch.use_cluster_dns(&namespace) {
        screen.line(&format!("names need a server here ({error:#}): dig @{} NAME", dns_addresses()[0].ip()));
    }
    suggestions(cluster, &tools).iter().for_each(|(command, what)| screen.line(&format!("{command:44}  {}", screen.faint(what))));
    println!();
    let mut command = match program("bash") {
        Some(bash) => {
            let mut command = Command::new(bash);
            command.arg("--rcfile").arg(scratch.bash_start("client \\$ ")?);
            command
        }
        None => Command::new("/bin/sh"),
    };
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}:/usr/local/sbin:/usr/sbin:/sbin", tools.display())).env("PS1", "client $ ");
    let mut child = cluster.client.namespace().spawn(&mut command)?;
    let pid = Pid::from_raw(i32::try_from(child.id()).context("the shell's process id")?);
    thread::Builder::new().name("shell".into()).spawn(move || {
        let _ = child.wait();
        let _ = events.send(Event::ShellClosed);
    })?;
    Ok(pid)
}

/// What to try, as far as the programs are there.
fn suggestions(cluster: &Cluster, tools: &Path) -> Vec<(String, &'static str)> {
    let there = |name: &str| program(name).is_some();
    let has_pods = |service: &&Service| cluster.store.slices(&service.key).iter().any(|slice| !slice.endpoints.is_empty());
    let tcp = |service: &&Service| service.ports.first().is_some_and(|port| port.protocol == Protocol::Tcp);
    let service = cluster.services().filter(|service| !service.cluster_ips.is_empty()).filter(tcp).find(has_pods);
    let mut suggestions = Vec::new();
    if let Some(service) = service {
        let port = service.ports.first().map_or(80, |port| port.port);
        if there("curl") {
            suggestions.push((format!("curl {}:{port}", service.key.name), "says which pod answered and whom it saw"));
        }
        if there("dig") {
            suggestions.push((format!("dig +search {}", service.key.name), "the agent answers"));
        }
    }
    if tools.join("nft").exists() {
        suggestions.push(("nft list ruleset".to_string(), "the node's tables, whole"));
    }
    if tools.join("on-node").exists() {
        suggestions.push(("on-node curl -s localhost:10249/metrics".to_string(), "any command in the node's network"));
        let node = cluster.node.addresses()[0];
        let public = cluster.services().flat_map(|service| &service.ports).find(|port| port.node_port != 0);
        if let Some(port) = public {
            suggestions.push((format!("on-outside curl {node}:{}", port.node_port), "and in that of the host outside"));
        }
    }
    suggestions
}

/// Ends a shell that is still open. Interactive shells ignore SIGTERM; a hang-up they pass on to their jobs.
fn close_shell(shell: Pid, event: &Receiver<Event>) {
    let deadline = Instant::now() + PATIENCE;
    for signal in [Signal::SIGHUP, Signal::SIGKILL] {
        if kill(shell, signal).is_err() {
            return;
        }
        while let Ok(event) = event.recv_timeout(deadline.saturating_duration_since(Instant::now()).max(SETTLED)) {
            if let Event::ShellClosed = event {
                return;
            }
        }
    }
}
