//! Services.

use super::{Complaint, Malformed, address, addresses, annotations, has_label, key, malformed, network, port, protocol};
use crate::model::{Family, Interner, ObjectKey, Policy, Service, ServiceKind, ServicePort};
use crate::source::objects;
use std::net::IpAddr;

const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// The API server's default for `sessionAffinityConfig.clientIP.timeoutSeconds`: three hours.
const DEFAULT_AFFINITY_SECONDS: i64 = 10_800;
const MAX_AFFINITY_SECONDS: i64 = 86_400;

/// A Service.
///
/// # Errors
/// [`Malformed`] names the first field with an impossible value.
pub fn service(object: &objects::Service, names: &mut Interner) -> Result<Service, Malformed> {
    read(object, names).map_err(malformed("Service", &object.metadata))
}

/// A Service's namespace and name, which even a malformed one should have.
///
/// # Errors
/// [`Malformed`] when one of them is missing.
pub fn service_key(object: &objects::Service, names: &mut Interner) -> Result<ObjectKey, Malformed> {
    key(&object.metadata, names).map_err(malformed("Service", &object.metadata))
}

fn read(object: &objects::Service, names: &mut Interner) -> Result<Service, Complaint> {
    let default = objects::ServiceSpec::default();
    let spec = object.spec.as_ref().unwrap_or(&default);
    let type_ = Type::read(spec.type_.as_deref())?;
    let kind = kind(type_, spec)?;
    let external_policy = policy("spec.externalTrafficPolicy", spec.external_traffic_policy.as_deref())?;
    let checks_health = type_ == Type::LoadBalancer && external_policy == Policy::Local;
    Ok(Service {
        key: key(&object.metadata, names)?,
        cluster_ips: if kind == ServiceKind::ClusterIp { cluster_ips(spec)? } else { Vec::new() },
        kind,
        external_ips: addresses("spec.externalIPs", spec.external_ips.as_deref())?,
        load_balancer_ips: load_balancer_ips(object.status.as_ref())?,
        source_ranges: source_ranges(spec)?,
        ports: ports(type_, spec, names)?,
        internal_policy: policy("spec.internalTrafficPolicy", spec.internal_traffic_policy.as_deref())?,
        external_policy,
        affinity_seconds: affinity_seconds(spec)?,
        health_check_node_port: match checks_health {
            true => port(|| "spec.healthCheckNodePort".into(), spec.health_check_node_port)?,
            false => 0,
        },
        proxied: !has_label(&object.metadata, PROXY_NAME_LABEL),
        created: object.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
        options: annotations::of_service(&object.metadata).0,
        labels: None,
    })
}

#[derive(Clone, Copy, PartialEq)]
enum Type {
    ClusterIp,
    NodePort,
    LoadBalancer,
    ExternalName,
}

impl Type {
    fn read(name: Option<&str>) -> Result<Type, Complaint> {
        match name {
            None | Some("" | "ClusterIP") => Ok(Type::ClusterIp),
            Some("NodePort") => Ok(Type::NodePort),
            Some("LoadBalancer") => Ok(Type::LoadBalancer),
            Some("ExternalName") => Ok(Type::ExternalName),
            Some(other) => Err(Complaint::new("spec.type", other, "ClusterIP, NodePort, LoadBalancer or ExternalName")),
        }
    }
}

fn kind(type_: Type, spec: &objects::ServiceSpec) -> Result<ServiceKind, Complaint> {
    if type_ == Type::ExternalName {
        let name = spec.external_name.as_deref().unwrap_or_default();
        return match name.strip_suffix('.').unwrap_or(name) {
            "" => Err(Complaint::new("spec.externalName", name, "a DNS name")),
            name => Ok(ServiceKind::ExternalName(name.into())),
        };
    }
    let headless = cluster_ip_texts(spec).first().is_some_and(|text| *text == "None");
    Ok(if headless { ServiceKind::Headless } else { ServiceKind::ClusterIp })
}

/// `clusterIPs`, or where only the older `clusterIP` is set, that.
fn cluster_ip_texts(spec: &objects::ServiceSpec) -> Vec<&str> {
    let several = spec.cluster_ips.as_deref().unwrap_or_default().iter().map(String::as_str);
    let one = spec.cluster_ip.as_deref().filter(|text| !text.is_empty());
    let several: Vec<_> = several.collect();
    if several.is_empty() { one.into_iter().collect() } else { several }
}

fn cluster_ips(spec: &objects::ServiceSpec) -> Result<Vec<IpAddr>, Complaint> {
    let texts = cluster_ip_texts(spec);
    // Room for no more: a vector that grows has it for four.
    let mut found: Vec<IpAddr> = Vec::with_capacity(texts.len());
    for (index, text) in texts.into_iter().enumerate() {
        let field = || format!("spec.clusterIPs[{index}]");
        let new = address(field, text)?;
        if found.iter().any(|other| Family::of(*other) == Family::of(new)) {
            return Err(Complaint::new(field(), text, "of another family than the first one"));
        }
        found.push(new);
    }
    Ok(found)
}

/// The addresses that the node serves itself: those known by a host name and those of mode `Proxy` are the load balancer's business.
fn load_balancer_ips(status: Option<&objects::ServiceStatus>) -> Result<Vec<IpAddr>, Complaint> {
    let ingress = status.and_then(|status| status.load_balancer.as_ref()).and_then(|balancer| balancer.ingress.as_deref());
    let mut found = Vec::new();
    for (index, entry) in ingress.unwrap_or_default().iter().enumerate() {
        let Some(ip) = entry.ip.as_deref().filter(|ip| !ip.is_empty()) else { continue };
        if entry.ip_mode.as_deref().is_none_or(|mode| mode == "VIP") {
            found.push(address(|| format!("status.loadBalancer.ingress[{index}].ip"), ip)?);
        }
    }
    Ok(found)
}

fn source_ranges(spec: &objects::ServiceSpec) -> Result<Vec<ipnet::IpNet>, Complaint> {
    let texts = spec.load_balancer_source_ranges.as_deref().unwrap_or_default().iter().enumerate();
    texts.map(|(index, text)| network(|| format!("spec.loadBalancerSourceRanges[{index}]"), text)).collect()
}

fn ports(type_: Type, spec: &objects::ServiceSpec, names: &mut Interner) -> Result<Vec<ServicePort>, Complaint> {
    let has_node_ports = matches!(type_, Type::NodePort | Type::LoadBalancer);
    let entries = spec.ports.as_deref().unwrap_or_default();
    let mut found = Vec::with_capacity(entries.len());
    for (index, entry) in entries.iter().enumerate() {
        let field = |name: &str| format!("spec.ports[{index}].{name}");
        let number = port(|| field("port"), entry.port)?;
        if number == 0 {
            let value = entry.port.map(|number| number.to_string()).unwrap_or_default();
            return Err(Complaint::new(field("port"), value, "a port number from 1 to 65535"));
        }
        found.push(ServicePort {
            name: names.intern(entry.name.as_deref().unwrap_or_default()),
            protocol: protocol(|| field("protocol"), entry.protocol.as_deref())?,
            port: number,
            node_port: if has_node_ports { port(|| field("nodePort"), entry.node_port)? } else { 0 },
        });
    }
    Ok(found)
}

fn policy(field: &str, name: Option<&str>) -> Result<Policy, Complaint> {
    match name {
        None | Some("" | "Cluster") => Ok(Policy::Cluster),
        Some("Local") => Ok(Policy::Local),
        Some(other) => Err(Complaint::new(field, other, "Cluster or Local")),
    }
}

fn affinity_seconds(spec: &objects::ServiceSpec) -> Result<Option<u32>, Complaint> {
    match spec.session_affinity.as_deref() {
        None | Some("" | "None") => Ok(None),
        Some("ClientIP") => {
            let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
            let seconds = config.and_then(|config| config.timeout_seconds).unwrap_or(DEFAULT_AFFINITY_SECONDS);
            match u32::try_from(seconds) {
                Ok(valid) if (1..=MAX_AFFINITY_SECONDS).contains(&seconds) => Ok(Some(valid)),
                _ => {
                    Err(Complaint::new("spec.sessionAffinityConfig.clientIP.timeoutSeconds", seconds, "from 1 to 86400 seconds"))
                }
            }
        }
        Some(other) => Err(Complaint::new("spec.sessionAffinity", other, "None or ClientIP")),
    }
}
