//! Where the kernel remembers that clients of services with session affinity went.

use super::encode::{read_client, write_client};
use super::kernel::NftError;
use super::layout::{TABLE, protocol};
use super::socket::NfSocket;
use super::wire::{Attributes, Writer};
use crate::model::Family;
use crate::proxy::{AffinityMap, KnownClient};
use std::net::IpAddr;

/// `NFT_MSG_GETSETELEM`.
const GET_ELEMENT: u16 = 13;
/// `NFTA_SET_ELEM_LIST_ELEMENTS`.
const ELEMENTS: u16 = 3;

/// Where these clients went, of those that these maps remember; over a socket of its own, so that nobody waits for it.
///
/// # Errors
/// The kernel cannot be asked.
pub fn remembered_clients(asked: &[(AffinityMap, IpAddr)]) -> Result<Vec<KnownClient>, NftError> {
    let mut socket = NfSocket::open()?;
    let mut found = Vec::new();
    for (map, client) in asked {
        let family = Family::of(*client);
        let ask = |writer: &mut Writer| {
            writer.string(1, TABLE);
            writer.string(2, &map.to_string());
            writer.nest(ELEMENTS, |list| write_client(list, *client));
        };
        let answer = socket.ask(GET_ELEMENT, protocol(family), ask, |message| {
            let (_, element) = message.attributes().nested(ELEMENTS)?.next()?;
            read_client(family, Attributes(element))
        })?;
        found.extend(answer.map(|(_, backend)| ((*map, *client), backend)));
    }
    Ok(found)
}
