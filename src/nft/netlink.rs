//! The real kernel, spoken to over netlink.

use super::counters::{self, Counters};
use super::encode::{Known, MAX_ELEMENT, read_bound, read_client, read_element, read_networks, write_client, write_element};
use super::kernel::{Batch, Contents, Kernel, NftError, Reading, Usable};
use super::layout::{ChainSpec, Layout, TABLE, protocol};
use super::made::Made;
use super::monitor::{Membership, Monitor};
use super::sets::{write_affinity_map, write_set};
use super::socket::NfSocket;
use super::wire::{APPEND, Attributes, CREATE, Message, Writer};
use crate::model::Family;
use crate::proxy::{AffinityMap, Backend, Chain, Dest, Element, Set};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

/// `NFT_MSG_NEWTABLE`.
pub(super) const NEW_TABLE: u16 = 0;
pub(super) const GET_TABLE: u16 = 1;
pub(super) const DEL_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
pub(super) const GET_CHAIN: u16 = 4;
const DEL_CHAIN: u16 = 5;
const NEW_RULE: u16 = 6;
const GET_RULE: u16 = 7;
pub(super) const DEL_RULE: u16 = 8;
pub(super) const NEW_SET: u16 = 9;
const GET_SET: u16 = 10;
const DEL_SET: u16 = 11;
const NEW_ELEMENT: u16 = 12;
const GET_ELEMENT: u16 = 13;
const DEL_ELEMENT: u16 = 14;

const GET_GENERATION: u16 = 16;

/// `NFT_TABLE_F_DORMANT`.
const DORMANT: u32 = 1;
/// `NF_ACCEPT`.
const ACCEPT: u32 = 1;
/// A nest's length has 16 bits; the last element must still fit.
const LIST_LIMIT: usize = 60_000;
/// Room in a batch for the skeleton and a block of `pick` chains in each direction.
const SKELETON: usize = 64 << 10;

/// Sets have numbers within a batch; those of the skeleton are below.
const FIRST_MAP_ID: u32 = 1000;
/// Clients that are forgotten by themselves while they are being removed spoil a batch. It is tried again so often.
const FORGET_ATTEMPTS: usize = 16;

/// nf_tables in the network namespace of the thread that made this.
pub struct Netlink {
    socket: NfSocket,
    /// The rules of each family's chains as they were first read after the table was made. Rules have no names, and the kernel shows them
    /// otherwise than they were sent; so this is how a changed one is noticed.
    rules: BTreeMap<u8, BTreeMap<String, Rules>>,
}

/// The rules of a chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Rules {
    count: usize,
    digest: u64,
}

impl Netlink {
    /// Opens a socket; commits need CAP_NET_ADMIN.
    pub fn open() -> Result<Netlink, NftError> {
        Ok(Netlink { socket: NfSocket::open()?, rules: BTreeMap::new() })
    }

    /// Listens to others' changes of our tables.
    ///
    /// # Errors
    /// When the kernel does not let us listen.
    pub fn monitor(&self) -> Result<(Monitor, Membership), NftError> {
        Monitor::open(self.socket.port_id()?)
    }
}

impl Kernel for Netlink {
    fn read(&mut self, layout: &Layout) -> Result<Reading, NftError> {
        let Some((comment, is_dormant)) = table_comment(&mut self.socket, layout.family)? else {
            return Ok(Reading::Absent);
        };
        if is_dormant {
            return Ok(Reading::Other("somebody has put it to sleep (flags dormant)".into()));
        }
        if comment != layout.comment() {
            return Ok(Reading::Other(format!("its comment is {comment:?}, ours would be {:?}", layout.comment())));
        }
        let made = match self.read_skeleton(layout)? {
            Ok(made) => made,
            Err(strange) => return Ok(Reading::Other(strange)),
        };
        let mut elements = Vec::new();
        for set in Set::ALL {
            match self.read_set(set, layout.family)? {
                Some(read) => elements.extend(read),
                None => return Ok(Reading::Other(format!("the set {} holds elements that are not ours", set.name()))),
            }
        }
        Ok(Reading::Ours(Contents { made, elements }))
    }

    fn commit(&mut self, layout: &Layout, batch: &Batch) -> Result<(), NftError> {
        if batch.rebuild {
            self.rules.remove(&layout.protocol());
        }
        let room = self.batch_limit().saturating_sub(batch.elements.len());
        if batch.rebuild {
            let kept = self.kept_clients(layout, batch, room)?;
            match self.send(layout, batch, &[], &kept) {
                // Whatever is wrong with them must not hold up the rest.
                Err(NftError::Rejected(_)) if !kept.is_empty() => self.send(layout, batch, &[], &[])?,
                result => result?,
            }
            // As they are now: whoever changes a rule before the next look would have it taken for ours.
            let rules = self.rules(layout.family)?;
            self.rules.insert(layout.protocol(), rules);
            return Ok(());
        }
        for _ in 0..FORGET_ATTEMPTS {
            let stale = self.stale_clients(layout, &batch.usable, room)?;
            match self.send(layout, batch, &stale, &[]) {
                // One of the clients may have been forgotten by itself meanwhile.
                Err(NftError::Rejected(_)) if !stale.is_empty() => {}
                result => return result,
            }
        }
        // They must not hold up the rest; a moment later they are looked at again.
        self.send(layout, batch, &[], &[])
    }

    fn forget(&mut self, layout: &Layout, usable: &[Usable]) -> Result<usize, NftError> {
        let mut batches = 0;
        for _ in 0..FORGET_ATTEMPTS {
            let stale = self.stale_clients(layout, usable, self.batch_limit())?;
            if stale.is_empty() {
                break;
            }
            match self.send(layout, &Batch::default(), &stale, &[]) {
                Ok(()) => batches += 1,
                Err(NftError::Rejected(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(batches)
    }

    fn batch_limit(&self) -> usize {
        self.socket.send_limit().saturating_sub(SKELETON).max(SKELETON) / MAX_ELEMENT
    }

    fn generation(&mut self) -> Option<u32> {
        let generation = |message: &Message<'_>| message.attributes().u32(1);
        self.socket.get(GET_GENERATION, generation).ok().flatten()
    }
}

/// A client that is remembered, and in which map.
type Client = (AffinityMap, IpAddr);

impl Netlink {
    /// The clients, at most `limit`, that would be sent where nobody is to be sent any more.
    fn stale_clients(&mut self, layout: &Layout, usable: &[Usable], limit: usize) -> Result<Vec<Client>, NftError> {
        let mut stale = BTreeSet::new();
        for Usable { map, endpoints } in usable {
            let found = self.clients(layout.family, *map)?;
            stale.extend(found.into_iter().filter(|(_, to)| !endpoints.contains(to)).map(|(client, _)| (*map, client)));
        }
        Ok(stale.into_iter().take(limit).collect())
    }

    /// The clients, at most `limit`, whom the table that is about to go remembers and the new one shall remember too: in maps of the same name, and
    /// where they went is still right.
    fn kept_clients(&mut self, layout: &Layout, batch: &Batch, limit: usize) -> Result<Vec<(AffinityMap, Known)>, NftError> {
        let mut kept = Vec::new();
        for Usable { map, endpoints } in batch.usable.iter().filter(|usable| batch.made.maps.contains(&usable.map)) {
            let of_map = |w: &mut Writer| {
                w.string(1, TABLE);
                w.string(2, &map.to_string());
            };
            let known =
                self.socket.dump_if_there(GET_ELEMENT, layout.protocol(), of_map, |known: &mut Vec<Known>, message| {
                    let elements = message.attributes().nested(3).into_iter().flatten();
                    known.extend(elements.filter_map(|(_, element)| Known::read(layout.family, Attributes(element))));
                })?;
            kept.extend(known.into_iter().filter(|known| endpoints.contains(&known.to)).map(|known| (*map, known)));
        }
        kept.truncate(limit);
        Ok(kept)
    }

    /// Whom a map remembers, and where each went.
    fn clients(&mut self, family: Family, map: AffinityMap) -> Result<Vec<(IpAddr, Backend)>, NftError> {
        self.socket.dump(
            GET_ELEMENT,
            protocol(family),
            |w| {
                w.string(1, TABLE);
                w.string(2, &map.to_string());
            },
            |clients: &mut Vec<_>, message| {
                let elements = message.attributes().nested(3).into_iter().flatten();
                clients.extend(elements.filter_map(|(_, element)| read_client(family, Attributes(element))));
            },
            Vec::new,
        )
    }

    fn send(&mut self, layout: &Layout, batch: &Batch, stale: &[Client], kept: &[(AffinityMap, Known)]) -> Result<(), NftError> {
        let counted = self.counted(layout.family, batch)?;
        self.socket.batch(|socket, writer| {
            let mut message = |writer: &mut Writer, kind, flags, fill: &dyn Fn(&mut Writer)| {
                writer.begin(kind, flags, socket.next_sequence(), layout.protocol());
                fill(writer);
                writer.end();
            };
            if batch.rebuild {
                write_skeleton(writer, layout, &mut message);
            }
            writer.reserve(batch.elements.len() * MAX_ELEMENT);
            write_made(writer, layout, &batch.made, &mut message);
            write_elements(writer, DEL_ELEMENT, &batch.elements.remove, &Counters::new(), &mut message);
            write_elements(writer, NEW_ELEMENT, &batch.elements.add, &counted, &mut message);
            write_kept(writer, kept, &mut message);
            write_forgotten(writer, stale, &mut message);
            write_gone(writer, &batch.gone, &mut message);
        })
    }
}

/// Writes one message: its type, flags, and what fills it.
pub(super) type WriteMessage<'a> = dyn FnMut(&mut Writer, u16, u16, &dyn Fn(&mut Writer)) + 'a;

fn write_skeleton(writer: &mut Writer, layout: &Layout, message: &mut WriteMessage<'_>) {
    let comment = [&[0, (layout.comment().len() + 1) as u8], layout.comment().as_bytes(), &[0]].concat();
    let create = |w: &mut Writer| {
        w.string(1, TABLE);
        w.u32(2, 0);
        w.bytes(6, &comment);
    };
    // Made, so that it can be removed whether or not it was there, and made again.
    message(writer, NEW_TABLE, CREATE, &create);
    message(writer, DEL_TABLE, 0, &|w| w.string(1, TABLE));
    message(writer, NEW_TABLE, CREATE, &create);
    for (set, id) in Set::ALL.into_iter().zip(1..) {
        message(writer, NEW_SET, CREATE, &|w| write_set(w, TABLE, set, layout.family, id));
    }
    write_chains(writer, TABLE, &layout.chains(), message);
}

/// Maps first, because rules name them.
fn write_made(writer: &mut Writer, layout: &Layout, made: &Made, message: &mut WriteMessage<'_>) {
    for (map, id) in made.maps.iter().zip(FIRST_MAP_ID..) {
        message(writer, NEW_SET, CREATE, &|w| write_affinity_map(w, TABLE, *map, layout.family, id));
    }
    let chains: Vec<ChainSpec> = made.chains.iter().filter_map(|chain| layout.made(*chain)).collect();
    write_chains(writer, TABLE, &chains, message);
}

/// Chains go with their rules, and then the maps that those named.
fn write_gone(writer: &mut Writer, gone: &Made, message: &mut WriteMessage<'_>) {
    for chain in &gone.chains {
        message(writer, DEL_CHAIN, 0, &|w| {
            w.string(1, TABLE);
            w.string(3, &chain.to_string());
        });
    }
    for map in &gone.maps {
        message(writer, DEL_SET, 0, &|w| {
            w.string(1, TABLE);
            w.string(2, &map.to_string());
        });
    }
}

fn write_kept(writer: &mut Writer, kept: &[(AffinityMap, Known)], message: &mut WriteMessage<'_>) {
    for of_map in kept.chunk_by(|(first, _), (second, _)| first == second) {
        for chunk in of_map.chunks(LIST_LIMIT / MAX_ELEMENT) {
            message(writer, NEW_ELEMENT, CREATE, &|w| {
                w.string(1, TABLE);
                w.string(2, &chunk[0].0.to_string());
                w.nest(3, |list| chunk.iter().for_each(|(_, known)| known.write(list)));
            });
        }
    }
}

fn write_forgotten(writer: &mut Writer, clients: &[Client], message: &mut WriteMessage<'_>) {
    for of_map in clients.chunk_by(|(first, _), (second, _)| first == second) {
        for chunk in of_map.chunks(LIST_LIMIT / MAX_ELEMENT) {
            message(writer, DEL_ELEMENT, 0, &|w| {
                w.string(1, TABLE);
                w.string(2, &chunk[0].0.to_string());
                w.nest(3, |list| chunk.iter().for_each(|(_, client)| write_client(list, *client)));
            });
        }
    }
}

/// All chains first, then their rules, so that any order of chains will do.
pub(super) fn write_chains(writer: &mut Writer, table: &str, chains: &[ChainSpec], message: &mut WriteMessage<'_>) {
    for chain in chains {
        message(writer, NEW_CHAIN, CREATE, &|w| write_chain(w, table, chain));
    }
    for chain in chains {
        for rule in &chain.rules {
            message(writer, NEW_RULE, APPEND, &|w| {
                w.string(1, table);
                w.string(2, &chain.name);
                w.nest(4, |list| rule.iter().for_each(|expression| expression.write(list)));
            });
        }
    }
}

fn write_chain(writer: &mut Writer, table: &str, chain: &ChainSpec) {
    writer.string(1, table);
    writer.string(3, &chain.name);
    if let Some(hook) = chain.hook {
        writer.nest(4, |w| {
            w.u32(1, hook.number);
            w.u32(2, hook.priority as u32);
        });
        writer.u32(5, 1);
        writer.string(7, hook.kind);
    }
}

fn write_elements(writer: &mut Writer, kind: u16, elements: &[Element], counted: &Counters, message: &mut WriteMessage<'_>) {
    let mut by_set: BTreeMap<Set, Vec<&Element>> = BTreeMap::new();
    elements.iter().for_each(|element| by_set.entry(element.set()).or_default().push(element));
    for (set, elements) in by_set {
        for chunk in elements.chunks(LIST_LIMIT / MAX_ELEMENT) {
            message(writer, kind, if kind == NEW_ELEMENT { CREATE } else { 0 }, &|w| {
                w.string(1, TABLE);
                w.string(2, set.name());
                w.nest(3, |list| {
                    for element in chunk {
                        let counter = match element {
                            Element::Service(dest, _) => counted.get(dest).copied(),
                            _ => None,
                        };
                        write_element(list, element, kind == NEW_ELEMENT, counter);
                    }
                });
            });
        }
    }
}

/// The comment of our table, or an empty one, and whether it is switched off; `None` when there is no table.
fn table_comment(socket: &mut NfSocket, family: Family) -> Result<Option<(String, bool)>, NftError> {
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
        || None,
    )
}

/// User data of a table: a byte for the type (0 is the comment), one for the length, the text with its NUL.
fn comment(user_data: &[u8]) -> Option<String> {
    let [0, length, rest @ ..] = user_data else { return None };
    let text = rest.get(..*length as usize)?;
    Some(String::from_utf8_lossy(text.strip_suffix(&[0]).unwrap_or(text)).into_owned())
}

impl Netlink {
    /// Compares chains, rules and sets with what we would make. The outer error is the socket's, the inner one says what is strange.
    fn read_skeleton(&mut self, layout: &Layout) -> Result<Result<Made, String>, NftError> {
        let chains = self.names(GET_CHAIN, layout.family, 3)?;
        if let Some(chain) = self.closed_chain(layout.family)? {
            return Ok(Err(format!("the policy of its chain {chain} was changed")));
        }
        let rules = self.rules(layout.family)?;
        let sets = self.names(GET_SET, layout.family, 2)?;
        let mut expected: BTreeMap<String, usize> =
            layout.chains().into_iter().map(|chain| (chain.name, chain.rules.len())).collect();
        let mut made = Made::default();
        for name in chains.keys().filter(|name| !expected.contains_key(*name)).cloned().collect::<Vec<_>>() {
            let Some((chain, spec)) = Chain::parse(&name).and_then(|chain| Some((chain, layout.made(chain)?))) else {
                return Ok(Err(format!("it has a chain {name} that is not ours")));
            };
            made.chains.insert(chain);
            expected.insert(name, spec.rules.len());
        }
        for (name, count) in &expected {
            if !chains.contains_key(name) || rules.get(name).map_or(0, |rules| rules.count) != *count {
                return Ok(Err(format!("its chain {name} is not as we made it")));
            }
        }
        let mut missing: BTreeSet<&str> = Set::ALL.into_iter().map(Set::name).collect();
        for name in sets.keys().filter(|name| !missing.remove(name.as_str())) {
            match AffinityMap::parse(name) {
                Some(map) => drop(made.maps.insert(map)),
                None => return Ok(Err(format!("it has a set {name} that is not ours"))),
            }
        }
        if let Some(name) = missing.first() {
            return Ok(Err(format!("it has no set {name}")));
        }
        let known = self.rules.entry(layout.protocol()).or_default();
        for (chain, rules) in rules {
            if *known.entry(chain.clone()).or_insert(rules) != rules {
                return Ok(Err(format!("the rules of its chain {chain} were changed")));
            }
        }
        Ok(Ok(made))
    }

    /// A chain of the table that does not accept what its rules leave over; all of ours do.
    fn closed_chain(&mut self, family: Family) -> Result<Option<String>, NftError> {
        self.socket.dump(
            GET_CHAIN,
            protocol(family),
            |w| w.string(1, TABLE),
            |closed: &mut Option<String>, message| {
                let attributes = message.attributes();
                if let (Some(TABLE), Some(name)) = (attributes.string(1), attributes.string(3))
                    && attributes.u32(5).is_some_and(|policy| policy != ACCEPT)
                {
                    *closed = Some(name.to_string());
                }
            },
            || None,
        )
    }

    /// The rules of each chain of the table: how many, and a digest of what they say.
    fn rules(&mut self, family: Family) -> Result<BTreeMap<String, Rules>, NftError> {
        self.socket.dump(
            GET_RULE,
            protocol(family),
            |w| w.string(1, TABLE),
            |rules: &mut BTreeMap<String, Rules>, message| {
                let attributes = message.attributes();
                if let (Some(TABLE), Some(chain)) = (attributes.string(1), attributes.string(2)) {
                    let Rules { count, digest } = rules.entry(chain.to_string()).or_default();
                    let mut hasher = DefaultHasher::new();
                    (*digest, attributes.get(4)).hash(&mut hasher);
                    (*count, *digest) = (*count + 1, hasher.finish());
                }
            },
            BTreeMap::new,
        )
    }

    /// How often each name occurs among the table's objects of one kind; `attribute` is the name's.
    fn names(&mut self, kind: u16, family: Family, attribute: u16) -> Result<BTreeMap<String, usize>, NftError> {
        self.socket.dump(
            kind,
            protocol(family),
            |w| w.string(1, TABLE),
            |names: &mut BTreeMap<String, usize>, message| {
                let attributes = message.attributes();
                if let (Some(TABLE), Some(name)) = (attributes.string(1), attributes.string(attribute)) {
                    *names.entry(name.to_string()).or_default() += 1;
                }
            },
            BTreeMap::new,
        )
    }

    /// The elements of a set; `None` when there are some that are not ours.
    fn read_set(&mut self, set: Set, family: Family) -> Result<Option<Vec<Element>>, NftError> {
        let networks = matches!(set, Set::ServiceCidrs | Set::PodCidrs);
        let (elements, bounds, foreign) = self.socket.dump(
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
            || (Vec::new(), Vec::new(), false),
        )?;
        if foreign {
            return Ok(None);
        }
        if !networks {
            return Ok(Some(elements));
        }
        let make = if set == Set::PodCidrs { Element::PodCidr } else { Element::ServiceCidr };
        Ok(read_networks(family, bounds).map(|networks| networks.into_iter().map(make).collect()))
    }
}

impl Netlink {
    /// What the destinations have counted whose elements a batch makes anew.
    fn counted(&mut self, family: Family, batch: &Batch) -> Result<Counters, NftError> {
        if batch.rebuild {
            return counters::all(&mut self.socket, family);
        }
        let service = |element: &Element| match element {
            Element::Service(dest, _) => Some(*dest),
            _ => None,
        };
        let removed: BTreeSet<Dest> = batch.elements.remove.iter().filter_map(service).collect();
        let again: Vec<Dest> = batch.elements.add.iter().filter_map(service).filter(|dest| removed.contains(dest)).collect();
        if again.is_empty() { Ok(Counters::new()) } else { counters::of(&mut self.socket, family, &again) }
    }
}

/// Removes our tables, whatever their layout, and says which were there.
pub fn cleanup() -> Result<Vec<String>, NftError> {
    let mut socket = NfSocket::open()?;
    let mut removed = Vec::new();
    for (family, name) in [(Family::V4, "ip"), (Family::V6, "ip6")] {
        if table_comment(&mut socket, family)?.is_some() {
            socket.batch(|socket, writer| {
                writer.begin(DEL_TABLE, 0, socket.next_sequence(), protocol(family));
                writer.string(1, TABLE);
                writer.end();
            })?;
            removed.push(format!("table {name} {TABLE}"));
        }
    }
    Ok(removed)
}
