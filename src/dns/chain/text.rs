//! Resource records written as text, as in master files (RFC 1035, section 5.1): one to a line.

use super::rdata;
use super::values::{RecordKind, Time};
use crate::dns::name::DomainName;
use crate::dns::reply::name_to_hickory;
use hickory_proto::rr::{DNSClass, Record};

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
                ttl = u32::try_from(next.parse::<Time>().ok()?.0.as_secs()).ok()?;
            }
            kind => return Some(Head { owner, ttl, class, kind: kind.parse().ok()?, data }),
        }
    }
}

pub(super) fn word(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start();
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::rr::RData;

    #[test]
    fn records_are_read_with_and_without_ttl_and_class() {
        for (text, expected) in [
            ("a.example 60 IN A 192.0.2.1", "a.example. 60 IN A 192.0.2.1"),
            ("a.example. IN 60 AAAA 2001:db8::1", "a.example. 60 IN AAAA 2001:db8::1"),
            ("a.example 1h30m IN A 192.0.2.1", "a.example. 5400 IN A 192.0.2.1"),
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
        let RData::TXT(text) = record("a.example 5 IN TXT \"one two\" three").unwrap().data else { panic!("no text") };
        assert_eq!(text.txt_data.iter().map(|part| part.to_vec()).collect::<Vec<_>>(), [b"one two".to_vec(), b"three".to_vec()]);
        for text in
            ["", "a.example", "a.example 60 IN", "a.example 60 IN A nonsense", "a..b 60 IN A 192.0.2.1", "a.example 60 BOGUS x"]
        {
            assert!(record(text).is_none(), "{text}");
        }
        let unreadable = |text| super::unreadable(text).map(|kind| kind.to_string());
        assert_eq!(unreadable("a.example 60 IN LOC 52 N 4 E -2m").as_deref(), Some("LOC"));
        assert_eq!(unreadable("a.example 60 IN LOC \\# 0"), None);
        assert_eq!(unreadable("a.example 60 IN DS 1 2 3 00"), None);
    }
}
