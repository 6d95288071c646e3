//! Serving DNS, now or as soon as the port is free.

use super::AgentError;
use super::local_dns::{self, DNS_PORT};
use super::zones::{Zones, ZonesError};
use crate::admin::Status;
use crate::config::{Config, GuardConfig, Role, is_public};
use crate::dns::chain::Chain;
use crate::dns::dig::Desk;
use crate::dns::metrics::Metrics;
use crate::dns::pulse::Pulses;
use crate::dns::records::Records;
use crate::dns::respond::Responder;
use crate::dns::server::{self, DnsError, Serving};
use crate::handover::Sockets;
use crate::import::read::Texts;
use crate::notices::{DNS_PORT_TAKEN, Notices, Subject};
use prometheus::Registry;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// How often an occupied port is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// The DNS server of this agent, serving or waiting for its port.
pub struct DnsServer {
    /// The names that it serves.
    pub records: Arc<Records>,
    /// What it counts.
    pub metrics: Arc<Metrics>,
    /// Where people ask about it.
    pub desk: Option<Desk>,
    /// Signs of life, once it serves.
    pub serving: watch::Receiver<Option<Pulses>>,
    leave: mpsc::Sender<oneshot::Sender<()>>,
    stop: watch::Sender<()>,
    task: JoinHandle<Option<Serving>>,
    /// What follows the configuration.
    _following: AbortOnDropHandle,
}

/// A task that ends with this value.
struct AbortOnDropHandle(JoinHandle<()>);

impl Drop for AbortOnDropHandle {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Parts {
    addresses: Vec<SocketAddr>,
    guard: GuardConfig,
    records: Arc<Records>,
    chain: Chain,
    metrics: Arc<Metrics>,
    notices: Notices,
    sockets: Sockets,
}

/// What the task is told.
struct Orders {
    leave: mpsc::Receiver<oneshot::Sender<()>>,
    stopped: watch::Receiver<()>,
}

impl DnsServer {
    /// Starts to serve, as soon as another agent of this node does not.
    ///
    /// An agent that is also the node's service proxy goes on without DNS when an address cannot be had: losing services too would be worse, and
    /// the servers behind the cluster's DNS service answer meanwhile. It says so, is not ready, and tries again.
    ///
    /// # Errors
    /// In the role `dns`, when an address cannot be served; when what DNS is to do cannot be done, which the certificates for upstream servers belong
    /// to; and when a metric cannot be registered.
    pub async fn start(
        config: &Config,
        registry: &Registry,
        status: &Status,
        notices: &Notices,
        sockets: &Sockets,
        texts: Option<watch::Receiver<Option<Texts>>>,
    ) -> Result<DnsServer, AgentError> {
        let metrics = Arc::new(Metrics::new(registry)?);
        let records = Arc::new(Records::new(&config.dns.domain, config.dns.ttl));
        let (zones, chain) = Zones::start(&config.dns, &metrics, notices, texts).await?;
        let following = tokio::spawn(zones.follow(chain.clone()));
        check_addresses(config, chain.plan().addresses())?;
        let first = chain.plan().addresses().first().copied();
        let desk = first.map(|address| Desk {
            responder: Responder::new(records.clone(), chain.clone(), metrics.clone(), address),
            records: records.clone(),
            metrics: metrics.clone(),
        });
        let parts = Parts {
            addresses: chain.plan().addresses().to_vec(),
            guard: config.dns.guard.clone(),
            records: records.clone(),
            chain,
            metrics: metrics.clone(),
            notices: notices.clone(),
            sockets: sockets.clone(),
        };
        let first = match sockets.is_granted().then(|| parts.serve()) {
            Some(Err(error)) if config.role == Role::Dns => return Err(error.into()),
            first => first,
        };
        let (sender, serving) = watch::channel(None);
        let (stop, stopped) = watch::channel(());
        let (leave, leaves) = mpsc::channel(1);
        let orders = Orders { leave: leaves, stopped };
        let task = tokio::spawn(parts.keep_trying(first, status.clone(), sender, orders));
        Ok(DnsServer { records, metrics, desk, serving, leave, stop, task, _following: AbortOnDropHandle(following) })
    }

    /// Leaves the sockets to another agent. Connections that are open are finished.
    pub async fn leave(&self) {
        let (done, left) = oneshot::channel();
        if self.leave.send(done).await.is_ok() {
            let _ = left.await;
        }
    }

    /// Finishes the answers under way and closes the sockets.
    pub async fn shutdown(self) {
        drop(self.stop);
        if let Ok(Some(serving)) = self.task.await {
            serving.shutdown().await;
        }
    }
}

/// What holds for `--dns-address` holds for addresses and ports that a Corefile gives as well.
fn check_addresses(config: &Config, served: &[SocketAddr]) -> Result<(), ZonesError> {
    let given = &config.dns.addresses;
    let open =
        |address: &&SocketAddr| !given.contains(address) && config.dns.guard.allow_from.is_empty() && is_public(address.ip());
    let wrong = |address: SocketAddr, problem| Err(ZonesError::Listens { address, problem });
    if let Some(wildcard) = served.iter().find(|address| address.ip().is_unspecified()) {
        return wrong(*wildcard, "bind the very addresses that are asked, not the wildcard");
    }
    if let Some(public) = served.iter().find(open) {
        return wrong(*public, "everybody may ask at a public address: bind another one, or say with dns-allow-from who may");
    }
    let local = local_dns::addresses(config).into_iter().map(|address| SocketAddr::new(address, DNS_PORT));
    match local.into_iter().find(|address| !served.contains(address)) {
        Some(deaf) => wrong(
            deaf,
            "the pods of this node ask there, and no server block listens: let one listen, or take the address out of dns-address",
        ),
        None => Ok(()),
    }
}

impl Parts {
    fn serve(&self) -> Result<Serving, DnsError> {
        server::bind_among(&self.sockets, &self.addresses)?.guarded(&self.guard).serve(
            self.records.clone(),
            self.chain.clone(),
            self.metrics.clone(),
        )
    }

    async fn keep_trying(
        self,
        first: Option<Result<Serving, DnsError>>,
        status: Status,
        serving: watch::Sender<Option<Pulses>>,
        mut orders: Orders,
    ) -> Option<Serving> {
        let mut outcome = match first {
            Some(outcome) => outcome,
            None => tokio::select! {
                () = self.sockets.granted() => self.serve(),
                _ = orders.stopped.changed() => return None,
            },
        };
        let mut said = String::new();
        loop {
            match outcome {
                Ok(mut server) => {
                    tracing::info!(addresses = ?server.local_addrs(), "serving DNS");
                    status.dns_serving(true);
                    serving.send_replace(Some(server.pulses()));
                    tokio::select! {
                        Some(left) = orders.leave.recv() => {
                            server.leave().await;
                            // Whoever asked may have given up.
                            let _ = left.send(());
                            let _ = orders.stopped.changed().await;
                        }
                        _ = orders.stopped.changed() => {}
                    }
                    return Some(server);
                }
                Err(_) if self.sockets.is_patient() => {}
                Err(error) => {
                    let complaint = error.to_string();
                    if complaint != said {
                        let note = format!("{complaint}; this node's pods are answered by the cluster's DNS service until then");
                        self.notices.tell(&DNS_PORT_TAKEN, Subject::Node, note);
                        said = complaint;
                    }
                }
            }
            tokio::select! {
                () = sleep(self.sockets.pause(RETRY)) => outcome = self.serve(),
                // There is nothing to leave.
                Some(_) = orders.leave.recv() => return None,
                _ = orders.stopped.changed() => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{RunArgs, Surroundings, load};

    #[test]
    fn server_blocks_listen_where_dns_addresses_may_be_and_where_pods_ask() {
        let surroundings = Surroundings { host_name: Some("node".into()), ..Surroundings::default() };
        let config = |flags: &[(&str, &str)]| load(&RunArgs::of(flags), &surroundings).unwrap().0;
        let usual = config(&[("dns-address", "10.96.0.10,169.254.20.10:5353")]);
        let says = |config: &Config, served: &[&str]| {
            let served: Vec<SocketAddr> = served.iter().map(|address| address.parse().unwrap()).collect();
            check_addresses(config, &served).err().map(|error| error.to_string()).unwrap_or_default()
        };
        assert_eq!(says(&usual, &["10.96.0.10:53", "169.254.20.10:5353"]), "");
        assert!(says(&usual, &["10.96.0.10:5353"]).contains("10.96.0.10:53: the pods of this node ask there"));
        assert!(says(&usual, &["10.96.0.10:53", "0.0.0.0:53"]).contains("wildcard"));
        assert!(says(&usual, &["10.96.0.10:53", "1.2.3.4:53"]).contains("dns-allow-from"));
        let meant = config(&[("dns-address", "10.96.0.10"), ("dns-allow-from", "10.0.0.0/8")]);
        assert_eq!(says(&meant, &["10.96.0.10:53", "1.2.3.4:53"]), "");
    }
}
