//! The servers of one zone: which ones, in which order, and the race between them.

use super::ForwardError;
use super::exchange::is_helpful;
use super::loops::Care;
use super::server::Server;
use super::tls::Tls;
use crate::config::{ForwardConfig, NameServer, Over, Policy, Upstreams};
use crate::dns::dig::millis;
use crate::dns::metrics::code_label;
use crate::dns::resolv_conf::{self, Stamp};
use crate::dns::trace::{self, Step};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hickory_proto::op::Message;
use rand::seq::SliceRandom;
use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{info, warn};

/// How long a question may take altogether (CoreDNS's deadline).
const DEADLINE: Duration = Duration::from_secs(5);
/// After this long without an answer the question is asked again, at the next server if there is one. Earlier attempts go on
/// listening: a slow server's answer counts too.
const PATIENCE: Duration = Duration::from_secs(1);

/// The servers.
#[derive(Debug)]
pub(super) struct Pool {
    source: Source,
    state: RwLock<State>,
    config: ForwardConfig,
    /// Where the next round begins, with the policy round_robin.
    next: AtomicUsize,
    care: Care,
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
    configured: Vec<NameServer>,
    tls: Option<Tls>,
    own: Vec<SocketAddr>,
    servers: Arc<[Arc<Server>]>,
}

impl Pool {
    pub fn new(upstreams: &Upstreams, config: &ForwardConfig, behind_resolved: &Path, care: Care) -> Pool {
        let (source, configured) = match upstreams {
            Upstreams::Servers(servers) => (Source::Fixed, servers.clone()),
            Upstreams::ResolvConf(path) => {
                (Source::File { path: path.clone(), behind_resolved: behind_resolved.to_path_buf() }, Vec::new())
            }
        };
        let needs_tls = configured.iter().any(|server| server.over != Over::Plain);
        let tls = needs_tls.then(|| Tls::new(&config.tls)).transpose().unwrap_or_else(|error| {
            warn!(%error, "upstream DNS servers over TLS cannot be asked");
            None
        });
        let mut state = State { configured, tls, ..State::default() };
        state.choose(config.expire);
        let pool = Pool { source, state: RwLock::new(state), config: config.clone(), next: AtomicUsize::new(0), care };
        pool.refresh();
        pool
    }

    pub fn never_ask(&self, own: &[SocketAddr]) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.own.extend_from_slice(own);
        state.choose(self.config.expire);
        drop(state);
        self.look_for_loops(&self.servers());
    }

    /// Servers that have not been looked at yet are: a loop is better found before a client waits.
    fn look_for_loops(&self, servers: &[Arc<Server>]) {
        servers.iter().for_each(|server| server.look_for_loop(&self.care));
    }

    pub fn upstreams(&self) -> Vec<SocketAddr> {
        self.refresh();
        self.servers().iter().map(|server| server.address).collect()
    }

    pub async fn ask(&self, message: &Message) -> Result<Message, ForwardError> {
        self.refresh();
        let servers = self.servers();
        self.look_for_loops(&servers);
        let order = self.order(&servers);
        if order.is_empty() {
            return Err(if servers.is_empty() { ForwardError::NoUpstream } else { ForwardError::Loop });
        }
        if order.iter().all(|server| server.is_down(self.config.max_fails)) {
            self.care.metrics.health_checks_broken();
        }
        self.ask_in_order(message, &order).await
    }

    /// Asks one after the other, the second one early (a hedge), so that a single slow server costs little.
    async fn ask_in_order(&self, message: &Message, order: &[Arc<Server>]) -> Result<Message, ForwardError> {
        let deadline = Instant::now() + DEADLINE;
        let mut attempts = FuturesUnordered::new();
        let mut failed = HashSet::new();
        let mut second_best = None;
        let mut early = !self.config.hedge.is_zero() && order.len() > 1;
        for server in order.iter().cycle() {
            if failed.len() == order.len() || Instant::now() >= deadline {
                break;
            }
            if failed.contains(&server.address) {
                continue;
            }
            attempts.push(self.ask_one(message, server, deadline));
            let patience = if early { self.config.hedge } else { PATIENCE };
            tokio::select! {
                Some((asked, outcome)) = attempts.next() => match outcome {
                    Ok(answer) if is_helpful(&answer) => return Ok(answer),
                    outcome => {
                        if outcome.is_err() {
                            self.suspect(asked);
                        }
                        failed.insert(asked.address);
                        second_best = outcome.ok().or(second_best);
                    }
                },
                () = sleep_until((Instant::now() + patience).min(deadline)) => {
                    self.suspect(server);
                    if early {
                        self.care.metrics.hedged();
                        early = false;
                    }
                }
            }
        }
        second_best.ok_or(ForwardError::NoAnswer)
    }

    async fn ask_one<'a>(
        &self,
        message: &Message,
        server: &'a Arc<Server>,
        deadline: Instant,
    ) -> (&'a Arc<Server>, io::Result<Message>) {
        let asked = Instant::now();
        let outcome = tokio::select! {
            outcome = timeout_at(deadline, server.exchange(message, self.config.only_tcp, &self.care.metrics)) => outcome,
            () = server.turns_out_a_loop() => Ok(Err(io::Error::other("it leads back here"))),
        };
        let outcome = outcome.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        trace::note(|| Step::Upstream {
            server: server.configured().to_string(),
            zone: self.care.zone.to_string(),
            millis: millis(asked.elapsed()),
            outcome: outcome
                .as_ref()
                .map_or_else(ToString::to_string, |answer| code_label(answer.metadata.response_code.into()).to_string()),
        });
        if let Ok(answer) = &outcome {
            self.care.metrics.upstream_answered(server.address, answer.metadata.response_code.into(), asked.elapsed());
        }
        (server, outcome)
    }

    /// All servers that do not lead back here, as the policy says; those that may be down at the end, and those that are behind them.
    fn order(&self, servers: &[Arc<Server>]) -> Vec<Arc<Server>> {
        let mut order: Vec<_> = servers.iter().filter(|server| !server.is_loop()).cloned().collect();
        match self.config.policy {
            Policy::Random => order.shuffle(&mut rand::rng()),
            Policy::RoundRobin if !order.is_empty() => {
                let first = self.next.fetch_add(1, Ordering::Relaxed) % order.len();
                order.rotate_left(first);
            }
            Policy::RoundRobin | Policy::Sequential => {}
        }
        order.sort_by_key(|server| (server.is_down(self.config.max_fails), server.is_suspect()));
        order
    }

    fn suspect(&self, server: &Arc<Server>) {
        if self.config.max_fails > 0 {
            server.check(&self.care);
        }
    }

    fn servers(&self) -> Arc<[Arc<Server>]> {
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
                state.configured = servers.into_iter().map(NameServer::from).collect();
                state.choose(self.config.expire);
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
    fn choose(&mut self, expire: Duration) {
        let is_own = |server: &NameServer| self.own.iter().any(|own| reaches(server.address, *own));
        let (own, mut usable): (Vec<NameServer>, Vec<NameServer>) = self.configured.iter().cloned().partition(is_own);
        // DHCP clients often list a server twice: asked again it would fail again.
        let mut seen = HashSet::new();
        usable.retain(|server| seen.insert(server.address));
        if !own.is_empty() {
            let own: Vec<SocketAddr> = own.iter().map(|server| server.address).collect();
            warn!(?own, "upstream DNS servers that are this agent's own addresses are left out");
        }
        self.servers = usable.into_iter().map(|server| Arc::new(Server::new(server, self.tls.clone(), expire))).collect();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::metrics::Metrics;
    use hickory_proto::rr::Name;

    fn pool(count: u8, policy: Policy) -> Pool {
        let servers = (1..=count).map(|number| SocketAddr::from(([192, 0, 2, number], 53)).into()).collect();
        let config = ForwardConfig { policy, ..ForwardConfig::default() };
        let metrics = Arc::new(Metrics::new(&prometheus::Registry::new()).unwrap());
        let care = Care { zone: Name::root(), config: config.clone(), probes: Arc::default(), metrics };
        Pool::new(&Upstreams::Servers(servers), &config, Path::new("/nonexistent"), care)
    }

    fn firsts(pool: &Pool, times: usize) -> Vec<u8> {
        let last_octet = |server: &Arc<Server>| match server.address {
            SocketAddr::V4(address) => address.ip().octets()[3],
            SocketAddr::V6(_) => 0,
        };
        (0..times).map(|_| last_octet(&pool.order(&pool.servers())[0])).collect()
    }

    #[test]
    fn the_policies_begin_where_they_should() {
        assert_eq!(firsts(&pool(3, Policy::Sequential), 4), [1, 1, 1, 1]);
        assert_eq!(firsts(&pool(3, Policy::RoundRobin), 4), [1, 2, 3, 1]);
        let random: HashSet<u8> = firsts(&pool(3, Policy::Random), 200).into_iter().collect();
        assert_eq!(random.len(), 3);
    }

    #[tokio::test]
    async fn a_server_that_may_be_down_is_asked_last() {
        let pool = pool(5, Policy::Random);
        pool.suspect(&pool.servers()[2]);
        for _ in 0..32 {
            let order = pool.order(&pool.servers());
            assert_eq!(order[4].address, "192.0.2.3:53".parse().unwrap());
        }
    }

    #[test]
    fn an_own_address_is_recognised_behind_a_wildcard() {
        let own = |own: &str, server: &str| reaches(server.parse().unwrap(), own.parse().unwrap());
        assert!(own("10.0.0.1:53", "10.0.0.1:53") && own("0.0.0.0:53", "127.0.0.53:53") && own("[::]:53", "[::1]:53"));
        assert!(!own("10.0.0.1:53", "10.0.0.1:5353") && !own("10.0.0.1:53", "10.0.0.2:53") && !own("0.0.0.0:53", "8.8.8.8:53"));
    }
}
