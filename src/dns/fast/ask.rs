//! A plain question, read from its datagram without a copy.

use crate::dns::answer::rtype;
use crate::dns::name::{MAX_LABEL, MAX_NAME};
use crate::dns::reply::{PLAIN_UDP_PAYLOAD, UDP_PAYLOAD};

pub(super) const HEADER: usize = 12;
const OPT: [u8; 3] = [0, 0, 41];
const OPT_LENGTH: usize = 11;
const CLASS_IN: [u8; 2] = [0, 1];
/// Zone transfers and what else is no question about a name's records, is refused elsewhere.
const TRANSFERS: [u16; 2] = [251, 252];

/// Replies over TCP that are longer are the other path's: a name behind this place cannot be pointed at (RFC 1035, section 4.1.4).
const FAR: usize = 0x3fff;

/// A question that has nothing unusual about it.
pub(super) struct Asked<'a> {
    /// The name as the client spelled it, in wire form.
    pub name: &'a [u8],
    /// Name, type and class as they were sent.
    pub echo: &'a [u8],
    pub rtype: u16,
    /// Id and flags of the reply, with AA and without a code.
    pub flags: [u8; 4],
    pub edns: Option<Edns>,
    pub over_tcp: bool,
    /// Whether the client knows what authentic data are (RFC 6840, section 5.8).
    pub wants_authentic: bool,
}

#[derive(Clone, Copy)]
pub(super) struct Edns {
    pub dnssec_ok: bool,
    payload: u16,
}

impl<'a> Asked<'a> {
    /// `None` for everything that is not the usual: the other path knows what to say to it.
    pub fn read(datagram: &'a [u8]) -> Option<Asked<'a>> {
        let (header, body) = datagram.split_first_chunk::<HEADER>()?;
        let [id_high, id_low, flags, more_flags, 0, 1, 0, 0, 0, 0, 0, additional] = *header else { return None };
        // A query (not a response) with opcode 0.
        if flags & 0b1111_1000 != 0 {
            return None;
        }
        let name_length = name_length(body)?;
        let (echo, rest) = body.split_at_checked(name_length + 4)?;
        let rtype = u16::from_be_bytes([echo[name_length], echo[name_length + 1]]);
        if echo[name_length + 2..] != CLASS_IN || TRANSFERS.contains(&rtype) {
            return None;
        }
        let edns = match (additional, rest) {
            (0, []) => None,
            (1, opt) => Some(Edns::read(opt)?),
            _ => return None,
        };
        const RESPONSE_AND_AUTHORITATIVE: u8 = 0b1000_0100;
        const RECURSION_DESIRED: u8 = 0b0000_0001;
        const CHECKING_DISABLED: u8 = 0b0001_0000;
        const AUTHENTIC: u8 = 0b0010_0000;
        let flags = [id_high, id_low, RESPONSE_AND_AUTHORITATIVE | flags & RECURSION_DESIRED, more_flags & CHECKING_DISABLED];
        let wants_authentic = more_flags & AUTHENTIC != 0 || edns.is_some_and(|edns| edns.dnssec_ok);
        Some(Asked { name: &echo[..name_length], echo, rtype, flags, edns, over_tcp: false, wants_authentic })
    }

    /// The same for a message that came over TCP.
    pub fn read_message(message: &'a [u8]) -> Option<Asked<'a>> {
        Some(Asked { over_tcp: true, ..Asked::read(message)? })
    }

    /// How long the reply may be.
    pub fn limit(&self) -> usize {
        if self.over_tcp {
            return FAR;
        }
        self.edns.map_or(PLAIN_UDP_PAYLOAD, |edns| edns.payload.clamp(PLAIN_UDP_PAYLOAD, UDP_PAYLOAD)).into()
    }

    /// Whether the DO bit is set.
    pub fn wants_dnssec(&self) -> bool {
        self.edns.is_some_and(|edns| edns.dnssec_ok)
    }

    /// Whether others may be asked to look further.
    pub fn is_recursive(&self) -> bool {
        self.flags[2] & 0b0000_0001 != 0
    }

    /// Whether nobody is to check the answer.
    pub fn is_unchecked(&self) -> bool {
        self.flags[3] & 0b0001_0000 != 0
    }

    /// Whether these bytes repeat the question, in whatever spelling.
    pub fn is_echo(&self, bytes: &[u8]) -> bool {
        let (name, rest) = bytes.split_at(self.name.len().min(bytes.len()));
        name.eq_ignore_ascii_case(self.name) && rest == &self.echo[self.name.len()..]
    }

    /// Whether it asks for addresses.
    pub fn is_for_addresses(&self) -> bool {
        matches!(self.rtype, rtype::A | rtype::AAAA)
    }
}

impl Edns {
    /// An OPT record of version 0 without options. Options are rare, and somebody may want to look at them.
    fn read(opt: &[u8]) -> Option<Edns> {
        let opt: &[u8; OPT_LENGTH] = opt.try_into().ok()?;
        let [0, 0, 41, high, low, 0, 0, flags, _, 0, 0] = *opt else { return None };
        Some(Edns { dnssec_ok: flags & 0x80 != 0, payload: u16::from_be_bytes([high, low]) })
    }

    /// The OPT record of a reply.
    pub fn reply(self) -> [u8; OPT_LENGTH] {
        let [high, low] = UDP_PAYLOAD.to_be_bytes();
        let flags = if self.dnssec_ok { 0x80 } else { 0 };
        [OPT[0], OPT[1], OPT[2], high, low, 0, 0, flags, 0, 0, 0]
    }
}

/// The length of the name at the beginning of these bytes; `None` when it is no name, or one with a pointer.
fn name_length(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1 + length;
        if length > MAX_LABEL || at > MAX_NAME {
            return None;
        }
        if length == 0 {
            return Some(at);
        }
    }
}
