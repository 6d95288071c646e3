//! Messages as upstream servers send them, on their way to a client: what is written says what was read, with hickory and the `domain` crate as judges.

use super::{Check, number};
use crate::battery::{cases, cluster, type_number};
use crate::both::Both;
use domain::base::{Message as Judge, ParsedName};
use domain::rdata::AllRecordData;
use hickory_proto::op::{Message, Query};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, MX, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinEncodable};
use waypost::dns::reply::{PLAIN_UDP_PAYLOAD, Reply};

/// So many times the answers are there where they are to go beyond the places that a pointer reaches.
const ROUNDS: usize = 40;

/// A message is handed on as it was read, as far as it fits.
pub struct Replies;

impl Check for Replies {
    const NAME: &str = "replies";
    const LONGEST: usize = 3000;

    fn seeds() -> Vec<Vec<u8>> {
        let both = Both::over(cluster());
        let mut seeds: Vec<Vec<u8>> = cases()
            .iter()
            .step_by(4)
            .enumerate()
            .filter_map(|(place, case)| {
                let mut message = Message::query();
                message.metadata.id = limit_as_id(place);
                message.add_query(Query::query(Name::from_ascii(&case.name).ok()?, type_number(&case.rtype).into()));
                both.slow_message(&message.to_vec().ok()?)
            })
            .collect();
        seeds.extend((0..4).map(|place| all_kinds(limit_as_id(place)).to_vec().unwrap()));
        seeds
    }

    fn new() -> Replies {
        Replies
    }

    fn check(&mut self, input: &[u8]) -> u64 {
        let Ok(message) = Message::from_vec(input) else { return number("cannot be read") };
        let limit = message.metadata.id.max(PLAIN_UDP_PAYLOAD);
        let mut asked = message.queries.clone();
        asked.truncate(1);
        let mut reply = Reply {
            metadata: message.metadata,
            answers: sound(message.answers),
            authorities: sound(message.authorities),
            additionals: sound(message.additionals),
            edns: message.edns,
            origin: "",
        };
        if message.metadata.id % 4 == 3 {
            reply.answers = many(&reply.answers);
        }
        reply.metadata.truncation = false;
        let whole = reply.clone();
        let bytes = reply.fit(asked.first(), limit);
        assert!(bytes.len() <= usize::from(limit), "{} bytes of {limit}", bytes.len());
        let read = Message::from_vec(&bytes).expect("hickory reads it");
        assert_eq!(read.queries, asked);
        assert!(read.queries.iter().zip(&asked).all(|(read, asked)| read.name().eq_case(asked.name())), "as it was spelled");
        // What stays are the first ones, and nothing behind what was cut.
        let kept = [&read.answers, &read.authorities, &read.additionals].map(Vec::len);
        let had = [&whole.answers, &whole.authorities, &whole.additionals].map(Vec::len);
        assert_eq!(read.metadata.truncation, kept[..2] != had[..2]);
        assert!(kept[0] == had[0] || kept[1..] == [0, 0], "{kept:?} of {had:?}");
        same(&read.answers, &whole.answers);
        same(&read.authorities, &whole.authorities);
        same(&read.additionals, &whole.additionals);
        as_another_library_reads_it(&bytes, &read);
        number((kept, had, read.metadata.truncation, bytes.len() / 256))
    }
}

/// The limit is the id: every fourth one has answers many times, too.
fn limit_as_id(place: usize) -> u16 {
    [512, 1232, 4096, 65_535][place % 4]
}

fn all_kinds(id: u16) -> Message {
    let name = |text: &str| Name::from_ascii(text).unwrap();
    let data = [
        RData::A(A::new(10, 0, 0, 1)),
        RData::AAAA(AAAA::new(0xfd00, 0, 0, 0, 0, 0, 0, 1)),
        RData::CNAME(CNAME(name("web.Shop.example."))),
        RData::NS(NS(name("ns.shop.example."))),
        RData::PTR(PTR(name("web.shop.example."))),
        RData::MX(MX::new(10, name("mail.example."))),
        RData::SRV(SRV::new(0, 1, 80, name("web.shop.example."))),
        RData::SOA(SOA::new(name("ns.example."), name("admin.example."), 1, 2, 3, 4, 5)),
        RData::TXT(TXT::new(vec!["one".to_string(), "two".to_string()])),
    ];
    let mut message = Message::query();
    message.metadata.id = id;
    message.add_query(Query::query(name("WEB.shop.example."), RecordType::ANY));
    for (place, data) in data.into_iter().enumerate() {
        let record = Record::from_rdata(name(["web.shop.example.", "shop.EXAMPLE.", "."][place % 3]), 30, data);
        message.answers.push(record.clone());
        message.authorities.push(record.clone());
        message.additionals.push(record);
    }
    message
}

/// Those that hickory itself can write and read again: what it makes of rare kinds of data is not ours.
fn sound(records: Vec<Record>) -> Vec<Record> {
    let again = |record: &Record| Record::from_bytes(&record.to_bytes().ok()?).ok();
    records.into_iter().filter(|record| again(record).is_some_and(|again| is_same(&again, record))).collect()
}

fn is_same(one: &Record, other: &Record) -> bool {
    let rest = |record: &Record| (record.ttl, record.dns_class, record.record_type(), record.data.to_string());
    one == other && one.name.eq_case(&other.name) && rest(one) == rest(other)
}

/// The same records again and again under other names, so that names stand where nothing can point at them.
fn many(records: &[Record]) -> Vec<Record> {
    let rounds = (0..ROUNDS).flat_map(|round| {
        records.iter().map(move |record| {
            let mut record = record.clone();
            record.name = record.name.prepend_label(round.to_string().as_bytes()).unwrap_or(record.name);
            record
        })
    });
    rounds.collect()
}

fn same(read: &[Record], written: &[Record]) {
    for (read, written) in read.iter().zip(written) {
        assert!(is_same(read, written), "{read} was {written}");
    }
}

/// It reads the same in these bytes as in what hickory's own encoder makes of the message.
fn as_another_library_reads_it(bytes: &[u8], read: &Message) {
    let mut plain = read.clone();
    plain.edns = None;
    let Ok(plain) = plain.to_vec() else { return };
    // Bytes that hickory hands on as they are (RFC 3597): what looks like a pointer in them points elsewhere in each of the two.
    let is_opaque = |record: &Record| matches!(record.data, RData::Unknown { .. });
    let opaque: Vec<bool> = read.answers.iter().chain(&read.authorities).chain(&read.additionals).map(is_opaque).collect();
    let ours = records_of(bytes, &opaque);
    let theirs = records_of(&plain, &opaque);
    assert_eq!(ours[..theirs.len()], theirs[..]);
    assert_eq!(ours.len(), theirs.len() + usize::from(read.edns.is_some()), "the last one is OPT");
}

/// All records as text; of those that cannot be understood, or need not be, only what stands before their data.
fn records_of(bytes: &[u8], opaque: &[bool]) -> Vec<String> {
    let message = Judge::from_octets(bytes).expect("it has a header");
    let text = |(place, record): (usize, domain::base::record::ParsedRecord<'_, &[u8]>)| {
        let understood = record.to_any_record::<AllRecordData<_, ParsedName<_>>>().ok();
        match understood.filter(|_| opaque.get(place) != Some(&true)) {
            Some(record) => record.to_string(),
            None => format!("{} {} {} {}", record.owner(), record.rtype(), record.class(), record.ttl().as_secs()),
        }
    };
    message.iter().map(|record| record.expect("domain reads every record").0).enumerate().map(text).collect()
}
