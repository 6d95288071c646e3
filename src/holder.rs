//! Who holds a port: so that "address already in use" names a culprit.

use crate::model::Protocol;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// A socket of somebody that covers an address and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The address it is bound to: the one asked for, or a wildcard.
    pub address: SocketAddr,
    /// The process, where this user may look into it.
    pub process: Option<Process>,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Its name, as `ps -o comm` shows it.
    pub name: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.process {
            Some(process) if process.pid == std::process::id() => {
                write!(f, "this process (pid {}) on {}", process.pid, self.address)
            }
            Some(process) => write!(f, "{} (pid {}) on {}", process.name, process.pid, self.address),
            None => write!(f, "a process of another user or namespace on {}", self.address),
        }
    }
}

/// The socket in this network namespace that keeps others from binding this address; `None` when there is none.
/// TCP counts listening sockets only.
pub fn of(protocol: Protocol, address: SocketAddr) -> Option<Holder> {
    let tables: &[&str] = match protocol {
        Protocol::Tcp => &["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"],
        Protocol::Udp => &["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"],
        Protocol::Sctp => &[],
    };
    let texts = tables.iter().filter_map(|path| std::fs::read_to_string(path).ok());
    let entry = texts.flat_map(|text| entries(&text, protocol)).find(|entry| entry.covers(address))?;
    Some(Holder { address: entry.address, process: process_of(entry.inode) })
}

struct Entry {
    address: SocketAddr,
    inode: u64,
}

impl Entry {
    /// An IPv6 wildcard covers IPv4 as well unless its socket is IPv6 only, which this table does not tell.
    fn covers(&self, asked: SocketAddr) -> bool {
        let (own, asked_ip) = (self.address.ip(), asked.ip());
        let wildcard = |wild: IpAddr, other: IpAddr| wild.is_unspecified() && (wild.is_ipv6() || other.is_ipv4());
        self.address.port() == asked.port() && (own == asked_ip || wildcard(own, asked_ip) || wildcard(asked_ip, own))
    }
}

/// Parses /proc/net/{tcp,udp}{,6}: `sl local_address rem_address st … inode`, see the kernel's proc_net_tcp.
fn entries(text: &str, protocol: Protocol) -> Vec<Entry> {
    const LISTEN: &str = "0A";
    let parse = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        if protocol == Protocol::Tcp && *state != LISTEN {
            return None;
        }
        Some(Entry { address: hex_address(local)?, inode: inode.parse().ok()? })
    };
    text.lines().skip(1).filter_map(parse).collect()
}

/// `0100007F:0035`: words of 32 bits in the host's order, then the port.
fn hex_address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |index: usize| u32::from_str_radix(ip.get(index * 8..index * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip = match ip.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let bytes: Vec<u8> = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
            IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

fn process_of(inode: u64) -> Option<Process> {
    let wanted = format!("socket:[{inode}]");
    let has_socket = |folder: &Path| {
        let descriptors = std::fs::read_dir(folder.join("fd")).into_iter().flatten().flatten();
        descriptors
            .into_iter()
            .any(|entry| std::fs::read_link(entry.path()).is_ok_and(|link| link.as_os_str() == wanted.as_str()))
    };
    for entry in std::fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if has_socket(&entry.path()) {
            let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            return Some(Process { pid, name: name.trim().to_string() });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};

    #[test]
    fn our_own_socket_is_found_under_its_address_and_by_a_wildcard() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let holder = of(Protocol::Tcp, address).unwrap();
        assert_eq!(holder.address, address);
        assert_eq!(holder.process.as_ref().unwrap().pid, std::process::id());
        assert!(of(Protocol::Tcp, SocketAddr::from(([0, 0, 0, 0], address.port()))).is_some());
        assert_eq!(of(Protocol::Tcp, SocketAddr::from(([127, 0, 0, 2], address.port()))), None);
        assert_eq!(holder.to_string(), format!("this process (pid {}) on {address}", std::process::id()));
    }

    #[test]
    fn a_wildcard_udp_socket_covers_every_address() {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        assert!(of(Protocol::Udp, SocketAddr::from(([10, 96, 0, 10], port))).is_some());
        drop(socket);
        assert_eq!(of(Protocol::Udp, SocketAddr::from(([10, 96, 0, 10], port))), None);
    }

    #[test]
    fn addresses_of_both_families_are_read() {
        if cfg!(target_endian = "little") {
            assert_eq!(hex_address("0100007F:0035"), Some("127.0.0.1:53".parse().unwrap()));
            assert_eq!(hex_address("00000000000000000000000001000000:0035"), Some("[::1]:53".parse().unwrap()));
        }
        assert_eq!(hex_address("xyz"), None);
    }
}
