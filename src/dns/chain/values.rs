//! Values as they are written in a configuration: durations, record types and the like. Pure.

use crate::dns::name::DomainName;
use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

/// The longest time for which upstream servers that have failed are not asked again (RFC 8767, section 5).
pub const LONGEST_RECHECK: Duration = Duration::from_secs(300);

/// A duration, written as in Go: `1h30m`, `5s`, `500ms`. A bare number means seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Time(pub Duration);

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Time, String> {
        let wrong = || format!("{text:?} is no duration such as 5s, 1h30m or 500ms");
        if let Ok(seconds) = text.parse::<u32>() {
            return Ok(Time(Duration::from_secs(seconds.into())));
        }
        let (mut total, mut rest) = (0.0, text);
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
            let (number, unit) = rest.split_at(digits);
            let letters = unit.find(|c: char| c.is_ascii_digit()).unwrap_or(unit.len());
            let factor = match &unit[..letters] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 0.001,
                _ => return Err(wrong()),
            };
            total += number.parse::<f64>().map_err(|_| wrong())? * factor;
            rest = &unit[letters..];
        }
        let is_written = !text.is_empty() && total < f64::from(u32::MAX);
        is_written.then(|| Time(Duration::from_secs_f64(total))).ok_or_else(wrong)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.subsec_millis() {
            0 => write!(f, "{}s", self.0.as_secs()),
            _ => write!(f, "{}ms", self.0.as_millis()),
        }
    }
}

/// A record type by its name, or `TYPE4711`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordKind(pub u16);

/// ANY: all types.
pub const ANY: RecordKind = RecordKind(255);

/// All that CoreDNS knows by a name.
const KINDS: &[(&str, u16)] = &[
    ("A", 1),
    ("NS", 2),
    ("MD", 3),
    ("MF", 4),
    ("CNAME", 5),
    ("SOA", 6),
    ("MB", 7),
    ("MG", 8),
    ("MR", 9),
    ("NULL", 10),
    ("PTR", 12),
    ("HINFO", 13),
    ("MINFO", 14),
    ("MX", 15),
    ("TXT", 16),
    ("RP", 17),
    ("AFSDB", 18),
    ("X25", 19),
    ("ISDN", 20),
    ("RT", 21),
    ("NSAP-PTR", 23),
    ("SIG", 24),
    ("KEY", 25),
    ("PX", 26),
    ("GPOS", 27),
    ("AAAA", 28),
    ("LOC", 29),
    ("NXT", 30),
    ("EID", 31),
    ("NIMLOC", 32),
    ("SRV", 33),
    ("ATMA", 34),
    ("NAPTR", 35),
    ("KX", 36),
    ("CERT", 37),
    ("DNAME", 39),
    ("OPT", 41),
    ("APL", 42),
    ("DS", 43),
    ("SSHFP", 44),
    ("IPSECKEY", 45),
    ("RRSIG", 46),
    ("NSEC", 47),
    ("DNSKEY", 48),
    ("DHCID", 49),
    ("NSEC3", 50),
    ("NSEC3PARAM", 51),
    ("TLSA", 52),
    ("SMIMEA", 53),
    ("HIP", 55),
    ("NINFO", 56),
    ("RKEY", 57),
    ("TALINK", 58),
    ("CDS", 59),
    ("CDNSKEY", 60),
    ("OPENPGPKEY", 61),
    ("CSYNC", 62),
    ("ZONEMD", 63),
    ("SVCB", 64),
    ("HTTPS", 65),
    ("SPF", 99),
    ("UINFO", 100),
    ("UID", 101),
    ("GID", 102),
    ("UNSPEC", 103),
    ("NID", 104),
    ("L32", 105),
    ("L64", 106),
    ("LP", 107),
    ("EUI48", 108),
    ("EUI64", 109),
    ("NXNAME", 128),
    ("TKEY", 249),
    ("TSIG", 250),
    ("IXFR", 251),
    ("AXFR", 252),
    ("MAILB", 253),
    ("MAILA", 254),
    ("ANY", 255),
    ("URI", 256),
    ("CAA", 257),
    ("AVC", 258),
    ("AMTRELAY", 260),
    ("RESINFO", 261),
    ("TA", 32_768),
    ("DLV", 32_769),
];

impl FromStr for RecordKind {
    type Err = String;

    fn from_str(text: &str) -> Result<RecordKind, String> {
        let upper = text.to_ascii_uppercase();
        let known = KINDS.iter().find(|(name, _)| *name == upper).map(|(_, number)| *number);
        let number = known.or_else(|| upper.strip_prefix("TYPE").and_then(|number| number.parse().ok()));
        number.map(RecordKind).ok_or_else(|| format!("{text:?} is no record type such as A, AAAA or TYPE65"))
    }
}

impl fmt::Display for RecordKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match KINDS.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "TYPE{}", self.0),
        }
    }
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident($number:ty), $what:literal, $($word:ident = $value:literal $text:literal $doc_of_word:literal,)*) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $(#[doc = $doc_of_word] $word = $value,)* }

        impl $name {
            /// Its number.
            pub fn number(self) -> $number {
                self as $number
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<$name, String> {
                match text.to_ascii_uppercase().as_str() {
                    $($text => Ok($name::$word),)*
                    _ => Err(format!("{text:?} is no {}; known are {}", $what, [$($text),*].join(", "))),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $($name::$word => $text,)* })
            }
        }
    };
}

words! {
    /// A class of records.
    RecordClass(u16), "class",
    In = 1 "IN" "The Internet.",
    Ch = 3 "CH" "Questions about the server itself.",
    Hs = 4 "HS" "Hesiod.",
    Any = 255 "ANY" "All.",
}

words! {
    /// A response code.
    Rcode(u16), "response code",
    NoError = 0 "NOERROR" "There is an answer.",
    FormErr = 1 "FORMERR" "The question cannot be read.",
    ServFail = 2 "SERVFAIL" "Something failed.",
    NxDomain = 3 "NXDOMAIN" "There is no such name.",
    NotImp = 4 "NOTIMP" "Not implemented.",
    Refused = 5 "REFUSED" "The server does not want to.",
    YxDomain = 6 "YXDOMAIN" "A name exists that should not.",
    YxRrset = 7 "YXRRSET" "Records exist that should not.",
    NxRrset = 8 "NXRRSET" "Records should exist and do not.",
    NotAuth = 9 "NOTAUTH" "Not the server of the zone.",
    NotZone = 10 "NOTZONE" "Not in the zone.",
}

words! {
    /// A flag of the header.
    Flag(u8), "flag",
    Aa = 0 "AA" "Authoritative answer.",
    Ra = 1 "RA" "Recursion available.",
    Rd = 2 "RD" "Recursion desired.",
}

/// Serialised as text, or read from a text or a number.
macro_rules! as_text {
    ($($name:ty),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

as_text!(Time, RecordKind, RecordClass, Rcode, Flag);

/// The zones that a configuration names: a domain name, or the reverse zones of a network. Lower case.
///
/// # Errors
/// What is wrong with the text.
pub fn zones(text: &str) -> Result<Vec<DomainName>, String> {
    if text.contains('/') {
        let network: IpNet = text.parse().map_err(|_| format!("{text:?} is no network such as 10.0.0.0/8 or fd00::/8"))?;
        return Ok(reverse_zones(network));
    }
    let name = DomainName::parse_escaped(text).ok_or_else(|| format!("{text:?} is no domain name"))?;
    Ok(vec![name.to_lower()])
}

/// The zones of several.
///
/// # Errors
/// What is wrong with the first bad one.
pub fn all_zones<'a>(texts: impl IntoIterator<Item = &'a String>) -> Result<Vec<DomainName>, String> {
    let mut all = Vec::new();
    for text in texts {
        all.extend(zones(text)?);
    }
    Ok(all)
}

/// The zones in which the reverse names of a network are: one, or several where its length is between two labels.
fn reverse_zones(network: IpNet) -> Vec<DomainName> {
    let (octets, bits, suffix): (Vec<u8>, u8, [&[u8]; 2]) = match network.trunc().addr() {
        IpAddr::V4(address) => (address.octets().to_vec(), 8, [b"in-addr", b"arpa"]),
        IpAddr::V6(address) => {
            (address.octets().iter().flat_map(|octet| [octet >> 4, octet & 15]).collect(), 4, [b"ip6", b"arpa"])
        }
    };
    let whole = usize::from(network.prefix_len() / bits);
    let rest = network.prefix_len() % bits;
    let label = |value: u16| if bits == 8 { value.to_string() } else { format!("{value:x}") };
    let mut labels: Vec<String> = octets[..whole].iter().rev().map(|octet| label((*octet).into())).collect();
    let name = |labels: &[String]| DomainName::from_labels(labels.iter().map(String::as_bytes).chain(suffix));
    if rest == 0 {
        return name(&labels).into_iter().collect();
    }
    let first = u16::from(octets[whole]);
    let several = (first..first + (1 << (bits - rest))).filter_map(|value| {
        labels.insert(0, label(value));
        let zone = name(&labels);
        labels.remove(0);
        zone
    });
    several.collect()
}

/// Whether a zone is one of reverse names.
pub fn is_reverse(zone: &DomainName) -> bool {
    ["in-addr.arpa", "ip6.arpa"].iter().filter_map(|name| DomainName::parse(name)).any(|reverse| reverse.is_above(zone.as_wire()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, milliseconds) in [("5s", 5000), ("1h30m", 5_400_000), ("500ms", 500), ("1.5s", 1500), ("7", 7000), ("0", 0)] {
            assert_eq!(text.parse(), Ok(Time(Duration::from_millis(milliseconds))), "{text}");
        }
        for text in ["", "s", "5x", "-1s", "5s3"] {
            assert!(text.parse::<Time>().is_err(), "{text}");
        }
    }

    #[test]
    fn networks_are_the_zones_of_their_reverse_names() {
        let named = |text| zones(text).unwrap().iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        assert_eq!(named("10.0.0.0/8"), "10.in-addr.arpa.");
        assert_eq!(named("10.1.128.0/23"), "128.1.10.in-addr.arpa. 129.1.10.in-addr.arpa.");
        assert_eq!(named("fd00:10::/32"), "0.1.0.0.0.0.d.f.ip6.arpa.");
        assert_eq!(named("fd00::/7"), "c.f.ip6.arpa. d.f.ip6.arpa.");
        assert_eq!(named("Example.ORG"), "example.org.");
        assert!(zones("10.0.0/8").is_err() && zones("a..b").is_err());
    }

    #[test]
    fn types_have_names_and_numbers() {
        assert_eq!("aaaa".parse(), Ok(RecordKind(28)));
        assert_eq!("TYPE4711".parse::<RecordKind>().unwrap().to_string(), "TYPE4711");
        assert!("BOGUS".parse::<RecordKind>().is_err());
    }
}
