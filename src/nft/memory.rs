//! An in-memory kernel with the rules that matter: a batch is all or nothing, a key is there once, a missing one can't be removed, a
//! verdict needs its chain, intervals may not overlap.

use super::kernel::{Batch, Contents, Kernel, NftError, Reading};
use super::layout::Layout;
use crate::model::Family;
use crate::proxy::{Backend, Chain, Dest, Element, Refusal};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};

/// The in-memory kernel.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    tables: BTreeMap<Family, Table>,
    /// Elements that this kernel refuses, for tests of culprits.
    pub refuses: BTreeSet<Element>,
    /// The batches that were committed, oldest first.
    pub commits: Vec<Batch>,
    limit: usize,
}

#[derive(Clone, Debug, Default)]
struct Table {
    comment: String,
    picks: BTreeSet<Chain>,
    elements: BTreeMap<Element, Element>,
}

impl Memory {
    /// A kernel without tables that takes at most this many elements in a batch; 0 means any number.
    pub fn with_limit(limit: usize) -> Memory {
        Memory { limit, ..Memory::default() }
    }

    /// A kernel without tables that refuses this element.
    pub fn refusing(element: Element) -> Memory {
        Memory { refuses: [element].into(), ..Memory::default() }
    }

    /// The elements of a family's table, sorted.
    pub fn elements(&self, family: Family) -> Vec<Element> {
        let mut elements: Vec<Element> =
            self.tables.get(&family).into_iter().flat_map(|table| table.elements.values()).copied().collect();
        elements.sort_unstable();
        elements
    }

    /// Removes a table behind the committer's back.
    pub fn flush(&mut self, family: Family) {
        self.tables.remove(&family);
    }

    /// Whether every verdict leads to a chain whose slots are all filled; else what is wrong.
    pub fn check(&self) -> Result<(), String> {
        for table in self.tables.values() {
            for element in table.elements.values() {
                let (dest, chain) = match element {
                    Element::Service(dest, chain) | Element::ClusterList(dest, chain) | Element::LocalList(dest, chain) => {
                        (dest, chain)
                    }
                    _ => continue,
                };
                let slots = match chain {
                    Chain::Pick(count) => 0..*count,
                    Chain::PickLocal(count) => Element::LOCAL_SLOTS..Element::LOCAL_SLOTS + count,
                    Chain::Outside | Chain::OutsideLocal => continue,
                };
                let needed = slots.len();
                let filled = slots.filter(|slot| table.elements.contains_key(&slot_key(*dest, *slot))).count();
                if needed == 0 || filled != needed {
                    return Err(format!("{dest} goes to {chain}, but {filled} of {needed} slots are filled"));
                }
            }
        }
        Ok(())
    }
}

impl Kernel for Memory {
    fn read(&mut self, layout: &Layout) -> Result<Reading, NftError> {
        Ok(match self.tables.get(&layout.family) {
            None => Reading::Absent,
            Some(table) if table.comment != layout.comment() => Reading::Other(format!("its comment is {:?}", table.comment)),
            Some(table) => {
                Reading::Ours(Contents { picks: table.picks.clone(), elements: table.elements.values().copied().collect() })
            }
        })
    }

    fn commit(&mut self, layout: &Layout, batch: &Batch) -> Result<(), NftError> {
        let mut table = if batch.rebuild {
            Table { comment: layout.comment(), ..Table::default() }
        } else {
            self.tables.get(&layout.family).cloned().ok_or_else(|| rejected("no such table".into()))?
        };
        table.picks.extend(&batch.picks);
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
        self.tables.insert(layout.family, table);
        self.commits.push(batch.clone());
        Ok(())
    }

    fn batch_limit(&self) -> usize {
        if self.limit == 0 { usize::MAX } else { self.limit }
    }
}

impl Table {
    fn add(&mut self, element: Element) -> Result<(), String> {
        if let Element::Service(_, chain) | Element::ClusterList(_, chain) | Element::LocalList(_, chain) = element
            && matches!(chain, Chain::Pick(_) | Chain::PickLocal(_))
            && !self.picks.contains(&chain)
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
