//! Netlink messages and attributes, written into and read from plain bytes (`linux/netlink.h`, `linux/netfilter/nfnetlink.h`).

/// Length of the netlink header.
pub const HEADER: usize = 16;
/// Length of the nfnetlink header behind it.
pub const NF_HEADER: usize = 4;

/// `NLM_F_REQUEST`.
pub const REQUEST: u16 = 0x1;
/// `NLM_F_ACK`.
pub const ACK: u16 = 0x4;
/// `NLM_F_DUMP_INTR`: the table changed while it was read.
pub const DUMP_INTERRUPTED: u16 = 0x10;
/// `NLM_F_DUMP`.
pub const DUMP: u16 = 0x300;
/// `NLM_F_CREATE`.
pub const CREATE: u16 = 0x400;
/// `NLM_F_CREATE | NLM_F_APPEND`: a rule at the end of its chain.
pub const APPEND: u16 = 0xc00;

/// `NLMSG_ERROR`.
pub const ERROR: u16 = 2;
/// `NLMSG_DONE`.
pub const DONE: u16 = 3;
/// `NFNL_MSG_BATCH_BEGIN`.
pub const BATCH_BEGIN: u16 = 16;
/// `NFNL_MSG_BATCH_END`.
pub const BATCH_END: u16 = 17;
/// `NFNL_SUBSYS_NFTABLES`.
pub const SUBSYSTEM: u16 = 10;

const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;

/// Rounds up to netlink's alignment of four bytes.
pub fn align(length: usize) -> usize {
    (length + 3) & !3
}

/// A buffer of netlink messages.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
    message: usize,
}

impl Writer {
    /// Makes room for so many more bytes, so that a large buffer need not be copied as it grows. What is not written takes no memory.
    pub fn reserve(&mut self, bytes: usize) {
        self.bytes.reserve(bytes);
    }

    /// Begins a message of the nf_tables subsystem; [`Writer::end`] closes it. `protocol` is the `NFPROTO_*` of the table.
    pub fn begin(&mut self, kind: u16, flags: u16, sequence: u32, protocol: u8) {
        self.begin_raw(SUBSYSTEM << 8 | kind, flags, sequence, protocol, 0);
    }

    /// Begins a message with its whole type and resource id, as batch markers need it.
    pub fn begin_raw(&mut self, kind: u16, flags: u16, sequence: u32, protocol: u8, resource: u16) {
        self.message = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&[protocol, 0]);
        self.bytes.extend_from_slice(&resource.to_be_bytes());
    }

    /// Gives the message that was begun another version than 0.
    pub fn version(&mut self, version: u8) {
        self.bytes[self.message + HEADER + 1] = version;
    }

    /// Closes the message that [`Writer::begin`] began.
    pub fn end(&mut self) {
        let length = (self.bytes.len() - self.message) as u32;
        self.bytes[self.message..self.message + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// An attribute of plain bytes.
    pub fn bytes(&mut self, kind: u16, value: &[u8]) {
        self.bytes.extend_from_slice(&((value.len() + 4) as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(align(self.bytes.len()), 0);
    }

    /// A string attribute, with its final NUL.
    pub fn string(&mut self, kind: u16, value: &str) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&((value.len() + 5) as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        self.bytes.resize(start + align(value.len() + 5), 0);
    }

    /// A 32-bit attribute in network order, as nf_tables wants them all.
    pub fn u32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// A 64-bit attribute in network order.
    pub fn u64(&mut self, kind: u16, value: u64) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// An attribute that holds the attributes that `fill` writes.
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Writer)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        fill(self);
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    /// How many bytes are written.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing is written yet.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The messages.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// One message as received.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// The whole type, subsystem included.
    pub kind: u16,
    /// Flags.
    pub flags: u16,
    /// The sequence number of the request it answers.
    pub sequence: u32,
    /// The number of the socket that asked for it, or whose change it tells.
    pub sender: u32,
    /// Everything behind the netlink header.
    pub body: &'a [u8],
}

impl<'a> Message<'a> {
    /// The attributes behind the nfnetlink header.
    pub fn attributes(&self) -> Attributes<'a> {
        Attributes(self.body.get(NF_HEADER..).unwrap_or_default())
    }
}

/// The messages of a datagram; a damaged one ends the walk.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let header = bytes.get(..HEADER)?;
        let length = u32::from_ne_bytes(header[0..4].try_into().ok()?) as usize;
        let message = Message {
            kind: u16::from_ne_bytes(header[4..6].try_into().ok()?),
            flags: u16::from_ne_bytes(header[6..8].try_into().ok()?),
            sequence: u32::from_ne_bytes(header[8..12].try_into().ok()?),
            sender: u32::from_ne_bytes(header[12..16].try_into().ok()?),
            body: bytes.get(HEADER..length)?,
        };
        bytes = bytes.get(align(length)..).unwrap_or_default();
        Some(message)
    })
}

/// Attributes as received; iterating yields type and value, and ends at damage.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a>(pub &'a [u8]);

impl<'a> Attributes<'a> {
    /// The first attribute of this type.
    pub fn get(mut self, kind: u16) -> Option<&'a [u8]> {
        self.find(|(found, _)| *found == kind).map(|(_, value)| value)
    }

    /// The attributes inside the first attribute of this type.
    pub fn nested(self, kind: u16) -> Option<Attributes<'a>> {
        self.get(kind).map(Attributes)
    }

    /// A string without its final NUL.
    pub fn string(self, kind: u16) -> Option<&'a str> {
        let value = self.get(kind)?;
        std::str::from_utf8(value.strip_suffix(&[0]).unwrap_or(value)).ok()
    }

    /// A 16-bit number in network order.
    pub fn u16(self, kind: u16) -> Option<u16> {
        self.get(kind)?.try_into().ok().map(u16::from_be_bytes)
    }

    /// A 32-bit number in network order.
    pub fn u32(self, kind: u16) -> Option<u32> {
        self.get(kind)?.try_into().ok().map(u32::from_be_bytes)
    }

    /// A 64-bit attribute in network order.
    pub fn u64(self, kind: u16) -> Option<u64> {
        self.get(kind)?.try_into().ok().map(u64::from_be_bytes)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let header = self.0.get(..4)?;
        let length = u16::from_ne_bytes([header[0], header[1]]) as usize;
        let kind = u16::from_ne_bytes([header[2], header[3]]) & TYPE_MASK;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(align(length)..).unwrap_or_default();
        Some((kind, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut writer = Writer::default();
        writer.begin(9, CREATE, 7, 2);
        writer.string(1, "waypost");
        writer.nest(2, |inner| inner.u32(1, 443));
        writer.end();
        let bytes = writer.finish();
        let all: Vec<_> = messages(&bytes).collect();
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].kind, all[0].sequence), (SUBSYSTEM << 8 | 9, 7));
        assert_eq!(all[0].attributes().string(1), Some("waypost"));
        assert_eq!(all[0].attributes().nested(2).and_then(|inner| inner.u32(1)), Some(443));
    }

    #[test]
    fn damaged_input_ends_the_walk_instead_of_panicking() {
        let mut writer = Writer::default();
        writer.begin(9, 0, 1, 2);
        writer.string(1, "waypost");
        writer.end();
        let bytes = writer.finish();
        for cut in 0..bytes.len() {
            for message in messages(&bytes[..cut]) {
                assert!(message.attributes().into_iter().count() <= 1);
            }
        }
        assert_eq!(Attributes(&[2, 0, 1, 0, 0, 0]).into_iter().count(), 0, "a length below the header's own is damage");
    }
}
