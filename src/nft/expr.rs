//! The expressions that the table's rules are made of, as the kernel's virtual machine takes them
//! (`linux/netfilter/nf_tables.h`). Registers are counted in words of four bytes from 0 to 15.

use super::wire::Writer;

/// One expression of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expr {
    /// Loads bytes of the packet.
    Payload {
        /// Where the offset counts from.
        base: Base,
        /// First byte.
        offset: u32,
        /// How many bytes.
        length: u32,
        /// Register to fill.
        to: u32,
    },
    /// Loads meta data.
    Meta {
        /// `NFT_META_*`.
        key: u32,
        /// Register to fill.
        to: u32,
    },
    /// Sets the packet mark from a register.
    SetMark {
        /// Register to take it from.
        from: u32,
    },
    /// Loads a conntrack field.
    Ct {
        /// `NFT_CT_*`.
        key: u32,
        /// Register to fill.
        to: u32,
    },
    /// `to = (to & mask) ^ xor`, over one word in host order.
    Bitwise {
        /// The register, read and written.
        register: u32,
        /// Bits to keep.
        mask: u32,
        /// Bits to flip.
        xor: u32,
    },
    /// Goes on only if these of a TCP segment's flags are set, of those that are asked about. Uses register 0.
    TcpFlags {
        /// The flags that are looked at.
        among: u8,
        /// Those that must be set; the others must not be.
        set: u8,
    },
    /// Goes on only if the register equals the value (or differs from it).
    Compare {
        /// Register to look at.
        register: u32,
        /// True: goes on if they differ.
        differs: bool,
        /// Bytes to compare with.
        value: Vec<u8>,
    },
    /// Looks a key up in a set.
    Lookup {
        /// Name of the set.
        set: &'static str,
        /// First register of the key.
        key: u32,
        /// What to do with the answer.
        answer: Answer,
    },
    /// Looks a client up in a map that remembers clients, and goes on if it is there.
    LookupClient {
        /// Name of the map.
        map: String,
        /// First register of the client's address.
        key: u32,
        /// Registers from this one on are filled with the endpoint.
        data: u32,
    },
    /// Puts a client into a map; where it is there, its time counts anew, and the endpoint stays.
    Update {
        /// Name of the map.
        map: String,
        /// First register of the client's address.
        key: u32,
        /// First register of the endpoint.
        data: u32,
        /// Until it is forgotten.
        seconds: u32,
    },
    /// Puts a key into a set, or gives it its full time again.
    Refresh {
        /// Name of the set.
        set: &'static str,
        /// First register of the key.
        key: u32,
    },
    /// Loads a field of the connection's original direction.
    CtOriginal {
        /// `NFT_CT_*`.
        key: u32,
        /// Register to fill.
        to: u32,
    },
    /// The number after the last one, below `modulus`, plus `offset`. Each rule counts for itself.
    Next {
        /// Register to fill.
        to: u32,
        /// Upper bound, exclusive.
        modulus: u32,
        /// Added to the number.
        offset: u32,
    },
    /// A hash of registers below `modulus`, plus `offset`.
    Hash {
        /// First register to read.
        from: u32,
        /// How many bytes.
        length: u32,
        /// Register to fill.
        to: u32,
        /// Upper bound, exclusive.
        modulus: u32,
        /// The hash's seed.
        seed: u32,
        /// Added to the number.
        offset: u32,
    },
    /// A random number below `modulus`, plus `offset`.
    Random {
        /// Register to fill.
        to: u32,
        /// Upper bound, exclusive.
        modulus: u32,
        /// Added to the number.
        offset: u32,
    },
    /// The type of a route to the packet's source or destination (`fib … type`).
    FibType {
        /// True: of the source, false: of the destination.
        source: bool,
        /// Register to fill.
        to: u32,
    },
    /// Rewrites the destination from registers.
    Dnat {
        /// `NFPROTO_IPV4` or `NFPROTO_IPV6`.
        protocol: u8,
        /// First register of the address.
        address: u32,
        /// Register of the port.
        port: u32,
    },
    /// Masquerades with a random source port.
    Masquerade,
    /// Refuses with a TCP reset.
    RejectReset,
    /// Refuses with ICMP "port unreachable": this code of the family's ICMP.
    RejectUnreachable(u8),
    /// Puts bytes into a register.
    Load {
        /// Register to fill.
        to: u32,
        /// The bytes.
        value: Vec<u8>,
    },
    /// Has the packet tracked among the connections of a zone, whose number (16 bits) is in a register.
    SetZone {
        /// The register.
        from: u32,
    },
    /// Leaves the connection untracked.
    NoTrack,
    /// Ends the rule with a verdict.
    Verdict(Verdict),
}

/// Where a payload offset counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// The IP header.
    Network = 1,
    /// The TCP, UDP or SCTP header.
    Transport = 2,
}

/// What a lookup does with its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Goes on if the key is in the set.
    Present,
    /// Goes on if the key is not in the set.
    Absent,
    /// Follows the verdict found.
    Verdict,
    /// Puts the data found into registers from this one on.
    Data(u32),
}

/// A verdict.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// Drops the packet.
    Drop,
    /// Leaves the chain.
    Return,
    /// Goes on in this chain and does not come back.
    Goto(String),
}

/// `NFT_META_MARK`.
pub const META_MARK: u32 = 3;
/// `NFT_META_IIFNAME`.
pub const META_IIFNAME: u32 = 6;
/// `NFT_META_L4PROTO`.
pub const META_L4PROTO: u32 = 16;
/// `NFT_CT_STATE`.
pub const CT_STATE: u32 = 0;
/// `NFT_CT_STATUS`.
pub const CT_STATUS: u32 = 2;
/// `NFT_CT_ZONE`.
const CT_ZONE: u32 = 17;
/// `NFT_CT_PROTO_DST`.
pub const CT_DESTINATION_PORT: u32 = 12;
/// `NFT_CT_DST_IP`.
pub const CT_DESTINATION_V4: u32 = 20;
/// `NFT_CT_DST_IP6`.
pub const CT_DESTINATION_V6: u32 = 22;

/// Flags of a TCP segment.
pub const SYN: u8 = 0x02;
/// Flags of a TCP segment.
pub const ACK: u8 = 0x10;
/// Where they stand in its header.
const TCP_FLAGS: u32 = 13;

const DROP: u32 = 0;
const GOTO: u32 = -4i32 as u32;
const RETURN: u32 = -5i32 as u32;
const VALUE: u16 = 1;
const VERDICT: u16 = 2;
/// `NFT_REG_VERDICT`.
const VERDICT_REGISTER: u32 = 0;
/// `NFT_REG_1`: the first of four registers of four words.
const FIRST_LONG_REGISTER: u32 = 1;
/// `NFT_REG32_00`: the first of sixteen registers of one word, which are the same.
const FIRST_REGISTER: u32 = 8;

/// `NFT_DYNSET_OP_UPDATE`.
const DYNSET_UPDATE: u32 = 1;
/// `IP_CT_DIR_ORIGINAL`.
const ORIGINAL: u8 = 0;
/// `NFT_NG_INCREMENTAL` and `NFT_NG_RANDOM`.
const INCREMENTAL: u32 = 0;
const RANDOM: u32 = 1;
/// `NFT_HASH_JENKINS`.
const JENKINS: u32 = 0;

impl Expr {
    /// Writes the expression into a rule's list.
    pub fn write(&self, writer: &mut Writer) {
        // As the kernel shows them.
        let register = |word: u32| if word.is_multiple_of(4) { FIRST_LONG_REGISTER + word / 4 } else { FIRST_REGISTER + word };
        match self {
            Expr::Payload { base, offset, length, to } => element(writer, "payload", |w| {
                w.u32(1, register(*to));
                w.u32(2, *base as u32);
                w.u32(3, *offset);
                w.u32(4, *length);
            }),
            Expr::Meta { key, to } => element(writer, "meta", |w| {
                w.u32(1, register(*to));
                w.u32(2, *key);
            }),
            Expr::SetMark { from } => element(writer, "meta", |w| {
                w.u32(2, META_MARK);
                w.u32(3, register(*from));
            }),
            Expr::Ct { key, to } => element(writer, "ct", |w| {
                w.u32(1, register(*to));
                w.u32(2, *key);
            }),
            Expr::Bitwise { register: word, mask, xor } => element(writer, "bitwise", |w| {
                w.u32(1, register(*word));
                w.u32(2, register(*word));
                w.u32(3, 4);
                w.nest(4, |inner| inner.bytes(VALUE, &mask.to_ne_bytes()));
                w.nest(5, |inner| inner.bytes(VALUE, &xor.to_ne_bytes()));
            }),
            Expr::TcpFlags { among, set } => {
                Expr::Payload { base: Base::Transport, offset: TCP_FLAGS, length: 1, to: 0 }.write(writer);
                element(writer, "bitwise", |w| {
                    w.u32(1, register(0));
                    w.u32(2, register(0));
                    w.u32(3, 1);
                    w.nest(4, |inner| inner.bytes(VALUE, &[*among]));
                    w.nest(5, |inner| inner.bytes(VALUE, &[0]));
                });
                Expr::Compare { register: 0, differs: false, value: vec![*set] }.write(writer);
            }
            Expr::Compare { register: word, differs, value } => element(writer, "cmp", |w| {
                w.u32(1, register(*word));
                w.u32(2, u32::from(*differs));
                w.nest(3, |inner| inner.bytes(VALUE, value));
            }),
            Expr::Lookup { set, key, answer } => element(writer, "lookup", |w| {
                w.string(1, set);
                w.u32(2, register(*key));
                match answer {
                    Answer::Present => {}
                    Answer::Absent => w.u32(5, 1),
                    Answer::Verdict => w.u32(3, VERDICT_REGISTER),
                    Answer::Data(word) => w.u32(3, register(*word)),
                }
            }),
            Expr::LookupClient { map, key, data } => element(writer, "lookup", |w| {
                w.string(1, map);
                w.u32(2, register(*key));
                w.u32(3, register(*data));
            }),
            Expr::Update { map, key, data, seconds } => element(writer, "dynset", |w| {
                w.string(1, map);
                w.u32(3, DYNSET_UPDATE);
                w.u32(4, register(*key));
                w.u32(5, register(*data));
                w.bytes(6, &(u64::from(*seconds) * 1000).to_be_bytes());
            }),
            Expr::Refresh { set, key } => element(writer, "dynset", |w| {
                w.string(1, set);
                w.u32(3, DYNSET_UPDATE);
                w.u32(4, register(*key));
            }),
            Expr::CtOriginal { key, to } => element(writer, "ct", |w| {
                w.u32(1, register(*to));
                w.u32(2, *key);
                w.bytes(3, &[ORIGINAL]);
            }),
            Expr::Random { to, modulus, offset } => number_generator(writer, RANDOM, register(*to), *modulus, *offset),
            Expr::Next { to, modulus, offset } => number_generator(writer, INCREMENTAL, register(*to), *modulus, *offset),
            Expr::Hash { from, length, to, modulus, seed, offset } => element(writer, "hash", |w| {
                w.u32(1, register(*from));
                w.u32(2, register(*to));
                w.u32(3, *length);
                w.u32(4, *modulus);
                w.u32(5, *seed);
                w.u32(6, *offset);
                w.u32(7, JENKINS);
            }),
            Expr::FibType { source, to } => element(writer, "fib", |w| {
                w.u32(1, register(*to));
                w.u32(2, 3);
                w.u32(3, if *source { 1 } else { 2 });
            }),
            Expr::Dnat { protocol, address, port } => element(writer, "nat", |w| {
                w.u32(1, 1);
                w.u32(2, u32::from(*protocol));
                w.u32(3, register(*address));
                w.u32(5, register(*port));
            }),
            Expr::Masquerade => element(writer, "masq", |w| w.u32(1, 0x10)),
            Expr::RejectReset => element(writer, "reject", |w| {
                w.u32(1, 1);
                w.bytes(2, &[0]);
            }),
            Expr::RejectUnreachable(code) => element(writer, "reject", |w| {
                w.u32(1, 0);
                w.bytes(2, &[*code]);
            }),
            Expr::Load { to, value } => element(writer, "immediate", |w| {
                w.u32(1, register(*to));
                w.nest(2, |data| data.bytes(VALUE, value));
            }),
            Expr::SetZone { from } => element(writer, "ct", |w| {
                w.u32(2, CT_ZONE);
                w.u32(4, register(*from));
            }),
            Expr::NoTrack => element(writer, "notrack", |_| {}),
            Expr::Verdict(verdict) => element(writer, "immediate", |w| {
                w.u32(1, VERDICT_REGISTER);
                w.nest(2, |data| verdict.write(data));
            }),
        }
    }
}

impl Verdict {
    /// Writes the verdict as the data of an element or of an `immediate` expression.
    pub fn write(&self, writer: &mut Writer) {
        writer.nest(VERDICT, |w| match self {
            Verdict::Drop => w.u32(1, DROP),
            Verdict::Return => w.u32(1, RETURN),
            Verdict::Goto(chain) => {
                w.u32(1, GOTO);
                w.string(2, chain);
            }
        });
    }

    /// Reads a verdict from the data of an element; `None` for one that the agent never writes.
    pub fn read(data: super::wire::Attributes<'_>) -> Option<Verdict> {
        let verdict = data.nested(VERDICT)?;
        match verdict.u32(1)? {
            DROP => Some(Verdict::Drop),
            RETURN => Some(Verdict::Return),
            GOTO => Some(Verdict::Goto(verdict.string(2)?.to_string())),
            _ => None,
        }
    }
}

fn number_generator(writer: &mut Writer, kind: u32, register: u32, modulus: u32, offset: u32) {
    element(writer, "numgen", |w| {
        w.u32(1, register);
        w.u32(2, modulus);
        w.u32(3, kind);
        w.u32(4, offset);
    });
}

fn element(writer: &mut Writer, name: &str, data: impl FnOnce(&mut Writer)) {
    writer.nest(1, |list| {
        list.string(1, name);
        list.nest(2, data);
    });
}
