//! Flags, environment and one YAML file, made into one validated [`Config`].
//!
//! A setting has one name everywhere: `--dns-ttl`, `WAYPOST_DNS_TTL`, and `dns-ttl` in the file. Parsing does no system call but
//! reading the file; what the host contributes is handed in as [`Surroundings`].

mod args;
mod dns;
mod effective;
mod file;
mod forward;
mod proxy;
mod resolve;
mod settings;
#[cfg(test)]
mod tests;

pub use args::{FilePlace, Origin, RunArgs, ViewArgs};
pub use dns::{DnsConfig, GuardConfig, RateConfig, ZonesSource};
pub use effective::{to_json, to_yaml};
pub use forward::{CacheConfig, ForwardConfig, NameServer, Over, Policy, StubZone, TlsConfig, Upstream, Upstreams};
pub use proxy::{ConntrackConfig, DetectLocalMode, NodePortAddresses, ProxyConfig, in_networks};
pub use resolve::{Origins, load};
pub(crate) use resolve::{is_public, name_server};
pub use settings::{SETTINGS, Setting, reference_markdown};

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The configuration file cannot be read.
    #[error("cannot read the configuration file {}: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: std::io::Error,
    },
    /// The configuration file is not the YAML that is expected.
    #[error("{}: {problem}; expected are lines such as `dns-ttl: 30` (see waypost run --help for the keys)", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What the parser says, with the line.
        problem: String,
    },
    /// A key that does not exist.
    #[error("{}, line {line}: there is no key {key:?}; allowed are {allowed}", path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// The key.
        key: String,
        /// The keys that exist.
        allowed: String,
    },
    /// A value that is not allowed.
    #[error("{origin}: {value:?} is not allowed; give {allowed}")]
    Value {
        /// Where it was given.
        origin: Origin,
        /// The value.
        value: String,
        /// What is allowed.
        allowed: String,
    },
    /// Two settings that exclude each other.
    #[error("{first} and {second} exclude each other; give one of them")]
    Conflict {
        /// One of them.
        first: Origin,
        /// The other.
        second: Origin,
    },
    /// Role dns without an address to serve on.
    #[error("role dns needs an address to serve on; give --dns-address, or set POD_IPS from the pod's status.podIPs")]
    NoDnsAddress,
}

/// What the process's surroundings contribute to the defaults.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The environment variable `NODE_NAME`, by custom set from `spec.nodeName`.
    pub node_name: Option<String>,
    /// The host name.
    pub host_name: Option<String>,
    /// The environment variable `POD_IPS`, by custom set from `status.podIPs`: where role dns serves by default.
    pub pod_ips: Option<String>,
}

impl Surroundings {
    /// Asks the environment and the host.
    pub fn of_this_process() -> Surroundings {
        Surroundings {
            node_name: std::env::var("NODE_NAME").ok(),
            host_name: nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()),
            pod_ips: std::env::var("POD_IPS").ok(),
        }
    }
}

/// Everything that `waypost run` needs to know, validated.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Which half of the agent runs.
    pub role: Role,
    /// The name of this node.
    pub node_name: String,
    /// Where the last known state is kept.
    pub state_dir: Option<PathBuf>,
    /// Where the objects come from.
    pub cluster: ClusterSource,
    /// The service proxy.
    pub proxy: ProxyConfig,
    /// Cluster DNS.
    pub dns: DnsConfig,
    /// Health, readiness and metrics.
    pub admin: AdminConfig,
    /// Where the agents of this node hand over to each other, a Unix socket; `None`: they do not.
    pub handover: Option<PathBuf>,
    /// Logging.
    pub log: LogConfig,
}

/// Which half of the agent runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Service proxy and DNS, on every node.
    All,
    /// The service proxy only.
    Proxy,
    /// DNS only: needs no privileges.
    Dns,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::All => "all",
            Role::Proxy => "proxy",
            Role::Dns => "dns",
        })
    }
}

/// Where the objects come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterSource {
    /// The service account and environment of a pod.
    InCluster,
    /// This kubeconfig file.
    Kubeconfig(PathBuf),
    /// This API server; credentials come from the service account where there is one.
    ApiServer(String),
    /// A folder of manifests, watched for changes.
    Manifests(PathBuf),
}

/// Health, readiness and metrics; equal addresses share one listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminConfig {
    /// `/healthz`, `/livez`, `/readyz`: kube-proxy's health port (default 10256 of every address, in both families).
    pub healthz: Option<SocketAddr>,
    /// `/metrics` and `/proxyMode`: kube-proxy's metrics port (default 127.0.0.1:10249).
    pub metrics: Option<SocketAddr>,
    /// `/health`: CoreDNS's health port (default 8080).
    pub dns_health: Option<SocketAddr>,
    /// `/ready`: CoreDNS's readiness port (default 8181).
    pub dns_ready: Option<SocketAddr>,
    /// `/metrics`: CoreDNS's metrics port (default 9153).
    pub dns_metrics: Option<SocketAddr>,
    /// The pages of `healthz` for probes of this very agent, on a Unix socket.
    pub probe: Option<PathBuf>,
    /// The local socket on which the agent is asked.
    pub socket: Option<PathBuf>,
}

/// Where the agent is asked unless it is told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/waypost/agent.sock";

/// Logging.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// For people or for machines.
    pub format: LogFormat,
    /// A tracing filter: a level, or `target=level` pairs.
    pub filter: String,
}

/// The shape of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One readable line an event.
    Human,
    /// One JSON object an event.
    Json,
}
