//! Addresses and NodePorts for those who have none yet.

use super::plan::key_of;
use crate::model::{Family, ObjectKey};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{LoadBalancerIngress, LoadBalancerStatus, Service, ServiceSpec, ServiceStatus};
use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Pods get addresses from here.
pub const POD_NETWORKS: [(IpAddr, u8); 2] =
    [(IpAddr::V4(Ipv4Addr::new(10, 244, 0, 0)), 16), (IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 0)), 64)];

/// Services get addresses from here.
pub const SERVICE_NETWORKS: [(IpAddr, u8); 2] =
    [(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 0)), 16), (IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0)), 112)];

/// Load balancers get addresses from here (documentation networks, RFC 5737 and RFC 3849).
const LOAD_BALANCER_NETWORKS: [(IpAddr, u8); 2] =
    [(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 0)), 24), (IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x203, 0, 0, 0, 0, 0)), 64)];

/// Numbers below these are the demo's own: the client and the hosts outside, and the cluster DNS address (10).
const FIRST: u16 = 11;

/// Gives each object what it asked for or something free, and the same again when asked again.
#[derive(Debug, Default)]
pub struct Allocator {
    pods: HashMap<ObjectKey, u16>,
    services: HashMap<ObjectKey, u16>,
    node_ports: HashMap<(ObjectKey, usize), i32>,
    /// ClusterIPs and NodePorts that manifests ask for by themselves.
    wanted_addresses: BTreeSet<IpAddr>,
    wanted_node_ports: BTreeSet<i32>,
}

impl Allocator {
    /// Sets aside what these Services ask for, so that nobody else gets it.
    pub fn reserve(&mut self, services: &[Service]) {
        let specs = || services.iter().filter_map(|service| service.spec.as_ref());
        self.wanted_addresses = specs().flat_map(cluster_ips).collect();
        self.wanted_node_ports = specs().flat_map(|spec| spec.ports.iter().flatten()).filter_map(|port| port.node_port).collect();
    }

    /// The addresses of a pod, one of each family.
    pub fn pod_addresses(&mut self, key: &ObjectKey) -> Vec<IpAddr> {
        let next = next_number(&self.pods);
        let number = *self.pods.entry(key.clone()).or_insert(next);
        POD_NETWORKS.into_iter().map(|(network, _)| numbered(network, number)).collect()
    }

    /// Fills in ClusterIPs, NodePorts and the load balancer's address where they are missing.
    pub fn fill(&mut self, service: &mut Service) {
        let key = key_of(&service.metadata);
        let Some(spec) = &mut service.spec else { return };
        if spec.type_.as_deref() == Some("ExternalName") {
            return;
        }
        let families = families(spec);
        if !is_headless(spec) {
            let mut addresses = cluster_ips(spec);
            for family in &families {
                if !addresses.iter().any(|address| Family::of(*address) == *family) {
                    addresses.push(self.service_address(&key, *family, SERVICE_NETWORKS));
                }
            }
            spec.cluster_ip = addresses.first().map(IpAddr::to_string);
            spec.cluster_ips = Some(addresses.iter().map(IpAddr::to_string).collect());
        }
        let outward = matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer"));
        for (index, port) in spec.ports.iter_mut().flatten().enumerate().filter(|_| outward) {
            if port.node_port.is_none_or(|number| number == 0) {
                port.node_port = Some(self.node_port(&key, index));
            }
        }
        if spec.type_.as_deref() == Some("LoadBalancer") && service.status.is_none() {
            let address = |family: &Family| self.service_address(&key, *family, LOAD_BALANCER_NETWORKS).to_string();
            let ingress = families.iter().map(address).map(|ip| LoadBalancerIngress { ip: Some(ip), ..Default::default() });
            let load_balancer = LoadBalancerStatus { ingress: Some(ingress.collect()) };
            service.status = Some(ServiceStatus { load_balancer: Some(load_balancer), ..ServiceStatus::default() });
        }
    }

    fn service_address(&mut self, key: &ObjectKey, family: Family, networks: [(IpAddr, u8); 2]) -> IpAddr {
        let network = if family == Family::V4 { networks[0].0 } else { networks[1].0 };
        let wanted =
            |number: u16| SERVICE_NETWORKS.iter().any(|(network, _)| self.wanted_addresses.contains(&numbered(*network, number)));
        let free = (next_number(&self.services)..).find(|number| !wanted(*number));
        let number = *self.services.entry(key.clone()).or_insert(free.unwrap_or(FIRST));
        numbered(network, number)
    }

    fn node_port(&mut self, key: &ObjectKey, index: usize) -> i32 {
        let given: BTreeSet<i32> = self.node_ports.values().copied().collect();
        let free = (30000..32768).find(|number| !given.contains(number) && !self.wanted_node_ports.contains(number));
        *self.node_ports.entry((key.clone(), index)).or_insert(free.unwrap_or(30000))
    }
}

/// Networks as the configuration wants them.
pub fn networks(networks: [(IpAddr, u8); 2]) -> Vec<IpNet> {
    networks.into_iter().filter_map(|(address, length)| IpNet::new(address, length).ok()).collect()
}

/// The address with this number in a network.
pub fn numbered(network: IpAddr, number: u16) -> IpAddr {
    match network {
        IpAddr::V4(network) => Ipv4Addr::from_bits(network.to_bits() | u32::from(number)).into(),
        IpAddr::V6(network) => Ipv6Addr::from_bits(network.to_bits() | u128::from(number)).into(),
    }
}

/// The families of a Service: those of its addresses, else those it names, else IPv4; and the other one too where its policy says so.
pub fn families(spec: &ServiceSpec) -> Vec<Family> {
    let of_addresses = cluster_ips(spec).into_iter().map(Family::of).collect::<Vec<_>>();
    let named = || spec.ip_families.iter().flatten().map(|name| if name == "IPv6" { Family::V6 } else { Family::V4 }).collect();
    let mut families = if of_addresses.is_empty() { named() } else { of_addresses };
    if families.is_empty() {
        families.push(Family::V4);
    }
    if matches!(spec.ip_family_policy.as_deref(), Some("PreferDualStack" | "RequireDualStack")) {
        families.extend(Family::BOTH.into_iter().filter(|family| !families.contains(family)).collect::<Vec<_>>());
    }
    families
}

/// Whether a Service has names only.
pub fn is_headless(spec: &ServiceSpec) -> bool {
    spec.cluster_ip.as_deref() == Some("None")
}

fn cluster_ips(spec: &ServiceSpec) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = spec.cluster_ips.iter().flatten().filter_map(|text| text.parse().ok()).collect();
    if addresses.is_empty() {
        addresses.extend(spec.cluster_ip.as_ref().and_then(|text| text.parse::<IpAddr>().ok()));
    }
    addresses
}

/// One more than the highest: a number is not given out again, because a connection may remember it.
fn next_number(given: &HashMap<ObjectKey, u16>) -> u16 {
    given.values().max().map_or(FIRST, |highest| highest.saturating_add(1))
}
