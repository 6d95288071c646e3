//! `waypost probe`: asks this very agent how it is, for the probes of a kubelet.
//!
//! Two agents may be on a node for a moment, and one of them has the ports: a probe over the network would ask that one, whichever is meant.
//! A kubelet runs this in the container of the agent that it wants to know about, where that agent's own socket is.

use anyhow::{Context, bail};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// An agent that has not answered by then is as good as dead; a kubelet asks again.
const TIMEOUT: Duration = Duration::from_secs(4);

/// What `waypost probe` is asked.
#[derive(Debug, clap::Args)]
pub struct ProbeArgs {
    /// The agent's --probe-socket
    #[arg(long, env = "WAYPOST_PROBE_SOCKET", value_name = "FILE")]
    socket: PathBuf,
    /// The page to ask for
    #[arg(value_parser = ["healthz", "livez", "readyz"])]
    page: String,
}

/// Prints the page. Fails when the agent says that it is not well, or nothing.
///
/// # Errors
/// The agent cannot be asked.
pub fn run(args: &ProbeArgs) -> anyhow::Result<ExitCode> {
    let answer = ask(args).with_context(|| format!("the agent does not answer on {}", args.socket.display()))?;
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { bail!("the agent's answer is cut off: {answer:?}") };
    print!("{body}");
    Ok(if head.split(' ').nth(1) == Some("200") { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn ask(args: &ProbeArgs) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(&args.socket)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    write!(stream, "GET /{} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n", args.page)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
