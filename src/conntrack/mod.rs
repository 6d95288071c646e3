//! Connection tracking: UDP flows that would go on to where nobody serves any more.
//!
//! A flow is translated once, by its first packet; what follows goes the same way for as long as the kernel remembers it. A TCP connection ends
//! with its endpoint, a UDP flow does not: a client that keeps sending keeps the way to an endpoint that is gone. So after each commit that
//! touches a UDP destination its flows are looked at, and those that lead to no serving endpoint are forgotten: their next packet is a first one.
//!
//! [`Cleaner`] is the thread that does it, [`Stale`] the judgement, [`Conntrack`] the kernel. The same thread makes the kernel's settings of connection
//! tracking ([`Sysctl`]) what the configuration says.

mod cleaner;
mod flow;
mod netlink;
mod sysctls;

pub use cleaner::{Cleaner, ConntrackMetrics, Reconciled, Tracked, reconcile};
pub use flow::{Flow, Stale, Touched};
pub use netlink::{Conntrack, kernel_version};
pub use sysctls::{Sysctl, Unset, folder, processors, set, unset, wanted};
