//! The data of resource records, written as text (RFC 1035, section 5.1, and the documents of the types). Pure.
//!
//! What the library has no reader for, or one that takes texts otherwise than zone files, is written here, field by field; any type may be written as `\# LENGTH HEX` (RFC 3597).

use super::text::word;
use super::values::RecordKind;
use crate::dns::name::DomainName;
use crate::dns::reply::name_to_hickory;
use data_encoding::{BASE64, HEXLOWER_PERMISSIVE};
use hickory_proto::rr::rdata::svcb::{Mandatory, SvcParamValue};
use hickory_proto::rr::rdata::{HTTPS, NULL};
use hickory_proto::rr::{RData, RecordType};
use std::net::Ipv4Addr;

/// A part of the data of a record.
#[derive(Clone, Copy)]
enum Field {
    U8,
    U16,
    U32,
    Name,
    Address,
    /// An algorithm of DNSSEC, by its number or its name.
    Algorithm,
    /// A kind of certificate, by its number or its name.
    Certificate,
    /// All that is left, in base 16.
    Hex,
    /// All that is left, in base 64.
    Base64,
    /// Octets of base 16 with hyphens or colons between them, so many.
    Octets(usize),
    /// Octets in base 16 behind their number; a hyphen for none.
    Salt,
    /// One text of 255 bytes at most behind its length.
    String,
    /// All that is left: texts, each behind its length; longer ones than 255 bytes in several, as by the library of CoreDNS.
    Texts,
    /// All that is left: one text.
    Text,
}

use Field::{Address, Algorithm, Base64, Certificate, Hex, Name, Octets, Salt, String as Str, Text, Texts, U8, U16, U32};

const DIGEST: &[Field] = &[U16, Algorithm, U8, Hex];
const KEY: &[Field] = &[U16, U8, Algorithm, Base64];
const MATCHED: &[Field] = &[U8, U8, U8, Hex];
const PREFERRED: &[Field] = &[U16, Name];

/// The types that are written field by field.
const LAYOUTS: &[(&str, &[Field])] = &[
    ("AFSDB", PREFERRED),
    ("AVC", &[Texts]),
    ("CAA", &[U8, Str, Text]),
    ("CDNSKEY", KEY),
    ("CDS", DIGEST),
    ("CERT", &[Certificate, U16, Algorithm, Base64]),
    ("DHCID", &[Base64]),
    ("DLV", DIGEST),
    ("DNAME", &[Name]),
    ("DNSKEY", KEY),
    ("DS", DIGEST),
    ("EID", &[Hex]),
    ("EUI48", &[Octets(6)]),
    ("EUI64", &[Octets(8)]),
    ("GID", &[U32]),
    ("GPOS", &[Texts]),
    ("HINFO", &[Str, Str]),
    ("ISDN", &[Texts]),
    ("KEY", KEY),
    ("KX", PREFERRED),
    ("L32", &[U16, Address]),
    ("L64", &[U16, Octets(8)]),
    ("LP", PREFERRED),
    ("MB", &[Name]),
    ("MD", &[Name]),
    ("MF", &[Name]),
    ("MG", &[Name]),
    ("MINFO", &[Name, Name]),
    ("MR", &[Name]),
    ("NAPTR", &[U16, U16, Str, Str, Str, Name]),
    ("NID", &[U16, Octets(8)]),
    ("NIMLOC", &[Hex]),
    ("NINFO", &[Texts]),
    ("NSAP-PTR", &[Name]),
    ("NSEC3PARAM", &[U8, U8, U16, Salt]),
    ("OPENPGPKEY", &[Base64]),
    ("PX", &[U16, Name, Name]),
    ("RESINFO", &[Texts]),
    ("RKEY", KEY),
    ("RP", &[Name, Name]),
    ("RT", PREFERRED),
    ("SMIMEA", MATCHED),
    ("SPF", &[Texts]),
    ("SSHFP", &[U8, U8, Hex]),
    ("TA", DIGEST),
    ("TALINK", &[Name, Name]),
    ("TLSA", MATCHED),
    ("TXT", &[Texts]),
    ("UID", &[U32]),
    ("UINFO", &[Texts]),
    ("URI", &[U16, U16, Text]),
    ("X25", &[Texts]),
    ("ZONEMD", &[U32, U8, U8, Hex]),
];

/// Those that the library reads.
const READ: [&str; 11] = ["A", "AAAA", "CNAME", "CSYNC", "HTTPS", "MX", "NS", "PTR", "SOA", "SRV", "SVCB"];

/// Algorithms of DNSSEC.
const ALGORITHMS: [(&str, u16); 16] = [
    ("RSAMD5", 1),
    ("DH", 2),
    ("DSA", 3),
    ("RSASHA1", 5),
    ("DSA-NSEC3-SHA1", 6),
    ("RSASHA1-NSEC3-SHA1", 7),
    ("RSASHA256", 8),
    ("RSASHA512", 10),
    ("ECC-GOST", 12),
    ("ECDSAP256SHA256", 13),
    ("ECDSAP384SHA384", 14),
    ("ED25519", 15),
    ("ED448", 16),
    ("INDIRECT", 252),
    ("PRIVATEDNS", 253),
    ("PRIVATEOID", 254),
];

/// Kinds of certificates (RFC 4398).
const CERTIFICATES: [(&str, u16); 10] = [
    ("PKIX", 1),
    ("SPKI", 2),
    ("PGP", 3),
    ("IPIX", 4),
    ("ISPKI", 5),
    ("IPGP", 6),
    ("ACPKIX", 7),
    ("IACPKIX", 8),
    ("URI", 253),
    ("OID", 254),
];

/// Whether there is a way to write data of this type other than by its bytes.
pub fn is_written(kind: RecordKind) -> bool {
    let name = kind.to_string();
    READ.contains(&&*name) || layout(&name).is_some()
}

/// Whether data are written by their bytes.
pub fn is_generic(text: &str) -> bool {
    text.trim_start().starts_with("\\#")
}

/// The data in this text; `None` where it has none of the type.
pub fn data(kind: RecordKind, text: &str) -> Option<RData> {
    let text = &*uncommented(text);
    let bytes = if is_generic(text) {
        let (length, rest) = word(text.trim_start().trim_start_matches("\\#"))?;
        let bytes = hex(&joined(rest))?;
        (length.parse() == Ok(bytes.len())).then_some(bytes)?
    } else {
        let Some(fields) = layout(&kind.to_string()) else { return read(kind, text) };
        let (mut bytes, mut rest) = (Vec::new(), text);
        for field in fields {
            rest = field.write(rest, &mut bytes)?;
        }
        rest.trim().is_empty().then_some(bytes)?
    };
    // Its own constructor does not take what is empty.
    let mut rdata = NULL::new();
    rdata.anything = bytes;
    Some(RData::Unknown { code: RecordType::from(kind.0), rdata })
}

/// By the library, for which names have to be absolute: there is no origin that they could be relative to.
fn read(kind: RecordKind, text: &str) -> Option<RData> {
    let names: &[usize] = match kind.to_string().as_str() {
        "CNAME" | "NS" | "PTR" => &[0],
        "MX" | "SVCB" | "HTTPS" => &[1],
        "SRV" => &[3],
        "SOA" => &[0, 1],
        _ => return RData::try_from_str(RecordType::from(kind.0), text.trim()).ok(),
    };
    let is_service = matches!(&*kind.to_string(), "SVCB" | "HTTPS");
    if is_service && !text.split_whitespace().skip(2).all(is_parameter) {
        return None;
    }
    let words = text.split_whitespace().enumerate().map(|(place, word)| match names.contains(&place) {
        // The library reads and writes escapes in base 8; of other letters that it would take for its own it knows none.
        true if word.contains('\\') => {
            let name = name_to_hickory(&DomainName::parse_escaped(word)?).to_ascii();
            (!name.contains([';', '(', ')', '"', '@', '$'])).then_some(name)
        }
        true if !word.ends_with('.') => Some(format!("{word}.")),
        _ => Some(word.to_string()),
    });
    let words = words.collect::<Option<Vec<_>>>()?.join(" ");
    let mut data = RData::try_from_str(RecordType::from(kind.0), &words).ok()?;
    if let RData::SVCB(service) | RData::HTTPS(HTTPS(service)) = &mut data {
        // They may be written in any order, and are sent in that of their numbers (RFC 9460, section 2.2).
        service.svc_params.sort_by_key(|(key, _)| u16::from(*key));
        for (_, value) in &mut service.svc_params {
            if let SvcParamValue::Mandatory(Mandatory(keys)) = value {
                keys.sort_by_key(|key| u16::from(*key));
            }
        }
    }
    Some(data)
}

/// Whether a parameter of a service can be given to the library, which takes empty lists, lone quotes and escapes for what they are not.
fn is_parameter(word: &str) -> bool {
    let Some((key, value)) = word.split_once('=') else { return word != "alpn" };
    let value = value.strip_prefix('"').map_or(Some(value), |value| value.strip_suffix('"'));
    let is_item = |item: &str| match key {
        "alpn" => !item.is_empty() && item.chars().all(|c| c.is_ascii_alphanumeric() || "-./_+".contains(c)),
        "mandatory" | "ipv4hint" | "ipv6hint" => !item.is_empty(),
        _ => true,
    };
    value.is_some_and(|value| !value.contains(['"', '\\']) && value.split(',').all(is_item))
}

fn layout(name: &str) -> Option<&'static [Field]> {
    LAYOUTS.iter().find(|(known, _)| *known == name).map(|(_, fields)| *fields)
}

impl Field {
    /// Writes the field that the text begins with, and returns what is left of it.
    fn write<'a>(self, text: &'a str, bytes: &mut Vec<u8>) -> Option<&'a str> {
        match self {
            Hex => bytes.extend(hex(&joined(text))?),
            Base64 => bytes.extend(BASE64.decode(joined(text).as_bytes()).ok()?),
            Texts => {
                let (mut text, mut rest) = character_string(text)?;
                loop {
                    let parts: Vec<&[u8]> = if text.is_empty() { vec![&[]] } else { text.chunks(255).collect() };
                    for part in parts {
                        bytes.push(u8::try_from(part.len()).ok()?);
                        bytes.extend(part);
                    }
                    if rest.trim().is_empty() {
                        break;
                    }
                    (text, rest) = character_string(rest)?;
                }
            }
            Text => {
                let (text, rest) = character_string(text)?;
                bytes.extend(text);
                return Some(rest);
            }
            Str => {
                let (text, rest) = character_string(text)?;
                bytes.push(u8::try_from(text.len()).ok()?);
                bytes.extend(text);
                return Some(rest);
            }
            _ => {
                let (word, rest) = word(text)?;
                self.write_word(word, bytes)?;
                return Some(rest);
            }
        }
        Some("")
    }

    fn write_word(self, word: &str, bytes: &mut Vec<u8>) -> Option<()> {
        match self {
            U8 => bytes.push(word.parse().ok()?),
            U16 => bytes.extend(word.parse::<u16>().ok()?.to_be_bytes()),
            U32 => bytes.extend(word.parse::<u32>().ok()?.to_be_bytes()),
            Name => bytes.extend(DomainName::parse_escaped(word)?.as_wire()),
            Algorithm => bytes.push(numbered(word, &ALGORITHMS)?.try_into().ok()?),
            Certificate => bytes.extend(numbered(word, &CERTIFICATES)?.to_be_bytes()),
            Address => bytes.extend(word.parse::<Ipv4Addr>().ok()?.octets()),
            Octets(count) => bytes.extend(hex(&word.replace(['-', ':'], "")).filter(|octets| octets.len() == count)?),
            Salt => {
                let salt = if word == "-" { Vec::new() } else { hex(word)? };
                bytes.push(u8::try_from(salt.len()).ok()?);
                bytes.extend(salt);
            }
            Hex | Base64 | Str | Texts | Text => return None,
        }
        Some(())
    }
}

/// What has a number and perhaps a name.
fn numbered(word: &str, names: &[(&str, u16)]) -> Option<u16> {
    let named = names.iter().find(|(name, _)| name.eq_ignore_ascii_case(word)).map(|(_, number)| *number);
    named.or_else(|| word.parse().ok())
}

/// Without the blanks, which may stand anywhere.
fn joined(text: &str) -> String {
    text.split_whitespace().collect()
}

fn hex(text: &str) -> Option<Vec<u8>> {
    HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()
}

/// The text without comments and without the parentheses that let a record go over several lines.
fn uncommented(text: &str) -> String {
    let (mut kept, mut quoted, mut comment) = (String::new(), false, false);
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        comment &= letter != '\n';
        match letter {
            _ if comment => {}
            '\\' => kept.extend([Some(letter), letters.next()].into_iter().flatten()),
            ';' if !quoted => comment = true,
            '(' | ')' if !quoted => kept.push(' '),
            _ => {
                quoted ^= letter == '"';
                kept.push(letter);
            }
        }
    }
    kept
}

/// The character-string that the text begins with, in quotes or without, and what is left (RFC 1035, section 5.1).
fn character_string(text: &str) -> Option<(Vec<u8>, &str)> {
    let text = text.trim_start();
    let quoted = text.starts_with('"');
    let (mut bytes, mut rest) = (Vec::new(), if quoted { &text[1..] } else { text });
    loop {
        let Some(letter) = rest.chars().next() else { return (!quoted && !bytes.is_empty()).then_some((bytes, rest)) };
        let after = &rest[letter.len_utf8()..];
        if letter == '"' || !quoted && letter.is_whitespace() {
            return (quoted || !bytes.is_empty()).then_some((bytes, if quoted { after } else { rest }));
        }
        rest = if letter != '\\' {
            bytes.extend(rest[..letter.len_utf8()].bytes());
            after
        } else if after.starts_with(|digit: char| digit.is_ascii_digit()) {
            bytes.push(after.get(..3)?.parse().ok()?);
            &after[3..]
        } else {
            let end = after.chars().next()?.len_utf8();
            bytes.extend(after[..end].bytes());
            &after[end..]
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(kind: &str, text: &str) -> Option<Vec<u8>> {
        match data(kind.parse().unwrap(), text)? {
            RData::Unknown { code, rdata } => {
                assert_eq!(u16::from(code), kind.parse::<RecordKind>().unwrap().0);
                Some(rdata.anything)
            }
            other => panic!("{other}"),
        }
    }

    #[test]
    fn fields_are_written_one_after_the_other() {
        for (kind, text, expected) in [
            ("DS", "60485 5 1 2BB1 83af", &b"\xec\x45\x05\x01\x2b\xb1\x83\xaf"[..]),
            ("CERT", "PGP 0 rsasha256 AQID", b"\x00\x03\x00\x00\x08\x01\x02\x03"),
            ("DNSKEY", "256 3 5 AQ ID", b"\x01\x00\x03\x05\x01\x02\x03"),
            ("RP", "a.b. c", b"\x01a\x01b\x00\x01c\x00"),
            ("URI", "10 1 \"http://a\"", b"\x00\x0a\x00\x01http://a"),
            ("SPF", "\"v=spf1 -all\" b", b"\x0bv=spf1 -all\x01b"),
            ("EUI48", "00-00-5e-00-53-2a", b"\x00\x00\x5e\x00\x53\x2a"),
            ("L32", "10 192.0.2.1", b"\x00\x0a\xc0\x00\x02\x01"),
            ("NSEC3PARAM", "1 0 12 aabb", b"\x01\x00\x00\x0c\x02\xaa\xbb"),
            ("NSEC3PARAM", "1 0 12 -", b"\x01\x00\x00\x0c\x00"),
            ("TYPE4711", "\\# 3 0a 0b0C", b"\x0a\x0b\x0c"),
            ("LOC", "\\# 0", b""),
        ] {
            assert_eq!(bytes(kind, text).as_deref(), Some(expected), "{kind} {text}");
        }
    }

    #[test]
    fn texts_are_cut_at_255_bytes_and_escapes_are_decimal() {
        let mut long = vec![255];
        long.extend([b'x'; 255]);
        long.extend([45]);
        long.extend([b'x'; 45]);
        for kind in ["TXT", "SPF", "AVC", "NINFO", "RESINFO"] {
            assert_eq!(bytes(kind, &format!("\"{}\"", "x".repeat(300))), Some(long.clone()), "{kind}");
        }
        for (kind, text, expected) in [
            ("TXT", r#""a\"\\\195\164" b\032c """#, Some(&b"\x05a\"\\\xc3\xa4\x03b c\x00"[..])),
            ("TXT", "( \"v=DKIM1; p=\"\n \"(x)\" ) ; a key", Some(b"\x0bv=DKIM1; p=\x03(x)")),
            ("TXT", r"\300", None),
            ("TXT", "", None),
            ("HINFO", r#"a\032b "c d""#, Some(b"\x03a b\x03c d")),
            ("URI", r#"1 2 "a\098""#, Some(b"\x00\x01\x00\x02ab")),
            ("CAA", r#"0 issue "a\098;c""#, Some(b"\x00\x05issueab;c")),
            ("NAPTR", r#"1 2 "u" "a b" "" x.y"#, Some(b"\x00\x01\x00\x02\x01u\x03a b\x00\x01x\x01y\x00")),
            ("SSHFP", "4 2 0a 0B", Some(b"\x04\x02\x0a\x0b")),
            ("TLSA", "3 1 1 (0a\n0b) ; x", Some(b"\x03\x01\x01\x0a\x0b")),
            ("OPENPGPKEY", "AQ ID", Some(b"\x01\x02\x03")),
        ] {
            assert_eq!(bytes(kind, text).as_deref(), expected, "{kind} {text}");
        }
    }

    #[test]
    fn escapes_in_names_are_decimal() {
        for (text, expected) in
            [(r"a\098c.example", Some("abc.example.")), (r"a\.b.example.", Some(r"a\.b.example.")), (r"a\;b.example", None)]
        {
            let name = data("CNAME".parse().unwrap(), text).map(|data| data.to_string());
            assert_eq!(name.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn parameters_of_services_are_sorted_and_those_that_the_library_misreads_are_no_data() {
        let read = |text: &str| data("HTTPS".parse().unwrap(), text).map(|data| data.to_string());
        let sorted = read("1 . alpn=h2,h3 ipv4hint=192.0.2.1 port=443");
        assert!(sorted.is_some());
        assert_eq!(read("1 . port=443 ipv4hint=192.0.2.1 alpn=\"h2,h3\""), sorted);
        assert_eq!(read("1 x mandatory=port,alpn alpn=h2 port=1"), read("1 x mandatory=alpn,port alpn=h2 port=1"));
        for parameter in [
            "alpn=,h2",
            "alpn=h2,,h3",
            "alpn=",
            "alpn=\"",
            "alpn=@",
            "alpn=$",
            "alpn=h2\\044",
            "key9=\"",
            "key9=\"a",
            "ipv4hint=",
        ] {
            assert_eq!(read(&format!("1 . {parameter}")), None, "{parameter}");
        }
    }

    #[test]
    fn what_has_a_field_too_few_or_too_many_is_no_data() {
        for (kind, text) in [
            ("DS", "60485 5 1 2BB"),
            ("DS", "60485 5"),
            ("DS", "60485 5 256 2BB1"),
            ("DNAME", "a. b."),
            ("EUI48", "00-00-5e-00-53"),
            ("URI", "10 1 a b"),
            ("TYPE4711", "\\# 2 0a"),
            ("TYPE4711", "0a"),
            ("LOC", "52 22 23 N 4 53 32 E -2m"),
        ] {
            assert!(data(kind.parse().unwrap(), text).is_none(), "{kind} {text}");
        }
    }

    #[test]
    fn every_type_that_is_said_to_be_written_is_a_type() {
        let names = READ.iter().chain(LAYOUTS.iter().map(|(name, _)| name));
        let unknown: Vec<_> = names.filter(|name| name.parse::<RecordKind>().is_err()).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
        assert!(is_written(RecordKind(43)) && !is_written(RecordKind(29)) && !is_written(RecordKind(4711)));
    }
}
