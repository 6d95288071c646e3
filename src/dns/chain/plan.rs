//! The configuration, ready to answer by: which block a question is for, and what happens there.

use super::extras::Extras;
use super::log::Log;
use super::model::{self, Block, Model, Pods};
use super::values;
use crate::config::{CacheConfig, DnsConfig, ForwardConfig, NameServer, Over, Policy, TlsConfig, Upstreams, name_server};
use crate::dns::forward::Forwarder;
use crate::dns::metrics::{Metrics, Place};
use crate::dns::name::{DomainName, Labels};
use crate::dns::reply::name_to_hickory;
use crate::dns::resolve::{Resolver, Scope};
use crate::dns::shape::{PodNames, Shape};
use hickory_proto::op::Query;
use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// CoreDNS's limit.
const MAX_UPSTREAMS: usize = 15;
/// Type DS, which the parent's zone answers.
const DS: u16 = 43;

/// Something in a block that cannot be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{plugin}: {problem}")]
pub struct ChainError {
    /// Which block, counted from 0.
    pub block: usize,
    /// The part of the block.
    pub plugin: &'static str,
    /// Which one, where there are several of the kind; counted from 0.
    pub number: usize,
    /// What is wrong, and what would be right.
    pub problem: String,
}

/// The same of a block that does not know its place.
pub(super) struct Wrong {
    pub plugin: &'static str,
    pub number: usize,
    pub problem: String,
}

/// Everything that is needed to answer.
pub struct Plan {
    model: Model,
    servers: Vec<Server>,
    /// For addresses that no block names.
    ordinary: Listener,
    /// For those that blocks name, by address or by port.
    special: Vec<Listener>,
    addresses: Vec<SocketAddr>,
}

/// What is answered on an address.
pub struct Listener {
    address: Option<SocketAddr>,
    zones: HashMap<Box<[u8]>, Entry>,
    /// Where there is the root zone and no other, no name is looked at.
    only: Option<Entry>,
    at_once: Option<AtOnce>,
}

/// Names that only the records have something to say about: whoever answers plain questions for them by the shape does what the block does.
pub struct AtOnce {
    /// How the records are shown. Of the zones the first one is meant, and names of other zones are not answered so.
    pub shape: Arc<Shape>,
    /// The zone of the block that has them.
    pub entry: Entry,
}

impl AtOnce {
    /// The zone of the names.
    pub fn zone(&self) -> &DomainName {
        &self.shape.zones[0]
    }
}

/// A zone on a listener.
#[derive(Clone)]
pub struct Entry {
    /// The block's place in [`Plan::server`].
    server: usize,
    /// The zone, a label of the metrics.
    pub(in crate::dns) zone: Arc<str>,
    zones: Arc<str>,
    /// An address that the block is bound to has a label of its own.
    bound: Option<Arc<str>>,
}

/// One block, ready.
pub struct Server {
    /// The cluster's names, where they are answered.
    pub shape: Option<Arc<Shape>>,
    /// Other servers, and the cache before them.
    pub resolver: Option<Resolver>,
    /// Whether addresses are shuffled.
    pub shuffles: bool,
    /// What there is beside.
    pub(super) extras: Option<Box<Extras>>,
    /// The shortest and longest TTL of the block's cache, seconds: CoreDNS's cache stands before hosts as well.
    ttls: Option<(u32, u32)>,
    /// Whether failures are logged.
    pub logs_errors: bool,
    /// Whether questions for cluster names may be answered from [`Server::shape`] alone, because no other part of the block would see them.
    pub plain: bool,
    /// What the resolver was made of, so that the next plan can keep it.
    spec: (Vec<model::Forward>, Option<model::Cache>, Vec<String>),
}

impl Plan {
    /// Makes the plan. What blocks do not say is as the flags say. Resolvers of an earlier plan, with their caches, are kept where nothing that concerns
    /// them has changed.
    ///
    /// # Errors
    /// The first thing that cannot be done.
    pub fn new(model: Model, defaults: &DnsConfig, metrics: &Arc<Metrics>, earlier: Option<&Plan>) -> Result<Plan, ChainError> {
        let mut servers = Vec::new();
        for (number, block) in model.blocks.iter().enumerate() {
            let wrong =
                |wrong: Wrong| ChainError { block: number, plugin: wrong.plugin, number: wrong.number, problem: wrong.problem };
            servers.push(Server::new(block, defaults, metrics, earlier).map_err(wrong)?);
        }
        let listeners = Listeners { blocks: &model.blocks, defaults: &defaults.addresses };
        let (mut ordinary, mut special) = listeners.all()?;
        [&mut ordinary].into_iter().chain(&mut special).for_each(|listener| listener.find_at_once(&servers));
        let addresses = listeners.addresses();
        Ok(Plan { servers, ordinary, special, addresses, model })
    }

    /// A plan of one block for everything: cluster names in this shape, and what this resolver says of others.
    pub fn simple(shape: Shape, resolver: Resolver) -> Plan {
        let entry = Entry { server: 0, zone: ".".into(), zones: ".".into(), bound: None };
        let server = Server {
            shape: Some(Arc::new(shape)),
            resolver: Some(resolver),
            shuffles: true,
            extras: None,
            ttls: None,
            logs_errors: false,
            plain: true,
            spec: Default::default(),
        };
        let mut plan = Plan {
            model: Model::default(),
            servers: vec![server],
            ordinary: Listener { address: None, zones: HashMap::new(), only: Some(entry), at_once: None },
            special: Vec::new(),
            addresses: Vec::new(),
        };
        plan.ordinary.find_at_once(&plan.servers);
        plan
    }

    /// What it was made of.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The addresses on which it wants DNS to be served.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What is answered on an address of ours.
    pub fn listener(&self, address: SocketAddr) -> &Listener {
        self.special.iter().find(|listener| listener.address == Some(address)).unwrap_or(&self.ordinary)
    }

    /// The block of an entry.
    pub fn server(&self, entry: &Entry) -> &Server {
        &self.servers[entry.server]
    }

    /// What takes part in answering in the block of an entry, by CoreDNS's names of its plugins.
    pub fn plugins(&self, entry: &Entry) -> Vec<&'static str> {
        let server = self.server(entry);
        let has = |part: fn(&Block) -> bool| self.model.blocks.get(entry.server).is_some_and(part);
        let parts = [
            ("acl", has(|block| !block.acl.is_empty())),
            ("any", has(|block| block.any)),
            ("autopath", has(|block| block.autopath.is_some())),
            ("cache", has(|block| block.cache.is_some())),
            ("chaos", has(|block| block.chaos.is_some())),
            ("dns64", has(|block| block.dns64.is_some())),
            ("errors", server.logs_errors),
            ("forward", server.resolver.is_some()),
            ("hosts", has(|block| block.hosts.is_some())),
            ("kubernetes", server.shape.is_some()),
            ("loadbalance", server.shuffles),
            ("log", has(|block| !block.log.is_empty())),
            ("loop", server.resolver.is_some()),
            ("minimal", has(|block| block.minimal)),
            ("prometheus", true),
            ("rewrite", has(|block| !block.rewrite.is_empty())),
            ("template", has(|block| !block.template.is_empty())),
        ];
        parts.into_iter().filter(|(_, is_there)| *is_there).map(|(name, _)| name).collect()
    }

    /// All blocks.
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// Whether this question that has arrived is one of our own, sent to find loops.
    pub fn is_own_probe(&self, query: &Query) -> bool {
        self.servers.iter().filter_map(|server| server.resolver.as_ref()).any(|resolver| resolver.is_own_probe(query))
    }

    /// Addresses of our own, which are never asked.
    pub fn never_ask(&self, own: &[SocketAddr]) {
        self.servers.iter().filter_map(|server| server.resolver.as_ref()).for_each(|resolver| resolver.never_ask(own));
    }
}

impl Listener {
    /// The zone that a name (in wire form, lower case) is answered in: the longest. DS is about the zone above (RFC 4035, section 3.1.4.1).
    pub fn find(&self, name: &[u8], rtype: u16) -> Option<&Entry> {
        if self.only.is_some() {
            return self.only.as_ref();
        }
        let mut rest = name;
        let mut above = None;
        loop {
            if let Some(entry) = self.zones.get(rest) {
                if rtype != DS {
                    return Some(entry);
                }
                // The root is the last resort only.
                above = if rest == [0] { above.or(Some(entry)) } else { Some(entry) };
            }
            match Labels::of(rest).next() {
                Some(label) => rest = &rest[label.len() + 1..],
                None => return above,
            }
        }
    }

    /// Which plain questions need nothing but the records.
    pub fn at_once(&self) -> Option<&AtOnce> {
        self.at_once.as_ref()
    }

    fn find_at_once(&mut self, servers: &[Server]) {
        let found = servers.iter().enumerate().find_map(|(number, server)| {
            let shape = server.shape.as_ref().filter(|shape| server.plain && shape.zones.len() == 1)?;
            let all_here = |zone: &DomainName| {
                let is_here = self.find(zone.as_wire(), 0).is_some_and(|entry| entry.server == number);
                let mut others = self.zones.iter().filter(|(_, entry)| entry.server != number);
                is_here && !others.any(|(other, _)| zone.is_above(other))
            };
            let entry = self.find(shape.zones[0].as_wire(), 0).filter(|_| all_here(&shape.zones[0]))?.clone();
            // Reverse names that another block may have are left to the walk.
            let reverse = if shape.reverse.iter().all(all_here) { shape.reverse.clone() } else { Vec::new() };
            let shape = Shape { reverse, ..Shape::clone(shape) };
            Some(AtOnce { shape: Arc::new(shape), entry })
        });
        self.at_once = found;
    }

    /// Every zone, with its block.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.only.iter().chain(self.zones.values())
    }
}

impl Entry {
    /// The labels of the metrics, for a listener with this label.
    pub fn place(&self, server: &Arc<str>) -> Place {
        Place { server: self.bound.as_ref().unwrap_or(server).clone(), zone: self.zone.clone(), zones: self.zones.clone() }
    }
}

/// From blocks to listeners.
struct Listeners<'a> {
    blocks: &'a [Block],
    defaults: &'a [SocketAddr],
}

impl Listeners<'_> {
    /// The addresses of a block.
    fn of(&self, block: &Block) -> Vec<SocketAddr> {
        let mut addresses = Vec::new();
        for default in self.defaults {
            let port = block.port.unwrap_or(default.port());
            let hosts = if block.bind.is_empty() { vec![default.ip()] } else { block.bind.clone() };
            for address in hosts.into_iter().map(|host| SocketAddr::new(host, port)) {
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
        addresses
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        let mut addresses = Vec::new();
        for address in self.blocks.iter().flat_map(|block| self.of(block)) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses
    }

    fn all(&self) -> Result<(Listener, Vec<Listener>), ChainError> {
        let is_everywhere = |block: &Block| {
            block.bind.is_empty() && block.port.is_none_or(|port| self.defaults.iter().all(|default| default.port() == port))
        };
        let ordinary = self.listener(None, |block| is_everywhere(block))?;
        if self.blocks.iter().all(is_everywhere) {
            return Ok((ordinary, Vec::new()));
        }
        let special =
            self.addresses().into_iter().map(|address| self.listener(Some(address), |block| self.of(block).contains(&address)));
        Ok((ordinary, special.collect::<Result<_, _>>()?))
    }

    fn listener(&self, address: Option<SocketAddr>, is_here: impl Fn(&Block) -> bool) -> Result<Listener, ChainError> {
        let mut zones: HashMap<Box<[u8]>, Entry> = HashMap::new();
        for (server, block) in self.blocks.iter().enumerate().filter(|(_, block)| is_here(block)) {
            let wrong = |problem| ChainError { block: server, plugin: "zones", number: 0, problem };
            let names = values::all_zones(&block.zones).map_err(wrong)?;
            let all: Arc<str> = names.iter().map(ToString::to_string).collect::<Vec<_>>().join(",").into();
            let bound = address.filter(|address| block.bind.contains(&address.ip()));
            let bound = bound.map(|address| Arc::from(format!("dns://{address}")));
            for name in names {
                let entry = Entry { server, zone: name.to_string().into(), zones: all.clone(), bound: bound.clone() };
                if zones.insert(name.as_wire().into(), entry).is_some() {
                    return Err(wrong(format!("another block answers for {name} on the same address; make one block of both")));
                }
            }
        }
        let only = if zones.len() == 1 { zones.remove([0].as_slice()) } else { None };
        Ok(Listener { address, zones, only, at_once: None })
    }
}

fn part(plugin: &'static str, number: usize) -> impl Fn(String) -> Wrong {
    move |problem| Wrong { plugin, number, problem }
}

impl Server {
    fn new(block: &Block, defaults: &DnsConfig, metrics: &Arc<Metrics>, earlier: Option<&Plan>) -> Result<Server, Wrong> {
        let shape =
            block.kubernetes.as_ref().map(|spec| shape(spec, block, defaults)).transpose().map_err(part("kubernetes", 0))?;
        let spec = (block.forward.clone(), block.cache.clone(), block.zones.clone());
        let kept = earlier.and_then(|plan| plan.servers.iter().find(|server| server.spec == spec));
        let resolver = match kept {
            Some(server) => server.resolver.clone(),
            None => resolver(block, defaults, metrics)?,
        };
        let extras = Extras::new(block)?.map(Box::new);
        let plain = shape.is_some() && block.loadbalance && extras.is_none();
        let ttls = block.cache.as_ref().map(|cache| {
            let least = cache.min_positive_ttl.unwrap_or(defaults.cache.min_ttl);
            (least, cache.positive_ttl.unwrap_or(defaults.cache.positive_ttl).max(least))
        });
        let (shape, shuffles) = (shape.map(Arc::new), block.loadbalance);
        Ok(Server { shape, resolver, shuffles, extras, ttls, logs_errors: block.errors, plain, spec })
    }

    /// A TTL within the bounds of the block's cache.
    pub(super) fn capped(&self, ttl: u32) -> u32 {
        self.ttls.map_or(ttl, |(least, most)| ttl.clamp(least, most))
    }

    /// Whether questions of class CH are answered.
    pub fn answers_chaos(&self) -> bool {
        self.extras.as_ref().is_some_and(|extras| extras.chaos.is_some())
    }

    /// The largest answer over UDP.
    pub fn bufsize(&self) -> u16 {
        self.extras.as_ref().and_then(|extras| extras.bufsize).unwrap_or(u16::MAX)
    }

    /// What is logged.
    pub fn logs(&self) -> &[Log] {
        self.extras.as_ref().map(|extras| extras.logs.as_slice()).unwrap_or_default()
    }
}

fn shape(spec: &model::Kubernetes, block: &Block, defaults: &DnsConfig) -> Result<Shape, String> {
    let named = if spec.zones.is_empty() { &block.zones } else { &spec.zones };
    let (reverse, zones): (Vec<_>, Vec<_>) = values::all_zones(named)?.into_iter().partition(values::is_reverse);
    if zones.is_empty() {
        return Err("the cluster domain is missing, such as cluster.local".to_string());
    }
    let ttl = spec.ttl.unwrap_or(defaults.ttl);
    if ttl > 3600 {
        return Err(format!("the TTL {ttl} is not allowed; give 0 to 3600 seconds"));
    }
    let label = |namespace: &String| namespace.to_ascii_lowercase().into_bytes().into_boxed_slice();
    Ok(Shape {
        zones,
        reverse,
        falls_through: values::all_zones(&spec.fallthrough)?,
        ttl,
        pods: match spec.pods {
            Some(Pods::Disabled) => PodNames::Disabled,
            Some(Pods::Insecure) | None => PodNames::Insecure,
        },
        namespaces: spec.namespaces.iter().map(label).collect::<BTreeSet<_>>(),
        endpoints: !spec.no_endpoints,
        empty_services: !spec.ignore_empty_services,
    })
}

fn resolver(block: &Block, defaults: &DnsConfig, metrics: &Arc<Metrics>) -> Result<Option<Resolver>, Wrong> {
    let mut forwarders = Vec::new();
    for (number, spec) in block.forward.iter().enumerate() {
        forwarders.push(forwarder(spec, &defaults.forward, metrics).map_err(part("forward", number))?);
    }
    if forwarders.is_empty() {
        return Ok(None);
    }
    let cache = block.cache.as_ref().map(|spec| cache(spec, &defaults.cache)).transpose().map_err(part("cache", 0))?;
    let scope = block.cache.as_ref().map(scope).transpose().map_err(part("cache", 0))?;
    Ok(Some(Resolver::of(forwarders, cache.as_ref(), scope.unwrap_or_default(), metrics.clone())))
}

fn forwarder(spec: &model::Forward, defaults: &ForwardConfig, metrics: &Arc<Metrics>) -> Result<Forwarder, String> {
    let from = values::zones(spec.from.as_deref().unwrap_or("."))?;
    let Some(from) = from.first() else { return Err("the zone is missing".to_string()) };
    let upstreams = upstreams(&spec.to, spec.tls_servername.as_deref())?;
    let plain = |zone: DomainName| zone.to_string().trim_end_matches('.').to_string();
    let config = ForwardConfig {
        policy: match spec.policy {
            None => defaults.policy,
            Some(model::ForwardPolicy::Random) => Policy::Random,
            Some(model::ForwardPolicy::RoundRobin) => Policy::RoundRobin,
            Some(model::ForwardPolicy::Sequential) => Policy::Sequential,
        },
        only_tcp: spec.force_tcp.unwrap_or(defaults.only_tcp),
        max_fails: spec.max_fails.unwrap_or(defaults.max_fails),
        max_concurrent: spec.max_concurrent.unwrap_or(defaults.max_concurrent),
        hedge: spec.hedge.map_or(defaults.hedge, |time| time.0),
        except: match spec.except.is_empty() {
            true => defaults.except.clone(),
            false => values::all_zones(&spec.except)?.into_iter().map(plain).collect(),
        },
        expire: spec.expire.map_or(defaults.expire, |time| time.0),
        check_every: spec.health_check.map_or(defaults.check_every, |time| time.0),
        check_name: match &spec.health_check_domain {
            None => defaults.check_name.clone(),
            Some(name) => values::zones(name)?.into_iter().map(plain).next().unwrap_or_default(),
        },
        check_recursion: defaults.check_recursion && !spec.health_check_without_recursion,
        tls: TlsConfig {
            ca: spec.tls_ca.clone().or_else(|| defaults.tls.ca.clone()),
            client: match (&spec.tls_certificate, &spec.tls_key) {
                (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
                (None, None) => defaults.tls.client.clone(),
                _ => return Err("a certificate for TLS needs its key, and a key its certificate".to_string()),
            },
        },
    };
    Forwarder::check_tls(&upstreams, &config).map_err(|error| error.to_string())?;
    if config.check_every.is_zero() {
        return Err("servers that fail are checked; give health-check a time above zero, or set max-fails to 0".to_string());
    }
    Ok(Forwarder::new(name_to_hickory(from), &upstreams, &config, metrics.clone()))
}

fn upstreams(to: &[String], name: Option<&str>) -> Result<Upstreams, String> {
    if let [file] = to
        && file.starts_with('/')
    {
        return Ok(Upstreams::ResolvConf(PathBuf::from(file)));
    }
    let mut servers: Vec<NameServer> = Vec::new();
    for text in to {
        let server = server(text, name)?;
        if !servers.contains(&server) {
            servers.push(server);
        }
    }
    if servers.is_empty() || servers.len() > MAX_UPSTREAMS {
        return Err(format!("{} servers are given; give 1 to {MAX_UPSTREAMS}, or the path of one resolv.conf", servers.len()));
    }
    Ok(Upstreams::Servers(servers))
}

/// A server; CoreDNS writes the name in its certificate behind a percent sign, or once for all servers.
fn server(text: &str, name: Option<&str>) -> Result<NameServer, String> {
    let plain = text.strip_prefix("dns://").unwrap_or(text);
    let written = match plain.starts_with("tls://") {
        true => plain.replacen('%', "#", 1),
        false => plain.to_string(),
    };
    let mut server = name_server(&written).ok_or_else(|| match plain.split_once("://") {
        Some((protocol, _)) if protocol != "tls" => {
            format!("servers are not asked over {protocol} ({text}); give addresses, or tls://ADDRESS#NAME for DNS over TLS")
        }
        _ => format!("{text:?} is no server; give addresses such as 192.0.2.53, [2001:db8::53]:53 or tls://192.0.2.53#dns.example, or one resolv.conf"),
    })?;
    if let (Over::Tls { name: own @ None }, Some(name)) = (&mut server.over, name) {
        *own = Some(name.trim_end_matches('.').to_ascii_lowercase());
    }
    Ok(server)
}

fn cache(spec: &model::Cache, defaults: &CacheConfig) -> Result<CacheConfig, String> {
    let percent = spec.prefetch_last.unwrap_or(defaults.prefetch_last);
    if !(10..=90).contains(&percent) {
        return Err(format!("{percent} % is not allowed for prefetching; give 10 to 90"));
    }
    let failure_ttl = spec.failure_ttl.map_or(u64::from(defaults.failure_ttl), |time| time.0.as_secs());
    Ok(CacheConfig {
        positive_ttl: spec.positive_ttl.unwrap_or(defaults.positive_ttl),
        negative_ttl: spec.negative_ttl.unwrap_or(defaults.negative_ttl),
        min_ttl: spec.min_positive_ttl.unwrap_or(defaults.min_ttl),
        min_negative_ttl: spec.min_negative_ttl.unwrap_or(defaults.min_negative_ttl),
        failure_ttl: u32::try_from(failure_ttl)
            .ok()
            .filter(|ttl| *ttl <= 300)
            .ok_or_else(|| format!("failures may be kept for 5 minutes at most (RFC 2308), not for {failure_ttl} seconds"))?,
        entries: spec.positive_entries.unwrap_or(defaults.entries),
        negative_entries: spec.negative_entries.unwrap_or(defaults.negative_entries),
        bytes: defaults.bytes,
        prefetch: spec.prefetch.unwrap_or(defaults.prefetch),
        prefetch_within: spec.prefetch_within.map_or(defaults.prefetch_within, |time| time.0),
        prefetch_last: percent,
        serve_stale: spec.serve_stale.map_or(defaults.serve_stale, |time| time.0),
        stale_after: spec.stale_after.map_or(defaults.stale_after, |time| time.0),
        keep_ttl: spec.keep_ttl,
    })
}

fn scope(spec: &model::Cache) -> Result<Scope, String> {
    Ok(Scope {
        zones: values::all_zones(&spec.zones)?,
        without_positive: values::all_zones(&spec.without_positive)?,
        without_negative: values::all_zones(&spec.without_negative)?,
    })
}

/// What the flags say: cluster names and all others in one block, and a block for each zone with servers of its own.
pub fn from_flags(config: &DnsConfig) -> Model {
    let to = match &config.upstreams {
        Upstreams::ResolvConf(path) => vec![path.display().to_string()],
        Upstreams::Servers(servers) => servers.iter().map(ToString::to_string).collect(),
    };
    let reverse = ["in-addr.arpa", "ip6.arpa"].map(str::to_string);
    let cache = Some(model::Cache::default());
    let everything = Block {
        // The cluster domain stands here for itself, so that no zone above it takes its names.
        zones: match config.stub_zones.is_empty() {
            true => vec![".".to_string()],
            false => vec![".".to_string(), config.domain.clone()],
        },
        kubernetes: Some(model::Kubernetes {
            zones: [config.domain.clone()].into_iter().chain(reverse.clone()).collect(),
            fallthrough: reverse.to_vec(),
            ..Default::default()
        }),
        forward: vec![model::Forward { to, ..Default::default() }],
        cache: cache.clone(),
        ..Block::default()
    };
    let stubs = config.stub_zones.iter().map(|stub| Block {
        zones: vec![stub.zone.clone()],
        forward: vec![model::Forward { to: stub.servers.iter().map(ToString::to_string).collect(), ..Default::default() }],
        cache: cache.clone(),
        ..Block::default()
    });
    Model { blocks: [everything].into_iter().chain(stubs).collect(), reload: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{RunArgs, Surroundings, load};

    fn defaults(flags: &[(&str, &str)]) -> DnsConfig {
        let flags = [&[("role", "dns"), ("dns-address", "192.0.2.1,192.0.2.2")], flags].concat();
        let surroundings = Surroundings { host_name: Some("node".into()), ..Surroundings::default() };
        load(&RunArgs::of(&flags), &surroundings).unwrap().0.dns
    }

    fn plan(blocks: Vec<Block>) -> Result<Plan, ChainError> {
        let metrics = Arc::new(Metrics::new(&prometheus::Registry::new()).unwrap());
        Plan::new(Model { blocks, reload: None }, &defaults(&[]), &metrics, None)
    }

    fn block(zones: &[&str]) -> Block {
        Block { zones: zones.iter().map(ToString::to_string).collect(), ..Block::default() }
    }

    fn zone_of(plan: &Plan, address: &str, name: &str, rtype: u16) -> String {
        let name = DomainName::parse(name).unwrap();
        let entry = plan.listener(address.parse().unwrap()).find(name.as_wire(), rtype);
        entry.map_or("none".to_string(), |entry| entry.zone.to_string())
    }

    #[test]
    fn the_longest_zone_of_all_blocks_has_the_question() {
        let plan = plan(vec![block(&["."]), block(&["corp.example", "10.0.0.0/8"]), block(&["b.corp.example"])]).unwrap();
        let zone = |name| zone_of(&plan, "192.0.2.1:53", name, 1);
        assert_eq!(zone("www.corp.example"), "corp.example.");
        assert_eq!(zone("b.corp.example"), "b.corp.example.");
        assert_eq!(zone("acorp.example"), ".");
        assert_eq!(zone("1.2.3.10.in-addr.arpa"), "10.in-addr.arpa.");
        assert_eq!(zone("."), ".");
        assert_eq!(zone_of(&plan, "192.0.2.1:53", "b.corp.example", DS), "corp.example.");
        assert_eq!(zone_of(&plan, "192.0.2.1:53", "example", DS), ".");
    }

    #[test]
    fn names_are_answered_at_once_where_no_other_block_has_them() {
        let cluster = |fallthrough: &[&str]| Block {
            kubernetes: Some(model::Kubernetes {
                zones: vec!["cluster.local".into(), "in-addr.arpa".into()],
                fallthrough: fallthrough.iter().map(ToString::to_string).collect(),
                ..Default::default()
            }),
            ..block(&["."])
        };
        let at_once = |blocks: Vec<Block>| {
            let plan = plan(blocks).unwrap();
            let found = plan.listener("192.0.2.1:53".parse().unwrap()).at_once();
            found.map(|at_once| (at_once.zone().to_string(), at_once.shape.reverse.len()))
        };
        let all = Some(("cluster.local.".to_string(), 1));
        assert_eq!(at_once(vec![cluster(&[])]), all);
        assert_eq!(at_once(vec![block(&["corp.example"]), cluster(&["in-addr.arpa"])]), all);
        assert_eq!(at_once(vec![cluster(&[]), block(&["local"])]), None);
        assert_eq!(at_once(vec![cluster(&[]), block(&["a.cluster.local"])]), None);
        assert_eq!(at_once(vec![cluster(&[]), block(&["10.0.0.0/8"])]), Some(("cluster.local.".to_string(), 0)));
        assert_eq!(at_once(vec![Block { loadbalance: false, ..cluster(&[]) }]), None);
    }

    #[test]
    fn blocks_with_ports_and_addresses_of_their_own_are_answered_there_only() {
        let bound = Block { bind: vec!["192.0.2.9".parse().unwrap()], ..block(&["bound.example"]) };
        let plan = plan(vec![block(&["."]), Block { port: Some(5353), ..block(&["port.example"]) }, bound]).unwrap();
        let addresses: Vec<String> = plan.addresses().iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["192.0.2.1:53", "192.0.2.2:53", "192.0.2.1:5353", "192.0.2.2:5353", "192.0.2.9:53"]);
        assert_eq!(zone_of(&plan, "192.0.2.1:53", "port.example", 1), ".");
        assert_eq!(zone_of(&plan, "192.0.2.2:5353", "port.example", 1), "port.example.");
        assert_eq!(zone_of(&plan, "192.0.2.2:5353", "other.example", 1), "none");
        assert_eq!(zone_of(&plan, "192.0.2.9:53", "bound.example", 1), "bound.example.");
    }

    #[test]
    fn what_cannot_be_done_names_its_block_and_part() {
        let forward = |to: &[&str]| Block {
            forward: vec![model::Forward { to: to.iter().map(ToString::to_string).collect(), ..Default::default() }],
            ..block(&["a.example"])
        };
        for (blocks, part, problem) in [
            (vec![block(&["a.example"]), block(&["b.example", "A.example."])], "zones", "another block answers for a.example."),
            (vec![block(&["a..b"])], "zones", "is no domain name"),
            (vec![forward(&[])], "forward", "give 1 to 15"),
            (vec![forward(&["192.0.2.300"])], "forward", "is no server"),
            (vec![forward(&["https://192.0.2.1"])], "forward", "are not asked over https"),
            (
                vec![Block { kubernetes: Some(Default::default()), ..block(&["10.0.0.0/8"]) }],
                "kubernetes",
                "cluster domain is missing",
            ),
        ] {
            let error = plan(blocks).err().unwrap();
            assert!(error.plugin == part && error.problem.contains(problem), "{error}");
        }
    }

    #[test]
    fn an_unchanged_resolver_is_kept_with_its_cache() {
        let metrics = Arc::new(Metrics::new(&prometheus::Registry::new()).unwrap());
        let defaults = defaults(&[("dns-stub-zone", "corp.example=192.0.2.53")]);
        let first = Plan::new(from_flags(&defaults), &defaults, &metrics, None).unwrap();
        let mut model = from_flags(&defaults);
        model.blocks[1].cache = None;
        let second = Plan::new(model, &defaults, &metrics, Some(&first)).unwrap();
        let same = |number: usize| {
            let resolver = |plan: &Plan| plan.servers[number].resolver.clone().unwrap();
            resolver(&first).is_same(&resolver(&second))
        };
        assert!(same(0) && !same(1));
    }
}
