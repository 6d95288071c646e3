//! Logs go to standard error, one line an event.

use crate::config::{LogConfig, LogFormat};
use anyhow::{Context, anyhow};
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Libraries that report what only their own developers need: hickory-server writes two lines for each query at `info`, kube warns at each
/// end of a connection.
const QUIET: &str = "hickory_server=warn,hickory_resolver=warn,hickory_proto=warn,hickory_net=warn,hyper=warn,tower=warn,rustls=warn,kube_client=error";

/// Starts logging. To be called once, before anything logs.
pub fn init(config: &LogConfig) -> anyhow::Result<()> {
    // A bare level is meant for the agent; whoever names targets gets exactly those.
    let directives = match config.filter.contains(['=', '[']) {
        true => config.filter.clone(),
        false => format!("{},{QUIET}", config.filter),
    };
    let filter = EnvFilter::builder().parse(&directives).with_context(|| format!("log-level {directives:?}"))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match config.format {
        LogFormat::Human => builder.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| anyhow!("logging cannot start: {error}"))
}
