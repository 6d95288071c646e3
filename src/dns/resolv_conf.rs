//! The host's name servers, as `/etc/resolv.conf` lists them.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Where systemd-resolved lists the servers that it asks itself.
pub const BEHIND_RESOLVED: &str = "/run/systemd/resolve/resolv.conf";
/// systemd-resolved's own address, which is all that resolv.conf has where it runs. It answers on the host only, and it may be
/// set to ask us.
const RESOLVED: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53));
const DNS_PORT: u16 = 53;
/// CoreDNS's limit.
pub const MAX_SERVERS: usize = 15;

/// Tells two versions of a file apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp(u64, i64, i64, u64);

impl Stamp {
    /// The stamp of the file as it is now; `None` when there is none.
    pub fn of(path: &Path) -> Option<Stamp> {
        let file = fs::metadata(path).ok()?;
        Some(Stamp(file.ino(), file.mtime(), file.mtime_nsec(), file.len()))
    }
}

/// The servers in this file; where it names systemd-resolved only, those in `behind_resolved`, if that exists.
pub fn read(path: &Path, behind_resolved: &Path) -> std::io::Result<Vec<SocketAddr>> {
    let servers = parse(&fs::read_to_string(path)?);
    let only_resolved = !servers.is_empty() && servers.iter().all(|server| server.ip() == RESOLVED);
    match fs::read_to_string(behind_resolved) {
        Ok(text) if only_resolved => Ok(parse(&text)),
        _ => Ok(servers),
    }
}

/// The servers in the text of a resolv.conf; lines that cannot be understood are skipped, as the C library does.
pub fn parse(text: &str) -> Vec<SocketAddr> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()).flatten()
    });
    servers.filter_map(server).take(MAX_SERVERS).collect()
}

fn server(text: &str) -> Option<SocketAddr> {
    let (address, interface) = text.split_once('%').map_or((text, None), |(address, interface)| (address, Some(interface)));
    match (address.parse().ok()?, interface) {
        (IpAddr::V6(address), Some(interface)) => {
            let scope = interface.parse().ok().or_else(|| nix::net::if_::if_nametoindex(interface).ok())?;
            Some(SocketAddrV6::new(address, DNS_PORT, 0, scope).into())
        }
        (address, None) => Some(SocketAddr::new(address, DNS_PORT)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_nameserver_lines_that_can_be_understood_count() {
        let text = "# nameserver 10.0.0.1\n; x\nsearch a.b\nnameserver 10.0.0.2\n nameserver\t2001:db8::1 # ours\nnameserver fe80::1%1\n\
                    nameserver\nnameserver nonsense\noptions ndots:5\nnameservers 10.0.0.3\nnameserver 10.0.0.4%eth0";
        let servers: Vec<String> = parse(text).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["10.0.0.2:53", "[2001:db8::1]:53", "[fe80::1%1]:53"]);
    }

    #[test]
    fn no_more_than_fifteen_servers_are_used() {
        let text: String = (0..40).map(|number| format!("nameserver 10.0.0.{number}\n")).collect();
        assert_eq!(parse(&text).len(), MAX_SERVERS);
    }

    #[test]
    fn behind_systemd_resolved_its_own_servers_are_asked() {
        let folder = std::env::temp_dir().join(format!("waypost-resolv-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (stub, real, mixed) = (folder.join("stub"), folder.join("real"), folder.join("mixed"));
        fs::write(&stub, "nameserver 127.0.0.53\n").unwrap();
        fs::write(&real, "nameserver 192.0.2.1\n").unwrap();
        fs::write(&mixed, "nameserver 127.0.0.53\nnameserver 192.0.2.9\n").unwrap();
        assert_eq!(read(&stub, &real).unwrap(), ["192.0.2.1:53".parse().unwrap()]);
        assert_eq!(read(&stub, &folder.join("none")).unwrap(), ["127.0.0.53:53".parse().unwrap()]);
        assert_eq!(read(&mixed, &real).unwrap().len(), 2);
        fs::remove_dir_all(&folder).unwrap();
    }
}
