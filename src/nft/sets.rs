//! How the table's sets are declared: key and data types, flags, and the user data that lets `nft` list them.
//!
//! The kernel knows lengths only. What `nft list` prints comes from type numbers and, for `typeof` sets, from a description that `nft`
//! itself stores in the set's user data; the constants here are those of `nft` 1.0.6, and a test holds them against it.

use super::wire::Writer;
use crate::model::Family;
use crate::proxy::{AffinityMap, Set};

const MAP: u32 = 0x8;
const INTERVAL: u32 = 0x4;
const TIMEOUT: u32 = 0x10;
/// `NFT_SET_EVAL`: rules add to it.
const DYNAMIC: u32 = 0x20;
const CONCATENATION: u32 = 0x80;

/// So many clients a map remembers; those who come when it is full are balanced anew each time.
const CLIENTS: u32 = 65536;

/// `nft`'s data types, six bits each in a concatenation.
const INTEGER: u32 = 4;
pub(super) const IPV4: u32 = 7;
pub(super) const IPV6: u32 = 8;
const PROTOCOL: u32 = 12;
pub(super) const SERVICE: u32 = 13;
/// `NFT_DATA_VERDICT`.
pub(super) const VERDICT_DATA: u32 = 0xffff_ff00;

/// A part of a key or of data, described as the `nft` expression that loads it.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    Source,
    Destination,
    Protocol,
    Port,
    Slot,
}

/// Writes the attributes of the `NFT_MSG_NEWSET` message for this set.
pub fn write_set(writer: &mut Writer, table: &str, set: Set, family: Family, id: u32) {
    let key = key_parts(set);
    let data = data_parts(set);
    writer.string(1, table);
    writer.string(2, set.name());
    writer.u32(3, flags(set));
    writer.u32(4, type_number(&key, family));
    writer.u32(5, length(&key, family));
    if is_map(set) {
        writer.u32(6, data.as_ref().map_or(VERDICT_DATA, |parts| type_number(parts, family)));
        writer.u32(7, data.as_ref().map_or(0, |parts| length(parts, family)));
    }
    writer.u32(10, id);
    if flags(set) & CONCATENATION != 0 {
        writer.nest(9, |description| {
            description.nest(2, |fields| {
                for part in &key {
                    fields.nest(1, |field| field.u32(1, part.bytes(family)));
                }
            });
        });
    }
    writer.bytes(13, &user_data(set, &key, data.as_deref(), family));
    if set == Set::Services {
        writer.nest(17, |expression| {
            expression.string(1, "counter");
            expression.nest(2, |_| {});
        });
    }
}

/// Writes the attributes of the `NFT_MSG_NEWSET` message for a map that remembers clients. Each entry has a time-out of its own, which the rule
/// that makes it knows.
pub fn write_affinity_map(writer: &mut Writer, table: &str, map: AffinityMap, family: Family, id: u32) {
    let (key, data) = ([Part::Source], [Part::Destination, Part::Port]);
    writer.string(1, table);
    writer.string(2, &map.to_string());
    writer.u32(3, MAP | TIMEOUT | DYNAMIC);
    writer.u32(4, type_number(&key, family));
    writer.u32(5, length(&key, family));
    writer.u32(6, type_number(&data, family));
    writer.u32(7, length(&data, family));
    writer.u32(10, id);
    writer.nest(9, |description| description.u32(1, CLIENTS));
    writer.bytes(13, &affinity_user_data(family));
}

fn is_map(set: Set) -> bool {
    matches!(set, Set::Services | Set::Endpoints | Set::ClusterLists | Set::LocalLists | Set::Sticky | Set::Unserved)
}

fn flags(set: Set) -> u32 {
    match set {
        Set::AllowedSources | Set::DeniedSources => INTERVAL | CONCATENATION,
        Set::ServiceCidrs | Set::PodCidrs => INTERVAL,
        _ if is_map(set) => MAP,
        _ => 0,
    }
}

fn key_parts(set: Set) -> Vec<Part> {
    let dest = [Part::Destination, Part::Protocol, Part::Port];
    match set {
        Set::Services | Set::ClusterLists | Set::LocalLists | Set::Sticky | Set::Unserved | Set::Guarded => dest.to_vec(),
        Set::Endpoints => [&dest[..], &[Part::Slot]].concat(),
        Set::AllowedSources | Set::DeniedSources => [&dest[..], &[Part::Source]].concat(),
        Set::ClusterIps | Set::ServiceCidrs | Set::PodCidrs | Set::LocalDns => vec![Part::Destination],
        Set::Hairpins => vec![Part::Source, Part::Destination],
    }
}

/// The data of a map that holds addresses; verdict maps and plain sets have none.
fn data_parts(set: Set) -> Option<Vec<Part>> {
    (set == Set::Endpoints).then(|| vec![Part::Destination, Part::Port])
}

impl Part {
    fn bytes(self, family: Family) -> u32 {
        match (self, family) {
            (Part::Source | Part::Destination, Family::V4) => 4,
            (Part::Source | Part::Destination, Family::V6) => 16,
            (Part::Protocol, _) => 1,
            (Part::Port, _) => 2,
            (Part::Slot, _) => 4,
        }
    }

    fn type_number(self, family: Family) -> u32 {
        match (self, family) {
            (Part::Source | Part::Destination, Family::V4) => IPV4,
            (Part::Source | Part::Destination, Family::V6) => IPV6,
            (Part::Protocol, _) => PROTOCOL,
            (Part::Port, _) => SERVICE,
            (Part::Slot, _) => INTEGER,
        }
    }
}

fn type_number(parts: &[Part], family: Family) -> u32 {
    parts.iter().fold(0, |number, part| number << 6 | part.type_number(family))
}

/// Each part of a concatenation fills whole words.
fn length(parts: &[Part], family: Family) -> u32 {
    parts.iter().map(|part| part.bytes(family).next_multiple_of(4)).sum()
}

const KEY_BYTE_ORDER: u8 = 0;
const DATA_BYTE_ORDER: u8 = 1;
const KEY_TYPEOF: u8 = 3;
const DATA_TYPEOF: u8 = 4;
const DATA_INTERVAL: u8 = 6;
const EXPRESSION_KIND: u8 = 0;
const EXPRESSION_DATA: u8 = 1;

const KIND_VERDICT: u32 = 1;
const KIND_PAYLOAD: u32 = 7;
const KIND_META: u32 = 9;
const KIND_CONCATENATION: u32 = 13;
const KIND_NUMGEN: u32 = 23;
const BIG_ENDIAN: u32 = 2;
/// A concatenation has no byte order of its own.
const MIXED: u32 = 0;

fn user_data(set: Set, key: &[Part], data: Option<&[Part]>, family: Family) -> Vec<u8> {
    let mut bytes = Vec::new();
    if key.len() == 1 {
        number(&mut bytes, KEY_BYTE_ORDER, BIG_ENDIAN);
        return bytes;
    }
    number(&mut bytes, KEY_BYTE_ORDER, MIXED);
    if is_map(set) {
        number(&mut bytes, DATA_BYTE_ORDER, MIXED);
    }
    nest(&mut bytes, KEY_TYPEOF, &concatenation(key, family));
    if let Some(parts) = data {
        nest(&mut bytes, DATA_TYPEOF, &concatenation(parts, family));
        number(&mut bytes, DATA_INTERVAL, 0);
    } else if is_map(set) {
        let mut verdict = Vec::new();
        number(&mut verdict, EXPRESSION_KIND, KIND_VERDICT);
        nest(&mut verdict, EXPRESSION_DATA, &[]);
        nest(&mut bytes, DATA_TYPEOF, &verdict);
        number(&mut bytes, DATA_INTERVAL, 0);
    }
    bytes
}

fn affinity_user_data(family: Family) -> Vec<u8> {
    let mut bytes = Vec::new();
    number(&mut bytes, KEY_BYTE_ORDER, BIG_ENDIAN);
    number(&mut bytes, DATA_BYTE_ORDER, MIXED);
    nest(&mut bytes, KEY_TYPEOF, &Part::Source.expression(family));
    nest(&mut bytes, DATA_TYPEOF, &concatenation(&[Part::Destination, Part::Port], family));
    number(&mut bytes, DATA_INTERVAL, 0);
    bytes
}

fn concatenation(parts: &[Part], family: Family) -> Vec<u8> {
    let mut list = Vec::new();
    for (part, index) in parts.iter().zip(0..) {
        nest(&mut list, index, &part.expression(family));
    }
    expression(KIND_CONCATENATION, &list)
}

impl Part {
    fn expression(self, family: Family) -> Vec<u8> {
        match self {
            Part::Source | Part::Destination => {
                let (header, source) = match family {
                    Family::V4 => (12, 11),
                    Family::V6 => (13, 8),
                };
                payload(header, if self == Part::Source { source } else { source + 1 })
            }
            Part::Port => payload(11, 2),
            Part::Protocol => {
                let mut data = Vec::new();
                number(&mut data, 0, super::expr::META_L4PROTO);
                expression(KIND_META, &data)
            }
            Part::Slot => {
                let mut data = Vec::new();
                number(&mut data, 0, 1);
                number(&mut data, 1, 1);
                number(&mut data, 2, 0);
                expression(KIND_NUMGEN, &data)
            }
        }
    }
}

fn payload(header: u32, field: u32) -> Vec<u8> {
    let mut data = Vec::new();
    number(&mut data, 0, header);
    number(&mut data, 1, field);
    expression(KIND_PAYLOAD, &data)
}

fn expression(kind: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    number(&mut bytes, EXPRESSION_KIND, kind);
    nest(&mut bytes, EXPRESSION_DATA, data);
    bytes
}

fn number(bytes: &mut Vec<u8>, kind: u8, value: u32) {
    nest(bytes, kind, &value.to_ne_bytes());
}

/// User data is made of a byte for the type, a byte for the length, and the value.
fn nest(bytes: &mut Vec<u8>, kind: u8, value: &[u8]) {
    bytes.push(kind);
    bytes.push(value.len() as u8);
    bytes.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn described(set: Set, family: Family) -> String {
        hex(&user_data(set, &key_parts(set), data_parts(set).as_deref(), family))
    }

    /// The bytes that `nft -f` 1.0.6 stored for the same declarations, on a little-endian machine.
    #[test]
    #[cfg(target_endian = "little")]
    fn the_description_is_what_nft_itself_stores() {
        let dest = |address: &str| {
            format!(
                "034400040d000000013c0014000407000000010c0004{address}010e00040900000001060004100000000214000407000000010c00040b0000000104\
                 02000000"
            )
        };
        let v4 = dest("0c00000001040c000000");
        let v6 = dest("0d000000010409000000");
        for (key, family) in [(v4, Family::V4), (v6, Family::V6)] {
            let map = format!("000400000000010400000000{key}04080004010000000100060400000000");
            assert_eq!(described(Set::Services, family), map);
            assert_eq!(described(Set::Unserved, family), map);
            assert_eq!(described(Set::Guarded, family), format!("000400000000{key}"));
        }
        assert_eq!(
            described(Set::Endpoints, Family::V4),
            "000400000000010400000000036000040d00000001580014000407000000010c00040c00000001040c000000010e00040900000001060004100000000214\
             000407000000010c00040b000000010402000000031a0004170000000112000401000000010401000000020400000000043400040d000000012c00140004\
             07000000010c00040c00000001040c0000000114000407000000010c00040b000000010402000000060400000000"
        );
        assert_eq!(
            described(Set::Hairpins, Family::V6),
            "000400000000033400040d000000012c0014000407000000010c00040d0000000104080000000114000407000000010c00040d000000010409000000"
        );
        assert_eq!(described(Set::PodCidrs, Family::V4), "000402000000");
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn a_map_of_clients_is_described_as_nft_itself_does() {
        assert_eq!(
            hex(&affinity_user_data(Family::V4)),
            "0004020000000104000000000314000407000000010c00040c00000001040b000000043400040d000000012c0014000407000000010c00040c00000001\
             040c0000000114000407000000010c00040b000000010402000000060400000000"
        );
        assert_eq!(
            hex(&affinity_user_data(Family::V6)),
            "0004020000000104000000000314000407000000010c00040d000000010408000000043400040d000000012c0014000407000000010c00040d00000001\
             04090000000114000407000000010c00040b000000010402000000060400000000"
        );
        let data = [Part::Destination, Part::Port];
        assert_eq!((type_number(&data, Family::V4), length(&data, Family::V4)), (0x1cd, 8));
        assert_eq!((type_number(&data, Family::V6), length(&data, Family::V6)), (0x20d, 20));
    }

    #[test]
    fn lengths_and_types_are_those_of_nft() {
        let key = key_parts(Set::Endpoints);
        assert_eq!((type_number(&key, Family::V4), length(&key, Family::V4)), (0x1c_c344, 16));
        assert_eq!((type_number(&key, Family::V6), length(&key, Family::V6)), (0x20_c344, 28));
        let sources = key_parts(Set::AllowedSources);
        assert_eq!((type_number(&sources, Family::V6), length(&sources, Family::V6)), (0x20_c348, 40));
    }
}
