//! The chains and maps that are not part of the skeleton: made with the first element that needs them.
//!
//! `pick` chains serve all services; they are made in blocks and kept. What belongs to one service port goes with the last element that leads to
//! it. Nothing of this is remembered between two starts: names say what a chain does, and elements say whether it is needed.

use super::layout::pick_block;
use crate::proxy::{AffinityMap, Chain, Difference, Element};
use std::collections::{BTreeMap, BTreeSet};

/// Some chains and maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Made {
    /// Chains that elements lead to.
    pub chains: BTreeSet<Chain>,
    /// Maps that remember clients, which the rules of such chains use.
    pub maps: BTreeSet<AffinityMap>,
}

impl Made {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.maps.is_empty()
    }
}

/// What is made, and how many elements lead to each chain.
#[derive(Debug, Default)]
pub struct Uses {
    made: Made,
    users: BTreeMap<Chain, usize>,
    /// Chains that nobody needed when they were found.
    orphans: BTreeSet<Chain>,
}

impl Uses {
    /// What was found in the kernel.
    pub fn found(made: Made, elements: &[Element]) -> Uses {
        let mut users = BTreeMap::new();
        own_chains(elements).for_each(|chain| *users.entry(chain).or_default() += 1);
        let unused = |chain: &&Chain| !is_kept(chain) && !users.contains_key(chain);
        let orphans = made.chains.iter().filter(unused).copied().collect();
        Uses { made, users, orphans }
    }

    /// Whether something is there that nobody needs.
    pub fn has_orphans(&self) -> bool {
        !self.orphans.is_empty()
    }

    /// The maps that are there.
    pub fn maps(&self) -> &BTreeSet<AffinityMap> {
        &self.made.maps
    }

    /// What must be made before `elements` change, and what can go after that. With `rebuild` nothing is there yet.
    pub fn change(&self, elements: &Difference, rebuild: bool) -> (Made, Made) {
        let nothing = Uses::default();
        let now = if rebuild { &nothing } else { self };
        let mut chains = BTreeSet::new();
        if rebuild {
            chains.extend(pick_block(Chain::Pick(1)).into_iter().chain(pick_block(Chain::PickLocal(1))));
        }
        let picks = elements.add.iter().filter_map(Element::chain).filter(is_kept);
        chains.extend(picks.filter(|chain| !now.made.chains.contains(chain)).flat_map(pick_block));
        chains.retain(|chain| !now.made.chains.contains(chain));
        let mut gone: BTreeSet<Chain> = now.orphans.clone();
        for (chain, users) in now.users_after(elements) {
            match (users > 0, now.made.chains.contains(&chain)) {
                (true, false) => drop(chains.insert(chain)),
                (true, true) => drop(gone.remove(&chain)),
                (false, true) => drop(gone.insert(chain)),
                (false, false) => {}
            }
        }
        let stay = now.made.chains.difference(&gone).chain(&chains);
        let needed: BTreeSet<AffinityMap> = stay.flat_map(Chain::affinities).collect();
        let maps = needed.difference(&now.made.maps).copied().collect();
        let unused_maps = now.made.maps.difference(&needed).copied().collect();
        (Made { chains, maps }, Made { chains: gone, maps: unused_maps })
    }

    /// These were made, for elements that are to come. If they do not come, nobody needs them.
    pub fn made(&mut self, made: Made) {
        self.orphans.extend(made.chains.iter().filter(|chain| !is_kept(chain)));
        self.made.chains.extend(made.chains);
        self.made.maps.extend(made.maps);
    }

    /// Takes a committed change into account.
    pub fn changed(&mut self, elements: &Difference, made: Made, gone: &Made, rebuild: bool) {
        if rebuild {
            *self = Uses::default();
        }
        for (chain, users) in self.users_after(elements) {
            match users {
                0 => self.users.remove(&chain),
                _ => self.users.insert(chain, users),
            };
        }
        self.made.chains.extend(made.chains);
        self.made.maps.extend(made.maps);
        self.made.chains.retain(|chain| !gone.chains.contains(chain));
        self.made.maps.retain(|map| !gone.maps.contains(map));
        self.orphans.clear();
    }

    /// The chains whose number of users these elements change, with what becomes of it.
    fn users_after(&self, elements: &Difference) -> BTreeMap<Chain, usize> {
        let touched: BTreeSet<Chain> = own_chains(&elements.add).chain(own_chains(&elements.remove)).collect();
        let now = touched.iter().map(|chain| (*chain, self.users.get(chain).copied().unwrap_or_default()));
        let mut after: BTreeMap<Chain, usize> = now.collect();
        for chain in own_chains(&elements.add) {
            after.entry(chain).and_modify(|users| *users += 1);
        }
        for chain in own_chains(&elements.remove) {
            after.entry(chain).and_modify(|users| *users = users.saturating_sub(1));
        }
        after
    }
}

/// The chains that elements lead to and that are not kept anyway.
fn own_chains(elements: &[Element]) -> impl Iterator<Item = Chain> + '_ {
    elements.iter().filter_map(Element::chain).filter(|chain| matches!(chain, Chain::Own(_) | Chain::Remember(_)))
}

fn is_kept(chain: &Chain) -> bool {
    matches!(chain, Chain::Pick(_) | Chain::PickLocal(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Balance, Protocol};
    use crate::proxy::{Dest, Draw, List, PortId};

    fn sticky(slots: u32) -> Chain {
        let (port, protocol) = (PortId::default(), Protocol::Tcp);
        Chain::Own(Draw { port, protocol, list: List::Cluster, method: Balance::Random, slots, sticky: true })
    }

    fn leads_to(chain: Chain) -> Element {
        Element::Service(Dest { address: [10, 96, 0, 1].into(), protocol: Protocol::Tcp, port: 80 }, chain)
    }

    #[test]
    fn another_count_makes_another_chain_and_keeps_the_map() {
        let made = Made { chains: [sticky(3)].into(), maps: sticky(3).affinities().into_iter().collect() };
        let mut uses = Uses::found(made, &[leads_to(sticky(3))]);
        let elements = Difference { remove: vec![leads_to(sticky(3))], add: vec![leads_to(sticky(4))] };
        let (made, gone) = uses.change(&elements, false);
        assert_eq!(
            (&made, &gone),
            (&Made { chains: [sticky(4)].into(), ..Made::default() }, &Made { chains: [sticky(3)].into(), ..Made::default() })
        );
        uses.changed(&elements, made, &gone, false);
        let (made, gone) = uses.change(&Difference { remove: vec![leads_to(sticky(4))], add: vec![] }, false);
        assert!(made.is_empty());
        assert_eq!((gone.chains.len(), gone.maps.len()), (1, 1), "with the last element both go");
    }

    #[test]
    fn what_nobody_needed_when_it_was_found_goes_unless_it_is_needed_now() {
        let made =
            Made { chains: [sticky(3), sticky(4), Chain::Pick(9)].into(), maps: sticky(3).affinities().into_iter().collect() };
        let uses = Uses::found(made, &[]);
        assert!(uses.has_orphans());
        let (made, gone) = uses.change(&Difference { remove: vec![], add: vec![leads_to(sticky(4))] }, false);
        assert!(made.is_empty());
        assert_eq!(gone, Made { chains: [sticky(3)].into(), ..Made::default() });
    }
}
