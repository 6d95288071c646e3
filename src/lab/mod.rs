//! Network namespaces as nodes and pods: for `waypost demo` and for tests with real packets.
//!
//! ```text
//!   pod ── eth0 ═ veth1 ┐                           default route via 169.254.1.1 / fe80::1, neighbours are static
//!   pod ── eth0 ═ veth2 ├─ node (routes, nftables)  one /32 or /128 route to each pod address
//!  host ── eth0 ═ veth3 ┘                           a host outside the cluster is joined the same way
//! ```
//!
//! [`enter()`] needs no root: it makes a user namespace in which this process is. Namespaces have no names and are held by file
//! descriptors, so that nothing can collide and everything is gone when the process ends, however it ends.
//!
//! Everything here blocks: call it from plain threads, or from async code through `tokio::task::spawn_blocking`.

mod enter;
mod links;
mod namespace;
mod node;
mod packets;
mod servers;

pub use enter::enter;
pub use namespace::Namespace;
pub use node::{Node, Pod};
pub use packets::{Outcome, connect, connect_async, connect_here};
pub use servers::Serve;

use std::io;

/// Why the lab could not do something.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The host lets this process make no namespaces.
    #[error("this process may not make network namespaces: {reason}\n{advice}")]
    Forbidden {
        /// Which setting forbids it, as far as that can be seen.
        reason: String,
        /// What to do instead.
        advice: String,
    },
    /// A system call failed.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refused a link, an address, a route or a neighbour.
    #[error("{what}: {source}")]
    Netlink {
        /// What was tried.
        what: String,
        /// What the kernel said.
        source: rtnetlink::Error,
    },
}

impl LabError {
    fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> LabError {
        let what = what.into();
        move |source| LabError::System { what, source }
    }

    fn errno(what: impl Into<String>) -> impl FnOnce(nix::errno::Errno) -> LabError {
        let what = what.into();
        move |errno| LabError::System { what, source: errno.into() }
    }
}
