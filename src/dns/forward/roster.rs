//! The upstream servers that are in use, so that a new configuration, and a resolv.conf that has changed, find those that they share with the one
//! before: with their health, their connections, and what is known of loops.

use super::loops::{Care, Probes};
use super::server::Server;
use super::tls::Tls;
use crate::config::{NameServer, TlsConfig};
use hickory_proto::rr::Name;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

/// The servers of all zones. Clones are one.
#[derive(Clone, Debug, Default)]
pub struct Roster(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    servers: Mutex<HashMap<Settings, Weak<Server>>>,
    probes: Arc<Probes>,
}

/// Whatever makes two servers different ones.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Settings {
    server: NameServer,
    /// Whether one leads back here depends on it.
    zone: Name,
    tls: TlsConfig,
    only_tcp: bool,
    expire: Duration,
    check_every: Duration,
    check_name: String,
    check_recursion: bool,
}

impl Roster {
    /// The questions by which loops are found, which may come back after another configuration has come.
    pub(super) fn probes(&self) -> &Arc<Probes> {
        &self.0.probes
    }

    /// The server that somebody uses already, or a new one.
    pub(super) fn server(&self, server: NameServer, care: &Care, tls: Option<&Tls>) -> Arc<Server> {
        let config = &care.config;
        let settings = Settings {
            server: server.clone(),
            zone: care.zone.clone(),
            tls: config.tls.clone(),
            only_tcp: config.only_tcp,
            expire: config.expire,
            check_every: config.check_every,
            check_name: config.check_name.clone(),
            check_recursion: config.check_recursion,
        };
        let mut servers = self.0.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = servers.get(&settings).and_then(Weak::upgrade) {
            return known;
        }
        servers.retain(|_, server| server.strong_count() > 0);
        let new = Arc::new(Server::new(server, tls.cloned(), config.expire, care.metrics.clone()));
        servers.insert(settings, Arc::downgrade(&new));
        new
    }
}
