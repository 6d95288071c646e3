//! Serving DNS, now or as soon as the port is free.

use super::AgentError;
use super::zones::Zones;
use crate::admin::Status;
use crate::config::{Config, GuardConfig, Role, ZonesSource};
use crate::dns::chain::Chain;
use crate::dns::dig::Desk;
use crate::dns::metrics::Metrics;
use crate::dns::pulse::Pulses;
use crate::dns::records::Records;
use crate::dns::server::{self, DnsError, Serving};
use crate::handover::Sockets;
use crate::import::read::Mounted;
use crate::notices::{DNS_PORT_TAKEN, Notices, Subject};
use prometheus::Registry;
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
    /// How it answers, and what it needs to know of the cluster for that.
    pub chain: Chain,
    /// Where people ask about it.
    pub desk: Desk,
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
    /// Whether it is known what DNS is to do.
    obeyed: watch::Receiver<bool>,
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
    /// An agent that is also the node's service proxy goes on without DNS when an address cannot be had, or when what DNS is to do cannot be done:
    /// losing services too would be worse, and the servers behind the cluster's DNS service answer meanwhile. It says so, is not ready, and tries again.
    ///
    /// # Errors
    /// In the role `dns`, when an address cannot be served, and when what DNS is to do cannot be done, which the certificates for upstream servers
    /// belong to; and when a metric cannot be registered.
    pub async fn start(
        config: &Config,
        registry: &Registry,
        status: &Status,
        notices: &Notices,
        sockets: &Sockets,
        mounted: Option<watch::Receiver<Mounted>>,
    ) -> Result<DnsServer, AgentError> {
        let metrics = Arc::new(Metrics::new(registry)?);
        let records = Arc::new(Records::new(&config.dns.domain, config.dns.ttl));
        let mut zones = Zones::new(config, &metrics, notices, status, mounted);
        let (chain, obeyed) = (zones.chain(), zones.obeyed());
        // The node's services do not wait for the API server to show a ConfigMap.
        let later = config.role == Role::All && matches!(config.dns.zones, ZonesSource::ConfigMaps(_));
        if !later {
            zones.begin().await?;
        }
        let following = tokio::spawn(async move {
            if later && let Err(error) = zones.begin().await {
                tracing::error!(%error, "DNS is configured wrongly");
            }
            zones.follow().await;
        });
        let desk = Desk { chain: chain.clone(), records: records.clone(), metrics: metrics.clone() };
        let is_obeyed = *obeyed.borrow();
        let parts = Parts {
            obeyed,
            guard: config.dns.guard.clone(),
            records: records.clone(),
            chain: chain.clone(),
            metrics: metrics.clone(),
            notices: notices.clone(),
            sockets: sockets.clone(),
        };
        let first = match (sockets.is_granted() && is_obeyed).then(|| parts.serve()) {
            Some(Err(error)) if config.role == Role::Dns => return Err(error.into()),
            first => first,
        };
        let (sender, serving) = watch::channel(None);
        let (stop, stopped) = watch::channel(());
        let (leave, leaves) = mpsc::channel(1);
        let orders = Orders { leave: leaves, stopped };
        let task = tokio::spawn(parts.keep_trying(first, status.clone(), sender, orders));
        Ok(DnsServer { records, metrics, chain, desk, serving, leave, stop, task, _following: AbortOnDropHandle(following) })
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

impl Parts {
    fn serve(&self) -> Result<Serving, DnsError> {
        server::bind_among(&self.sockets, self.chain.plan().addresses())?.guarded(&self.guard).serve(
            self.records.clone(),
            self.chain.clone(),
            self.metrics.clone(),
        )
    }

    async fn keep_trying(
        mut self,
        first: Option<Result<Serving, DnsError>>,
        status: Status,
        serving: watch::Sender<Option<Pulses>>,
        mut orders: Orders,
    ) -> Option<Serving> {
        let mut outcome = match first {
            Some(outcome) => outcome,
            None => {
                let may_serve = async {
                    self.sockets.granted().await;
                    // What tells lives as long as this server.
                    let _ = self.obeyed.wait_for(|obeyed| *obeyed).await;
                };
                tokio::select! {
                    () = may_serve => self.serve(),
                    Some(_) = orders.leave.recv() => return None,
                    _ = orders.stopped.changed() => return None,
                }
            }
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
