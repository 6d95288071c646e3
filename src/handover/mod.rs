//! One agent of a node takes over from another, without a question or a connection lost.
//!
//! The sockets themselves change hands (`SCM_RIGHTS`), so that there is only ever one for each address, with one queue: whoever reads it answers,
//! and what one agent has not received the next one does. Nothing is bound twice, and a port that anybody else holds is as clear an error as ever.
//!
//! ```text
//!   old: holds the seat (a lock), serves             new: finds the seat taken; programs and learns everything meanwhile
//!                                  ◀── hello ───
//!                                  ─── welcome ─▶
//!                                  ◀── ask ─────     once it knows as much as the old one
//!                                  ─── sockets ─▶    and the seat; from here on both may receive
//!                                  ◀── serving ─     its own DNS switch stands
//!   stops receiving, opens its switch
//!                                  ─── retired ─▶    ready
//!   waits for its end, or for the new one's
//! ```
//!
//! Whoever dies on the way leaves the other one where it is: before `serving` the old one has never stopped, after `sockets` the new one has
//! everything that it needs.

mod channel;
mod seat;
mod sockets;

pub use channel::Say;
pub use seat::{Claim, Predecessor, Seat, Successor, claim};
pub use sockets::Sockets;

use std::io;
use std::path::PathBuf;

/// Why agents cannot hand over to each other.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// The place in the file system cannot be used.
    #[error("--handover-socket {}: cannot {action}: {error}; the folder must exist and be writable for the agents of this node only", path.display())]
    Place {
        /// The socket.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// The connection to the other agent broke.
    #[error("the connection to the other agent of this node broke: {0}")]
    Broken(#[source] io::Error),
    /// Whoever is there is not to be trusted.
    #[error("--handover-socket {}: the process at the other end runs as user {uid}, and this one does not: nothing is handed over", path.display())]
    Stranger {
        /// The socket.
        path: PathBuf,
        /// The user of the other process.
        uid: u32,
    },
    /// The other agent does not want to.
    #[error("the other agent of this node hands nothing over: {0}")]
    Refused(String),
    /// The other one said something else than was its turn.
    #[error("the other agent of this node said {0:?}, which this version does not understand here")]
    Unexpected(Say),
}
