//! One network namespace.

use super::LabError;
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::Path;
use std::process::{Child, Command, Output};
use std::sync::Arc;
use std::thread;

/// A network namespace, held by a file descriptor. It exists as long as a clone of this value, a thread, a process or a socket is
/// in it.
#[derive(Clone, Debug)]
pub struct Namespace {
    file: Arc<File>,
}

impl Namespace {
    /// The namespace that the calling thread is in.
    pub fn current() -> Result<Namespace, LabError> {
        let path = "/proc/thread-self/ns/net";
        let file = File::open(path).map_err(LabError::system(format!("opening {path}")))?;
        Ok(Namespace { file: Arc::new(file) })
    }

    /// A new namespace, empty but for a loopback interface that is down.
    pub fn new() -> Result<Namespace, LabError> {
        // A thread of its own, because a namespace belongs to a thread and this one wants to stay where it is.
        on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(LabError::errno("making a network namespace"))?;
            Namespace::current()
        })
    }

    /// Runs `work` on a fresh thread in this namespace and waits for it. Sockets and processes that it makes stay in the namespace
    /// and can be used from everywhere; a panic in `work` goes on in the caller.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        on_thread(|| {
            setns(self.as_fd(), CloneFlags::CLONE_NEWNET).map_err(LabError::errno("entering a network namespace"))?;
            Ok(work())
        })
    }

    /// Starts a program in this namespace.
    pub fn spawn(&self, command: &mut Command) -> Result<Child, LabError> {
        let what = format!("starting {}", command.get_program().to_string_lossy());
        self.run(|| command.spawn())?.map_err(LabError::system(what))
    }

    /// Runs a program in this namespace to its end and returns what it printed.
    pub fn output(&self, command: &mut Command) -> Result<Output, LabError> {
        let what = format!("running {}", command.get_program().to_string_lossy());
        self.run(|| command.output())?.map_err(LabError::system(what))
    }

    /// A listening TCP socket in this namespace, not blocking, ready for `tokio::net::TcpListener::from_std`.
    pub fn tcp_listener(&self, address: SocketAddr) -> Result<TcpListener, LabError> {
        let make = || TcpListener::bind(address).and_then(|socket| socket.set_nonblocking(true).map(|()| socket));
        self.run(make)?.map_err(LabError::system(format!("listening on TCP {address}")))
    }

    /// A bound UDP socket in this namespace, not blocking, ready for `tokio::net::UdpSocket::from_std`.
    pub fn udp_socket(&self, address: SocketAddr) -> Result<UdpSocket, LabError> {
        let make = || UdpSocket::bind(address).and_then(|socket| socket.set_nonblocking(true).map(|()| socket));
        self.run(make)?.map_err(LabError::system(format!("binding UDP {address}")))
    }

    /// Sets a value under `/proc/sys/net`, for example `ipv4/ip_forward`. A file that this kernel lacks (IPv6 switched off) is
    /// passed over.
    pub fn set_sysctl(&self, name: &str, value: &str) -> Result<(), LabError> {
        let path = Path::new("/proc/sys/net").join(name);
        match self.run(|| fs::write(&path, value))? {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(LabError::System { what: format!("writing {value} to {}", path.display()), source: error })
            }
            _ => Ok(()),
        }
    }

    /// The number of the file descriptor, for netlink messages that name a namespace by it.
    pub(super) fn raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRef<Namespace> for Namespace {
    fn as_ref(&self) -> &Namespace {
        self
    }
}

fn on_thread<T: Send>(work: impl FnOnce() -> Result<T, LabError> + Send) -> Result<T, LabError> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().spawn_scoped(scope, work).map_err(LabError::system("starting a thread"))?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
