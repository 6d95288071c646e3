//! One upstream server: its health, and its connections.

use super::exchange::{Sent, over_stream, over_udp};
use super::loops::Care;
use super::tls::Tls;
use crate::config::{ForwardConfig, NameServer, Over};
use crate::dns::metrics::{Metrics, Transport};
use hickory_proto::op::{Message, Query};
use hickory_proto::rr::RecordType;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::client::TlsStream;
use tracing::{info, warn};

/// More idle connections than these are closed.
const MAX_IDLE: usize = 16;
/// How long a check may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);
/// How often a server that leads back to us is asked whether it still does.
const LOOK_FOR_LOOP_EVERY: Duration = Duration::from_secs(10);
/// After this long without an answer over UDP the question is asked over TCP as well, and the other way round: some networks let nothing else through.
const PATIENCE: Duration = Duration::from_secs(1);
/// So many of these may be under way, so that a dead server costs few sockets.
const TCP_INSTEAD: usize = 16;
/// A server that answers over TCP only is asked so at once for this long.
const TCP_FIRST: Duration = Duration::from_secs(60);

/// How a question goes to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Over UDP; over TCP where the answer was cut or there is none.
    Udp,
    /// Over TCP, as the client came; over UDP where nobody answers so.
    Tcp,
    /// Over TCP and nothing else.
    TcpAlone,
}

impl Way {
    /// CoreDNS's choice for a client that came so (`force_tcp`, `prefer_udp`, and otherwise the client's own transport).
    pub fn of(config: &ForwardConfig, client: Transport) -> Way {
        match (config.only_tcp, client) {
            (true, _) => Way::TcpAlone,
            (false, Transport::Tcp) if !config.prefer_udp => Way::Tcp,
            (false, _) => Way::Udp,
        }
    }

    /// That of questions that no client has asked.
    pub fn of_checks(config: &ForwardConfig) -> Way {
        Way::of(config, Transport::Udp)
    }
}

/// A server.
#[derive(Debug)]
pub(super) struct Server {
    /// Where it is.
    pub address: SocketAddr,
    /// The same as a label of metrics.
    pub label: String,
    /// Failed checks in a row.
    fails: AtomicU32,
    /// A question has failed, and no check has succeeded since.
    checking: AtomicBool,
    /// Whether a loop was looked for.
    looked: AtomicBool,
    /// Whether it leads back to us.
    is_loop: watch::Sender<bool>,
    /// An idle connection is used again for this long.
    expire: Duration,
    idle: Mutex<Vec<(Connection, Instant)>>,
    over: Over,
    tls: Option<Tls>,
    /// What was wrong with TLS the last time; said once.
    tls_failed: AtomicBool,
    tcp_instead: Semaphore,
    /// Since when it is known to answer over TCP only.
    tcp_first: Mutex<Option<Instant>>,
    /// They show whether it leads back.
    metrics: Arc<Metrics>,
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.is_loop() {
            self.metrics.upstream_leads_back(self.address, false);
        }
    }
}

impl Server {
    pub fn new(server: NameServer, tls: Option<Tls>, expire: Duration, metrics: Arc<Metrics>) -> Server {
        Server {
            address: server.address,
            label: server.address.to_string(),
            over: server.over,
            tls,
            tls_failed: AtomicBool::new(false),
            fails: AtomicU32::new(0),
            checking: AtomicBool::new(false),
            looked: AtomicBool::new(false),
            is_loop: watch::Sender::new(false),
            expire,
            idle: Mutex::default(),
            tcp_instead: Semaphore::new(TCP_INSTEAD),
            tcp_first: Mutex::default(),
            metrics,
        }
    }

    /// As it is configured.
    pub fn configured(&self) -> NameServer {
        NameServer { address: self.address, over: self.over.clone() }
    }

    /// Whether more checks in a row have failed than that.
    pub fn is_down(&self, max_fails: u32) -> bool {
        max_fails > 0 && self.fails.load(Ordering::Relaxed) > max_fails
    }

    /// Whether a question has failed, and it is not known yet whether the next one would.
    pub fn is_suspect(&self) -> bool {
        self.checking.load(Ordering::Relaxed)
    }

    /// Whether it leads back to us.
    pub fn is_loop(&self) -> bool {
        *self.is_loop.borrow()
    }

    /// Waits until it turns out to lead back to us.
    pub async fn turns_out_a_loop(&self) {
        // The sender lives as long as the server.
        let _ = self.is_loop.subscribe().wait_for(|is_loop| *is_loop).await;
    }

    /// Looks whether it leads back to us, once.
    pub fn look_for_loop(self: &Arc<Server>, care: &Care) {
        if self.looked.swap(true, Ordering::Relaxed) {
            return;
        }
        let (server, care) = (Arc::downgrade(self), care.clone());
        tokio::spawn(async move {
            if let Some(server) = server.upgrade()
                && care.leads_back(&server).await
            {
                server.check(&care);
            }
        });
    }

    /// Asks for a sign of life until there is one: nobody is checked who answers what clients ask. What leads back to us is no life.
    pub fn check(self: &Arc<Server>, care: &Care) {
        if self.checking.swap(true, Ordering::Relaxed) {
            return;
        }
        // A server that is no longer configured is let go.
        let (server, care) = (Arc::downgrade(self), care.clone());
        tokio::spawn(async move {
            while let Some(server) = server.upgrade() {
                let (is_loop, is_alive) = tokio::join!(care.leads_back(&server), server.is_alive(&care));
                server.note_loop(is_loop);
                if is_alive && !is_loop {
                    server.answered();
                    return;
                }
                drop(server);
                sleep(if is_loop { LOOK_FOR_LOOP_EVERY } else { care.config.check_every }).await;
            }
        });
    }

    async fn is_alive(&self, care: &Care) -> bool {
        let mut question = Message::query();
        question.metadata.recursion_desired = care.config.check_recursion;
        question.add_query(Query::query(super::name(&care.config.check_name), RecordType::NS));
        if matches!(
            timeout(CHECK_TIMEOUT, self.exchange(&question, Way::of_checks(&care.config), &care.metrics)).await,
            Ok(Ok(_))
        ) {
            return true;
        }
        self.fails.fetch_add(1, Ordering::Relaxed);
        care.metrics.health_check_failed(self.address);
        false
    }

    fn note_loop(&self, is_loop: bool) {
        let changed = self.is_loop.send_if_modified(|before| std::mem::replace(before, is_loop) != is_loop);
        match is_loop {
            _ if !changed => return,
            true => warn!(
                server = %self.address,
                "this upstream DNS server asks us what we ask it: it is left out until it does so no more; look at its forwarders, and at \
                 --dns-upstream or the resolv.conf in use"
            ),
            false => info!(server = %self.address, "this upstream DNS server asks us no more: it is asked again"),
        }
        self.metrics.upstream_leads_back(self.address, is_loop);
    }

    /// It has answered, whatever.
    fn answered(&self) {
        self.fails.store(0, Ordering::Relaxed);
        self.checking.store(false, Ordering::Relaxed);
    }

    /// One question: by UDP, and by TCP where the answer was cut, where there is none, or where that is wanted. If TCP fails the cut answer is better
    /// than none.
    pub async fn exchange(&self, message: &Message, way: Way, metrics: &Metrics) -> io::Result<Message> {
        let sent = Sent::new(message)?;
        if way == Way::TcpAlone || self.over != Over::Plain {
            return self.by_connection(&sent, metrics).await;
        }
        if way == Way::Tcp {
            return self.by_tcp_first(&sent, metrics).await;
        }
        if self.is_tcp_first()
            && let Ok(answer) = self.by_connection(&sent, metrics).await
        {
            return Ok(answer);
        }
        let by_udp = over_udp(self.address, &sent);
        tokio::pin!(by_udp);
        tokio::select! {
            answer = &mut by_udp => match answer {
                Ok(answer) if !answer.metadata.truncation => Ok(answer),
                Ok(cut) => Ok(self.by_connection(&sent, metrics).await.unwrap_or(cut)),
                Err(error) => self.by_tcp_instead(&sent, metrics).await.ok_or(error),
            },
            Some(answer) = async { sleep(PATIENCE).await; self.by_tcp_instead(&sent, metrics).await } => Ok(answer),
        }
    }

    /// Over TCP, and over UDP where that fails or takes long: some networks let no TCP through.
    async fn by_tcp_first(&self, sent: &Sent<'_>, metrics: &Metrics) -> io::Result<Message> {
        let by_tcp = self.by_connection(sent, metrics);
        tokio::pin!(by_tcp);
        tokio::select! {
            answer = &mut by_tcp => match answer {
                Ok(answer) => Ok(answer),
                Err(error) => over_udp(self.address, sent).await.map_err(|_| error),
            },
            Some(answer) = async {
                sleep(PATIENCE).await;
                over_udp(self.address, sent).await.ok().filter(|answer| !answer.metadata.truncation)
            } => Ok(answer),
        }
    }

    /// Over TCP, because nothing comes over UDP.
    async fn by_tcp_instead(&self, sent: &Sent<'_>, metrics: &Metrics) -> Option<Message> {
        let _place = self.tcp_instead.try_acquire().ok()?;
        let answer = self.by_connection(sent, metrics).await.ok()?;
        *self.tcp_first.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        Some(answer)
    }

    fn is_tcp_first(&self) -> bool {
        self.tcp_first.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|since| since.elapsed() < TCP_FIRST)
    }

    async fn by_connection(&self, sent: &Sent<'_>, metrics: &Metrics) -> io::Result<Message> {
        let proto = if self.over == Over::Plain { "tcp" } else { "tcp-tls" };
        while let Some(mut connection) = self.idle_connection() {
            metrics.connection_used(self.address, proto, true);
            // The server may have closed it meanwhile: that says nothing about a new one.
            if let Ok(answer) = connection.ask(sent).await {
                self.keep(connection);
                return Ok(answer);
            }
        }
        metrics.connection_used(self.address, proto, false);
        let mut connection = self.connect().await?;
        let answer = connection.ask(sent).await?;
        self.keep(connection);
        Ok(answer)
    }

    async fn connect(&self) -> io::Result<Connection> {
        let Over::Tls { name } = &self.over else { return TcpStream::connect(self.address).await.map(Connection::Tcp) };
        let tls = self.tls.as_ref().ok_or_else(|| io::Error::other("TLS could not be set up"))?;
        let connected = tls.connect(self.address, name.as_deref()).await;
        match &connected {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                if !self.tls_failed.swap(true, Ordering::Relaxed) {
                    let name = name.as_deref().unwrap_or("its address");
                    warn!(server = %self.address, %error, expected = name, "this upstream DNS server is not trusted, and is not asked");
                }
            }
            Err(_) => {}
            Ok(_) => self.tls_failed.store(false, Ordering::Relaxed),
        }
        connected.map(|stream| Connection::Tls(Box::new(stream)))
    }

    /// The connection that was used last, so that the others can expire.
    fn idle_connection(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(_, since)| since.elapsed() < self.expire);
        idle.pop().map(|(connection, _)| connection)
    }

    fn keep(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE {
            idle.push((connection, Instant::now()));
        }
    }
}

/// A connection on which nothing else is under way.
#[derive(Debug)]
enum Connection {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection {
    async fn ask(&mut self, sent: &Sent<'_>) -> io::Result<Message> {
        match self {
            Connection::Tcp(stream) => over_stream(stream, sent).await,
            Connection::Tls(stream) => over_stream(stream, sent).await,
        }
    }
}
