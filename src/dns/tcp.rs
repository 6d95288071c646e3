//! DNS over TCP: many questions on one connection, answered as their answers come, in any order (RFC 7766).
//!
//! What has arrived on a connection is read with one system call, what the records or a cache can answer of it is answered on the spot (`fast/`), and the
//! answers go out together. The rest is a task for each question.
//!
//! Not hickory-server's, which cannot stop accepting without cutting the connections that it has: an agent that hands over to another one does
//! just that.

use super::at_once::{Counts, Message, answer_at_once};
use super::fast::Composer;
use super::guard::Guard;
use super::limits::{LONGEST_QUESTION, Limits, Unsent};
use super::metrics::Transport;
use super::pulse::{self, Pulse};
use super::receive::MOST_THREADS;
use super::respond::Responder;
use super::server::{Stop, told};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::task::{Poll, ready};
use std::thread;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{AbortHandle, JoinHandle, JoinSet, yield_now};
use tokio::time::{Instant, interval, sleep, sleep_until, timeout};
use tracing::{debug, warn};

/// A connection without a question is closed after this time (CoreDNS's value). One that does not take its answer gets no longer either.
const IDLE: Duration = Duration::from_secs(10);
/// The same at the end of the server: a client that asks one question after the other has asked again by then.
const IDLE_AT_THE_END: Duration = Duration::from_millis(500);
/// At the end of the server a pause as long as this means that no connection is being made any more.
const LAST_CONNECTION: Duration = Duration::from_millis(50);
/// And where clients do not know yet that it ends, this is when it does.
const ACCEPTS_AT_THE_END: Duration = Duration::from_millis(500);
/// Questions of one connection that are worked on at a time; the others wait in the connection.
const MAX_QUESTIONS: usize = 32;
/// So many bytes of questions are read at a time.
const PIECE: usize = 4096;
/// When the answers that are there are longer than this they are sent.
const ENOUGH: usize = 16 << 10;
/// After answers of more than this the other connections have their turn: reading and writing at once never waits by itself.
const TURN: usize = 1 << 10;
/// In front of each message stands its length.
const LENGTH: usize = 2;

/// Accepts until told to stop, no more connections at a time than the guard says: one more ends the oldest, so that nobody can keep the others
/// out by holding all of them. Then it goes on until the last connection has ended: by itself when the server leaves, soon when it ends.
pub(super) async fn serve(
    listener: TcpListener,
    responder: Arc<Responder>,
    guard: Arc<Guard>,
    stop: watch::Receiver<Stop>,
    pulse: Pulse,
) {
    let clerks = Arc::new(Clerks::new());
    let mut idle = interval(pulse::EVERY);
    let mut stopping = stop.clone();
    let mut connections = JoinSet::new();
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        pulse.beat();
        tokio::select! {
            _ = idle.tick() => {}
            accepted = listener.accept() => match accepted {
                Ok((_, client)) if !guard.admits(client.ip()) => {}
                Ok((stream, client)) => {
                    if open.len() >= guard.connections() && let Some(oldest) = open.pop_front() {
                        oldest.abort();
                    }
                    let conversation = Conversation::new(stream, client, &responder, &guard, &clerks);
                    open.push_back(connections.spawn(conversation.hold(stop.clone())));
                }
                Err(error) => {
                    warn!(%error, "accepting a DNS connection failed");
                    // Out of descriptors, mostly: without a pause this would spin.
                    sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => open.retain(|connection| !connection.is_finished()),
            told = told(&mut stopping) => {
                // To close the listener would reset those that wait to be accepted, or are being made.
                let deadline = Instant::now() + ACCEPTS_AT_THE_END;
                while told == Stop::Ends
                    && Instant::now() < deadline
                    && let Ok(Ok((stream, client))) = timeout(LAST_CONNECTION, listener.accept()).await
                {
                    if guard.admits(client.ip()) {
                        let conversation = Conversation::new(stream, client, &responder, &guard, &clerks);
                        connections.spawn(conversation.hold(stop.clone()));
                    }
                }
                break;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Who answers at once, for all connections of an address: one for each thread that may be at it.
struct Clerks(Box<[std::sync::Mutex<Clerk>]>);

struct Clerk {
    composer: Composer,
    counts: Counts,
}

/// What comes next on a connection, when what could be answered at once is.
enum Next {
    /// There is no whole question.
    Read,
    /// The answers are long enough to be sent.
    Send,
    /// This question needs more than what is in memory.
    Later(Vec<u8>),
    /// More is about to be said than any question has.
    TooLong,
}

impl Clerks {
    fn new() -> Clerks {
        let clerk = || Clerk { composer: Composer::new(rand::random()), counts: Counts::new(Transport::Tcp) };
        let threads = thread::available_parallelism().map_or(1, usize::from);
        Clerks((0..threads.min(MOST_THREADS)).map(|_| clerk().into()).collect())
    }

    /// One that has nothing to do, or the first one, in a moment.
    fn any(&self) -> MutexGuard<'_, Clerk> {
        let free = self.0.iter().find_map(|clerk| match clerk.try_lock() {
            Ok(clerk) => Some(clerk),
            Err(TryLockError::Poisoned(clerk)) => Some(clerk.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        });
        free.unwrap_or_else(|| self.0[0].lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Clerk {
    /// Answers what is there, up to the first question that needs more than what is in memory.
    fn answer(&mut self, inbox: &mut Inbox, client: SocketAddr, responder: &Responder, answers: &mut Vec<u8>) -> Next {
        let plan = responder.plan();
        let at_once = responder.at_once(&plan);
        let view = at_once.map(|at_once| responder.records().view_as(&at_once.shape, at_once.zone()));
        if let Some(at_once) = at_once {
            self.counts.are_for(at_once, responder);
        }
        let mut before = std::time::Instant::now();
        loop {
            let message = match inbox.next() {
                Ok(Some(message)) => message,
                Ok(None) => return Next::Read,
                Err(TooLong) => return Next::TooLong,
            };
            let asked = Message { bytes: message, over_tcp: true, now: before };
            let answer = answer_at_once(responder, &plan, view.as_ref(), &mut self.composer, &mut self.counts, &asked);
            let Some((answer, tally)) = answer else { return Next::Later(message.to_vec()) };
            responder.top().note_datagram(message, client.ip());
            answers.extend_from_slice(&(answer.bytes.len() as u16).to_be_bytes());
            answers.extend_from_slice(answer.bytes);
            let now = std::time::Instant::now();
            tally.note(&answer, message.len(), now - before);
            before = now;
            if answers.len() >= ENOUGH {
                return Next::Send;
            }
        }
    }
}

/// One client's connection.
struct Conversation {
    client: SocketAddr,
    responder: Arc<Responder>,
    guard: Arc<Guard>,
    clerks: Arc<Clerks>,
    inbox: Inbox,
    outbox: Outbox,
    places: Arc<Semaphore>,
    /// Answers that are being made or sent.
    answers: JoinSet<()>,
}

impl Conversation {
    fn new(
        stream: TcpStream,
        client: SocketAddr,
        responder: &Arc<Responder>,
        guard: &Arc<Guard>,
        clerks: &Arc<Clerks>,
    ) -> Conversation {
        // Answers that are there are one write: there is nothing to wait for before it is sent.
        let _ = stream.set_nodelay(true);
        let (from, to) = stream.into_split();
        let outbox = Outbox {
            client,
            guard: guard.clone(),
            limits: responder.limits().clone(),
            unsent: Arc::default(),
            way: Arc::new(Mutex::new(Some(to))),
            broken: Arc::default(),
            idle: IDLE,
        };
        Conversation {
            client,
            responder: responder.clone(),
            guard: guard.clone(),
            clerks: clerks.clone(),
            inbox: Inbox { from, bytes: Vec::new(), begin: 0, part_since: None },
            outbox,
            places: Arc::new(Semaphore::new(MAX_QUESTIONS)),
            answers: JoinSet::new(),
        }
    }

    /// Answers until the client has said its last word, or has to go.
    async fn hold(mut self, mut stop: watch::Receiver<Stop>) {
        loop {
            let mut answers = Vec::new();
            let next = self.clerks.any().answer(&mut self.inbox, self.client, &self.responder, &mut answers);
            let long = answers.len() > TURN;
            if !answers.is_empty() && !self.send(answers).await {
                break;
            }
            if long {
                yield_now().await;
            }
            let goes_on = match next {
                Next::Send => true,
                Next::Read => self.read(&mut stop).await,
                Next::Later(message) => self.answer_later(message).await,
                Next::TooLong => {
                    self.guard.too_long(1);
                    false
                }
            };
            if !goes_on {
                break;
            }
        }
        while self.answers.join_next().await.is_some() {}
    }

    /// Waits for more. False when the client has said its last word, or nothing for too long, or when no answer can be sent any more.
    async fn read(&mut self, stop: &mut watch::Receiver<Stop>) -> bool {
        let mut since = Instant::now();
        loop {
            let ends = *stop.borrow() == Stop::Ends;
            let idle = if ends { IDLE_AT_THE_END } else { self.outbox.idle };
            // Who is in the middle of a question has this long for the rest of it.
            let part_since = self.inbox.part_since();
            tokio::select! {
                received = self.inbox.receive() => match received {
                    Ok(0) => return false,
                    Ok(_) => return true,
                    Err(error) => {
                        debug!(client = %self.client, %error, "a DNS connection broke");
                        return false;
                    }
                },
                () = sleep_until(part_since.unwrap_or(since) + idle) => {
                    if self.answers.is_empty() || ends || part_since.is_some() {
                        return false;
                    }
                    since = Instant::now();
                }
                // The time counts from the last answer.
                Some(_) = self.answers.join_next() => since = Instant::now(),
                _ = stop.wait_for(|stop| *stop == Stop::Ends), if !ends => since = Instant::now(),
                () = self.outbox.broken.notified() => break,
            }
        }
        self.answers.shutdown().await;
        false
    }

    /// Sends answers, at once as far as the client takes them. False when the connection has to end.
    async fn send(&mut self, mut bytes: Vec<u8>) -> bool {
        let Some(unsent) = self.outbox.admit(bytes.len()) else {
            self.answers.shutdown().await;
            return false;
        };
        let outbox = self.outbox.clone();
        let Ok(mut way) = outbox.way.clone().try_lock_owned() else {
            // Behind another answer, which the client does not take as fast as it asks.
            let Ok(place) = self.places.clone().acquire_owned().await else { return false };
            bytes.shrink_to_fit();
            self.by_and_by(async move {
                outbox.send(&bytes).await;
                drop((unsent, place));
            });
            return true;
        };
        let sent = match way.as_ref().map(|stream| stream.try_write(&bytes)) {
            Some(Ok(sent)) => sent,
            Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Some(Err(_)) | None => return false,
        };
        if sent < bytes.len() {
            let rest = bytes.split_off(sent);
            self.by_and_by(async move {
                outbox.write(&mut way, &rest).await;
                drop(unsent);
            });
        }
        true
    }

    /// Answers a question that needs more than what is in memory, by and by. False when the connection has to end.
    async fn answer_later(&mut self, message: Vec<u8>) -> bool {
        // One question waits here, and the others where the client has them.
        let Ok(place) = self.places.clone().acquire_owned().await else { return false };
        let Some(worked_on) = self.outbox.limits.tcp().await else { return false };
        let outbox = self.outbox.clone();
        let mut answering = Answering::begin(self.responder.clone(), message, self.client, worked_on);
        self.by_and_by(async move {
            let _place = place;
            let Ok(Some(answer)) = (&mut answering.task).await else { return };
            let Ok(length) = u16::try_from(answer.len()) else { return };
            let bytes = [&length.to_be_bytes(), answer.as_slice()].concat();
            drop(answer);
            if let Some(_unsent) = outbox.admit(bytes.len()) {
                outbox.send(&bytes).await;
            }
        });
        true
    }

    /// Has this done besides. What has been done goes first: while questions come without a pause nobody else lets go of it.
    fn by_and_by(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        while self.answers.try_join_next().is_some() {}
        self.answers.spawn(work);
    }
}

/// A question that is worked on. When its connection is cut it goes on, as over UDP, because what another server says is kept for others; but not
/// for more than a few clients that have gone.
struct Answering {
    task: JoinHandle<Option<Vec<u8>>>,
    limits: Arc<Limits>,
    /// What it has a place by then, until it ends.
    orphan: Arc<OnceLock<OwnedSemaphorePermit>>,
}

impl Answering {
    fn begin(responder: Arc<Responder>, message: Vec<u8>, client: SocketAddr, place: OwnedSemaphorePermit) -> Answering {
        let (limits, orphan) = (responder.limits().clone(), Arc::new(OnceLock::new()));
        let held = orphan.clone();
        let task = tokio::spawn(async move {
            let answer = responder.answer_message(message, client).await;
            drop((place, held));
            answer
        });
        Answering { task, limits, orphan }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        if self.task.is_finished() {
            return;
        }
        match self.limits.orphan() {
            Some(place) => drop(self.orphan.set(place)),
            None => self.task.abort(),
        }
    }
}

/// What comes in on a connection.
struct Inbox {
    from: OwnedReadHalf,
    /// What was received; what stands before `begin` is done with.
    bytes: Vec<u8>,
    begin: usize,
    part_since: Option<Instant>,
}

/// More is about to be said than any question has.
struct TooLong;

impl Inbox {
    /// The next message that is there as a whole.
    fn next(&mut self) -> Result<Option<&[u8]>, TooLong> {
        let rest = &self.bytes[self.begin..];
        let Some((length, rest)) = rest.split_first_chunk::<LENGTH>() else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes(*length));
        if length > LONGEST_QUESTION {
            return Err(TooLong);
        }
        let message = rest.get(..length);
        if message.is_some() {
            self.begin += LENGTH + length;
            self.part_since = None;
        }
        Ok(message)
    }

    /// Since when a part of a message is there and not the rest of it, as far as somebody has asked.
    fn part_since(&mut self) -> Option<Instant> {
        let has_part = self.begin < self.bytes.len();
        has_part.then(|| *self.part_since.get_or_insert_with(Instant::now))
    }

    /// Receives more, and says how much. Nobody who waits needs memory for it.
    async fn receive(&mut self) -> io::Result<usize> {
        self.bytes.drain(..std::mem::take(&mut self.begin));
        if self.bytes.is_empty() {
            self.bytes = Vec::new();
        }
        poll_fn(|context| {
            let mut piece = [0; PIECE];
            let mut piece = ReadBuf::new(&mut piece);
            ready!(Pin::new(&mut self.from).poll_read(context, &mut piece))?;
            self.bytes.extend_from_slice(piece.filled());
            Poll::Ready(Ok(piece.filled().len()))
        })
        .await
    }
}

/// Where the answers of a connection go.
#[derive(Clone)]
struct Outbox {
    client: SocketAddr,
    guard: Arc<Guard>,
    limits: Arc<Limits>,
    /// Bytes of answers that wait to be taken.
    unsent: Arc<AtomicUsize>,
    /// The sending half; `None` when nothing can be sent any more.
    way: Arc<Mutex<Option<OwnedWriteHalf>>>,
    /// Told when there is no way left.
    broken: Arc<Notify>,
    /// How long the client may say nothing, or take nothing of an answer.
    idle: Duration,
}

impl Outbox {
    /// Room for answers of so many bytes until they are sent. Without it the connection has to end.
    fn admit(&self, bytes: usize) -> Option<Unsent> {
        let unsent = self.limits.waits(&self.unsent, bytes);
        if unsent.is_none() {
            debug!(client = %self.client, "a DNS connection ends: its client asks and does not take the answers");
            self.guard.unsent();
            self.broken.notify_one();
        }
        unsent
    }

    async fn send(&self, bytes: &[u8]) {
        let mut way = self.way.lock().await;
        self.write(&mut way, bytes).await;
    }

    /// Sends, or takes the way away: after a part of an answer the next one would be taken for the rest of it.
    async fn write(&self, way: &mut Option<OwnedWriteHalf>, bytes: &[u8]) {
        let Some(stream) = way.as_mut() else { return };
        let sent = timeout(self.idle, stream.write_all(bytes)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        if let Err(error) = sent {
            debug!(client = %self.client, %error, "the answer could not be sent");
            *way = None;
            self.broken.notify_one();
        }
    }
}

#[cfg(test)]
#[path = "tcp_tests.rs"]
mod tests;
