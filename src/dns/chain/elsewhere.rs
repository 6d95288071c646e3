//! The upstream servers of a block and the cache before them, made as the block says and, where it says nothing, as the flags do.

use super::model::{self, Block};
use super::plan::{Wrong, part};
use super::values::{self, LONGEST_RECHECK};
use crate::config::{
    CacheConfig, DnsConfig, ForwardConfig, NameServer, Over, Policy, TlsConfig, Upstream, Upstreams, name_server,
};
use crate::dns::forward::{Forwarder, Roster};
use crate::dns::metrics::Metrics;
use crate::dns::name::DomainName;
use crate::dns::reply::name_to_hickory;
use crate::dns::resolve::{Resolver, Scope};
use std::sync::Arc;

/// CoreDNS's limit.
const MAX_UPSTREAMS: usize = 15;

/// What asks elsewhere for a block; `None` where it has no upstream servers.
pub(super) fn resolver(
    block: &Block,
    defaults: &DnsConfig,
    metrics: &Arc<Metrics>,
    roster: &Roster,
) -> Result<Option<Resolver>, Wrong> {
    let mut forwarders = Vec::new();
    for (number, spec) in block.forward.iter().enumerate() {
        forwarders.push(forwarder(spec, &defaults.forward, metrics, roster).map_err(part("forward", number))?);
    }
    if forwarders.is_empty() {
        return Ok(None);
    }
    let cache = block.cache.as_ref().map(|spec| cache(spec, &defaults.cache)).transpose().map_err(part("cache", 0))?;
    let scope = block.cache.as_ref().map(scope).transpose().map_err(part("cache", 0))?;
    Ok(Some(Resolver::of(forwarders, cache.as_ref(), scope.unwrap_or_default(), metrics.clone())))
}

fn forwarder(
    spec: &model::Forward,
    defaults: &ForwardConfig,
    metrics: &Arc<Metrics>,
    roster: &Roster,
) -> Result<Forwarder, String> {
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
        prefer_udp: spec.prefer_udp || defaults.prefer_udp,
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
    Ok(Forwarder::new(name_to_hickory(from), &upstreams, &config, metrics.clone(), roster))
}

fn upstreams(to: &[String], name: Option<&str>) -> Result<Upstreams, String> {
    let mut upstreams = Vec::new();
    for text in to {
        let upstream = match text.starts_with('/') {
            true => Upstream::ResolvConf(text.into()),
            false => Upstream::Server(server(text, name)?),
        };
        if !upstreams.contains(&upstream) {
            upstreams.push(upstream);
        }
    }
    if upstreams.is_empty() || upstreams.len() > MAX_UPSTREAMS {
        let count = upstreams.len();
        return Err(format!(
            "{count} servers are given; give 1 to {MAX_UPSTREAMS}, or files such as /etc/resolv.conf that name some"
        ));
    }
    Ok(Upstreams(upstreams))
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
        _ => format!("{text:?} is no server; give addresses such as 192.0.2.53, [2001:db8::53]:53 or tls://192.0.2.53#dns.example, or a file such as /etc/resolv.conf"),
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
    let stale_recheck = spec.stale_recheck.map_or(defaults.stale_recheck, |time| time.0);
    if stale_recheck > LONGEST_RECHECK {
        let seconds = stale_recheck.as_secs();
        return Err(format!(
            "servers that have failed are asked again within 5 minutes (RFC 8767), not after {seconds} seconds; give stale-recheck 5m at most"
        ));
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
        stale_ttl: spec.stale_ttl.unwrap_or(defaults.stale_ttl),
        stale_recheck,
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
