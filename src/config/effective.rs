//! The effective configuration as YAML that loads again to the same configuration.

use super::args::Origin;
use super::settings::SETTINGS;
use super::{ClusterSource, Config, DetectLocalMode, LogFormat, NodePortAddresses, Origins, Policy, StubZone, ZonesSource};
use serde_json::{Value, json};
use std::fmt::Display;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Every setting with its value, in the order of the reference; what was not left to the default says where it comes from.
pub fn to_yaml(config: &Config, origins: &Origins) -> String {
    let mut text = String::new();
    for setting in SETTINGS {
        let Some(value) = value(config, setting.key) else { continue };
        let origin = origins.iter().find(|(key, _)| *key == setting.key).map(|(_, origin)| origin);
        let remark = match origin {
            None | Some(Origin::Default(_)) => String::new(),
            Some(Origin::File(place)) => format!("  # {}, line {}", place.path.display(), place.line),
            Some(origin) => format!("  # {origin}"),
        };
        // JSON's scalars and lists are YAML's too.
        text += &format!("{}: {value}{remark}\n", setting.key);
    }
    if let ZonesSource::Blocks { blocks, .. } = &config.dns.zones {
        text += &format!("dns-zones: {}\n", json!(blocks));
    }
    text
}

/// Every setting with its value, for machines.
pub fn to_json(config: &Config) -> Value {
    SETTINGS.iter().filter_map(|setting| Some((setting.key.to_string(), value(config, setting.key)?))).collect()
}

/// The value of a setting; `None` for the two cluster sources that are not in use.
fn value(config: &Config, key: &str) -> Option<Value> {
    let Config { proxy, dns, admin, log, cluster, .. } = config;
    Some(match (key, cluster) {
        ("role", _) => json!(config.role.to_string()),
        ("node-name", _) => json!(config.node_name),
        ("state-dir", _) => json!(config.state_dir.as_deref().unwrap_or(Path::new(""))),
        ("kubeconfig", ClusterSource::Kubeconfig(path)) => json!(path),
        ("api-server", ClusterSource::ApiServer(url)) => json!(url),
        ("manifests", ClusterSource::Manifests(path)) => json!(path),
        ("cluster-cidr", _) => list(&proxy.cluster_cidrs),
        ("detect-local-mode", _) => json!(proxy.detect_local.name()),
        ("pod-bridge-interface", _) => json!(match &proxy.detect_local {
            DetectLocalMode::BridgeInterface(name) => name,
            _ => "",
        }),
        ("pod-interface-name-prefix", _) => json!(match &proxy.detect_local {
            DetectLocalMode::InterfaceNamePrefix(prefix) => prefix,
            _ => "",
        }),
        ("service-cidr", _) => list(&proxy.service_cidrs),
        ("nodeport-addresses", _) => {
            let NodePortAddresses { primary, networks, localhost } = &proxy.nodeport_addresses;
            let words = [(*primary, "primary"), (*localhost, "localhost")].into_iter().filter(|(wanted, _)| *wanted);
            let networks = networks.iter().map(ToString::to_string);
            words.map(|(_, word)| word.to_string()).chain(networks).collect()
        }
        ("connection-metrics", _) => json!(proxy.connection_metrics),
        ("external-ips", _) => json!(proxy.external_ips),
        ("masquerade-all", _) => json!(proxy.masquerade_all),
        ("masquerade-bit", _) => json!(proxy.masquerade_bit),
        ("conntrack-max-per-core", _) => json!(proxy.conntrack.max_per_core),
        ("conntrack-min", _) => json!(proxy.conntrack.min),
        ("conntrack-tcp-timeout-established", _) => seconds(proxy.conntrack.tcp_established_seconds),
        ("conntrack-tcp-timeout-close-wait", _) => seconds(proxy.conntrack.tcp_close_wait_seconds),
        ("conntrack-tcp-be-liberal", _) => json!(proxy.conntrack.tcp_be_liberal),
        ("conntrack-udp-timeout", _) => seconds(proxy.conntrack.udp_seconds),
        ("conntrack-udp-timeout-stream", _) => seconds(proxy.conntrack.udp_stream_seconds),
        ("cluster-domain", _) => json!(dns.domain),
        ("dns-address", _) => list(&dns.addresses),
        ("corefile", _) => json!(match &dns.zones {
            ZonesSource::Corefile(path) => path.as_path(),
            _ => Path::new(""),
        }),
        ("corefile-configmap", _) => json!(match &dns.zones {
            ZonesSource::ConfigMaps(names) => names.as_slice(),
            _ => &[],
        }),
        ("dns-ttl", _) => json!(dns.ttl),
        ("dns-allow-from", _) => list(&dns.guard.allow_from),
        ("dns-rate-limit", _) => json!(dns.guard.rate.per_second),
        ("dns-rate-limit-slip", _) => json!(dns.guard.rate.slip),
        ("dns-rate-limit-ipv4-prefix-length", _) => json!(dns.guard.rate.prefixes.0),
        ("dns-rate-limit-ipv6-prefix-length", _) => json!(dns.guard.rate.prefixes.1),
        ("dns-untracked", _) => json!(!proxy.tracked_dns),
        ("dns-tcp-connections", _) => json!(dns.guard.connections),
        ("dns-upstream", _) => list(&dns.upstreams.0),
        ("dns-stub-zone", _) => dns.stub_zones.iter().map(stub_zone).collect(),
        ("dns-forward-except", _) => json!(dns.forward.except),
        ("dns-forward-policy", _) => json!(match dns.forward.policy {
            Policy::Random => "random",
            Policy::RoundRobin => "round_robin",
            Policy::Sequential => "sequential",
        }),
        ("dns-forward-tcp", _) => json!(dns.forward.only_tcp),
        ("dns-forward-tls-ca", _) => path(&dns.forward.tls.ca),
        ("dns-forward-tls-cert", _) => path(&dns.forward.tls.client.as_ref().map(|client| client.0.clone())),
        ("dns-forward-tls-key", _) => path(&dns.forward.tls.client.as_ref().map(|client| client.1.clone())),
        ("dns-forward-max-fails", _) => json!(dns.forward.max_fails),
        ("dns-forward-max-concurrent", _) => json!(dns.forward.max_concurrent),
        ("dns-forward-hedge", _) => json!(dns.forward.hedge.as_millis() as u64),
        ("dns-cache-ttl", _) => json!(dns.cache.positive_ttl),
        ("dns-cache-negative-ttl", _) => json!(dns.cache.negative_ttl),
        ("dns-cache-min-ttl", _) => json!(dns.cache.min_ttl),
        ("dns-cache-failure-ttl", _) => json!(dns.cache.failure_ttl),
        ("dns-cache-entries", _) => json!(dns.cache.entries),
        ("dns-cache-size", _) => json!(dns.cache.bytes >> 20),
        ("dns-cache-prefetch", _) => json!(dns.cache.prefetch),
        ("dns-cache-serve-stale", _) => json!(dns.cache.serve_stale.as_secs()),
        ("healthz-bind-address", _) => listener(admin.healthz),
        ("metrics-bind-address", _) => listener(admin.metrics),
        ("dns-health-address", _) => listener(admin.dns_health),
        ("dns-ready-address", _) => listener(admin.dns_ready),
        ("dns-metrics-address", _) => listener(admin.dns_metrics),
        ("probe-socket", _) => path(&admin.probe),
        ("handover-socket", _) => path(&config.handover),
        ("socket", _) => path(&admin.socket),
        ("log-format", _) => json!(match log.format {
            LogFormat::Human => "human",
            LogFormat::Json => "json",
        }),
        ("log-level", _) => json!(log.filter),
        _ => return None,
    })
}

fn stub_zone(stub: &StubZone) -> String {
    let servers: Vec<_> = stub.servers.iter().map(ToString::to_string).collect();
    format!("{}={}", stub.zone, servers.join("+"))
}

fn seconds(seconds: u32) -> Value {
    json!(format!("{seconds}s"))
}

fn list<T: Display>(values: &[T]) -> Value {
    values.iter().map(|value| json!(value.to_string())).collect()
}

fn path(path: &Option<PathBuf>) -> Value {
    json!(path.as_deref().unwrap_or(Path::new("")))
}

fn listener(address: Option<SocketAddr>) -> Value {
    json!(address.map(|address| address.to_string()).unwrap_or_default())
}
