//! Objects of a made-up cluster.

use std::net::{IpAddr, Ipv4Addr};
use waypost::model::{
    Endpoint, Family, Interner, Name, ObjectKey, Policy, Protocol, Service, ServiceKind, ServiceOptions, ServicePort, Slice,
    SlicePort,
};

/// Endpoints lie on so many nodes.
const NODES: u32 = 5000;
/// `maxEndpointsPerSlice` of the EndpointSlice controller.
const SLICE: u32 = 100;

/// The key of a Service.
pub fn key(names: &mut Interner, number: u32) -> ObjectKey {
    ObjectKey { namespace: names.intern("shop"), name: names.intern(&format!("service-{number}")) }
}

/// A Service with one port.
pub fn service(names: &mut Interner, number: u32) -> Service {
    let port = ServicePort { name: names.intern("http"), protocol: Protocol::Tcp, port: 80, node_port: 0 };
    Service {
        key: key(names, number),
        kind: ServiceKind::ClusterIp,
        cluster_ips: vec![address(0x0a60_0000 + number)],
        external_ips: vec![],
        load_balancer_ips: vec![],
        source_ranges: vec![],
        ports: vec![port],
        internal_policy: Policy::Cluster,
        external_policy: Policy::Cluster,
        affinity_seconds: None,
        health_check_node_port: 0,
        proxied: true,
        created: i64::from(number),
        options: ServiceOptions::default(),
        labels: None,
    }
}

/// Its slices.
pub fn slices(names: &mut Interner, number: u32, endpoints: u32) -> impl Iterator<Item = Slice> {
    let service = key(names, number);
    let port = SlicePort { name: names.intern("http"), protocol: Protocol::Tcp, port: 8080 };
    let nodes: Vec<Name> =
        (0..endpoints).map(|endpoint| names.intern(&format!("node-{}", (number + endpoint) % NODES))).collect();
    (0..endpoints.div_ceil(SLICE)).map(move |part| {
        let of_part = part * SLICE..endpoints.min((part + 1) * SLICE);
        let endpoint = |at: u32| Endpoint {
            node: nodes.get(at as usize).cloned(),
            ..Endpoint::at(address(0x0a80_0000 + number * endpoints + at))
        };
        Slice {
            key: ObjectKey { namespace: service.namespace.clone(), name: format!("{}-{part}", service.name).into() },
            service: service.clone(),
            family: Family::V4,
            ports: [port.clone()].into(),
            endpoints: of_part.map(endpoint).collect(),
            headless: false,
            weight: 1,
            triggered: None,
            details: None,
        }
    })
}

/// An address by its number.
pub fn address(number: u32) -> IpAddr {
    Ipv4Addr::from(number).into()
}
