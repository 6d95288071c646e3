//! How cluster names are answered: which zones, which of the cluster's objects, and what becomes of names that it does not have.
//!
//! One store of records can be shown in several ways, because server blocks may have different settings (CoreDNS's plugin kubernetes), and because
//! the settings may change while the records stay.

use super::name::DomainName;
use crate::model::Selector;
use std::collections::BTreeSet;

/// The settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The zones of services and pods, lower case. The first one is that of the names at addresses.
    pub zones: Vec<DomainName>,
    /// Those of the zones that have the services of other clusters instead (KEP-1645), lower case.
    pub multicluster: Vec<DomainName>,
    /// The reverse zones, lower case.
    pub reverse: Vec<DomainName>,
    /// A name below one of these that the cluster does not have is asked elsewhere (`fallthrough`), lower case.
    pub falls_through: Vec<DomainName>,
    /// TTL of the records, seconds.
    pub ttl: u32,
    /// Names of pods.
    pub pods: PodNames,
    /// Only these namespaces are shown, by their labels in lower case; empty: all.
    pub namespaces: BTreeSet<Box<[u8]>>,
    /// Only namespaces with such labels are shown; `None`: all.
    pub namespace_labels: Option<Selector>,
    /// Only services, endpoint slices and pods with such labels are shown; `None`: all.
    pub labels: Option<Selector>,
    /// Whether endpoints have names and addresses (false: `noendpoints`).
    pub endpoints: bool,
    /// Whether endpoints without a host name are named by their pod (`endpoint_pod_names`).
    pub pod_names: bool,
    /// Whether headless services have names for each zone of the nodes (`zonal`).
    pub zonal: bool,
    /// Whether a service with an address but without a ready endpoint exists (false: `ignore empty_service`).
    pub empty_services: bool,
}

/// What names such as `10-0-0-1.default.pod.cluster.local` are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodNames {
    /// There are none.
    Disabled,
    /// They have the address that they spell, if the namespace exists.
    Insecure,
    /// They have the address that they spell, if a pod of the namespace has it.
    Verified,
}

impl Shape {
    /// As kubeadm's Corefile has it: names of pods, and reverse names that the cluster does not have are asked elsewhere.
    pub fn new(zone: DomainName, ttl: u32) -> Shape {
        let reverse: Vec<DomainName> = ["in-addr.arpa", "ip6.arpa"].into_iter().filter_map(DomainName::parse).collect();
        Shape {
            zones: vec![zone],
            multicluster: Vec::new(),
            falls_through: reverse.clone(),
            reverse,
            ttl,
            pods: PodNames::Insecure,
            namespaces: BTreeSet::new(),
            namespace_labels: None,
            labels: None,
            endpoints: true,
            pod_names: false,
            zonal: false,
            empty_services: true,
        }
    }

    /// The longest of the zones that this name (in wire form, lower case) belongs to.
    pub fn zone_of(&self, name: &[u8]) -> Option<&DomainName> {
        longest(&self.zones, name)
    }

    /// The same among the reverse zones.
    pub fn reverse_zone_of(&self, name: &[u8]) -> Option<&DomainName> {
        longest(&self.reverse, name)
    }

    /// Whether this name is asked elsewhere if the cluster does not have it.
    pub fn lets_through(&self, name: &[u8]) -> bool {
        self.falls_through.iter().any(|zone| zone.is_above(name))
    }

    /// Whether some objects are not shown.
    pub fn selects(&self) -> bool {
        self.labels.is_some() || self.namespace_labels.is_some() || !self.namespaces.is_empty()
    }

    /// Whether this namespace, by its name in lower case, is shown, as far as names go.
    pub fn shows(&self, namespace: &[u8]) -> bool {
        self.namespaces.is_empty() || self.namespaces.contains(namespace)
    }
}

fn longest<'a>(zones: &'a [DomainName], name: &[u8]) -> Option<&'a DomainName> {
    zones.iter().filter(|zone| zone.is_above(name)).max_by_key(|zone| zone.as_wire().len())
}
