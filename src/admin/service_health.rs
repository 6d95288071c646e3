//! `healthCheckNodePort`: what cloud load balancers ask a node about a Service with externalTrafficPolicy Local.
//!
//! kube-proxy's answers, byte for byte (`pkg/proxy/healthcheck/service_health.go`): any path; 200 while this node has ready endpoints of the
//! Service and the service proxy is healthy, else 503. Each family has listeners and a count of its own. Unlike kube-proxy's, a listener
//! that cannot be opened does not close the others, and is tried again without a change of any object.

use super::{Listener, Status, accept};
use crate::handover::Sockets;
use crate::listeners::Listeners;
use crate::model::{Family, ObjectKey};
use crate::notices::{FAILED_TO_START_SERVICE_HEALTHCHECK, Notices, Subject};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::{Response, StatusCode};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

/// How often a listener that could not be opened is tried again.
const RETRY: Duration = Duration::from_secs(5);
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// What load balancers may ask about a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// `healthCheckNodePort`.
    pub port: u16,
    /// The families in which the Service has a ClusterIP, and how many addresses of ready endpoints are on this node.
    pub endpoints: BTreeMap<Family, usize>,
}

/// The health of Services. Clones are one.
#[derive(Clone, Debug)]
pub struct ServiceHealth(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    wanted: Mutex<Wanted>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Wanted {
    checks: BTreeMap<ObjectKey, Check>,
    addresses: Vec<IpAddr>,
}

impl ServiceHealth {
    /// No Service, no address.
    pub fn new() -> ServiceHealth {
        ServiceHealth(Arc::default())
    }

    /// What is to be answered about a Service from now on; `None` for nothing.
    pub fn set(&self, service: &ObjectKey, check: Option<Check>) {
        let mut wanted = self.wanted();
        let before = match check.clone() {
            Some(check) => wanted.checks.insert(service.clone(), check),
            None => wanted.checks.remove(service),
        };
        drop(wanted);
        // Counts are read at each question; only ports and families need other listeners.
        let listeners = |check: Option<Check>| check.map(|check| (check.port, check.endpoints.into_keys().collect::<Vec<_>>()));
        if listeners(before) != listeners(check) {
            self.0.changed.notify_one();
        }
    }

    /// The node's addresses on which questions are answered: those of NodePorts.
    pub fn set_addresses(&self, addresses: Vec<IpAddr>) {
        self.wanted().addresses = addresses;
        self.0.changed.notify_one();
    }

    /// What is answered about a Service.
    pub fn check(&self, service: &ObjectKey) -> Option<Check> {
        self.wanted().checks.get(service).cloned()
    }

    /// Opens and closes listeners as they are wanted, as soon as another agent does not answer. Dropping the future closes all.
    pub async fn serve(self, node_name: String, status: Status, notices: Notices, sockets: Sockets) {
        sockets.granted().await;
        self.serve_retrying(RETRY, node_name, status, notices, sockets).await;
    }

    async fn serve_retrying(self, retry: Duration, node_name: String, status: Status, notices: Notices, sockets: Sockets) {
        let mut open = Listeners::among(sockets);
        loop {
            let serve = |socket, service: &ObjectKey, address: SocketAddr| self.answer(socket, service, address, &status);
            let failed = |service: &ObjectKey, address: SocketAddr, why: &str| {
                // kube-proxy's words, and the address and holder besides.
                let port = address.port();
                let note = format!("node {node_name} failed to start healthcheck \"{service}\" on port {port}: {address}: {why}");
                notices.tell(&FAILED_TO_START_SERVICE_HEALTHCHECK, Subject::Service(service.clone()), note);
            };
            let complete = open.follow(self.listeners(), serve, failed).await;
            tokio::select! {
                () = self.0.changed.notified() => {}
                () = tokio::time::sleep(open.pause(retry)), if !complete => {}
            }
        }
    }

    fn answer(&self, socket: TcpListener, service: &ObjectKey, address: SocketAddr, status: &Status) -> JoinSet<()> {
        let (health, status, service) = (self.clone(), status.clone(), service.clone());
        let family = Family::of(address.ip());
        let answer = move |_: &_| respond(&service, health.endpoints(&service, family), status.health().healthy);
        let (stop, stopped) = watch::channel(());
        let mut task = JoinSet::new();
        task.spawn(async move {
            let _open = stop;
            accept(Listener::Tcp(socket), Arc::new(answer), stopped).await;
        });
        task
    }

    fn listeners(&self) -> Vec<(ObjectKey, SocketAddr)> {
        let wanted = self.wanted();
        let of_check = |(service, check): (&ObjectKey, &Check)| {
            let in_family = |address: &&IpAddr| check.endpoints.contains_key(&Family::of(**address));
            let addresses = wanted.addresses.iter().filter(in_family);
            let listener = |address: &IpAddr| (service.clone(), SocketAddr::new(*address, check.port));
            addresses.map(listener).collect::<Vec<_>>()
        };
        wanted.checks.iter().flat_map(of_check).collect()
    }

    fn endpoints(&self, service: &ObjectKey, family: Family) -> usize {
        self.wanted().checks.get(service).and_then(|check| check.endpoints.get(&family).copied()).unwrap_or(0)
    }

    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        self.0.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for ServiceHealth {
    fn default() -> ServiceHealth {
        ServiceHealth::new()
    }
}

fn respond(service: &ObjectKey, endpoints: usize, healthy: bool) -> Response<Full<Bytes>> {
    let ObjectKey { namespace, name } = service;
    let body = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{namespace}\",\n\t\t\"name\": \"{name}\"\n\t}},\n\t\"localEndpoints\": {endpoints},\n\t\
         \"serviceProxyHealthy\": {healthy}\n}}"
    );
    let mut response = Response::new(Full::new(body.into()));
    if endpoints == 0 || !healthy {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(WEIGHT, HeaderValue::from(endpoints));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{RunArgs, Surroundings, load};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    fn start(notices: Notices) -> (ServiceHealth, JoinSet<()>) {
        let surroundings = Surroundings { host_name: Some("node".into()), ..Surroundings::default() };
        let status = Status::new(&load(&RunArgs::default(), &surroundings).unwrap().0);
        let (health, mut task) = (ServiceHealth::new(), JoinSet::new());
        let sockets = Sockets::new(true);
        task.spawn(health.clone().serve_retrying(Duration::from_millis(20), "node-1".into(), status, notices, sockets));
        health.set_addresses(vec!["127.0.0.1".parse().unwrap()]);
        (health, task)
    }

    fn check(port: u16, count: usize) -> Option<Check> {
        Some(Check { port, endpoints: [(Family::V4, count)].into() })
    }

    /// None that the kernel gives to whoever asks for any: nobody else takes it meanwhile.
    fn free_port() -> u16 {
        let mut ports = std::iter::repeat_with(|| 10_000 + rand::random_range(0..20_000));
        ports.find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap()
    }

    async fn ask(port: u16) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        stream.write_all(b"GET /anything HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        Some(text.to_lowercase())
    }

    async fn until(port: u16, holds: impl Fn(&Option<String>) -> bool) -> Option<String> {
        for _ in 0..2000 {
            let answer = ask(port).await;
            if holds(&answer) {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("the last answer was {:?}", ask(port).await);
    }

    #[tokio::test]
    async fn answers_follow_the_count_and_end_with_the_service() {
        let (health, _task) = start(Notices::logged());
        let (web, port) = (ObjectKey::new("shop", "web"), free_port());
        health.set(&web, check(port, 2));
        let answer = until(port, Option::is_some).await.unwrap();
        assert!(answer.starts_with("http/1.1 200 ok\r\n"), "{answer}");
        assert!(answer.contains("\r\nx-load-balancing-endpoint-weight: 2\r\n"), "{answer}");
        let body = "{\n\t\"service\": {\n\t\t\"namespace\": \"shop\",\n\t\t\"name\": \"web\"\n\t},\n\t\"localendpoints\": 2,\n\t\"serviceproxyhealthy\": true\n}";
        assert!(answer.ends_with(body), "{answer}");
        health.set(&web, check(port, 0));
        assert!(ask(port).await.unwrap().starts_with("http/1.1 503 "));
        health.set(&web, None);
        until(port, Option::is_none).await;
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_an_event_on_the_service_and_is_tried_again() {
        let (notices, mut told) = Notices::sent();
        let (health, _task) = start(notices);
        let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = holder.local_addr().unwrap().port();
        health.set(&ObjectKey::new("shop", "web"), check(port, 1));
        let notice = told.recv().await.unwrap();
        assert_eq!(notice.about, Subject::Service(ObjectKey::new("shop", "web")));
        assert!(notice.note.starts_with(&format!("node node-1 failed to start healthcheck \"shop/web\" on port {port}: ")));
        assert!(notice.note.contains(&std::process::id().to_string()), "the holder is named: {}", notice.note);
        drop(holder);
        until(port, Option::is_some).await;
    }
}
