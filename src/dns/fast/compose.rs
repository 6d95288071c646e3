//! Writing a reply in place, with names compressed exactly as the other path does it (`encode.rs`): both give the same bytes.

use super::ask::{Asked, HEADER};
use crate::dns::name::Labels;

const POINTER: u16 = 0xc000;
/// A pointer, type, class, TTL, length, and an IPv4 address.
const SHORTEST_RECORD: usize = 2 + 10 + 4;

/// A reply that is being written. Its memory is used again and again.
#[derive(Default)]
pub(super) struct Reply {
    bytes: Vec<u8>,
    limit: usize,
    /// Where in the message a name begins that may be pointed at, and where in `spelled` it stands in full.
    places: Vec<Place>,
    spelled: Vec<u8>,
    counts: [u16; 3],
    flags: [u8; 4],
    /// Whether something has found no room.
    is_cut: bool,
}

#[derive(Clone, Copy)]
struct Place {
    at: u16,
    start: u16,
    end: u16,
}

/// The sections of a message behind the question.
#[derive(Clone, Copy)]
pub(super) enum Section {
    Answer,
    Authority,
    Additional,
}

/// How much was written at some moment.
#[derive(Clone, Copy)]
pub(super) struct Mark {
    length: usize,
    counts: [u16; 3],
}

impl Reply {
    /// Begins a reply: header and question.
    pub fn begin(&mut self, asked: &Asked<'_>) {
        self.bytes.clear();
        self.places.clear();
        self.spelled.clear();
        self.counts = [0; 3];
        self.flags = asked.flags;
        self.is_cut = false;
        self.limit = asked.limit() - asked.edns.map_or(0, |edns| edns.reply().len());
        self.bytes.extend_from_slice(&[0; HEADER]);
        self.bytes.extend_from_slice(asked.echo);
        let name = &asked.name[..asked.name.len() - 1];
        self.remember(name, name.len(), HEADER);
    }

    /// How much is there now.
    pub fn mark(&self) -> Mark {
        Mark { length: self.bytes.len(), counts: self.counts }
    }

    /// Takes back what was written since.
    pub fn back_to(&mut self, mark: Mark) {
        self.bytes.truncate(mark.length);
        self.counts = mark.counts;
        let length = mark.length as u16;
        self.places.retain(|place| place.at < length);
    }

    /// Not everything has found room.
    pub fn truncated(&mut self) {
        self.flags[2] |= 0b0000_0010;
    }

    /// Nothing is said here but that TCP is there, with no authority.
    pub fn sends_to_tcp(&mut self) {
        self.flags[2] &= !0b0000_0100;
        self.truncated();
    }

    /// Whether something has found no room.
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Whether so many records may have room. Where they cannot, nothing needs to be written first to find that out.
    pub fn may_have(&mut self, records: usize) -> bool {
        self.is_cut |= self.bytes.len() + records * SHORTEST_RECORD > self.limit;
        !self.is_cut
    }

    /// Sets the response code.
    pub fn code(&mut self, code: u8) {
        self.flags[3] |= code;
    }

    /// How many records a section has.
    pub fn count(&self, section: Section) -> u16 {
        self.counts[section as usize]
    }

    /// Adds a record of class IN. `data` is the beginning of its data, `names` follow it (compressed unless `plain`), then `rest`. False when it
    /// does not fit; then nothing is added.
    pub fn record(&mut self, section: Section, owner: &[u8], rtype: u16, ttl: u32, data: Data<'_>) -> bool {
        let before = self.mark();
        self.name(owner, true);
        self.bytes.extend_from_slice(&rtype.to_be_bytes());
        self.bytes.extend_from_slice(&[0, 1]);
        self.bytes.extend_from_slice(&ttl.to_be_bytes());
        let length_at = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0]);
        match data {
            Data::Bytes(bytes) => self.bytes.extend_from_slice(bytes),
            Data::Name(name) => self.name(name, true),
            Data::Service { numbers, target } => {
                numbers.iter().for_each(|number| self.bytes.extend_from_slice(&number.to_be_bytes()));
                self.name(target, false);
            }
            Data::Zone { primary, mailbox, numbers } => {
                self.name(primary, true);
                self.name(mailbox, true);
                numbers.iter().for_each(|number| self.bytes.extend_from_slice(&number.to_be_bytes()));
            }
        }
        let length = (self.bytes.len() - length_at - 2) as u16;
        self.bytes[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
        if self.bytes.len() > self.limit {
            self.back_to(before);
            self.is_cut = true;
            return false;
        }
        self.counts[section as usize] += 1;
        true
    }

    /// The whole reply.
    pub fn finish(&mut self, asked: &Asked<'_>) -> &[u8] {
        let opt = asked.edns.map(|edns| edns.reply());
        self.bytes.extend_from_slice(opt.as_ref().map_or(&[], |opt| opt));
        let [answers, authorities, additionals] = self.counts;
        let additionals = additionals + u16::from(opt.is_some());
        self.bytes[..4].copy_from_slice(&self.flags);
        for (place, count) in [1, answers, authorities, additionals].into_iter().enumerate() {
            self.bytes[4 + 2 * place..6 + 2 * place].copy_from_slice(&count.to_be_bytes());
        }
        &self.bytes
    }

    /// A name, given without the root. Places are remembered for later names even where this one must not be compressed itself.
    fn name(&mut self, name: &[u8], may_point: bool) {
        let at = self.bytes.len();
        let known = self.known_part(name);
        let new = known.map_or(name.len(), |(length, _)| length);
        match known.filter(|_| may_point) {
            Some((_, place)) => {
                self.bytes.extend_from_slice(&name[..new]);
                self.bytes.extend_from_slice(&(POINTER | place).to_be_bytes());
            }
            None => {
                self.bytes.extend_from_slice(name);
                self.bytes.push(0);
            }
        }
        if new > 0 {
            self.remember(name, new, at);
        }
    }

    /// The end of the name that stands somewhere already: how much is in front of it, and where.
    fn known_part(&self, name: &[u8]) -> Option<(usize, u16)> {
        let mut front = 0;
        for label in Labels::of(name) {
            let rest = &name[front..];
            let stands_at = |place: &&Place| &self.spelled[place.start.into()..place.end.into()] == rest;
            if let Some(place) = self.places.iter().find(stands_at) {
                return Some((front, place.at));
            }
            front += 1 + label.len();
        }
        None
    }

    /// Names that begin in the first `new` bytes of this one may be pointed at.
    fn remember(&mut self, name: &[u8], new: usize, at: usize) {
        let start = self.spelled.len();
        self.spelled.extend_from_slice(name);
        let end = self.spelled.len() as u16;
        let mut front = 0;
        for label in Labels::of(&name[..new]) {
            self.places.push(Place { at: (at + front) as u16, start: (start + front) as u16, end });
            front += 1 + label.len();
        }
    }
}

/// The data of a record. Names are given without the root.
#[derive(Clone, Copy)]
pub(super) enum Data<'a> {
    /// No name in it.
    Bytes(&'a [u8]),
    Name(&'a [u8]),
    Service {
        numbers: [u16; 3],
        target: &'a [u8],
    },
    Zone {
        primary: &'a [u8],
        mailbox: &'a [u8],
        numbers: [u32; 5],
    },
}
