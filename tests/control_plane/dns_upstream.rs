//! A name server that speaks UDP alone, knows how often it has been asked for a name, and fails or is silent when it is told to.
//!
//! Below [`ZONE`] the first label of a name says what its answer is: `a60-…` an address with a TTL of 60 seconds, whose last number is how often the name has
//! been asked for; `x60-…` that it does not exist, with an SOA record of 60 seconds; `m10-…` the same with one of 60 seconds that has names denied for 10; `e0-…`
//! nothing at all; `r5-…` the response code 5. Other names do not exist.

use hickory_proto::op::{Edns, Message, ResponseCode};
use hickory_proto::rr::rdata::{A, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::collections::HashMap;
use std::io;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The zone whose names have answers.
pub const ZONE: &str = "timed.example";
/// Names that have this label are answered in any case.
pub const ALWAYS: &str = "clock";
/// How soon it notices that its test is over.
const LOOK_AROUND: Duration = Duration::from_millis(50);

/// How names are answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    /// As they say.
    #[default]
    Answers,
    /// With SERVFAIL.
    Fails,
    /// Not at all.
    IsSilent,
}

/// The server, as long as it is kept.
pub struct Upstream {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    /// How often each name was asked for, lower case and without the final dot.
    asked: Mutex<HashMap<String, u8>>,
    mood: Mutex<Mood>,
    is_over: AtomicBool,
}

impl Upstream {
    /// One that listens at this address.
    pub fn start(address: &str) -> Upstream {
        let socket = UdpSocket::bind(address).unwrap_or_else(|error| panic!("{address}: {error}"));
        socket.set_read_timeout(Some(LOOK_AROUND)).expect("a socket takes a time-out");
        let shared = Arc::<Shared>::default();
        let thread = thread::spawn({
            let shared = shared.clone();
            move || shared.serve(&socket)
        });
        Upstream { shared, thread: Some(thread) }
    }

    /// How names are answered from now on.
    pub fn is(&self, mood: Mood) {
        *self.shared.mood.lock().expect("nobody panicked") = mood;
    }

    /// How often it was asked for a name of the zone, answered or not.
    pub fn asked(&self, name: &str) -> u8 {
        self.shared.asked.lock().expect("nobody panicked").get(name).copied().unwrap_or(0)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(ended.is_none_or(|ended| ended.is_ok()) || thread::panicking(), "the upstream server panicked");
    }
}

impl Shared {
    fn serve(&self, socket: &UdpSocket) {
        let mut buffer = [0; 1500];
        while !self.is_over.load(Ordering::SeqCst) {
            match socket.recv_from(&mut buffer) {
                Ok((length, client)) => {
                    let answer = Message::from_vec(&buffer[..length]).ok().and_then(|question| self.answer(question));
                    if let Some(bytes) = answer.and_then(|answer| answer.to_vec().ok()) {
                        // A client may have gone.
                        let _ = socket.send_to(&bytes, client);
                    }
                }
                Err(error) if [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut].contains(&error.kind()) => {}
                // What an answer to a client that has gone brings back.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(error) => panic!("receiving: {error}"),
            }
        }
    }

    fn answer(&self, question: Message) -> Option<Message> {
        let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
        answer.metadata.recursion_desired = question.metadata.recursion_desired;
        answer.metadata.response_code = ResponseCode::NXDomain;
        answer.queries = question.queries;
        let query = answer.queries.first().filter(|query| query.query_type() == RecordType::A);
        let Some(name) = query.map(|query| query.name().clone()).filter(is_in_zone) else { return Some(answer) };
        let text = text_of(&name);
        let number = {
            let mut asked = self.asked.lock().expect("nobody panicked");
            let number = asked.entry(text.clone()).or_default();
            *number += 1;
            *number
        };
        let mood = if text.contains(ALWAYS) { Mood::Answers } else { *self.mood.lock().expect("nobody panicked") };
        match mood {
            Mood::IsSilent => return None,
            Mood::Fails => answer.metadata.response_code = ResponseCode::ServFail,
            Mood::Answers => fill(&mut answer, name, &text, number),
        }
        Some(answer)
    }
}

fn is_in_zone(name: &Name) -> bool {
    text_of(name).ends_with(ZONE)
}

fn text_of(name: &Name) -> String {
    name.to_string().to_lowercase().trim_end_matches('.').to_string()
}

/// Puts in what the name says.
fn fill(answer: &mut Message, name: Name, text: &str, number: u8) {
    let (kind, rest) = text.split_at(1);
    let ttl: u32 = rest.split('-').next().and_then(|ttl| ttl.parse().ok()).expect("a name such as a60-x.timed.example");
    let denial = |ttl, minimum| {
        let zone: Name = format!("{ZONE}.").parse().expect("a name");
        Record::from_rdata(zone.clone(), ttl, RData::SOA(SOA::new(zone.clone(), zone, 1, 7200, 1800, 86400, minimum)))
    };
    match kind {
        "a" => {
            answer.metadata.response_code = ResponseCode::NoError;
            answer.answers.push(Record::from_rdata(name, ttl, RData::A(A::new(203, 0, 113, number))));
        }
        "e" => answer.metadata.response_code = ResponseCode::NoError,
        "r" => {
            let code = u16::try_from(ttl).expect("a code has 12 bits");
            answer.metadata.response_code = ResponseCode::from((code >> 4) as u8, (code & 0xf) as u8);
            answer.edns = Some(Edns::new());
        }
        "x" => answer.authorities.push(denial(ttl, 3600)),
        "m" => answer.authorities.push(denial(60, ttl)),
        other => panic!("{text}: {other:?} is no kind of answer"),
    }
}
