//! Who serves this node: the agent that holds the seat. It is a lock, so that it becomes free with its holder, however that ends.

use super::channel::{Channel, MOST_DESCRIPTORS, Say, awaited};
use super::{HandoverError, Sockets};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen, socket_with};
use std::collections::BTreeMap;
use std::fs::{self, File, Permissions, TryLockError};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

/// More than two agents on a node are more than anybody needs.
const BACKLOG: i32 = 8;
/// The holder of the lock makes its socket a moment after it has the lock.
const PAUSE: Duration = Duration::from_millis(50);
/// How long the old agent may take to finish the answers under way.
const RETIREMENT: Duration = Duration::from_secs(10);
const LOCK: &str = "lock";
const DOOR: &str = "door";

/// What became of the wish to serve this node.
pub enum Claim {
    /// It is this agent's turn.
    First(Seat),
    /// Another agent serves it.
    Taken,
}

/// The right to serve this node, for as long as this value lives.
pub struct Seat {
    path: PathBuf,
    _lock: File,
    /// Where the next agent asks.
    door: UnixStream,
    /// The agent before, if it is still there: it ends when this connection does.
    before: Option<Channel>,
}

/// The agent that serves this node before this one.
pub struct Predecessor {
    path: PathBuf,
    channel: Channel,
}

/// The agent that serves this node after this one.
pub struct Successor {
    channel: Channel,
    /// One that has handed over to this agent, and has not ended yet.
    _before: Option<Channel>,
}

/// Takes the seat if it is free.
///
/// # Errors
/// When the files cannot be made.
pub fn claim(path: &Path) -> Result<Claim, HandoverError> {
    let place = |action| move |error| HandoverError::Place { path: path.to_path_buf(), action, error };
    let lock_path = beside(path, ".lock");
    let lock = File::options().create(true).truncate(false).write(true).open(&lock_path).map_err(place("open its lock"))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(Claim::Taken),
        Err(TryLockError::Error(error)) => return Err(place("lock it")(error)),
    }
    let door = open_door(path).map_err(place("listen"))?;
    Ok(Claim::First(Seat { path: path.to_path_buf(), _lock: lock, door, before: None }))
}

/// Under another name first, so that nobody gets in before the mode is right.
fn open_door(path: &Path) -> io::Result<UnixStream> {
    let door = socket()?;
    let hidden = beside(path, ".new");
    let _ = fs::remove_file(&hidden);
    bind(&door, &SocketAddrUnix::new(&hidden)?)?;
    fs::set_permissions(&hidden, Permissions::from_mode(0o600))?;
    listen(&door, BACKLOG)?;
    fs::rename(&hidden, path)?;
    awaited(door)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(suffix);
    name.into()
}

fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// The number of this thread's network namespace.
fn network() -> io::Result<u64> {
    fs::metadata("/proc/thread-self/ns/net").map(|file| file.ino())
}

fn known(channel: &Channel, path: &Path) -> Result<(), HandoverError> {
    // Not by rustix: it takes 0 for no process id, but that is the id of a peer in another container's process namespace.
    let peer = getsockopt(channel.socket(), PeerCredentials).map_err(|error| HandoverError::Broken(error.into()))?;
    match peer.uid() == rustix::process::geteuid().as_raw() {
        true => Ok(()),
        false => Err(HandoverError::Stranger { path: path.to_path_buf(), uid: peer.uid() }),
    }
}

impl Seat {
    /// Serves until another agent does.
    pub async fn hold(mut self, sockets: &Sockets) -> Successor {
        loop {
            match self.next_successor(sockets).await {
                Ok(channel) => return Successor { channel, _before: self.before.take() },
                Err(error) => tracing::info!(%error, "this agent goes on serving the node"),
            }
        }
    }

    /// One at a time: another one's words wait in the queue of the door, which goes to the next holder of the seat.
    async fn next_successor(&self, sockets: &Sockets) -> Result<Channel, HandoverError> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let accepted = self.door.async_io(Interest::READABLE, || Ok(accept_with(&self.door, flags)?));
        let channel = accepted.await.and_then(Channel::new).map_err(HandoverError::Broken)?;
        known(&channel, &self.path)?;
        let broken = HandoverError::Broken;
        let (version, network) = match channel.hear().await.map_err(broken)?.0 {
            Say::Hello { version, network } => (version, network),
            other => return Err(HandoverError::Unexpected(other)),
        };
        if network != self::network().map_err(broken)? {
            let why = "it is in another network namespace: give the two different sockets".to_string();
            channel.say(&Say::Refuse { why: why.clone() }, &[]).await.map_err(broken)?;
            return Err(HandoverError::Refused(why));
        }
        tracing::info!(version, "another agent has started on this node and will take over");
        channel.say(&Say::Welcome { version: crate::VERSION.into() }, &[]).await.map_err(broken)?;
        match channel.hear().await.map_err(broken)?.0 {
            Say::Ask => {}
            other => return Err(HandoverError::Unexpected(other)),
        }
        self.give(&channel, sockets).await.map_err(broken)?;
        match channel.hear().await.map_err(broken)?.0 {
            Say::Serving => Ok(channel),
            other => Err(HandoverError::Unexpected(other)),
        }
    }

    async fn give(&self, channel: &Channel, sockets: &Sockets) -> io::Result<()> {
        let mut all = sockets.copies()?;
        all.push((LOCK.into(), self._lock.try_clone()?.into()));
        all.push((DOOR.into(), self.door.as_fd().try_clone_to_owned()?));
        let mut left = all.len();
        while left > 0 {
            let (names, descriptors): (Vec<_>, Vec<_>) = all.drain(..left.min(MOST_DESCRIPTORS)).unzip();
            left -= names.len();
            channel.say(&Say::Sockets { names, more: left > 0 }, &descriptors).await?;
        }
        Ok(())
    }
}

impl Successor {
    /// Tells it that nothing more is received here.
    pub async fn retired(&self) {
        // It may be gone already, which shows at the wait for its end.
        let _ = self.channel.say(&Say::Retired, &[]).await;
    }

    /// Waits until it ends.
    pub async fn gone(&self) {
        while self.channel.hear().await.is_ok() {}
    }
}

impl Predecessor {
    /// Finds the agent that has the seat, and makes itself known to it; `None` when the seat may have become free.
    ///
    /// # Errors
    /// The other one is a stranger, or refuses.
    pub async fn find(path: &Path) -> Result<Option<Predecessor>, HandoverError> {
        let Ok(channel) = Predecessor::connect(path) else {
            sleep(PAUSE).await;
            return Ok(None);
        };
        known(&channel, path)?;
        let hello = Say::Hello { version: crate::VERSION.into(), network: network().map_err(HandoverError::Broken)? };
        if channel.say(&hello, &[]).await.is_err() {
            return Ok(None);
        }
        match channel.hear().await {
            Ok((Say::Welcome { version }, _)) => {
                tracing::info!(version, "another agent serves this node: taking over from it");
                Ok(Some(Predecessor { path: path.to_path_buf(), channel }))
            }
            Ok((Say::Refuse { why }, _)) => Err(HandoverError::Refused(why)),
            Ok((other, _)) => Err(HandoverError::Unexpected(other)),
            // It has ended, or handed over to somebody else meanwhile.
            Err(_) => Ok(None),
        }
    }

    fn connect(path: &Path) -> io::Result<Channel> {
        let socket = socket()?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Channel::new(socket)
    }

    /// Waits until it ends, or has handed over to somebody else.
    pub async fn gone(&self) {
        while self.channel.hear().await.is_ok() {}
    }

    /// Asks for its sockets and the seat, by which this agent may serve beside it.
    ///
    /// # Errors
    /// When it is gone, and has left nothing.
    pub async fn ask(&self, sockets: &Sockets) -> Result<Seat, HandoverError> {
        let broken = HandoverError::Broken;
        self.channel.say(&Say::Ask, &[]).await.map_err(broken)?;
        let mut inherited: BTreeMap<String, Vec<OwnedFd>> = BTreeMap::new();
        loop {
            let (names, more, descriptors) = match self.channel.hear().await.map_err(broken)? {
                (Say::Sockets { names, more }, descriptors) if names.len() == descriptors.len() => (names, more, descriptors),
                (other, _) => return Err(HandoverError::Unexpected(other)),
            };
            for (name, descriptor) in names.into_iter().zip(descriptors) {
                inherited.entry(name).or_default().push(descriptor);
            }
            if !more {
                break;
            }
        }
        let mut take = |name: &str| inherited.remove(name).and_then(|mut ones| ones.pop());
        let (Some(lock), Some(door)) = (take(LOCK), take(DOOR)) else {
            return Err(HandoverError::Refused("it kept its seat".into()));
        };
        let door = awaited(door).map_err(broken)?;
        tracing::info!(sockets = inherited.values().map(Vec::len).sum::<usize>(), "got the sockets of the agent before");
        sockets.grant(inherited);
        Ok(Seat { path: self.path.clone(), _lock: lock.into(), door, before: None })
    }

    /// Tells it that this agent serves, and waits until it has stopped. One that takes too long is not waited for.
    pub async fn serving(self, seat: &mut Seat) {
        let retirement = async {
            self.channel.say(&Say::Serving, &[]).await?;
            self.channel.hear().await.map(drop)
        };
        match timeout(RETIREMENT, retirement).await {
            Ok(Ok(())) => tracing::info!("took over from the agent before"),
            Ok(Err(error)) => tracing::info!(%error, "took over from the agent before, which has ended"),
            Err(_) => tracing::warn!("took over from the agent before, which still answers questions that it got"),
        }
        seat.before = Some(self.channel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("waypost-seat-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Folder(path)
        }

        fn socket(&self) -> PathBuf {
            self.0.join("handover.sock")
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn first(path: &Path) -> Seat {
        match claim(path).unwrap() {
            Claim::First(seat) => seat,
            Claim::Taken => panic!("the seat is taken"),
        }
    }

    fn is_taken(path: &Path) -> bool {
        matches!(claim(path).unwrap(), Claim::Taken)
    }

    #[tokio::test]
    async fn sockets_and_seat_change_hands_and_the_lock_is_never_free() {
        let folder = Folder::new("hands");
        let path = folder.socket();
        let old = first(&path);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(is_taken(&path));
        let (sockets, inherited) = (Sockets::new(true), Sockets::new(false));
        let mut addresses = Vec::new();
        for _ in 0..MOST_DESCRIPTORS + 1 {
            let free = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            sockets.udp(free).unwrap();
            addresses.push(free);
        }
        let (successor, (predecessor, seat)) = tokio::join!(old.hold(&sockets), async {
            let predecessor = Predecessor::find(&path).await.unwrap().unwrap();
            let seat = predecessor.ask(&inherited).await.unwrap();
            predecessor.channel.say(&Say::Serving, &[]).await.unwrap();
            (predecessor, seat)
        });
        sockets.close_all();
        successor.retired().await;
        assert_eq!(predecessor.channel.hear().await.unwrap().0, Say::Retired);
        assert!(is_taken(&path), "the new one has the seat");
        for address in addresses {
            inherited.udp(address).unwrap();
        }
        // A third one asks at the same door.
        let holding = tokio::spawn(async move { seat.hold(&inherited).await });
        assert!(Predecessor::find(&path).await.unwrap().is_some());
        holding.abort();
        let _ = holding.await;
        assert!(!is_taken(&path));
    }

    #[tokio::test]
    async fn a_successor_that_dies_on_the_way_changes_nothing() {
        let folder = Folder::new("dies");
        let path = folder.socket();
        let (old, sockets) = (first(&path), Sockets::new(true));
        let asking = async {
            let dying = Predecessor::find(&path).await.unwrap().unwrap();
            drop(dying);
            let dying = Predecessor::find(&path).await.unwrap().unwrap();
            let seat = dying.ask(&Sockets::new(false)).await.unwrap();
            drop((dying, seat));
            let living = Predecessor::find(&path).await.unwrap().unwrap();
            let seat = living.ask(&Sockets::new(false)).await.unwrap();
            living.channel.say(&Say::Serving, &[]).await.unwrap();
            seat
        };
        let (_, _seat) = tokio::join!(old.hold(&sockets), asking);
        assert!(is_taken(&path));
    }

    #[tokio::test]
    async fn an_old_agent_that_dies_leaves_the_seat_free() {
        let folder = Folder::new("free");
        let path = folder.socket();
        let (old, sockets) = (first(&path), Sockets::new(true));
        let holding = tokio::spawn(async move { old.hold(&sockets).await });
        let predecessor = Predecessor::find(&path).await.unwrap().unwrap();
        holding.abort();
        predecessor.gone().await;
        let _ = holding.await;
        assert!(!is_taken(&path));
    }
}
