//! The threads that receive questions over UDP, one for each core: many datagrams with one system call, and their answers with another.
//!
//! All threads read all sockets. So there is one queue for each address, whoever is free takes from it, and an agent that takes over finds in it
//! what this one has not received; with a socket for each thread (SO_REUSEPORT) clients would be tied to threads, ports would not be exclusive, and
//! it would not be faster (ARCHITECTURE.md has the figures). What the records or a cache can answer is answered on the spot (`fast/`), and so is
//! what else needs nobody to be waited for (`respond.rs`). The rest the thread has under way (`tasks.rs`) while it goes on receiving.

use super::at_once::{Counts, Message, answer_at_once};
use super::fast::Composer;
use super::forward::Sockets;
use super::guard::Guard;
use super::limits::LONGEST_QUESTION;
use super::metrics::Transport;
use super::pulse::{self, Pulse, Pulses};
use super::rate::Verdict;
use super::respond::Responder;
use super::server::{DRAIN, Stop};
use super::tasks::Tasks;
use futures::FutureExt;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg};
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::io::Errno;
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrAny, sendmmsg, sendto};
use std::array;
use std::convert::Infallible;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tracing::{debug, error, warn};

/// Datagrams that are received with one system call.
const BATCH: usize = 32;
/// Room for a question. A cache line more than that, so that the beginnings of all places do not compete for the same lines.
const PLACE: usize = LONGEST_QUESTION + 64;
/// More threads than these are not needed for any load that a node sees.
pub(super) const MOST_THREADS: usize = 8;
/// So many batches of one socket, then the others have their turn.
const TURN: usize = 16;
/// The event that wakes all threads.
const WAKE: u64 = u64::MAX;
/// That of work of this thread that goes on.
const BELL: u64 = WAKE - 1;
/// Those of upstream servers' answers are at least this; below are those of the sockets where questions come.
const ANSWERS: u64 = 1 << 32;
/// So many events are taken at a time.
const EVENTS: usize = 64;
/// So many questions under way are looked after until an answer is there, then those that arrive have their turn: thousands may wait for one
/// answer that is long.
const GOING_ON: usize = 32;
/// How often full send buffers are tried again until the thread comes round, and after how long.
const SEND_ATTEMPTS: usize = 50;
const SEND_PAUSE: Duration = Duration::from_millis(1);

/// A socket, and who answers what comes by it.
#[derive(Clone)]
pub(super) struct Port {
    pub socket: Arc<UdpSocket>,
    pub responder: Arc<Responder>,
    pub guard: Arc<Guard>,
}

/// The threads.
pub(super) struct Receivers {
    waker: Arc<OwnedFd>,
    /// Closed when all of them have ended.
    working: mpsc::Receiver<Infallible>,
}

impl Receivers {
    /// Starts to receive. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the system has no thread or descriptor left.
    pub fn start(ports: &[Port], stop: &watch::Sender<Stop>, pulses: &Pulses) -> io::Result<Receivers> {
        let waker = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (work, working) = mpsc::channel(1);
        let receivers = Receivers { waker, working };
        let threads = thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
        let epolls = (0..threads).map(|_| receivers.epoll(ports)).collect::<io::Result<Vec<_>>>()?;
        for (number, epoll) in epolls.into_iter().enumerate() {
            let (ports, waker) = (ports.to_vec(), receivers.waker.clone());
            let (stop, pulse) = (stop.subscribe(), pulses.join());
            let (runtime, work, tasks) = (Handle::current(), work.clone(), Tasks::new()?);
            epoll::add(&epoll, tasks.bell(), epoll::EventData::new_u64(BELL), epoll::EventFlags::IN | epoll::EventFlags::ET)?;
            // Made on its thread, to which the headers of its system calls are bound.
            let receive = move || {
                // What is asked elsewhere may need timers and connections of the runtime.
                let _inside = runtime.enter();
                let epoll = Arc::new(epoll);
                let sockets = Sockets::begin(epoll.clone(), ANSWERS);
                let ports = ports.into_iter().map(OfThread::new).collect();
                let (composer, inbox, attempts) = (Composer::new(rand::random()), Inbox::new(), SEND_ATTEMPTS);
                let desk = Desk { ports, epoll, waker, pulse, sockets, tasks, composer, inbox, attempts };
                desk.run(stop);
                // Last, so that who waits for the end finds the sockets closed.
                drop(work);
            };
            thread::Builder::new().name(format!("dns-{number}")).spawn(receive)?;
        }
        Ok(receivers)
    }

    /// After the threads have been told to stop: they look at what they are told.
    pub fn wake(&self) {
        if let Err(error) = rustix::io::write(&self.waker, &1_u64.to_ne_bytes()) {
            warn!(%error, "the threads that receive DNS questions could not be woken");
        }
    }

    /// Waits until all have stopped, and all answers under way are given.
    pub async fn ended(&mut self) {
        while self.working.recv().await.is_some() {}
    }

    fn epoll(&self, ports: &[Port]) -> io::Result<OwnedFd> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (index, port) in ports.iter().enumerate() {
            // Exclusive: a datagram wakes one thread and not all.
            let events = epoll::EventFlags::IN | epoll::EventFlags::EXCLUSIVE;
            epoll::add(&epoll, &port.socket, epoll::EventData::new_u64(index as u64), events)?;
        }
        epoll::add(&epoll, &self.waker, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)?;
        Ok(epoll)
    }
}

/// One thread.
struct Desk {
    ports: Vec<OfThread>,
    epoll: Arc<OwnedFd>,
    waker: Arc<OwnedFd>,
    pulse: Pulse,
    sockets: Arc<Sockets>,
    tasks: Tasks<Option<Vec<u8>>, Client>,
    composer: Composer,
    inbox: Inbox,
    /// How often full send buffers may still be tried again.
    attempts: usize,
}

/// What was received at once.
struct Received {
    datagrams: usize,
    /// Some of them needed more than what answers on the spot.
    took_long: bool,
}

/// Who waits for an answer, and by which socket it goes. The question has its place until then.
struct Client {
    port: usize,
    address: SocketAddr,
    _place: OwnedSemaphorePermit,
}

impl Desk {
    fn run(mut self, stop: watch::Receiver<Stop>) {
        let mut events = [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; EVENTS];
        // When it ends, with what is under way until then.
        let mut end = None;
        loop {
            self.pulse.beat();
            self.attempts = SEND_ATTEMPTS;
            for event in self.wait(&mut events) {
                match event.data.u64() {
                    WAKE => {
                        let told = *stop.borrow();
                        if told != Stop::Not {
                            let last = Instant::now() + DRAIN;
                            self.stop(told, last);
                            end = Some(last);
                        }
                    }
                    BELL => {}
                    event if event >= ANSWERS => self.sockets.readable(event),
                    index if end.is_none() => self.take_turn(index as usize),
                    _ => {}
                }
            }
            self.go_on();
            if end.is_some_and(|end| self.tasks.is_empty() || Instant::now() >= end) {
                return;
            }
        }
    }

    /// Waits until something happens, but comes round soon in any case.
    fn wait<'a>(&self, events: &'a mut [epoll::Event; EVENTS]) -> &'a [epoll::Event] {
        let patience = if self.tasks.may_sleep() { pulse::EVERY.subsec_nanos() } else { 0 };
        let waited = epoll::wait(&self.epoll, &mut events[..], Some(&Timespec { tv_sec: 0, tv_nsec: patience.into() }));
        self.tasks.awake();
        let ready = match waited {
            Ok(ready) => ready,
            Err(Errno::INTR) => 0,
            Err(error) => {
                rest(error.into());
                0
            }
        };
        &events[..ready]
    }

    /// Receives no more, after a last look where nobody else does.
    fn stop(&mut self, told: Stop, last: Instant) {
        for index in 0..self.ports.len() {
            while told == Stop::Ends
                && Instant::now() < last
                && self.take_batch(index).is_ok_and(|received| received.datagrams > 0)
            {
                self.go_on();
            }
        }
        let sockets = self.ports.iter().map(|port| port.port.socket.as_fd());
        for socket in sockets.chain([self.waker.as_fd()]) {
            if let Err(error) = epoll::delete(&self.epoll, socket) {
                warn!(%error, "a DNS socket could not be let go");
            }
        }
    }

    /// Looks after some of the questions under way that go on, and sends the answers that there are.
    fn go_on(&mut self) {
        for _ in 0..GOING_ON {
            let Some((answer, client)) = self.tasks.next_done() else { break };
            let OfThread { port, outbox, .. } = &mut self.ports[client.port];
            if outbox.is_full() {
                outbox.send(&port.socket, &mut self.attempts);
            }
            if let Some(answer) = answer {
                outbox.add(&answer, client.address);
            }
        }
        for OfThread { port, outbox, .. } in &mut self.ports {
            outbox.send(&port.socket, &mut self.attempts);
        }
    }

    /// Answers what has arrived at a socket, for a while.
    fn take_turn(&mut self, index: usize) {
        for _ in 0..TURN {
            match self.take_batch(index) {
                // What is under way waits for its turn as well, and a turn is meant for answers that take microseconds.
                Ok(Received { datagrams: BATCH, took_long: false }) if self.tasks.is_empty() => {}
                Ok(_) => return,
                Err(error) => return rest(error),
            }
        }
    }

    /// Receives and answers what one system call brings.
    fn take_batch(&mut self, index: usize) -> io::Result<Received> {
        let OfThread { port, headers, counts, outbox } = &mut self.ports[index];
        let received = self.inbox.receive(&port.socket, headers)?;
        let mut took_long = false;
        if received == 0 {
            return Ok(Received { datagrams: 0, took_long });
        }
        let mut before = Instant::now();
        let plan = port.responder.plan();
        let at_once = port.responder.at_once(&plan);
        let view = at_once.map(|at_once| port.responder.records().view_as(&at_once.shape, at_once.zone()));
        if let Some(at_once) = at_once {
            counts.are_for(at_once, &port.responder);
        }
        let mut too_long = received;
        for (datagram, client) in self.inbox.datagrams(received) {
            too_long -= 1;
            match port.guard.judge(client.ip(), before) {
                Verdict::Answer => {}
                Verdict::Silence => continue,
                Verdict::Truncate => {
                    if let Some(bytes) = self.composer.to_tcp(datagram) {
                        outbox.add(bytes, client);
                    }
                    continue;
                }
            }
            let composer = &mut self.composer;
            let asked = Message { bytes: datagram, over_tcp: false, now: before };
            let answer = answer_at_once(&port.responder, &plan, view.as_ref(), composer, counts, &asked);
            let Some((answer, tally)) = answer else {
                took_long = true;
                match port.responder.limits().udp() {
                    Some(place) => {
                        let answering = answered(port.responder.clone(), datagram.to_vec(), client).boxed();
                        let whose = Client { port: index, address: client, _place: place };
                        if let Some(Some(bytes)) = self.tasks.begin(answering, whose) {
                            outbox.add(&bytes, client);
                        }
                    }
                    None => {
                        port.guard.too_many(1);
                        if let Some(bytes) = self.composer.failure(datagram) {
                            outbox.add(bytes, client);
                        }
                    }
                }
                before = Instant::now();
                continue;
            };
            port.responder.top().note_datagram(datagram, client.ip());
            outbox.add(answer.bytes, client);
            let now = Instant::now();
            tally.note(&answer, datagram.len(), now - before);
            before = now;
        }
        drop(view);
        if too_long > 0 {
            port.guard.too_long(too_long);
        }
        outbox.send(&port.socket, &mut self.attempts);
        Ok(Received { datagrams: received, took_long })
    }
}

/// The answer of the other path. A bug in it must not take the thread, and with it a part of all questions.
async fn answered(responder: Arc<Responder>, datagram: Vec<u8>, client: SocketAddr) -> Option<Vec<u8>> {
    let answer = AssertUnwindSafe(responder.answer_datagram(datagram, client)).catch_unwind().await;
    answer.unwrap_or_else(|_| {
        responder.panicked();
        error!(%client, "answering a DNS question panicked: please report this with the lines above");
        None
    })
}

/// A failing socket must not take a whole core.
fn rest(error: io::Error) {
    warn!(%error, "receiving DNS questions failed");
    thread::sleep(Duration::from_millis(100));
}

/// What a thread has of a port of its own.
struct OfThread {
    port: Port,
    headers: Headers,
    counts: Counts,
    outbox: Outbox,
}

impl OfThread {
    fn new(port: Port) -> OfThread {
        let headers = MultiHeaders::preallocate(BATCH, None);
        OfThread { port, headers, counts: Counts::new(Transport::Udp), outbox: Outbox::new() }
    }
}

/// The kernel leaves the length of the last address in them, so that each family needs its own.
type Headers = MultiHeaders<SockaddrStorage>;

/// Received datagrams.
struct Inbox {
    questions: Vec<u8>,
    lengths: [usize; BATCH],
    clients: [Option<SocketAddr>; BATCH],
}

impl Inbox {
    fn new() -> Inbox {
        Inbox { questions: vec![0; BATCH * PLACE], lengths: [0; BATCH], clients: [None; BATCH] }
    }

    /// Receives what is there. Questions that are too long have no client.
    fn receive(&mut self, socket: &UdpSocket, headers: &mut Headers) -> io::Result<usize> {
        let mut places = self.questions.chunks_exact_mut(PLACE);
        let mut places: [_; BATCH] =
            array::from_fn(|_| [IoSliceMut::new(places.next().map_or(&mut [], |place| &mut place[..LONGEST_QUESTION]))]);
        let datagrams = match recvmmsg(socket.as_raw_fd(), headers, places.iter_mut(), MsgFlags::MSG_DONTWAIT, None) {
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => return Ok(0),
            received => received?,
        };
        let mut received = 0;
        for datagram in datagrams {
            let is_whole = !datagram.flags.contains(MsgFlags::MSG_TRUNC);
            self.lengths[received] = datagram.bytes;
            self.clients[received] = datagram.address.as_ref().filter(|_| is_whole).and_then(socket_address);
            received += 1;
        }
        Ok(received)
    }

    /// The datagrams that were received last, with their clients.
    fn datagrams(&self, received: usize) -> impl Iterator<Item = (&[u8], SocketAddr)> {
        let places = self.questions.chunks_exact(PLACE).zip(self.lengths).zip(self.clients).take(received);
        places.filter_map(|((place, length), client)| Some((place.get(..length)?, client?)))
    }
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
        (Some(v4), _) => Some(SocketAddr::from((v4.ip(), v4.port()))),
        (_, Some(v6)) => Some(SocketAddrV6::new(v6.ip(), v6.port(), v6.flowinfo(), v6.scope_id()).into()),
        _ => None,
    }
}

/// Answers to be sent.
struct Outbox {
    /// One behind the other.
    bytes: Vec<u8>,
    ends: [usize; BATCH],
    clients: [SocketAddrAny; BATCH],
    count: usize,
}

impl Outbox {
    fn new() -> Outbox {
        let nobody = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        Outbox { bytes: Vec::new(), ends: [0; BATCH], clients: array::from_fn(|_| nobody.into()), count: 0 }
    }

    /// At most as many as one batch.
    fn add(&mut self, answer: &[u8], client: SocketAddr) {
        self.bytes.extend_from_slice(answer);
        self.ends[self.count] = self.bytes.len();
        self.clients[self.count] = client.into();
        self.count += 1;
    }

    fn is_full(&self) -> bool {
        self.count == BATCH
    }

    /// Sends all. What the socket does not take for a while is lost, and so is what the kernel refuses to send to its client.
    fn send(&mut self, socket: &UdpSocket, attempts: &mut usize) {
        let mut sent = 0;
        while sent < self.count {
            match self.send_some(socket, sent) {
                Ok(some) => sent += some,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if *attempts > 0 => {
                    *attempts -= 1;
                    thread::sleep(SEND_PAUSE);
                }
                Err(error) => {
                    debug!(%error, "an answer could not be sent");
                    sent += 1;
                }
            }
        }
        self.count = 0;
        self.bytes.clear();
    }

    fn send_some(&self, socket: &UdpSocket, first: usize) -> Result<usize, Errno> {
        let begins = |index: usize| index.checked_sub(1).map_or(0, |before| self.ends[before]);
        let answer = |index: usize| if index < self.count { &self.bytes[begins(index)..self.ends[index]] } else { &[] };
        if first + 1 == self.count {
            return sendto(socket, answer(first), SendFlags::DONTWAIT, &self.clients[first]).map(|_| 1);
        }
        let slices: [_; BATCH] = array::from_fn(|index| [IoSlice::new(answer(index))]);
        let mut controls: [_; BATCH] = array::from_fn(|_| SendAncillaryBuffer::default());
        let mut controls = controls.iter_mut();
        let mut messages = array::from_fn::<_, BATCH, _>(|index| {
            let control = controls.next().expect("there are as many as messages");
            MMsgHdr::new_with_addr(&self.clients[index], &slices[index], control)
        });
        sendmmsg(socket, &mut messages[first..self.count], SendFlags::DONTWAIT)
    }
}
