//! An answer that a cache has kept, as the reply to a question for it: its bytes, with what differs from client to client.
//!
//! The other path reads them, changes the message and writes it anew. This is the same as long as no name in it is spelled otherwise and
//! addresses are all that is shuffled; what is not so is left to that path.

use super::ask::{Asked, HEADER};
use crate::dns::answer::rtype;
use std::sync::Arc;

/// A pointer to the name of the question.
const QUESTION: [u8; 2] = [0xc0, HEADER as u8];
const OPT: u16 = 41;
/// The bytes of an OPT record without anything in it.
const EMPTY_OPT: usize = 11;
const MX: u16 = 15;
/// Codes beyond this have no counts on this path.
const NX_DOMAIN: u8 = 3;
/// In the flags of a message: recursion is available, and the data are authentic.
const AVAILABLE: u8 = 0b1000_0000;
const AUTHENTIC: u8 = 0b0010_0000;
const CODE: u8 = 0b0000_1111;

/// What is looked for in a cache.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The name in wire form, lower case.
    pub name: &'a [u8],
    /// The type.
    pub rtype: u16,
    /// The whole key ([`crate::dns::cache::Key`]).
    pub key: &'a [u8],
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The message, as it was kept.
    pub answer: Arc<[u8]>,
    /// Seconds that it has left.
    pub ttl: u32,
    /// Whether addresses are shuffled.
    pub shuffles: bool,
}

/// Writes the reply, and says the code; `None` where the other path must do it. `below` draws numbers.
pub(super) fn compose(bytes: &mut Vec<u8>, asked: &Asked<'_>, kept: &Kept, below: impl FnMut(usize) -> usize) -> Option<u8> {
    let (header, body) = kept.answer.split_first_chunk::<HEADER>()?;
    let [_, _, _, flags, 0, 1, counts @ ..] = *header else { return None };
    let echoed = body.get(..asked.echo.len()).filter(|echoed| asked.is_echo(echoed))?;
    let code = Some(flags & CODE).filter(|code| *code <= NX_DOMAIN)?;
    // Before it is copied, for nothing: an OPT record is all that it may lose.
    if kept.answer.len() > asked.limit() + EMPTY_OPT {
        return None;
    }
    bytes.clear();
    bytes.extend_from_slice(&kept.answer);
    let mut walk = Walk { bytes, at: HEADER + asked.echo.len(), ttl: kept.ttl };
    let counts: [[u8; 2]; 3] = [[counts[0], counts[1]], [counts[2], counts[3]], [counts[4], counts[5]]];
    let shuffles = kept.shuffles && code == 0;
    let is_spelled_so = echoed == asked.echo;
    let mut addresses = None;
    for (section, count) in counts.map(u16::from_be_bytes).into_iter().enumerate() {
        let found = walk.section(count, section == 2, shuffles)?;
        // Names that are no pointers may have a part of the question's name, in its spelling.
        if !is_spelled_so && !found.is_of_question {
            return None;
        }
        match found.addresses {
            Some(found) if section == 0 => addresses = Some(found),
            Some(found) if shuffles && found.count > 1 => return None,
            _ => {}
        }
    }
    let end = walk.at;
    // An OPT record without anything in it may stand at the end.
    bytes.truncate(end);
    if let Some(addresses) = addresses.filter(|_| shuffles) {
        addresses.shuffle(bytes, below);
    }
    let opt = asked.edns.map(|edns| edns.reply());
    bytes.extend_from_slice(opt.as_ref().map_or(&[], |opt| opt));
    if bytes.len() > asked.limit() {
        return None;
    }
    bytes[..4].copy_from_slice(&asked.flags);
    bytes[3] |= flags & (AVAILABLE | CODE) | if asked.wants_authentic { flags & AUTHENTIC } else { 0 };
    bytes[HEADER..HEADER + asked.echo.len()].copy_from_slice(asked.echo);
    let has_opt = kept.answer.len() > end;
    let additionals = u16::from_be_bytes(counts[2]) - u16::from(has_opt) + u16::from(opt.is_some());
    bytes[10..12].copy_from_slice(&additionals.to_be_bytes());
    Some(code)
}

/// Goes through the records of a message and sets their TTL.
struct Walk<'a> {
    bytes: &'a mut Vec<u8>,
    at: usize,
    ttl: u32,
}

/// What a section has.
struct Found {
    /// Nothing in it but addresses of the name that was asked for.
    is_of_question: bool,
    addresses: Option<Addresses>,
}

/// Addresses of one name and type, one after the other.
#[derive(Clone, Copy)]
struct Addresses {
    rtype: u16,
    /// Where the first one begins.
    first: usize,
    /// How long a record is, and the address at its end.
    record: usize,
    address: usize,
    count: usize,
}

impl Walk<'_> {
    /// A section of so many records. `None` where its order would be changed by more than a shuffle of addresses.
    fn section(&mut self, count: u16, is_last: bool, shuffles: bool) -> Option<Found> {
        let mut found = Found { is_of_question: true, addresses: None };
        let (mut rank, mut exchanges) = (0, 0);
        for index in 0..count {
            let (start, name) = (self.at, name_length(self.bytes.get(self.at..)?)?);
            let fixed: [u8; 10] = *self.bytes.get(start + name..)?.first_chunk()?;
            let [type_high, type_low, _, _, ttl @ .., length_high, length_low] = fixed;
            let (rtype, length) = (u16::from_be_bytes([type_high, type_low]), u16::from_be_bytes([length_high, length_low]));
            let end = start + name + fixed.len() + usize::from(length);
            if rtype == OPT {
                let is_plain = is_last && index + 1 == count && length == 0 && ttl[0] == 0 && end == self.bytes.len();
                return is_plain.then_some(found);
            }
            let owner = self.bytes.get(start..start + name)?;
            found.is_of_question &= owner == QUESTION && matches!(rtype, rtype::A | rtype::AAAA);
            let before = std::mem::replace(&mut rank, rank_of(rtype));
            exchanges += usize::from(rtype == MX);
            if shuffles && (rank < before || exchanges > 1) {
                return None;
            }
            if rank == rank_of(rtype::A) {
                let (record, address) = (end - start, length.into());
                match &mut found.addresses {
                    None => found.addresses = Some(Addresses { rtype, first: start, record, address, count: 1 }),
                    Some(all) if all.is_next(self.bytes, start, record, rtype) => all.count += 1,
                    // Of several names or families.
                    Some(_) if shuffles => return None,
                    Some(_) => {}
                }
            }
            self.bytes.get_mut(start + name + 4..start + name + 8)?.copy_from_slice(&self.ttl.to_be_bytes());
            self.at = Some(end).filter(|end| *end <= self.bytes.len())?;
        }
        Some(found)
    }
}

impl Addresses {
    /// Whether the record of this length that begins here goes on with them.
    fn is_next(&self, bytes: &[u8], start: usize, record: usize, rtype: u16) -> bool {
        let owner = self.record - self.address - 10;
        rtype == self.rtype
            && record == self.record
            && start == self.first + self.count * self.record
            && bytes.get(start..start + owner) == bytes.get(self.first..self.first + owner)
    }

    fn shuffle(&self, bytes: &mut [u8], mut below: impl FnMut(usize) -> usize) {
        let address = |index: usize| self.first + (index + 1) * self.record - self.address;
        for index in 0..self.count {
            let other = index + below(self.count - index);
            for byte in 0..self.address {
                bytes.swap(address(index) + byte, address(other) + byte);
            }
        }
    }
}

/// In which order records stand where addresses are shuffled: aliases, others, addresses, mail exchangers.
fn rank_of(kind: u16) -> u8 {
    match kind {
        rtype::CNAME => 0,
        rtype::A | rtype::AAAA => 2,
        MX => 3,
        _ => 1,
    }
}

/// The length of a name that may end in a pointer.
fn name_length(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match *bytes.get(at)? {
            0 => return Some(at + 1),
            length if length & 0xc0 == 0xc0 => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}
