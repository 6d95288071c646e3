//! `waypost run`: the agent, until a signal ends it.

use super::logging;
use crate::config::{self, RunArgs, Surroundings};
use anyhow::Context;

/// Runs the agent.
pub fn run(args: &RunArgs) -> anyhow::Result<()> {
    let (config, _) = config::load(args, &Surroundings::of_this_process())?;
    logging::init(&config.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start worker threads")?;
    runtime.block_on(async {
        tracing::info!(version = env!("CARGO_PKG_VERSION"), node = config.node_name, "starting");
        Ok(())
    })
}
