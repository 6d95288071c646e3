//! What is programmed, service by service: the rows of `waypost services`.

use super::{Candidate, Context, Dest, Place, Planner, judge};
use crate::model::{AddressKind, Family, Policy, Protocol, Service, ServiceKind, Slice};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

/// All rows that were asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Listing {
    /// The node from which it is seen.
    pub node: String,
    /// The services, sorted.
    pub services: Vec<Row>,
}

/// One service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// Why nothing is programmed for it, if nothing is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_programmed: Option<String>,
    /// `Cluster` or `Local`.
    pub internal_traffic_policy: String,
    /// `Cluster` or `Local`.
    pub external_traffic_policy: String,
    /// The time-out of session affinity by client address, if there is any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity_seconds: Option<u32>,
    /// Its ports.
    pub ports: Vec<PortRow>,
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortRow {
    /// Its name; empty when it has none.
    pub name: String,
    /// The port.
    pub port: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// Where it is reached.
    pub addresses: Vec<AddressRow>,
    /// Endpoints that are ready, in all families.
    pub ready: usize,
    /// Those of them on this node.
    pub local: usize,
    /// Endpoints that still serve while they terminate.
    pub terminating: usize,
    /// New connections, and how many per second; only a running agent knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<Connections>,
}

/// Where a port is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddressRow {
    /// The address.
    pub address: IpAddr,
    /// The port there.
    pub port: u16,
    /// `ClusterIP`, `load balancer address`, `externalIP` or `NodePort`.
    pub kind: String,
    /// The service that has it instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub taken_by: Option<String>,
}

/// New connections, as the kernel counts them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Connections {
    /// All that the kernel has counted.
    pub total: u64,
    /// Per second, over the time between two looks of about a second.
    pub per_second: f64,
}

/// The row of one service.
pub fn row(service: &Service, slices: &[&Slice], planner: &Planner, context: &Context) -> Row {
    let not_programmed = match (&service.kind, service.proxied) {
        (ServiceKind::Headless, _) => Some("headless: its name resolves to its pods".to_string()),
        (ServiceKind::ExternalName(name), _) => Some(format!("an alias for {name}")),
        (ServiceKind::ClusterIp, false) => {
            Some("another proxy's, by the label service.kubernetes.io/service-proxy-name".to_string())
        }
        (ServiceKind::ClusterIp, true) if service.cluster_ips.is_empty() => Some("it has no ClusterIP yet".to_string()),
        (ServiceKind::ClusterIp, true) => None,
    };
    let destinations = match not_programmed {
        None => planner.destinations(service, slices, context),
        Some(_) => Default::default(),
    };
    let ports = service.ports.iter().map(|port| {
        let mut counted = Counted::default();
        let place = Place { node: &context.node_name, zone: context.zone.as_deref() };
        for family in Family::BOTH {
            judge(port, family, slices, place).candidates.values().for_each(|candidate| counted.add(candidate));
        }
        let is_of_port = |dest: &Dest, kind: AddressKind| {
            let number = if kind == AddressKind::NodePort { port.node_port } else { port.port };
            dest.protocol == port.protocol && dest.port == number
        };
        let addresses = destinations.iter().filter(|(dest, (kind, _))| is_of_port(dest, *kind)).map(|(dest, (kind, _))| {
            let owner = planner.owner(dest).filter(|owner| **owner != service.key);
            AddressRow {
                address: dest.address,
                port: dest.port,
                kind: kind.to_string(),
                taken_by: owner.map(ToString::to_string),
            }
        });
        PortRow {
            name: port.name.to_string(),
            port: port.port,
            protocol: port.protocol.name().to_string(),
            addresses: addresses.collect(),
            ready: counted.ready,
            local: counted.local,
            terminating: counted.terminating,
            connections: None,
        }
    });
    Row {
        namespace: service.key.namespace.to_string(),
        name: service.key.name.to_string(),
        not_programmed,
        internal_traffic_policy: policy(service.internal_policy),
        external_traffic_policy: policy(service.external_policy),
        affinity_seconds: service.affinity_seconds,
        ports: ports.collect(),
    }
}

#[derive(Default)]
struct Counted {
    ready: usize,
    local: usize,
    terminating: usize,
}

impl Counted {
    fn add(&mut self, candidate: &Candidate<'_>) {
        let endpoint = candidate.endpoint;
        self.ready += usize::from(endpoint.ready);
        self.local += usize::from(endpoint.ready && candidate.local);
        self.terminating += usize::from(!endpoint.ready && endpoint.serving && endpoint.terminating);
    }
}

fn policy(policy: Policy) -> String {
    match policy {
        Policy::Cluster => "Cluster".to_string(),
        Policy::Local => "Local".to_string(),
    }
}

impl Row {
    /// Adds the connections that the kernel has counted, between two looks.
    pub fn count(&mut self, before: &HashMap<Dest, u64>, after: &HashMap<Dest, u64>, seconds: f64) {
        for port in &mut self.ports {
            let Some(protocol) = Protocol::from_name(&port.protocol) else { continue };
            let own = port.addresses.iter().filter(|address| address.taken_by.is_none());
            let dests: BTreeSet<Dest> = own.map(|one| Dest { address: one.address, protocol, port: one.port }).collect();
            let sum = |counters: &HashMap<Dest, u64>| dests.iter().filter_map(|dest| counters.get(dest)).sum::<u64>();
            let (earlier, total) = (sum(before), sum(after));
            let per_second = (total.saturating_sub(earlier) as f64 / seconds * 10.0).round() / 10.0;
            port.connections = Some(Connections { total, per_second });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str, taken_by: Option<&str>) -> AddressRow {
        let address: std::net::SocketAddr = text.parse().unwrap();
        AddressRow { address: address.ip(), port: address.port(), kind: "externalIP".into(), taken_by: taken_by.map(Into::into) }
    }

    #[test]
    fn connections_per_second_are_those_to_all_addresses_that_the_service_has_between_two_looks() {
        let addresses =
            vec![address("10.96.0.1:80", None), address("[fd00:96::1]:80", None), address("198.51.100.1:80", Some("shop/old"))];
        let port = PortRow {
            name: String::new(),
            port: 80,
            protocol: "tcp".into(),
            addresses,
            ready: 0,
            local: 0,
            terminating: 0,
            connections: None,
        };
        let mut row = Row {
            namespace: "shop".into(),
            name: "web".into(),
            not_programmed: None,
            internal_traffic_policy: "Cluster".into(),
            external_traffic_policy: "Cluster".into(),
            affinity_seconds: None,
            ports: vec![port],
        };
        let counters = |v4, v6, others| {
            let of = |text: &str, protocol| {
                let address: std::net::SocketAddr = text.parse().unwrap();
                Dest { address: address.ip(), protocol, port: address.port() }
            };
            HashMap::from([
                (of("10.96.0.1:80", Protocol::Tcp), v4),
                (of("[fd00:96::1]:80", Protocol::Tcp), v6),
                (of("198.51.100.1:80", Protocol::Tcp), others),
                (of("10.96.0.1:80", Protocol::Udp), others),
            ])
        };
        let mut counted = |before, after, seconds| {
            row.count(&before, &after, seconds);
            row.ports[0].connections.map(|one| (one.total, one.per_second))
        };
        assert_eq!(counted(counters(10, 5, 0), counters(40, 25, 900), 2.0), Some((65, 25.0)));
        assert_eq!(counted(counters(40, 25, 0), counters(40, 25, 0), 1.0), Some((65, 0.0)));
        // Whoever removed the table has the count begin at 0.
        assert_eq!(counted(counters(40, 25, 0), counters(1, 0, 0), 1.0), Some((1, 0.0)));
    }
}
