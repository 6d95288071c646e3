//! Flags, environment and one YAML file, made into one validated [`Config`].
//!
//! A setting has one name everywhere: `--dns-ttl`, `WAYPOST_DNS_TTL`, and `dns-ttl` in the file. Parsing does no system call but
//! reading the file; what the host contributes is handed in as [`Surroundings`].

mod args;
mod effective;
mod file;
mod resolve;
mod settings;
#[cfg(test)]
mod tests;

pub use args::{FilePlace, Origin, RunArgs, ViewArgs};
pub use effective::{to_json, to_yaml};
pub use resolve::{Origins, load};
pub(crate) use resolve::{is_public, name_server};
pub use settings::{SETTINGS, Setting, reference_markdown};

use crate::dns::chain::Block;
use ipnet::IpNet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

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

/// The service proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyConfig {
    /// What packets of pods are known by.
    pub detect_local: DetectLocalMode,
    /// Pod networks, for [`DetectLocalMode::ClusterCidr`]: traffic from elsewhere to a ClusterIP is masqueraded. Empty: nothing is (as in
    /// kube-proxy).
    pub cluster_cidrs: Vec<IpNet>,
    /// Service networks: their unallocated addresses are dropped.
    pub service_cidrs: Vec<IpNet>,
    /// On which of the node's addresses NodePorts answer.
    pub nodeport_addresses: NodePortAddresses,
    /// For how many destinations new connections are counted in the metrics; 0: for none.
    pub connection_metrics: usize,
    /// Whether the externalIPs of Services are served.
    pub external_ips: bool,
    /// Masquerade all traffic to ClusterIPs.
    pub masquerade_all: bool,
    /// Whether DNS questions that this node answers are connections like any other (`dns-untracked=false`).
    pub tracked_dns: bool,
    /// Which bit of the packet mark asks for masquerading (kube-proxy's `iptables-masquerade-bit`; 0 to 31).
    pub masquerade_bit: u8,
    /// The kernel's settings of connection tracking.
    pub conntrack: ConntrackConfig,
}

/// The kernel's settings of connection tracking, named as kube-proxy's flags; 0 leaves one alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConntrackConfig {
    /// So many flows for each processor, at most 1,048,576 together. 0 leaves the limit alone, whatever `min` says.
    pub max_per_core: u32,
    /// But at least so many.
    pub min: u32,
    /// How long an established TCP connection without packets is remembered.
    pub tcp_established_seconds: u32,
    /// How long a TCP connection that one side has closed is remembered.
    pub tcp_close_wait_seconds: u32,
    /// Take TCP packets outside the window for part of their connection. Otherwise they arrive untranslated, and the client resets the connection
    /// (kubernetes/kubernetes 117924).
    pub tcp_be_liberal: bool,
    /// How long a UDP flow without an answer is remembered.
    pub udp_seconds: u32,
    /// How long a UDP flow with answers is remembered.
    pub udp_stream_seconds: u32,
}

impl ConntrackConfig {
    /// kube-proxy's, but for the last but two, which is off there.
    pub const DEFAULT: ConntrackConfig = ConntrackConfig {
        max_per_core: 32_768,
        min: 131_072,
        tcp_established_seconds: 86_400,
        tcp_close_wait_seconds: 3600,
        tcp_be_liberal: true,
        udp_seconds: 0,
        udp_stream_seconds: 0,
    };
    /// Everything is left alone.
    pub const UNTOUCHED: ConntrackConfig = ConntrackConfig {
        max_per_core: 0,
        min: 0,
        tcp_established_seconds: 0,
        tcp_close_wait_seconds: 0,
        tcp_be_liberal: false,
        udp_seconds: 0,
        udp_stream_seconds: 0,
    };
}

/// What packets of pods are known by (kube-proxy's `detect-local-mode`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DetectLocalMode {
    /// Their source: in [`ProxyConfig::cluster_cidrs`].
    ClusterCidr,
    /// Their source: in the networks that the Node object names.
    NodeCidr,
    /// The interface by which they come in: this bridge.
    BridgeInterface(Box<str>),
    /// The interface by which they come in: one whose name begins so.
    InterfaceNamePrefix(Box<str>),
}

impl DetectLocalMode {
    /// kube-proxy's name of the mode.
    pub fn name(&self) -> &'static str {
        match self {
            DetectLocalMode::ClusterCidr => "ClusterCIDR",
            DetectLocalMode::NodeCidr => "NodeCIDR",
            DetectLocalMode::BridgeInterface(_) => "BridgeInterface",
            DetectLocalMode::InterfaceNamePrefix(_) => "InterfaceNamePrefix",
        }
    }
}

/// On which of the node's addresses NodePorts answer: on all that are named here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePortAddresses {
    /// The addresses of the Node object.
    pub primary: bool,
    /// Local addresses in these networks; never those of the loopback network.
    pub networks: Vec<IpNet>,
    /// The loopback addresses, for TCP and for processes of the node only.
    pub localhost: bool,
}

impl NodePortAddresses {
    /// The addresses of the Node object and no others.
    pub fn primary() -> NodePortAddresses {
        NodePortAddresses { primary: true, networks: Vec::new(), localhost: false }
    }
}

/// Cluster DNS.
#[derive(Clone, Debug, PartialEq)]
pub struct DnsConfig {
    /// The cluster domain, lower case, without a trailing dot.
    pub domain: String,
    /// Where DNS is served, UDP and TCP.
    pub addresses: Vec<SocketAddr>,
    /// TTL of the cluster's records in seconds (0 to 3600).
    pub ttl: u32,
    /// Server blocks, which decide on everything that the other settings here say unless they leave it to them.
    pub zones: ZonesSource,
    /// Where names outside the cluster domain are asked.
    pub upstreams: Upstreams,
    /// Zones that have servers of their own.
    pub stub_zones: Vec<StubZone>,
    /// How all of them are asked.
    pub forward: ForwardConfig,
    /// How long their answers are kept.
    pub cache: CacheConfig,
    /// Who is answered, and how often.
    pub guard: GuardConfig,
}

/// What keeps DNS from being misused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardConfig {
    /// The networks from which questions are answered; none: all.
    pub allow_from: Vec<IpNet>,
    /// How many answers a client gets over UDP.
    pub rate: RateConfig,
    /// How many TCP connections each address has at a time.
    pub connections: usize,
}

/// Everybody, as often as they like.
impl Default for GuardConfig {
    fn default() -> GuardConfig {
        GuardConfig {
            allow_from: Vec::new(),
            rate: RateConfig { per_second: 0, slip: 2, prefixes: (32, 128) },
            connections: 4096,
        }
    }
}

/// How many answers a client gets over UDP (response rate limiting).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateConfig {
    /// Answers in a second; as many at once after a pause. 0: any number.
    pub per_second: u32,
    /// Of so many questions beyond them one is answered with TC. 0: none is.
    pub slip: u32,
    /// The bits of an IPv4 address, and of an IPv6 address, that tell clients apart.
    pub prefixes: (u8, u8),
}

/// Where the server blocks of DNS come from.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum ZonesSource {
    /// There are none but what the other settings say.
    #[default]
    Flags,
    /// The configuration file has them (`dns-zones`).
    Blocks {
        /// The blocks.
        blocks: Vec<Block>,
        /// The file.
        file: PathBuf,
    },
    /// This Corefile.
    Corefile(PathBuf),
    /// The Corefile in the first of these ConfigMaps (`namespace/name`); the others have files that it imports.
    ConfigMaps(Vec<String>),
}

/// A zone with name servers of its own (CoreDNS: a server block with `forward`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StubZone {
    /// The zone, lower case, without a trailing dot.
    pub zone: String,
    /// Its servers.
    pub servers: Vec<NameServer>,
}

/// A name server that is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NameServer {
    /// Where it is.
    pub address: SocketAddr,
    /// How it is spoken to.
    pub over: Over,
}

/// How a name server is spoken to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Over {
    /// UDP and TCP, which everybody on the way can read and change.
    Plain,
    /// TLS (RFC 7858) and nothing else.
    Tls {
        /// The name in its certificate; without one that has to be for its address.
        name: Option<String>,
    },
}

impl From<SocketAddr> for NameServer {
    fn from(address: SocketAddr) -> NameServer {
        NameServer { address, over: Over::Plain }
    }
}

/// As it is written in the configuration: `192.0.2.53:53`, `tls://192.0.2.53:853#dns.example`.
impl fmt::Display for NameServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.over {
            Over::Plain => write!(f, "{}", self.address),
            Over::Tls { name: None } => write!(f, "tls://{}", self.address),
            Over::Tls { name: Some(name) } => write!(f, "tls://{}#{name}", self.address),
        }
    }
}

/// What servers over TLS are told by (CoreDNS: `tls` of the plugin forward).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TlsConfig {
    /// Who may have signed their certificates, a PEM file; `None`: whom this system trusts.
    pub ca: Option<PathBuf>,
    /// Certificate and key that are shown to them, PEM files.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// How upstream servers are asked (CoreDNS's plugin forward).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardConfig {
    /// Which one is asked first.
    pub policy: Policy,
    /// Ask over TCP only (`force_tcp`). Otherwise by the client's own transport, and over TCP where an answer was cut.
    pub only_tcp: bool,
    /// Ask over UDP first for clients that come over TCP as well (`prefer_udp`).
    pub prefer_udp: bool,
    /// After more failed checks in a row than these a server is down. 0: never, and none is checked.
    pub max_fails: u32,
    /// So many questions may be under way at a time; more are refused. 0: any number.
    pub max_concurrent: usize,
    /// After this long the second server is asked as well. Zero: not before a second.
    pub hedge: Duration,
    /// Domains that are not forwarded, lower case, without a trailing dot.
    pub except: Vec<String>,
    /// For the servers that are asked over TLS.
    pub tls: TlsConfig,
    /// An idle connection is used again for this long (`expire`).
    pub expire: Duration,
    /// How often a server that has failed a question is checked (`health_check`).
    pub check_every: Duration,
    /// Which name it is asked for then, lower case, without a trailing dot; empty: the root.
    pub check_name: String,
    /// Whether that question desires recursion.
    pub check_recursion: bool,
}

/// Which upstream server is asked first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Any.
    Random,
    /// The one after the last question's.
    RoundRobin,
    /// The first that is not down.
    Sequential,
}

/// As with kubeadm's Corefile, but with a hedge.
impl Default for ForwardConfig {
    fn default() -> ForwardConfig {
        ForwardConfig {
            policy: Policy::Random,
            only_tcp: false,
            prefer_udp: false,
            max_fails: 2,
            max_concurrent: 1000,
            hedge: Duration::from_millis(200),
            except: Vec::new(),
            tls: TlsConfig::default(),
            expire: Duration::from_secs(10),
            check_every: Duration::from_millis(500),
            check_name: String::new(),
            check_recursion: true,
        }
    }
}

/// How long answers from upstream servers are kept, and how many (CoreDNS's plugin cache).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheConfig {
    /// The longest time for answers, in seconds (`success`). 0: none is kept.
    pub positive_ttl: u32,
    /// The longest time for names and types that do not exist, in seconds (`denial`). 0: none is kept.
    pub negative_ttl: u32,
    /// The shortest time for answers, in seconds, unless the longest is shorter.
    pub min_ttl: u32,
    /// The same for names and types that do not exist.
    pub min_negative_ttl: u32,
    /// The time for failures of the upstream servers, in seconds (`servfail`). 0: none is kept.
    pub failure_ttl: u32,
    /// So many answers are kept.
    pub entries: usize,
    /// And so many denials and failures.
    pub negative_entries: usize,
    /// About so much memory may all of them take.
    pub bytes: usize,
    /// A name that was asked for this often, without a longer pause than the next field says, is asked again before it expires. 0: none is.
    pub prefetch: u32,
    /// Questions that are further apart than this do not make a name popular.
    pub prefetch_within: Duration,
    /// A popular name is asked again when this part of its time is left, in percent.
    pub prefetch_last: u32,
    /// For how long an expired answer may be served when no upstream server has a better one (RFC 8767). Zero: never.
    pub serve_stale: Duration,
    /// How long a client waits for the upstream servers while there is an expired answer. Zero: it gets that one at once.
    pub stale_after: Duration,
    /// Answers from the cache have the TTL that they had when they came (`keepttl`).
    pub keep_ttl: bool,
}

impl CacheConfig {
    /// Whether anything is kept at all.
    pub fn is_on(&self) -> bool {
        self.entries > 0 && (self.positive_ttl > 0 || self.negative_ttl > 0)
    }
}

/// As with kubeadm's `cache 30`, but with prefetching and stale answers.
impl Default for CacheConfig {
    fn default() -> CacheConfig {
        CacheConfig {
            positive_ttl: 30,
            negative_ttl: 30,
            min_ttl: 5,
            min_negative_ttl: 5,
            failure_ttl: 5,
            entries: 9984,
            negative_entries: 9984,
            bytes: 16 << 20,
            prefetch: 3,
            // CoreDNS's.
            prefetch_within: Duration::from_secs(60),
            prefetch_last: 10,
            serve_stale: Duration::from_secs(3600),
            // RFC 8767, section 5.
            stale_after: Duration::from_millis(1800),
            keep_ttl: false,
        }
    }
}

/// Where names outside the cluster domain are asked, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Upstreams(pub Vec<Upstream>);

/// One of them, or several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upstream {
    /// The name servers in this file, read again when it changes.
    ResolvConf(PathBuf),
    /// This server.
    Server(NameServer),
}

impl Upstreams {
    /// The servers in this file.
    pub fn resolv_conf(path: impl Into<PathBuf>) -> Upstreams {
        Upstreams(vec![Upstream::ResolvConf(path.into())])
    }

    /// The servers that are named themselves.
    pub fn servers(&self) -> impl Iterator<Item = &NameServer> {
        self.0.iter().filter_map(|upstream| match upstream {
            Upstream::Server(server) => Some(server),
            Upstream::ResolvConf(_) => None,
        })
    }

    /// The files that name others.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().filter_map(|upstream| match upstream {
            Upstream::Server(_) => None,
            Upstream::ResolvConf(path) => Some(path.as_path()),
        })
    }
}

impl<S: Into<NameServer>> FromIterator<S> for Upstreams {
    fn from_iter<T: IntoIterator<Item = S>>(servers: T) -> Upstreams {
        Upstreams(servers.into_iter().map(|server| Upstream::Server(server.into())).collect())
    }
}

/// As it is written in the configuration.
impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Upstream::ResolvConf(path) => write!(f, "{}", path.display()),
            Upstream::Server(server) => write!(f, "{server}"),
        }
    }
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

/// The node's own addresses to which a configured address list refers; see [`NodePortAddresses`].
pub fn in_networks(address: IpAddr, networks: &[IpNet]) -> bool {
    networks.iter().any(|network| network.contains(&address))
}
