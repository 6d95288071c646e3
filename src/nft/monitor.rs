//! Notices of the kernel when somebody else changes our tables.
//!
//! While somebody listens, the kernel writes a notice for every element of every batch, which makes large batches several times slower and
//! overflows the listener. So the data path leaves the group around its large batches ([`Membership`]) and looks at the ruleset's generation
//! instead: who else has changed something meanwhile has counted it up.

use super::kernel::NftError;
use super::layout::TABLE;
use super::wire::{Attributes, Message, SUBSYSTEM, messages};
use netlink_sys::{Socket, protocols::NETLINK_NETFILTER};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use tokio::net::UnixDatagram;

/// `NFNLGRP_NFTABLES`.
const GROUP: u32 = 7;
/// `NFT_MSG_NEWGEN`: the end of a batch.
const NEW_GENERATION: u16 = 15;
/// `NFTA_GEN_PROC_NAME`.
const PROCESS_NAME: u16 = 3;
/// `NFPROTO_IPV4` and `NFPROTO_IPV6`.
const OUR_FAMILIES: [u8; 2] = [2, 10];
const RECEIVE_BUFFER: usize = 4 << 20;

/// Somebody else has changed our tables, or may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disturbance {
    /// The name of the process, where the kernel tells it.
    pub by: Option<String>,
}

/// Listens to changes of our tables by others.
pub struct Monitor {
    receiver: UnixDatagram,
    strangers: Strangers,
    buffer: Vec<u8>,
}

/// Whether the kernel writes notices.
#[derive(Clone)]
pub struct Membership(Arc<Socket>);

impl Monitor {
    /// Listens, in the network namespace of the calling thread. `ours` is the number of the socket whose changes are our own.
    ///
    /// # Errors
    /// When the kernel does not let us listen.
    pub fn open(ours: u32) -> Result<(Monitor, Membership), NftError> {
        let mut socket = Socket::new(NETLINK_NETFILTER).map_err(NftError::Open)?;
        socket.bind_auto().map_err(NftError::Open)?;
        socket.set_non_blocking(true).map_err(NftError::Open)?;
        if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            let _ = setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER);
        }
        let receiver = receiver(&socket).map_err(NftError::Open)?;
        let membership = Membership(Arc::new(socket));
        membership.join()?;
        Ok((Monitor { receiver, strangers: Strangers { ours, touched: None }, buffer: vec![0; 1 << 17] }, membership))
    }

    /// Waits until somebody else has changed our tables.
    ///
    /// # Errors
    /// When the socket fails; then there will be no more notices.
    pub async fn disturbed(&mut self) -> Result<Disturbance, NftError> {
        loop {
            match self.receiver.recv(&mut self.buffer).await {
                Ok(length) => {
                    for message in messages(&self.buffer[..length]) {
                        if let Some(disturbance) = self.strangers.take(&message) {
                            return Ok(disturbance);
                        }
                    }
                }
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => return Ok(self.strangers.lost()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(NftError::Socket { action: "listening for changes of the tables", error }),
            }
        }
    }
}

/// The receiving side for tokio, which knows no netlink sockets: to receive from one, it is a socket like any other.
fn receiver(socket: &Socket) -> io::Result<UnixDatagram> {
    let copy: OwnedFd = socket.as_fd().try_clone_to_owned()?;
    UnixDatagram::from_std(copy.into())
}

impl Membership {
    /// From now on notices are written.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn join(&self) -> Result<(), NftError> {
        self.0.add_membership(GROUP).map_err(NftError::Open)
    }

    /// From now on none are written.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn leave(&self) -> Result<(), NftError> {
        self.0.drop_membership(GROUP).map_err(NftError::Open)
    }
}

/// Finds batches of others that touch our tables in the stream of notices.
struct Strangers {
    ours: u32,
    /// The socket of a stranger whose batch has touched our tables and is not yet complete.
    touched: Option<u32>,
}

impl Strangers {
    fn take(&mut self, message: &Message<'_>) -> Option<Disturbance> {
        if message.kind >> 8 != SUBSYSTEM || message.sender == self.ours {
            return None;
        }
        if message.kind & 0xff == NEW_GENERATION {
            let by = message.attributes().string(PROCESS_NAME).map(str::to_string);
            return self.touched.take().map(|_| Disturbance { by });
        }
        if self.is_about_ours(message) {
            self.touched = Some(message.sender);
        }
        None
    }

    /// Notices are lost: anything may have changed, by anybody. The end of a batch whose beginning was heard may be among them.
    fn lost(&mut self) -> Disturbance {
        self.touched = None;
        Disturbance { by: None }
    }

    /// Every kind of object names its table in its first attribute.
    fn is_about_ours(&self, message: &Message<'_>) -> bool {
        let family = message.body.first().copied().unwrap_or_default();
        let attributes: Attributes<'_> = message.attributes();
        OUR_FAMILIES.contains(&family) && attributes.string(1) == Some(TABLE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nft::wire::Writer;

    /// A notice as the kernel writes it: which kind of object, in which family and table, by whose socket.
    fn notice(kind: u16, family: u8, fill: impl Fn(&mut Writer), sender: u32) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.begin(kind, 0, 0, family);
        fill(&mut writer);
        writer.end();
        let mut bytes = writer.finish();
        bytes[12..16].copy_from_slice(&sender.to_ne_bytes());
        bytes
    }

    fn heard(notices: &[Vec<u8>]) -> Option<Disturbance> {
        let mut strangers = Strangers { ours: 7, touched: None };
        let bytes = notices.concat();
        messages(&bytes).find_map(|message| strangers.take(&message))
    }

    #[test]
    fn only_a_stranger_that_touches_our_table_disturbs() {
        let ours = |sender| notice(14, 2, |w| w.string(1, "waypost"), sender);
        let theirs = notice(14, 2, |w| w.string(1, "docker"), 9);
        let bridge = notice(14, 7, |w| w.string(1, "waypost"), 9);
        let end = |sender| notice(NEW_GENERATION, 0, |w| w.string(PROCESS_NAME, "nft"), sender);
        assert_eq!(heard(&[ours(9), end(9)]), Some(Disturbance { by: Some("nft".into()) }));
        assert_eq!(heard(&[ours(9)]), None, "the batch is not complete");
        assert_eq!(heard(&[ours(7), end(7)]), None, "that was ourselves");
        assert_eq!(heard(&[theirs, end(9)]), None);
        assert_eq!(heard(&[bridge, end(9)]), None);
    }

    #[test]
    fn lost_notices_may_hide_anything_and_blame_nobody_who_comes_later() {
        let mut strangers = Strangers { ours: 7, touched: None };
        let begun = notice(14, 2, |w| w.string(1, "waypost"), 9);
        let of_another = notice(NEW_GENERATION, 0, |w| w.string(PROCESS_NAME, "dockerd"), 11);
        assert_eq!(messages(&begun).find_map(|message| strangers.take(&message)), None);
        assert_eq!(strangers.lost(), Disturbance { by: None });
        assert_eq!(messages(&of_another).find_map(|message| strangers.take(&message)), None);
    }
}
