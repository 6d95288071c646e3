//! What others do, or have left behind, in the agent's place: kube-proxy, NodeLocal DNSCache, and whoever translates addresses before us.
//!
//! The agent looks at its start and every minute, and reports by [`crate::notices`]; `waypost check` shows the same findings, and
//! `waypost cleanup --kube-proxy` removes what kube-proxy left. [`judge()`] is pure.

mod collect;
pub mod iptables;
mod ipvs;
mod judge;
mod removal;
mod watch;

pub use collect::{facts, links};
pub use judge::{Leftover, judge};
pub use removal::{Removal, remove_kube_proxy};
pub use watch::keep_looking;

use crate::holder::Process;
use crate::nft::{ForeignChain, ForeignTable};

/// What was seen of others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Every table of nftables.
    pub tables: Vec<ForeignTable>,
    /// Every chain of nftables; those of iptables are among them where its programs write nftables.
    pub chains: Vec<ForeignChain>,
    /// Why tables and chains could not be looked at.
    pub unseen: Option<String>,
    /// The programs of the older kernel interface that list chains of kube-proxy.
    pub legacy: Vec<&'static str>,
    /// Whether the older kernel interface is in use and no program is here that could look at it.
    pub legacy_unseen: bool,
    /// The names of all links.
    pub links: Vec<String>,
    /// Whether IPVS has virtual services.
    pub ipvs: bool,
    /// Running processes of the name kube-proxy in this network namespace, as far as they can be seen.
    pub kube_proxies: Vec<Process>,
}

/// The link on which kube-proxy's IPVS mode has the service addresses.
const IPVS_LINK: &str = "kube-ipvs0";
/// NodeLocal DNSCache's link.
const NODE_LOCAL_DNS_LINK: &str = "nodelocaldns";
/// kube-proxy's table, in both families.
const KUBE_PROXY_TABLE: &str = "kube-proxy";
