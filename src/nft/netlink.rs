//! The real kernel, spoken to over netlink.

use super::counters::{self, Counters};
use super::encode::{Known, MAX_ELEMENT, read_client, write_client, write_element};
use super::kernel::{Batch, Kernel, NftError, Reading, Usable};
use super::layout::{ChainSpec, Layout, TABLE, protocol};
use super::made::Made;
use super::monitor::{Membership, Monitor};
use super::read_back::table_comment;
use super::sets::{write_affinity_map, write_set};
use super::shown::ShownRule;
use super::socket::NfSocket;
use super::wire::{APPEND, Attributes, CREATE, Message, Writer};
use crate::model::Family;
use crate::proxy::{AffinityMap, Backend, Dest, Element, Set};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// `NFT_MSG_NEWTABLE`.
pub(super) const NEW_TABLE: u16 = 0;
pub(super) const GET_TABLE: u16 = 1;
pub(super) const DEL_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
pub(super) const GET_CHAIN: u16 = 4;
const DEL_CHAIN: u16 = 5;
const NEW_RULE: u16 = 6;
pub(super) const GET_RULE: u16 = 7;
pub(super) const DEL_RULE: u16 = 8;
pub(super) const NEW_SET: u16 = 9;
pub(super) const GET_SET: u16 = 10;
const DEL_SET: u16 = 11;
const NEW_ELEMENT: u16 = 12;
pub(super) const GET_ELEMENT: u16 = 13;
const DEL_ELEMENT: u16 = 14;

const GET_GENERATION: u16 = 16;

/// A nest's length has 16 bits; the last element must still fit.
const LIST_LIMIT: usize = 60_000;
/// Room in a batch for the skeleton and a block of `pick` chains in each direction.
const SKELETON: usize = 64 << 10;

/// Sets have numbers within a batch; those of the skeleton are below.
const FIRST_MAP_ID: u32 = 1000;
/// Clients that are forgotten by themselves while they are being removed spoil a batch. It is tried again so often.
const FORGET_ATTEMPTS: usize = 16;
/// A table is read by several dumps. When somebody commits between them they may contradict each other; then they are made again, so often.
const READ_ATTEMPTS: usize = 5;

/// nf_tables in the network namespace of the thread that made this.
pub struct Netlink {
    pub(super) socket: NfSocket,
    /// The rules of each family's chains as the kernel showed them when the table had just been made: one that shows them otherwise than we know must
    /// not be told them anew at each look.
    pub(super) made: BTreeMap<u8, BTreeMap<String, Vec<ShownRule>>>,
}

impl Netlink {
    /// Opens a socket; commits need CAP_NET_ADMIN.
    pub fn open() -> Result<Netlink, NftError> {
        Ok(Netlink { socket: NfSocket::open()?, made: BTreeMap::new() })
    }

    /// Whether the kernel lets us look at a family's tables; what ours holds is read later.
    ///
    /// # Errors
    /// When it does not, or knows no such family.
    pub fn look(&mut self, family: Family) -> Result<(), NftError> {
        table_comment(&mut self.socket, family).map(drop)
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
        for _ in 1..READ_ATTEMPTS {
            let before = self.generation();
            let reading = self.read_once(layout)?;
            // A chain that went away between two dumps is nobody's edit.
            if self.generation() == before {
                return Ok(reading);
            }
        }
        self.read_once(layout)
    }

    fn commit(&mut self, layout: &Layout, batch: &Batch) -> Result<(), NftError> {
        let room = self.batch_limit().saturating_sub(batch.elements.len());
        if batch.rebuild {
            let kept = self.kept_clients(layout, batch, room)?;
            match self.send(layout, batch, &[], &kept) {
                // Whatever is wrong with them must not hold up the rest.
                Err(NftError::Rejected(_)) if !kept.is_empty() => self.send(layout, batch, &[], &[])?,
                result => result?,
            }
            let rules = self.rules(layout.family)?;
            self.made.insert(layout.protocol(), rules);
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

    fn would_take(&mut self, layout: &Layout, batch: &Batch) -> Result<(), NftError> {
        self.socket.try_batch(|socket, writer| write_batch(socket, writer, layout, batch, &Counters::new(), &[], &[]))
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
            (Vec::new(), Vec::clear),
        )
    }

    fn send(&mut self, layout: &Layout, batch: &Batch, stale: &[Client], kept: &[(AffinityMap, Known)]) -> Result<(), NftError> {
        let counted = self.counted(layout.family, batch)?;
        self.socket.batch(|socket, writer| write_batch(socket, writer, layout, batch, &counted, stale, kept))
    }
}

fn write_batch(
    socket: &mut NfSocket,
    writer: &mut Writer,
    layout: &Layout,
    batch: &Batch,
    counted: &Counters,
    stale: &[Client],
    kept: &[(AffinityMap, Known)],
) {
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
    write_elements(writer, NEW_ELEMENT, &batch.elements.add, counted, &mut message);
    write_kept(writer, kept, &mut message);
    write_forgotten(writer, stale, &mut message);
    write_gone(writer, &batch.gone, &mut message);
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
