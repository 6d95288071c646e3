//! A message in wire form, with names compressed as far as a message allows it, in time that grows with the message alone.
//!
//! hickory's own encoder compresses 120 names of a message and remembers 64 places, because it compares each name with each place (RUSTSEC-2026-0119).
//! So a headless Service with more endpoints would not fit into an answer over TCP that has room for them. Here places are looked up label by label
//! from the end of a name, as in a tree. Names in the data of records are compressed where RFC 3597, section 4, allows it.

use hickory_proto::op::Query;
use hickory_proto::rr::rdata::{A, AAAA, CNAME, MX, NS, PTR, SOA, SRV};
use hickory_proto::rr::{Name, RData, Record};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder, NameEncoding};
use std::collections::HashMap;

const HEADER: usize = 12;
/// What tells a pointer from a label; the other 14 bits say where it points.
const POINTER: u16 = 0xc000;
/// The end of all names, which nothing points at.
const ROOT: u16 = 0;

/// A message that is being written behind the place of its header. Whatever does not fit is not added.
pub(super) struct Encoder<'a> {
    bytes: Vec<u8>,
    limit: usize,
    /// Where a label stands in front of what stands at another place.
    places: HashMap<(u16, &'a [u8]), u16>,
}

impl<'a> Encoder<'a> {
    /// One for a message of at most so many bytes.
    pub fn new(limit: usize) -> Encoder<'a> {
        let mut bytes = Vec::with_capacity(512);
        bytes.resize(HEADER, 0);
        Encoder { bytes, limit, places: HashMap::new() }
    }

    /// Adds the question, whatever the limit.
    pub fn question(&mut self, query: &'a Query) {
        self.name(query.name(), true);
        self.number(query.query_type().into());
        self.number(query.query_class().into());
    }

    /// Adds as many of these records as fit, and says where each of them ends.
    pub fn records(&mut self, records: &'a [Record]) -> Vec<usize> {
        let mut ends = Vec::with_capacity(records.len());
        for record in records {
            let before = self.bytes.len();
            if self.record(record).is_none() || self.bytes.len() > self.limit {
                self.back_to(before);
                break;
            }
            ends.push(self.bytes.len());
        }
        ends
    }

    /// Keeps so many bytes for what comes behind the records. False, and nothing is kept, where that is more than there is room for.
    pub fn keep(&mut self, bytes: usize) -> bool {
        let fits = self.bytes.len() + bytes <= self.limit;
        if fits {
            self.limit -= bytes;
        }
        fits
    }

    /// How long it is now.
    pub fn length(&self) -> usize {
        self.bytes.len()
    }

    /// Takes back what was written since it was this long.
    pub fn back_to(&mut self, length: usize) {
        self.bytes.truncate(length);
        self.places.retain(|_, place| usize::from(*place) < length);
    }

    /// What was written, with room for the header.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// `None` for data that have no wire form.
    fn record(&mut self, record: &'a Record) -> Option<()> {
        self.name(&record.name, true);
        self.number(record.record_type().into());
        self.number(record.dns_class.into());
        self.bytes.extend_from_slice(&record.ttl.to_be_bytes());
        let length_at = self.bytes.len();
        self.number(0);
        match &record.data {
            RData::A(A(address)) => self.bytes.extend_from_slice(&address.octets()),
            RData::AAAA(AAAA(address)) => self.bytes.extend_from_slice(&address.octets()),
            RData::CNAME(CNAME(name)) | RData::NS(NS(name)) | RData::PTR(PTR(name)) => self.name(name, true),
            RData::MX(MX { preference, exchange, .. }) => {
                self.number(*preference);
                self.name(exchange, true);
            }
            RData::SRV(SRV { priority, weight, port, target, .. }) => {
                [priority, weight, port].into_iter().for_each(|number| self.number(*number));
                // RFC 2782: "name compression is not to be used for this field".
                self.name(target, false);
            }
            RData::SOA(SOA { mname, rname, serial, refresh, retry, expire, minimum, .. }) => {
                self.name(mname, true);
                self.name(rname, true);
                let times = [refresh, retry, expire].map(|time| time.to_be_bytes());
                self.bytes.extend_from_slice(&serial.to_be_bytes());
                self.bytes.extend_from_slice(times.as_flattened());
                self.bytes.extend_from_slice(&minimum.to_be_bytes());
            }
            RData::Update0(_) => {}
            other => self.bytes.extend_from_slice(&uncompressed(other)?),
        }
        let length = u16::try_from(self.bytes.len() - length_at - 2).ok()?;
        self.bytes[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
        Some(())
    }

    fn number(&mut self, number: u16) {
        self.bytes.extend_from_slice(&number.to_be_bytes());
    }

    /// A name. Its places are remembered for later ones even where it must not be compressed itself.
    fn name(&mut self, name: &'a Name, may_point: bool) {
        let labels: Vec<&'a [u8]> = name.iter().collect();
        let (mut known, mut new) = (ROOT, labels.len());
        while let Some(label) = new.checked_sub(1).map(|last| labels[last])
            && let Some(place) = self.places.get(&(known, label))
        {
            (known, new) = (*place, new - 1);
        }
        let written = if may_point { new } else { labels.len() };
        let mut starts = Vec::with_capacity(written);
        for label in &labels[..written] {
            starts.push(self.bytes.len());
            self.bytes.push(label.len() as u8);
            self.bytes.extend_from_slice(label);
        }
        if written < labels.len() {
            self.number(POINTER | known);
        } else {
            self.bytes.push(0);
        }
        for (label, start) in labels[..new].iter().copied().zip(starts).rev() {
            let Some(place) = u16::try_from(start).ok().filter(|place| place & POINTER == 0) else { return };
            self.places.insert((known, label), place);
            known = place;
        }
    }
}

/// Other data are written by hickory, on their own: a name in them must not point at anything.
fn uncompressed(data: &RData) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_name_encoding(NameEncoding::Uncompressed);
    data.emit(&mut encoder).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::Message;
    use hickory_proto::rr::RecordType;
    use hickory_proto::rr::rdata::TXT;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn name() -> impl Strategy<Value = Name> {
        let label = prop::sample::select(&["a", "A", "b", "default", "svc", "cluster", "local", "10-0-0-1"][..]);
        vec(label, 0..7).prop_map(|labels| Name::from_labels(labels.into_iter().map(str::as_bytes)).unwrap())
    }

    fn record() -> impl Strategy<Value = Record> {
        (name(), name(), name(), 0..8_u8).prop_map(|(owner, one, other, kind)| {
            let data = match kind {
                0 => RData::A(A::new(10, 0, 0, 1)),
                1 => RData::CNAME(CNAME(one)),
                2 => RData::NS(NS(one)),
                3 => RData::PTR(PTR(one)),
                4 => RData::MX(MX::new(7, one)),
                5 => RData::SRV(SRV::new(0, 1, 2, one)),
                6 => RData::SOA(SOA::new(one, other, 1, 2, 3, 4, 5)),
                _ => RData::TXT(TXT::new(vec!["text".to_string()])),
            };
            Record::from_rdata(owner, 30, data)
        })
    }

    fn read(mut bytes: Vec<u8>, answers: usize) -> Message {
        (bytes[5], bytes[6], bytes[7]) = (1, (answers >> 8) as u8, answers as u8);
        Message::from_vec(&bytes).expect("hickory reads it")
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        /// Beyond the places that a pointer reaches as well.
        #[test]
        fn what_is_written_is_read_as_it_was_and_never_longer_than_the_limit(
            records in vec(record(), 0..1500),
            limit in 512..30_000_usize,
            asked in name(),
        ) {
            let query = Query::query(asked, RecordType::A);
            let mut encoder = Encoder::new(limit);
            encoder.question(&query);
            let ends = encoder.records(&records);
            let bytes = encoder.into_bytes();
            prop_assert!(bytes.len() <= limit && ends.last().is_none_or(|end| *end == bytes.len()));
            // The longest record of these has less than this.
            prop_assert!(ends.len() == records.len() || limit - bytes.len() < 300);
            let message = read(bytes, ends.len());
            prop_assert_eq!(&message.queries, std::slice::from_ref(&query));
            prop_assert!(message.queries[0].name().eq_case(query.name()));
            for (read, written) in message.answers.iter().zip(&records) {
                prop_assert!(read.name.eq_case(&written.name), "{} {}", read.name, written.name);
                prop_assert_eq!(read.data.to_string(), written.data.to_string());
            }
            prop_assert_eq!(message.answers.len(), ends.len());
        }

        #[test]
        fn what_is_taken_back_is_pointed_at_no_more(before in vec(record(), 0..20), gone in vec(record(), 0..20), after in vec(record(), 0..20)) {
            let mut encoder = Encoder::new(65_535);
            encoder.records(&before);
            let length = encoder.length();
            encoder.records(&gone);
            encoder.back_to(length);
            encoder.records(&after);
            let mut fresh = Encoder::new(65_535);
            fresh.records(&before);
            fresh.records(&after);
            prop_assert_eq!(encoder.into_bytes(), fresh.into_bytes());
        }
    }
}
