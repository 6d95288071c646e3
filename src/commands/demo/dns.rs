//! A DNS client that asks from inside a pod, and the server outside the cluster that the agent forwards to.

use crate::lab::{LabError, Namespace};
use hickory_proto::op::{Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

/// The one name that the world outside knows.
pub const OUTSIDE_NAME: &str = "example.com";

/// Its addresses (documentation networks, RFC 5737 and RFC 3849).
pub const OUTSIDE_ADDRESSES: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(198, 51, 100, 80)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 0x80))];

const PATIENCE: Duration = Duration::from_secs(3);

/// An answer.
#[derive(Debug)]
pub struct Reply {
    /// NOERROR, NXDOMAIN, …
    pub code: ResponseCode,
    /// The answer section: each record's type and its data as text, sorted.
    pub answers: Vec<(RecordType, String)>,
    /// From the question to the answer.
    pub took: Duration,
}

impl Reply {
    /// The data of the records of one type.
    pub fn of(&self, record_type: RecordType) -> Vec<&str> {
        self.answers.iter().filter(|(of, _)| *of == record_type).map(|(_, data)| data.as_str()).collect()
    }
}

/// Asks `server` over UDP, on the calling thread and so in its namespace. Names are absolute.
///
/// # Errors
///
/// When no sensible answer comes within three seconds.
pub fn ask(server: SocketAddr, name: &str, record_type: RecordType) -> io::Result<Reply> {
    let mut question = Message::query();
    question.metadata.recursion_desired = true;
    let name = Name::from_ascii(format!("{}.", name.trim_end_matches('.'))).map_err(io::Error::other)?;
    question.add_query(Query::query(name, record_type));
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(server)?;
    let asked = Instant::now();
    socket.send(&question.to_vec().map_err(io::Error::other)?)?;
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => io::Error::new(io::ErrorKind::TimedOut, format!("none in {} s", PATIENCE.as_secs())),
        io::ErrorKind::ConnectionRefused => io::Error::new(error.kind(), "refused"),
        _ => error,
    })?;
    let took = asked.elapsed();
    let reply = Message::from_vec(&buffer[..length]).map_err(io::Error::other)?;
    if reply.metadata.id != question.metadata.id {
        return Err(io::Error::other("the answer is to another question"));
    }
    let mut answers: Vec<_> = reply.answers.iter().map(|record| (record.record_type(), text(&record.data))).collect();
    answers.sort();
    Ok(Reply { code: reply.metadata.response_code, answers, took })
}

/// A record's data without the final dots of names, which mean nothing to people.
fn text(data: &RData) -> String {
    data.to_string().trim_end_matches('.').to_string()
}

/// Starts the server outside: [`OUTSIDE_NAME`] is all it knows. It ends with the process.
///
/// # Errors
///
/// When its socket cannot be opened.
pub fn serve_outside(outside: &Namespace, address: SocketAddr) -> Result<(), LabError> {
    let socket = outside.udp_socket(address)?;
    let failed = |source| LabError::System { what: "starting the DNS server outside".to_string(), source };
    socket.set_nonblocking(false).map_err(failed)?;
    std::thread::Builder::new().name("outside-dns".into()).spawn(move || answer(&socket)).map_err(failed)?;
    Ok(())
}

fn answer(socket: &UdpSocket) {
    let mut buffer = [0; 4096];
    while let Ok((length, client)) = socket.recv_from(&mut buffer) {
        let reply = Message::from_vec(&buffer[..length]).ok().map(|question| outside_answer(&question));
        if let Some(Ok(reply)) = reply.map(|reply| reply.to_vec()) {
            let _ = socket.send_to(&reply, client);
        }
    }
}

fn outside_answer(question: &Message) -> Message {
    let mut reply = Message::new(question.metadata.id, MessageType::Response, question.metadata.op_code);
    reply.metadata.recursion_desired = question.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    for query in &question.queries {
        reply.add_query(query.clone());
        if query.name().to_ascii().trim_end_matches('.').to_lowercase() != OUTSIDE_NAME {
            reply.metadata.response_code = ResponseCode::NXDomain;
            continue;
        }
        let records = OUTSIDE_ADDRESSES.into_iter().map(|address| match address {
            IpAddr::V4(address) => RData::A(address.into()),
            IpAddr::V6(address) => RData::AAAA(address.into()),
        });
        let fitting = records.filter(|data| data.record_type() == query.query_type());
        reply.add_answers(fitting.map(|data| Record::from_rdata(query.name().clone(), 30, data)));
    }
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(name: &str, record_type: RecordType) -> Message {
        let mut question = Message::query();
        question.add_query(Query::query(Name::from_ascii(name).unwrap(), record_type));
        outside_answer(&question)
    }

    #[test]
    fn the_world_outside_knows_one_name() {
        assert_eq!(text(&asked("example.com.", RecordType::A).answers[0].data), OUTSIDE_ADDRESSES[0].to_string());
        assert_eq!(text(&asked("EXAMPLE.com.", RecordType::AAAA).answers[0].data), OUTSIDE_ADDRESSES[1].to_string());
        let no_data = asked("example.com.", RecordType::MX);
        assert!(no_data.answers.is_empty() && no_data.metadata.response_code == ResponseCode::NoError);
        assert_eq!(asked("example.org.", RecordType::A).metadata.response_code, ResponseCode::NXDomain);
    }
}
