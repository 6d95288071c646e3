//! `waypost demo`: a cluster on this machine, without root, API server or engine.
//!
//! The demo plays what a cluster has beside the agent: API server, controllers, kubelet and a world outside. The agent is the real one.

mod allocate;
mod cluster;
mod dns;
mod failover;
mod kernel;
mod linger;
mod names;
mod plan;
mod scratch;
mod screen;
mod slices;
#[cfg(test)]
mod tests;
mod traffic;

use super::logging;
use crate::admin::Registries;
use crate::agent::{self, Running};
use crate::notices::Notices;
use crate::source::manifests;
use crate::{lab, model::Update};
use anyhow::{Context, bail};
use cluster::{Cluster, agent_config};
use linger::{Stage, Wishes};
use scratch::Scratch;
use screen::{Screen, counted, short};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

/// How long the agent may take until everything is programmed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Shows services and DNS at work on this machine: real nftables, real packets, no root, no cluster
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// A folder of manifests: Service, EndpointSlice, Pod, Deployment; without it the demo brings its own
    pub dir: Option<PathBuf>,
    /// Leave a shell open in a client pod, where curl, dig and nft work
    #[arg(long)]
    pub shell: bool,
    /// Apply edits to the manifests live, until Ctrl-C
    #[arg(long)]
    pub watch: bool,
}

/// Runs the demo. Must be called before the process has a second thread: user namespaces are for single-threaded processes.
///
/// # Errors
///
/// When the machine forbids it (the message says which setting), when the manifests cannot be used, and when anything that is shown
/// did not come out as it must.
pub fn run(args: &DemoArgs) -> anyhow::Result<()> {
    let folder =
        args.dir.as_ref().map(|dir| dir.canonicalize().with_context(|| format!("the folder {}", dir.display()))).transpose()?;
    let begun = Instant::now();
    if !Path::new("/proc/sys/net/ipv6").exists() {
        bail!("this kernel has IPv6 switched off (ipv6.disable=1 on its command line?); the demo shows both families");
    }
    lab::enter()?;
    let config = agent_config();
    logging::init(&config.log)?;
    let scratch = Scratch::mount()?;
    let manifests = manifests::read(&match &folder {
        Some(folder) => folder.clone(),
        None => scratch.samples()?,
    })?;
    let mut screen = Screen::default();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().context("starting threads")?;
    let (updates, told) = mpsc::channel::<Update>(1024);
    let mut cluster = Cluster::new(updates)?;
    let registries = Registries::new(config.role)?;
    let agent =
        runtime.block_on(agent::start(config, registries, told, Notices::logged(), None)).context("starting the agent")?;
    let remarks = cluster.apply(manifests)?.remarks;
    wait_until_ready(&runtime, &agent)?;

    introduce(&cluster, &screen, begun);
    remarks.iter().for_each(|remark| screen.line(&screen.faint(remark)));
    names::show(&cluster, &mut screen)?;
    traffic::show(&cluster, &mut screen)?;
    kernel::show(&cluster, &mut screen)?;
    failover::show(&mut cluster, &mut screen)?;
    conclude(&screen, begun);

    if args.shell || args.watch {
        let wishes = Wishes { shell: args.shell, watch: args.watch };
        let stage = Stage { cluster: &mut cluster, scratch: &scratch, screen: &screen, runtime: runtime.handle() };
        linger::linger(wishes, folder.as_deref(), stage)?;
    }
    runtime.block_on(agent.shutdown());
    match screen.failed() {
        [] => Ok(()),
        failed => bail!("{} did not come out as expected:\n  {}", counted(failed.len(), "step"), failed.join("\n  ")),
    }
}

fn wait_until_ready(runtime: &Runtime, agent: &Running) -> anyhow::Result<()> {
    let ready = runtime.block_on(async { tokio::time::timeout(PATIENCE, agent.ready()).await });
    ready
        .map(drop)
        .with_context(|| format!("the agent has programmed nothing after {}; look for its warnings above", short(PATIENCE)))
}

fn introduce(cluster: &Cluster, screen: &Screen, begun: Instant) {
    let services = cluster.services().count();
    let parts = [counted(cluster.plan.pods.len(), "pod"), counted(services, "service"), "one node".to_string()];
    println!(
        "{}  {}",
        screen.strong("Waypost demo"),
        screen.faint(&format!("{}: network namespaces of this process, up in {}", parts.join(", "), short(begun.elapsed())))
    );
}

fn conclude(screen: &Screen, begun: Instant) {
    let took = short(begun.elapsed());
    match screen.failed().len() {
        0 => screen.heading(
            "Done",
            &format!("{} came out as they must, in {took}; nothing is left behind", counted(screen.passed(), "check")),
        ),
        bad => {
            screen.heading("Not well", &format!("{} out of {} failed, in {took}", bad, counted(bad + screen.passed(), "check")))
        }
    }
}
