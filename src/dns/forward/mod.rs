//! Everything outside the cluster domain, asked at upstream servers.
//!
//! The client's question goes on as a message of its own (same name in the same spelling, type, flags and EDNS options, another
//! id), and the upstream's message is read with hickory-proto before it is handed on, as CoreDNS does with its library. Passing
//! the bytes through would be a little cheaper, but a reply must be checked anyway, cut at a record to what the client takes, and
//! appended to an alias, and it is records that are kept in the cache.
//!
//! | module | what it is |
//! |---|---|
//! | `pool` | the servers of one zone: which ones, in which order, and the race between them |
//! | [`Roster`] | the servers of all zones, which outlive a configuration |
//! | `server` | one server: its health, its connections |
//! | `loops` | servers that lead back to us |
//! | `tls` | servers over TLS |
//! | `exchange` | one question and one answer over a socket |
//! | `sockets` | sockets for questions over UDP, each for one after the other |

mod exchange;
mod loops;
mod pool;
mod roster;
mod server;
mod sockets;
mod tls;

pub(super) use loops::PROBE_TYPE;
pub use roster::Roster;
pub(super) use sockets::Sockets;
pub use tls::TlsError;

use super::metrics::{Metrics, Transport};
use super::resolv_conf;
use crate::config::{ForwardConfig, Over, Upstreams};
use hickory_proto::op::{Message, Query};
use hickory_proto::rr::Name;
use loops::{Care, Probes};
use pool::Pool;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Asks the upstream servers of one zone.
#[derive(Debug)]
pub struct Forwarder {
    /// The zone whose names are asked here.
    from: Name,
    pool: Pool,
    /// Domains that are not forwarded.
    except: Vec<Name>,
    /// How many more questions may be under way; `None`: any number.
    room: Option<Semaphore>,
    probes: Arc<Probes>,
    metrics: Arc<Metrics>,
}

/// Why a question was not answered by an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForwardError {
    /// Too many questions are being forwarded.
    #[error(
        "as many questions are already being forwarded as --dns-forward-max-concurrent allows: the upstream servers are slow or down"
    )]
    Busy,
    /// Too many questions wait for upstream servers.
    #[error("too many questions wait for upstream servers already, which are slow or down")]
    Crowded,
    /// There is nobody to ask.
    #[error("no upstream server is known: check the nameserver lines of the resolv.conf in use, or set --dns-upstream")]
    NoUpstream,
    /// All of them lead back to this agent.
    #[error("every upstream server asks this agent what it is asked: look at --dns-upstream, or the resolv.conf in use")]
    Loop,
    /// The configuration has no servers for this name.
    #[error("the configuration has no upstream servers for this name, or says that it is not forwarded")]
    Excepted,
    /// Nobody answered in time.
    #[error("no upstream server answered")]
    NoAnswer,
}

impl Forwarder {
    /// A forwarder for names in a zone. A resolv.conf that is missing or empty is no error: it is read when it appears.
    pub fn new(from: Name, upstreams: &Upstreams, config: &ForwardConfig, metrics: Arc<Metrics>, roster: &Roster) -> Forwarder {
        Forwarder::with_resolved(from, upstreams, config, Path::new(resolv_conf::BEHIND_RESOLVED), metrics, roster)
    }

    /// Whether the servers over TLS can be asked, if there are any.
    ///
    /// # Errors
    /// The certificates to tell them by cannot be used.
    pub fn check_tls(upstreams: &Upstreams, config: &ForwardConfig) -> Result<(), TlsError> {
        match upstreams.servers().any(|server| server.over != Over::Plain) {
            true => tls::Tls::new(&config.tls).map(drop),
            false => Ok(()),
        }
    }

    /// A forwarder to these upstreams for everything, with the defaults.
    pub fn to(upstreams: &Upstreams, metrics: Arc<Metrics>) -> Forwarder {
        Forwarder::new(Name::root(), upstreams, &ForwardConfig::default(), metrics, &Roster::default())
    }

    fn with_resolved(
        from: Name,
        upstreams: &Upstreams,
        config: &ForwardConfig,
        behind_resolved: &Path,
        metrics: Arc<Metrics>,
        roster: &Roster,
    ) -> Forwarder {
        let room = (config.max_concurrent > 0).then(|| Semaphore::new(config.max_concurrent));
        let except = config.except.iter().map(|domain| name(domain)).collect();
        let probes = roster.probes().clone();
        let care = Care { zone: from.clone(), config: config.clone(), probes: probes.clone(), metrics: metrics.clone() };
        Forwarder {
            from,
            pool: Pool::new(upstreams, config, behind_resolved, care, roster.clone()),
            except,
            room,
            probes,
            metrics,
        }
    }

    /// This one, but its questions may take so long: for tests that end while one is under way, however slow the machine is.
    #[cfg(test)]
    pub fn with_deadline(mut self, deadline: std::time::Duration) -> Forwarder {
        self.pool.give_time(deadline);
        self
    }

    /// Addresses of our own, which are never asked: that would be a loop.
    pub fn never_ask(&self, own: &[SocketAddr]) {
        self.pool.never_ask(own);
    }

    /// Whether this question, which has arrived here, is one by which an upstream server is found out to lead back to us. It goes nowhere else.
    pub fn is_own_probe(&self, query: &Query) -> bool {
        self.probes.arrived(query)
    }

    /// The servers that are asked at present.
    pub fn upstreams(&self) -> Vec<SocketAddr> {
        self.pool.upstreams()
    }

    /// Whether this name is asked here.
    pub fn takes(&self, name: &Name) -> bool {
        self.from.zone_of(name) && !self.except.iter().any(|domain| domain.zone_of(name))
    }

    /// Asks `message` (its id is replaced) for a client that came so, and returns the first good answer. An answer that says that a server could not
    /// or would not help is returned only when no other server does better.
    ///
    /// # Errors
    /// See [`ForwardError`].
    pub async fn ask(&self, message: &Message, client: Transport) -> Result<Message, ForwardError> {
        let _permit = match self.room.as_ref().map(Semaphore::try_acquire) {
            Some(Err(_)) => {
                self.metrics.rejected();
                return Err(ForwardError::Busy);
            }
            permit => permit,
        };
        self.pool.ask(message, client).await
    }
}

/// A validated domain name of the configuration.
fn name(domain: &str) -> Name {
    Name::from_labels(domain.split('.').filter(|label| !label.is_empty()).map(str::as_bytes)).unwrap_or_else(|_| Name::root())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn forwarder(upstreams: &Upstreams, behind_resolved: &Path) -> Forwarder {
        let metrics = Arc::new(Metrics::new(&prometheus::Registry::new()).unwrap());
        Forwarder::with_resolved(Name::root(), upstreams, &ForwardConfig::default(), behind_resolved, metrics, &Roster::default())
    }

    #[tokio::test]
    async fn more_questions_than_the_limit_are_turned_away_at_once() {
        let forwarder =
            forwarder(&["192.0.2.1:53".parse::<SocketAddr>().unwrap()].into_iter().collect(), Path::new("/nonexistent"));
        let all = forwarder.room.as_ref().unwrap().try_acquire_many(1000).unwrap();
        assert_eq!(forwarder.ask(&Message::query(), Transport::Udp).await.unwrap_err(), ForwardError::Busy);
        assert_eq!(forwarder.metrics.rejects(), 1);
        drop(all);
    }

    #[tokio::test]
    async fn a_server_that_is_listed_twice_is_asked_once() {
        let nobody = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let forwarder = forwarder(&[nobody, nobody].into_iter().collect(), Path::new("/nonexistent"));
        assert_eq!(forwarder.upstreams(), [nobody]);
        assert_eq!(forwarder.ask(&Message::query(), Transport::Udp).await.unwrap_err(), ForwardError::NoAnswer);
    }

    #[test]
    fn a_change_behind_systemd_resolved_is_noticed() {
        let folder = std::env::temp_dir().join(format!("waypost-forward-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (stub, real) = (folder.join("stub"), folder.join("real"));
        fs::write(&stub, "nameserver 127.0.0.53\n").unwrap();
        fs::write(&real, "nameserver 192.0.2.1\n").unwrap();
        let forwarder = forwarder(&Upstreams::resolv_conf(stub), &real);
        assert_eq!(forwarder.upstreams(), ["192.0.2.1:53".parse().unwrap()]);
        fs::write(&real, "nameserver 192.0.2.22\n").unwrap();
        assert_eq!(forwarder.upstreams(), ["192.0.2.22:53".parse().unwrap()]);
        fs::remove_dir_all(&folder).unwrap();
    }
}
