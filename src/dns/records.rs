//! The shared store of cluster names.
//!
//! One writer (the agent's loop) replaces what is known of one Service at a time; any number of threads read, and none of them waits: the maps
//! are lock-free, and what a reader may still look at is freed when it is through. A changed endpoint copies its own Service, not ten thousand
//! others.

use super::name::DomainName;
use super::reverse::{PinnedReverse, Reverse};
use super::service_record::{RecordKind, ServiceLabels, ServiceRecord, Shown, service_labels};
use super::shape::Shape;
use crate::model::{Import, ImportedSlice, Marks, Name, ObjectKey, Service, Slice};
use crate::store::PodMove;
use papaya::{HashMapRef, LocalGuard};
use std::collections::BTreeSet;
use std::hash::RandomState;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

/// The names of the cluster; see the module's documentation.
#[derive(Debug)]
pub struct Records {
    shape: Shape,
    services: Services,
    /// What readers see in their place while they are held back.
    nothing: Services,
    held_back: AtomicBool,
    /// Services of other clusters: names of zones of their own.
    imports: papaya::HashMap<ServiceLabels, ServiceRecord>,
    imports_listed: AtomicBool,
    /// With their labels, where they are known.
    namespaces: papaya::HashMap<Box<[u8]>, Option<Arc<Marks>>>,
    /// Who is at an address: nearly always one pod.
    pods: papaya::HashMap<IpAddr, Box<[Pods]>>,
    pods_listed: AtomicBool,
    name_server: RwLock<Vec<IpAddr>>,
    synced: AtomicBool,
    changed: AtomicU32,
}

/// Services, and who has names at an address.
#[derive(Debug, Default)]
struct Services {
    by_labels: papaya::HashMap<ServiceLabels, ServiceRecord>,
    reverse: Reverse,
}

/// Pods of a namespace with the same labels at the same address.
#[derive(Clone, Debug)]
struct Pods {
    namespace: Name,
    labels: Option<Arc<Marks>>,
    count: u32,
}

/// Nobody can say yet: what decides it is not known.
#[derive(Debug)]
pub struct Unheard;

type Pinned<'a, K, V> = HashMapRef<'a, K, V, RandomState, LocalGuard<'a>>;

/// A look at the records that borrows what it finds. It keeps everything from being freed that it might have seen: hold it for one question, or
/// a few.
#[derive(Debug)]
pub struct View<'a> {
    records: &'a Records,
    shape: &'a Shape,
    zone: &'a DomainName,
    is_synced: bool,
    is_multicluster: bool,
    services: Pinned<'a, ServiceLabels, ServiceRecord>,
    reverse: PinnedReverse<'a>,
    namespaces: Pinned<'a, Box<[u8]>, Option<Arc<Marks>>>,
}

impl Records {
    /// An empty store for a cluster domain; `ttl` in seconds goes with every record.
    ///
    /// # Panics
    /// When `domain` is no domain name: the configuration refuses such a domain.
    pub fn new(domain: &str, ttl: u32) -> Records {
        Records {
            shape: Shape::new(
                DomainName::parse(domain).expect("the configuration has checked the cluster domain").to_lower(),
                ttl,
            ),
            services: Services::default(),
            nothing: Services::default(),
            held_back: AtomicBool::new(false),
            imports: papaya::HashMap::new(),
            imports_listed: AtomicBool::new(false),
            namespaces: papaya::HashMap::new(),
            pods: papaya::HashMap::new(),
            pods_listed: AtomicBool::new(false),
            name_server: RwLock::default(),
            synced: AtomicBool::new(false),
            changed: AtomicU32::new(unix_time()),
        }
    }

    /// Begins to read, in the shape that the records were made with.
    pub fn view(&self) -> View<'_> {
        self.view_as(&self.shape, &self.shape.zones[0])
    }

    /// Begins to read in this shape, and in one of its zones.
    pub fn view_as<'a>(&'a self, shape: &'a Shape, zone: &'a DomainName) -> View<'a> {
        let is_multicluster = shape.multicluster.contains(zone);
        // First: what had everything by then has nothing held back any more, and a name that this view does not find is not there.
        let is_synced = self.is_synced();
        let visible = if self.held_back.load(Ordering::Acquire) { &self.nothing } else { &self.services };
        let services = if is_multicluster { self.imports.pin() } else { visible.by_labels.pin() };
        let (reverse, namespaces) = (visible.reverse.pin(), self.namespaces.pin());
        View { records: self, shape, zone, is_synced, is_multicluster, services, reverse, namespaces }
    }

    /// The shape that they were made with: one zone.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Holds back what is published of Services, until [`Records::show`]: so their names can be put in while their rules are being committed.
    pub fn hold_back(&self) {
        self.held_back.store(true, Ordering::Release);
    }

    /// Whether what is published of Services is held back.
    pub fn are_held_back(&self) -> bool {
        self.held_back.load(Ordering::Acquire)
    }

    /// From now on all that is published is seen, at once.
    pub fn show(&self) {
        self.held_back.store(false, Ordering::Release);
    }

    /// Replaces everything known under `key`, reverse names included. Without a Service and slices the key is forgotten; slices
    /// without a Service have reverse names only.
    pub fn publish(&self, key: &ObjectKey, service: Option<&Service>, slices: &[&Slice]) {
        let Some(labels) = service_labels(key) else { return };
        let services = self.services.by_labels.pin();
        let old = services.get(labels.as_ref());
        // Names and addresses keep the labels that they began with.
        let labels = old.map(|record| record.labels.clone()).unwrap_or(labels);
        let new = ServiceRecord::new(key, service, slices).map(|record| ServiceRecord { labels: labels.clone(), ..record });
        if old == new.as_ref() {
            // Nothing is answered otherwise, but it shares the endpoints that the store has now: those before would stay in memory beside them.
            if let Some(record) = new {
                services.insert(labels, record);
            }
            return;
        }
        let before = old.map(ServiceRecord::addresses).unwrap_or_default();
        let after = new.as_ref().map(ServiceRecord::addresses).unwrap_or_default();
        match new {
            Some(record) => drop(services.insert(labels.clone(), record)),
            None => drop(services.remove(labels.as_ref())),
        }
        self.services.reverse.move_service(&labels, &before, &after);
        self.touch();
    }

    /// Notes that a namespace exists, with its labels where they are known, or no longer does. Services in a missing namespace are answered all the
    /// same.
    pub fn set_namespace(&self, name: &Name, exists: bool, labels: Option<&Arc<Marks>>) {
        let label = name.to_ascii_lowercase().into_bytes().into_boxed_slice();
        let namespaces = self.namespaces.pin();
        let changed = match exists {
            true => namespaces.insert(label, labels.cloned()).is_none_or(|before| before.as_ref() != labels),
            false => namespaces.remove(&label).is_some(),
        };
        if changed {
            self.touch();
        }
    }

    /// Replaces everything known of a service of other clusters.
    pub fn publish_import(&self, key: &ObjectKey, import: Option<&Import>, slices: &[&ImportedSlice]) {
        let Some(labels) = service_labels(key) else { return };
        let imports = self.imports.pin();
        match ServiceRecord::of_import(key, import, slices) {
            Some(record) => drop(imports.insert(labels, record)),
            None => drop(imports.remove(labels.as_ref())),
        }
        self.touch();
    }

    /// Notes whether all services of other clusters are known, with their slices: then one that is not does not exist.
    pub fn set_imports_listed(&self, are_listed: bool) {
        self.imports_listed.store(are_listed, Ordering::Release);
    }

    /// Notes that a pod has got or lost an address.
    pub fn move_pod(&self, pod: &PodMove) {
        let pods = self.pods.pin();
        let mut at: Vec<Pods> = pods.get(&pod.address).map(|at| at.to_vec()).unwrap_or_default();
        let are_alike = |known: &Pods| known.namespace == pod.namespace && known.labels == pod.labels;
        match (at.iter().position(are_alike), pod.is_there) {
            (Some(place), true) => at[place].count += 1,
            (Some(place), false) if at[place].count > 1 => at[place].count -= 1,
            (Some(place), false) => drop(at.remove(place)),
            (None, true) => at.push(Pods { namespace: pod.namespace.clone(), labels: pod.labels.clone(), count: 1 }),
            (None, false) => {}
        }
        if at.is_empty() {
            pods.remove(&pod.address);
        } else {
            pods.insert(pod.address, at.into());
        }
        self.touch();
    }

    /// Notes whether all pods are known: then one that is not does not exist.
    pub fn set_pods_listed(&self, are_listed: bool) {
        self.pods_listed.store(are_listed, Ordering::Release);
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
        *self.name_server.write().unwrap_or_else(PoisonError::into_inner) = distinct.into_iter().collect();
    }

    /// The zone's serial number: the Unix time of the last change.
    pub fn serial(&self) -> u32 {
        self.changed.load(Ordering::Relaxed)
    }

    /// How many Services (or slices without one) are known.
    pub fn service_count(&self) -> usize {
        self.services.by_labels.len()
    }

    pub(super) fn name_server(&self) -> Vec<IpAddr> {
        self.name_server.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn touch(&self) {
        self.changed.fetch_max(unix_time(), Ordering::Relaxed);
    }
}

impl View<'_> {
    /// The records that are looked at.
    pub(super) fn records(&self) -> &Records {
        self.records
    }

    /// Whether what it does not find does not exist: everything had been listed when it was begun.
    pub(super) fn is_synced(&self) -> bool {
        self.is_synced
    }

    /// How they are shown.
    pub(super) fn shape(&self) -> &Shape {
        self.shape
    }

    /// The zone that is looked at, lower case.
    pub(super) fn zone(&self) -> &DomainName {
        self.zone
    }

    /// The TTL of records, seconds.
    pub(super) fn ttl(&self) -> u32 {
        self.shape.ttl
    }

    /// Whether the zone is one of services of other clusters.
    pub(super) fn is_multicluster(&self) -> bool {
        self.is_multicluster
    }

    /// Whether a service that is not known does not exist.
    fn knows_all_services(&self) -> bool {
        !self.is_multicluster || self.records.imports_listed.load(Ordering::Acquire)
    }

    /// The service of these labels, if the shape shows it.
    pub(super) fn service(&self, labels: &[u8]) -> Result<Option<Shown<'_>>, Unheard> {
        let Some(record) = self.services.get(labels) else {
            return if self.knows_all_services() { Ok(None) } else { Err(Unheard) };
        };
        let shown = Shown::new(record, self.shape);
        if !self.shape.selects() {
            return Ok(Some(shown));
        }
        let is_shown = self.is_chosen(record)? && self.shows_namespace(record.namespace())?;
        if is_shown && !shown.is_known() { Err(Unheard) } else { Ok(Some(shown).filter(|_| is_shown)) }
    }

    /// Whether the Service's own labels are those of services that are shown.
    fn is_chosen(&self, record: &ServiceRecord) -> Result<bool, Unheard> {
        match (&self.shape.labels, &record.marks) {
            // A ServiceImport is shown whatever its labels, as in CoreDNS.
            (Some(selector), Some(marks)) if !self.is_multicluster => selector.judges(marks).ok_or(Unheard),
            // Slices alone have names at their addresses, by their own labels.
            (Some(_), None) if !self.is_multicluster && record.kind != RecordKind::SlicesOnly => Err(Unheard),
            _ => Ok(true),
        }
    }

    /// Whether the namespace exists, and is shown.
    pub(super) fn has_namespace(&self, label: &[u8]) -> Result<bool, Unheard> {
        Ok(self.namespaces.contains_key(label) && self.shows_namespace(label)?)
    }

    /// Whether names of this namespace are shown.
    fn shows_namespace(&self, label: &[u8]) -> Result<bool, Unheard> {
        let Some(selector) = self.shape.namespace_labels.as_ref() else { return Ok(self.shape.shows(label)) };
        match self.namespaces.get(label) {
            Some(Some(marks)) => Ok(self.shape.shows(label) && selector.judges(marks).ok_or(Unheard)?),
            Some(None) => Err(Unheard),
            None => Ok(false),
        }
    }

    /// Whether a pod of the namespace (a label in lower case) has this address.
    pub(super) fn has_pod(&self, namespace: &[u8], address: IpAddr) -> Result<bool, Unheard> {
        let pods = self.records.pods.pin();
        let mut unheard = !self.records.pods_listed.load(Ordering::Acquire);
        let mut is_one = |pods: &Pods| match &self.shape.labels {
            _ if pods.namespace.as_bytes() != namespace => false,
            None => true,
            Some(selector) => pods.labels.as_ref().and_then(|marks| selector.judges(marks)).unwrap_or_else(|| {
                unheard = true;
                false
            }),
        };
        let is_there = pods.get(&address).is_some_and(|at| at.iter().any(&mut is_one));
        if is_there || !unheard { Ok(is_there) } else { Err(Unheard) }
    }

    /// The namespace of the pods at this address, if they are all of one.
    pub(super) fn namespace_of_pods_at(&self, address: IpAddr) -> Option<Name> {
        let pods = self.records.pods.pin();
        let (first, others) = pods.get(&address)?.split_first()?;
        others.iter().all(|other| other.namespace == first.namespace).then(|| first.namespace.clone())
    }

    /// The Services with names at an address, in the order of their names, and whether it is the Service's own: such a one stands alone. Endpoints are chosen
    /// by the labels of their slices, whatever those of their Service (CoreDNS's `reverse.go`).
    pub(super) fn named_at(&self, address: IpAddr) -> Result<impl Iterator<Item = (Shown<'_>, bool)>, Unheard> {
        let claims = self.reverse.at(address);
        let found = move || claims.clone().filter_map(|labels| self.services.get(labels.as_ref()));
        let (mut owner, mut unheard) = (None, false);
        for record in found() {
            let is_own = record.kind == RecordKind::ClusterIp && record.cluster_ips.contains(&address);
            let is_shown = match self.shows_namespace(record.namespace()) {
                Ok(true) if is_own => self.is_chosen(record),
                Ok(true) => Shown::new(record, self.shape).knows_endpoints_at(address).then_some(false).ok_or(Unheard),
                other => other,
            };
            match is_shown {
                Ok(true) => {
                    owner = Some(record);
                    break;
                }
                Ok(false) => {}
                Err(Unheard) => unheard = true,
            }
        }
        if owner.is_none() && unheard {
            return Err(Unheard);
        }
        let is_owner = move |record: &ServiceRecord| owner.is_some_and(|owner| std::ptr::eq(owner, record));
        let others = move |record: &&ServiceRecord| match owner {
            Some(_) => is_owner(record),
            None => self.shows_namespace(record.namespace()).is_ok_and(|is_shown| is_shown),
        };
        Ok(found().filter(others).map(move |record| (Shown::new(record, self.shape), is_owner(record))))
    }

    /// The Services to which an address belongs, in the order of their names; the one whose ClusterIP it is stands alone. Those of which it is not known
    /// whether they are shown are left out.
    pub(super) fn services_at(&self, address: IpAddr) -> impl Iterator<Item = Shown<'_>> {
        let claims = self.reverse.at(address);
        let found = move || claims.clone().filter_map(|labels| self.service(labels).ok()?);
        let owner = found().find(move |shown| shown.kind == RecordKind::ClusterIp && shown.cluster_ips.contains(&address));
        found().filter(move |shown| owner.is_none_or(|owner| std::ptr::eq(owner.record(), shown.record())))
    }
}

fn unix_time() -> u32 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Endpoint, Family, ServiceKind};

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
            details: None,
        }
    }

    fn claimed(records: &Records) -> usize {
        records.services.reverse.claims()
    }

    #[test]
    fn addresses_that_nobody_has_any_more_take_no_memory() {
        let records = Records::new("cluster.local", 30);
        let (web, other) = (ObjectKey::new("default", "web"), ObjectKey::new("default", "other"));
        records.publish(&web, None, &[&slice(&web, &["10.0.0.1", "10.0.0.2"])]);
        records.publish(&other, None, &[&slice(&other, &["10.0.0.2"])]);
        assert_eq!(records.view().services_at("10.0.0.2".parse().unwrap()).count(), 2);
        records.publish(&web, None, &[&slice(&web, &["10.0.0.3"])]);
        assert_eq!(claimed(&records), 2);
        records.publish(&web, None, &[]);
        records.publish(&other, None, &[]);
        assert_eq!((claimed(&records), records.service_count()), (0, 0));
    }

    #[test]
    fn what_is_held_back_is_seen_by_nobody_and_then_all_at_once() {
        let records = Records::new("cluster.local", 30);
        let web = ObjectKey::new("default", "web");
        let labels = service_labels(&web).unwrap();
        let address = "10.0.0.1".parse().unwrap();
        records.hold_back();
        records.publish(&web, None, &[&slice(&web, &["10.0.0.1"])]);
        let seen = || {
            let view = records.view();
            (
                matches!(view.service(&labels), Ok(Some(_))),
                view.services_at(address).count(),
                view.named_at(address).unwrap().count(),
            )
        };
        assert_eq!((seen(), records.service_count()), ((false, 0, 0), 1));
        let begun_before = records.view();
        records.show();
        records.set_synced();
        assert!(!begun_before.is_synced(), "it does not find what is there now, and must not say that it does not exist");
        assert!(records.view().is_synced());
        assert_eq!(seen(), (true, 1, 1));
    }

    #[test]
    fn the_endpoints_are_those_that_the_store_has_now() {
        let records = Records::new("cluster.local", 30);
        let web = ObjectKey::new("default", "web");
        for _ in 0..2 {
            // The second time they are equal, as after a change that DNS does not know.
            let stored = slice(&web, &["10.0.0.1", "10.0.0.2"]);
            records.publish(&web, None, &[&stored]);
            assert_eq!(Arc::strong_count(&stored.endpoints), 2, "the store and DNS");
        }
    }

    #[test]
    fn the_serial_number_stays_when_nothing_changes() {
        let records = Records::new("cluster.local", 30);
        let web = ObjectKey::new("default", "web");
        let cluster_ips = vec!["10.96.0.1".parse().unwrap()];
        let service = Service { cluster_ips, ..Service::of_kind(web.clone(), ServiceKind::ClusterIp) };
        records.publish(&web, Some(&service), &[]);
        records.set_namespace(&"default".into(), true, None);
        records.changed.store(7, Ordering::Relaxed);
        records.publish(&web, Some(&service), &[]);
        records.set_namespace(&"default".into(), true, None);
        assert_eq!(records.serial(), 7);
        records.set_namespace(&"default".into(), false, None);
        assert!(records.serial() > 7);
    }
}
