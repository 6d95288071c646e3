//! Elements of the plan as the bytes of nf_tables elements, and back.
//!
//! In a concatenated key each part fills whole words of four bytes. Addresses, protocols and ports are in network order; the slot is in
//! host order, because the kernel's number generator leaves it so.

use super::counters::Counter;
use super::expr::Verdict;
use super::wire::{Attributes, Writer};
use crate::model::{Family, Protocol};
use crate::proxy::{Backend, Chain, Dest, Element, Refusal, Set};
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const LIST_ELEMENT: u16 = 1;
const KEY: u16 = 1;
const DATA: u16 = 2;
const FLAGS: u16 = 3;
const TIMEOUT: u16 = 4;
const EXPIRATION: u16 = 5;
const KEY_END: u16 = 10;
const VALUE: u16 = 1;
/// `NFT_SET_ELEM_INTERVAL_END`.
const INTERVAL_END: u32 = 1;
const REFUSE: &str = "refuse";

/// Writes an element into an element list, with its data when it is to be added, and with what it has counted before. Upper bound:
/// [`MAX_ELEMENT`] bytes.
pub fn write_element(writer: &mut Writer, element: &Element, with_data: bool, counter: Option<Counter>) {
    match element {
        Element::ServiceCidr(network) | Element::PodCidr(network) => write_interval(writer, network),
        Element::AllowedSource(dest, network) | Element::DeniedSource(dest, network) => writer.nest(LIST_ELEMENT, |w| {
            let (mut first, mut last) = (dest_key(dest), dest_key(dest));
            push_address(&mut first, network.network());
            push_address(&mut last, network.broadcast());
            w.nest(KEY, |key| key.bytes(VALUE, &first));
            w.nest(KEY_END, |key| key.bytes(VALUE, &last));
        }),
        _ => writer.nest(LIST_ELEMENT, |w| {
            w.nest(KEY, |key| key.bytes(VALUE, &plain_key(element)));
            if with_data {
                write_data(w, element);
            }
            if let Some(counter) = counter {
                counter.write(w);
            }
        }),
    }
}

/// No encoded element is longer than this: a service's IPv6 key, the longest chain name, headers.
pub const MAX_ELEMENT: usize = 160;

fn plain_key(element: &Element) -> Vec<u8> {
    let mut key = element.dest().map(|dest| dest_key(&dest)).unwrap_or_default();
    match element {
        Element::Endpoint(_, slot, _) => key.extend_from_slice(&slot.to_ne_bytes()),
        Element::ClusterIp(address) | Element::LocalDns(address) => push_address(&mut key, *address),
        Element::Hairpin(address) => {
            push_address(&mut key, *address);
            push_address(&mut key, *address);
        }
        _ => {}
    }
    key
}

fn write_data(writer: &mut Writer, element: &Element) {
    match element {
        Element::Service(_, chain)
        | Element::ClusterList(_, chain)
        | Element::LocalList(_, chain)
        | Element::Sticky(_, chain) => {
            writer.nest(DATA, |w| Verdict::Goto(chain.to_string()).write(w));
        }
        Element::Unserved(_, Refusal::Reject) => writer.nest(DATA, |w| Verdict::Goto(REFUSE.into()).write(w)),
        Element::Unserved(_, Refusal::Drop) => writer.nest(DATA, |w| Verdict::Drop.write(w)),
        Element::Endpoint(_, _, backend) => {
            let mut data = Vec::with_capacity(20);
            push_address(&mut data, backend.address);
            push_port(&mut data, backend.port);
            writer.nest(DATA, |w| w.bytes(VALUE, &data));
        }
        _ => {}
    }
}

/// A network in a set of plain intervals: its first address, and the first behind it marked as the end. A network that reaches to the
/// end of the address space has no end element.
fn write_interval(writer: &mut Writer, network: &IpNet) {
    let mut first = Vec::with_capacity(16);
    push_address(&mut first, network.network());
    writer.nest(LIST_ELEMENT, |w| w.nest(KEY, |key| key.bytes(VALUE, &first)));
    let behind = match network.broadcast() {
        IpAddr::V4(last) => u32::from(last).checked_add(1).map(|next| next.to_be_bytes().to_vec()),
        IpAddr::V6(last) => u128::from(last).checked_add(1).map(|next| next.to_be_bytes().to_vec()),
    };
    if let Some(behind) = behind {
        writer.nest(LIST_ELEMENT, |w| {
            w.nest(KEY, |key| key.bytes(VALUE, &behind));
            w.u32(FLAGS, INTERVAL_END);
        });
    }
}

/// The key of a destination.
pub fn dest_key(dest: &Dest) -> Vec<u8> {
    let mut key = Vec::with_capacity(44);
    push_address(&mut key, dest.address);
    key.extend_from_slice(&[dest.protocol.number(), 0, 0, 0]);
    push_port(&mut key, dest.port);
    key
}

fn push_address(bytes: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => bytes.extend_from_slice(&address.octets()),
        IpAddr::V6(address) => bytes.extend_from_slice(&address.octets()),
    }
}

fn push_port(bytes: &mut Vec<u8>, port: u16) {
    bytes.extend_from_slice(&port.to_be_bytes());
    bytes.extend_from_slice(&[0, 0]);
}

/// An element as the kernel dumps it: `None` when it is nothing that the agent would have written.
pub fn read_element(set: Set, family: Family, element: Attributes<'_>) -> Option<Element> {
    let mut key = Reader { bytes: element.nested(KEY)?.get(VALUE)?, family };
    let chain = || match Verdict::read(element.nested(DATA)?)? {
        Verdict::Goto(name) => Chain::parse(&name),
        _ => None,
    };
    let read = match set {
        Set::Services => Element::Service(key.dest()?, chain()?),
        Set::ClusterLists => Element::ClusterList(key.dest()?, chain()?),
        Set::LocalLists => Element::LocalList(key.dest()?, chain()?),
        Set::Sticky => Element::Sticky(key.dest()?, chain()?),
        Set::Endpoints => {
            let (dest, slot) = (key.dest()?, key.slot()?);
            let mut data = Reader { bytes: element.nested(DATA)?.get(VALUE)?, family };
            Element::Endpoint(dest, slot, Backend { address: data.address()?, port: data.port()? })
        }
        Set::Unserved => Element::Unserved(key.dest()?, refusal(element)?),
        Set::Guarded => Element::Guarded(key.dest()?),
        Set::AllowedSources | Set::DeniedSources => {
            let (dest, first) = (key.dest()?, key.address()?);
            let mut end = Reader { bytes: element.nested(KEY_END)?.get(VALUE)?, family };
            end.dest()?;
            let make = if set == Set::AllowedSources { Element::AllowedSource } else { Element::DeniedSource };
            make(dest, network(first, end.address()?)?)
        }
        Set::ClusterIps => Element::ClusterIp(key.address()?),
        Set::LocalDns => Element::LocalDns(key.address()?),
        Set::Hairpins => {
            let address = key.address()?;
            (key.address()? == address).then_some(Element::Hairpin(address))?
        }
        Set::ServiceCidrs | Set::PodCidrs => return None,
    };
    key.bytes.is_empty().then_some(read)
}

/// An element of a map that remembers clients: the client, to be removed by.
pub fn write_client(writer: &mut Writer, client: IpAddr) {
    let mut key = Vec::with_capacity(16);
    push_address(&mut key, client);
    writer.nest(LIST_ELEMENT, |w| w.nest(KEY, |nested| nested.bytes(VALUE, &key)));
}

/// An element of a map that remembers clients, as the kernel dumps it: the client and where it went.
pub fn read_client(family: Family, element: Attributes<'_>) -> Option<(IpAddr, Backend)> {
    let client = Reader { bytes: element.nested(KEY)?.get(VALUE)?, family }.address()?;
    let mut data = Reader { bytes: element.nested(DATA)?.get(VALUE)?, family };
    Some((client, Backend { address: data.address()?, port: data.port()? }))
}

/// A client that a map remembers, with what else belongs to the element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The client.
    pub client: IpAddr,
    /// Where it went.
    pub to: Backend,
    /// How long it is remembered after a connection, in milliseconds; `None` as the map has it.
    timeout: Option<u64>,
    /// How long it is still remembered, in milliseconds.
    left: u64,
}

impl Known {
    /// The element as the kernel dumps it.
    pub fn read(family: Family, element: Attributes<'_>) -> Option<Known> {
        let (client, to) = read_client(family, element)?;
        Some(Known { client, to, timeout: element.u64(TIMEOUT), left: element.u64(EXPIRATION)? })
    }

    /// The same element for another map, of which no more than [`MAX_ELEMENT`] bytes are written.
    pub fn write(&self, writer: &mut Writer) {
        let (mut key, mut data) = (Vec::with_capacity(16), Vec::with_capacity(20));
        push_address(&mut key, self.client);
        push_address(&mut data, self.to.address);
        push_port(&mut data, self.to.port);
        writer.nest(LIST_ELEMENT, |w| {
            w.nest(KEY, |nested| nested.bytes(VALUE, &key));
            w.nest(DATA, |nested| nested.bytes(VALUE, &data));
            if let Some(timeout) = self.timeout {
                w.u64(TIMEOUT, timeout);
            }
            w.u64(EXPIRATION, self.left);
        });
    }
}

/// The destination that is a key; `None` for anything else.
pub fn read_dest(key: &[u8], family: Family) -> Option<Dest> {
    let mut key = Reader { bytes: key, family };
    let dest = key.dest()?;
    key.bytes.is_empty().then_some(dest)
}

/// One bound of an interval set: the address, and whether it ends an interval.
pub fn read_bound(family: Family, element: Attributes<'_>) -> Option<(IpAddr, bool)> {
    let address = Reader { bytes: element.nested(KEY)?.get(VALUE)?, family }.address()?;
    Some((address, element.u32(FLAGS).unwrap_or(0) & INTERVAL_END != 0))
}

/// The networks between the bounds of an interval set; `None` when they are not networks.
pub fn read_networks(family: Family, mut bounds: Vec<(IpAddr, bool)>) -> Option<Vec<IpNet>> {
    bounds.sort_by_key(|(address, end)| (*address, !*end));
    let mut networks = Vec::new();
    let mut open: Option<IpAddr> = None;
    for (address, end) in bounds {
        match (open, end) {
            (None, false) => open = Some(address),
            (Some(first), true) => {
                networks.push(network(first, before(address)?)?);
                open = None;
            }
            // nft puts an end at address zero in front of the first interval.
            (None, true) if address.is_unspecified() => {}
            _ => return None,
        }
    }
    if let Some(first) = open {
        let last = match family {
            Family::V4 => IpAddr::V4(Ipv4Addr::BROADCAST),
            Family::V6 => IpAddr::V6(Ipv6Addr::from(u128::MAX)),
        };
        networks.push(network(first, last)?);
    }
    Some(networks)
}

fn before(address: IpAddr) -> Option<IpAddr> {
    Some(match address {
        IpAddr::V4(address) => IpAddr::V4(u32::from(address).checked_sub(1)?.into()),
        IpAddr::V6(address) => IpAddr::V6(u128::from(address).checked_sub(1)?.into()),
    })
}

/// The one network that spans exactly `first` to `last`.
fn network(first: IpAddr, last: IpAddr) -> Option<IpNet> {
    let common = match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => (u32::from(first) ^ u32::from(last)).leading_zeros(),
        (IpAddr::V6(first), IpAddr::V6(last)) => (u128::from(first) ^ u128::from(last)).leading_zeros(),
        _ => return None,
    };
    let network = IpNet::new(first, u8::try_from(common).ok()?).ok()?;
    (network.network() == first && network.broadcast() == last).then_some(network)
}

fn refusal(element: Attributes<'_>) -> Option<Refusal> {
    match Verdict::read(element.nested(DATA)?)? {
        Verdict::Drop => Some(Refusal::Drop),
        Verdict::Goto(chain) if chain == REFUSE => Some(Refusal::Reject),
        _ => None,
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    family: Family,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.bytes.split_first_chunk::<N>()?;
        self.bytes = rest;
        Some(*taken)
    }

    fn address(&mut self) -> Option<IpAddr> {
        Some(match self.family {
            Family::V4 => IpAddr::from(self.take::<4>()?),
            Family::V6 => IpAddr::from(self.take::<16>()?),
        })
    }

    fn port(&mut self) -> Option<u16> {
        let word = self.take::<4>()?;
        Some(u16::from_be_bytes([word[0], word[1]]))
    }

    fn slot(&mut self) -> Option<u32> {
        Some(u32::from_ne_bytes(self.take()?))
    }

    fn dest(&mut self) -> Option<Dest> {
        let address = self.address()?;
        let protocol = Protocol::from_number(self.take::<4>()?[0])?;
        Some(Dest { address, protocol, port: self.port()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Balance;
    use crate::proxy::{Draw, List, PortId, Remember, Remembered};

    fn dest(address: &str) -> Dest {
        Dest { address: address.parse().unwrap(), protocol: Protocol::Udp, port: 53 }
    }

    fn longest_draw() -> Chain {
        let (protocol, list, method) = (Protocol::Sctp, List::Local, Balance::Random);
        Chain::Own(Draw { port: PortId::default(), protocol, list, method, slots: 65521, sticky: true })
    }

    fn longest_remember() -> Chain {
        let (protocol, entry) = (Protocol::Sctp, Remembered::ByClient);
        Chain::Remember(Remember { port: PortId::default(), protocol, entry, seconds: 86400 })
    }

    #[test]
    fn every_kind_of_element_is_read_as_it_was_written() {
        for address in ["10.96.0.10", "fd00:10:96::a"] {
            let dest = dest(address);
            let backend = Backend { address: dest.address, port: 8080 };
            let range = IpNet::new(dest.address, 24).unwrap().trunc();
            let all = [
                Element::Service(dest, Chain::Pick(3)),
                Element::Service(dest, Chain::OutsideLocal),
                Element::Endpoint(dest, Element::LOCAL_SLOTS + 7, backend),
                Element::ClusterList(dest, Chain::Pick(1)),
                Element::LocalList(dest, Chain::PickLocal(12)),
                Element::Service(dest, longest_draw()),
                Element::Sticky(dest, longest_remember()),
                Element::Unserved(dest, Refusal::Drop),
                Element::Unserved(dest, Refusal::Reject),
                Element::Guarded(dest),
                Element::AllowedSource(dest, range),
                Element::DeniedSource(dest, range),
                Element::ClusterIp(dest.address),
                Element::LocalDns(dest.address),
                Element::Hairpin(dest.address),
            ];
            for element in all {
                let mut writer = Writer::default();
                write_element(&mut writer, &element, true, Some(Counter { packets: 1, bytes: 40 }));
                let bytes = writer.finish();
                assert!(bytes.len() <= MAX_ELEMENT, "{element:?} takes {} bytes", bytes.len());
                let attributes = Attributes(&bytes).nested(LIST_ELEMENT).unwrap();
                assert_eq!(read_element(element.set(), dest.family(), attributes), Some(element));
            }
        }
    }

    #[test]
    fn networks_survive_as_intervals_even_at_the_end_of_the_address_space() {
        for (family, networks) in [
            (Family::V4, vec!["10.96.0.0/16", "224.0.0.0/3", "0.0.0.0/5"]),
            (Family::V6, vec!["fd00:10:96::/112", "ff00::/8", "::/3"]),
        ] {
            let mut networks: Vec<IpNet> = networks.iter().map(|network| network.parse().unwrap()).collect();
            networks.sort();
            let mut writer = Writer::default();
            networks.iter().for_each(|network| write_element(&mut writer, &Element::PodCidr(*network), true, None));
            let bytes = writer.finish();
            let bounds = Attributes(&bytes).map(|(_, element)| read_bound(family, Attributes(element)).unwrap()).collect();
            assert_eq!(read_networks(family, bounds), Some(networks));
        }
    }
}
