//! The counters of the elements of `services`: how many connections began to each destination.
//!
//! The kernel keeps them as long as the element stands. An element that is to lead to another chain is made anew, and so is everything when the
//! table is; then the new elements begin with the counts of the old ones.

use super::encode::{dest_key, read_dest};
use super::kernel::NftError;
use super::layout::{TABLE, protocol};
use super::socket::NfSocket;
use super::wire::{Attributes, Writer};
use crate::model::Family;
use crate::proxy::{Dest, Set};
use std::collections::HashMap;

/// `NFT_MSG_GETSETELEM`.
const GET_ELEMENT: u16 = 13;
const ELEMENTS: u16 = 3;
const KEY: u16 = 1;
const EXPRESSION: u16 = 7;
const VALUE: u16 = 1;
/// `NFTA_COUNTER_BYTES` and `NFTA_COUNTER_PACKETS`.
const BYTES: u16 = 1;
const PACKETS: u16 = 2;
/// More than so many are read by a dump of the whole set.
const FEW: usize = 64;

/// What an element has counted: packets are first packets of connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Packets: new connections.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Counter {
    /// Writes the expression that an element begins with.
    pub fn write(self, writer: &mut Writer) {
        writer.nest(EXPRESSION, |expression| {
            expression.string(1, "counter");
            expression.nest(2, |data| {
                data.bytes(BYTES, &self.bytes.to_be_bytes());
                data.bytes(PACKETS, &self.packets.to_be_bytes());
            });
        });
    }

    fn read(element: Attributes<'_>) -> Option<Counter> {
        let data = element.nested(EXPRESSION)?.nested(2)?;
        let number = |kind| data.get(kind)?.first_chunk().copied().map(u64::from_be_bytes);
        Some(Counter { packets: number(PACKETS)?, bytes: number(BYTES)? })
    }
}

/// Counters by destination.
pub type Counters = HashMap<Dest, Counter>;

/// The new connections to each destination as the kernel counts them, in both families, over a socket of its own, so that nobody waits for it.
///
/// # Errors
/// The kernel cannot be asked.
pub fn new_connections() -> Result<HashMap<Dest, u64>, NftError> {
    let mut socket = NfSocket::open()?;
    let mut counted = HashMap::new();
    for family in Family::BOTH {
        counted.extend(all(&mut socket, family)?.into_iter().map(|(dest, counter)| (dest, counter.packets)));
    }
    Ok(counted)
}

/// The counters of all destinations of a family; none where there is no table, or no such set in it.
///
/// # Errors
/// When the socket fails.
pub fn all(socket: &mut NfSocket, family: Family) -> Result<Counters, NftError> {
    let ask = |writer: &mut Writer| {
        writer.string(1, TABLE);
        writer.string(2, Set::Services.name());
    };
    socket.dump_if_there(GET_ELEMENT, protocol(family), ask, |counters: &mut Counters, message| {
        counters.extend(in_answer(message.attributes(), family));
    })
}

/// The counters of these destinations, as far as they are there.
///
/// # Errors
/// When the socket fails.
pub fn of(socket: &mut NfSocket, family: Family, wanted: &[Dest]) -> Result<Counters, NftError> {
    if wanted.len() > FEW {
        return all(socket, family);
    }
    let mut counters = Counters::new();
    for dest in wanted {
        let ask = |writer: &mut Writer| {
            writer.string(1, TABLE);
            writer.string(2, Set::Services.name());
            writer.nest(ELEMENTS, |list| list.nest(1, |element| element.nest(KEY, |key| key.bytes(VALUE, &dest_key(dest)))));
        };
        let found = socket.ask(GET_ELEMENT, protocol(family), ask, |message| {
            Some(in_answer(message.attributes(), family).collect::<Vec<_>>())
        })?;
        counters.extend(found.into_iter().flatten());
    }
    Ok(counters)
}

fn in_answer(answer: Attributes<'_>, family: Family) -> impl Iterator<Item = (Dest, Counter)> {
    let elements = answer.nested(ELEMENTS).into_iter().flatten().map(|(_, element)| Attributes(element));
    elements.filter_map(move |element| {
        let dest = read_dest(element.nested(KEY)?.get(VALUE)?, family)?;
        Some((dest, Counter::read(element)?))
    })
}
