//! Trying a connection with real packets.

use super::Namespace;
use crate::model::Protocol;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// How a try ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A lab server answered.
    Reached {
        /// The name of the pod that answered.
        by: String,
        /// The client's address and port as that pod sees them: another than the client's own when masqueraded.
        seen_source: SocketAddr,
    },
    /// Refused: a TCP reset, or an ICMP port unreachable.
    Refused,
    /// Nothing came back in time: dropped.
    TimedOut,
    /// No route, here or on the way.
    Unreachable,
    /// Something else, in words: an answer that no lab server gives, a send that was forbidden, …
    Other(String),
}

impl Outcome {
    /// The name of the pod that answered, if one did.
    pub fn by(&self) -> Option<&str> {
        match self {
            Outcome::Reached { by, .. } => Some(by),
            _ => None,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Reached { by, seen_source } => write!(f, "{by} answered, and saw {}", seen_source.ip()),
            Outcome::Refused => f.write_str("refused"),
            Outcome::TimedOut => f.write_str("no answer in time"),
            Outcome::Unreachable => f.write_str("no route"),
            Outcome::Other(what) => f.write_str(what),
        }
    }
}

/// Connects from a pod, a host or a node to a served port and reads who answers. `timeout` bounds each step (connecting, reading).
/// Trouble of the lab itself comes back as [`Outcome::Other`].
pub fn connect(from: impl AsRef<Namespace>, protocol: Protocol, to: SocketAddr, timeout: Duration) -> Outcome {
    let outcome = from.as_ref().run(|| connect_here(protocol, to, timeout));
    outcome.unwrap_or_else(|error| Outcome::Other(format!("the lab failed: {error}")))
}

/// [`connect`] on the calling thread, from the namespace that it is in: for many tries within one [`Namespace::run`].
pub fn connect_here(protocol: Protocol, to: SocketAddr, timeout: Duration) -> Outcome {
    let reply = match protocol {
        Protocol::Tcp => over_tcp(to, timeout),
        Protocol::Udp => over_udp(to, timeout),
        Protocol::Sctp => Err(io::Error::new(ErrorKind::Unsupported, "the lab has no SCTP client")),
    };
    reply.map_or_else(|error| from_error(&error), |reply| understand(&reply))
}

/// [`connect_here`] over TCP for many connections at a time: the calling thread's namespace is that of its runtime.
pub async fn connect_async(to: SocketAddr, timeout: Duration) -> Outcome {
    let attempt = async {
        let mut stream = tokio::net::TcpStream::connect(to).await?;
        stream.write_all(question(to).as_bytes()).await?;
        let (mut reply, mut buffer) = (Vec::new(), [0; 2048]);
        loop {
            let length = stream.read(&mut buffer).await?;
            reply.extend_from_slice(&buffer[..length]);
            if length == 0 || is_plain_line(&reply) {
                return Ok(String::from_utf8_lossy(&reply).into_owned());
            }
        }
    };
    let reply = tokio::time::timeout(timeout, attempt).await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()));
    reply.map_or_else(|error| from_error(&error), |reply| understand(&reply))
}

fn over_tcp(to: SocketAddr, timeout: Duration) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.write_all(question(to).as_bytes())?;
    let (mut reply, mut buffer) = (Vec::new(), [0; 2048]);
    loop {
        let length = stream.read(&mut buffer)?;
        reply.extend_from_slice(&buffer[..length]);
        if length == 0 || is_plain_line(&reply) {
            return Ok(String::from_utf8_lossy(&reply).into_owned());
        }
    }
}

/// Servers that do not speak HTTP ignore it.
fn question(to: SocketAddr) -> String {
    format!("GET / HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n")
}

/// An HTTP server closes when it has answered; a plain one says its line and waits for more.
fn is_plain_line(reply: &[u8]) -> bool {
    !reply.starts_with(b"HTTP/") && reply.contains(&b'\n')
}

fn over_udp(to: SocketAddr, timeout: Duration) -> io::Result<String> {
    let socket = bind_unused(if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() })?;
    socket.set_read_timeout(Some(timeout))?;
    // Connected sockets learn of ICMP errors.
    socket.connect(to)?;
    socket.send(b"who is there?\n")?;
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// A socket whose port this process has not used for a long time. Ports that the kernel picks are random and come again: within a
/// minute or two that is the same tracked flow again, which is not balanced anew.
fn bind_unused(any: IpAddr) -> io::Result<UdpSocket> {
    const FIRST: u32 = 32_768;
    const PORTS: u32 = 28_232;
    static USED: LazyLock<AtomicU32> = LazyLock::new(|| AtomicU32::new(std::process::id()));
    loop {
        let port = FIRST + USED.fetch_add(1, Ordering::Relaxed) % PORTS;
        match UdpSocket::bind(SocketAddr::new(any, port as u16)) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            outcome => return outcome,
        }
    }
}

/// Finds the server's line: the body of an HTTP answer, else the first line.
fn understand(reply: &str) -> Outcome {
    let body = if reply.starts_with("HTTP/") { reply.split_once("\r\n\r\n").map_or("", |(_, body)| body) } else { reply };
    let words = body.lines().next().and_then(|line| line.split_once(' '));
    match words.and_then(|(by, client)| client.parse().ok().map(|client| (by, client))) {
        Some((by, seen_source)) => Outcome::Reached { by: by.to_string(), seen_source },
        None => Outcome::Other(format!("an answer that is not of the lab: {:?}", reply.lines().next().unwrap_or_default())),
    }
}

fn from_error(error: &io::Error) -> Outcome {
    match error.kind() {
        ErrorKind::ConnectionRefused => Outcome::Refused,
        ErrorKind::TimedOut | ErrorKind::WouldBlock => Outcome::TimedOut,
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Outcome::Unreachable,
        _ => Outcome::Other(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_line_is_found_in_http_and_in_plain_replies() {
        let reached = Outcome::Reached { by: "web-1".to_string(), seen_source: "[fd00::7]:4711".parse().unwrap() };
        assert_eq!(understand("HTTP/1.1 200 OK\r\ncontent-length: 21\r\n\r\nweb-1 [fd00::7]:4711\n"), reached);
        assert_eq!(understand("web-1 [fd00::7]:4711\nGET / HTTP/1.1\r\n"), reached);
        assert!(matches!(understand("220 mail.example"), Outcome::Other(_)));
        assert!(matches!(understand(""), Outcome::Other(_)));
    }
}
