//! A snapshot as bytes; pure. Behind the header (`seal.rs`) are the store's objects, one after the other, in the form of `postcard`.

use super::seal::{HEADER, SnapshotError, seal, unseal};
use crate::model::{Demand, Endpoint, Hints, Import, ImportedSlice, Interner, Kind, Marks, Name, Node, ObjectKey};
use crate::model::{Service, Slice, Update};
use crate::store::Store;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

const MAGIC: &[u8; 8] = b"WAYPOST\0";
/// To be raised whenever an entry is written differently; a test notices.
const VERSION: u32 = 5;

/// The state of a cluster at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// When it was taken.
    pub taken: SystemTime,
    /// A full listing of every kind that was known.
    pub kinds: Vec<(Kind, Vec<Update>)>,
}

impl Snapshot {
    /// All listings, one after the other.
    pub fn updates(self) -> impl Iterator<Item = Update> {
        self.kinds.into_iter().flat_map(|(_, updates)| updates)
    }
}

/// An object on its way out.
#[derive(Serialize)]
enum Written<'a> {
    Service(&'a Service),
    Slice(&'a Slice),
    Namespace(&'a Name, Option<&'a Arc<Marks>>),
    ServiceCidr(&'a Name, &'a [IpNet]),
    Node(&'a Node),
    Import(&'a Import),
    ImportedSlice(&'a ImportedSlice),
    Pod(&'a Name, &'a [IpAddr], Option<&'a Arc<Marks>>),
    /// What is not always watched was listed.
    Listed(Kind),
}

/// The same on its way in: variants in the same order.
#[derive(Deserialize)]
enum Read {
    Service(Box<Service>),
    Slice(Box<Slice>),
    Namespace(Name, Option<Arc<Marks>>),
    ServiceCidr(Name, Box<[IpNet]>),
    Node(Node),
    Import(Box<Import>),
    ImportedSlice(Box<ImportedSlice>),
    Pod(Name, Box<[IpAddr]>, Option<Arc<Marks>>),
    Listed(Kind),
}

/// The state of a store as bytes.
pub fn encode(store: &Store, taken: SystemTime) -> Vec<u8> {
    let services = store.service_keys().filter_map(|key| store.service(key)).map(Written::Service);
    let slices = store.all_slices().map(Written::Slice);
    let namespaces = store.namespaces().map(|name| Written::Namespace(name, store.namespace_labels(name)));
    let cidrs = store.named_service_cidrs().map(|(name, networks)| Written::ServiceCidr(name, networks));
    let node = store.node().map(Written::Node);
    let (imports, imported) = (store.all_imports().map(Written::Import), store.all_imported_slices().map(Written::ImportedSlice));
    let pods = store.pods().map(|(namespace, addresses, labels)| Written::Pod(namespace, addresses, labels));
    let listed = Demand::KINDS.iter().filter(|kind| store.is_listed(**kind)).map(|kind| Written::Listed(*kind));
    let mut bytes = vec![0; HEADER];
    let always = services.chain(slices).chain(namespaces).chain(cidrs).chain(node);
    for entry in always.chain(imports).chain(imported).chain(pods).chain(listed) {
        // Writing to memory cannot fail, and every entry is of a kind that postcard knows.
        match postcard::to_extend(&entry, bytes) {
            Ok(longer) => bytes = longer,
            Err(error) => unreachable!("an object cannot be written: {error}"),
        }
    }
    seal(&mut bytes, MAGIC, VERSION, taken);
    bytes
}

/// Whether these bytes are as [`encode`] has written them, without reading what they say.
///
/// # Errors
/// Anything else, cut off or changed bytes included.
pub fn verify(bytes: &[u8]) -> Result<(), SnapshotError> {
    unseal(bytes, MAGIC, VERSION).map(drop)
}

/// Reads what [`encode`] has written.
///
/// # Errors
/// Anything else, cut off or changed bytes included.
pub fn decode(bytes: &[u8]) -> Result<Snapshot, SnapshotError> {
    let (taken, mut entries) = unseal(bytes, MAGIC, VERSION)?;
    let (mut names, mut objects) = (Interner::default(), Objects::default());
    while !entries.is_empty() {
        let (entry, rest) = postcard::take_from_bytes(entries).map_err(|_| SnapshotError::Damaged("an entry cannot be read"))?;
        objects.add(entry, &mut names);
        entries = rest;
    }
    Ok(Snapshot { taken, kinds: objects.listed() })
}

/// Objects by kind, as they are listed.
#[derive(Default)]
struct Objects {
    services: Vec<Update>,
    slices: Vec<Update>,
    namespaces: Vec<Update>,
    cidrs: Vec<Update>,
    node: Vec<Update>,
    imports: Vec<Update>,
    imported: Vec<Update>,
    pods: Vec<Update>,
    /// Which of the last three were known.
    listed: Vec<Kind>,
    hints: Option<Arc<Hints>>,
}

impl Objects {
    fn add(&mut self, entry: Read, names: &mut Interner) {
        match entry {
            Read::Service(mut service) => {
                share(&mut service.key, names);
                service.ports.iter_mut().for_each(|port| port.name = names.intern(&port.name));
                self.services.push(Update::Service(service));
            }
            Read::Slice(mut slice) => {
                self.share_slice(&mut slice, names);
                self.slices.push(Update::Slice(slice));
            }
            Read::Namespace(name, labels) => self.namespaces.push(Update::Namespace(names.intern(&name), labels)),
            Read::ServiceCidr(name, networks) => self.cidrs.push(Update::ServiceCidr(name, networks)),
            Read::Node(node) => self.node.push(Update::Node(node)),
            Read::Import(mut import) => {
                share(&mut import.key, names);
                self.imports.push(Update::Import(import));
            }
            Read::ImportedSlice(mut imported) => {
                self.share_slice(&mut imported.slice, names);
                imported.cluster = names.intern(&imported.cluster);
                self.imported.push(Update::ImportedSlice(imported));
            }
            Read::Pod(namespace, addresses, labels) => {
                // Nobody remembers the names of pods: any that no other one has will do.
                let key = ObjectKey::new(names.intern(&namespace), self.pods.len().to_string());
                self.pods.push(Update::Pod(key, addresses, labels));
            }
            Read::Listed(kind) => self.listed.push(kind),
        }
    }

    fn share_slice(&mut self, slice: &mut Slice, names: &mut Interner) {
        share(&mut slice.key, names);
        share(&mut slice.service, names);
        slice.ports.iter_mut().for_each(|port| port.name = names.intern(&port.name));
        Arc::make_mut(&mut slice.endpoints).iter_mut().for_each(|endpoint| self.share_endpoint(endpoint, names));
        if let Some(details) = slice.details.as_mut().map(Arc::make_mut) {
            let lists = [&mut details.pods, &mut details.zones].into_iter().flatten();
            lists.flat_map(|list| list.iter_mut().flatten()).for_each(|name| *name = names.intern(name));
        }
    }

    /// Neighbours mostly have the same hints.
    fn share_endpoint(&mut self, endpoint: &mut Endpoint, names: &mut Interner) {
        for name in [&mut endpoint.hostname, &mut endpoint.node].into_iter().flatten() {
            *name = names.intern(name);
        }
        if let Some(hints) = &mut endpoint.hints {
            match &self.hints {
                Some(last) if last == hints => *hints = last.clone(),
                _ => self.hints = Some(hints.clone()),
            }
        }
    }

    fn listed(self) -> Vec<(Kind, Vec<Update>)> {
        let Objects { services, slices, namespaces, cidrs, node, imports, imported, pods, listed, .. } = self;
        let kinds = [
            (Kind::Service, services),
            (Kind::Slice, slices),
            (Kind::Namespace, namespaces),
            (Kind::ServiceCidr, cidrs),
            (Kind::Node, node),
            (Kind::Import, imports),
            (Kind::ImportedSlice, imported),
            (Kind::Pod, pods),
        ];
        let known = kinds.into_iter().filter(|(kind, _)| !Demand::KINDS.contains(kind) || listed.contains(kind));
        let between = |(kind, mut objects): (Kind, Vec<Update>)| {
            objects.insert(0, Update::ListBegin(kind));
            objects.push(Update::ListEnd(kind));
            (kind, objects)
        };
        known.map(between).collect()
    }
}

/// Names repeat thousands of times: each is kept once.
fn share(key: &mut ObjectKey, names: &mut Interner) {
    *key = ObjectKey::new(names.intern(&key.namespace), names.intern(&key.name));
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
