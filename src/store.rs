//! The one state: every object of the cluster that matters here, and what has changed since it was last asked.
//!
//! One owner (the agent's loop) applies [`Update`]s and takes the dirty keys. Listings may be repeated at any time: what a new
//! listing does not mention is gone, which is how deletions survive a lost watch.

use crate::model::{
    Details, Family, Import, ImportedSlice, Kind, Marks, Name, Node, ObjectKey, Service, Slice, SliceKey, Update,
};
use ipnet::IpNet;
use siphasher::sip128::{Hasher128, SipHasher13};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

/// Services, slices, namespaces and the node.
#[derive(Debug, Default)]
pub struct Store {
    /// Boxed, because a map makes room for nearly twice as many as it holds.
    services: HashMap<ObjectKey, Listed<Box<Service>>>,
    /// Slices by service, in the order of their own keys, so that a service's slices are found without a scan. Most services have one, for
    /// which a tree would make room for eleven.
    slices: HashMap<ObjectKey, Vec<Listed<Slice>>>,
    slice_owner: HashMap<SliceKey, ObjectKey>,
    namespaces: HashMap<Name, Listed<Option<Arc<Marks>>>>,
    node: Option<Listed<Node>>,
    service_cidrs: BTreeMap<Name, Listed<Box<[IpNet]>>>,
    pods: HashMap<PodDigest, Listed<Pod>>,
    imports: HashMap<ObjectKey, Listed<Import>>,
    imported_slices: BTreeMap<(ObjectKey, SliceKey), Listed<ImportedSlice>>,
    imported_slice_owner: HashMap<SliceKey, ObjectKey>,
    listing: [Listing; Kind::COUNT],
    dirty: Dirty,
}

/// A digest of a pod's namespace and name: there may be a hundred thousand pods, and nobody asks for their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct PodDigest(u128);

/// What is known of a pod.
#[derive(Debug, PartialEq, Eq)]
struct Pod {
    namespace: Name,
    addresses: Box<[IpAddr]>,
    labels: Option<Arc<Marks>>,
}

/// A value and the number of the listing that mentioned it last.
#[derive(Debug)]
struct Listed<T> {
    value: T,
    listing: u32,
}

#[derive(Clone, Debug, Default)]
struct Listing {
    number: u32,
    under_way: bool,
    complete_once: bool,
    /// What the one under way tells of each object.
    tells: Details,
    /// What the last complete one has told.
    told: Details,
}

/// What has changed since [`Store::take_dirty`] was last called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dirty {
    /// Services whose own object or slices changed.
    pub services: BTreeSet<ObjectKey>,
    /// Namespaces that appeared or disappeared, or whose labels changed.
    pub namespaces: BTreeSet<Name>,
    /// The node changed.
    pub node: bool,
    /// A network of service addresses came or went.
    pub service_cidrs: bool,
    /// Addresses that pods have got or lost, in this order. Two pods of a namespace may have the same one, that of their node.
    pub pods: Vec<PodMove>,
    /// ServiceImports that changed themselves, or whose slices did.
    pub imports: BTreeSet<ObjectKey>,
    /// When the changes of slices were triggered, by service; of each slice that changed since.
    pub triggers: BTreeMap<ObjectKey, Vec<Trigger>>,
}

/// What made a controller write a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trigger {
    /// The slice's family.
    pub family: Family,
    /// When a pod or Service changed.
    pub time: SystemTime,
    /// Whether the slice says that its Service is headless: nothing is programmed for it.
    pub headless: bool,
}

/// A pod that has got or lost an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodMove {
    /// Its namespace.
    pub namespace: Name,
    /// The address.
    pub address: IpAddr,
    /// The pod's labels, where they are known.
    pub labels: Option<Arc<Marks>>,
    /// Whether it has it now.
    pub is_there: bool,
}

impl Dirty {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty() && self.is_empty_but_for_pods()
    }

    /// Whether pods changed and nothing else did.
    pub fn is_of_pods_alone(&self) -> bool {
        !self.pods.is_empty() && self.is_empty_but_for_pods()
    }

    fn is_empty_but_for_pods(&self) -> bool {
        self.services.is_empty() && self.namespaces.is_empty() && !self.node && !self.service_cidrs && self.imports.is_empty()
    }
}

impl Store {
    /// Applies one update.
    pub fn apply(&mut self, update: Update) {
        match update {
            Update::ListBegin(kind) => self.list_begin(kind),
            Update::ListTells(kind, details) => self.listing[kind as usize].tells = details,
            Update::ListEnd(kind) => self.list_end(kind),
            Update::Service(service) => self.put_service(service),
            Update::ServiceGone(key) => self.drop_service(&key),
            Update::Slice(slice) => self.put_slice(*slice),
            Update::SliceGone(key) => self.drop_slice(&key),
            Update::Namespace(name, labels) => self.put_namespace(name, labels),
            Update::NamespaceGone(name) => self.drop_namespace(&name),
            Update::ServiceCidr(name, networks) => self.put_service_cidr(name, networks),
            Update::ServiceCidrGone(name) => self.drop_service_cidr(&name),
            Update::Node(node) => self.put_node(Some(node)),
            Update::NodeGone => self.put_node(None),
            Update::Pod(key, addresses, labels) => self.put_pod(&key, addresses, labels),
            Update::PodGone(key) => self.drop_pod(PodDigest::of(&key)),
            Update::Import(import) => self.put_import(*import),
            Update::ImportGone(key) => self.drop_import(&key),
            Update::ImportedSlice(slice) => self.put_imported_slice(*slice),
            Update::ImportedSliceGone(key) => self.drop_imported_slice(&key),
            Update::Unreachable | Update::Refused(_) => {}
        }
    }

    /// Whether a full listing of this kind has been seen.
    pub fn is_listed(&self, kind: Kind) -> bool {
        self.listing[kind as usize].complete_once
    }

    /// The details that are known of every object of this kind.
    pub fn details(&self, kind: Kind) -> &Details {
        &self.listing[kind as usize].told
    }

    /// The Service with this key.
    pub fn service(&self, key: &ObjectKey) -> Option<&Service> {
        self.services.get(key).map(|listed| &*listed.value)
    }

    /// The slices of a Service, ordered by their keys; they may exist before the Service or without it.
    pub fn slices(&self, service: &ObjectKey) -> Vec<&Slice> {
        self.slices.get(service).into_iter().flatten().map(|listed| &listed.value).collect()
    }

    /// The slice with this key.
    pub fn slice(&self, key: &SliceKey) -> Option<&Slice> {
        let of_service = self.slices.get(self.slice_owner.get(key)?)?;
        of_service.iter().map(|listed| &listed.value).find(|slice| slice.key == *key)
    }

    /// Every slice.
    pub fn all_slices(&self) -> impl Iterator<Item = &Slice> {
        self.slices.values().flatten().map(|listed| &listed.value)
    }

    /// The ServiceImport with this key.
    pub fn import(&self, key: &ObjectKey) -> Option<&Import> {
        self.imports.get(key).map(|listed| &listed.value)
    }

    /// The slices of a ServiceImport, ordered by their keys; they may exist before it or without it.
    pub fn imported_slices(&self, import: &ObjectKey) -> Vec<&ImportedSlice> {
        let first = (import.clone(), ObjectKey::new("", ""));
        let of_import = self.imported_slices.range(first..).take_while(|((owner, _), _)| owner == import);
        of_import.map(|(_, listed)| &listed.value).collect()
    }

    /// Every ServiceImport.
    pub fn all_imports(&self) -> impl Iterator<Item = &Import> {
        self.imports.values().map(|listed| &listed.value)
    }

    /// Every slice of a ServiceImport.
    pub fn all_imported_slices(&self) -> impl Iterator<Item = &ImportedSlice> {
        self.imported_slices.values().map(|listed| &listed.value)
    }

    /// Every pod: its namespace, its addresses, and its labels where they are known.
    pub fn pods(&self) -> impl Iterator<Item = (&Name, &[IpAddr], Option<&Arc<Marks>>)> {
        self.pods.values().map(|Listed { value: pod, .. }| (&pod.namespace, &*pod.addresses, pod.labels.as_ref()))
    }

    /// Every namespace.
    pub fn namespaces(&self) -> impl Iterator<Item = &Name> {
        self.namespaces.keys()
    }

    /// Every ServiceCIDR.
    pub fn named_service_cidrs(&self) -> impl Iterator<Item = (&Name, &[IpNet])> {
        self.service_cidrs.iter().map(|(name, listed)| (name, &*listed.value))
    }

    /// Whether a listing of any kind has ever begun: whether anything was heard of the cluster.
    pub fn has_heard(&self) -> bool {
        self.listing.iter().any(|listing| listing.number > 0)
    }

    /// The labels of a namespace, where they are known.
    pub fn namespace_labels(&self, name: &str) -> Option<&Arc<Marks>> {
        self.namespaces.get(name)?.value.as_ref()
    }

    /// Whether the namespace exists.
    pub fn has_namespace(&self, name: &str) -> bool {
        self.namespaces.contains_key(name)
    }

    /// The agent's own Node, if the API server has it.
    pub fn node(&self) -> Option<&Node> {
        self.node.as_ref().map(|listed| &listed.value)
    }

    /// The networks of all ServiceCIDRs.
    pub fn service_cidrs(&self) -> impl Iterator<Item = &IpNet> {
        self.service_cidrs.values().flat_map(|listed| listed.value.iter())
    }

    /// The keys of all Services.
    pub fn service_keys(&self) -> impl Iterator<Item = &ObjectKey> {
        self.services.keys()
    }

    /// How many Services there are.
    pub fn service_count(&self) -> usize {
        self.services.len()
    }

    /// Forgets all objects of a kind, and that they were listed.
    pub fn forget(&mut self, kind: Kind) {
        self.list_begin(kind);
        self.list_end(kind);
        let number = self.number(kind);
        self.listing[kind as usize] = Listing { number, ..Listing::default() };
    }

    /// What changed since the last call.
    pub fn take_dirty(&mut self) -> Dirty {
        std::mem::take(&mut self.dirty)
    }

    fn list_begin(&mut self, kind: Kind) {
        let listing = &mut self.listing[kind as usize];
        listing.number += 1;
        listing.under_way = true;
        listing.tells = Details::default();
    }

    /// Removes what the listing that ends did not mention. An end without a begin (a listing that broke off and began anew) is harmless.
    fn list_end(&mut self, kind: Kind) {
        let listing = &mut self.listing[kind as usize];
        if !listing.under_way {
            return;
        }
        listing.under_way = false;
        listing.complete_once = true;
        listing.told = std::mem::take(&mut listing.tells);
        let current = listing.number;
        match kind {
            Kind::Service => {
                let gone: Vec<_> = stale(self.services.iter().map(|(key, listed)| (key, listed.listing)), current);
                gone.iter().for_each(|key| self.drop_service(key));
            }
            Kind::Slice => {
                let all = self.slices.values().flatten().map(|listed| (&listed.value.key, listed.listing));
                let gone: Vec<_> = stale(all, current);
                gone.iter().for_each(|key| self.drop_slice(key));
            }
            Kind::Namespace => {
                let gone: Vec<_> = stale(self.namespaces.iter().map(|(name, listed)| (name, listed.listing)), current);
                gone.iter().for_each(|name| self.drop_namespace(name));
            }
            Kind::ServiceCidr => {
                let gone: Vec<_> = stale(self.service_cidrs.iter().map(|(name, listed)| (name, listed.listing)), current);
                gone.iter().for_each(|name| self.drop_service_cidr(name));
            }
            Kind::Import => {
                let gone: Vec<_> = stale(self.imports.iter().map(|(key, listed)| (key, listed.listing)), current);
                gone.iter().for_each(|key| self.drop_import(key));
            }
            Kind::ImportedSlice => {
                let all = self.imported_slices.iter().map(|((_, key), listed)| (key, listed.listing));
                let gone: Vec<_> = stale(all, current);
                gone.iter().for_each(|key| self.drop_imported_slice(key));
            }
            Kind::Pod => {
                let gone: Vec<_> = stale(self.pods.iter().map(|(digest, listed)| (digest, listed.listing)), current);
                gone.iter().for_each(|digest| self.drop_pod(*digest));
            }
            Kind::Node => {
                if self.node.as_ref().is_some_and(|listed| listed.listing != current) {
                    self.put_node(None);
                }
            }
        }
    }

    fn number(&self, kind: Kind) -> u32 {
        self.listing[kind as usize].number
    }

    fn put_service(&mut self, service: Box<Service>) {
        let listing = self.number(Kind::Service);
        let key = service.key.clone();
        let changed = self.service(&key) != Some(&*service);
        self.services.insert(key.clone(), Listed { value: service, listing });
        if changed {
            self.dirty.services.insert(key);
        }
    }

    fn drop_service(&mut self, key: &ObjectKey) {
        if self.services.remove(key).is_some() {
            self.dirty.services.insert(key.clone());
        }
    }

    fn put_slice(&mut self, mut slice: Slice) {
        // It tells of the change and is no state.
        let triggered = slice.triggered.take();
        let listing = self.number(Kind::Slice);
        if self.slice_owner.get(&slice.key).is_some_and(|owner| *owner != slice.service) {
            self.drop_slice(&slice.key);
        }
        self.slice_owner.insert(slice.key.clone(), slice.service.clone());
        let of_service = self.slices.entry(slice.service.clone()).or_default();
        let place = of_service.binary_search_by(|listed| listed.value.key.cmp(&slice.key));
        let changed = place.is_err() || place.is_ok_and(|place| of_service[place].value != slice);
        if changed {
            self.dirty.services.insert(slice.service.clone());
            if let Some(time) = triggered {
                let trigger = Trigger { family: slice.family, time, headless: slice.headless };
                let triggers = self.dirty.triggers.entry(slice.service.clone()).or_default();
                // A vector grows by four at first, and a listing has a trigger for each service.
                triggers.reserve_exact(1);
                triggers.push(trigger);
            }
        }
        match place {
            // Others share its endpoints: one that is equal does not take its place, or both would stay in memory.
            Ok(place) if !changed => of_service[place].listing = listing,
            Ok(place) => of_service[place] = Listed { value: slice, listing },
            Err(place) => {
                // A vector grows by four at first.
                of_service.reserve_exact(1);
                of_service.insert(place, Listed { value: slice, listing });
            }
        }
    }

    fn drop_slice(&mut self, key: &SliceKey) {
        let Some(service) = self.slice_owner.remove(key) else { return };
        if let Some(of_service) = self.slices.get_mut(&service) {
            of_service.retain(|listed| listed.value.key != *key);
            if of_service.is_empty() {
                self.slices.remove(&service);
            }
        }
        // The last slice's time is that of an earlier change: it says nothing about this one (as kube-proxy's tracker).
        self.dirty.triggers.remove(&service);
        self.dirty.services.insert(service);
    }

    fn put_namespace(&mut self, name: Name, labels: Option<Arc<Marks>>) {
        let listing = self.number(Kind::Namespace);
        if self.namespaces.get(&name).is_none_or(|listed| listed.value != labels) {
            self.dirty.namespaces.insert(name.clone());
        }
        self.namespaces.insert(name, Listed { value: labels, listing });
    }

    fn drop_namespace(&mut self, name: &Name) {
        if self.namespaces.remove(name).is_some() {
            self.dirty.namespaces.insert(name.clone());
        }
    }

    fn put_service_cidr(&mut self, name: Name, networks: Box<[IpNet]>) {
        let listing = self.number(Kind::ServiceCidr);
        self.dirty.service_cidrs |= self.service_cidrs.get(&name).is_none_or(|listed| listed.value != networks);
        self.service_cidrs.insert(name, Listed { value: networks, listing });
    }

    fn drop_service_cidr(&mut self, name: &Name) {
        self.dirty.service_cidrs |= self.service_cidrs.remove(name).is_some();
    }

    fn put_import(&mut self, import: Import) {
        let listing = self.number(Kind::Import);
        let key = import.key.clone();
        if self.import(&key) != Some(&import) {
            self.dirty.imports.insert(key.clone());
        }
        self.imports.insert(key, Listed { value: import, listing });
    }

    fn drop_import(&mut self, key: &ObjectKey) {
        if self.imports.remove(key).is_some() {
            self.dirty.imports.insert(key.clone());
        }
    }

    fn put_imported_slice(&mut self, mut new: ImportedSlice) {
        new.slice.triggered = None;
        let listing = self.number(Kind::ImportedSlice);
        let (key, import) = (new.slice.key.clone(), new.slice.service.clone());
        if self.imported_slice_owner.get(&key).is_some_and(|owner| *owner != import) {
            self.drop_imported_slice(&key);
        }
        self.imported_slice_owner.insert(key.clone(), import.clone());
        let place = (import.clone(), key);
        if self.imported_slices.get(&place).is_none_or(|listed| listed.value != new) {
            self.dirty.imports.insert(import);
        }
        self.imported_slices.insert(place, Listed { value: new, listing });
    }

    fn drop_imported_slice(&mut self, key: &SliceKey) {
        let Some(import) = self.imported_slice_owner.remove(key) else { return };
        self.imported_slices.remove(&(import.clone(), key.clone()));
        self.dirty.imports.insert(import);
    }

    fn put_pod(&mut self, key: &ObjectKey, addresses: Box<[IpAddr]>, labels: Option<Arc<Marks>>) {
        let listing = self.number(Kind::Pod);
        let new = Pod { namespace: key.namespace.clone(), addresses, labels };
        let old = self.pods.insert(PodDigest::of(key), Listed { value: new, listing });
        let new = &self.pods[&PodDigest::of(key)].value;
        if old.as_ref().is_none_or(|old| old.value != *new) {
            let moves = old.iter().flat_map(|old| old.value.moves(false)).chain(new.moves(true));
            self.dirty.pods.extend(moves);
        }
    }

    fn drop_pod(&mut self, digest: PodDigest) {
        if let Some(pod) = self.pods.remove(&digest) {
            self.dirty.pods.extend(pod.value.moves(false));
        }
    }

    fn put_node(&mut self, node: Option<Node>) {
        if self.node() != node.as_ref() {
            self.dirty.node = true;
        }
        let listing = self.number(Kind::Node);
        self.node = node.map(|value| Listed { value, listing });
    }
}

impl Pod {
    fn moves(&self, is_there: bool) -> impl Iterator<Item = PodMove> {
        let one = move |address: &IpAddr| {
            let (namespace, labels) = (self.namespace.clone(), self.labels.clone());
            PodMove { namespace, address: *address, labels, is_there }
        };
        self.addresses.iter().map(one)
    }
}

impl PodDigest {
    fn of(key: &ObjectKey) -> PodDigest {
        let mut hasher = SipHasher13::new();
        key.hash(&mut hasher);
        PodDigest(u128::from(hasher.finish128()))
    }
}

fn stale<'a, K: Clone + 'a>(entries: impl Iterator<Item = (&'a K, u32)>, current: u32) -> Vec<K> {
    entries.filter(|(_, listing)| *listing != current).map(|(key, _)| key.clone()).collect()
}

impl FromIterator<Update> for Store {
    fn from_iter<I: IntoIterator<Item = Update>>(updates: I) -> Store {
        let mut store = Store::default();
        updates.into_iter().for_each(|update| store.apply(update));
        store
    }
}

#[cfg(test)]
mod tests;
