//! What an explanation says, for people and machines alike: the fields are documented in docs/explain.md and keep their names.

use crate::model::Protocol;
use crate::proxy::{AffinityMap, Dest};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;

/// What becomes of connections from somebody to something: an account for each address that is meant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The node from which it is seen.
    pub node: String,
    /// One for each family, where a name has an address in both.
    pub accounts: Vec<Account>,
}

/// What becomes of one connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Account {
    /// Who connects.
    pub from: Source,
    /// To what.
    pub to: Target,
    /// How it ends.
    pub verdict: Verdict,
    /// The same in words.
    pub summary: String,
    /// What caused it: the objects and fields that decide.
    pub because: Vec<Cause>,
    /// The endpoints that it may be sent to.
    pub endpoints: Vec<Used>,
    /// Endpoints of the service port that it is not sent to, and why.
    pub unused: Vec<Unused>,
    /// The way through the table.
    pub steps: Vec<Passed>,
    /// What else there is to know.
    pub notes: Vec<String>,
    /// Whether the kernel holds what was walked through; only a running agent knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<KernelState>,
    /// Maps that may remember the client, and were not known to: whoever can asks the kernel and explains once more.
    #[serde(skip)]
    pub not_found: Vec<(AffinityMap, IpAddr)>,
}

impl Account {
    /// The destination, if it is an address.
    pub fn dest(&self) -> Option<Dest> {
        let Target { address, port, protocol, .. } = &self.to;
        Some(Dest { address: (*address)?, protocol: Protocol::from_name(protocol)?, port: *port })
    }

    /// An account of which only is known who and what.
    pub(super) fn new(from: Source, to: Target) -> Account {
        Account {
            from,
            to,
            verdict: Verdict::Untouched,
            summary: String::new(),
            because: Vec::new(),
            endpoints: Vec::new(),
            unused: Vec::new(),
            steps: Vec::new(),
            notes: Vec::new(),
            kernel: None,
            not_found: Vec::new(),
        }
    }
}

/// Who connects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// The address; `None` where any of the kind is meant.
    pub address: Option<IpAddr>,
    /// What it is.
    pub kind: SourceKind,
}

/// What a source is to the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceKind {
    /// A pod: its address is in the pod networks.
    Pod,
    /// The node itself.
    Node,
    /// Anybody else.
    Outside,
}

/// To what somebody connects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// The address; `None` where a name has none.
    pub address: Option<IpAddr>,
    /// The port.
    pub port: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// The service that has it, as NAMESPACE/NAME.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The name of the service's port; empty when it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port_name: Option<String>,
    /// As what the service has the address: `ClusterIP`, `load balancer address`, `externalIP` or `NodePort`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
}

/// How it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It is sent to one of the endpoints.
    Balanced,
    /// The table leaves it alone: it goes to the very address.
    Untouched,
    /// The agent of this node answers it: a DNS question.
    Agent,
    /// It is refused at once.
    Refused,
    /// It is dropped: the client waits in vain.
    Dropped,
    /// The name has no address.
    Unresolved,
}

impl Verdict {
    /// In a word, for the head of a page.
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Balanced => "REACHED",
            Verdict::Untouched => "LEFT ALONE",
            Verdict::Agent => "ANSWERED HERE",
            Verdict::Refused => "REFUSED",
            Verdict::Dropped => "DROPPED",
            Verdict::Unresolved => "NO ADDRESS",
        }
    }

    /// The exit code of `waypost explain`; the worst of several accounts counts.
    pub fn exit_code(self) -> u8 {
        match self {
            Verdict::Balanced | Verdict::Untouched | Verdict::Agent => 0,
            Verdict::Refused => 3,
            Verdict::Dropped => 4,
            Verdict::Unresolved => 5,
        }
    }
}

/// An object and its field that made a difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// Kind and name, such as `Service shop/web`; `agent` for a setting of the agent.
    pub object: String,
    /// The field's path in the object, or the setting's flag.
    pub field: String,
    /// Its value; empty where it is the absence that counts.
    pub value: String,
}

impl Cause {
    /// A cause of these.
    pub fn new(object: impl Into<String>, field: impl Into<String>, value: impl ToString) -> Cause {
        Cause { object: object.into(), field: field.into(), value: value.to_string() }
    }
}

impl Cause {
    /// Field and value, as they are written in a line.
    pub fn field(&self) -> String {
        let Cause { field, value, .. } = self;
        let separator = if field.starts_with("--") { " " } else { ": " };
        if value.is_empty() { format!("{field} is not set") } else { format!("{field}{separator}{value}") }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.field())
    }
}

/// Whether the endpoint sees the client's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceSeen {
    /// It sees the client's own address.
    Kept,
    /// It sees an address of the node.
    Masqueraded,
}

/// An endpoint that a connection may be sent to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Used {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Its share of new connections, percent.
    pub share: f64,
    /// What it sees of the client.
    pub source: SourceSeen,
    /// Whether it is on this node.
    pub local: bool,
    /// The node that it is on, where the slice names one.
    pub node: Option<String>,
    /// Where it stands.
    pub because: Cause,
}

/// An endpoint that a connection is not sent to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Unused {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// The node that it is on, where the slice names one.
    pub node: Option<String>,
    /// Why it is not.
    pub why: String,
    /// The field that says so.
    pub because: Cause,
}

/// A step on the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Passed {
    /// The chain that decides.
    pub chain: String,
    /// The set or map that it asks, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set: Option<String>,
    /// The element found there, as nft writes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub element: Option<String>,
    /// What it says, as a fixed word.
    pub says: String,
    /// What it says, in words.
    pub text: String,
    /// What caused it.
    pub because: Vec<Cause>,
}

/// Whether the kernel holds what was walked through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelState {
    /// How it stands.
    pub state: InKernel,
    /// The same in words.
    pub text: String,
}

/// How the kernel stands to the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InKernel {
    /// It holds what was planned.
    InStep,
    /// A change is on its way.
    Pending,
    /// It refused this destination.
    Refused,
    /// It holds something else, or could not be reached: being mended.
    Differs,
    /// The thread that knows is busy with a large change.
    Unknown,
}
