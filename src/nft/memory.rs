//! An in-memory kernel with the rules that matter: a batch is all or nothing, a key is there once, a missing one can't be removed, a
//! verdict needs its chain, a chain its maps, what is in use stays, intervals may not overlap.

use super::kernel::{Batch, Contents, Kernel, NftError, Reading, Usable};
use super::layout::Layout;
use super::made::Made;
use crate::model::{Balance, Family};
use crate::proxy::{AffinityMap, Backend, Chain, Dest, Element, List, Refusal, Remembered};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

/// The in-memory kernel.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    tables: BTreeMap<Family, Table>,
    /// Elements that this kernel refuses, for tests of culprits.
    pub refuses: BTreeSet<Element>,
    /// Whether this kernel refuses to make a table anew, whatever it is to hold.
    pub refuses_rebuild: bool,
    /// This family's table cannot be had.
    pub lacks: Option<Family>,
    /// The batches that were committed, oldest first.
    pub commits: Vec<Batch>,
    /// How often a table was read.
    pub reads: usize,
    /// How many batches were tried, committed or not.
    pub tries: usize,
    /// Somebody removes these elements, the last one after the next look at a table, and so on.
    pub stranger_removes: Vec<Element>,
    generation: u32,
    limit: usize,
}

#[derive(Clone, Debug, Default)]
struct Table {
    comment: String,
    /// Somebody has changed its rules.
    edited: bool,
    made: Made,
    elements: BTreeMap<Element, Element>,
    clients: BTreeMap<(AffinityMap, IpAddr), Backend>,
}

impl Memory {
    /// A kernel without tables that takes at most this many elements in a batch; 0 means any number.
    pub fn with_limit(limit: usize) -> Memory {
        Memory { limit, ..Memory::default() }
    }

    /// A kernel without tables that refuses these elements.
    pub fn refusing(elements: impl IntoIterator<Item = Element>) -> Memory {
        Memory { refuses: elements.into_iter().collect(), ..Memory::default() }
    }

    /// A kernel in which this family's table cannot be had.
    pub fn lacking(family: Family) -> Memory {
        Memory { lacks: Some(family), ..Memory::default() }
    }

    /// The elements of a family's table, sorted.
    pub fn elements(&self, family: Family) -> Vec<Element> {
        let mut elements: Vec<Element> =
            self.tables.get(&family).into_iter().flat_map(|table| table.elements.values()).copied().collect();
        elements.sort_unstable();
        elements
    }

    /// What a new connection of a client does: its endpoint is remembered. True when the map is there.
    pub fn remember(&mut self, family: Family, map: AffinityMap, client: IpAddr, endpoint: Backend) -> bool {
        let Some(table) = self.tables.get_mut(&family).filter(|table| table.made.maps.contains(&map)) else { return false };
        table.clients.insert((map, client), endpoint);
        true
    }

    /// Which clients are remembered, and where they went.
    pub fn clients(&self, family: Family) -> BTreeMap<(AffinityMap, IpAddr), Backend> {
        self.tables.get(&family).map(|table| table.clients.clone()).unwrap_or_default()
    }

    /// The chains and maps of a family's table besides its skeleton.
    pub fn made(&self, family: Family) -> Made {
        self.tables.get(&family).map(|table| table.made.clone()).unwrap_or_default()
    }

    /// What a batch makes of a table.
    fn table_after(&mut self, layout: &Layout, batch: &Batch) -> Result<Table, NftError> {
        self.tries += 1;
        let mut table = if batch.rebuild {
            if self.refuses_rebuild {
                return Err(rejected("no table is to be made".into()));
            }
            let clients = self.tables.get(&layout.family).map(|table| table.clients.clone()).unwrap_or_default();
            let is_kept =
                |map: &AffinityMap| batch.made.maps.contains(map) && batch.usable.iter().any(|usable| usable.map == *map);
            let clients = clients.into_iter().filter(|((map, _), _)| is_kept(map)).collect();
            Table { comment: layout.comment(), clients, ..Table::default() }
        } else {
            self.tables.get(&layout.family).cloned().ok_or_else(|| rejected("no such table".into()))?
        };
        table.make(&batch.made).map_err(rejected)?;
        for element in &batch.elements.remove {
            if table.elements.remove(&key(element)).is_none() {
                return Err(rejected(format!("{element:?} is not there")));
            }
        }
        for element in &batch.elements.add {
            if self.refuses.contains(element) {
                return Err(rejected(format!("{element:?} is refused")));
            }
            table.add(*element).map_err(rejected)?;
        }
        table.forget(&batch.usable);
        table.unmake(&batch.gone).map_err(rejected)?;
        Ok(table)
    }

    fn reading(&self, layout: &Layout) -> Reading {
        match self.tables.get(&layout.family) {
            None => Reading::Absent,
            Some(table) if table.comment != layout.comment() => Reading::Other(format!("its comment is {:?}", table.comment)),
            Some(table) if table.edited => Reading::Edited("its rules are not ours".into()),
            Some(table) => {
                Reading::Ours(Contents { made: table.made.clone(), elements: table.elements.values().copied().collect() })
            }
        }
    }

    /// Removes a table behind the committer's back.
    pub fn flush(&mut self, family: Family) {
        self.generation += 1;
        self.tables.remove(&family);
    }

    /// Changes the rules of a table behind the committer's back.
    pub fn edit(&mut self, family: Family) {
        self.generation += 1;
        self.tables.entry(family).or_default().edited = true;
    }

    /// Removes an element behind the committer's back. True when it was there.
    pub fn remove(&mut self, family: Family, element: &Element) -> bool {
        self.generation += 1;
        self.tables.get_mut(&family).is_some_and(|table| table.elements.remove(&key(element)).is_some())
    }

    /// Whether every verdict leads to a chain whose slots are all filled, and every client to an endpoint of its list; else what is wrong.
    pub fn check(&self) -> Result<(), String> {
        for table in self.tables.values() {
            leads_somewhere(table.elements.values())?;
            table.check_clients()?;
        }
        Ok(())
    }
}

/// Whether every element of a table leads somewhere: to a chain whose slots are all filled, or to one that finds the element that it goes on with.
///
/// # Errors
/// The destination that leads nowhere.
pub fn leads_somewhere<'a>(elements: impl Iterator<Item = &'a Element> + Clone) -> Result<(), String> {
    let mut of_dest: HashMap<Dest, HashSet<Element>> = HashMap::new();
    for element in elements.clone() {
        if let Some(dest) = element.dest() {
            of_dest.entry(dest).or_default().insert(key(element));
        }
    }
    // Which maps of clients the destination's chains look into.
    let looked_into: HashSet<(Dest, AffinityMap)> = elements.clone().flat_map(draws_with_maps).collect();
    for element in elements {
        let (Some(dest), Some(chain)) = (element.dest(), element.chain()) else { continue };
        let has = |element: Element| of_dest.get(&dest).is_some_and(|held| held.contains(&key(&element)));
        let cluster_list = || has(Element::ClusterList(dest, Chain::Outside));
        let local_list = || has(Element::LocalList(dest, Chain::Outside));
        let missing = match chain {
            Chain::Pick(_) | Chain::PickLocal(_) | Chain::Own(_) => {
                let slots = chain.slots().unwrap_or_default();
                let (all, filled) = (slots.len(), slots.filter(|slot| has(slot_key(dest, *slot))).count());
                (all == 0 || filled != all).then(|| format!("{filled} of {all} slots are filled"))
            }
            Chain::Outside => (!cluster_list()).then(|| "there is no list of endpoints".to_string()),
            Chain::OutsideLocal => {
                let is_decided = local_list() || has(Element::Unserved(dest, Refusal::Drop));
                (!cluster_list() || !is_decided).then(|| "a list of endpoints is missing".to_string())
            }
            Chain::Remember(remember) => {
                // Where no endpoint is local nobody is sent to one, so that nobody is remembered there.
                let mut maps = remember
                    .maps()
                    .into_iter()
                    .filter(|map| map.list == List::Cluster || remember.entry != Remembered::ByClient || local_list());
                maps.find(|map| !looked_into.contains(&(dest, *map))).map(|map| format!("no chain looks into {map}"))
            }
        };
        if let Some(missing) = missing {
            return Err(format!("{dest} goes to {chain}, but {missing}"));
        }
    }
    Ok(())
}

fn draws_with_maps(element: &Element) -> Option<(Dest, AffinityMap)> {
    match element.chain()? {
        Chain::Own(draw) => Some((element.dest()?, draw.affinity()?)),
        _ => None,
    }
}

/// A table's elements, equal for tables that differ in their history only: which endpoint has which slot. In a hash table each slot has its own
/// clients, and they stay.
pub fn without_slots(elements: Vec<Element>) -> Vec<Element> {
    let hashed = |element: &Element| match (element.dest(), element.chain()) {
        (Some(dest), Some(Chain::Own(draw))) if draw.method == Balance::SourceHash => Some((dest, draw.list)),
        _ => None,
    };
    let tables: HashSet<(Dest, List)> = elements.iter().filter_map(hashed).collect();
    let plain = |element: Element| match element {
        Element::Endpoint(dest, slot, backend) => {
            let list = if List::Local.holds(slot) { List::Local } else { List::Cluster };
            Element::Endpoint(dest, if tables.contains(&(dest, list)) { slot } else { list.first_slot() }, backend)
        }
        other => other,
    };
    let mut elements: Vec<Element> = elements.into_iter().map(plain).collect();
    elements.sort_unstable();
    elements
}

impl Kernel for Memory {
    fn read(&mut self, layout: &Layout) -> Result<Reading, NftError> {
        self.reads += 1;
        if self.lacks == Some(layout.family) {
            return Err(rejected("there is no such family".into()));
        }
        let reading = self.reading(layout);
        if let Some(element) = self.stranger_removes.pop() {
            self.remove(layout.family, &element);
        }
        Ok(reading)
    }

    fn commit(&mut self, layout: &Layout, batch: &Batch) -> Result<(), NftError> {
        let table = self.table_after(layout, batch)?;
        self.tables.insert(layout.family, table);
        self.commits.push(batch.clone());
        self.generation += 1;
        Ok(())
    }

    fn would_take(&mut self, layout: &Layout, batch: &Batch) -> Result<(), NftError> {
        self.table_after(layout, batch).map(drop)
    }

    fn forget(&mut self, layout: &Layout, usable: &[Usable]) -> Result<usize, NftError> {
        let table = self.tables.entry(layout.family).or_default();
        let batches = usize::from(table.forget(usable));
        self.generation += batches as u32;
        Ok(batches)
    }

    fn generation(&mut self) -> Option<u32> {
        Some(self.generation)
    }

    fn batch_limit(&self) -> usize {
        if self.limit == 0 { usize::MAX } else { self.limit }
    }
}

impl Table {
    fn make(&mut self, made: &Made) -> Result<(), String> {
        for map in &made.maps {
            if !self.made.maps.insert(*map) {
                return Err(format!("{map} exists"));
            }
        }
        for chain in &made.chains {
            if let Some(missing) = chain.affinities().iter().find(|map| !self.made.maps.contains(map)) {
                return Err(format!("{chain} uses {missing}, which does not exist"));
            }
            if !self.made.chains.insert(*chain) {
                return Err(format!("{chain} exists"));
            }
        }
        Ok(())
    }

    fn unmake(&mut self, gone: &Made) -> Result<(), String> {
        for chain in &gone.chains {
            if self.elements.values().any(|element| element.chain() == Some(*chain)) || !self.made.chains.remove(chain) {
                return Err(format!("{chain} is in use, or does not exist"));
            }
        }
        for map in &gone.maps {
            if self.made.chains.iter().any(|chain| chain.affinities().contains(map)) || !self.made.maps.remove(map) {
                return Err(format!("{map} is in use, or does not exist"));
            }
            self.clients.retain(|(of, _), _| of != map);
        }
        Ok(())
    }

    /// Whether there was something to forget.
    fn forget(&mut self, usable: &[Usable]) -> bool {
        let before = self.clients.len();
        for usable in usable {
            self.clients.retain(|(map, _), backend| *map != usable.map || usable.endpoints.contains(backend));
        }
        before != self.clients.len()
    }

    fn check_clients(&self) -> Result<(), String> {
        for ((map, client), backend) in &self.clients {
            let leads_there = |element: &Element| match element {
                Element::Endpoint(dest, slot, to) if to == backend && map.list.holds(*slot) => self.is_sticky(*dest, *map),
                _ => false,
            };
            if !self.elements.values().any(leads_there) {
                return Err(format!("{client} is remembered in {map} for {backend}, which is not in the list"));
            }
        }
        Ok(())
    }

    fn is_sticky(&self, dest: Dest, map: AffinityMap) -> bool {
        let remembers = self.elements.get(&Element::Sticky(dest, Chain::Outside)).and_then(Element::chain);
        remembers.is_some_and(|chain| chain.affinities().contains(&map))
    }

    fn add(&mut self, element: Element) -> Result<(), String> {
        if let Some(chain) = element.chain()
            && !matches!(chain, Chain::Outside | Chain::OutsideLocal)
            && !self.made.chains.contains(&chain)
        {
            return Err(format!("{element:?} goes to a chain that does not exist"));
        }
        if let Some(network) = network(&element) {
            let clash = self.elements.values().find(|other| {
                other.set() == element.set()
                    && other.dest() == element.dest()
                    && self::network(other).is_some_and(|other| other.contains(&network) || network.contains(&other))
                    && **other != element
            });
            if let Some(clash) = clash {
                return Err(format!("{element:?} overlaps {clash:?}"));
            }
        }
        match self.elements.insert(key(&element), element) {
            Some(before) if before != element => Err(format!("{element:?} exists as {before:?}")),
            _ => Ok(()),
        }
    }
}

fn network(element: &Element) -> Option<IpNet> {
    match element {
        Element::AllowedSource(_, network)
        | Element::DeniedSource(_, network)
        | Element::ServiceCidr(network)
        | Element::PodCidr(network) => Some(*network),
        _ => None,
    }
}

/// The element with its data blanked: equal for elements that the kernel would take for the same.
fn key(element: &Element) -> Element {
    match *element {
        Element::Service(dest, _) => Element::Service(dest, Chain::Outside),
        Element::ClusterList(dest, _) => Element::ClusterList(dest, Chain::Outside),
        Element::LocalList(dest, _) => Element::LocalList(dest, Chain::Outside),
        Element::Sticky(dest, _) => Element::Sticky(dest, Chain::Outside),
        Element::Endpoint(dest, slot, _) => slot_key(dest, slot),
        Element::Unserved(dest, _) => Element::Unserved(dest, Refusal::Drop),
        other => other,
    }
}

fn slot_key(dest: Dest, slot: u32) -> Element {
    Element::Endpoint(dest, slot, Backend { address: dest.address, port: 0 })
}

fn rejected(reason: String) -> NftError {
    NftError::Rejected(vec![reason])
}
