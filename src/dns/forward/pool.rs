//! The servers of one zone: which ones, in which order, and the race between them.

use super::ForwardError;
use super::exchange::is_helpful;
use super::loops::Care;
use super::roster::Roster;
use super::server::{Server, Way};
use super::tls::Tls;
use crate::config::{ForwardConfig, NameServer, Over, Policy, Upstream, Upstreams};
use crate::dns::dig::millis;
use crate::dns::metrics::{Transport, code_label};
use crate::dns::resolv_conf::{self, MAX_SERVERS, Stamp};
use crate::dns::trace::{self, Step};
use hickory_proto::op::Message;
use rand::seq::SliceRandom;
use std::collections::HashSet;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::task::Poll;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

/// How long a question may take altogether (CoreDNS's deadline).
const DEADLINE: Duration = Duration::from_secs(5);
/// After this long without an answer the question is asked again, at the next server if there is one. Earlier attempts go on
/// listening: a slow server's answer counts too.
const PATIENCE: Duration = Duration::from_secs(1);

/// The servers.
#[derive(Debug)]
pub(super) struct Pool {
    upstreams: Upstreams,
    behind_resolved: PathBuf,
    /// [`DEADLINE`], but where a test needs more.
    deadline: Duration,
    state: RwLock<State>,
    config: ForwardConfig,
    /// Where the next round begins, with the policy round_robin.
    next: AtomicUsize,
    care: Care,
    roster: Roster,
    tls: Option<Tls>,
}

#[derive(Debug, Default)]
struct State {
    /// What is known of the files among the upstreams, in their order.
    files: Vec<FileState>,
    own: Vec<SocketAddr>,
    servers: Arc<[Arc<Server>]>,
}

#[derive(Debug, Default)]
struct FileState {
    /// The versions of the file and of that behind systemd-resolved that were read last.
    read: Option<[Option<Stamp>; 2]>,
    /// It could not be read the last time; said once.
    unreadable: bool,
    servers: Vec<SocketAddr>,
}

impl Pool {
    pub fn new(upstreams: &Upstreams, config: &ForwardConfig, behind_resolved: &Path, care: Care, roster: Roster) -> Pool {
        let needs_tls = upstreams.servers().any(|server| server.over != Over::Plain);
        let tls = needs_tls.then(|| Tls::new(&config.tls)).transpose().unwrap_or_else(|error| {
            warn!(%error, "upstream DNS servers over TLS cannot be asked");
            None
        });
        let files = upstreams.files().map(|_| FileState::default()).collect();
        let pool = Pool {
            upstreams: upstreams.clone(),
            behind_resolved: behind_resolved.to_path_buf(),
            deadline: DEADLINE,
            state: RwLock::new(State { files, ..State::default() }),
            config: config.clone(),
            next: AtomicUsize::new(0),
            care,
            roster,
            tls,
        };
        pool.choose(&mut pool.state.write().unwrap_or_else(PoisonError::into_inner));
        pool.refresh();
        pool
    }

    #[cfg(test)]
    pub fn give_time(&mut self, deadline: Duration) {
        self.deadline = deadline;
    }

    pub fn never_ask(&self, own: &[SocketAddr]) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.own.extend_from_slice(own);
        self.choose(&mut state);
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

    pub async fn ask(&self, message: &Message, client: Transport) -> Result<Message, ForwardError> {
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
        self.ask_in_order(message, Way::of(&self.config, client), &order).await
    }

    /// Asks one after the other, the second one early (a hedge), so that a single slow server costs little.
    async fn ask_in_order(&self, message: &Message, way: Way, order: &[Arc<Server>]) -> Result<Message, ForwardError> {
        let deadline = Instant::now() + self.deadline;
        let mut attempts = Attempts(Vec::new());
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
            attempts.0.push(Box::pin(self.ask_one(message, way, server)));
            let patience = if early { self.config.hedge } else { PATIENCE };
            tokio::select! {
                (asked, outcome) = attempts.next() => match outcome {
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

    /// Whoever waits for it knows for how long.
    async fn ask_one<'a>(&self, message: &Message, way: Way, server: &'a Arc<Server>) -> (&'a Arc<Server>, io::Result<Message>) {
        let mut asking = Asking { server, care: &self.care, since: Instant::now(), outcome: None };
        let outcome = tokio::select! {
            outcome = server.exchange(message, way, &self.care.metrics) => outcome,
            () = server.turns_out_a_loop() => Err(io::Error::other("it leads back here")),
        };
        asking.outcome = trace::is_watched().then(|| match &outcome {
            Ok(answer) => code_label(answer.metadata.response_code.into()).to_string(),
            Err(error) => error.to_string(),
        });
        if let Ok(answer) = &outcome {
            self.care.metrics.upstream_answered(&server.label, answer.metadata.response_code.into(), asking.since.elapsed());
        }
        drop(asking);
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

    /// Reads files again that have changed. Looking at one costs a microsecond, which is nothing beside asking a server.
    fn refresh(&self) {
        for (number, path) in self.upstreams.files().enumerate() {
            let now = Some([Stamp::of(path), Stamp::of(&self.behind_resolved)]);
            if self.state.read().unwrap_or_else(PoisonError::into_inner).files[number].read == now {
                continue;
            }
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            match resolv_conf::read(path, &self.behind_resolved) {
                Ok(servers) => {
                    state.files[number].servers = servers;
                    self.choose(&mut state);
                    info!(file = %path.display(), servers = ?state.addresses(), "upstream DNS servers");
                }
                Err(error) if !state.files[number].unreadable => {
                    let kept = state.addresses();
                    warn!(file = %path.display(), %error, ?kept, "a list of upstream DNS servers cannot be read");
                }
                Err(_) => {}
            }
            let file = &mut state.files[number];
            (file.unreadable, file.read) = (Stamp::of(path).is_none(), now);
        }
    }

    /// From now on the servers that are configured and that files name are asked, those that are known already with all that is known of them.
    fn choose(&self, state: &mut State) {
        let mut files = state.files.iter();
        let mut configured = Vec::new();
        for upstream in &self.upstreams.0 {
            match upstream {
                Upstream::Server(server) => configured.push(server.clone()),
                Upstream::ResolvConf(_) => {
                    configured
                        .extend(files.next().into_iter().flat_map(|file| file.servers.iter().copied().map(NameServer::from)));
                }
            }
        }
        let is_own = |server: &NameServer| state.own.iter().any(|own| reaches(server.address, *own));
        let (own, mut usable): (Vec<NameServer>, Vec<NameServer>) = configured.into_iter().partition(is_own);
        // DHCP clients often list a server twice: asked again it would fail again.
        let mut seen = HashSet::new();
        usable.retain(|server| seen.insert(server.address));
        if !own.is_empty() {
            let own: Vec<SocketAddr> = own.iter().map(|server| server.address).collect();
            warn!(?own, "upstream DNS servers that are this agent's own addresses are left out");
        }
        let usable = usable.into_iter().take(MAX_SERVERS);
        state.servers = usable.map(|server| self.roster.server(server, &self.care, self.tls.as_ref())).collect();
    }
}

/// Attempts under way: a few, all of which are looked at when one of them goes on. (A set that knows which one does costs more than that.)
struct Attempts<F>(Vec<Pin<Box<F>>>);

impl<F: Future> Attempts<F> {
    /// The outcome of the first one that ends.
    async fn next(&mut self) -> F::Output {
        poll_fn(|context| {
            for index in 0..self.0.len() {
                if let Poll::Ready(outcome) = self.0[index].as_mut().poll(context) {
                    drop(self.0.swap_remove(index));
                    return Poll::Ready(outcome);
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// A question at one server, which is told of to those who want to know, also where it is given up.
struct Asking<'a> {
    server: &'a Server,
    care: &'a Care,
    since: Instant,
    outcome: Option<String>,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let outcome = self.outcome.take();
        trace::note(|| Step::Upstream {
            server: self.server.configured().to_string(),
            zone: self.care.zone.to_string(),
            millis: millis(self.since.elapsed()),
            outcome: outcome.unwrap_or_else(|| "no answer".to_string()),
        });
    }
}

impl State {
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
        let servers = (1..=count).map(|number| SocketAddr::from(([192, 0, 2, number], 53))).collect();
        let config = ForwardConfig { policy, ..ForwardConfig::default() };
        let metrics = Arc::new(Metrics::new(&prometheus::Registry::new()).unwrap());
        let care = Care { zone: Name::root(), config: config.clone(), probes: Arc::default(), metrics };
        Pool::new(&servers, &config, Path::new("/nonexistent"), care, Roster::default())
    }

    #[tokio::test]
    async fn a_resolv_conf_and_servers_are_asked_in_their_order_and_those_that_stay_are_the_same() {
        let file = std::env::temp_dir().join(format!("waypost-pool-{}", std::process::id()));
        std::fs::write(&file, "nameserver 192.0.2.1\nnameserver 192.0.2.2\n").unwrap();
        let [first, last] = ["192.0.2.9:53", "192.0.2.10:53"].map(|text| text.parse::<SocketAddr>().unwrap());
        let upstreams =
            Upstreams(vec![Upstream::Server(first.into()), Upstream::ResolvConf(file.clone()), Upstream::Server(last.into())]);
        let (roster, metrics) = (Roster::default(), Arc::new(Metrics::new(&prometheus::Registry::new()).unwrap()));
        let made = |config: &ForwardConfig| {
            let probes = roster.probes().clone();
            let care = Care { zone: Name::root(), config: config.clone(), probes, metrics: metrics.clone() };
            Pool::new(&upstreams, config, Path::new("/nonexistent"), care, roster.clone())
        };
        let last_octets = |pool: &Pool| -> Vec<u8> {
            pool.upstreams()
                .iter()
                .map(|address| address.to_string().split(['.', ':']).nth(3).unwrap().parse().unwrap())
                .collect()
        };
        let pool = made(&ForwardConfig::default());
        assert_eq!(last_octets(&pool), [9, 1, 2, 10]);
        // One that may be down stays so, whatever becomes of the others, and in another configuration as well.
        pool.suspect(&pool.servers()[2]);
        let suspected = |pool: &Pool| -> Vec<bool> { pool.servers().iter().map(|server| server.is_suspect()).collect() };
        std::fs::write(&file, "nameserver 192.0.2.2\nnameserver 192.0.2.33\n").unwrap();
        assert_eq!(last_octets(&pool), [9, 2, 33, 10]);
        assert_eq!(suspected(&pool), [false, true, false, false]);
        pool.never_ask(&["192.0.2.9:53".parse().unwrap()]);
        assert_eq!(suspected(&pool), [true, false, false]);
        let next = made(&ForwardConfig { policy: Policy::Sequential, max_concurrent: 7, ..ForwardConfig::default() });
        assert_eq!(suspected(&next), [false, true, false, false]);
        assert!(Arc::ptr_eq(&pool.servers()[0], &next.servers()[1]));
        let other = made(&ForwardConfig { only_tcp: true, ..ForwardConfig::default() });
        assert!(!Arc::ptr_eq(&pool.servers()[0], &other.servers()[1]), "that is asked otherwise");
        std::fs::remove_file(&file).unwrap();
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
