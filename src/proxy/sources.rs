//! Who may connect to an address of a Service.

use super::{Context, Sources};
use crate::model::{AddressKind, Family, Service};
use ipnet::IpNet;

/// Who may connect to the addresses of one kind in one family; `None` means everybody.
pub fn of(service: &Service, kind: AddressKind, family: Family, context: &Context) -> Option<Box<Sources>> {
    let sources = Sources { allowed: allowed(service, kind, family, context), denied: denied(service, family) };
    (sources != Sources::default()).then(|| Box::new(sources))
}

/// Who may connect to the addresses of one kind in one family, merged so that no two networks overlap; `None` means everybody.
///
/// `loadBalancerSourceRanges` count for load balancer addresses only, `waypost.dev/allowed-sources` for every address; where both are given both
/// must be met.
fn allowed(service: &Service, kind: AddressKind, family: Family, context: &Context) -> Option<Vec<IpNet>> {
    let ranges = if kind == AddressKind::LoadBalancer { load_balancer_ranges(service, family) } else { None };
    let annotated = service.options.allowed_sources.as_deref().and_then(|networks| unless_everybody(networks, family));
    let mut allowed = match (ranges, annotated) {
        (None, None) => return None,
        (Some(one), None) | (None, Some(one)) => one,
        (Some(one), Some(other)) => intersection(&one, &other),
    };
    // A node that owns the address uses it as its source when it connects to itself.
    let from_node = context.node_addresses.iter().any(|address| allowed.iter().any(|network| network.contains(address)));
    if from_node {
        let own = service.addresses(kind).iter().filter(|address| Family::of(**address) == family);
        allowed.extend(own.map(|address| IpNet::from(*address)));
    }
    Some(IpNet::aggregate(&allowed))
}

/// Who may not connect, whoever else may: `waypost.dev/denied-sources`, merged.
fn denied(service: &Service, family: Family) -> Vec<IpNet> {
    IpNet::aggregate(&of_family(&service.options.denied_sources, family))
}

/// A range of /0 lifts every restriction of its family, and none other. A family that has no range of its own while the other has is closed
/// (kube-proxy leaves it open), but not by a /0, which is no restriction.
fn load_balancer_ranges(service: &Service, family: Family) -> Option<Vec<IpNet>> {
    let own = of_family(&service.source_ranges, family);
    let deciding = if own.is_empty() { &service.source_ranges } else { &own };
    let is_open = deciding.is_empty() || deciding.iter().any(|range| range.prefix_len() == 0);
    (!is_open).then_some(own)
}

/// The family's networks; `None` when they are all of the family.
fn unless_everybody(networks: &[IpNet], family: Family) -> Option<Vec<IpNet>> {
    let own = of_family(networks, family);
    (!own.iter().any(|network| network.prefix_len() == 0)).then_some(own)
}

fn of_family(networks: &[IpNet], family: Family) -> Vec<IpNet> {
    networks.iter().filter(|network| Family::of(network.addr()) == family).map(IpNet::trunc).collect()
}

/// What is in a network of each list. Of two networks that meet, one contains the other.
fn intersection(one: &[IpNet], other: &[IpNet]) -> Vec<IpNet> {
    let meet = |a: &IpNet, b: &IpNet| match (a.contains(b), b.contains(a)) {
        (true, _) => Some(*b),
        (_, true) => Some(*a),
        _ => None,
    };
    one.iter().flat_map(|a| other.iter().filter_map(move |b| meet(a, b))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ObjectKey, ServiceKind, ServiceOptions};

    fn networks(text: &str) -> Vec<IpNet> {
        text.split_whitespace().map(|network| network.parse().unwrap()).collect()
    }

    fn service(ranges: &str, allowed: Option<&str>, denied: &str) -> Service {
        Service {
            cluster_ips: vec!["10.96.0.1".parse().unwrap()],
            external_ips: vec!["198.51.100.1".parse().unwrap()],
            load_balancer_ips: vec!["198.51.100.2".parse().unwrap()],
            source_ranges: networks(ranges),
            options: ServiceOptions {
                allowed_sources: allowed.map(|text| networks(text).into()),
                denied_sources: networks(denied).into(),
                ..ServiceOptions::default()
            },
            ..Service::of_kind(ObjectKey::new("shop", "web"), ServiceKind::ClusterIp)
        }
    }

    fn allowed_to(service: &Service, kind: AddressKind, family: Family) -> Option<Vec<String>> {
        let context = Context { node_addresses: vec!["192.0.2.10".parse().unwrap()], ..Context::default() };
        let found = allowed(service, kind, family, &context)?;
        Some(found.iter().map(ToString::to_string).collect())
    }

    fn list(texts: &[&str]) -> Option<Vec<String>> {
        Some(texts.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn load_balancer_ranges_close_a_family_without_one_unless_one_is_everybody() {
        use AddressKind::{ClusterIp, ExternalIp, LoadBalancer, NodePort};
        let ranged = service("203.0.113.0/25 203.0.113.128/25", None, "");
        assert_eq!(allowed_to(&ranged, LoadBalancer, Family::V4), list(&["203.0.113.0/24"]));
        assert_eq!(allowed_to(&ranged, LoadBalancer, Family::V6), list(&[]));
        for kind in [ClusterIp, ExternalIp, NodePort] {
            assert_eq!(allowed_to(&ranged, kind, Family::V4), None);
        }
        for open in ["203.0.113.0/24 0.0.0.0/0", "::/0", ""] {
            assert_eq!(allowed_to(&service(open, None, ""), LoadBalancer, Family::V4), None, "{open}");
        }
        let other_family = service("203.0.113.0/24 ::/0", None, "");
        assert_eq!(allowed_to(&other_family, LoadBalancer, Family::V4), list(&["203.0.113.0/24"]));
    }

    #[test]
    fn the_annotation_holds_for_every_address_and_each_family_for_itself() {
        for kind in [AddressKind::ClusterIp, AddressKind::LoadBalancer, AddressKind::ExternalIp, AddressKind::NodePort] {
            let of = |allowed, family| allowed_to(&service("", Some(allowed), ""), kind, family);
            assert_eq!(of("10.244.0.0/16", Family::V4), list(&["10.244.0.0/16"]));
            assert_eq!(of("10.244.0.0/16", Family::V6), list(&[]));
            assert_eq!(of("0.0.0.0/0", Family::V4), None);
            assert_eq!(of("0.0.0.0/0", Family::V6), list(&[]));
            assert_eq!(of("", Family::V4), list(&[]), "an empty list is nobody");
        }
    }

    #[test]
    fn load_balancer_addresses_ask_for_both_lists() {
        let of = |ranges, allowed| allowed_to(&service(ranges, Some(allowed), ""), AddressKind::LoadBalancer, Family::V4);
        assert_eq!(of("203.0.113.0/24 10.0.0.0/8", "203.0.113.64/26 172.16.0.0/12"), list(&["203.0.113.64/26"]));
        assert_eq!(of("203.0.113.64/26", "203.0.113.0/24"), list(&["203.0.113.64/26"]));
        assert_eq!(of("203.0.113.0/24", "198.18.0.0/15"), list(&[]));
        assert_eq!(of("0.0.0.0/0", "198.18.0.0/15"), list(&["198.18.0.0/15"]));
        assert_eq!(of("192.0.2.0/24", "0.0.0.0/0"), list(&["192.0.2.0/24", "198.51.100.2/32"]), "the node's own connections");
    }

    #[test]
    fn who_is_denied_is_told_by_family() {
        let both = service("", None, "203.0.113.0/25 203.0.113.128/25 2001:db8::/32");
        assert_eq!(denied(&both, Family::V4), networks("203.0.113.0/24"));
        assert_eq!(denied(&both, Family::V6), networks("2001:db8::/32"));
    }
}
