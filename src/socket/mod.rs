//! The local socket on which a running agent is asked what it knows.
//!
//! HTTP over a Unix socket that only the agent's own user may open: `POST /v1/explain`, `/v1/services`, `/v1/dig` and `/v1/dns/top` with a JSON object
//! each, `GET /version`. `curl --unix-socket` speaks it as well as [`ask`]. An agent that starts takes the path over by renaming, so that the newest
//! one answers.

mod client;
mod server;

pub use client::{AskError, ask};
pub use server::{Desk, Listening, serve};

use crate::model::ObjectKey;
use crate::nft::Held;
use crate::proxy::explain::{Explanation, Question, Unexplained};
use crate::proxy::listing::Row;
use crate::proxy::{Dest, Destination, KnownClient};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use tokio::sync::oneshot;

/// The body of `POST /v1/explain`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainRequest {
    /// Who connects, as `waypost explain --from` takes it.
    #[serde(default = "any_pod")]
    pub from: String,
    /// To what, as `waypost explain --to` takes it.
    pub to: String,
}

fn any_pod() -> String {
    "pod".to_string()
}

/// The body of `POST /v1/services`; an empty object asks for all.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServicesRequest {
    /// Only this namespace.
    pub namespace: Option<String>,
    /// Only the service of this name.
    pub name: Option<String>,
}

/// An answer that is none.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Refusal {
    /// What to ask instead.
    pub error: String,
    /// The name that the host's resolver should be asked for, where that is what is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub foreign: Option<String>,
}

/// What the agent's task is asked. It answers at once, from what it has in memory, and never about more than a few services at a time.
#[derive(Debug)]
pub enum Inquiry {
    /// What becomes of a connection; the addresses are the host's own, and the clients those that the kernel remembers, once it was asked.
    Explain(Question, Vec<IpAddr>, Option<Vec<KnownClient>>, oneshot::Sender<Explained>),
    /// The keys of all services, in no order, and the node's name.
    Services(oneshot::Sender<(String, Vec<ObjectKey>)>),
    /// What is programmed for these services.
    Rows(Vec<ObjectKey>, oneshot::Sender<Vec<Row>>),
}

/// An explanation, and what is needed to hold it against the kernel.
#[derive(Debug)]
pub struct Explained {
    /// The explanation.
    pub explanation: Result<Explanation, Unexplained>,
    /// What each account's destination should hold, and whether a change of it waits.
    pub planned: Vec<Planned>,
    /// What the thread of the data path says that it has committed, in the same order.
    pub held: oneshot::Receiver<Vec<Held>>,
}

/// What a destination should hold.
#[derive(Clone, Debug)]
pub struct Planned {
    /// The destination.
    pub dest: Dest,
    /// What it should hold.
    pub wanted: Option<Destination>,
    /// Whether changes are being gathered or committed that it may be among.
    pub waits: bool,
}
