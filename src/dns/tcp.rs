//! DNS over TCP: many questions on one connection, answered as their answers come, in any order (RFC 7766).
//!
//! Not hickory-server's, which cannot stop accepting without cutting the connections that it has: an agent that hands over to another one does
//! just that.

use super::guard::Guard;
use super::limits::LONGEST_QUESTION;
use super::pulse::{self, Pulse};
use super::respond::Responder;
use super::server::{Stop, told};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Notify, Semaphore, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, interval, sleep, timeout};
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

/// Accepts until told to stop, no more connections at a time than the guard says: one more ends the oldest, so that nobody can keep the others
/// out by holding all of them. Then it goes on until the last connection has ended: by itself when the server leaves, soon when it ends.
pub(super) async fn serve(
    listener: TcpListener,
    responder: Responder,
    guard: Arc<Guard>,
    stop: watch::Receiver<Stop>,
    pulse: Pulse,
) {
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
                    let conversation = converse(stream, client, responder.clone(), guard.clone(), stop.clone());
                    open.push_back(connections.spawn(conversation));
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
                        connections.spawn(converse(stream, client, responder.clone(), guard.clone(), stop.clone()));
                    }
                }
                break;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn converse(
    stream: TcpStream,
    client: SocketAddr,
    responder: Responder,
    guard: Arc<Guard>,
    mut stop: watch::Receiver<Stop>,
) {
    // An answer is one write: there is nothing to wait for before it is sent.
    let _ = stream.set_nodelay(true);
    let (mut from, to) = stream.into_split();
    let to = Arc::new(Mutex::new(Some(to)));
    let broken = Arc::new(Notify::new());
    let places = Arc::new(Semaphore::new(MAX_QUESTIONS));
    let (limits, unsent) = (responder.limits().clone(), Arc::new(AtomicUsize::new(0)));
    let mut answers = JoinSet::new();
    loop {
        let message = tokio::select! {
            message = next(&mut from, &mut stop, &mut answers, &guard) => match message {
                Ok(Some(message)) => message,
                Ok(None) => break,
                Err(error) => {
                    debug!(%client, %error, "a DNS connection broke");
                    break;
                }
            },
            // There is no way left for answers.
            () = broken.notified() => {
                answers.shutdown().await;
                break;
            }
        };
        // One question waits here, and the others where the client has them.
        let Ok(place) = places.clone().acquire_owned().await else { break };
        let Some(worked_on) = limits.tcp().await else { break };
        let (responder, to, broken, guard) = (responder.clone(), to.clone(), broken.clone(), guard.clone());
        let (limits, unsent) = (limits.clone(), unsent.clone());
        answers.spawn(async move {
            let _place = place;
            let Some(answer) = responder.answer_message(message, client).await else { return };
            drop(worked_on);
            let Some(_waits) = limits.waits(&unsent, answer.len()) else {
                debug!(%client, "a DNS connection ends: its client asks and does not take the answers");
                guard.unsent();
                return broken.notify_one();
            };
            if let Err(error) = send(&to, &answer).await {
                debug!(%client, %error, "the answer could not be sent");
                broken.notify_one();
            }
        });
    }
    while answers.join_next().await.is_some() {}
}

/// The next message; `None` when the client has said its last word, or nothing for too long, or is about to say more than any question is.
async fn next(
    from: &mut OwnedReadHalf,
    stop: &mut watch::Receiver<Stop>,
    answers: &mut JoinSet<()>,
    guard: &Guard,
) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 2];
    let mut read = 0;
    while read < length.len() {
        let ends = *stop.borrow() == Stop::Ends;
        let arrived = tokio::select! {
            arrived = from.read(&mut length[read..]) => arrived?,
            () = sleep(if ends { IDLE_AT_THE_END } else { IDLE }) => {
                if answers.is_empty() || ends {
                    return Ok(None);
                }
                continue;
            }
            // The time counts from the last answer.
            Some(_) = answers.join_next() => continue,
            _ = stop.wait_for(|stop| *stop == Stop::Ends), if !ends => continue,
        };
        if arrived == 0 {
            return Ok(None);
        }
        read += arrived;
    }
    let length = usize::from(u16::from_be_bytes(length));
    if length > LONGEST_QUESTION {
        guard.too_long(1);
        return Ok(None);
    }
    let mut message = vec![0; length];
    match timeout(IDLE, from.read_exact(&mut message)).await {
        Ok(done) => done.map(|_| Some(message)),
        Err(_) => Ok(None),
    }
}

/// Sends an answer, or takes the way away: after a part of an answer the next one would be taken for the rest of it.
async fn send(to: &Mutex<Option<OwnedWriteHalf>>, answer: &[u8]) -> io::Result<()> {
    let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
    let bytes = [&length.to_be_bytes(), answer].concat();
    let mut to = to.lock().await;
    let Some(stream) = to.as_mut() else { return Err(io::ErrorKind::BrokenPipe.into()) };
    let sent = timeout(IDLE, stream.write_all(&bytes)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    if sent.is_err() {
        *to = None;
    }
    sent
}
