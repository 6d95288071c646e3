//! Resource records written as text, as in master files (RFC 1035, section 5.1): one to a line.

use super::values::RecordKind;
use crate::dns::name::DomainName;
use crate::dns::reply::name_to_hickory;
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};

/// The TTL of a record that has none (that of the library which CoreDNS reads records with).
const TTL: u32 = 3600;

/// The record in this text: owner, perhaps TTL and class in any order, type and data. `None` where it is none.
pub fn record(text: &str) -> Option<Record> {
    let (owner, mut rest) = word(text)?;
    let owner = DomainName::parse_escaped(owner)?;
    let (mut ttl, mut class) = (TTL, DNSClass::IN);
    loop {
        let (next, after) = word(rest)?;
        rest = after;
        match next.to_ascii_uppercase().as_str() {
            "IN" => class = DNSClass::IN,
            "CH" => class = DNSClass::CH,
            "HS" => class = DNSClass::HS,
            number if number.starts_with(|digit: char| digit.is_ascii_digit()) => ttl = number.parse().ok()?,
            kind => {
                let kind: RecordKind = kind.parse().ok()?;
                let data = RData::try_from_str(RecordType::from(kind.0), &absolute(kind, rest)).ok()?;
                let mut record = Record::from_rdata(name_to_hickory(&owner), ttl, data);
                record.dns_class = class;
                return Some(record);
            }
        }
    }
}

/// The data with its names absolute: there is no origin that they could be relative to.
fn absolute(kind: RecordKind, data: &str) -> String {
    let names: &[usize] = match kind.to_string().as_str() {
        "CNAME" | "NS" | "PTR" | "DNAME" => &[0],
        "MX" => &[1],
        "SRV" => &[3],
        "SOA" => &[0, 1],
        "NAPTR" => &[5],
        _ => return data.trim().to_string(),
    };
    let words = data.split_whitespace().enumerate().map(|(place, word)| match names.contains(&place) && !word.ends_with('.') {
        true => format!("{word}."),
        false => word.to_string(),
    });
    words.collect::<Vec<_>>().join(" ")
}

fn word(text: &str) -> Option<(&str, &str)> {
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
    }
}
