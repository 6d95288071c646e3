//! From raw values to the validated [`Config`]: precedence, defaults, and what is allowed.

use super::args::{Given, Origin, Raw, RunArgs};
use super::settings::{self, SETTINGS, Setting};
use super::{
    AdminConfig, CacheConfig, ClusterSource, Config, ConfigError, ConntrackConfig, DEFAULT_SOCKET, DetectLocalMode, DnsConfig,
    ForwardConfig, GuardConfig, LogConfig, LogFormat, NameServer, NodePortAddresses, Over, Policy, ProxyConfig, RateConfig, Role,
    StubZone, Surroundings, TlsConfig, Upstreams, ZonesSource, file,
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use tracing_subscriber::EnvFilter;

const DNS_PORT: u16 = 53;
/// RFC 7858.
const DNS_OVER_TLS_PORT: u16 = 853;
/// CoreDNS's limit.
const MAX_UPSTREAMS: usize = 15;
/// The kernel takes 107 characters; a suffix must fit besides.
const LONGEST_SOCKET_PATH: usize = 100;
/// Every address of both families.
const ALL: [IpNet; 2] =
    [IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0)), IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0))];

/// Where each setting's value came from, in the order of [`SETTINGS`].
pub type Origins = Vec<(&'static str, Origin)>;

/// Makes the configuration: a flag wins over the environment, that over the file, that over the default.
///
/// # Errors
/// The file cannot be read or parsed, has an unknown key, or a value is not allowed; the message says which and what is allowed.
pub fn load(args: &RunArgs, surroundings: &Surroundings) -> Result<(Config, Origins), ConfigError> {
    let (mut given, zones) = match &args.config {
        Some(path) => file::read(path)?,
        None => (Given::new(), None),
    };
    given.extend(args.given.clone());
    let values = Values { given, zones, surroundings };
    let config = values.config()?;
    let origins = SETTINGS.iter().map(|setting| (setting.key, values.origin(setting))).collect();
    Ok((config, origins))
}

/// The values that won, before validation.
struct Values<'a> {
    given: Given,
    /// The server blocks of the file.
    zones: Option<file::Zones>,
    surroundings: &'a Surroundings,
}

impl Values<'_> {
    fn config(&self) -> Result<Config, ConfigError> {
        let role = self.role()?;
        let dns = self.dns(role)?;
        let serves_dns = role != Role::Proxy && !dns.addresses.is_empty();
        Ok(Config {
            role,
            node_name: self.node_name()?,
            state_dir: self.given(&settings::STATE_DIR)?.filter(|folder| !folder.is_empty()).map(PathBuf::from),
            cluster: self.cluster()?,
            proxy: self.proxy()?,
            admin: self.admin(role != Role::Dns, serves_dns)?,
            handover: self.handover(role)?,
            dns,
            log: self.log()?,
        })
    }

    fn role(&self) -> Result<Role, ConfigError> {
        self.choice(&settings::ROLE, &[("all", Role::All), ("proxy", Role::Proxy), ("dns", Role::Dns)])
    }

    /// Lower case without blanks around it, as kube-proxy takes the host name.
    fn node_name(&self) -> Result<String, ConfigError> {
        let setting = &settings::NODE_NAME;
        let allowed = "the name of this node's Node object: lower-case letters, digits, '-' and '.', at most 253 characters";
        let surroundings = [&self.surroundings.node_name, &self.surroundings.host_name];
        let name = match self.given(setting)? {
            Some(name) => name.to_string(),
            None => surroundings.into_iter().flatten().find(|name| !name.trim().is_empty()).cloned().unwrap_or_default(),
        };
        let name = name.trim().to_lowercase();
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
        match !name.is_empty() && name.len() <= 253 && name.chars().all(good) {
            true => Ok(name),
            false => Err(self.bad(setting, &name, allowed)),
        }
    }

    /// The three sources exclude each other; of two given at different ranks the higher one wins, as with any setting.
    fn cluster(&self) -> Result<ClusterSource, ConfigError> {
        let sources = [&settings::KUBECONFIG, &settings::API_SERVER, &settings::MANIFESTS];
        let mut chosen: Option<(&Setting, &str)> = None;
        for setting in sources {
            let Some(value) = self.given(setting)?.filter(|value| !value.is_empty()) else { continue };
            match chosen {
                Some((other, _)) if self.origin(other).rank() == self.origin(setting).rank() => {
                    return Err(ConfigError::Conflict { first: self.origin(other), second: self.origin(setting) });
                }
                Some((other, _)) if self.origin(other).rank() > self.origin(setting).rank() => {}
                _ => chosen = Some((setting, value)),
            }
        }
        match chosen {
            None => Ok(ClusterSource::InCluster),
            Some((setting, value)) if setting.key == settings::KUBECONFIG.key => Ok(ClusterSource::Kubeconfig(value.into())),
            Some((setting, value)) if setting.key == settings::MANIFESTS.key => Ok(ClusterSource::Manifests(value.into())),
            Some((setting, value)) => match is_url(value) {
                true => Ok(ClusterSource::ApiServer(value.to_string())),
                false => Err(self.bad(setting, value, "a URL with scheme and host, such as https://10.0.0.1:6443")),
            },
        }
    }

    fn proxy(&self) -> Result<ProxyConfig, ConfigError> {
        let bit = self.number(&settings::MASQUERADE_BIT, 0..=31, 14)?;
        Ok(ProxyConfig {
            detect_local: self.detect_local()?,
            cluster_cidrs: self.networks(&settings::CLUSTER_CIDR, "networks such as 10.244.0.0/16 or fd00:10:244::/56")?,
            service_cidrs: self.networks(&settings::SERVICE_CIDR, "networks such as 10.96.0.0/12 or fd00:10:96::/112")?,
            nodeport_addresses: self.nodeport_addresses()?,
            connection_metrics: self.number(&settings::CONNECTION_METRICS, 0..=1_000_000, 0)? as usize,
            external_ips: self.choice(&settings::EXTERNAL_IPS, &[("true", true), ("false", false)])?,
            masquerade_all: self.choice(&settings::MASQUERADE_ALL, &[("false", false), ("true", true)])?,
            masquerade_bit: bit as u8,
            conntrack: self.conntrack()?,
        })
    }

    fn detect_local(&self) -> Result<DetectLocalMode, ConfigError> {
        let bridge = self.interface(&settings::POD_BRIDGE_INTERFACE, "the name of an interface, such as cni0")?;
        let allowed = "how the names of interfaces begin, such as cali, without a wildcard";
        let prefix = self.interface(&settings::POD_INTERFACE_NAME_PREFIX, allowed)?;
        let modes = ["ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix"];
        let mode = self.choice(&settings::DETECT_LOCAL_MODE, &modes.map(|name| (name, name)))?;
        let missing = |setting: &Setting| self.bad(setting, "", &format!("it with detect-local-mode {mode}"));
        let (mode, unused) = match mode {
            "BridgeInterface" => (
                DetectLocalMode::BridgeInterface(bridge.ok_or_else(|| missing(&settings::POD_BRIDGE_INTERFACE))?),
                [None, prefix],
            ),
            "InterfaceNamePrefix" => {
                let prefix = prefix.ok_or_else(|| missing(&settings::POD_INTERFACE_NAME_PREFIX))?;
                (DetectLocalMode::InterfaceNamePrefix(prefix), [bridge, None])
            }
            "NodeCIDR" => (DetectLocalMode::NodeCidr, [bridge, prefix]),
            _ => (DetectLocalMode::ClusterCidr, [bridge, prefix]),
        };
        let settings =
            [(&settings::POD_BRIDGE_INTERFACE, "BridgeInterface"), (&settings::POD_INTERFACE_NAME_PREFIX, "InterfaceNamePrefix")];
        for ((setting, of), value) in settings.into_iter().zip(unused) {
            if let Some(value) = value {
                return Err(self.bad(setting, &value, &format!("it with detect-local-mode {of} only")));
            }
        }
        Ok(mode)
    }

    /// The name of an interface, or its beginning; `None` where none is given.
    fn interface(&self, setting: &Setting, allowed: &str) -> Result<Option<Box<str>>, ConfigError> {
        let Some(name) = self.given(setting)?.filter(|name| !name.is_empty()) else { return Ok(None) };
        // What the kernel takes, without what would be a wildcard to nft or iptables, or would end a comment.
        let good = |c: char| c.is_ascii_graphic() && !"/:*+\"\\".contains(c);
        match name.len() <= 15 && name.chars().all(good) {
            true => Ok(Some(name.into())),
            false => Err(self.bad(setting, name, allowed)),
        }
    }

    fn conntrack(&self) -> Result<ConntrackConfig, ConfigError> {
        let defaults = ConntrackConfig::DEFAULT;
        let any = 0..=i32::MAX as u32;
        Ok(ConntrackConfig {
            max_per_core: self.number(&settings::CONNTRACK_MAX_PER_CORE, any.clone(), defaults.max_per_core)?,
            min: self.number(&settings::CONNTRACK_MIN, any, defaults.min)?,
            tcp_established_seconds: self.seconds(&settings::CONNTRACK_TCP_ESTABLISHED, defaults.tcp_established_seconds)?,
            tcp_close_wait_seconds: self.seconds(&settings::CONNTRACK_TCP_CLOSE_WAIT, defaults.tcp_close_wait_seconds)?,
            tcp_be_liberal: self.choice(&settings::CONNTRACK_TCP_BE_LIBERAL, &[("true", true), ("false", false)])?,
            udp_seconds: self.seconds(&settings::CONNTRACK_UDP, defaults.udp_seconds)?,
            udp_stream_seconds: self.seconds(&settings::CONNTRACK_UDP_STREAM, defaults.udp_stream_seconds)?,
        })
    }

    fn nodeport_addresses(&self) -> Result<NodePortAddresses, ConfigError> {
        let setting = &settings::NODEPORT_ADDRESSES;
        let Some(values) = self.list(setting) else { return Ok(NodePortAddresses::primary()) };
        let mut wanted = NodePortAddresses { primary: false, networks: Vec::new(), localhost: false };
        for value in values {
            match value.as_str() {
                "primary" => wanted.primary = true,
                "localhost" => wanted.localhost = true,
                "all" => wanted.networks.extend(ALL),
                network => match network.parse::<IpNet>() {
                    Ok(network) => wanted.networks.push(network.trunc()),
                    Err(_) => {
                        return Err(self.bad(setting, network, "primary, all, localhost, or networks such as 192.0.2.0/24"));
                    }
                },
            }
        }
        Ok(wanted)
    }

    fn dns(&self, role: Role) -> Result<DnsConfig, ConfigError> {
        let addresses = self.dns_addresses(role)?;
        let upstreams = self.upstreams()?;
        if let Upstreams::Servers(servers) = &upstreams
            && let Some(own) = servers.iter().find(|server| addresses.contains(&server.address))
        {
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
        let allowed = "up to 15 servers such as 192.0.2.53, [2001:db8::53]:53 or tls://192.0.2.53#dns.example, or the path of one resolv.conf";
        match self.list(setting) {
            None => Ok(Upstreams::ResolvConf(PathBuf::from("/etc/resolv.conf"))),
            Some([path]) if path.starts_with('/') => Ok(Upstreams::ResolvConf(PathBuf::from(path))),
            Some(servers) => {
                let addresses = name_servers(servers.iter().map(String::as_str));
                addresses.map(Upstreams::Servers).map_err(|bad| self.bad(setting, bad.unwrap_or(&servers.join(",")), allowed))
            }
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

    fn file(&self, setting: &Setting) -> Result<Option<PathBuf>, ConfigError> {
        match self.given(setting)? {
            None | Some("") => Ok(None),
            Some(path) if path.starts_with('/') => Ok(Some(path.into())),
            Some(path) => Err(self.bad(setting, path, "an absolute path; empty: none")),
        }
    }

    fn domain(&self) -> Result<String, ConfigError> {
        let setting = &settings::CLUSTER_DOMAIN;
        let value = self.given(setting)?.unwrap_or("cluster.local");
        let allowed = "a domain name such as cluster.local, at most 200 characters";
        domain_name(value).ok_or_else(|| self.bad(setting, value, allowed))
    }

    fn admin(&self, proxies: bool, serves_dns: bool) -> Result<AdminConfig, ConfigError> {
        let everywhere = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let when = |condition: bool, address| condition.then_some(address);
        Ok(AdminConfig {
            healthz: self.listener(&settings::HEALTHZ, when(proxies, ([0, 0, 0, 0], 10256).into()))?,
            metrics: self.listener(&settings::METRICS, when(proxies, ([127, 0, 0, 1], 10249).into()))?,
            dns_health: self.listener(&settings::DNS_HEALTH, when(serves_dns, everywhere(8080)))?,
            dns_ready: self.listener(&settings::DNS_READY, when(serves_dns, everywhere(8181)))?,
            dns_metrics: self.listener(&settings::DNS_METRICS, when(serves_dns, everywhere(9153)))?,
            probe: self.socket(&settings::PROBE_SOCKET)?,
            socket: match self.given(&settings::SOCKET)? {
                None => proxies.then(|| DEFAULT_SOCKET.into()),
                Some(_) => self.socket(&settings::SOCKET)?,
            },
        })
    }

    fn handover(&self, role: Role) -> Result<Option<PathBuf>, ConfigError> {
        let setting = &settings::HANDOVER_SOCKET;
        match self.socket(setting)? {
            Some(path) if role == Role::Dns => {
                Err(self.bad(setting, &path.to_string_lossy(), "nothing with role dns, whose servers are not bound to a node"))
            }
            socket => Ok(socket),
        }
    }

    /// The path of a Unix socket.
    fn socket(&self, setting: &Setting) -> Result<Option<PathBuf>, ConfigError> {
        match self.given(setting)? {
            None | Some("") => Ok(None),
            Some(path) if path.starts_with('/') && path.len() < LONGEST_SOCKET_PATH => Ok(Some(PathBuf::from(path))),
            Some(path) => Err(self.bad(setting, path, "an absolute path of less than 100 characters; empty: none")),
        }
    }

    fn listener(&self, setting: &Setting, default: Option<SocketAddr>) -> Result<Option<SocketAddr>, ConfigError> {
        match self.given(setting)? {
            None => Ok(default),
            Some("") => Ok(None),
            Some(value) => match parse_socket(value, None) {
                Some(address) => Ok(Some(address)),
                None => Err(self.bad(
                    setting,
                    value,
                    "an address with a port, such as 127.0.0.1:8080, [::1]:8080 or :8080; empty: off",
                )),
            },
        }
    }

    fn log(&self) -> Result<LogConfig, ConfigError> {
        let format = self.choice(&settings::LOG_FORMAT, &[("human", LogFormat::Human), ("json", LogFormat::Json)])?;
        let setting = &settings::LOG_LEVEL;
        let filter = self.given(setting)?.unwrap_or("info").to_string();
        // The filter's own parser takes any word for a target, so that a misspelt level would silence everything.
        let level_or_pairs = |part: &str| part.contains('=') || part.contains('[') || is_level(part);
        match !filter.is_empty() && filter.split(',').all(level_or_pairs) && EnvFilter::builder().parse(&filter).is_ok() {
            true => Ok(LogConfig { format, filter }),
            false => Err(self.bad(setting, &filter, "error, warn, info, debug, trace, or pairs such as info,waypost::dns=debug")),
        }
    }

    /// The one value given, if any.
    fn given(&self, setting: &Setting) -> Result<Option<&str>, ConfigError> {
        match self.given.get(setting.key) {
            None => Ok(None),
            Some(Raw { values, .. }) if values.len() == 1 => Ok(Some(&values[0])),
            Some(Raw { values, .. }) => Err(self.bad(setting, &values.join(","), "a single value")),
        }
    }

    fn list(&self, setting: &Setting) -> Option<&[String]> {
        self.given.get(setting.key).map(|raw| raw.values.as_slice())
    }

    /// The first choice is the default.
    fn choice<T: Copy>(&self, setting: &Setting, choices: &[(&str, T)]) -> Result<T, ConfigError> {
        let value = self.given(setting)?.unwrap_or(choices[0].0);
        let names = || choices.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        let found = choices.iter().find(|(name, _)| *name == value);
        found.map(|(_, choice)| *choice).ok_or_else(|| self.bad(setting, value, &format!("one of {}", names())))
    }

    fn number(&self, setting: &Setting, range: RangeInclusive<u32>, default: u32) -> Result<u32, ConfigError> {
        let Some(value) = self.given(setting)? else { return Ok(default) };
        let number = u32::from_str(value).ok().filter(|number| range.contains(number));
        number.ok_or_else(|| self.bad(setting, value, &format!("a number from {} to {}", range.start(), range.end())))
    }

    /// Whole seconds, written as kube-proxy's durations.
    fn seconds(&self, setting: &Setting, default: u32) -> Result<u32, ConfigError> {
        let Some(value) = self.given(setting)? else { return Ok(default) };
        let seconds = parse_seconds(value).filter(|seconds| *seconds <= i32::MAX as u32);
        seconds.ok_or_else(|| self.bad(setting, value, "a duration in whole seconds such as 24h, 1h30m or 90s; 0: left alone"))
    }

    /// Networks with the host's bits cleared, as kube-proxy reads them.
    fn networks(&self, setting: &Setting, allowed: &str) -> Result<Vec<IpNet>, ConfigError> {
        let values = self.list(setting).unwrap_or_default();
        let parse = |value: &String| IpNet::from_str(value).map(|net| net.trunc()).map_err(|_| self.bad(setting, value, allowed));
        values.iter().map(parse).collect::<Result<Vec<_>, _>>().map(unique)
    }

    fn origin(&self, setting: &Setting) -> Origin {
        self.given.get(setting.key).map_or(Origin::Default(setting.key), |raw| raw.origin.clone())
    }

    fn bad(&self, setting: &Setting, value: &str, allowed: &str) -> ConfigError {
        ConfigError::Value { origin: self.origin(setting), value: value.to_string(), allowed: allowed.to_string() }
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

/// `IP:PORT`, `[IPv6]:PORT`, `:PORT` (every address), and, where there is a default port, a bare IP.
fn parse_socket(text: &str, default_port: Option<u16>) -> Option<SocketAddr> {
    if let Some(port) = text.strip_prefix(':').and_then(|port| u16::from_str(port).ok()) {
        return Some((Ipv6Addr::UNSPECIFIED, port).into());
    }
    let bare = || {
        let ip = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        Some(SocketAddr::new(IpAddr::from_str(ip).ok()?, default_port?))
    };
    SocketAddr::from_str(text).ok().or_else(bare)
}

/// `24h`, `1h0m0s`, `90s`, or `0`.
fn parse_seconds(text: &str) -> Option<u32> {
    if text == "0" {
        return Some(0);
    }
    let mut seconds = 0u32;
    for part in text.split_inclusive(['h', 'm', 's']) {
        let unit = part.char_indices().next_back().and_then(|(at, unit)| {
            let length = match unit {
                'h' => 3600,
                'm' => 60,
                's' => 1,
                _ => return None,
            };
            part[..at].parse::<u32>().ok()?.checked_mul(length)
        })?;
        seconds = seconds.checked_add(unit)?;
    }
    (!text.is_empty()).then_some(seconds)
}

fn is_url(text: &str) -> bool {
    let uri = hyper::Uri::from_str(text);
    uri.is_ok_and(|uri| matches!(uri.scheme_str(), Some("https" | "http")) && uri.host().is_some_and(|host| !host.is_empty()))
}

fn is_level(text: &str) -> bool {
    ["off", "error", "warn", "info", "debug", "trace"].contains(&text)
}

fn unique<T: PartialEq>(values: Vec<T>) -> Vec<T> {
    let mut kept = Vec::with_capacity(values.len());
    for value in values {
        if !kept.contains(&value) {
            kept.push(value);
        }
    }
    kept
}
