//! What `waypost check` knows of the host: plain data, so that the judgement can be tested without one.

use crate::holder::Holder;
use crate::leftovers;
use crate::model::{Kind, Protocol};
use std::net::{IpAddr, SocketAddr};

/// Everything that was found out.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// `uname -r`.
    pub kernel: String,
    /// Effective capabilities, as a bit set; `None` when /proc does not tell.
    pub capabilities: Option<u64>,
    /// The first port that needs no privilege.
    pub unprivileged_port_start: u16,
    /// Whether the kernel does what the tables need.
    pub nf_tables: Probe,
    /// Whether it has conntrack zones; `None` where nothing needs them, or no trial could be made.
    pub zones: Option<bool>,
    /// The base chains at hook input, which only the nft program can show.
    pub nft: Reading<Vec<Chain>>,
    /// What others do or have left behind here.
    pub leftovers: leftovers::Facts,
    /// Settings of connection tracking that are not as the configuration wants them and cannot be changed: the name, and what is the matter.
    pub sysctls: Vec<(&'static str, String)>,
    /// Names of the links that are bridges.
    pub bridges: Vec<String>,
    /// `net.bridge.bridge-nf-call-iptables`; `None` when the module is not loaded.
    pub bridge_nf_call_iptables: Option<bool>,
    /// Ports that the configuration asks for and somebody has: the setting, protocol, address, and who.
    pub taken: Vec<(&'static str, Protocol, SocketAddr, Holder)>,
    /// Addresses that the configuration asks for and the host does not have, with the setting.
    pub absent: Vec<(&'static str, IpAddr)>,
    /// The name servers in the configured resolv.conf, or why it cannot be read; `None` where servers are configured.
    pub resolv_conf: Option<Result<Vec<IpAddr>, String>>,
    /// The API server, or the folder of manifests.
    pub source: SourceFact,
}

/// What became of a trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// It worked.
    Works,
    /// It failed, for this reason.
    Fails(String),
    /// It could not be made, for this reason.
    Untried(String),
}

impl Default for Probe {
    fn default() -> Probe {
        Probe::Untried("no trial was made".to_string())
    }
}

/// What a program told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Reading<T> {
    /// The program is not installed.
    #[default]
    NoProgram,
    /// It failed, saying this.
    Failed(String),
    /// It told this.
    Read(T),
}

/// A base chain at hook input.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// The family, as nft writes it.
    pub family: String,
    /// The table.
    pub table: String,
    /// The name.
    pub name: String,
    /// Whether its policy is drop.
    pub policy_drop: bool,
    /// What `nft list chain` prints.
    pub text: String,
}

/// Where the objects would come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SourceFact {
    /// The API server answers.
    Reached {
        /// What may not be listed, with the server's words.
        refused: Vec<(Kind, String)>,
        /// Whether Events may be written.
        events: bool,
    },
    /// It does not, for this reason.
    Unreachable(String),
    /// The folder of manifests is there.
    Folder,
    /// Nothing was tried.
    #[default]
    Untried,
}
