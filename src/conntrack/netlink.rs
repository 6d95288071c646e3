//! The kernel's table of flows, over netlink (`linux/netfilter/nfnetlink_conntrack.h`).

use super::{Flow, Tracked};
use crate::model::{Family, Protocol};
use crate::nft::NftError;
use crate::nft::socket::NfSocket;
use crate::nft::wire::{Attributes, Message, Writer};
use nix::errno::Errno;
use nix::sys::utsname::uname;
use std::net::{IpAddr, SocketAddr};

/// `NFNL_SUBSYS_CTNETLINK` with `IPCTNL_MSG_CT_GET` and `IPCTNL_MSG_CT_DELETE`.
const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;

const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const FILTER: u16 = 25;

/// Which parts of a tuple a filter compares (`CTA_FILTER_F_*`).
const SOURCE: u32 = 1;
const DESTINATION: u32 = 1 << 1;
const PROTOCOL: u32 = 1 << 3;
const SOURCE_PORT: u32 = 1 << 4;
const DESTINATION_PORT: u32 = 1 << 5;

/// The first kernel that deletes by a filter. From 5.8 on others refuse it; before, the filter was not known and everything was deleted.
const FILTERED_DELETION: (u32, u32) = (6, 12);

/// The flows of the network namespace of the thread that made this.
pub struct Conntrack {
    socket: NfSocket,
    filtered_deletion: bool,
}

impl Conntrack {
    /// Opens a socket; everything else needs CAP_NET_ADMIN.
    ///
    /// # Errors
    /// When there is no such socket.
    pub fn open() -> Result<Conntrack, NftError> {
        let version = uname().ok().and_then(|name| kernel_version(name.release().to_str()?));
        let filtered_deletion = version.is_some_and(|version| version >= FILTERED_DELETION);
        Ok(Conntrack { socket: NfSocket::open()?, filtered_deletion })
    }

    /// Deletes flows one by one, as on kernels before 6.12.
    pub fn one_by_one(mut self) -> Conntrack {
        self.filtered_deletion = false;
        self
    }

    /// Whether flows can be deleted by a filter, as far as it is known.
    pub fn filters(&self) -> bool {
        self.filtered_deletion
    }
}

impl Tracked for Conntrack {
    fn each_udp_flow(&mut self, family: Family, to: Option<SocketAddr>, each: &mut dyn FnMut(Flow)) -> Result<bool, NftError> {
        let flags = match (to, family) {
            (None, _) => PROTOCOL,
            (Some(_), Family::V4) => DESTINATION | PROTOCOL | DESTINATION_PORT,
            // An IPv6 address makes the filter pass everything but that address (`ctnetlink_filter_match_tuple`, seen on 6.18).
            (Some(_), Family::V6) => PROTOCOL | DESTINATION_PORT,
        };
        let fill = |writer: &mut Writer| {
            write_tuple(writer, TUPLE_ORIGINAL, None, to);
            write_filter(writer, flags, 0);
        };
        let filtered = |flow: &Flow| to.is_none_or(|to| flow.to == to);
        self.socket.dump_once(GET, protocol(family), &fill, |message| {
            read_flow(message).filter(filtered).into_iter().for_each(&mut *each)
        })
    }

    fn delete(&mut self, flow: &Flow) -> Result<bool, NftError> {
        let answer = self.socket.acknowledged(DELETE, protocol(Family::of(flow.to.ip())), |writer| {
            write_tuple(writer, TUPLE_ORIGINAL, Some(flow.client), Some(flow.to));
            writer.u32(ID, flow.id);
        })?;
        match answer {
            None => Ok(true),
            Some(Errno::ENOENT) => Ok(false),
            Some(errno) => Err(refused(errno)),
        }
    }

    fn delete_all(&mut self, to: SocketAddr, server: SocketAddr) -> Result<bool, NftError> {
        // Without this question an old kernel would delete every flow of the host, and any one the wrong flows of IPv6.
        if !self.filtered_deletion || to.is_ipv6() {
            return Ok(false);
        }
        let answer = self.socket.acknowledged(DELETE, protocol(Family::of(to.ip())), |writer| {
            // Version 0 stands for deletions that know no family.
            writer.version(1);
            write_tuple(writer, TUPLE_ORIGINAL, None, Some(to));
            write_tuple(writer, TUPLE_REPLY, Some(server), None);
            write_filter(writer, DESTINATION | PROTOCOL | DESTINATION_PORT, SOURCE | PROTOCOL | SOURCE_PORT);
            writer.bytes(ZONE, &[0, 0]);
        })?;
        match answer {
            None => Ok(true),
            Some(Errno::EOPNOTSUPP | Errno::EINVAL) => {
                self.filtered_deletion = false;
                Ok(false)
            }
            Some(errno) => Err(refused(errno)),
        }
    }
}

/// Major and minor number of a kernel's release.
pub fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn refused(errno: Errno) -> NftError {
    NftError::Rejected(vec![format!("deleting a tracked flow: {}", errno.desc())])
}

fn protocol(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}

fn write_tuple(writer: &mut Writer, kind: u16, source: Option<SocketAddr>, destination: Option<SocketAddr>) {
    let ends = [(source, 1, 2), (destination, 2, 3)];
    writer.nest(kind, |tuple| {
        if source.is_some() || destination.is_some() {
            tuple.nest(1, |addresses| {
                for (end, number, _) in ends {
                    match end.map(|end| end.ip()) {
                        Some(IpAddr::V4(address)) => addresses.bytes(number, &address.octets()),
                        Some(IpAddr::V6(address)) => addresses.bytes(number + 2, &address.octets()),
                        None => {}
                    }
                }
            });
        }
        tuple.nest(2, |transport| {
            transport.bytes(1, &[Protocol::Udp.number()]);
            for (end, _, number) in ends {
                end.into_iter().for_each(|end| transport.bytes(number, &end.port().to_be_bytes()));
            }
        });
    });
}

fn write_filter(writer: &mut Writer, original: u32, reply: u32) {
    writer.nest(FILTER, |filter| {
        // Alone among these numbers they are in the host's order.
        filter.bytes(1, &original.to_ne_bytes());
        filter.bytes(2, &reply.to_ne_bytes());
    });
}

/// A UDP flow outside any conntrack zone: those in zones belong to virtual switches, which track the same packets for themselves.
fn read_flow(message: &Message<'_>) -> Option<Flow> {
    let attributes = message.attributes();
    if attributes.u16(ZONE).is_some_and(|zone| zone != 0) {
        return None;
    }
    let (client, to) = read_tuple(attributes.nested(TUPLE_ORIGINAL)?)?;
    let (server, _) = read_tuple(attributes.nested(TUPLE_REPLY)?)?;
    Some(Flow { client, to, server, id: attributes.u32(ID)? })
}

/// Source and destination of a UDP tuple.
fn read_tuple(tuple: Attributes<'_>) -> Option<(SocketAddr, SocketAddr)> {
    let (addresses, transport) = (tuple.nested(1)?, tuple.nested(2)?);
    if transport.get(1)? != [Protocol::Udp.number()] {
        return None;
    }
    let address = |number: u16| -> Option<IpAddr> {
        let v4 = addresses.get(number).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok()).map(IpAddr::from);
        v4.or_else(|| <[u8; 16]>::try_from(addresses.get(number + 2)?).ok().map(IpAddr::from))
    };
    Some((SocketAddr::new(address(1)?, transport.u16(2)?), SocketAddr::new(address(2)?, transport.u16(3)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_any_distribution_are_understood() {
        assert_eq!(kernel_version("6.12.0-rc1+"), Some((6, 12)));
        assert_eq!(kernel_version("5.14.0-503.el9.x86_64"), Some((5, 14)));
        assert_eq!(kernel_version("6.1"), Some((6, 1)));
        assert_eq!(kernel_version("plan 9"), None);
    }
}
