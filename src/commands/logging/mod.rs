//! Logs go to standard error, one line an event, and nobody waits for whoever reads them (`lines.rs`).

mod lines;

use crate::config::{LogConfig, LogFormat};
use anyhow::{Context, anyhow};
use lines::Lines;
use prometheus::Registry;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::panic::{self, PanicHookInfo};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;
use tracing_subscriber::EnvFilter;

/// Libraries that report what only their own developers need: hickory-server writes two lines for each query at `info`, kube warns at each
/// end of a connection.
const QUIET: &str = "hickory_server=warn,hickory_resolver=warn,hickory_proto=warn,hickory_net=warn,hyper=warn,tower=warn,rustls=warn,kube_client=error";
/// What the end of the process waits at most for its last lines to be read.
const LAST_LINES: Duration = Duration::from_secs(2);
/// The same of a panic, which may be one of many, and must not take DNS off the node. Where somebody reads it is much more than is needed.
const PANIC: Duration = Duration::from_millis(100);

/// The lines of this process, once it logs.
static LINES: OnceLock<Lines> = OnceLock::new();

/// Starts logging. To be called once, before anything logs, and not before the process may have a second thread. Whoever calls it ends with [`finish`].
pub(super) fn init(config: &LogConfig) -> anyhow::Result<()> {
    // A bare level is meant for the agent; whoever names targets gets exactly those.
    let directives = match config.filter.contains(['=', '[']) {
        true => config.filter.clone(),
        false => format!("{},{QUIET}", config.filter),
    };
    let filter = EnvFilter::builder().parse(&directives).with_context(|| format!("log-level {directives:?}"))?;
    let lines = Lines::new()?;
    let made = lines.clone();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(move || made.clone());
    let started = match config.format {
        LogFormat::Human => builder.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| anyhow!("logging cannot start: {error}"))?;
    // Not std's handle, whose lock would be held for as long as a write takes.
    let stderr = File::from(std::io::stderr().as_fd().try_clone_to_owned().context("standard error")?);
    let lost = |lines| {
        tracing::warn!(lines, "log lines were lost: standard error does not take them, or is not read as fast as they come")
    };
    lines.write_to(stderr, lines::until_it_takes_more, lost).context("starting the thread that writes the log")?;
    LINES.get_or_init(|| lines);
    panic::set_hook(Box::new(tell_of_panic));
    Ok(())
}

/// Shows how many lines were lost, where logging has been started.
pub(super) fn show(registry: &Registry) -> Result<(), prometheus::Error> {
    LINES.get().map_or(Ok(()), |lines| lines.show(registry))
}

/// Says the error that ends the process, behind all that has been logged, and waits until it is written: for a while, where that was started, and
/// nobody reads.
pub fn finish(error: Option<&str>) {
    match (LINES.get(), error) {
        (Some(lines), error) => {
            error.into_iter().for_each(|error| lines.last(&format!("error: {error}\n")));
            lines.flush(LAST_LINES);
        }
        (None, Some(error)) => eprintln!("error: {error}"),
        (None, None) => {}
    }
}

/// What std says of a panic, on the way that all lines go: it would wait for whoever reads.
fn tell_of_panic(panic: &PanicHookInfo<'_>) {
    let Some(lines) = LINES.get() else { return };
    let thread = thread::current();
    let name = thread.name().unwrap_or("<unnamed>");
    let trace = Backtrace::capture();
    let trace = if trace.status() == BacktraceStatus::Captured { format!("stack backtrace:\n{trace}") } else { String::new() };
    lines.last(&format!("\nthread '{name}' {panic}\n{trace}"));
    // The main thread's panic ends the process, and passes the place where it would wait.
    lines.flush(if name == "main" { LAST_LINES } else { PANIC });
}
