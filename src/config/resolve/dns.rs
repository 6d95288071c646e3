//! What DNS is to do.

use super::Values;
use super::read::{parse_socket, unique};
use crate::config::args::Origin;
use crate::config::settings;
use crate::config::{
    CacheConfig, ConfigError, DnsConfig, ForwardConfig, GuardConfig, NameServer, Over, Policy, RateConfig, Role, StubZone,
    TlsConfig, Upstream, Upstreams, ZonesSource,
};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

const DNS_PORT: u16 = 53;
/// RFC 7858.
const DNS_OVER_TLS_PORT: u16 = 853;
/// CoreDNS's limit.
const MAX_UPSTREAMS: usize = 15;

impl Values<'_> {
    pub(super) fn dns(&self, role: Role) -> Result<DnsConfig, ConfigError> {
        let addresses = self.dns_addresses(role)?;
        let upstreams = self.upstreams()?;
        if let Some(own) = upstreams.servers().find(|server| addresses.contains(&server.address)) {
            let allowed = "servers that are not this agent's own dns-address: it would ask itself for ever";
            return Err(self.bad(&settings::DNS_UPSTREAM, &own.to_string(), allowed));
        }
        let guard = self.guard(&addresses)?;
        let ttl = self.number(&settings::DNS_TTL, 0..=3600, 30)?;
        Ok(DnsConfig {
            domain: self.domain()?,
            addresses,
            ttl,
            zones: self.zones()?,
            upstreams,
            stub_zones: self.stub_zones()?,
            forward: self.forward()?,
            cache: self.cache()?,
            guard,
        })
    }

    /// A public address that everybody may ask is an amplifier: it must be meant.
    fn guard(&self, addresses: &[SocketAddr]) -> Result<GuardConfig, ConfigError> {
        let default = GuardConfig::default();
        let allow_from = self.networks(&settings::DNS_ALLOW_FROM, "networks such as 10.0.0.0/8 or fd00::/8")?;
        let is_given = self.list(&settings::DNS_ADDRESS).is_some();
        if let Some(public) = addresses.iter().find(|address| is_given && allow_from.is_empty() && is_public(address.ip())) {
            let allowed =
                "addresses that only the cluster reaches, or with them dns-allow-from, which says who may ask at a public one";
            return Err(self.bad(&settings::DNS_ADDRESS, &public.to_string(), allowed));
        }
        let rate = RateConfig {
            per_second: self.number(&settings::DNS_RATE_LIMIT, 0..=1_000_000, default.rate.per_second)?,
            slip: self.number(&settings::DNS_RATE_LIMIT_SLIP, 0..=100, default.rate.slip)?,
            prefixes: (
                self.number(&settings::DNS_RATE_LIMIT_IPV4, 1..=32, default.rate.prefixes.0.into())? as u8,
                self.number(&settings::DNS_RATE_LIMIT_IPV6, 1..=128, default.rate.prefixes.1.into())? as u8,
            ),
        };
        let connections = self.number(&settings::DNS_TCP_CONNECTIONS, 1..=1_000_000, default.connections as u32)? as usize;
        Ok(GuardConfig { allow_from, rate, connections })
    }

    /// The three sources exclude each other.
    fn zones(&self) -> Result<ZonesSource, ConfigError> {
        let corefile = self.given(&settings::COREFILE)?.filter(|path| !path.is_empty());
        let maps = self.list(&settings::COREFILE_CONFIGMAP).filter(|maps| !maps.is_empty());
        let blocks = self.zones.as_ref().filter(|zones| !zones.blocks.is_empty());
        let origins = [
            blocks.map(|zones| Origin::File(zones.place.clone())),
            corefile.map(|_| self.origin(&settings::COREFILE)),
            maps.map(|_| self.origin(&settings::COREFILE_CONFIGMAP)),
        ];
        if let [Some(first), Some(second)] | [Some(first), Some(second), _] =
            &origins.into_iter().filter(Option::is_some).collect::<Vec<_>>()[..]
        {
            return Err(ConfigError::Conflict { first: first.clone(), second: second.clone() });
        }
        for name in maps.unwrap_or_default() {
            let good = |part: &str| {
                !part.is_empty() && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c))
            };
            if !name.split_once('/').is_some_and(|(namespace, name)| good(namespace) && good(name)) {
                return Err(self.bad(&settings::COREFILE_CONFIGMAP, name, "ConfigMaps such as kube-system/coredns"));
            }
        }
        Ok(match (blocks, corefile, maps) {
            (Some(zones), ..) => ZonesSource::Blocks { blocks: zones.blocks.clone(), file: zones.place.path.to_path_buf() },
            (_, Some(path), _) => ZonesSource::Corefile(PathBuf::from(path)),
            (.., Some(maps)) => ZonesSource::ConfigMaps(maps.to_vec()),
            (None, None, None) => ZonesSource::Flags,
        })
    }

    fn cache(&self) -> Result<CacheConfig, ConfigError> {
        const DAY: u32 = 86_400;
        let default = CacheConfig::default();
        let min_ttl = self.number(&settings::DNS_CACHE_MIN_TTL, 0..=DAY, default.min_ttl)?;
        let entries = self.number(&settings::DNS_CACHE_ENTRIES, 0..=10_000_000, default.entries as u32)? as usize;
        Ok(CacheConfig {
            positive_ttl: self.number(&settings::DNS_CACHE_TTL, 0..=DAY, default.positive_ttl)?,
            negative_ttl: self.number(&settings::DNS_CACHE_NEGATIVE_TTL, 0..=DAY, default.negative_ttl)?,
            min_ttl,
            min_negative_ttl: min_ttl,
            failure_ttl: self.number(&settings::DNS_CACHE_FAILURE_TTL, 0..=300, default.failure_ttl)?,
            entries,
            negative_entries: entries,
            bytes: (self.number(&settings::DNS_CACHE_SIZE, 1..=65_536, (default.bytes >> 20) as u32)? as usize) << 20,
            prefetch: self.number(&settings::DNS_CACHE_PREFETCH, 0..=1_000_000, default.prefetch)?,
            serve_stale: Duration::from_secs(
                self.number(&settings::DNS_CACHE_SERVE_STALE, 0..=7 * DAY, default.serve_stale.as_secs() as u32)?.into(),
            ),
            ..default
        })
    }

    /// Never the wildcard: another process's wildcard on port 53 would block it, and answers could leave from an address that was not asked.
    fn dns_addresses(&self, role: Role) -> Result<Vec<SocketAddr>, ConfigError> {
        let setting = &settings::DNS_ADDRESS;
        let mut addresses = Vec::new();
        let given = match (self.list(setting), role) {
            (Some(values), _) => values.to_vec(),
            (None, Role::Dns) => self.pod_ips(),
            (None, _) => Vec::new(),
        };
        for value in &given {
            match parse_socket(value, Some(DNS_PORT)) {
                Some(address) if address.ip().is_unspecified() => {
                    return Err(self.bad(
                        setting,
                        value,
                        "the very addresses that are asked, such as 10.96.0.10, not the wildcard",
                    ));
                }
                Some(address) if address.port() != 0 => addresses.push(address),
                _ => return Err(self.bad(setting, value, "addresses such as 169.254.20.10, 10.96.0.10:53 or [fd00::10]:53")),
            }
        }
        if addresses.is_empty() && role == Role::Dns {
            return Err(ConfigError::NoDnsAddress);
        }
        Ok(unique(addresses))
    }

    fn pod_ips(&self) -> Vec<String> {
        let text = self.surroundings.pod_ips.as_deref().unwrap_or_default();
        text.split(',').map(str::trim).filter(|ip| !ip.is_empty()).map(str::to_string).collect()
    }

    fn upstreams(&self) -> Result<Upstreams, ConfigError> {
        let setting = &settings::DNS_UPSTREAM;
        let allowed = "up to 15 servers such as 192.0.2.53, [2001:db8::53]:53 or tls://192.0.2.53#dns.example, and paths such as /etc/resolv.conf";
        let Some(given) = self.list(setting) else { return Ok(Upstreams::resolv_conf("/etc/resolv.conf")) };
        let upstream = |text: &String| match text.starts_with('/') {
            true => Ok(Upstream::ResolvConf(PathBuf::from(text))),
            false => name_server(text).map(Upstream::Server).ok_or_else(|| self.bad(setting, text, allowed)),
        };
        let upstreams = unique(given.iter().map(upstream).collect::<Result<Vec<_>, _>>()?);
        match (1..=MAX_UPSTREAMS).contains(&upstreams.len()) {
            true => Ok(Upstreams(upstreams)),
            false => Err(self.bad(setting, &given.join(","), allowed)),
        }
    }

    fn stub_zones(&self) -> Result<Vec<StubZone>, ConfigError> {
        let setting = &settings::DNS_STUB_ZONE;
        let allowed = "zones with up to 15 servers each, such as corp.example=192.0.2.53+[2001:db8::53]:53, and each zone once";
        let mut zones: Vec<StubZone> = Vec::new();
        for value in self.list(setting).unwrap_or_default() {
            let parsed = value.split_once('=').and_then(|(zone, servers)| {
                Some(StubZone { zone: domain_name(zone)?, servers: name_servers(servers.split('+')).ok()? })
            });
            match parsed {
                Some(stub) if zones.iter().all(|other| other.zone != stub.zone) => zones.push(stub),
                _ => return Err(self.bad(setting, value, allowed)),
            }
        }
        Ok(zones)
    }

    fn forward(&self) -> Result<ForwardConfig, ConfigError> {
        let default = ForwardConfig::default();
        let except = &settings::DNS_FORWARD_EXCEPT;
        let domain = |value: &String| domain_name(value).ok_or_else(|| self.bad(except, value, "domains such as corp.example"));
        let policies = [("random", Policy::Random), ("round_robin", Policy::RoundRobin), ("sequential", Policy::Sequential)];
        let hedge = self.number(&settings::DNS_FORWARD_HEDGE, 0..=1000, default.hedge.as_millis() as u32)?;
        Ok(ForwardConfig {
            policy: self.choice(&settings::DNS_FORWARD_POLICY, &policies)?,
            only_tcp: self.choice(&settings::DNS_FORWARD_TCP, &[("false", false), ("true", true)])?,
            max_fails: self.number(&settings::DNS_FORWARD_MAX_FAILS, 0..=1000, default.max_fails)?,
            max_concurrent: self.number(&settings::DNS_FORWARD_MAX_CONCURRENT, 0..=100_000, default.max_concurrent as u32)?
                as usize,
            hedge: Duration::from_millis(hedge.into()),
            except: self.list(except).unwrap_or_default().iter().map(domain).collect::<Result<_, _>>()?,
            tls: self.tls()?,
            ..default
        })
    }

    fn tls(&self) -> Result<TlsConfig, ConfigError> {
        let (cert, key) = (&settings::DNS_FORWARD_TLS_CERT, &settings::DNS_FORWARD_TLS_KEY);
        let ca = self.file(&settings::DNS_FORWARD_TLS_CA)?;
        let client = match (self.file(cert)?, self.file(key)?) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (Some(path), None) => return Err(self.bad(cert, &path.to_string_lossy(), "its key as well, --dns-forward-tls-key")),
            (None, Some(path)) => {
                return Err(self.bad(key, &path.to_string_lossy(), "the certificate as well, --dns-forward-tls-cert"));
            }
        };
        Ok(TlsConfig { ca, client })
    }

    fn domain(&self) -> Result<String, ConfigError> {
        let setting = &settings::CLUSTER_DOMAIN;
        let value = self.given(setting)?.unwrap_or("cluster.local");
        let allowed = "a domain name such as cluster.local, at most 200 characters";
        domain_name(value).ok_or_else(|| self.bad(setting, value, allowed))
    }
}

/// Whether the Internet may lead to this address: all but those for private networks, links and documentation (RFC 6890).
pub(crate) fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [first, second, ..] = v4.octets();
            let is_shared = first == 100 && (64..128).contains(&second);
            !(v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_documentation() || is_shared)
        }
        IpAddr::V6(v6) => {
            let is_documentation = v6.segments()[..2] == [0x2001, 0xdb8];
            !(v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local() || is_documentation)
        }
    }
}

/// Lower case and without a trailing dot.
fn domain_name(text: &str) -> Option<String> {
    let domain = text.strip_suffix('.').unwrap_or(text).to_lowercase();
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let label = |label: &str| !label.is_empty() && label.len() <= 63 && label.chars().all(good);
    (domain.len() <= 200 && domain.split('.').all(label)).then_some(domain)
}

/// One to fifteen servers, else the bad one, or none where it is their number that is bad.
fn name_servers<'a>(values: impl Iterator<Item = &'a str>) -> Result<Vec<NameServer>, Option<&'a str>> {
    let servers = unique(values.map(|value| name_server(value).ok_or(Some(value))).collect::<Result<Vec<_>, _>>()?);
    if (1..=MAX_UPSTREAMS).contains(&servers.len()) { Ok(servers) } else { Err(None) }
}

/// `IP[:PORT]`, or `tls://IP[:PORT][#NAME]`: the form of systemd-resolved and Unbound with the scheme of CoreDNS.
pub(crate) fn name_server(text: &str) -> Option<NameServer> {
    let (text, over, port) = match text.strip_prefix("tls://") {
        None => (text, Over::Plain, DNS_PORT),
        Some(text) => {
            let (address, name) = text.split_once('#').map_or((text, None), |(address, name)| (address, Some(name)));
            let name = name.map(|name| domain_name(name).ok_or(())).transpose().ok()?;
            (address, Over::Tls { name }, DNS_OVER_TLS_PORT)
        }
    };
    let address = parse_socket(text, Some(port)).filter(|address| address.port() != 0 && !address.ip().is_unspecified())?;
    Some(NameServer { address, over })
}
