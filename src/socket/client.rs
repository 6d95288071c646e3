//! The asking end.

use super::Refusal;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longer than the agent takes for any answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody is there.
    #[error(
        "no agent answers on {}: {reason}; ask on a node, as root, where the agent runs (kubectl exec -n kube-system \
         daemonset/waypost-agent -- /waypost …), or name another source with --kubeconfig or --manifests",
        path.display()
    )]
    NoAgent {
        /// The socket.
        path: PathBuf,
        /// Why.
        reason: io::Error,
    },
    /// The agent does not answer what is asked.
    #[error("{}", .0.error)]
    Refused(Refusal),
    /// What came is no answer.
    #[error("the agent's answer cannot be read: {0}; is it of another version than this program?")]
    Garbled(String),
}

/// Asks the agent at this socket.
///
/// # Errors
/// Nobody answers, or not what is expected.
pub fn ask<T: DeserializeOwned>(path: &Path, page: &str, question: &impl Serialize) -> Result<T, AskError> {
    let garbled = |error: serde_json::Error| AskError::Garbled(error.to_string());
    let question = serde_json::to_vec(question).map_err(garbled)?;
    let reply = converse(path, page, &question).map_err(|reason| AskError::NoAgent { path: path.into(), reason })?;
    let text = String::from_utf8_lossy(&reply);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return Err(AskError::Garbled("it is cut off".into())) };
    match head.split(' ').nth(1) {
        Some("200") => serde_json::from_str(body).map_err(garbled),
        _ => Err(AskError::Refused(serde_json::from_str(body).map_err(garbled)?)),
    }
}

fn converse(path: &Path, page: &str, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let length = question.len();
    write!(stream, "POST {page} HTTP/1.0\r\nHost: agent\r\nContent-Length: {length}\r\n\r\n")?;
    stream.write_all(question)?;
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply)?;
    Ok(reply)
}
