//! Takes what the kernel's table holds for what was committed.

use super::Table;
use crate::nft::change::{Change, Part, Pending, node_wide, seats};
use crate::proxy::{Dest, Destination, Element, difference};
use std::collections::{BTreeMap, HashSet};

impl Table {
    /// Takes what the kernel holds for what was committed, and says what is to be changed to get from there to all that is wanted, and whether it was what this
    /// agent had left there. What the kernel refused stays as it was meanwhile.
    pub(super) fn adopt(&mut self, mut actual: Vec<Element>) -> (Vec<Pending>, bool) {
        self.want_what_was_committed();
        actual.sort_unstable_by_key(Element::dest);
        let (of_node, of_dests) = actual.split_at(actual.partition_point(|element| element.dest().is_none()));
        let left = std::mem::replace(&mut self.elements, of_node.iter().copied().collect());
        let mut is_as_left = left == self.elements;
        let mut changes = self.adopt_elements(&left);
        // At a first start each has its change; room that a list makes for itself is up to twice as much.
        changes.reserve_exact(self.wanted.destinations.len());
        let mut found = of_dests.chunk_by(|one, next| one.dest() == next.dest()).peekable();
        let mut still_wanted = BTreeMap::new();
        for (dest, wanted) in std::mem::take(&mut self.wanted.destinations) {
            while let Some(unwanted) = found.next_if(|elements| elements[0].dest() < Some(dest)) {
                changes.extend(removal(unwanted));
                is_as_left = false;
            }
            let elements = found.next_if(|elements| elements[0].dest() == Some(dest)).unwrap_or_default();
            let (change, as_left) = self.adopt_dest(dest, wanted.as_ref(), elements);
            is_as_left &= as_left;
            if let Some(change) = change {
                if !as_left {
                    self.destinations.remove(&dest);
                }
                changes.push(change);
                still_wanted.insert(dest, wanted);
            }
        }
        for unwanted in found {
            changes.extend(removal(unwanted));
            is_as_left = false;
        }
        self.wanted.destinations = still_wanted;
        (changes, is_as_left)
    }

    /// What was committed is wanted, unless something else is wanted since. It stays wanted until a commit succeeds.
    fn want_what_was_committed(&mut self) {
        for (dest, destination) in &self.destinations {
            self.wanted.destinations.entry(*dest).or_insert_with(|| Some(destination.clone()));
        }
        for element in &self.elements {
            self.wanted.elements.entry(*element).or_insert(true);
        }
    }

    fn adopt_elements(&self, left: &HashSet<Element>) -> Vec<Pending> {
        let wanted = &self.wanted.elements;
        let is_refused = |element: &Element| self.refused.contains(&Part::of_element(element));
        let is_news = |(element, present): &(Element, bool)| self.elements.contains(element) != *present;
        let mut unwanted: Vec<_> = self.elements.iter().filter(|element| !wanted.contains_key(element)).collect();
        unwanted.sort_unstable();
        let unwanted = unwanted.into_iter().map(|element| (*element, false));
        let asked = wanted.iter().map(|(element, present)| (*element, *present));
        let mut changes = node_wide(asked.filter(|(element, _)| !is_refused(element)).filter(is_news).chain(unwanted));
        let stay = wanted.keys().filter(|element| is_refused(element)).map(|element| (*element, left.contains(element)));
        changes.extend(node_wide(stay.filter(is_news)).into_iter().map(Pending::instead));
        changes
    }

    /// The way from what was found of a destination to what is wanted, if that is another one, and whether it was found as this agent had left it.
    fn adopt_dest(&mut self, dest: Dest, wanted: Option<&Destination>, found: &[Element]) -> (Option<Pending>, bool) {
        let before = self.destinations.get(&dest);
        let expand = |one: Option<&Destination>| one.map(|one| one.elements(dest)).unwrap_or_default();
        if let Some(holds) = self.refused.holds(&Part::Dest(dest)) {
            let difference = difference(found.to_vec(), holds.to_vec());
            let is_as_left = difference.is_empty();
            let becomes = before.cloned();
            let change = Change { instead: Some(holds.to_vec()), ..Change::of_dest(dest, difference, becomes) };
            return (Some(Pending::Change(Box::new(change))), is_as_left);
        }
        // At a first start nothing is found of anything.
        if found.is_empty() {
            let is_as_left = expand(before).is_empty();
            return (Some(Pending::Dest(dest)), is_as_left);
        }
        let becomes = wanted.map(|wanted| wanted.clone().seated(Some(&seats(found))));
        let change = difference(found.to_vec(), expand(becomes.as_ref()));
        // Where a change is outstanding, what is there is to be compared with what was there before it.
        let is_as_left = match before == becomes.as_ref() {
            true => change.is_empty(),
            false => difference(found.to_vec(), expand(before)).is_empty(),
        };
        match becomes {
            Some(becomes) if change.is_empty() => {
                self.destinations.insert(dest, becomes);
                (None, is_as_left)
            }
            becomes => (Some(Pending::Change(Box::new(Change::of_dest(dest, change, becomes)))), is_as_left),
        }
    }
}

/// The change that takes away what was found of a destination that nobody wants.
fn removal(found: &[Element]) -> Option<Pending> {
    let change = Change::of_dest(found.first()?.dest()?, difference(found.to_vec(), Vec::new()), None);
    Some(Pending::Change(Box::new(change)))
}
