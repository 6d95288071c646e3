//! Waypost: one agent per Kubernetes node for service load balancing and cluster DNS.
//!
//! Data flows in one direction:
//!
//! ```text
//! API server or manifests ─▶ source ─▶ store ─▶ proxy (the plan) ─▶ nft (the commit) ─▶ kernel
//!                                        │                             │ committed
//!                                        └────────▶ dns (records) ◀────┘ ─▶ answers
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | [`model`] | services, endpoint slices and nodes, stripped to what the agent needs; no I/O |
//! | [`source`] | the edge: Kubernetes objects in, model updates out |
//! | [`store`] | the one state: every object of the cluster that matters here, and what changed |
//! | [`snapshot`] | the last known state on disk, for a start without an API server |
//! | [`proxy`] | pure: from a service and its endpoints to the destinations that the kernel should hold |
//! | [`nft`] | the tables: layout, differences, netlink, the switch of DNS on the node, and an in-memory kernel for tests |
//! | [`conntrack`] | stale UDP flows: which they are (pure), and their deletion |
//! | [`dns`] | records, answers (pure), and the servers and forwarding around them |
//! | [`notices`] | what people should know: log lines, and Events on the objects that they are about |
//! | [`admin`] | health, readiness, metrics |
//! | [`handover`] | one agent of a node takes over from another: the sockets change hands |
//! | [`holder`] | which process holds a port, for error messages |
//! | [`leftovers`] | what others do, or have left behind, in the agent's place: found, reported, and kube-proxy's removed |
//! | [`socket`] | the local socket on which a running agent is asked what it knows |
//! | [`listeners`] | TCP listeners that come and go with what is wanted |
//! | [`config`] | flags, environment and file, made into one validated [`config::Config`] |
//! | [`agent`] | the one place where everything is wired together |
//! | [`import`] | configurations of others, made into ours |
//! | [`lab`] | network namespaces as nodes and pods: for the demo and for tests with real packets |
//! | [`commands`] | one file for each verb of the command line |
#![forbid(unsafe_code)]
#![warn(missing_docs)]

// Tests share files with those of tests/, which know the crate by its name.
#[cfg(test)]
extern crate self as waypost;

/// The version of this build: that of the package, or what the environment variable `WAYPOST_VERSION` said when it was built.
pub const VERSION: &str = match option_env!("WAYPOST_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};

pub mod admin;
pub mod agent;
pub mod commands;
pub mod config;
pub mod conntrack;
pub mod dns;
pub mod handover;
pub mod holder;
pub mod import;
pub mod lab;
pub mod leftovers;
pub mod listeners;
pub mod model;
pub mod nft;
pub mod notices;
pub mod proxy;
pub mod snapshot;
pub mod socket;
pub mod source;
pub mod store;
