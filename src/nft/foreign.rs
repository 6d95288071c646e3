//! Other programs' tables: which there are, and the removal of one.

use super::kernel::NftError;
use super::netlink::{DEL_TABLE, GET_CHAIN, GET_TABLE};
use super::socket::NfSocket;
use super::wire::Message;

/// The `NFPROTO_*` of the families whose chains see this host's IP packets.
const FAMILIES: [(u8, &str); 3] = [(1, "inet"), (2, "ip"), (10, "ip6")];

/// A table of nftables.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ForeignTable {
    /// `ip`, `ip6` or `inet`.
    pub family: &'static str,
    /// The name.
    pub name: String,
}

/// A chain of nftables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignChain {
    /// Its table.
    pub table: ForeignTable,
    /// The name.
    pub name: String,
    /// Where the kernel calls it; `None` for chains that others go to.
    pub base: Option<ForeignHook>,
}

/// Where the kernel calls a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignHook {
    /// `filter`, `nat` or `route`.
    pub kind: String,
    /// `NF_INET_*`.
    pub number: u32,
    /// The priority.
    pub priority: i32,
}

/// Every table and chain of this network namespace that sees IP packets, ours among them.
///
/// # Errors
/// When the kernel does not let us look: it needs CAP_NET_ADMIN.
pub fn tables_and_chains() -> Result<(Vec<ForeignTable>, Vec<ForeignChain>), NftError> {
    let mut socket = NfSocket::open()?;
    let (mut tables, mut chains) = (Vec::new(), Vec::new());
    for (protocol, family) in FAMILIES {
        let named = |message: &Message<'_>| {
            let name = message.attributes().string(1)?.to_string();
            Some(ForeignTable { family, name })
        };
        tables.extend(socket.dump(
            GET_TABLE,
            protocol,
            |_| {},
            |all: &mut Vec<_>, m| all.extend(named(m)),
            (Vec::new(), Vec::clear),
        )?);
        let chain = |message: &Message<'_>| {
            let attributes = message.attributes();
            let name = attributes.string(3)?.to_string();
            let hook = attributes.nested(4).and_then(|hook| Some((hook.u32(1)?, hook.u32(2)?.cast_signed())));
            let kind = attributes.string(7).unwrap_or_default().to_string();
            let base = hook.map(|(number, priority)| ForeignHook { kind, number, priority });
            Some(ForeignChain { table: named(message)?, name, base })
        };
        chains.extend(socket.dump(
            GET_CHAIN,
            protocol,
            |_| {},
            |all: &mut Vec<_>, m| all.extend(chain(m)),
            (Vec::new(), Vec::clear),
        )?);
    }
    Ok((tables, chains))
}

/// Removes a table with everything in it.
///
/// # Errors
/// When the kernel refuses.
pub fn remove_table(table: &ForeignTable) -> Result<(), NftError> {
    let protocol = FAMILIES.iter().find(|(_, family)| *family == table.family).map_or(0, |(protocol, _)| *protocol);
    NfSocket::open()?.batch(|socket, writer| {
        writer.begin(DEL_TABLE, 0, socket.next_sequence(), protocol);
        writer.string(1, &table.name);
        writer.end();
    })
}
