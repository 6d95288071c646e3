//! The dead man's switch of DNS on the node.
//!
//! While it stands, questions to the local DNS addresses are left alone and delivered to the agent. It is a table that belongs to our netlink
//! socket (`flags owner`, Linux 5.12): the kernel removes it the moment the socket closes, `kill -9` included. From the next packet on the
//! ordinary `services` entries send questions to the servers behind the `kube-dns` Service.

use super::expr::{Base, Expr, META_L4PROTO};
use super::kernel::NftError;
use super::layout::{ChainSpec, Hook, protocol};
use super::netlink::{NEW_TABLE, write_chains};
use super::socket::NfSocket;
use super::wire::{CREATE, Writer};
use crate::model::{Family, Protocol};
use std::net::IpAddr;

/// `NFT_TABLE_F_OWNER`.
const OWNER: u32 = 2;
/// `raw`: before connection tracking.
const RAW: i32 = -300;
const PREROUTING: u32 = 0;
const OUTPUT: u32 = 3;
const DNS: u16 = 53;

/// The table, for as long as this value lives.
pub struct DnsSwitch {
    _owner: NfSocket,
}

impl DnsSwitch {
    /// Leaves questions to these addresses to the sockets of this host.
    ///
    /// The table's name carries the number of its socket: a second agent may not touch the first one's, and a process id would not tell them
    /// apart, because in containers every agent is process 1.
    ///
    /// # Errors
    /// When the kernel refuses the table; nothing is changed then.
    pub fn close(addresses: &[IpAddr]) -> Result<DnsSwitch, NftError> {
        let mut socket = NfSocket::open()?;
        let table = format!("waypost-dns-{}", socket.port_id()?);
        for family in Family::BOTH {
            let own: Vec<IpAddr> = addresses.iter().copied().filter(|address| Family::of(*address) == family).collect();
            if own.is_empty() {
                continue;
            }
            socket.batch(|socket, writer| {
                let mut message = |writer: &mut Writer, kind, flags, fill: &dyn Fn(&mut Writer)| {
                    writer.begin(kind, flags, socket.next_sequence(), protocol(family));
                    fill(writer);
                    writer.end();
                };
                message(writer, NEW_TABLE, CREATE, &|w| {
                    w.string(1, &table);
                    w.u32(2, OWNER);
                });
                write_chains(writer, &table, &chains(&own), &mut message);
            })?;
        }
        Ok(DnsSwitch { _owner: socket })
    }
}

/// Untracked in both directions: no NAT, no conntrack entry, no race between two questions over one socket.
fn chains(addresses: &[IpAddr]) -> Vec<ChainSpec> {
    let each = |to: bool| {
        let protocols = [Protocol::Udp, Protocol::Tcp];
        addresses.iter().flat_map(move |address| protocols.map(|protocol| untracked(*address, protocol, to)))
    };
    let chain = |name: &str, number, rules| ChainSpec {
        name: name.into(),
        hook: Some(Hook { kind: "filter", number, priority: RAW }),
        rules,
    };
    vec![
        chain("keep-prerouting", PREROUTING, each(true).collect()),
        chain("keep-output", OUTPUT, each(true).chain(each(false)).collect()),
    ]
}

/// `ip daddr ADDRESS meta l4proto PROTOCOL th dport 53 notrack`, or the same with source address and port.
fn untracked(address: IpAddr, protocol: Protocol, to: bool) -> Vec<Expr> {
    let (bytes, source_offset): (Vec<u8>, u32) = match address {
        IpAddr::V4(address) => (address.octets().into(), 12),
        IpAddr::V6(address) => (address.octets().into(), 8),
    };
    let length = bytes.len() as u32;
    let is = |value: &[u8]| Expr::Compare { register: 0, differs: false, value: value.to_vec() };
    let offset = if to { source_offset + length } else { source_offset };
    vec![
        Expr::Payload { base: Base::Network, offset, length, to: 0 },
        is(&bytes),
        Expr::Meta { key: META_L4PROTO, to: 0 },
        is(&[protocol.number()]),
        Expr::Payload { base: Base::Transport, offset: if to { 2 } else { 0 }, length: 2, to: 0 },
        is(&DNS.to_be_bytes()),
        Expr::NoTrack,
    ]
}
