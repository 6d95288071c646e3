//! Everything outside the cluster domain, asked at the host's name servers.
//!
//! The client's question goes on as a message of its own (same name in the same spelling, type, flags and EDNS options, another
//! id), and the upstream's message is read with hickory-proto before it is handed on, as CoreDNS does with its library. Passing
//! the bytes through would be a little cheaper, but a reply must be checked anyway, cut at a record to what the client takes, and
//! appended to an alias, and hickory-server sends records, not bytes.

use super::metrics::Metrics;
use super::resolv_conf::{self, Stamp};
use crate::config::Upstreams;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{info, warn};

/// How long a question may take altogether (CoreDNS's deadline).
const DEADLINE: Duration = Duration::from_secs(5);
/// After this long without an answer the question is asked again, at the next server if there is one. Earlier attempts go on
/// listening: a slow server's answer counts too.
const PATIENCE: Duration = Duration::from_secs(1);
/// A server that did not answer is asked last for this long.
const SHUNNED: Duration = Duration::from_secs(10);
/// How many questions may be under way at a time (kubeadm's `max_concurrent`).
pub const MAX_CONCURRENT: usize = 1000;

/// Asks upstream servers.
#[derive(Debug)]
pub struct Forwarder {
    source: Source,
    state: RwLock<State>,
    under_way: Semaphore,
    metrics: Arc<Metrics>,
    started: Instant,
}

/// Why a question was not answered by an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForwardError {
    /// Too many questions are being forwarded.
    #[error("{MAX_CONCURRENT} questions are already being forwarded: the upstream servers are slow or down")]
    Busy,
    /// There is nobody to ask.
    #[error("no upstream server is known: check the nameserver lines of the resolv.conf in use, or set --dns-upstream")]
    NoUpstream,
    /// Nobody answered in time.
    #[error("no upstream server answered")]
    NoAnswer,
}

#[derive(Debug)]
enum Source {
    Fixed,
    File { path: PathBuf, behind_resolved: PathBuf },
}

#[derive(Debug, Default)]
struct State {
    /// The versions of resolv.conf and of the file behind systemd-resolved that were read last.
    read: Option<[Option<Stamp>; 2]>,
    /// The file could not be read the last time; said once.
    unreadable: bool,
    configured: Vec<SocketAddr>,
    own: Vec<SocketAddr>,
    servers: Arc<[Server]>,
}

#[derive(Debug)]
struct Server {
    address: SocketAddr,
    /// Milliseconds since the forwarder started; until then the server is asked last.
    shunned_until: AtomicU64,
}

impl Forwarder {
    /// A forwarder to these upstreams. A resolv.conf that is missing or empty is no error: it is read when it appears.
    pub fn new(upstreams: &Upstreams, metrics: Arc<Metrics>) -> Forwarder {
        Forwarder::with_resolved(upstreams, Path::new(resolv_conf::BEHIND_RESOLVED), metrics)
    }

    fn with_resolved(upstreams: &Upstreams, behind_resolved: &Path, metrics: Arc<Metrics>) -> Forwarder {
        let (source, configured) = match upstreams {
            Upstreams::Servers(servers) => (Source::Fixed, servers.clone()),
            Upstreams::ResolvConf(path) => {
                (Source::File { path: path.clone(), behind_resolved: behind_resolved.to_path_buf() }, Vec::new())
            }
        };
        let mut state = State { configured, ..State::default() };
        state.choose();
        let forwarder = Forwarder {
            source,
            state: RwLock::new(state),
            under_way: Semaphore::new(MAX_CONCURRENT),
            metrics,
            started: Instant::now(),
        };
        forwarder.refresh();
        forwarder
    }

    /// Addresses of our own, which are never asked: that would be a loop.
    pub fn never_ask(&self, own: &[SocketAddr]) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.own.extend_from_slice(own);
        state.choose();
    }

    /// The servers that are asked at present.
    pub fn upstreams(&self) -> Vec<SocketAddr> {
        self.refresh();
        self.servers().iter().map(|server| server.address).collect()
    }

    /// Asks `message` (its id is replaced) and returns the first good answer. An answer that says that a server could not or
    /// would not help is returned only when no other server does better.
    pub async fn ask(&self, message: Message) -> Result<Message, ForwardError> {
        let Ok(_permit) = self.under_way.try_acquire() else {
            self.metrics.rejected();
            return Err(ForwardError::Busy);
        };
        self.refresh();
        let servers = self.servers();
        let order = self.order(&servers);
        if order.is_empty() {
            return Err(ForwardError::NoUpstream);
        }
        self.ask_in_order(&message, &order).await
    }

    async fn ask_in_order(&self, message: &Message, order: &[&Server]) -> Result<Message, ForwardError> {
        let deadline = Instant::now() + DEADLINE;
        let mut attempts = FuturesUnordered::new();
        let mut failed = HashSet::new();
        let mut second_best = None;
        for server in order.iter().cycle() {
            if order.iter().all(|server| failed.contains(&server.address)) {
                break;
            }
            if failed.contains(&server.address) {
                continue;
            }
            attempts.push(self.ask_one(message, server, deadline));
            let patience = (Instant::now() + PATIENCE).min(deadline);
            tokio::select! {
                Some((asked, outcome)) = attempts.next() => match outcome {
                    Ok(answer) if is_helpful(&answer) => return Ok(answer),
                    outcome => {
                        self.shun(asked);
                        failed.insert(asked.address);
                        second_best = outcome.ok().or(second_best);
                    }
                },
                () = sleep_until(patience) => self.shun(server),
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        second_best.ok_or(ForwardError::NoAnswer)
    }

    async fn ask_one<'a>(&self, message: &Message, server: &'a Server, deadline: Instant) -> (&'a Server, io::Result<Message>) {
        let asked = Instant::now();
        let outcome = timeout_at(deadline, exchange(server.address, message)).await;
        let outcome = outcome.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        if let Ok(answer) = &outcome {
            server.shunned_until.store(0, Ordering::Relaxed);
            self.metrics.upstream_answered(server.address, answer.metadata.response_code.into(), asked.elapsed());
        }
        (server, outcome)
    }

    /// All servers from a random one on, those that failed lately at the end.
    fn order<'a>(&self, servers: &'a [Server]) -> Vec<&'a Server> {
        let mut order: Vec<&Server> = servers.iter().collect();
        if !order.is_empty() {
            order.rotate_left(rand::random::<u32>() as usize % servers.len());
        }
        let now = self.started.elapsed().as_millis() as u64;
        order.sort_by_key(|server| server.shunned_until.load(Ordering::Relaxed) > now);
        order
    }

    fn shun(&self, server: &Server) {
        let until = (self.started.elapsed() + SHUNNED).as_millis() as u64;
        server.shunned_until.store(until, Ordering::Relaxed);
    }

    fn servers(&self) -> Arc<[Server]> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).servers.clone()
    }

    /// Reads the file again if it changed. Looking at it costs a microsecond, which is nothing beside asking a server.
    fn refresh(&self) {
        let Source::File { path, behind_resolved } = &self.source else { return };
        let now = Some([Stamp::of(path), Stamp::of(behind_resolved)]);
        if self.state.read().unwrap_or_else(PoisonError::into_inner).read == now {
            return;
        }
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        match resolv_conf::read(path, behind_resolved) {
            Ok(servers) => {
                state.configured = servers;
                state.choose();
                info!(file = %path.display(), servers = ?state.addresses(), "upstream DNS servers");
            }
            Err(error) if !state.unreadable => {
                let kept = state.addresses();
                warn!(file = %path.display(), %error, ?kept, "the list of upstream DNS servers cannot be read");
            }
            Err(_) => {}
        }
        state.unreadable = Stamp::of(path).is_none();
        state.read = now;
    }
}

impl State {
    fn choose(&mut self) {
        let is_own = |server: &SocketAddr| self.own.iter().any(|own| reaches(*server, *own));
        let (own, mut usable): (Vec<SocketAddr>, Vec<SocketAddr>) = self.configured.iter().partition(|server| is_own(server));
        // DHCP clients often list a server twice: asked again it would fail again.
        let mut seen = HashSet::new();
        usable.retain(|server| seen.insert(*server));
        if !own.is_empty() {
            warn!(?own, "upstream DNS servers that are this agent's own addresses are left out");
        }
        self.servers = usable.into_iter().map(|address| Server { address, shunned_until: AtomicU64::new(0) }).collect();
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        self.servers.iter().map(|server| server.address).collect()
    }
}

/// Whether a question to `server` would come to the socket that listens on `own`.
fn reaches(server: SocketAddr, own: SocketAddr) -> bool {
    let any_local = own.ip().is_unspecified() && (server.ip().is_loopback() || server.ip().is_unspecified());
    server.port() == own.port() && (server.ip() == own.ip() || any_local)
}

/// Whether a reply settles the question, as opposed to saying that the server could not or would not.
pub(super) fn is_helpful(answer: &Message) -> bool {
    let code = answer.metadata.response_code;
    !matches!(code, ResponseCode::ServFail | ResponseCode::Refused | ResponseCode::NotImp | ResponseCode::FormErr)
}

/// One question to one server: by UDP from a socket of its own (its port is unpredictable, and nobody else's datagrams arrive),
/// and by TCP where the answer was cut. If TCP fails the cut answer is better than none.
async fn exchange(server: SocketAddr, message: &Message) -> io::Result<Message> {
    let mut message = message.clone();
    message.metadata.id = rand::random();
    let bytes = message.to_vec().map_err(io::Error::other)?;
    let answer = over_udp(server, &message, &bytes).await?;
    if !answer.metadata.truncation {
        return Ok(answer);
    }
    Ok(over_tcp(server, &message, &bytes).await.unwrap_or(answer))
}

async fn over_udp(server: SocketAddr, message: &Message, bytes: &[u8]) -> io::Result<Message> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // What does not fit the question may be forged, or late: the true answer may still come.
        if let Some(answer) = matching(message, &buffer[..length]) {
            return Ok(answer);
        }
    }
}

async fn over_tcp(server: SocketAddr, message: &Message, bytes: &[u8]) -> io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), bytes].concat()).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    matching(message, &answer).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The message in these bytes, if it answers the question: a response, the same id, the same question. The name's case is not
/// compared: some servers do not echo it.
fn matching(question: &Message, bytes: &[u8]) -> Option<Message> {
    let answer = Message::from_vec(bytes).ok()?;
    let header = &answer.metadata;
    let same_header =
        header.id == question.metadata.id && header.message_type == MessageType::Response && header.op_code == OpCode::Query;
    let same = |asked: &Query, answered: &Query| {
        asked.query_type() == answered.query_type()
            && asked.query_class() == answered.query_class()
            && asked.name().eq_ignore_root(answered.name())
    };
    let same_question = match (question.queries.as_slice(), answer.queries.as_slice()) {
        ([asked], [answered]) => same(asked, answered),
        // Servers that could not read the question may not repeat it.
        ([_], []) => !is_helpful(&answer),
        _ => false,
    };
    (same_header && same_question).then_some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn forwarder(upstreams: &Upstreams, behind_resolved: &Path) -> Forwarder {
        let metrics = Arc::new(Metrics::new(&prometheus::Registry::new()).unwrap());
        Forwarder::with_resolved(upstreams, behind_resolved, metrics)
    }

    #[tokio::test]
    async fn more_questions_than_the_limit_are_turned_away_at_once() {
        let forwarder = forwarder(&Upstreams::Servers(vec!["192.0.2.1:53".parse().unwrap()]), Path::new("/nonexistent"));
        let all = forwarder.under_way.try_acquire_many(MAX_CONCURRENT as u32).unwrap();
        assert_eq!(forwarder.ask(Message::query()).await.unwrap_err(), ForwardError::Busy);
        assert_eq!(forwarder.metrics.rejects(), 1);
        drop(all);
    }

    #[tokio::test]
    async fn a_server_that_is_listed_twice_is_asked_once() {
        let nobody = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let forwarder = forwarder(&Upstreams::Servers(vec![nobody, nobody]), Path::new("/nonexistent"));
        assert_eq!(forwarder.upstreams(), [nobody]);
        assert_eq!(forwarder.ask(Message::query()).await.unwrap_err(), ForwardError::NoAnswer);
    }

    #[test]
    fn a_change_behind_systemd_resolved_is_noticed() {
        let folder = std::env::temp_dir().join(format!("waypost-forward-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (stub, real) = (folder.join("stub"), folder.join("real"));
        fs::write(&stub, "nameserver 127.0.0.53\n").unwrap();
        fs::write(&real, "nameserver 192.0.2.1\n").unwrap();
        let forwarder = forwarder(&Upstreams::ResolvConf(stub), &real);
        assert_eq!(forwarder.upstreams(), ["192.0.2.1:53".parse().unwrap()]);
        fs::write(&real, "nameserver 192.0.2.22\n").unwrap();
        assert_eq!(forwarder.upstreams(), ["192.0.2.22:53".parse().unwrap()]);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_server_that_failed_lately_is_asked_last() {
        let servers: Vec<SocketAddr> = (1..=5).map(|number| SocketAddr::from(([192, 0, 2, number], 53))).collect();
        let forwarder = forwarder(&Upstreams::Servers(servers.clone()), Path::new("/nonexistent"));
        let known = forwarder.servers();
        forwarder.shun(&known[2]);
        for _ in 0..32 {
            assert_eq!(forwarder.order(&known).last().map(|server| server.address), Some(servers[2]));
        }
    }

    #[test]
    fn an_own_address_is_recognised_behind_a_wildcard() {
        let own = |own: &str, server: &str| reaches(server.parse().unwrap(), own.parse().unwrap());
        assert!(own("10.0.0.1:53", "10.0.0.1:53") && own("0.0.0.0:53", "127.0.0.53:53") && own("[::]:53", "[::1]:53"));
        assert!(!own("10.0.0.1:53", "10.0.0.1:5353") && !own("10.0.0.1:53", "10.0.0.2:53") && !own("0.0.0.0:53", "8.8.8.8:53"));
    }
}
