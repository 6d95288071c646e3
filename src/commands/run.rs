//! `waypost run`: the agent, until a signal ends it.

use super::logging;
use crate::admin::Registries;
use crate::agent::{self, Retired};
use crate::config::{self, ClusterSource, Config, Role, RunArgs, Surroundings, ZonesSource};
use crate::import::read::Mounted;
use crate::model::{Demand, Kind, Update};
use crate::notices::Notices;
use crate::source::{kubernetes, manifests};
use anyhow::{Context, anyhow, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// Updates that may wait for the agent's loop: a few milliseconds of its work.
const QUEUE: usize = 1024;
/// A pod gets 30 s by default before it is killed; draining must not use them up.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);

/// Runs the agent.
///
/// # Errors
/// The configuration is wrong, or the agent cannot start.
pub fn run(args: &RunArgs) -> anyhow::Result<()> {
    let (config, _) = config::load(args, &Surroundings::of_this_process())?;
    logging::init(&config.log)?;
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start worker threads")?;
    let outcome = runtime.block_on(serve(config));
    // A file watcher or a resolver may sit in a blocking call: nothing is lost with it.
    runtime.shutdown_background();
    outcome
}

/// Each forwarded question holds a socket: with silent upstreams and many clients the usual soft limit of 1024 would be reached.
fn raise_file_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(errno) = raised {
        tracing::warn!(%errno, "cannot raise the limit of open files");
    }
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    tracing::info!(version = crate::VERSION, node = config.node_name, role = %config.role, "starting");
    let (updates, received) = mpsc::channel(QUEUE);
    // Kept until the end, so that the agent outlives its source: a source that ends has an error, and that is what must be told.
    let registries = Registries::new(config.role)?;
    logging::show(&registries.process)?;
    let (asked, demand) = watch::channel(Demand::default());
    let (mut source, notices) = source(&config, &registries, updates.clone(), demand).await?;
    let texts = config_maps(&config, notices.clone()).await?;
    let mut agent = agent::start(config, registries, received, notices, texts).await?;
    let ask = AbortOnDrop(tokio::spawn(hand_on(agent.demand(), asked)));
    let mut successor = None;
    let outcome = tokio::select! {
        name = signals.next() => {
            tracing::info!(signal = name, "stopping; the rules stay in the kernel and go on serving");
            Ok(())
        }
        failure = &mut source => failure.context("the source of objects broke down").flatten(),
        ended = agent.ended() => {
            let broken = ended.is_none();
            successor = ended;
            if broken { Err(anyhow!("the agent broke down; its log says why")) } else { Ok(()) }
        }
    };
    source.abort();
    drop(ask);
    match successor {
        Some(successor) => wait_for_the_end(agent.retire(successor).await, &mut signals).await?,
        None => drain(agent.shutdown(), &mut signals).await?,
    }
    drop(updates);
    outcome
}

/// Another agent serves this node. This one is kept until somebody ends it, as a kubelet does when the new pod is ready; or until the other one
/// ends, whatever for: then the node needs one that begins anew.
async fn wait_for_the_end(retired: Retired, signals: &mut Signals) -> anyhow::Result<()> {
    tracing::info!("another agent serves this node; this one only finishes its connections");
    let outcome = tokio::select! {
        name = signals.next() => {
            tracing::info!(signal = name, "stopping");
            Ok(())
        }
        () = retired.alone() => {
            Err(anyhow!("the agent that took over has ended: this one ends too, so that whoever started it starts it anew"))
        }
    };
    drain(retired.shutdown(), signals).await?;
    outcome
}

async fn drain(shutdown: impl Future<Output = ()>, signals: &mut Signals) -> anyhow::Result<()> {
    tokio::select! {
        () = shutdown => {
            tracing::info!("stopped");
            Ok(())
        }
        name = signals.next() => bail!("a second signal ({name}): ended without finishing the answers under way"),
        () = tokio::time::sleep(DRAIN_TIMEOUT) => {
            bail!("answers were still under way after {} s: ended without them", DRAIN_TIMEOUT.as_secs())
        }
    }
}

/// Tells the source what the agent asks of it.
async fn hand_on(mut demand: watch::Receiver<Demand>, asked: watch::Sender<Demand>) {
    loop {
        asked.send_replace(demand.borrow_and_update().clone());
        if demand.changed().await.is_err() {
            // The source goes on with what it was asked for last.
            std::future::pending::<()>().await;
        }
    }
}

/// A task that ends with this value.
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The task that sends updates. It ends by itself only when it cannot go on.
type Source = JoinHandle<anyhow::Result<()>>;

/// Starts the source of updates, and with it the way of notices back to where the objects come from.
async fn source(
    config: &Config,
    registries: &Registries,
    updates: mpsc::Sender<Update>,
    mut demand: watch::Receiver<Demand>,
) -> anyhow::Result<(Source, Notices)> {
    let node_name = (config.role != Role::Dns).then(|| config.node_name.clone());
    if let ClusterSource::Manifests(folder) = config.cluster.clone() {
        let watch = async move { Ok(manifests::watch(&folder, node_name.as_deref(), updates).await?) };
        return Ok((tokio::spawn(watch), Notices::logged()));
    }
    let client = kubernetes::client(&config.cluster).await?;
    let kinds: &[Kind] = match config.role {
        Role::Dns => &[Kind::Service, Kind::Slice, Kind::Namespace],
        Role::All | Role::Proxy => &[Kind::Service, Kind::Slice, Kind::Namespace, Kind::Node, Kind::ServiceCidr],
    };
    let zones = config.dns.zones.clone();
    let health = kubernetes::Health::default();
    health.show(kinds, &registries.process)?;
    let Some(node_name) = node_name else {
        // The agents of the nodes say the same of bad objects, and have the right to.
        let watch = async move {
            let told = kubernetes::Told { updates, health, notices: Notices::logged() };
            first_word(&zones, &mut demand).await;
            kubernetes::watch(client, None, kinds, demand, told).await;
            Ok(())
        };
        return Ok((tokio::spawn(watch), Notices::logged()));
    };
    let (notices, received) = Notices::sent();
    let told = kubernetes::Told { updates, health, notices: notices.clone() };
    let work = async move {
        let watch = async {
            first_word(&zones, &mut demand).await;
            kubernetes::watch(client.clone(), Some(&node_name), kinds, demand, told).await;
        };
        tokio::select! {
            () = watch => {}
            never = async { kubernetes::send_events(client.clone(), &node_name, received).await; std::future::pending().await } => never,
        }
        Ok(())
    };
    Ok((tokio::spawn(work), notices))
}

/// Waits until it is known what DNS needs to know of the cluster, so that nothing is listed twice; the flags alone ask for nothing.
async fn first_word(zones: &ZonesSource, demand: &mut watch::Receiver<Demand>) {
    if *zones != ZonesSource::Flags {
        // Without anybody who could ask for more, what is asked for is known.
        let _ = demand.changed().await;
    }
}

/// The ConfigMaps with a Corefile, where DNS takes its zones from there.
async fn config_maps(config: &Config, notices: Notices) -> anyhow::Result<Option<watch::Receiver<Mounted>>> {
    let ZonesSource::ConfigMaps(names) = &config.dns.zones else { return Ok(None) };
    if config.role == Role::Proxy || config.dns.addresses.is_empty() {
        return Ok(None);
    }
    if let ClusterSource::Manifests(_) = config.cluster {
        bail!("--corefile-configmap needs an API server, and --manifests is instead of one; give the file with --corefile");
    }
    let (told, texts) = watch::channel(Mounted::default());
    let client = kubernetes::client(&config.cluster).await?;
    tokio::spawn(kubernetes::watch_config_maps(client, names.clone(), told, notices));
    Ok(Some(texts))
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Signals> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Signals { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
