//! One upstream server: its health, and its connections.

use super::exchange::{over_tcp, over_udp};
use crate::dns::metrics::Metrics;
use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

/// An idle connection is used again for this long (CoreDNS's `expire`).
const EXPIRE: Duration = Duration::from_secs(10);
/// More idle connections than these are closed.
const MAX_IDLE: usize = 16;
/// How often a server is checked that has failed a question (CoreDNS's `health_check`).
const CHECK_EVERY: Duration = Duration::from_millis(500);
/// How long a check may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// A server.
#[derive(Debug)]
pub(super) struct Server {
    /// Where it is.
    pub address: SocketAddr,
    /// Failed checks in a row.
    fails: AtomicU32,
    /// A question has failed, and no check has succeeded since.
    checking: AtomicBool,
    idle: Mutex<Vec<(TcpStream, Instant)>>,
}

impl Server {
    pub fn new(address: SocketAddr) -> Server {
        Server { address, fails: AtomicU32::new(0), checking: AtomicBool::new(false), idle: Mutex::default() }
    }

    /// Whether more checks in a row have failed than that.
    pub fn is_down(&self, max_fails: u32) -> bool {
        max_fails > 0 && self.fails.load(Ordering::Relaxed) > max_fails
    }

    /// Whether a question has failed, and it is not known yet whether the next one would.
    pub fn is_suspect(&self) -> bool {
        self.checking.load(Ordering::Relaxed)
    }

    /// Asks for a sign of life until there is one: nobody is checked who answers what clients ask.
    pub fn check(self: &Arc<Server>, metrics: &Arc<Metrics>) {
        if self.checking.swap(true, Ordering::Relaxed) {
            return;
        }
        // A server that is no longer configured is let go.
        let (server, metrics) = (Arc::downgrade(self), metrics.clone());
        tokio::spawn(async move {
            while let Some(server) = server.upgrade() {
                let mut question = Message::query();
                question.metadata.recursion_desired = true;
                question.add_query(Query::query(Name::root(), RecordType::NS));
                if matches!(timeout(CHECK_TIMEOUT, server.exchange(&question, false, &metrics)).await, Ok(Ok(_))) {
                    server.answered();
                    return;
                }
                server.fails.fetch_add(1, Ordering::Relaxed);
                metrics.health_check_failed(server.address);
                drop(server);
                sleep(CHECK_EVERY).await;
            }
        });
    }

    /// It has answered, whatever.
    fn answered(&self) {
        self.fails.store(0, Ordering::Relaxed);
        self.checking.store(false, Ordering::Relaxed);
    }

    /// One question: by UDP, and by TCP where the answer was cut or nothing else is wanted. If TCP fails the cut answer is better than none.
    pub async fn exchange(&self, message: &Message, only_tcp: bool, metrics: &Metrics) -> io::Result<Message> {
        let mut message = message.clone();
        message.metadata.id = rand::random();
        let bytes = message.to_vec().map_err(io::Error::other)?;
        if only_tcp {
            return self.by_tcp(&message, &bytes, metrics).await;
        }
        let answer = over_udp(self.address, &message, &bytes).await?;
        if !answer.metadata.truncation {
            return Ok(answer);
        }
        Ok(self.by_tcp(&message, &bytes, metrics).await.unwrap_or(answer))
    }

    async fn by_tcp(&self, message: &Message, bytes: &[u8], metrics: &Metrics) -> io::Result<Message> {
        while let Some(mut stream) = self.idle_connection() {
            metrics.connection_used(self.address, true);
            // The server may have closed it meanwhile: that says nothing about a new one.
            if let Ok(answer) = over_tcp(&mut stream, message, bytes).await {
                self.keep(stream);
                return Ok(answer);
            }
        }
        metrics.connection_used(self.address, false);
        let mut stream = TcpStream::connect(self.address).await?;
        let answer = over_tcp(&mut stream, message, bytes).await?;
        self.keep(stream);
        Ok(answer)
    }

    /// The connection that was used last, so that the others can expire.
    fn idle_connection(&self) -> Option<TcpStream> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(_, since)| since.elapsed() < EXPIRE);
        idle.pop().map(|(stream, _)| stream)
    }

    fn keep(&self, stream: TcpStream) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE {
            idle.push((stream, Instant::now()));
        }
    }
}
