//! Reading the table back from the kernel, and telling whether it is as this agent makes it.

use super::encode::{read_bound, read_element, read_networks};
use super::kernel::{Contents, NftError, Reading};
use super::layout::{ChainSpec, Layout, TABLE, protocol};
use super::made::Made;
use super::netlink::{GET_CHAIN, GET_ELEMENT, GET_RULE, GET_SET, GET_TABLE, Netlink};
use super::sets::{write_affinity_map, write_set};
use super::shown::{self, ShownChain, ShownRule, ShownSet};
use super::socket::NfSocket;
use super::wire::Attributes;
use crate::model::Family;
use crate::proxy::{AffinityMap, Chain, Element, Set};
use std::collections::{BTreeMap, BTreeSet};

/// `NFT_TABLE_F_DORMANT`.
const DORMANT: u32 = 1;
/// There is room for so many endpoints at most before they are read, whatever somebody's chain says.
const MOST_EXPECTED: usize = 1 << 20;

impl Netlink {
    /// Reads the table back once: by several dumps, which contradict each other when somebody commits between them.
    pub(super) fn read_once(&mut self, layout: &Layout) -> Result<Reading, NftError> {
        let Some((comment, is_dormant)) = table_comment(&mut self.socket, layout.family)? else {
            return Ok(Reading::Absent);
        };
        if comment != layout.comment() {
            return Ok(Reading::Other(format!("its comment is {comment:?}, ours would be {:?}", layout.comment())));
        }
        if is_dormant {
            return Ok(Reading::Edited("somebody has put it to sleep (flags dormant)".into()));
        }
        let made = match self.read_skeleton(layout)? {
            Ok(made) => made,
            Err(strange) => return Ok(Reading::Edited(strange)),
        };
        let mut elements = Vec::new();
        // Endpoints last: by then chains say how many there are. A list that makes room for itself as it grows is in memory twice.
        for set in Set::ALL.into_iter().filter(|set| *set != Set::Endpoints).chain([Set::Endpoints]) {
            if set == Set::Endpoints {
                elements.reserve_exact(slots(&elements).min(MOST_EXPECTED));
            }
            if !self.read_set(set, layout.family, &mut elements)? {
                return Ok(Reading::Edited(format!("the set {} holds elements that are not ours", set.name())));
            }
        }
        Ok(Reading::Ours(Contents { made, elements }))
    }

    /// Compares chains, rules and sets with what we would make. The outer error is the socket's, the inner one says what is strange.
    fn read_skeleton(&mut self, layout: &Layout) -> Result<Result<Made, String>, NftError> {
        let chains = self.named(GET_CHAIN, layout.family, 3, ShownChain::read)?;
        let rules = self.rules(layout.family)?;
        let sets = self.named(GET_SET, layout.family, 2, ShownSet::read)?;
        let mut expected: BTreeMap<String, ChainSpec> =
            layout.chains().into_iter().map(|chain| (chain.name.clone(), chain)).collect();
        let mut made = Made::default();
        for name in chains.keys().filter(|name| !expected.contains_key(*name)).cloned().collect::<Vec<_>>() {
            let Some((chain, spec)) = Chain::parse(&name).and_then(|chain| Some((chain, layout.made(chain)?))) else {
                return Ok(Err(format!("it has a chain {name} that is not ours")));
            };
            made.chains.insert(chain);
            expected.insert(name, spec);
        }
        let as_made = self.made.get(&layout.protocol());
        for (name, chain) in &expected {
            if chains.get(name) != Some(&ShownChain::written(chain)) {
                return Ok(Err(format!("its chain {name} is missing, or its hook, priority or policy is not ours")));
            }
            let shown = rules.get(name).map(Vec::as_slice).unwrap_or_default();
            let is_ours = shown.len() == chain.rules.len()
                && shown.iter().zip(&chain.rules).all(|(shown, rule)| *shown == shown::written(rule));
            if !is_ours && as_made.and_then(|made| made.get(name)).map(Vec::as_slice) != Some(shown) {
                return Ok(Err(format!("the rules of its chain {name} are not ours")));
            }
        }
        let mut missing: BTreeSet<&str> = Set::ALL.into_iter().map(Set::name).collect();
        for (name, shown) in &sets {
            let of_skeleton = Set::ALL.into_iter().find(|set| set.name() == name);
            missing.remove(name.as_str());
            let written = match (of_skeleton, AffinityMap::parse(name)) {
                (Some(set), _) => ShownSet::written(|w| write_set(w, TABLE, set, layout.family, 0)),
                (None, Some(map)) => {
                    made.maps.insert(map);
                    ShownSet::written(|w| write_affinity_map(w, TABLE, map, layout.family, 0))
                }
                (None, None) => return Ok(Err(format!("it has a set {name} that is not ours"))),
            };
            if *shown != written {
                return Ok(Err(format!("its set {name} is declared otherwise than ours")));
            }
        }
        if let Some(name) = missing.first() {
            return Ok(Err(format!("it has no set {name}")));
        }
        Ok(Ok(made))
    }

    /// The rules of each chain of the table.
    pub(super) fn rules(&mut self, family: Family) -> Result<BTreeMap<String, Vec<ShownRule>>, NftError> {
        self.socket.dump(
            GET_RULE,
            protocol(family),
            |w| w.string(1, TABLE),
            |rules: &mut BTreeMap<String, Vec<ShownRule>>, message| {
                let attributes = message.attributes();
                if let (Some(TABLE), Some(chain)) = (attributes.string(1), attributes.string(2)) {
                    let list = attributes.nested(4).unwrap_or(Attributes(&[]));
                    rules.entry(chain.to_string()).or_default().push(shown::rule(list));
                }
            },
            (BTreeMap::new(), BTreeMap::clear),
        )
    }

    /// The table's objects of one kind by name; `attribute` is the name's.
    fn named<T>(
        &mut self,
        kind: u16,
        family: Family,
        attribute: u16,
        read: impl Fn(Attributes<'_>) -> T,
    ) -> Result<BTreeMap<String, T>, NftError> {
        self.socket.dump(
            kind,
            protocol(family),
            |w| w.string(1, TABLE),
            |named: &mut BTreeMap<String, T>, message| {
                let attributes = message.attributes();
                if let (Some(TABLE), Some(name)) = (attributes.string(1), attributes.string(attribute)) {
                    named.insert(name.to_string(), read(attributes));
                }
            },
            (BTreeMap::new(), BTreeMap::clear),
        )
    }

    /// Adds the elements of a set to those of others; false when there are some that are not ours.
    fn read_set(&mut self, set: Set, family: Family, elements: &mut Vec<Element>) -> Result<bool, NftError> {
        let networks = matches!(set, Set::ServiceCidrs | Set::PodCidrs);
        let before = elements.len();
        let (bounds, foreign);
        (*elements, bounds, foreign) = self.socket.dump(
            GET_ELEMENT,
            protocol(family),
            |w| {
                w.string(1, TABLE);
                w.string(2, set.name());
            },
            |(elements, bounds, foreign): &mut (Vec<Element>, Vec<_>, bool), message| {
                for (_, element) in message.attributes().nested(3).into_iter().flatten() {
                    if networks {
                        read_bound(family, Attributes(element)).map_or_else(|| *foreign = true, |bound| bounds.push(bound));
                    } else {
                        read_element(set, family, Attributes(element))
                            .map_or_else(|| *foreign = true, |read| elements.push(read));
                    }
                }
            },
            ((std::mem::take(elements), Vec::new(), false), |(elements, bounds, foreign)| {
                elements.truncate(before);
                bounds.clear();
                *foreign = false;
            }),
        )?;
        let make = if set == Set::PodCidrs { Element::PodCidr } else { Element::ServiceCidr };
        match read_networks(family, bounds).filter(|_| !foreign) {
            Some(networks) => {
                elements.extend(networks.into_iter().map(make));
                Ok(true)
            }
            None => Ok(false),
        }
    }
}

/// How many slots the chains draw from that elements lead to.
fn slots(elements: &[Element]) -> usize {
    elements.iter().filter_map(|element| element.chain()?.slots()).map(|slots| slots.len()).sum()
}

/// The comment of our table, or an empty one, and whether it is switched off; `None` when there is no table.
pub(super) fn table_comment(socket: &mut NfSocket, family: Family) -> Result<Option<(String, bool)>, NftError> {
    socket.dump(
        GET_TABLE,
        protocol(family),
        |_| {},
        |found, message| {
            let attributes = message.attributes();
            if attributes.string(1) == Some(TABLE) {
                let is_dormant = attributes.u32(2).is_some_and(|flags| flags & DORMANT != 0);
                *found = Some((attributes.get(6).and_then(comment).unwrap_or_default(), is_dormant));
            }
        },
        (None, |found| *found = None),
    )
}

/// User data of a table: a byte for the type (0 is the comment), one for the length, the text with its NUL.
fn comment(user_data: &[u8]) -> Option<String> {
    let [0, length, rest @ ..] = user_data else { return None };
    let text = rest.get(..*length as usize)?;
    Some(String::from_utf8_lossy(text.strip_suffix(&[0]).unwrap_or(text)).into_owned())
}
