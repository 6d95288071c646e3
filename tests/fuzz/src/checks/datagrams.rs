//! Questions over UDP: both paths, with hickory and the `domain` crate as judges.

use super::{Check, number};
use crate::battery::{cases, cluster, type_number};
use crate::both::Both;
use domain::base::Message as Judge;
use hickory_proto::op::{Edns, Message, Query};
use hickory_proto::rr::Name;
use hickory_proto::rr::rdata::opt::EdnsOption;

const HEADER: usize = 12;
const PLAIN: usize = 512;
const MOST: usize = 1232;

/// A datagram gets a proper reply or none, and the same by both paths.
pub struct Datagrams(Both);

impl Check for Datagrams {
    const NAME: &str = "datagrams";
    const LONGEST: usize = 1500;

    fn seeds() -> Vec<Vec<u8>> {
        let mut seeds = Vec::new();
        for case in cases() {
            let mut message = Message::query();
            let name = Name::from_labels(case.name.split('.').map(str::as_bytes)).unwrap();
            message.add_query(Query::query(name, type_number(&case.rtype).into()));
            seeds.push(message.to_vec().unwrap());
            let mut edns = Edns::new();
            edns.set_max_payload(4096).set_dnssec_ok(true);
            if seeds.len() % 4 == 0 {
                edns.options_mut().insert(EdnsOption::Unknown(10, vec![1, 2, 3, 4, 5, 6, 7, 8]));
            }
            seeds.push(message.set_edns(edns).to_vec().unwrap());
        }
        seeds
    }

    fn new() -> Datagrams {
        Datagrams(Both::over(cluster()))
    }

    fn check(&mut self, datagram: &[u8]) -> u64 {
        let is_fast = self.0.agree_on(datagram);
        let Some(reply) = self.0.slow(datagram) else {
            assert!(datagram.len() < HEADER || datagram[2] & 0x80 != 0, "only a response, or less than a header, gets no reply");
            return number((is_fast, 0, 0, 0));
        };
        judge(datagram, &reply);
        // What happened: the flags and code, the counts, and the size by its magnitude.
        let counts = u64::from_be_bytes(reply[4..12].try_into().unwrap());
        number((is_fast, u16::from_be_bytes([reply[2], reply[3]]), counts, reply.len() / 64))
    }
}

/// Two libraries can read it, it belongs to the question, and it is no longer than it may be.
pub fn judge(datagram: &[u8], reply: &[u8]) {
    assert_eq!(reply[..2], datagram[..2], "the id");
    assert!(reply[2] & 0x80 != 0, "a response");
    let message = Message::from_vec(reply).expect("hickory reads it");
    let judge = Judge::from_octets(reply).expect("it has a header");
    let mut records = 0;
    for record in judge.iter() {
        record.expect("domain reads every record");
        records += 1;
    }
    let of_hickory = message.answers.len() + message.authorities.len() + message.additionals.len();
    assert_eq!(records, of_hickory + usize::from(message.edns.is_some()), "both read the same number of records");
    let asked = Judge::from_octets(datagram).expect("it has a header");
    if let (Ok(asked), Ok(echoed)) = (asked.sole_question(), judge.sole_question()) {
        assert_eq!(asked, echoed, "the question is repeated");
        assert_eq!(asked.qname().to_string(), echoed.qname().to_string(), "as it was spelled");
    }
    let limit = if message.edns.is_some() { MOST } else { PLAIN };
    assert!(reply.len() <= limit, "{} bytes", reply.len());
}
