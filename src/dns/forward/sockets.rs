//! Sockets for questions over UDP, kept by the threads that receive: each question has another port, which the kernel draws (RFC 5452), but not another
//! socket. To open, register and close one costs more than to ask.

use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, connect_unspec, recv, send, socket_with,
};
use std::cell::RefCell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

/// More idle sockets than these, of each family, are closed.
const MAX_IDLE: usize = 64;
/// What has come late for the question before is a datagram or two. A socket with more than that is not used again.
const MAX_LATE: usize = 16;

thread_local! {
    static OWN: RefCell<Option<Arc<Sockets>>> = const { RefCell::new(None) };
}

/// The sockets of a thread, which waits for all of them.
pub(in crate::dns) struct Sockets {
    epoll: Arc<OwnedFd>,
    /// Their events have numbers from this one on.
    first: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    all: HashMap<u64, Arc<Socket>>,
    /// Of IPv4, and of IPv6.
    idle: [Vec<Arc<Socket>>; 2],
}

struct Socket {
    descriptor: OwnedFd,
    event: u64,
    waker: Mutex<Option<Waker>>,
}

impl Sockets {
    /// From now on questions of this thread are asked by such sockets, whose events come to this epoll with numbers from this one on.
    pub fn begin(epoll: Arc<OwnedFd>, first: u64) -> Arc<Sockets> {
        let sockets = Arc::new(Sockets { epoll, first, state: Mutex::default() });
        OWN.set(Some(sockets.clone()));
        sockets
    }

    /// Those of this thread, if it has any.
    pub(super) fn of_this_thread() -> Option<Arc<Sockets>> {
        OWN.with_borrow(Clone::clone)
    }

    /// Something has come: whoever waits for it goes on.
    pub fn readable(&self, event: u64) {
        let socket = self.state().all.get(&event).cloned();
        let waker = socket.and_then(|socket| lock(&socket.waker).take());
        waker.into_iter().for_each(Waker::wake);
    }

    /// A socket with a port that nobody can foresee, by which this server is asked and no other one is heard.
    pub(super) fn lend(self: &Arc<Sockets>, server: SocketAddr) -> io::Result<Lent> {
        let family = usize::from(server.is_ipv6());
        let idle = self.state().idle[family].pop();
        let socket = match idle {
            Some(socket) if socket.is_empty() => socket,
            Some(socket) => {
                self.state().all.remove(&socket.event);
                self.open(server)?
            }
            None => self.open(server)?,
        };
        let lent = Lent { sockets: self.clone(), family, socket, is_new: true };
        connect(&lent.socket.descriptor, &server)?;
        Ok(lent)
    }

    fn open(&self, server: SocketAddr) -> io::Result<Arc<Socket>> {
        let family = if server.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let descriptor = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
        let event = self.first + descriptor.as_raw_fd() as u64;
        epoll::add(&self.epoll, &descriptor, epoll::EventData::new_u64(event), epoll::EventFlags::IN | epoll::EventFlags::ET)?;
        let socket = Arc::new(Socket { descriptor, event, waker: Mutex::default() });
        self.state().all.insert(event, socket.clone());
        Ok(socket)
    }

    fn give_back(&self, socket: &Arc<Socket>, family: usize) {
        lock(&socket.waker).take();
        // Without its port nothing more arrives.
        let is_usable = connect_unspec(&socket.descriptor).is_ok();
        let mut state = self.state();
        if is_usable && state.idle[family].len() < MAX_IDLE {
            state.idle[family].push(socket.clone());
        } else {
            state.all.remove(&socket.event);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Socket {
    /// Takes away what has come late, so that nobody takes it for an answer to the next question. False where there is more than an honest server sends.
    fn is_empty(&self) -> bool {
        let mut late = [0; 1];
        (0..MAX_LATE).any(|_| recv(&self.descriptor, &mut late, RecvFlags::DONTWAIT).is_err_and(|error| error == Errno::AGAIN))
    }
}

/// A socket for one question.
pub(super) struct Lent {
    sockets: Arc<Sockets>,
    family: usize,
    socket: Arc<Socket>,
    /// Nobody has waited for anything yet.
    is_new: bool,
}

impl Lent {
    /// Asks the server.
    pub fn send(&self, bytes: &[u8]) -> io::Result<()> {
        send(&self.socket.descriptor, bytes, SendFlags::DONTWAIT)?;
        Ok(())
    }

    /// Waits for the next datagram from the server, and adds it to the buffer as far as it has room.
    pub async fn receive(&mut self, buffer: &mut Vec<u8>) -> io::Result<()> {
        poll_fn(|context| {
            // Before there is a look at the socket: what comes behind that wakes.
            *lock(&self.socket.waker) = Some(context.waker().clone());
            // What has come already, this thread will hear of.
            if std::mem::take(&mut self.is_new) {
                return Poll::Pending;
            }
            match recv(&self.socket.descriptor, spare_capacity(buffer), RecvFlags::DONTWAIT) {
                Err(Errno::AGAIN) => Poll::Pending,
                received => Poll::Ready(received.map(drop).map_err(io::Error::from)),
            }
        })
        .await
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.sockets.give_back(&self.socket, self.family);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use rustix::event::Timespec;
    use rustix::event::epoll::{CreateFlags, Event, EventData, EventFlags};
    use std::collections::HashSet;
    use std::net::UdpSocket;

    fn sockets() -> Arc<Sockets> {
        let epoll = Arc::new(epoll::create(CreateFlags::CLOEXEC).unwrap());
        Arc::new(Sockets { epoll, first: 7, state: Mutex::default() })
    }

    fn server() -> (UdpSocket, SocketAddr) {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        (server, address)
    }

    const PATIENCE: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };

    /// Waits for what comes next.
    fn heard(sockets: &Sockets, lent: &mut Lent) -> io::Result<Vec<u8>> {
        let mut buffer = Vec::with_capacity(100);
        loop {
            if let Some(received) = lent.receive(&mut buffer).now_or_never() {
                return received.map(|_| buffer);
            }
            let mut events = [Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; 8];
            let ready = epoll::wait(&sockets.epoll, &mut events[..], Some(&PATIENCE)).unwrap();
            assert!(ready > 0, "nothing comes");
            events[..ready].iter().for_each(|event| sockets.readable(event.data.u64()));
        }
    }

    #[test]
    fn a_socket_is_used_again_with_another_port() {
        let (sockets, (server, address)) = (sockets(), server());
        let mut ports = HashSet::new();
        for number in 0..100_u8 {
            let mut lent = sockets.lend(address).unwrap();
            lent.send(&[number]).unwrap();
            let client = server.recv_from(&mut [0; 8]).unwrap().1;
            ports.insert(client.port());
            server.send_to(&[number], client).unwrap();
            assert_eq!(heard(&sockets, &mut lent).unwrap(), [number]);
        }
        assert_eq!(sockets.state().all.len(), 1, "one socket was enough");
        // Of 28,000 a few may have been drawn twice.
        assert!(ports.len() > 95, "{}", ports.len());
    }

    #[test]
    fn what_comes_late_is_not_heard_by_the_next_question() {
        let (sockets, (server, address)) = (sockets(), server());
        for late in [1, MAX_LATE - 1, MAX_LATE + 5] {
            let mut first = sockets.lend(address).unwrap();
            first.send(b"first").unwrap();
            let client = server.recv_from(&mut [0; 8]).unwrap().1;
            (0..1 + late).for_each(|_| assert_eq!(server.send_to(b"late", client).unwrap(), 4));
            assert_eq!(heard(&sockets, &mut first).unwrap(), b"late");
            drop(first);
            let mut second = sockets.lend(address).unwrap();
            second.send(b"second").unwrap();
            let client = server.recv_from(&mut [0; 8]).unwrap().1;
            server.send_to(b"right", client).unwrap();
            assert_eq!(heard(&sockets, &mut second).unwrap(), b"right", "{late} were late");
        }
        assert_eq!(sockets.state().all.len(), 1, "those that are not used again are closed");
    }

    #[test]
    fn a_server_that_is_not_there_is_heard_of() {
        // No other test has a server at this address that could get the port.
        let server = UdpSocket::bind("127.0.0.77:0").unwrap();
        let (sockets, address) = (sockets(), server.local_addr().unwrap());
        drop(server);
        for _ in 0..3 {
            let mut lent = sockets.lend(address).unwrap();
            lent.send(b"anybody?").unwrap();
            assert_eq!(heard(&sockets, &mut lent).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        }
    }

    #[test]
    fn idle_sockets_have_a_bound() {
        let (sockets, (_server, address)) = (sockets(), server());
        let lent: Vec<_> = (0..MAX_IDLE + 10).map(|_| sockets.lend(address).unwrap()).collect();
        drop(lent);
        let state = sockets.state();
        assert_eq!((state.all.len(), state.idle[0].len()), (MAX_IDLE, MAX_IDLE));
    }
}
