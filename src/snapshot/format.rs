//! A snapshot as bytes; pure. Behind the header (`seal.rs`) are the store's objects, one after the other, in the form of `postcard`.

use super::seal::{HEADER, SnapshotError, seal, unseal};
use crate::model::{Endpoint, Hints, Interner, Kind, Name, Node, ObjectKey, Service, Slice, Update};
use crate::store::Store;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::SystemTime;

const MAGIC: &[u8; 8] = b"WAYPOST\0";
/// To be raised whenever an entry is written differently; a test notices.
const VERSION: u32 = 2;

/// The state of a cluster at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// When it was taken.
    pub taken: SystemTime,
    /// A full listing of every kind.
    pub updates: Vec<Update>,
}

/// An object on its way out.
#[derive(Serialize)]
enum Written<'a> {
    Service(&'a Service),
    Slice(&'a Slice),
    Namespace(&'a Name),
    ServiceCidr(&'a Name, &'a [IpNet]),
    Node(&'a Node),
}

/// The same on its way in: variants in the same order.
#[derive(Deserialize)]
enum Read {
    Service(Box<Service>),
    Slice(Box<Slice>),
    Namespace(Name),
    ServiceCidr(Name, Box<[IpNet]>),
    Node(Node),
}

/// The state of a store as bytes.
pub fn encode(store: &Store, taken: SystemTime) -> Vec<u8> {
    let services = store.service_keys().filter_map(|key| store.service(key)).map(Written::Service);
    let slices = store.all_slices().map(Written::Slice);
    let namespaces = store.namespaces().map(Written::Namespace);
    let cidrs = store.named_service_cidrs().map(|(name, networks)| Written::ServiceCidr(name, networks));
    let node = store.node().map(Written::Node);
    let mut bytes = vec![0; HEADER];
    for entry in services.chain(slices).chain(namespaces).chain(cidrs).chain(node) {
        // Writing to memory cannot fail, and every entry is of a kind that postcard knows.
        match postcard::to_extend(&entry, bytes) {
            Ok(longer) => bytes = longer,
            Err(error) => unreachable!("an object cannot be written: {error}"),
        }
    }
    seal(&mut bytes, MAGIC, VERSION, taken);
    bytes
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
    Ok(Snapshot { taken, updates: objects.listed() })
}

/// Objects by kind, as they are listed.
#[derive(Default)]
struct Objects {
    services: Vec<Update>,
    slices: Vec<Update>,
    namespaces: Vec<Update>,
    cidrs: Vec<Update>,
    node: Vec<Update>,
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
                share(&mut slice.key, names);
                share(&mut slice.service, names);
                slice.ports.iter_mut().for_each(|port| port.name = names.intern(&port.name));
                slice.endpoints.iter_mut().for_each(|endpoint| self.share_endpoint(endpoint, names));
                self.slices.push(Update::Slice(slice));
            }
            Read::Namespace(name) => self.namespaces.push(Update::Namespace(names.intern(&name))),
            Read::ServiceCidr(name, networks) => self.cidrs.push(Update::ServiceCidr(name, networks)),
            Read::Node(node) => self.node.push(Update::Node(node)),
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

    fn listed(self) -> Vec<Update> {
        let Objects { services, slices, namespaces, cidrs, node, .. } = self;
        let kinds = [
            (Kind::Service, services),
            (Kind::Slice, slices),
            (Kind::Namespace, namespaces),
            (Kind::ServiceCidr, cidrs),
            (Kind::Node, node),
        ];
        let mut updates = Vec::new();
        for (kind, objects) in kinds {
            updates.push(Update::ListBegin(kind));
            updates.extend(objects);
            updates.push(Update::ListEnd(kind));
        }
        updates
    }
}

/// Names repeat thousands of times: each is kept once.
fn share(key: &mut ObjectKey, names: &mut Interner) {
    *key = ObjectKey::new(names.intern(&key.namespace), names.intern(&key.name));
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
