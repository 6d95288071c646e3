//! What is committed or refused as one.

use super::kernel::Usable;
use crate::model::Family;
use crate::proxy::{AffinityMap, Backend, Dest, Destination, Difference, Element, List, Set};
use std::collections::{BTreeMap, BTreeSet};

/// What is committed or refused as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// A destination with everything that belongs to it.
    Dest(Dest),
    /// An element that belongs to the node as a whole.
    Element(Element),
    /// The networks of a set that belongs to the node as a whole. One may take the place of another that it overlaps: neither an order in which the new
    /// one is refused, nor a moment without any, is right.
    Networks(Set),
}

impl Part {
    /// What an element belongs to that belongs to no destination.
    pub fn of_element(element: &Element) -> Part {
        match element {
            Element::ServiceCidr(_) | Element::PodCidr(_) => Part::Networks(element.set()),
            _ => Part::Element(*element),
        }
    }
}

/// One change that is committed or refused as a whole.
pub struct Change {
    /// Of what.
    pub part: Part,
    /// The elements to remove and to add.
    pub difference: Difference,
    /// How many elements a batch has taken out of the difference, to remove and to add.
    pub taken: (usize, usize),
    /// What the destination holds then, if it is one.
    pub becomes: Option<Destination>,
    /// The elements that are there then, or not, where it is no destination.
    pub elements: Vec<(Element, bool)>,
    /// Whether this is not what is wanted, but what is to stay while the kernel refuses that: the elements of a destination.
    pub instead: Option<Vec<Element>>,
}

impl Change {
    /// A change of a destination.
    pub fn of_dest(dest: Dest, difference: Difference, becomes: Option<Destination>) -> Change {
        Change { part: Part::Dest(dest), difference, taken: (0, 0), becomes, elements: Vec::new(), instead: None }
    }

    /// A change of an element of the node as a whole, which comes or goes.
    pub fn of_element(element: Element, present: bool) -> Change {
        Change::of_elements(Part::of_element(&element), vec![(element, present)])
    }

    fn of_elements(part: Part, elements: Vec<(Element, bool)>) -> Change {
        let of = |wanted| elements.iter().filter(|(_, present)| *present == wanted).map(|(element, _)| *element).collect();
        let difference = Difference { remove: of(false), add: of(true) };
        Change { part, difference, taken: (0, 0), becomes: None, elements, instead: None }
    }

    /// What the kernel holds of a destination before the change.
    pub fn found(&self, dest: Dest) -> Vec<Element> {
        let after = self.instead.clone().or_else(|| Some(self.becomes.as_ref()?.elements(dest))).unwrap_or_default();
        let added: BTreeSet<&Element> = self.difference.add.iter().collect();
        let stays = after.into_iter().filter(|element| !added.contains(element));
        stays.chain(self.difference.remove.iter().copied()).collect()
    }
}

/// A change that waits for its batch. A first start has one for each destination, so it is worked out when its turn comes.
pub enum Pending {
    /// Of a destination, from what was committed to what is wanted.
    Dest(Dest),
    /// An element of the node as a whole comes, or goes.
    Element(Element, bool),
    /// One that is worked out.
    Change(Box<Change>),
}

impl Pending {
    /// The change of an element of the node as a whole as one that stands in the place of what the kernel refuses.
    pub fn instead(self) -> Pending {
        let change = match self {
            Pending::Dest(_) => return self,
            Pending::Element(element, present) => Change::of_element(element, present),
            Pending::Change(change) => *change,
        };
        Pending::Change(Box::new(Change { instead: Some(Vec::new()), ..change }))
    }
}

/// The changes that bring elements of the node as a whole, or take them away: each element is otherwise now.
pub fn node_wide(elements: impl Iterator<Item = (Element, bool)>) -> Vec<Pending> {
    let (mut changes, mut networks) = (Vec::new(), BTreeMap::<Part, Vec<(Element, bool)>>::new());
    for (element, present) in elements {
        match Part::of_element(&element) {
            part @ Part::Networks(_) => networks.entry(part).or_default().push((element, present)),
            _ => changes.push(Pending::Element(element, present)),
        }
    }
    changes.extend(networks.into_iter().map(|(part, elements)| Pending::Change(Box::new(Change::of_elements(part, elements)))));
    changes
}

/// Gives the elements of a batch that was not committed back to the changes, in whose order they are.
pub fn give_back(changes: &mut [Change], elements: &Difference) {
    let (mut remove, mut add) = (elements.remove.iter().copied(), elements.add.iter().copied());
    for Change { difference, taken, .. } in changes {
        difference.remove.extend(remove.by_ref().take(taken.0));
        difference.add.extend(add.by_ref().take(taken.1));
    }
}

/// The slots as the kernel holds them, as far as they are filled without a gap.
pub fn seats(elements: &[Element]) -> Destination {
    let slots: BTreeMap<u32, Backend> = elements
        .iter()
        .filter_map(|element| match element {
            Element::Endpoint(_, slot, backend) => Some((*slot, *backend)),
            _ => None,
        })
        .collect();
    let from = |first: u32| -> Vec<Backend> { (first..).map_while(|slot| slots.get(&slot).copied()).collect() };
    Destination { cluster: from(0).into(), local: from(Element::LOCAL_SLOTS).into(), ..Destination::default() }
}

/// The maps that remember clients of a destination whose list loses a slot by this change.
pub fn bereft_maps(change: &Change) -> Vec<AffinityMap> {
    let Part::Dest(dest) = change.part else { return Vec::new() };
    let removed = &change.difference.remove;
    let before = removed.iter().filter_map(Element::chain).flat_map(|chain| chain.affinities());
    let after = change.becomes.iter().flat_map(|becomes| usable_of((&dest, becomes))).map(|usable| usable.map);
    let loses = |list: List| removed.iter().any(|one| matches!(one, Element::Endpoint(_, slot, _) if list.holds(*slot)));
    let (cluster, local) = (loses(List::Cluster), loses(List::Local));
    before.chain(after).filter(|map| if map.list == List::Local { local } else { cluster }).collect()
}

/// Where the clients of a destination may be sent again, for each map that remembers them; nothing without session affinity.
pub fn usable_of((dest, destination): (&Dest, &Destination)) -> Vec<Usable> {
    let maps = destination.remember(dest.protocol).map(|remember| remember.maps()).unwrap_or_default();
    let of = |map: AffinityMap| Usable { map, endpoints: destination.list(map.list).iter().copied().collect() };
    maps.into_iter().map(of).collect()
}

/// Where the clients of all these may be sent again: who is remembered otherwise is not taken over into a new table.
pub fn usable_in(changes: &[Change]) -> Vec<Usable> {
    let dests = changes.iter().filter_map(|change| match change.part {
        Part::Dest(dest) => Some((dest, change.becomes.as_ref()?)),
        Part::Element(_) | Part::Networks(_) => None,
    });
    let all = dests.flat_map(|(dest, becomes)| usable_of((&dest, becomes)));
    all.map(|usable| (usable.map, usable)).collect::<BTreeMap<_, _>>().into_values().collect()
}

/// The family whose table holds an element.
pub fn family_of(element: &Element) -> Family {
    match element {
        Element::ClusterIp(address) | Element::LocalDns(address) | Element::Hairpin(address) => Family::of(*address),
        Element::ServiceCidr(network) | Element::PodCidr(network) => Family::of(network.addr()),
        other => other.dest().map_or(Family::V4, |dest| dest.family()),
    }
}
