//! Questions over UDP.

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use std::cell::Cell;
use std::net::{IpAddr, UdpSocket};
use std::str::FromStr;
use std::time::Duration;

/// A busy server may be slower; then it is asked again.
const PATIENCE: Duration = Duration::from_millis(5);

/// Asks one server, from the network namespace of the thread that made it.
pub struct Asker {
    socket: UdpSocket,
    number: Cell<u16>,
}

impl Asker {
    pub fn new(server: &str) -> Asker {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("there is a free port");
        socket.connect((server, 53)).expect("there is a route to the server");
        socket.set_read_timeout(Some(PATIENCE)).expect("a time-out can be set");
        Asker { socket, number: Cell::new(0) }
    }

    /// Whether the name has this address.
    pub fn resolves(&self, name: &str, address: IpAddr) -> bool {
        let number = self.number.get().wrapping_add(1);
        self.number.set(number);
        let mut question = Message::new(number, MessageType::Query, OpCode::Query);
        question.add_query(Query::query(Name::from_str(name).expect("a name"), RecordType::A));
        let mut buffer = [0; 512];
        // A refused datagram shows at the next send.
        let _ = self.socket.send(&question.to_vec().expect("a small message"));
        let Ok(length) = self.socket.recv(&mut buffer) else { return false };
        let is_it = |data: &RData| data.ip_addr() == Some(address);
        Message::from_vec(&buffer[..length])
            .is_ok_and(|answer| answer.id == number && answer.answers.iter().any(|record| is_it(&record.data)))
    }
}
