//! What the configuration says of names that others answer: who is asked, how, and how long it is kept.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

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
    /// The TTL with which an expired answer is served, in seconds.
    pub stale_ttl: u32,
    /// After the upstream servers have failed while there is an expired answer, they are not asked again for so long.
    pub stale_recheck: Duration,
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
            // RFC 8767, section 4.
            stale_ttl: 30,
            stale_recheck: Duration::from_secs(5),
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
