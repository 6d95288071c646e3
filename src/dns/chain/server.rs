//! One block, ready: its cluster names, its resolver and what else there is.

use super::elsewhere::resolver;
use super::extras::Extras;
use super::log::Log;
use super::model::{self, Block, Pods};
use super::plan::{Plan, Wrong, part};
use super::values;
use crate::config::DnsConfig;
use crate::dns::forward::Roster;
use crate::dns::metrics::Metrics;
use crate::dns::reply::UDP_PAYLOAD;
use crate::dns::resolve::Resolver;
use crate::dns::shape::{PodNames, Shape};
use crate::dns::sparing::Sparing;
use crate::model::{self as cluster, Selector};
use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

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
    /// How often that has been done.
    pub(super) failures: Sparing,
    /// Whether questions for cluster names may be answered from [`Server::shape`] alone, because no other part of the block would see them.
    pub plain: bool,
    /// What the resolver was made of, so that the next plan can keep it.
    spec: Spec,
}

/// What a resolver is made of: what a block asks elsewhere and keeps, for which zones, and where.
#[derive(Default, PartialEq)]
struct Spec {
    forward: Vec<model::Forward>,
    cache: Option<model::Cache>,
    zones: Vec<String>,
    port: Option<u16>,
    bind: Vec<IpAddr>,
}

impl Server {
    /// Makes it. A resolver of an earlier plan, with its cache, is kept where nothing that concerns it has changed.
    pub(super) fn new(
        block: &Block,
        defaults: &DnsConfig,
        metrics: &Arc<Metrics>,
        earlier: Option<&Plan>,
        roster: &Roster,
    ) -> Result<Server, Wrong> {
        let shape =
            block.kubernetes.as_ref().map(|spec| shape(spec, block, defaults)).transpose().map_err(part("kubernetes", 0))?;
        let spec = Spec {
            forward: block.forward.clone(),
            cache: block.cache.clone(),
            zones: block.zones.clone(),
            port: block.port,
            bind: block.bind.clone(),
        };
        let kept = earlier.and_then(|plan| plan.servers().iter().find(|server| server.spec == spec));
        let resolver = match kept {
            Some(server) => server.resolver.clone(),
            None => resolver(block, defaults, metrics, roster)?,
        };
        let extras = Extras::new(block)?.map(Box::new);
        let plain = shape.is_some() && block.loadbalance && extras.is_none();
        let ttls = block.cache.as_ref().map(|cache| {
            let least = cache.min_positive_ttl.unwrap_or(defaults.cache.min_ttl);
            (least, cache.positive_ttl.unwrap_or(defaults.cache.positive_ttl))
        });
        let (shape, shuffles) = (shape.map(Arc::new), block.loadbalance);
        Ok(Server {
            shape,
            resolver,
            shuffles,
            extras,
            ttls,
            logs_errors: block.errors,
            failures: Sparing::default(),
            plain,
            spec,
        })
    }

    /// Cluster names in this shape, and what this resolver says of others.
    pub(super) fn simple(shape: Shape, resolver: Resolver) -> Server {
        Server {
            shape: Some(Arc::new(shape)),
            resolver: Some(resolver),
            shuffles: true,
            extras: None,
            ttls: None,
            logs_errors: false,
            failures: Sparing::default(),
            plain: true,
            spec: Spec::default(),
        }
    }

    /// A TTL within the bounds of the block's cache, of which the longest counts where the shortest is longer.
    pub(super) fn capped(&self, ttl: u32) -> u32 {
        self.ttls.map_or(ttl, |(least, most)| ttl.max(least).min(most))
    }

    /// The resolver, where nothing else has a word about this name (in wire form, lower case).
    pub fn resolver_alone(&self, name: &[u8]) -> Option<&Resolver> {
        let is_of_cluster = |shape: &Arc<Shape>| shape.zone_of(name).is_some() || shape.reverse_zone_of(name).is_some();
        self.resolver.as_ref().filter(|_| self.extras.is_none() && !self.shape.as_ref().is_some_and(is_of_cluster))
    }

    /// Whether questions of class CH are answered.
    pub fn answers_chaos(&self) -> bool {
        self.extras.as_ref().is_some_and(|extras| extras.chaos.is_some())
    }

    /// The largest answer over UDP: whoever configures more knows a network that takes it.
    pub fn bufsize(&self) -> u16 {
        self.extras.as_ref().and_then(|extras| extras.bufsize).unwrap_or(UDP_PAYLOAD)
    }

    /// What is logged.
    pub fn logs(&self) -> &[Log] {
        self.extras.as_ref().map(|extras| extras.logs.as_slice()).unwrap_or_default()
    }
}

fn shape(spec: &model::Kubernetes, block: &Block, defaults: &DnsConfig) -> Result<Shape, String> {
    let named = if spec.zones.is_empty() { &block.zones } else { &spec.zones };
    let (reverse, mut zones): (Vec<_>, Vec<_>) = values::all_zones(named)?.into_iter().partition(values::is_reverse);
    // Some charts write the cluster domain twice.
    let mut seen = HashSet::new();
    zones.retain(|zone| seen.insert(zone.clone()));
    if zones.is_empty() {
        return Err("the cluster domain is missing, such as cluster.local".to_string());
    }
    let multicluster = values::all_zones(&spec.multicluster)?;
    if let Some(zone) = multicluster.iter().find(|zone| !zones.contains(zone)) {
        return Err(format!("{zone} is no zone of the cluster's names here; name it among the zones too, for multicluster"));
    }
    let ttl = spec.ttl.unwrap_or(defaults.ttl);
    if ttl > 3600 {
        return Err(format!("the TTL {ttl} is not allowed; give 0 to 3600 seconds"));
    }
    if !spec.namespaces.is_empty() && spec.namespace_labels.is_some() {
        return Err("namespaces are chosen by name or by labels, not both".to_string());
    }
    if spec.zonal && spec.no_endpoints {
        return Err("names for zones of nodes are made of endpoints: leave one of zonal and noendpoints out".to_string());
    }
    let label = |namespace: &String| namespace.to_ascii_lowercase().into_bytes().into_boxed_slice();
    Ok(Shape {
        zones,
        multicluster,
        reverse,
        falls_through: values::all_zones(&spec.fallthrough)?,
        ttl,
        pods: match spec.pods {
            Some(Pods::Disabled) => PodNames::Disabled,
            Some(Pods::Insecure) | None => PodNames::Insecure,
            Some(Pods::Verified) => PodNames::Verified,
        },
        namespaces: spec.namespaces.iter().map(label).collect::<BTreeSet<_>>(),
        namespace_labels: spec.namespace_labels.as_deref().map(selector).transpose()?,
        labels: spec.labels.as_deref().map(selector).transpose()?,
        endpoints: !spec.no_endpoints,
        pod_names: spec.endpoint_pod_names,
        zonal: spec.zonal,
        empty_services: !spec.ignore_empty_services,
    })
}

fn selector(text: &str) -> Result<Selector, String> {
    cluster::selector(text).ok_or_else(|| format!("{text:?} is no label selector such as app=web,tier in (front, back),!retired"))
}
