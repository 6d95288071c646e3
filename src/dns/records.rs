//! The shared store of cluster names.
//!
//! One writer (the agent's loop) replaces what is known of one Service at a time; any number of threads read. The maps are
//! cut into shards with a lock each: a change holds one shard for as long as it takes to swap a pointer, and a changed endpoint
//! copies its own Service, not ten thousand others.

use super::name::DomainName;
use super::service_record::{RecordKind, ServiceLabels, ServiceRecord, service_labels};
use crate::model::{Name, ObjectKey, Service, Slice};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{SystemTime, UNIX_EPOCH};

const SHARDS: usize = 32;

/// The names of the cluster; see the module's documentation.
#[derive(Debug)]
pub struct Records {
    zone: DomainName,
    ttl: u32,
    services: Sharded<ServiceLabels, Arc<ServiceRecord>>,
    reverse: Sharded<IpAddr, Claims>,
    namespaces: RwLock<HashSet<Box<[u8]>>>,
    name_server: RwLock<Vec<IpAddr>>,
    synced: AtomicBool,
    changed: AtomicU32,
}

impl Records {
    /// An empty store for a cluster domain; `ttl` in seconds goes with every record.
    ///
    /// # Panics
    /// When `domain` is no domain name: the configuration refuses such a domain.
    pub fn new(domain: &str, ttl: u32) -> Records {
        Records {
            zone: DomainName::parse(domain).expect("the configuration has checked the cluster domain").to_lower(),
            ttl,
            services: Sharded::default(),
            reverse: Sharded::default(),
            namespaces: RwLock::default(),
            name_server: RwLock::default(),
            synced: AtomicBool::new(false),
            changed: AtomicU32::new(unix_time()),
        }
    }

    /// Replaces everything known under `key`, reverse names included. Without a Service and slices the key is forgotten; slices
    /// without a Service have reverse names only.
    pub fn publish(&self, key: &ObjectKey, service: Option<&Service>, slices: &[&Slice]) {
        let Some(labels) = service_labels(key) else { return };
        let old = self.service(&labels);
        let new = ServiceRecord::new(key, service, slices).map(Arc::new);
        if old == new {
            return;
        }
        let before = old.as_ref().map(|record| record.addresses()).unwrap_or_default();
        let after = new.as_ref().map(|record| record.addresses()).unwrap_or_default();
        let labels = old.map(|record| record.labels.clone()).unwrap_or(labels);
        match new {
            Some(record) => drop(self.services.write(labels.as_ref()).insert(labels.clone(), record)),
            None => drop(self.services.write(labels.as_ref()).remove(labels.as_ref())),
        }
        self.move_claims(&labels, &before, &after);
        self.touch();
    }

    /// Notes that a namespace exists, or no longer does. Services in a missing namespace are answered all the same.
    pub fn set_namespace(&self, name: &Name, exists: bool) {
        let label = name.to_ascii_lowercase().into_bytes().into_boxed_slice();
        let mut namespaces = write(&self.namespaces);
        let changed = if exists { namespaces.insert(label) } else { namespaces.remove(&label) };
        drop(namespaces);
        if changed {
            self.touch();
        }
    }

    /// Notes that everything has been listed once: from now on what is unknown does not exist.
    pub fn set_synced(&self) {
        self.synced.store(true, Ordering::Release);
    }

    /// Whether everything has been listed once. Before, names that are known are answered, and a name that is not is a failure
    /// (SERVFAIL), never NXDOMAIN: resolvers would remember that.
    pub fn is_synced(&self) -> bool {
        self.synced.load(Ordering::Acquire)
    }

    /// The addresses under which `ns.dns.<zone>`, the zone's name server, is found: those on which DNS is served.
    pub fn set_name_server(&self, addresses: &[IpAddr]) {
        let distinct: BTreeSet<IpAddr> = addresses.iter().copied().filter(|address| !address.is_unspecified()).collect();
        *write(&self.name_server) = distinct.into_iter().collect();
    }

    /// The cluster domain, lower case.
    pub fn zone(&self) -> &DomainName {
        &self.zone
    }

    /// The TTL of records, seconds.
    pub fn ttl(&self) -> u32 {
        self.ttl
    }

    /// The zone's serial number: the Unix time of the last change.
    pub fn serial(&self) -> u32 {
        self.changed.load(Ordering::Relaxed)
    }

    /// How many Services (or slices without one) are known.
    pub fn service_count(&self) -> usize {
        self.services.shards.iter().map(|shard| read(shard).len()).sum()
    }

    pub(super) fn name_server(&self) -> Vec<IpAddr> {
        read(&self.name_server).clone()
    }

    pub(super) fn service(&self, labels: &[u8]) -> Option<Arc<ServiceRecord>> {
        self.services.read(labels).get(labels).cloned()
    }

    pub(super) fn has_namespace(&self, label: &[u8]) -> bool {
        read(&self.namespaces).contains(label)
    }

    /// The Services to which an address belongs, in the order of their names; the one whose ClusterIP it is stands alone.
    pub(super) fn services_at(&self, address: IpAddr) -> Vec<Arc<ServiceRecord>> {
        let labels: Vec<ServiceLabels> =
            self.reverse.read(&address).get(&address).map(|claims| claims.as_slice().to_vec()).unwrap_or_default();
        let mut records: Vec<_> = labels.iter().filter_map(|labels| self.service(labels)).collect();
        let owner = |record: &Arc<ServiceRecord>| record.kind == RecordKind::ClusterIp && record.cluster_ips.contains(&address);
        if let Some(owner) = records.iter().position(owner) {
            records = vec![records.swap_remove(owner)];
        }
        records
    }

    fn move_claims(&self, labels: &ServiceLabels, before: &BTreeSet<IpAddr>, after: &BTreeSet<IpAddr>) {
        for address in before.difference(after) {
            let mut shard = self.reverse.write(address);
            let last = shard.get_mut(address).is_some_and(|claims| claims.remove(labels));
            if last {
                shard.remove(address);
            }
        }
        for address in after.difference(before) {
            self.reverse.write(address).entry(*address).or_default().add(labels.clone());
        }
    }

    fn touch(&self) {
        self.changed.fetch_max(unix_time(), Ordering::Relaxed);
    }
}

/// The Services that claim an address: nearly always one, so that the common case needs no list.
#[derive(Debug, Default)]
enum Claims {
    #[default]
    None,
    One(ServiceLabels),
    Many(Vec<ServiceLabels>),
}

impl Claims {
    fn as_slice(&self) -> &[ServiceLabels] {
        match self {
            Claims::None => &[],
            Claims::One(labels) => std::slice::from_ref(labels),
            Claims::Many(list) => list,
        }
    }

    fn add(&mut self, labels: ServiceLabels) {
        let mut list = self.as_slice().to_vec();
        if let Err(place) = list.binary_search(&labels) {
            list.insert(place, labels);
        }
        *self = Claims::from(list);
    }

    /// Removes a claim and says whether none is left.
    fn remove(&mut self, labels: &ServiceLabels) -> bool {
        *self = Claims::from(self.as_slice().iter().filter(|claim| *claim != labels).cloned().collect::<Vec<_>>());
        matches!(self, Claims::None)
    }
}

impl From<Vec<ServiceLabels>> for Claims {
    fn from(mut list: Vec<ServiceLabels>) -> Claims {
        match list.len() {
            0 => Claims::None,
            1 => list.pop().map_or(Claims::None, Claims::One),
            _ => Claims::Many(list),
        }
    }
}

#[derive(Debug)]
struct Sharded<K, V> {
    hasher: RandomState,
    shards: [RwLock<HashMap<K, V>>; SHARDS],
}

impl<K, V> Default for Sharded<K, V> {
    fn default() -> Self {
        Sharded { hasher: RandomState::new(), shards: std::array::from_fn(|_| RwLock::default()) }
    }
}

impl<K, V> Sharded<K, V> {
    fn read<Q: Hash + ?Sized>(&self, key: &Q) -> RwLockReadGuard<'_, HashMap<K, V>> {
        read(&self.shards[self.shard(key)])
    }

    fn write<Q: Hash + ?Sized>(&self, key: &Q) -> RwLockWriteGuard<'_, HashMap<K, V>> {
        write(&self.shards[self.shard(key)])
    }

    fn shard<Q: Hash + ?Sized>(&self, key: &Q) -> usize {
        self.hasher.hash_one(key) as usize % SHARDS
    }
}

/// A poisoned lock still holds a whole map: every change is one insert or remove, so reading on is right.
fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

fn unix_time() -> u32 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Endpoint, Family, Policy, ServiceKind, ServiceOptions};

    fn slice(key: &ObjectKey, addresses: &[&str]) -> Slice {
        let endpoint = |address: &&str| Endpoint::at(address.parse().unwrap());
        let endpoints = addresses.iter().map(endpoint).collect();
        Slice {
            key: key.clone(),
            service: key.clone(),
            family: Family::V4,
            ports: Box::new([]),
            endpoints,
            headless: false,
            weight: 1,
            triggered: None,
        }
    }

    fn claimed(records: &Records) -> usize {
        records.reverse.shards.iter().map(|shard| read(shard).len()).sum()
    }

    #[test]
    fn addresses_that_nobody_has_any_more_take_no_memory() {
        let records = Records::new("cluster.local", 30);
        let (web, other) = (ObjectKey::new("default", "web"), ObjectKey::new("default", "other"));
        records.publish(&web, None, &[&slice(&web, &["10.0.0.1", "10.0.0.2"])]);
        records.publish(&other, None, &[&slice(&other, &["10.0.0.2"])]);
        assert_eq!(records.services_at("10.0.0.2".parse().unwrap()).len(), 2);
        records.publish(&web, None, &[&slice(&web, &["10.0.0.3"])]);
        assert_eq!(claimed(&records), 2);
        records.publish(&web, None, &[]);
        records.publish(&other, None, &[]);
        assert_eq!((claimed(&records), records.service_count()), (0, 0));
    }

    #[test]
    fn the_serial_number_stays_when_nothing_changes() {
        let records = Records::new("cluster.local", 30);
        let web = ObjectKey::new("default", "web");
        let service = Service {
            key: web.clone(),
            kind: ServiceKind::ClusterIp,
            cluster_ips: vec!["10.96.0.1".parse().unwrap()],
            external_ips: vec![],
            load_balancer_ips: vec![],
            source_ranges: vec![],
            ports: vec![],
            internal_policy: Policy::Cluster,
            external_policy: Policy::Cluster,
            affinity_seconds: None,
            health_check_node_port: 0,
            proxied: true,
            created: 0,
            options: ServiceOptions::default(),
        };
        records.publish(&web, Some(&service), &[]);
        records.set_namespace(&"default".into(), true);
        records.changed.store(7, Ordering::Relaxed);
        records.publish(&web, Some(&service), &[]);
        records.set_namespace(&"default".into(), true);
        assert_eq!(records.serial(), 7);
        records.set_namespace(&"default".into(), false);
        assert!(records.serial() > 7);
    }
}
