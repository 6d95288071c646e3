//! What the configuration says of DNS.

use super::forward::{CacheConfig, ForwardConfig, StubZone, Upstreams};
use crate::dns::chain::Block;
use ipnet::IpNet;
use std::net::SocketAddr;
use std::path::PathBuf;

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
