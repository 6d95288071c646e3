//! Which process holds an address: what `ss -lp` shows, read from /proc.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The TCP state "listening" in /proc/net/tcp.
const LISTENING: &str = "0A";

/// A description of the process whose socket blocks `address` ("systemd-resolve (pid 712)"), as far as this process may see it.
pub fn of(address: SocketAddr, transport: &str) -> Option<String> {
    let tables: [&str; 2] = if transport == "TCP" { ["tcp", "tcp6"] } else { ["udp", "udp6"] };
    let inodes: Vec<String> = tables
        .iter()
        .filter_map(|table| fs::read_to_string(format!("/proc/net/{table}")).ok())
        .flat_map(|table| table.lines().skip(1).filter_map(|line| blocking(line, address, transport)).collect::<Vec<_>>())
        .collect();
    inodes.iter().find_map(|inode| owner(inode))
}

/// The inode of the socket in a line of /proc/net, if it blocks the address: the same, or the wildcard.
fn blocking(line: &str, address: SocketAddr, transport: &str) -> Option<String> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
    let (ip, port) = local.split_once(':')?;
    let (ip, port) = (parse_ip(ip)?, u16::from_str_radix(port, 16).ok()?);
    let listens = transport != "TCP" || *state == LISTENING;
    let same = port == address.port() && (ip == address.ip() || ip.is_unspecified());
    (listens && same).then(|| (*inode).to_string())
}

/// The kernel prints addresses as 32-bit words of the machine's byte order.
fn parse_ip(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(hex.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    if hex.len() == 8 {
        return word(0).map(|octets| IpAddr::V4(Ipv4Addr::from(octets)));
    }
    let mut octets = [0; 16];
    for index in 0..4 {
        octets[index * 4..index * 4 + 4].copy_from_slice(&word(index * 8)?);
    }
    Some(IpAddr::V6(Ipv6Addr::from(octets)))
}

fn owner(inode: &str) -> Option<String> {
    let link = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc")
        .ok()?
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()));
    for process in processes {
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else { continue };
        let holds = |path: std::path::PathBuf| fs::read_link(path).is_ok_and(|target| target.to_string_lossy() == link);
        if descriptors.flatten().any(|descriptor| holds(descriptor.path())) {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (pid {})", name.trim(), process.file_name().to_string_lossy()));
        }
    }
    None
}
