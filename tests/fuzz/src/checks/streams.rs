//! Questions over TCP as a stream of bytes, cut anywhere: each is answered as it is on its own.

use super::{Check, number};
use crate::battery::{cases, cluster, type_number};
use crate::both::Both;
use hickory_proto::op::{Edns, Message, Query};
use hickory_proto::rr::Name;
use std::net::SocketAddr;
use waypost::dns::limits::LONGEST_QUESTION;
use waypost::dns::server::Serving;

/// Up to so many cuts.
const CUTS: u8 = 8;

/// A stream of questions is answered question by question, wherever it is cut.
pub struct Streams {
    both: Both,
    server: SocketAddr,
    _serving: Serving,
}

impl Check for Streams {
    const NAME: &str = "streams";
    const LONGEST: usize = 6000;
    const CHANGES: usize = 2_000;

    fn seeds() -> Vec<Vec<u8>> {
        let questions: Vec<Vec<u8>> = cases()
            .iter()
            .enumerate()
            .filter_map(|(place, case)| {
                let mut message = Message::query();
                message.metadata.id = place as u16;
                message.add_query(Query::query(Name::from_ascii(&case.name).ok()?, type_number(&case.rtype).into()));
                if place % 3 == 0 {
                    message.set_edns(Edns::new());
                }
                message.to_vec().ok()
            })
            .collect();
        let mut seeds: Vec<Vec<u8>> =
            questions.chunks(7).enumerate().map(|(place, questions)| stream(&cuts(place), questions)).collect();
        seeds.push(stream(&[1, 2, 3], &questions));
        seeds
    }

    fn new() -> Streams {
        let both = Both::over(cluster());
        let (server, serving) = both.serve();
        Streams { both, server, _serving: serving }
    }

    fn check(&mut self, input: &[u8]) -> u64 {
        let (cuts, stream) = input.split_first().map_or((0, input), |(cuts, rest)| (cuts % (CUTS + 1), rest));
        let (cuts, stream) = stream.split_at(stream.len().min(usize::from(cuts) * 2));
        let mut cuts: Vec<usize> =
            cuts.chunks_exact(2).map(|cut| usize::from(u16::from_be_bytes([cut[0], cut[1]])) % (stream.len() + 1)).collect();
        cuts.sort();
        let (questions, is_too_long) = questions_in(stream);
        let mut expected: Vec<Said> =
            questions.iter().filter_map(|question| self.both.slow_message(question)).map(said).collect();
        let mut pieces: Vec<&[u8]> = Vec::new();
        let mut begin = 0;
        for end in cuts.iter().copied().chain([stream.len()]) {
            pieces.push(&stream[begin..end]);
            begin = end;
        }
        let answers = self.both.converse(self.server, &pieces);
        let mut answered: Vec<Said> = messages_in(&answers).into_iter().map(|message| said(message.to_vec())).collect();
        expected.sort();
        answered.sort();
        if is_too_long {
            // What the client has sent and nobody reads makes the kernel cut the connection, and answers may be lost.
            assert!(answered.iter().all(|answer| expected.contains(answer)));
        } else {
            assert_eq!(answered, expected);
        }
        number((questions.len(), is_too_long, expected.len(), cuts.len()))
    }
}

fn stream(cuts: &[u16], questions: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = vec![cuts.len() as u8];
    bytes.extend(cuts.iter().flat_map(|cut| cut.to_be_bytes()));
    for question in questions {
        bytes.extend_from_slice(&(question.len() as u16).to_be_bytes());
        bytes.extend_from_slice(question);
    }
    bytes
}

fn cuts(place: usize) -> Vec<u16> {
    (0..place % 5).map(|cut| (place * 7 + cut * 29) as u16).collect()
}

/// The whole questions of a stream, as far as it can be read: what says that it is longer than any question ends it.
fn questions_in(mut stream: &[u8]) -> (Vec<&[u8]>, bool) {
    let mut questions = Vec::new();
    while let Some((length, rest)) = stream.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes(*length));
        if length > LONGEST_QUESTION {
            return (questions, true);
        }
        let Some((question, rest)) = rest.split_at_checked(length) else { break };
        questions.push(question);
        stream = rest;
    }
    (questions, false)
}

/// The whole messages of what came back.
fn messages_in(mut stream: &[u8]) -> Vec<&[u8]> {
    let mut messages = Vec::new();
    while let Some((length, rest)) = stream.split_first_chunk() {
        let Some((message, rest)) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length))) else { break };
        messages.push(message);
        stream = rest;
    }
    messages
}

/// An answer: its header, how long it is, and its records in an order of their own, because addresses are shuffled.
type Said = (Vec<u8>, usize, Vec<String>);

fn said(reply: Vec<u8>) -> Said {
    let message = Message::from_vec(&reply).expect("hickory reads it");
    let sections = [&message.answers, &message.authorities, &message.additionals];
    let mut records: Vec<String> = sections
        .iter()
        .enumerate()
        .flat_map(|(section, records)| records.iter().map(move |record| format!("{section} {record}")))
        .collect();
    records.sort();
    (reply[..12].to_vec(), reply.len(), records)
}
