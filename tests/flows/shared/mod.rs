//! The one table of flows: who connects to what, in which world, and what must happen.
//!
//! Three oracles read it: the pure packet walk, the agent with real packets in namespaces (`tests/flows`), and the stock kube-proxy in the
//! same namespaces (`tests/control_plane/proxy_oracle.rs`). The objects are those of the folders `tests/flows/cluster` and, for some settings, `later`.

pub mod differences;
mod rows;
mod rules;
mod settings;
pub mod world;

pub use rules::Rule;
pub use settings::{ALL_SETTINGS, Pods, Settings};

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use waypost::model::Protocol;

/// Who connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// The pod `client` on the node.
    Pod,
    /// The pod `far`, which belongs to another node: its packets come in from there.
    FarPod,
    /// The node itself.
    Node,
    /// A host outside, in many a source range.
    Outside,
    /// A host outside, in no source range.
    Stranger,
}

/// What must happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// One of these pods answers, all of them in the end, and sees the client's own address; but a pod that reaches itself sees the node.
    Kept(&'static [&'static str]),
    /// One of these pods answers, all of them in the end, and sees an address of the node.
    Masqueraded(&'static [&'static str]),
    /// As `Kept`, and each pod gets its share of many connections: as often as it is named here.
    Shares(&'static [&'static str]),
    /// One of these pods answers, and always the same, whichever of the flow's destination and these others the client uses.
    Sticky(&'static [&'static str], &'static [&'static str]),
    /// These pods answer in turn, whichever of the flow's destination and these others the client uses: of so many connections in a row each
    /// pod gets as many as it is named here.
    InTurn(&'static [&'static str], &'static [&'static str]),
    /// This pod answers, because of the client's address, whichever of the flow's destination and these others the client uses.
    Hashed(&'static str, &'static [&'static str]),
    /// One of these pods answers; which one, and whom it sees, is chance.
    Either(&'static [&'static str]),
    /// Not by the kernel's tables, but by a listener of the agent on the node: one of these pods answers, and sees the node.
    HandedOn(&'static [&'static str]),
    /// Refused at once.
    Refused,
    /// No answer.
    Dropped,
    /// No rule has anything to do with it: the node's own port, where nobody listens, or an address far away, from where nobody answers.
    Untouched,
}

/// One flow: a row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    /// The rules that it shows.
    pub rules: &'static [Rule],
    /// Who connects.
    pub from: Client,
    /// Over which protocol. SCTP is walked only: the lab has no such sockets.
    pub protocol: Protocol,
    /// To which address and port.
    pub to: &'static str,
    /// What must happen.
    pub expect: Expect,
    /// What kube-proxy does instead, where it does something else, and the difference of `docs/differences.md` that says why.
    pub stock: Option<(&'static str, Expect)>,
}

/// Rows that need the same settings.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// The settings.
    pub settings: &'static Settings,
    /// The rows.
    pub flows: &'static [Flow],
}

/// All rows.
pub fn groups() -> impl Iterator<Item = &'static Group> {
    rows::GROUPS.iter().copied().flatten()
}

const fn flow(rules: &'static [Rule], from: Client, protocol: Protocol, to: &'static str, expect: Expect) -> Flow {
    Flow { rules, from, protocol, to, expect, stock: None }
}

impl Flow {
    /// kube-proxy does this instead, and the documents say why.
    const fn stock(self, difference: &'static str, expect: Expect) -> Flow {
        Flow { stock: Some((difference, expect)), ..self }
    }

    /// The destination.
    pub fn target(&self) -> SocketAddr {
        self.to.parse().unwrap_or_else(|_| panic!("{:?} is no address and port", self.to))
    }

    /// What its rules say.
    pub fn says(&self) -> String {
        let shown = Rule::ALL.iter().filter(|(rule, _)| self.rules.contains(rule));
        shown.map(|(_, text)| *text).collect::<Vec<_>>().join("; ")
    }

    /// The client's address in the destination's family.
    pub fn source(&self) -> IpAddr {
        let to = self.target().ip();
        // A process that connects to an address of its own node has that very address.
        if self.from == Client::Node && world::node_addresses().any(|address| address == to) {
            return to;
        }
        let own = world::addresses(self.from).into_iter().find(|address| address.is_ipv4() == to.is_ipv4());
        own.unwrap_or_else(|| panic!("{:?} has no address of the family of {to}", self.from))
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} to {}/{}: {:?} {:?}", self.from, self.to, self.protocol, self.expect, self.rules)
    }
}
