//! Resource records written as text, as in master files (RFC 1035, section 5.1): one to a line.

use super::rdata;
use super::values::RecordKind;
use crate::dns::name::DomainName;
use crate::dns::reply::name_to_hickory;
use hickory_proto::rr::{DNSClass, Record};
use hickory_proto::serialize::binary::BinEncodable;

/// The TTL of a record that has none (that of the library which CoreDNS reads records with).
const TTL: u32 = 3600;

/// What a record says before its data.
struct Head<'a> {
    owner: DomainName,
    ttl: u32,
    class: DNSClass,
    kind: RecordKind,
    data: &'a str,
}

/// The record in this text: owner, perhaps TTL and class in any order, type and data. `None` where it is none.
pub fn record(text: &str) -> Option<Record> {
    let head = head(text)?;
    let mut record = Record::from_rdata(name_to_hickory(&head.owner), head.ttl, rdata::data(head.kind, head.data)?);
    record.dns_class = head.class;
    Some(record)
}

/// The type of the record in this text, where its data can never be read.
pub fn unreadable(text: &str) -> Option<RecordKind> {
    let Head { kind, data, .. } = head(text)?;
    (!rdata::is_written(kind) && !rdata::is_generic(data)).then_some(kind)
}

/// Whether this text is a record that can be sent; `None` where it has no type or more data than `known`, the end of the text that is certain.
pub fn is_sendable(text: &str, known: &str) -> Option<bool> {
    let Head { data, .. } = head(text)?;
    (data.len() <= known.len()).then(|| record(text).is_some_and(|record| record.to_bytes().is_ok()))
}

fn head(text: &str) -> Option<Head<'_>> {
    let (owner, mut rest) = word(text)?;
    let owner = DomainName::parse_escaped(owner)?;
    let (mut ttl, mut class) = (TTL, DNSClass::IN);
    loop {
        let (next, data) = word(rest)?;
        rest = data;
        match next.to_ascii_uppercase().as_str() {
            "IN" => class = DNSClass::IN,
            "CH" => class = DNSClass::CH,
            "HS" => class = DNSClass::HS,
            number if number.starts_with(|digit: char| digit.is_ascii_digit()) => {
                ttl = seconds(next)?;
            }
            kind => return Some(Head { owner, ttl, class, kind: kind.parse().ok()?, data }),
        }
    }
}

/// A TTL as in master files: a number of seconds, or numbers with units in either case, such as `1d12h`.
fn seconds(text: &str) -> Option<u32> {
    let (mut total, mut number) = (0_u32, None);
    for letter in text.chars() {
        if let Some(digit) = letter.to_digit(10) {
            number = Some(number.unwrap_or(0_u32).checked_mul(10)?.checked_add(digit)?);
            continue;
        }
        let factor = match letter.to_ascii_lowercase() {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86400,
            'w' => 604_800,
            _ => return None,
        };
        total = total.checked_add(number.take()?.checked_mul(factor)?)?;
    }
    total.checked_add(number.unwrap_or(0))
}

pub(super) fn word(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start();
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_with_and_without_ttl_and_class() {
        for (text, expected) in [
            ("a.example 60 IN A 192.0.2.1", "a.example. 60 IN A 192.0.2.1"),
            ("a.example. IN 60 AAAA 2001:db8::1", "a.example. 60 IN AAAA 2001:db8::1"),
            ("a.example 1h30m IN A 192.0.2.1", "a.example. 5400 IN A 192.0.2.1"),
            ("a.example 1W1D IN A 192.0.2.1", "a.example. 691200 IN A 192.0.2.1"),
            ("a.example 1H IN A 192.0.2.1", "a.example. 3600 IN A 192.0.2.1"),
            ("a.example CNAME b.example", "a.example. 3600 IN CNAME b.example."),
            ("a.example 1 MX 10 mail.example", "a.example. 1 IN MX 10 mail.example."),
            (
                "example 60 IN SOA ns.example hostmaster.example 1 7200 1800 86400 60",
                "example. 60 IN SOA ns.example. hostmaster.example. 1 7200 1800 86400 60",
            ),
            ("_x._tcp.example 5 SRV 0 100 443 web.example", "_x._tcp.example. 5 IN SRV 0 100 443 web.example."),
        ] {
            assert_eq!(record(text).map(|record| record.to_string()).as_deref(), Some(expected));
        }
        for text in [
            "",
            "a.example",
            "a.example 60 IN",
            "a.example 60 IN A nonsense",
            "a..b 60 IN A 192.0.2.1",
            "a.example 60 BOGUS x",
            "a.example 500ms IN A 192.0.2.1",
            "a.example 1y IN A 192.0.2.1",
            "a.example 9999999999 IN A 192.0.2.1",
        ] {
            assert!(record(text).is_none(), "{text}");
        }
        let unreadable = |text| super::unreadable(text).map(|kind| kind.to_string());
        assert_eq!(unreadable("a.example 60 IN LOC 52 N 4 E -2m").as_deref(), Some("LOC"));
        assert_eq!(unreadable("a.example 60 IN LOC \\# 0"), None);
        assert_eq!(unreadable("a.example 60 IN DS 1 2 3 00"), None);
    }
}
