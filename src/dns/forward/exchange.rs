//! One question and one answer over a socket.

use super::sockets::Sockets;
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
use std::io;
use std::net::SocketAddr;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UdpSocket;

/// The longest answer over UDP that is read: we say that we take 1232 bytes.
const LONGEST_ANSWER: usize = 4096;

/// Whether a reply settles the question, as opposed to saying that the server could not or would not.
pub(super) fn is_helpful(answer: &Message) -> bool {
    let code = answer.metadata.response_code;
    !matches!(code, ResponseCode::ServFail | ResponseCode::Refused | ResponseCode::NotImp | ResponseCode::FormErr)
}

/// A question on its way to a server.
pub(super) struct Sent<'a> {
    /// The message, with another id.
    message: &'a Message,
    /// The id.
    id: u16,
    /// The bytes that are sent.
    bytes: Vec<u8>,
}

impl Sent<'_> {
    /// The message as it is sent, with an id that nobody can foresee.
    ///
    /// # Errors
    /// It has no wire form.
    pub fn new(message: &Message) -> io::Result<Sent<'_>> {
        let (id, mut bytes) = (rand::random(), message.to_vec().map_err(io::Error::other)?);
        bytes[..2].copy_from_slice(&u16::to_be_bytes(id));
        Ok(Sent { message, id, bytes })
    }

    /// The message in these bytes, if it answers this one: a response, the same id, the same question. The name's case is not compared: some servers do
    /// not echo it.
    fn answer(&self, bytes: &[u8]) -> Option<Message> {
        let answer = Message::from_vec(bytes).ok()?;
        let header = &answer.metadata;
        let same_header = header.id == self.id && header.message_type == MessageType::Response && header.op_code == OpCode::Query;
        let same = |asked: &Query, answered: &Query| {
            asked.query_type() == answered.query_type()
                && asked.query_class() == answered.query_class()
                && asked.name().eq_ignore_root(answered.name())
        };
        let same_question = match (self.message.queries.as_slice(), answer.queries.as_slice()) {
            ([asked], [answered]) => same(asked, answered),
            // Servers that could not read the question may not repeat it.
            ([_], []) => !is_helpful(&answer),
            _ => false,
        };
        (same_header && same_question).then_some(answer)
    }
}

/// By UDP from a socket that has its port for this question only: it is unpredictable, and nobody else's datagrams arrive. What does not fit the
/// question may be forged, or late: the true answer may still come.
pub(super) async fn over_udp(server: SocketAddr, sent: &Sent<'_>) -> io::Result<Message> {
    let mut buffer = Vec::with_capacity(LONGEST_ANSWER);
    let Some(sockets) = Sockets::of_this_thread() else {
        let socket = open(server, &sent.bytes)?;
        loop {
            buffer.clear();
            socket.recv_buf(&mut buffer).await?;
            if let Some(answer) = sent.answer(&buffer) {
                return Ok(answer);
            }
        }
    };
    let mut socket = sockets.lend(server)?;
    socket.send(&sent.bytes)?;
    loop {
        buffer.clear();
        socket.receive(&mut buffer).await?;
        if let Some(answer) = sent.answer(&buffer) {
            return Ok(answer);
        }
    }
}

/// Asks from a new socket, for tasks of the runtime.
fn open(server: SocketAddr, question: &[u8]) -> io::Result<UdpSocket> {
    let family = if server.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    // The kernel draws the port.
    connect(&socket, &server)?;
    let socket = std::net::UdpSocket::from(socket);
    // Before the runtime has it, which would wait to hear that something can be sent, and wake this task for that.
    socket.send(question)?;
    UdpSocket::from_std(socket)
}

/// Over a connection on which nothing else is under way.
pub(super) async fn over_stream<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, sent: &Sent<'_>) -> io::Result<Message> {
    let length = u16::try_from(sent.bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), sent.bytes.as_slice()].concat()).await?;
    // TLS keeps what it has encrypted until then.
    stream.flush().await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    sent.answer(&answer).ok_or_else(|| io::ErrorKind::InvalidData.into())
}
