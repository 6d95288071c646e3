//! One question and one answer over a socket.

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UdpSocket;

/// Whether a reply settles the question, as opposed to saying that the server could not or would not.
pub(in crate::dns) fn is_helpful(answer: &Message) -> bool {
    let code = answer.metadata.response_code;
    !matches!(code, ResponseCode::ServFail | ResponseCode::Refused | ResponseCode::NotImp | ResponseCode::FormErr)
}

/// By UDP from a socket of its own: its port is unpredictable, and nobody else's datagrams arrive.
pub(super) async fn over_udp(server: SocketAddr, message: &Message, bytes: &[u8]) -> io::Result<Message> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // What does not fit the question may be forged, or late: the true answer may still come.
        if let Some(answer) = matching(message, &buffer[..length]) {
            return Ok(answer);
        }
    }
}

/// Over a connection on which nothing else is under way.
pub(super) async fn over_stream<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    message: &Message,
    bytes: &[u8],
) -> io::Result<Message> {
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), bytes].concat()).await?;
    // TLS keeps what it has encrypted until then.
    stream.flush().await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    matching(message, &answer).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The message in these bytes, if it answers the question: a response, the same id, the same question. The name's case is not
/// compared: some servers do not echo it.
fn matching(question: &Message, bytes: &[u8]) -> Option<Message> {
    let answer = Message::from_vec(bytes).ok()?;
    let header = &answer.metadata;
    let same_header =
        header.id == question.metadata.id && header.message_type == MessageType::Response && header.op_code == OpCode::Query;
    let same = |asked: &Query, answered: &Query| {
        asked.query_type() == answered.query_type()
            && asked.query_class() == answered.query_class()
            && asked.name().eq_ignore_root(answered.name())
    };
    let same_question = match (question.queries.as_slice(), answer.queries.as_slice()) {
        ([asked], [answered]) => same(asked, answered),
        // Servers that could not read the question may not repeat it.
        ([_], []) => !is_helpful(&answer),
        _ => false,
    };
    (same_header && same_question).then_some(answer)
}
