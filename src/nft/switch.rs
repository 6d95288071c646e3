//! The dead man's switch of DNS on the node.
//!
//! While it stands, questions to the local DNS addresses are left alone and delivered to the agent. It is a table that belongs to our netlink
//! socket (`flags owner`, Linux 5.12): the kernel removes it the moment the socket closes, `kill -9` included. From the next packet on the
//! ordinary `services` entries send questions to the servers behind the `kube-dns` Service.
//!
//! The kernel releases what a killed process had open in the reverse order of the descriptors' numbers. So the socket has a higher one than the
//! sockets that answer: a question that comes while they go must not find the switch there and nobody behind it.
//!
//! A process that hangs keeps its socket. So the rules hold only for addresses in a set whose elements lapse after a second, and
//! the agent keeps them from lapsing with packets ([`Heart`]) that its own rule takes out of the way: 2 µs for a beat, where a batch over netlink
//! would count up the generation of the whole ruleset and wake everybody who listens to it. One that is stopped
//! sends none, and needs nobody beside it who notices.
//!
//! Where DNS is to be tracked ([`Tracking::Tracked`]) a question is not left alone but translated to what it says already, before anybody else may
//! translate it: a connection is translated once. TCP connections then stay where they began by what the kernel knows of them. UDP has no
//! connections, but a client that sends on over one socket would stay where its first question went, be there nobody or not. So questions over UDP are
//! tracked in a zone of their own while they come here: once they do not, the kernel knows no flow of theirs, and the next one is translated like a
//! new one; and when they come home the flow elsewhere does not hold them.
//!
//! Untracked, a TCP connection stays where it began: its first segment puts it into a set, and the others come here if it is there. Otherwise a connection
//! to a server elsewhere would be cut when the switch closes, and one to the agent when it opens: a segment in the middle of a connection
//! that the kernel does not track is taken for a new one, and translated.

use super::expr::{ACK, Answer, Base, Expr, META_L4PROTO, META_MARK, SYN, Verdict};
use super::kernel::NftError;
use super::layout::{self, ChainSpec, Hook, protocol};
use super::netlink::{DEL_RULE, NEW_SET, NEW_TABLE, WriteMessage, write_chains};
use super::sets::{IPV4, IPV6, SERVICE};
use super::socket::NfSocket;
use super::wire::{CREATE, Writer};
use crate::model::{Family, Protocol};
use nix::sys::socket::{setsockopt, sockopt};
use rustix::io::fcntl_dupfd_cloexec;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// Without a beat questions go elsewhere after this time.
pub const LAPSE: Duration = Duration::from_secs(1);

/// How the names of the tables begin.
const SWITCH_PREFIX: &str = "waypost-dns-";

/// Above the descriptors of sockets that listen, which are opened at the start, or after the hand-over in their place.
const ABOVE_THE_OTHERS: i32 = 512;
/// `NFT_TABLE_F_OWNER`.
const OWNER: u32 = 2;
/// `raw`: before connection tracking.
const RAW: i32 = -300;
/// Before every translation of destinations, ours (`dstnat - 1`) and others'.
const BEFORE_NAT: i32 = -120;
const PREROUTING: u32 = 0;
const OUTPUT: u32 = 3;
const DNS: u16 = 53;

/// The addresses to which questions are left alone.
const ALIVE: &str = "alive";
/// TCP connections that began here: client, address, the client's port.
const CONNECTIONS: &str = "connections";
/// A connection without a packet is forgotten after this time: the server ends one without a question earlier.
const CONNECTION_IDLE: Duration = Duration::from_secs(30);
/// Connections that begin when so many are remembered go elsewhere.
const CONNECTIONS_ROOM: u32 = 65536;
/// `NFT_SET_TIMEOUT | NFT_SET_EVAL`: elements come from packets, and lapse.
const FROM_PACKETS: u32 = 0x10 | 0x20;
/// One that has lapsed may still be there beside its successor for a moment.
const ALIVE_ROOM: u32 = 1024;
/// User data as `nft` stores it: keys are in network order.
const BIG_ENDIAN_KEYS: [u8; 6] = if cfg!(target_endian = "little") { [0, 4, 2, 0, 0, 0] } else { [0, 4, 0, 0, 0, 2] };
/// The conntrack zone of questions over UDP that come here ("wd"); nobody else's, because those of network plugins are small numbers or one for
/// each network.
const ZONE: u16 = 0x7764;
/// Only processes with CAP_NET_ADMIN can mark their packets ("wayp").
const BEAT_MARK: u32 = 0x7761_7970;
/// The port of the discard service, which nobody offers; the packets never get there.
const BEAT_PORT: u16 = 9;

/// How questions are kept here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracking {
    /// Out of connection tracking: no entry, no race between two questions over one socket, and who sends on is answered by whoever is there.
    Untracked,
    /// As connections, for network policies and firewalls that judge by them.
    Tracked,
    /// The same on a kernel that knows no conntrack zones (see [`knows_zones`]): questions of a client that keeps its UDP socket go on to this node
    /// when nobody answers there any more, and are refused, until it has been silent for as long as the kernel keeps its flow.
    TrackedWithoutZone,
}

/// The table, for as long as this value lives.
pub struct DnsSwitch {
    owner: NfSocket,
    tracking: Tracking,
    /// Keeps the owner's socket under a high number as well.
    _first_to_go: OwnedFd,
    table: String,
    addresses: Vec<IpAddr>,
}

/// What is kept here.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    /// Every question, for as long as the heart beats.
    Questions,
    /// Only what belongs to a connection that began here.
    Connections,
}

/// Keeps the switch closed: somebody must beat it more often than once in [`LAPSE`].
pub struct Heart {
    sockets: Vec<(UdpSocket, IpAddr)>,
}

/// Whether the kernel has conntrack zones (`CONFIG_NF_CONNTRACK_ZONES`), which [`Tracking::Tracked`] needs. Tries it, and changes nothing.
///
/// # Errors
/// When the kernel cannot be asked, or lets nobody try.
pub fn knows_zones() -> Result<bool, NftError> {
    takes_rule(&in_zone())
}

/// Whether the kernel is built for a rule with these expressions, by a trial in a table that is never made.
fn takes_rule(rule: &[Expr]) -> Result<bool, NftError> {
    let chain = ChainSpec { name: "trial".into(), hook: None, rules: vec![rule.to_vec()] };
    let table = format!("{SWITCH_PREFIX}trial");
    NfSocket::open()?.supports(|socket, writer| {
        let mut message = |writer: &mut Writer, kind, flags, content: &dyn Fn(&mut Writer)| {
            write_message(socket, Family::V4, writer, kind, flags, content);
        };
        message(writer, NEW_TABLE, CREATE, &|w| w.string(1, &table));
        write_chains(writer, &table, &[chain], &mut message);
    })
}

/// Writes a message about something of this family.
fn write_message(
    socket: &mut NfSocket,
    family: Family,
    writer: &mut Writer,
    kind: u16,
    flags: u16,
    content: &dyn Fn(&mut Writer),
) {
    writer.begin(kind, flags, socket.next_sequence(), protocol(family));
    content(writer);
    writer.end();
}

impl DnsSwitch {
    /// Leaves questions to these addresses to the sockets of this host, once and for as long as the heart beats.
    ///
    /// The table's name carries the number of its socket: a second agent may not touch the first one's, and a process id would not tell them
    /// apart, because in containers every agent is process 1.
    ///
    /// # Errors
    /// When the kernel refuses the table or a socket; nothing is changed then.
    pub fn make(addresses: &[IpAddr], tracking: Tracking) -> Result<(DnsSwitch, Heart), NftError> {
        let heart = Heart::new(addresses).map_err(|error| NftError::Socket { action: "making the heartbeat of DNS", error })?;
        let owner = NfSocket::open()?;
        let table = format!("{SWITCH_PREFIX}{}", owner.port_id()?);
        let first_to_go = first_to_go(&owner).map_err(|error| NftError::Socket { action: "keeping the switch of DNS", error })?;
        let mut switch = DnsSwitch { owner, tracking, _first_to_go: first_to_go, table, addresses: addresses.to_vec() };
        switch.write(|writer, table, family, own, message| {
            message(writer, NEW_TABLE, CREATE, &|w| {
                w.string(1, table);
                w.u32(2, OWNER);
            });
            message(writer, NEW_SET, CREATE, &|w| write_alive(w, table, family));
            message(writer, NEW_SET, CREATE, &|w| write_connections(w, table, family));
            write_chains(writer, table, &chains(family, own, Keep::Questions, tracking), message);
        })?;
        Ok((switch, heart))
    }

    /// Sends new questions elsewhere, from the next packet on. Connections that began here stay for as long as this value lives.
    ///
    /// # Errors
    /// When the kernel refuses it; nothing is changed then.
    pub fn only_finish(&mut self) -> Result<(), NftError> {
        let tracking = self.tracking;
        self.write(|writer, table, family, own, message| {
            let chains = chains(family, own, Keep::Connections, tracking);
            for chain in &chains {
                message(writer, DEL_RULE, 0, &|w| {
                    w.string(1, table);
                    w.string(2, &chain.name);
                });
            }
            write_chains(writer, table, &chains, message);
        })
    }

    /// Sends a batch for each family that has an address.
    fn write(&mut self, fill: impl Fn(&mut Writer, &str, Family, &[IpAddr], &mut WriteMessage<'_>)) -> Result<(), NftError> {
        for family in Family::BOTH {
            let own: Vec<IpAddr> = self.addresses.iter().copied().filter(|address| Family::of(*address) == family).collect();
            if own.is_empty() {
                continue;
            }
            let table = &self.table;
            self.owner.batch(|socket, writer| {
                let mut message = |writer: &mut Writer, kind, flags, content: &dyn Fn(&mut Writer)| {
                    write_message(socket, family, writer, kind, flags, content);
                };
                fill(writer, table, family, &own, &mut message);
            })?;
        }
        Ok(())
    }
}

/// The same socket under a high number, or under any where so many are not allowed.
fn first_to_go(socket: &impl AsFd) -> io::Result<OwnedFd> {
    fcntl_dupfd_cloexec(socket, ABOVE_THE_OTHERS).or_else(|_| socket.as_fd().try_clone_to_owned())
}

impl Heart {
    fn new(addresses: &[IpAddr]) -> io::Result<Heart> {
        let marked = |address: &IpAddr| {
            let any: IpAddr = match address {
                IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            let socket = UdpSocket::bind((any, 0))?;
            setsockopt(&socket, sockopt::Mark, &BEAT_MARK)?;
            Ok((socket, *address))
        };
        Ok(Heart { sockets: addresses.iter().map(marked).collect::<io::Result<_>>()? })
    }

    /// Keeps the switch closed for another [`LAPSE`].
    pub fn beat(&self) {
        for (socket, address) in &self.sockets {
            // EPERM is what the rule answers when it has done its work; without the table the packet goes nowhere.
            let _ = socket.send_to(&[], (*address, BEAT_PORT));
        }
    }
}

fn write_alive(writer: &mut Writer, table: &str, family: Family) {
    let (kind, length) = address_type(family);
    write_set_from_packets(writer, table, ALIVE, (kind, length), ALIVE_ROOM, LAPSE);
    writer.u32(10, 1);
}

fn write_connections(writer: &mut Writer, table: &str, family: Family) {
    let (kind, length) = address_type(family);
    let key = ((kind << 12) | (kind << 6) | SERVICE, 2 * length + 4);
    write_set_from_packets(writer, table, CONNECTIONS, key, CONNECTIONS_ROOM, CONNECTION_IDLE);
    writer.u32(10, 2);
}

/// `nft`'s data type of an address, and how many bytes it takes.
fn address_type(family: Family) -> (u32, u32) {
    match family {
        Family::V4 => (IPV4, 4),
        Family::V6 => (IPV6, 16),
    }
}

fn write_set_from_packets(writer: &mut Writer, table: &str, set: &str, key: (u32, u32), room: u32, timeout: Duration) {
    writer.string(1, table);
    writer.string(2, set);
    writer.u32(3, FROM_PACKETS);
    writer.u32(4, key.0);
    writer.u32(5, key.1);
    writer.nest(9, |description| description.u32(1, room));
    writer.u64(11, timeout.as_millis() as u64);
    writer.bytes(13, &BIG_ENDIAN_KEYS);
}

/// Untracked in both directions: no NAT, no conntrack entry, no race between two questions over one socket. Answers are so in any case: one
/// that was under way when the heart stopped must not be taken for a new connection, and masqueraded.
fn chains(family: Family, addresses: &[IpAddr], keep: Keep, tracking: Tracking) -> Vec<ChainSpec> {
    let chain = |name: &str, kind, number, priority, rules| ChainSpec {
        name: name.into(),
        hook: Some(Hook { kind, number, priority }),
        rules,
    };
    // Without a heart the rule would take the beats of the agent that has taken over, and send its questions elsewhere.
    let beats = (keep == Keep::Questions).then(|| beat(family));
    if tracking != Tracking::Untracked {
        let stay = || match keep {
            Keep::Questions => [Protocol::Udp, Protocol::Tcp].map(|protocol| stay(family, protocol)).to_vec(),
            Keep::Connections => Vec::new(),
        };
        let has_zone = tracking == Tracking::Tracked;
        let questions = (has_zone && keep == Keep::Questions).then(|| question(family, in_zone()));
        // One that was under way when the heart stopped belongs to its question as well.
        let answers = addresses.iter().filter(|_| has_zone).map(|address| answer(*address, Protocol::Udp, in_zone()));
        let output = beats.into_iter().chain(questions.clone()).chain(answers).collect();
        return vec![
            chain("zone-prerouting", "filter", PREROUTING, RAW, questions.into_iter().collect()),
            chain("zone-output", "filter", OUTPUT, RAW, output),
            chain("keep-prerouting", "nat", PREROUTING, BEFORE_NAT, stay()),
            chain("keep-output", "nat", OUTPUT, BEFORE_NAT, stay()),
        ];
    }
    let questions = || match keep {
        Keep::Questions => vec![question(family, vec![Expr::NoTrack]), first_segment(family), segment(family, true)],
        Keep::Connections => vec![segment(family, false)],
    };
    let untracked =
        |address: &IpAddr| [Protocol::Udp, Protocol::Tcp].map(|protocol| answer(*address, protocol, vec![Expr::NoTrack]));
    let answers = addresses.iter().flat_map(untracked);
    vec![
        chain("keep-prerouting", "filter", PREROUTING, RAW, questions()),
        chain("keep-output", "filter", OUTPUT, RAW, beats.into_iter().chain(questions()).chain(answers).collect()),
    ]
}

fn is(value: &[u8]) -> Expr {
    Expr::Compare { register: 0, differs: false, value: value.to_vec() }
}

fn port(source: bool) -> Expr {
    Expr::Payload { base: Base::Transport, offset: if source { 0 } else { 2 }, length: 2, to: 0 }
}

fn destination(family: Family) -> Expr {
    let (offset, length) = match family {
        Family::V4 => (16, 4),
        Family::V6 => (24, 16),
    };
    Expr::Payload { base: Base::Network, offset, length, to: 0 }
}

/// `meta mark BEAT_MARK meta l4proto udp udp dport 9 update @alive { ip daddr } drop`
fn beat(family: Family) -> Vec<Expr> {
    vec![
        Expr::Meta { key: META_MARK, to: 0 },
        is(&BEAT_MARK.to_ne_bytes()),
        Expr::Meta { key: META_L4PROTO, to: 0 },
        is(&[Protocol::Udp.number()]),
        port(false),
        is(&BEAT_PORT.to_be_bytes()),
        destination(family),
        Expr::Refresh { set: ALIVE, key: 0 },
        Expr::Verdict(Verdict::Drop),
    ]
}

/// `meta l4proto PROTOCOL th dport 53`
fn is_dns(protocol: Protocol) -> Vec<Expr> {
    vec![Expr::Meta { key: META_L4PROTO, to: 0 }, is(&[protocol.number()]), port(false), is(&DNS.to_be_bytes())]
}

/// `ip daddr @alive`
fn is_alive(family: Family) -> Vec<Expr> {
    vec![destination(family), Expr::Lookup { set: ALIVE, key: 0, answer: Answer::Present }]
}

/// `meta l4proto PROTOCOL th dport 53 ip daddr @alive dnat to ip daddr : th dport`
fn stay(family: Family, protocol: Protocol) -> Vec<Expr> {
    let port_at = match family {
        Family::V4 => 1,
        Family::V6 => 4,
    };
    let to_itself = vec![
        destination(family),
        Expr::Payload { base: Base::Transport, offset: 2, length: 2, to: port_at },
        Expr::Dnat { protocol: layout::protocol(family), address: 0, port: port_at },
    ];
    [is_dns(protocol), is_alive(family), to_itself].concat()
}

/// `ip saddr . ip daddr . tcp sport`
fn connection(family: Family) -> Vec<Expr> {
    let load = |base, offset, length, to| Expr::Payload { base, offset, length, to };
    match family {
        Family::V4 => vec![load(Base::Network, 12, 4, 0), load(Base::Network, 16, 4, 1), load(Base::Transport, 0, 2, 2)],
        Family::V6 => vec![load(Base::Network, 8, 16, 0), load(Base::Network, 24, 16, 4), load(Base::Transport, 0, 2, 8)],
    }
}

/// `meta l4proto udp udp dport 53 ip daddr @alive …`
fn question(family: Family, then: Vec<Expr>) -> Vec<Expr> {
    [is_dns(Protocol::Udp), is_alive(family), then].concat()
}

/// `ct zone set ZONE`
fn in_zone() -> Vec<Expr> {
    vec![Expr::Load { to: 0, value: ZONE.to_ne_bytes().into() }, Expr::SetZone { from: 0 }]
}

/// `… tcp dport 53 ip daddr @alive tcp flags & (syn | ack) == syn update @connections { … } notrack`
fn first_segment(family: Family) -> Vec<Expr> {
    let remember = vec![Expr::Refresh { set: CONNECTIONS, key: 0 }, Expr::NoTrack];
    let is_first = vec![Expr::TcpFlags { among: SYN | ACK, set: SYN }];
    [is_dns(Protocol::Tcp), is_alive(family), is_first, connection(family), remember].concat()
}

/// `… tcp dport 53 [ip daddr @alive] … @connections update @connections { … } notrack`
fn segment(family: Family, only_alive: bool) -> Vec<Expr> {
    let known = vec![
        Expr::Lookup { set: CONNECTIONS, key: 0, answer: Answer::Present },
        Expr::Refresh { set: CONNECTIONS, key: 0 },
        Expr::NoTrack,
    ];
    let alive = if only_alive { is_alive(family) } else { Vec::new() };
    [is_dns(Protocol::Tcp), alive, connection(family), known].concat()
}

/// `ip saddr ADDRESS meta l4proto PROTOCOL th sport 53 …`
fn answer(address: IpAddr, protocol: Protocol, then: Vec<Expr>) -> Vec<Expr> {
    let (bytes, offset): (Vec<u8>, u32) = match address {
        IpAddr::V4(address) => (address.octets().into(), 12),
        IpAddr::V6(address) => (address.octets().into(), 8),
    };
    let from = vec![
        Expr::Payload { base: Base::Network, offset, length: bytes.len() as u32, to: 0 },
        is(&bytes),
        Expr::Meta { key: META_L4PROTO, to: 0 },
        is(&[protocol.number()]),
        port(true),
        is(&DNS.to_be_bytes()),
    ];
    [from, then].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sets_a_zone(rule: &[Expr]) -> bool {
        rule.iter().any(|expression| matches!(expression, Expr::SetZone { .. }))
    }

    #[test]
    fn without_zones_tracked_questions_have_the_same_rules_but_those_that_choose_a_zone() {
        let addresses = ["10.96.0.10".parse().unwrap(), "169.254.20.10".parse().unwrap()];
        for keep in [Keep::Questions, Keep::Connections] {
            let mut with = chains(Family::V4, &addresses, keep, Tracking::Tracked);
            let without = chains(Family::V4, &addresses, keep, Tracking::TrackedWithoutZone);
            let zoned: usize = with.iter().flat_map(|chain| &chain.rules).filter(|rule| sets_a_zone(rule)).count();
            assert_eq!(zoned, if keep == Keep::Questions { 4 } else { 2 });
            with.iter_mut().for_each(|chain| chain.rules.retain(|rule| !sets_a_zone(rule)));
            assert_eq!(with, without);
        }
    }
}
