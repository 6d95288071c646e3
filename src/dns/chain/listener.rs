//! What is answered on an address: the zones of all blocks that listen there, and which block a question is for.

use super::model::Block;
use super::plan::ChainError;
use super::server::Server;
use super::values;
use crate::dns::metrics::Place;
use crate::dns::name::{DomainName, Labels};
use crate::dns::shape::Shape;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// Type DS, which the parent's zone answers.
pub(super) const DS: u16 = 43;

/// What is answered on an address.
#[derive(Default)]
pub struct Listener {
    address: Option<SocketAddr>,
    zones: HashMap<Box<[u8]>, Entry>,
    /// Where there is the root zone and no other, no name is looked at.
    only: Option<Entry>,
    at_once: Option<AtOnce>,
}

/// Names that only the records have something to say about: whoever answers plain questions for them by the shape does what the block does.
pub struct AtOnce {
    /// How the records are shown. Of the zones the first one is meant, and names of other zones are not answered so.
    pub shape: Arc<Shape>,
    /// The zone of the block that has them.
    pub entry: Entry,
}

impl AtOnce {
    /// The zone of the names.
    pub fn zone(&self) -> &DomainName {
        &self.shape.zones[0]
    }
}

/// A zone on a listener.
#[derive(Clone)]
pub struct Entry {
    /// The block's place in [`super::Plan::server`].
    pub(super) server: usize,
    /// The zone, a label of the metrics.
    pub(in crate::dns) zone: Arc<str>,
    zones: Arc<str>,
    /// An address that the block is bound to has a label of its own.
    bound: Option<Arc<str>>,
}

impl Listener {
    /// One on which the first block has everything.
    pub(super) fn of_first_block() -> Listener {
        let entry = Entry { server: 0, zone: ".".into(), zones: ".".into(), bound: None };
        Listener { only: Some(entry), ..Listener::default() }
    }

    /// The address that it is for; `None`: all that have no other one.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// The zone that a name (in wire form, lower case) is answered in: the longest. DS of a zone's own name is for the zone above it (RFC 4035, section
    /// 3.1.4.1), if that is another one than the root, which is the last resort only.
    pub fn find(&self, name: &[u8], rtype: u16) -> Option<&Entry> {
        if self.only.is_some() {
            return self.only.as_ref();
        }
        let mut rest = name;
        let mut own = None;
        loop {
            match self.zones.get(rest) {
                Some(entry) if rtype == DS && rest.len() == name.len() => own = Some(entry),
                Some(entry) => return own.filter(|_| rest == [0]).or(Some(entry)),
                None => {}
            }
            match Labels::of(rest).next() {
                Some(label) => rest = &rest[label.len() + 1..],
                None => return own,
            }
        }
    }

    /// Which plain questions need nothing but the records.
    pub fn at_once(&self) -> Option<&AtOnce> {
        self.at_once.as_ref()
    }

    pub(super) fn find_at_once(&mut self, servers: &[Server]) {
        let found = servers.iter().enumerate().find_map(|(number, server)| {
            let (first, others) = server.shape.as_ref().filter(|_| server.plain)?.zones.split_first()?;
            // Names of the others are left to the walk.
            let is_alone = !others.iter().any(|zone| first.is_above(zone.as_wire()));
            let shape = server.shape.as_ref().filter(|shape| is_alone && !shape.multicluster.contains(first))?;
            let all_here = |zone: &DomainName| {
                let is_here = self.find(zone.as_wire(), 0).is_some_and(|entry| entry.server == number);
                let mut others = self.zones.iter().filter(|(_, entry)| entry.server != number);
                is_here && !others.any(|(other, _)| zone.is_above(other))
            };
            let entry = self.find(shape.zones[0].as_wire(), 0).filter(|_| all_here(&shape.zones[0]))?.clone();
            // Reverse names that another block may have are left to the walk.
            let reverse = if shape.reverse.iter().all(all_here) { shape.reverse.clone() } else { Vec::new() };
            let shape = Shape { zones: vec![first.clone()], reverse, ..Shape::clone(shape) };
            Some(AtOnce { shape: Arc::new(shape), entry })
        });
        self.at_once = found;
    }

    /// Every zone, with its block.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.only.iter().chain(self.zones.values())
    }
}

impl Entry {
    /// Whether it has the same labels of the metrics.
    pub(in crate::dns) fn has_labels_of(&self, other: &Entry) -> bool {
        (&self.zone, &self.zones, &self.bound) == (&other.zone, &other.zones, &other.bound)
    }

    /// The labels of the metrics, for a listener with this label.
    pub fn place(&self, server: &Arc<str>) -> Place {
        Place { server: self.bound.as_ref().unwrap_or(server).clone(), zone: self.zone.clone(), zones: self.zones.clone() }
    }
}

/// From blocks to listeners.
pub(super) struct Listeners<'a> {
    pub blocks: &'a [Block],
    /// Those of the flags.
    pub defaults: &'a [SocketAddr],
}

impl Listeners<'_> {
    /// The addresses of a block.
    fn of(&self, block: &Block) -> Vec<SocketAddr> {
        let mut addresses = Vec::new();
        for default in self.defaults {
            let port = block.port.unwrap_or(default.port());
            let hosts = if block.bind.is_empty() { vec![default.ip()] } else { block.bind.clone() };
            for address in hosts.into_iter().map(|host| SocketAddr::new(host, port)) {
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
        addresses
    }

    /// All addresses on which some block is answered.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let mut addresses = Vec::new();
        for address in self.blocks.iter().flat_map(|block| self.of(block)) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses
    }

    /// The listener for addresses that no block names, and those for the others.
    pub fn all(&self) -> Result<(Listener, Vec<Listener>), ChainError> {
        let is_everywhere = |block: &Block| {
            block.bind.is_empty() && block.port.is_none_or(|port| self.defaults.iter().all(|default| default.port() == port))
        };
        let ordinary = self.listener(None, |block| is_everywhere(block))?;
        if self.blocks.iter().all(is_everywhere) {
            return Ok((ordinary, Vec::new()));
        }
        let special =
            self.addresses().into_iter().map(|address| self.listener(Some(address), |block| self.of(block).contains(&address)));
        Ok((ordinary, special.collect::<Result<_, _>>()?))
    }

    fn listener(&self, address: Option<SocketAddr>, is_here: impl Fn(&Block) -> bool) -> Result<Listener, ChainError> {
        let mut zones: HashMap<Box<[u8]>, Entry> = HashMap::new();
        for (server, block) in self.blocks.iter().enumerate().filter(|(_, block)| is_here(block)) {
            let wrong = |problem| ChainError { block: server, plugin: "zones", number: 0, problem };
            let names = values::all_zones(&block.zones).map_err(wrong)?;
            let all: Arc<str> = names.iter().map(ToString::to_string).collect::<Vec<_>>().join(",").into();
            let bound = address.filter(|address| block.bind.contains(&address.ip()));
            let bound = bound.map(|address| Arc::from(format!("dns://{address}")));
            for name in names {
                let entry = Entry { server, zone: name.to_string().into(), zones: all.clone(), bound: bound.clone() };
                if zones.insert(name.as_wire().into(), entry).is_some() {
                    return Err(wrong(format!("another block answers for {name} on the same address; make one block of both")));
                }
            }
        }
        let only = if zones.len() == 1 { zones.remove([0].as_slice()) } else { None };
        Ok(Listener { address, zones, only, at_once: None })
    }
}
