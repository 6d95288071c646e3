//! The one place where everything is wired together.
//!
//! One task owns the state and decides (`follow`); one thread owns the kernel's tables and commits (`data_path`). DNS answers from
//! records that the task publishes: new names once the data path has their addresses, removed ones before it loses them.

mod attempts;
mod connections;
mod data_path;
mod dns_server;
mod drift;
mod follow;
mod health_checks;
#[cfg(test)]
mod histories;
mod kept_zones;
mod last_state;
mod latency;
pub mod layouts;
pub mod local_dns;
mod localhost_ports;
mod metrics;
mod names;
mod node_addresses;
mod plan;
pub mod presence;
mod stale_flows;
mod succession;
#[cfg(test)]
mod tests;
mod watchdog;
pub mod zones;

use crate::admin::{self, AdminError, Registries, ServiceHealth, Status};
use crate::config::{Config, Role};
use crate::conntrack::{self, Cleaner, Conntrack, ConntrackMetrics};
use crate::dns::server::DnsError;
use crate::handover::{HandoverError, Sockets, Successor};
use crate::import::read::Mounted;
use crate::leftovers;
use crate::model::{Demand, Family, Update};
use crate::nft::{Committer, Kernel, Netlink, NftError};
use crate::notices::Notices;
use crate::proxy::{Delta, Element};
use crate::socket::{self, Listening};
use connections::Connections;
use data_path::DataPath;
use dns_server::DnsServer;
use follow::{Follow, Reports};
use last_state::LastState;
use local_dns::LocalDnsError;
use localhost_ports::LocalhostPorts;
use presence::Presence;
use stale_flows::StaleFlows;
use std::io;
use std::path::Path;
use std::sync::Arc;
use succession::Milestones;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use watchdog::GuardedSwitch;
use zones::ZonesError;

/// Questions that may wait for the agent's task.
const INQUIRIES: usize = 16;

/// Why the agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The tables cannot be read or written.
    #[error(transparent)]
    Nft(#[from] NftError),
    /// DNS cannot be served.
    #[error(transparent)]
    Dns(#[from] DnsError),
    /// What DNS is to do cannot be done.
    #[error("DNS is configured wrongly: {0}")]
    Zones(#[from] ZonesError),
    /// Health and metrics cannot be served.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The local DNS addresses cannot be had.
    #[error(transparent)]
    LocalDns(#[from] LocalDnsError),
    /// No place to hand over.
    #[error(transparent)]
    Handover(#[from] HandoverError),
    /// A metric cannot be registered.
    #[error("a metric cannot be registered: {0}")]
    Metric(#[from] prometheus::Error),
    /// No thread for the data path or the tracked flows.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] io::Error),
}

/// A running agent. Dropping it without [`Running::shutdown`] ends it without draining.
pub struct Running {
    ready: watch::Receiver<bool>,
    stop: watch::Sender<()>,
    follow: JoinHandle<Option<GuardedSwitch>>,
    /// What runs beside; it ends with this value.
    beside: JoinSet<()>,
    /// Told once another agent serves this node in this one's place.
    successor: Option<JoinHandle<Successor>>,
    sockets: Sockets,
    status: Status,
    dns: Option<DnsServer>,
    demand: watch::Receiver<Demand>,
    admin: JoinHandle<Option<admin::Serving>>,
    /// Told when health and metrics cannot be served.
    admin_failed: Arc<Notify>,
    probes: JoinSet<()>,
    /// Until it retires.
    _presence: Option<Presence>,
}

/// What is left of an agent that has handed over: the connections that it has.
pub struct Retired {
    successor: Successor,
    dns: Option<DnsServer>,
    /// Outlives the connections of `dns`.
    switch: Option<GuardedSwitch>,
    status: Status,
    _probes: JoinSet<()>,
}

/// Starts the agent on a stream of updates: it programs the tables, serves DNS, health and metrics, as its role says. The registries may
/// hold metrics of the source already; `mounted` tells of the ConfigMaps with a Corefile, where that is where DNS takes its zones from.
///
/// # Errors
/// When something that it needs cannot be had: a port, or the right to change nf_tables. Nothing is left running then.
pub async fn start(
    config: Config,
    registries: Registries,
    updates: mpsc::Receiver<Update>,
    notices: Notices,
    mounted: Option<watch::Receiver<Mounted>>,
) -> Result<Running, AgentError> {
    start_through(config, registries, updates, notices, mounted, |kernel| kernel).await
}

/// [`start`], with something between the agent and the kernel's tables, which sees each batch: tests look at what it leaves, or refuse it.
///
/// # Errors
/// As [`start`].
pub async fn start_through<K: Kernel + Send + 'static>(
    config: Config,
    registries: Registries,
    updates: mpsc::Receiver<Update>,
    notices: Notices,
    mounted: Option<watch::Receiver<Mounted>>,
    through: impl FnOnce(Netlink) -> K,
) -> Result<Running, AgentError> {
    let status = Status::new(&config);
    let (sockets, seat) = succession::begin(config.handover.as_deref(), &status)?;
    let data_path = match config.role {
        Role::Dns => None,
        Role::All | Role::Proxy => Some(start_data_path(&config, &registries, &status, through)?),
    };
    let presence = data_path.is_some().then(presence::announce).transpose().unwrap_or_else(|error| {
        tracing::warn!(%error, "waypost cleanup will not notice that this agent runs");
        None
    });
    let stale_flows = StaleFlows::new(data_path.is_some().then(|| start_cleaner(&config, &registries)).transpose()?);
    let local_dns = local_dns::addresses(&config);
    if !local_dns.is_empty() {
        local_dns::make_local(&local_dns).await?;
        status.dns_local(false);
    }
    let dns = match config.role {
        Role::Proxy => None,
        Role::All if config.dns.addresses.is_empty() => None,
        Role::All | Role::Dns => Some(DnsServer::start(&config, &registries.dns, &status, &notices, &sockets, mounted).await?),
    };
    let demand = dns.as_ref().map_or_else(|| watch::channel(Demand::default()).1, |dns| dns.chain.demand());
    demand.borrow().kinds().iter().for_each(|kind| status.awaits(*kind));
    let site = admin::site(&config.admin, status.clone(), registries)?;
    let probes = site.serve_probes()?;
    let (admin_sender, admin_served) = watch::channel(false);
    let admin_failed = Arc::new(Notify::new());
    let admin = match sockets.is_granted() {
        true => {
            let serving = site.serve(sockets.clone()).await?;
            tokio::spawn(async { Some(serving) })
        }
        false => tokio::spawn(serve_later(site, sockets.clone(), admin_sender, admin_failed.clone())),
    };
    let (ready_sender, ready) = watch::channel(false);
    let (home_sender, home) = watch::channel(false);
    let (stop, stopped) = watch::channel(());
    let names = dns.as_ref().map(|dns| (dns.records.clone(), dns.metrics.clone(), dns.serving.clone(), dns.chain.clone()));
    let (changed, addresses) = watch::channel(());
    let service_health = ServiceHealth::new();
    let localhost_ports = config.proxy.nodeport_addresses.localhost.then(LocalhostPorts::default);
    let mut beside = JoinSet::new();
    if let Some(data_path) = &data_path {
        beside.spawn(node_addresses::watch_addresses(changed));
        beside.spawn(leftovers::keep_looking(!local_dns.is_empty(), notices.clone()));
        let health = service_health.clone();
        beside.spawn(health.serve(config.node_name.clone(), status.clone(), notices.clone(), sockets.clone()));
        if let Some(ports) = &localhost_ports {
            beside.spawn(ports.clone().serve(notices.clone(), sockets.clone()));
        }
        if !local_dns.is_empty() {
            let repairs = data_path.metrics.dns_address_repairs.clone();
            beside.spawn(local_dns::keep_local(local_dns, addresses.clone(), notices.clone(), repairs));
        }
    }
    let last_state = config.state_dir.as_deref().map(|folder| LastState::open(folder, status.clone(), notices.clone()));
    let successor = config.handover.clone().map(|path| {
        let reached = Milestones { ready: ready.clone(), home, admin: admin_served.clone() };
        tokio::spawn(succession::follow(path, seat, sockets.clone(), reached, status.clone()))
    });
    let reports = Reports {
        status: status.clone(),
        ready: ready_sender,
        home: home_sender,
        notices,
        service_health,
        localhost_ports,
        stale_flows,
        last_state,
    };
    let (inquirer, inquiries) = mpsc::channel(INQUIRIES);
    if let Some(path) = config.admin.socket.as_deref() {
        match Listening::at(path) {
            Ok(listening) => {
                let desk = socket::Desk {
                    inquiries: data_path.is_some().then_some(inquirer),
                    domain: config.dns.domain.as_str().into(),
                    own_addresses: node_addresses::own_addresses,
                    dns: dns.as_ref().map(|dns| dns.desk.clone()),
                };
                beside.spawn(socket::serve(listening, desk));
            }
            // Nothing but people's questions depends on it.
            Err(error) => tracing::warn!(
                socket = %path.display(), %error,
                "waypost explain, services, dig and dns top cannot ask this agent; give --socket a path that it may write, or an empty one"
            ),
        }
    }
    let follow = Follow::new(&config, data_path, names, reports, addresses, inquiries);
    let follow = tokio::spawn(follow.run(updates, stopped));
    Ok(Running {
        ready,
        stop,
        follow,
        beside,
        successor,
        sockets,
        status,
        dns,
        demand,
        admin,
        admin_failed,
        probes,
        _presence: presence,
    })
}

/// Serves health and metrics when it is this agent's turn.
async fn serve_later(
    site: admin::Site,
    sockets: Sockets,
    served: watch::Sender<bool>,
    failed: Arc<Notify>,
) -> Option<admin::Serving> {
    match site.serve(sockets).await {
        Ok(serving) => {
            served.send_replace(true);
            Some(serving)
        }
        Err(error) => {
            tracing::error!(%error, "health and metrics cannot be served");
            failed.notify_one();
            None
        }
    }
}

impl Running {
    /// Waits until the first full listing is committed to the kernel and published in DNS.
    pub async fn ready(&self) {
        // The sender lives as long as the agent's task; without it there is nothing left to wait for.
        let _ = self.ready.clone().wait_for(|ready| *ready).await;
    }

    /// What DNS needs to know of the cluster beyond what is always watched. It grows when another configuration needs more.
    pub fn demand(&self) -> watch::Receiver<Demand> {
        self.demand.clone()
    }

    /// Waits until another agent serves this node, which is a reason to [retire](Running::retire); or, `None`, until the agent ends by itself: its
    /// source of updates did, its task broke down, or a port cannot be had after all.
    pub async fn ended(&mut self) -> Option<Successor> {
        let mut ready = self.ready.clone();
        let successor = async {
            match &mut self.successor {
                Some(task) => task.await.ok(),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            successor = successor => successor,
            () = async { while ready.changed().await.is_ok() {} } => None,
            () = self.admin_failed.notified() => None,
        }
    }

    /// Leaves everything to the other agent but the answers and connections under way.
    pub async fn retire(mut self, successor: Successor) -> Retired {
        self.status.retired();
        // New questions are the other agent's: its DNS switch stands.
        let switch = self.stop_following().await;
        if let Some(dns) = &self.dns {
            dns.leave().await;
        }
        self.beside.shutdown().await;
        if let Ok(Some(admin)) = self.admin.await {
            admin.shutdown().await;
        }
        self.sockets.close_all();
        successor.retired().await;
        Retired { successor, dns: self.dns, switch, status: self.status, _probes: self.probes }
    }

    /// Ends the agent: answers under way are finished, the tables stay in the kernel and keep serving.
    pub async fn shutdown(mut self) {
        self.status.stopping();
        let _until_the_last_answer = self.stop_following().await;
        // Copies that nobody reads would swallow what comes from now on.
        self.sockets.close_all();
        if let Some(dns) = self.dns {
            dns.shutdown().await;
        }
        if !self.sockets.is_granted() {
            self.admin.abort();
        }
        if let Ok(Some(admin)) = self.admin.await {
            admin.shutdown().await;
        }
        // Only now another agent may take the seat: the addresses are free.
        if let Some(successor) = self.successor {
            successor.abort();
        }
    }

    /// Ends the agent's task. What it returns keeps connections for DNS here that have begun here.
    async fn stop_following(&mut self) -> Option<GuardedSwitch> {
        // Nobody listens when the task has ended by itself.
        let _ = self.stop.send(());
        (&mut self.follow).await.ok().flatten()
    }
}

impl Retired {
    /// Waits until the other agent ends. Then this node has none that serves.
    pub async fn alone(&self) {
        self.successor.gone().await;
    }

    /// Ends: answers under way are finished, and connections soon.
    pub async fn shutdown(self) {
        self.status.stopping();
        if let Some(dns) = self.dns {
            dns.shutdown().await;
        }
        drop(self.switch);
    }
}

fn start_data_path<K: Kernel + Send + 'static>(
    config: &Config,
    registries: &Registries,
    status: &Status,
    through: impl FnOnce(Netlink) -> K,
) -> Result<DataPath, AgentError> {
    // The Node object is not known yet; what it changes comes with the first commit.
    let mut layouts = Family::BOTH.map(|family| layouts::layout(&config.proxy, None, family)).to_vec();
    // There is no such file when the kernel was told to go without IPv6; a table for it could not be made then.
    if !Path::new("/proc/thread-self/net/if_inet6").exists() {
        tracing::info!("this kernel runs without IPv6: only IPv4 is programmed");
        layouts.retain(|layout| layout.family == Family::V4);
        status.without_family(Family::V6);
    }
    let mut kernel = Netlink::open()?;
    // A missing capability shows at the first look at the tables: better now than after the first listing. What one family lacks must not keep
    // the other from working.
    let looks: Vec<Result<(), NftError>> = layouts.iter().map(|layout| kernel.look(layout.family)).collect();
    if looks.iter().all(Result::is_err) {
        looks.into_iter().collect::<Result<(), _>>()?;
    }
    let mut metrics = metrics::ProxyMetrics::new(&registries.proxy)?;
    if config.proxy.connection_metrics > 0 {
        let connections = Connections::new(config.proxy.connection_metrics)?;
        registries.proxy.register(Box::new(connections.clone()))?;
        metrics.connections = Some(connections);
    }
    let monitor = kernel.monitor()?;
    DataPath::start(Committer::new(through(kernel), layouts), metrics, Some(monitor)).map_err(AgentError::Thread)
}

fn start_cleaner(config: &Config, registries: &Registries) -> Result<Cleaner, AgentError> {
    let metrics = ConntrackMetrics::new(&registries.proxy)?;
    let sysctls = conntrack::wanted(&config.proxy.conntrack, conntrack::processors());
    Cleaner::start(Conntrack::open()?, sysctls, metrics).map_err(AgentError::Thread)
}

/// The elements that follow from the configuration alone.
pub fn fixed_elements(config: &Config) -> Delta {
    let local_dns = local_dns::addresses(config).into_iter().map(Element::LocalDns);
    Delta { elements: local_dns.map(|element| (element, true)).collect(), ..Delta::default() }
}
