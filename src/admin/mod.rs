//! Health, readiness and metrics over HTTP, under the ports and paths that users of kube-proxy and CoreDNS know.
//!
//! | page | answers |
//! |---|---|
//! | `/healthz` | kube-proxy's JSON; 503 when a change waits too long for its commit, or the node is going away or unknown |
//! | `/livez` | the same without the node |
//! | `/readyz` | 503 with the names of what is pending, until everything is in |
//! | `/metrics` | Prometheus text |
//! | `/proxyMode`, `/version` | `nftables`; the version |
//! | `/health`, `/ready` | CoreDNS's pages: `OK`, or 503 |
//!
//! [`ServiceHealth`] answers on the `healthCheckNodePort` of Services.

mod gauges;
mod pages;
mod process;
mod service_health;
mod status;
#[cfg(test)]
mod tests;

pub use service_health::{Check, ServiceHealth};
pub use status::{FamilyHealth, HEALTH_TIMEOUT, Health, Status};

use crate::config::{AdminConfig, Role};
use crate::handover::Sockets;
use crate::holder::{self, Holder};
use crate::model::Protocol;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::errno::Errno;
use pages::Pages;
use process::ProcessMetrics;
use prometheus::{IntGauge, Opts, Registry};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::fs::{self, Permissions};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

/// Connections a listener serves at a time: the port is open to the network, and each connection costs memory. One more ends the oldest, so that
/// nobody can keep the kubelet's probe out by holding all of them.
const MAX_CONNECTIONS: usize = 64;
/// A client that does not send its request within this time, or keeps a connection idle for it, is cut off.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two tries of an address that an agent which has just died may still hold.
const PAUSE: Duration = Duration::from_millis(50);
/// What an answer that is under way at the end still gets.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// Where a kube-proxy serves health and metrics.
const KUBE_PROXY_PORTS: [u16; 2] = [10256, 10249];

/// Where metrics are registered. One metric belongs to one registry: equal names would be shown twice on a merged listener.
#[derive(Clone, Debug)]
pub struct Registries {
    /// Shown on every metrics page: the process and the build.
    pub process: Registry,
    /// Shown on the metrics page of the service proxy.
    pub proxy: Registry,
    /// Shown on the metrics page of DNS.
    pub dns: Registry,
}

impl Registries {
    /// Registries with the metrics of the process and the build.
    ///
    /// # Errors
    /// Never, unless a name of this function's own is wrong.
    pub fn new(role: Role) -> Result<Registries, prometheus::Error> {
        let process = Registry::new();
        process.register(Box::new(ProcessMetrics::new()?))?;
        let options = Opts::new("waypost_build_info", "Always 1; version and role are the labels")
            .const_label("version", crate::VERSION)
            .const_label("role", role.to_string());
        let build = IntGauge::with_opts(options)?;
        build.set(1);
        process.register(Box::new(build))?;
        Ok(Registries { process, proxy: Registry::new(), dns: Registry::new() })
    }
}

/// A listener that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address cannot be bound.
    #[error("--{flag}: cannot listen on {address}: {reason}{}; {}", held_by(holder), advice(reason, *address))]
    Bind {
        /// The setting that asked for it.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        reason: io::Error,
        /// Who has it.
        holder: Option<Holder>,
    },
    /// The socket for probes cannot be made.
    #[error("--probe-socket {}: {reason}; its folder must exist and be writable", path.display())]
    Probe {
        /// The socket.
        path: PathBuf,
        /// Why.
        reason: io::Error,
    },
    /// A metric cannot be registered.
    #[error("a metric cannot be registered: {0}")]
    Metric(#[from] prometheus::Error),
}

fn held_by(holder: &Option<Holder>) -> String {
    holder.as_ref().map(|holder| format!(", by {holder}")).unwrap_or_default()
}

fn advice(reason: &io::Error, address: SocketAddr) -> &'static str {
    match reason.kind() {
        // From inside of a container the holder's name is not to be seen.
        io::ErrorKind::AddrInUse if KUBE_PROXY_PORTS.contains(&address.port()) => {
            "if kube-proxy still runs on this node, remove it first (its rules go on serving until the agent does); otherwise stop what has the port, or \
             give another address (an empty one switches the listener off)"
        }
        io::ErrorKind::AddrInUse => "stop it, or give another address (an empty one switches the listener off)",
        io::ErrorKind::PermissionDenied => "a port below 1024 needs the capability NET_BIND_SERVICE",
        io::ErrorKind::AddrNotAvailable => "give an address that this host has",
        _ => "give another address (an empty one switches the listener off)",
    }
}

/// A group of paths that a listener serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Page {
    Healthz,
    Metrics,
    DnsHealth,
    DnsReady,
    DnsMetrics,
}

impl Page {
    fn paths(self) -> &'static [&'static str] {
        match self {
            Page::Healthz => &["/healthz", "/livez", "/readyz"],
            Page::Metrics => &["/proxyMode", "/version", "/metrics"],
            Page::DnsHealth => &["/health"],
            Page::DnsReady => &["/ready"],
            Page::DnsMetrics => &["/metrics"],
        }
    }
}

/// The open listeners. Dropping it closes them.
#[derive(Debug)]
pub struct Serving {
    addresses: Vec<SocketAddr>,
    stop: watch::Sender<()>,
    listeners: JoinSet<()>,
}

/// The pages, before anybody is answered.
pub struct Site {
    pages: Arc<Pages>,
    config: AdminConfig,
}

impl Serving {
    /// The addresses that are served, in no particular order; where port 0 was asked for, the port that was found.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Closes the listeners and waits for the answers that are under way.
    pub async fn shutdown(self) {
        let Serving { stop, mut listeners, .. } = self;
        drop(stop);
        while listeners.join_next().await.is_some() {}
    }
}

/// Makes the pages.
///
/// # Errors
/// When a metric cannot be registered.
pub fn site(config: &AdminConfig, status: Status, registries: Registries) -> Result<Site, AdminError> {
    gauges::register(&status, &registries)?;
    Ok(Site { pages: Arc::new(Pages::new(status, registries)?), config: config.clone() })
}

impl Site {
    /// Opens the socket for probes, where one is configured. It is this agent's own, unlike the ports of the node, which another agent may hold:
    /// a probe of this agent must not be answered by that one.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn serve_probes(&self) -> Result<JoinSet<()>, AdminError> {
        let mut listeners = JoinSet::new();
        let Some(path) = &self.config.probe else { return Ok(listeners) };
        let socket = listen_at(path).map_err(|reason| AdminError::Probe { path: path.clone(), reason })?;
        let (stop, stopped) = watch::channel(());
        let answer = self.answer([Page::Healthz].into());
        listeners.spawn(async move {
            let _until_the_end = stop;
            accept(Listener::Unix(socket), answer, stopped).await;
        });
        Ok(listeners)
    }

    /// Opens the ports, as soon as no other agent of this node has them; equal addresses share one, with the paths of all.
    ///
    /// # Errors
    /// An address cannot be bound: the message names the flag and, where it can be found, the process that has the port.
    pub async fn serve(self, sockets: Sockets) -> Result<Serving, AdminError> {
        sockets.granted().await;
        let (stop, stopped) = watch::channel(());
        let mut serving = Serving { addresses: Vec::new(), stop, listeners: JoinSet::new() };
        for (address, (flag, pages)) in wanted(&self.config) {
            let listener = bind_patiently(flag, address, &sockets).await?;
            let bound = listener.local_addr().unwrap_or(address);
            tracing::info!(address = %bound, setting = flag, "serving health and metrics");
            serving.addresses.push(bound);
            serving.listeners.spawn(accept(Listener::Tcp(listener), self.answer(pages), stopped.clone()));
        }
        Ok(serving)
    }

    fn answer(&self, shown: BTreeSet<Page>) -> Arc<Answer> {
        let pages = self.pages.clone();
        Arc::new(move |request: &Request<Incoming>| pages.answer(request, &shown))
    }
}

/// A Unix socket in the place of one that an earlier process has left.
fn listen_at(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(socket)
}

/// For each address the first setting that asked for it, and the pages of all that did.
fn wanted(config: &AdminConfig) -> BTreeMap<SocketAddr, (&'static str, BTreeSet<Page>)> {
    let settings = [
        ("healthz-bind-address", config.healthz, Page::Healthz),
        ("metrics-bind-address", config.metrics, Page::Metrics),
        ("dns-health-address", config.dns_health, Page::DnsHealth),
        ("dns-ready-address", config.dns_ready, Page::DnsReady),
        ("dns-metrics-address", config.dns_metrics, Page::DnsMetrics),
    ];
    let mut wanted = BTreeMap::new();
    for (flag, address, page) in settings {
        if let Some(address) = address {
            let (_, pages) = wanted.entry(address).or_insert_with(|| (flag, BTreeSet::new()));
            pages.insert(page);
        }
    }
    wanted
}

async fn bind_patiently(flag: &'static str, address: SocketAddr, sockets: &Sockets) -> Result<TcpListener, AdminError> {
    loop {
        match bind(flag, address, sockets) {
            Err(AdminError::Bind { reason, .. }) if reason.kind() == io::ErrorKind::AddrInUse && sockets.is_patient() => {
                tokio::time::sleep(PAUSE).await;
            }
            outcome => return outcome,
        }
    }
}

fn bind(flag: &'static str, address: SocketAddr, sockets: &Sockets) -> Result<TcpListener, AdminError> {
    let mut bound = sockets.tcp(address);
    // `:8080` means every address; a host without IPv6 has only those of IPv4.
    if address.is_ipv6() && address.ip().is_unspecified() && bound.as_ref().is_err_and(lacks_ipv6) {
        bound = sockets.tcp((Ipv4Addr::UNSPECIFIED, address.port()).into());
    }
    bound.and_then(TcpListener::from_std).map_err(|reason| {
        let in_use = reason.kind() == io::ErrorKind::AddrInUse;
        let holder = in_use.then(|| holder::of(Protocol::Tcp, address)).flatten();
        AdminError::Bind { flag, address, reason, holder }
    })
}

fn lacks_ipv6(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    code == Some(Errno::EAFNOSUPPORT as i32) || code == Some(Errno::EADDRNOTAVAIL as i32)
}

/// What a listener answers to a request.
type Answer = dyn Fn(&Request<Incoming>) -> Response<Full<Bytes>> + Send + Sync;

/// Where connections come from.
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Listener {
    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Listener::Tcp(listener) => Box::new(listener.accept().await?.0),
            Listener::Unix(listener) => Box::new(listener.accept().await?.0),
        })
    }
}

/// Serves connections until `stopped` is closed, then finishes the answers under way.
async fn accept(listener: Listener, answer: Arc<Answer>, mut stopped: watch::Receiver<()>) {
    let mut connections = JoinSet::new();
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        tokio::select! {
            connection = listener.accept() => match connection {
                Ok(stream) => {
                    if open.len() >= MAX_CONNECTIONS && let Some(oldest) = open.pop_front() {
                        oldest.abort();
                    }
                    let served = converse(stream, answer.clone(), stopped.clone());
                    open.push_back(connections.spawn(served));
                }
                // Out of descriptors, mostly: without a pause this would spin.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            },
            Some(_) = connections.join_next() => open.retain(|connection| !connection.is_finished()),
            _ = stopped.changed() => break,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn converse(stream: Box<dyn Stream>, answer: Arc<Answer>, mut stopped: watch::Receiver<()>) {
    let service = service_fn(|request| {
        let response = answer(&request);
        async move { Ok::<_, Infallible>(response) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(REQUEST_TIMEOUT);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    // A client that goes away in the middle is its own affair: nothing to report.
    tokio::select! {
        _ = connection.as_mut() => {}
        _ = stopped.changed() => {
            connection.as_mut().graceful_shutdown();
            let _ = tokio::time::timeout(DRAIN_TIMEOUT, connection).await;
        }
    }
}
