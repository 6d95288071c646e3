//! Messages with descriptors between two agents, over a Unix socket that keeps messages apart (`SOCK_SEQPACKET`).

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// The kernel passes at most 253 descriptors with one message (`SCM_MAX_FD`).
pub(super) const MOST_DESCRIPTORS: usize = 128;
/// Longer than any message: a name for each descriptor, and less than a hundred bytes for each name.
const MOST_BYTES: usize = 1 << 16;

/// What agents say to each other. An older and a newer version must understand each other, in both directions: fields may be added,
/// never taken away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case")]
pub enum Say {
    /// The new agent is there.
    Hello {
        /// Its version, for the log.
        version: String,
        /// The number of its network namespace: sockets of another one are of no use.
        network: u64,
    },
    /// The old agent has heard it, and will hand over when asked.
    Welcome {
        /// Its version, for the log.
        version: String,
    },
    /// The old agent hands nothing over.
    Refuse {
        /// Why.
        why: String,
    },
    /// The new agent could serve now.
    Ask,
    /// Descriptors come with this message.
    Sockets {
        /// What each of them is, see [`super::Sockets`].
        names: Vec<String>,
        /// Whether another such message follows.
        more: bool,
    },
    /// The new agent serves.
    Serving,
    /// The old agent receives no more.
    Retired,
}

/// One end of a connection between two agents.
#[derive(Debug)]
pub(super) struct Channel(UnixStream);

/// A socket for tokio, which knows none that keep messages apart: to wait for one, it is a socket like any other. It must not block.
pub(super) fn awaited(socket: OwnedFd) -> io::Result<UnixStream> {
    UnixStream::from_std(socket.into())
}

impl Channel {
    /// The socket must not block.
    pub(super) fn new(socket: OwnedFd) -> io::Result<Channel> {
        awaited(socket).map(Channel)
    }

    pub(super) fn socket(&self) -> &UnixStream {
        &self.0
    }

    /// Says something, and sends descriptors with it.
    pub(super) async fn say(&self, say: &Say, descriptors: &[OwnedFd]) -> io::Result<()> {
        let text = serde_json::to_vec(say)?;
        let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        self.0
            .async_io(Interest::WRITABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                if !borrowed.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&borrowed)) {
                    return Err(io::Error::from(io::ErrorKind::ArgumentListTooLong));
                }
                sendmsg(&self.0, &[IoSlice::new(&text)], &mut control, SendFlags::NOSIGNAL)?;
                Ok(())
            })
            .await
    }

    /// Waits for the other one to say something. Nothing is lost when the wait is given up.
    ///
    /// # Errors
    /// `UnexpectedEof` when the other one is gone.
    pub(super) async fn hear(&self) -> io::Result<(Say, Vec<OwnedFd>)> {
        let (text, descriptors) = self
            .0
            .async_io(Interest::READABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
                let mut control = RecvAncillaryBuffer::new(&mut space);
                let mut text = vec![0; MOST_BYTES];
                let received = recvmsg(&self.0, &mut [IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
                if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
                    return Err(io::Error::other("a message was longer than any that is known"));
                }
                text.truncate(received.bytes);
                let mut descriptors = Vec::new();
                for message in control.drain() {
                    if let RecvAncillaryMessage::ScmRights(rights) = message {
                        descriptors.extend(rights);
                    }
                }
                Ok((text, descriptors))
            })
            .await?;
        if text.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok((serde_json::from_slice(&text)?, descriptors))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use std::net::UdpSocket;

    fn pair() -> (Channel, Channel) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        (Channel::new(one).unwrap(), Channel::new(other).unwrap())
    }

    #[tokio::test]
    async fn words_and_sockets_arrive_together_and_the_end_is_an_end() {
        let (old, new) = pair();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let say = Say::Sockets { names: vec!["udp".into()], more: false };
        old.say(&say, &[socket.into()]).await.unwrap();
        old.say(&Say::Retired, &[]).await.unwrap();
        let (heard, mut descriptors) = new.hear().await.unwrap();
        assert_eq!(heard, say);
        assert_eq!(UdpSocket::from(descriptors.remove(0)).local_addr().unwrap(), address);
        assert_eq!(new.hear().await.unwrap().0, Say::Retired);
        drop(old);
        assert_eq!(new.hear().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn a_later_versions_further_fields_do_no_harm_and_unknown_words_are_errors() {
        let hello: Say = serde_json::from_str(r#"{"say": "hello", "version": "9", "network": 1, "mood": "good"}"#).unwrap();
        assert_eq!(hello, Say::Hello { version: "9".into(), network: 1 });
        assert!(serde_json::from_str::<Say>(r#"{"say": "sing"}"#).is_err());
    }
}
