//! How agents are known to other programs of their network namespace, whatever they are configured to do: by an abstract name of a Unix socket,
//! which the kernel forgets with its process, and which is seen from containers that share nothing but the network.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// One that serves, one that takes over, and some that wait.
const MOST: usize = 8;

/// Makes this process known as an agent for as long as the value lives.
#[derive(Debug)]
pub struct Presence {
    _socket: UnixDatagram,
}

/// Says that an agent runs here.
///
/// # Errors
/// When all names are taken, or no socket is to be had.
pub fn announce() -> io::Result<Presence> {
    let mut names = (0..MOST).map(|number| UnixDatagram::bind_addr(&name(number)?));
    let taken = |outcome: &io::Result<UnixDatagram>| matches!(outcome, Err(error) if error.kind() == io::ErrorKind::AddrInUse);
    let socket = names.find(|outcome| !taken(outcome)).unwrap_or_else(|| Err(io::ErrorKind::AddrInUse.into()))?;
    Ok(Presence { _socket: socket })
}

/// Whether an agent runs in this network namespace.
///
/// # Errors
/// When no socket is to be had.
pub fn is_announced() -> io::Result<bool> {
    let socket = UnixDatagram::unbound()?;
    for number in 0..MOST {
        if socket.connect_addr(&name(number)?).is_ok() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn name(number: usize) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("waypost-agent-{number}"))
}
