//! What the kernel tells of changes of its tables, whoever makes them: when an address arrives there, and how much is written.

use netlink_sys::{Socket, protocols::NETLINK_NETFILTER};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::time::Instant;
use waypost::lab::Namespace;

/// `NFNLGRP_NFTABLES`.
const GROUP: u32 = 7;
/// `NFT_MSG_NEWSETELEM` in its subsystem; rules, chains and sets have numbers below.
const LAST_OBJECT: u16 = 10 << 8 | 14;
const RECEIVE_BUFFER: usize = 64 << 20;
const HEADER: usize = 16;
/// `NFTA_*_TABLE` is the first attribute of all these messages, behind both headers.
const FIRST_ATTRIBUTE: usize = HEADER + 4;
/// The table that keeps DNS questions on the node lives and dies with its agent: no write of the service proxy's.
const SWITCH: &[u8] = b"waypost-dns-";

/// A listener to one node's tables.
pub struct Notices {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Notices {
    /// When this returns, no later change escapes it.
    pub fn listen(node: &Namespace) -> Notices {
        let open = || {
            let mut socket = Socket::new(NETLINK_NETFILTER)?;
            socket.bind_auto()?;
            socket.set_non_blocking(true)?;
            setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
            socket.add_membership(GROUP)?;
            Ok::<_, std::io::Error>(socket)
        };
        let socket = node.run(open).expect("the node's namespace is there").expect("root may listen to nf_tables");
        Notices { socket, buffer: vec![0; 1 << 17] }
    }

    /// Waits until each of these addresses has turned up in something that was added, and says when; those that have not by then are
    /// left out.
    pub fn await_addresses(&mut self, mut awaited: Vec<Ipv4Addr>, until: Instant) -> HashMap<Ipv4Addr, Instant> {
        let mut seen = HashMap::new();
        while !awaited.is_empty() && self.wait(until) {
            self.take_seen(&mut seen);
            awaited.retain(|address| !seen.contains_key(address));
        }
        seen
    }

    /// Notes when addresses of the changes' network turned up, as far as the kernel has told by now.
    pub fn take_seen(&mut self, seen: &mut HashMap<Ipv4Addr, Instant>) {
        while let Some(length) = self.receive() {
            let now = Instant::now();
            // Addresses begin at multiples of four bytes, as all attributes do.
            for word in self.buffer[..length].chunks_exact(4) {
                let address = Ipv4Addr::new(word[0], word[1], word[2], word[3]);
                if super::changes::is_of_a_change(address) {
                    seen.entry(address).or_insert(now);
                }
            }
        }
    }

    /// How many rules, chains, sets and elements were added or removed since, but for the DNS switch's.
    pub fn count_writes(mut self) -> usize {
        let mut writes = 0;
        while let Some(length) = self.receive() {
            writes += objects(&self.buffer[..length]);
        }
        writes
    }

    /// Waits for news; false when there is none until then.
    pub fn wait(&self, until: Instant) -> bool {
        let left = until.saturating_duration_since(Instant::now());
        let milliseconds = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)], milliseconds) {
            Ok(ready) => ready > 0,
            Err(Errno::EINTR) => true,
            Err(errno) => panic!("the socket can be polled: {errno}"),
        }
    }

    fn receive(&mut self) -> Option<usize> {
        let mut space = &mut self.buffer[..];
        match self.socket.recv(&mut space, 0) {
            Ok(length) => Some(length),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => None,
            Err(error) => panic!("the kernel told more than fits: {error}"),
        }
    }
}

/// How many messages in a datagram are about objects of tables that outlive their programs.
fn objects(mut datagram: &[u8]) -> usize {
    let mut count = 0;
    while let Some((length, kind)) = header(datagram) {
        let name = datagram.get(FIRST_ATTRIBUTE + 4..length).unwrap_or_default();
        count += usize::from(kind <= LAST_OBJECT && !name.starts_with(SWITCH));
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    count
}

fn header(message: &[u8]) -> Option<(usize, u16)> {
    let length = u32::from_ne_bytes(*message.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*message.get(4..)?.first_chunk()?);
    (length >= FIRST_ATTRIBUTE).then_some((length, kind))
}
