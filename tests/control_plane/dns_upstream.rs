//! A name server that speaks UDP alone and numbers its answers.

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record, RecordType};
use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The names for whose address it is asked have its number: how often it has been asked.
const ZONE: &str = "numbered.example";
/// How soon it notices that its test is over.
const LOOK_AROUND: Duration = Duration::from_millis(50);

/// The server, as long as it is kept.
pub struct Upstream {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    asked: AtomicU8,
    is_over: AtomicBool,
}

impl Upstream {
    /// One that listens at this address and gives its answers this TTL.
    pub fn start(address: &str, ttl: u32) -> Upstream {
        let socket = UdpSocket::bind(address).unwrap_or_else(|error| panic!("{address}: {error}"));
        socket.set_read_timeout(Some(LOOK_AROUND)).expect("a socket takes a time-out");
        let shared = Arc::<Shared>::default();
        let thread = thread::spawn({
            let shared = shared.clone();
            move || shared.serve(&socket, ttl)
        });
        Upstream { shared, thread: Some(thread) }
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
    fn serve(&self, socket: &UdpSocket, ttl: u32) {
        let mut buffer = [0; 1500];
        while !self.is_over.load(Ordering::SeqCst) {
            match socket.recv_from(&mut buffer) {
                Ok((length, client)) => {
                    let answer = Message::from_vec(&buffer[..length]).map(|question| self.answer(question, ttl));
                    if let Some(bytes) = answer.ok().and_then(|answer| answer.to_vec().ok()) {
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

    fn answer(&self, question: Message, ttl: u32) -> Message {
        let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
        answer.metadata.recursion_desired = question.metadata.recursion_desired;
        answer.queries = question.queries;
        let asked = answer.queries.first().filter(|query| query.query_type() == RecordType::A).map(|query| query.name().clone());
        let Some(name) = asked.filter(|name| name.to_string().to_lowercase().trim_end_matches('.').ends_with(ZONE)) else {
            answer.metadata.response_code = ResponseCode::NXDomain;
            return answer;
        };
        let number = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        answer.add_answer(Record::from_rdata(name, ttl, RData::A(A::new(203, 0, 113, number))));
        answer
    }
}
