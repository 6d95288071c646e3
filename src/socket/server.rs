//! The agent's end: requests in, questions to the agent's task, answers out.

use super::{ExplainRequest, Explained, Inquiry, Planned, Refusal, ServicesRequest};
use crate::dns::dig::{self, DigRequest, Dug, Listed, TopRequest, Unasked};
use crate::model::ObjectKey;
use crate::nft::{Held, new_connections, remembered_clients};
use crate::proxy::explain::{Explanation, InKernel, KernelState, Question, Unexplained};
use crate::proxy::listing::{Listing, Row};
use crate::proxy::{AffinityMap, Dest, Destination, KnownClient};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::convert::Infallible;
use std::fs::{self, Permissions};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

/// A question is short.
const LARGEST_REQUEST: usize = 16 * 1024;
/// Conversations at a time; others wait.
const AT_A_TIME: usize = 8;
/// A client that does not get its question out within this time, or an answer that takes longer, is given up.
const PATIENCE: Duration = Duration::from_secs(20);
/// A commit that is under way is waited for, for as long as it usually takes.
const COMMIT_PATIENCE: Duration = Duration::from_secs(2);
/// So many services are asked for at once: the agent's task has other work too.
const ROWS_AT_ONCE: usize = 100;
/// Between two looks at the counters.
const INTERVAL: Duration = Duration::from_secs(1);

/// The socket, open. Dropping it removes the path, unless a newer agent has taken it over.
#[derive(Debug)]
pub struct Listening {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl Listening {
    /// Opens the socket and puts it in the place of whatever is there. Its folder is made where that is missing.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn at(path: &Path) -> io::Result<Listening> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut new = path.as_os_str().to_owned();
        new.push(format!(".{}", std::process::id()));
        let new = PathBuf::from(new);
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&new)?;
        // Before it has its name nobody finds it, so nobody who may not comes in between.
        fs::set_permissions(&new, Permissions::from_mode(0o600))?;
        let inode = fs::metadata(&new)?.ino();
        fs::rename(&new, path)?;
        Ok(Listening { listener, path: path.to_path_buf(), inode })
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if fs::metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whom to ask for the answers.
#[derive(Clone)]
pub struct Desk {
    /// The agent's task, if it programs services.
    pub inquiries: Option<mpsc::Sender<Inquiry>>,
    /// The cluster domain.
    pub domain: Arc<str>,
    /// The host's own addresses.
    pub own_addresses: fn() -> Vec<IpAddr>,
    /// The DNS server, if it has one.
    pub dns: Option<dig::Desk>,
}

/// Answers questions until it is dropped.
pub async fn serve(listening: Listening, desk: Desk) {
    let places = Arc::new(Semaphore::new(AT_A_TIME));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listening.listener.accept().await {
            Ok((stream, _)) => {
                let desk = desk.clone();
                tokio::spawn(async move {
                    // A client that goes away in the middle is its own affair.
                    let _ = timeout(PATIENCE, converse(stream, desk)).await;
                    drop(place);
                });
            }
            // Out of descriptors, mostly: without a pause this would spin.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn converse(stream: UnixStream, desk: Desk) {
    let service = service_fn(|request| {
        let desk = desk.clone();
        async move { Ok::<_, Infallible>(desk.answer(request).await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(PATIENCE).keep_alive(false);
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

/// Why a request is not answered.
enum Failure {
    Status(StatusCode, String),
    Unexplained(Unexplained),
}

impl Desk {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let outcome = match (request.method(), request.uri().path()) {
            (&Method::POST, "/v1/explain") => self.explain(request).await.and_then(|explanation| encoded(&explanation)),
            (&Method::POST, "/v1/services") => self.services(request).await.and_then(|listing| encoded(&listing)),
            (&Method::POST, "/v1/dig") => self.dig(request).await.and_then(|dug| encoded(&dug)),
            (&Method::POST, "/v1/dns/top") => self.top(request).await.and_then(|listed| encoded(&listed)),
            (&Method::GET, "/version") => encoded(&serde_json::json!({ "version": crate::VERSION })),
            (_, path) => {
                let known = "POST /v1/explain, /v1/services, /v1/dig and /v1/dns/top, GET /version";
                Err(Failure::Status(
                    StatusCode::NOT_FOUND,
                    format!("there is no {} {path} here; there are {known}", request.method()),
                ))
            }
        };
        match outcome {
            Ok(body) => response(StatusCode::OK, body),
            Err(Failure::Status(code, error)) => refused(code, error, None),
            Err(Failure::Unexplained(Unexplained::Foreign(name))) => {
                refused(StatusCode::UNPROCESSABLE_ENTITY, Unexplained::Foreign(name.clone()).to_string(), Some(name))
            }
            Err(Failure::Unexplained(error)) => refused(StatusCode::UNPROCESSABLE_ENTITY, error.to_string(), None),
        }
    }

    async fn explain(&self, request: Request<Incoming>) -> Result<Explanation, Failure> {
        let ExplainRequest { from, to } = body(request).await?;
        let question = Question::parse(&from, &to, &self.domain).map_err(Failure::Unexplained)?;
        let own = (self.own_addresses)();
        let explained = |clients| self.ask(|reply| Inquiry::Explain(question.clone(), own.clone(), clients, reply));
        let Explained { mut explanation, mut planned, mut held } = explained(None).await?;
        let asked = explanation.iter().flat_map(|one| &one.accounts).flat_map(|account| &account.not_found);
        let asked: Vec<(AffinityMap, IpAddr)> = asked.copied().collect();
        if !asked.is_empty()
            && let Some(clients) = remembered(asked).await
        {
            Explained { explanation, planned, held } = explained(Some(clients)).await?;
        }
        let mut explanation = explanation.map_err(Failure::Unexplained)?;
        let held = timeout(COMMIT_PATIENCE, held).await.ok().and_then(Result::ok);
        for (number, planned) in planned.iter().enumerate() {
            let held = held.as_ref().and_then(|held| held.get(number));
            let of_dest = |address: Option<IpAddr>| address == Some(planned.dest.address);
            for account in explanation.accounts.iter_mut().filter(|account| of_dest(account.to.address)) {
                account.kernel = Some(in_kernel(planned, held));
            }
        }
        Ok(explanation)
    }

    async fn services(&self, request: Request<Incoming>) -> Result<Listing, Failure> {
        let ServicesRequest { namespace, name } = body(request).await?;
        let (node, mut keys) = self.ask(Inquiry::Services).await?;
        let is_meant = |key: &ObjectKey| {
            namespace.as_deref().is_none_or(|namespace| *key.namespace == *namespace)
                && name.as_deref().is_none_or(|name| *key.name == *name)
        };
        keys.retain(is_meant);
        keys.sort_unstable();
        let (before, looked) = (counters().await, Instant::now());
        let mut services: Vec<Row> = Vec::with_capacity(keys.len());
        for some in keys.chunks(ROWS_AT_ONCE) {
            services.extend(self.ask(|reply| Inquiry::Rows(some.to_vec(), reply)).await?);
        }
        if let Some(before) = before {
            tokio::time::sleep(INTERVAL).await;
            if let Some(after) = counters().await {
                // Rows of many services take their time as well.
                let seconds = looked.elapsed().as_secs_f64();
                services.iter_mut().for_each(|row| row.count(&before, &after, seconds));
            }
        }
        Ok(Listing { node, services })
    }

    async fn dig(&self, request: Request<Incoming>) -> Result<Dug, Failure> {
        let request: DigRequest = body(request).await?;
        self.dns()?.dig(&request).await.map_err(unasked)
    }

    async fn top(&self, request: Request<Incoming>) -> Result<Listed, Failure> {
        let request: TopRequest = body(request).await?;
        self.dns()?.top(&request).await.map_err(unasked)
    }

    fn dns(&self) -> Result<&dig::Desk, Failure> {
        let none = "this agent serves no DNS: it has no --dns-address";
        self.dns.as_ref().ok_or_else(|| Failure::Status(StatusCode::NOT_FOUND, none.to_string()))
    }

    async fn ask<T>(&self, inquiry: impl FnOnce(oneshot::Sender<T>) -> Inquiry) -> Result<T, Failure> {
        let gone =
            || Failure::Status(StatusCode::SERVICE_UNAVAILABLE, "the agent is not ready to answer, or about to end".into());
        let none = || Failure::Status(StatusCode::NOT_FOUND, "this agent programs no services: it has role dns".into());
        let (reply, answer) = oneshot::channel();
        self.inquiries.as_ref().ok_or_else(none)?.send(inquiry(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }
}

fn unasked(error: Unasked) -> Failure {
    Failure::Status(StatusCode::UNPROCESSABLE_ENTITY, error.to_string())
}

/// The counters of new connections, read beside the agent's own work; `None` where the kernel does not tell.
async fn counters() -> Option<HashMap<Dest, u64>> {
    let read = tokio::task::spawn_blocking(new_connections).await.ok()?;
    read.map_err(|error| tracing::warn!(%error, "cannot read the counters of services")).ok()
}

/// Where the kernel remembers that these clients went, read beside the agent's own work; `None` where it does not tell.
async fn remembered(asked: Vec<(AffinityMap, IpAddr)>) -> Option<Vec<KnownClient>> {
    let read = tokio::task::spawn_blocking(move || remembered_clients(&asked)).await.ok()?;
    read.map_err(|error| tracing::warn!(%error, "cannot read where clients went")).ok()
}

/// Holds the plan against what was committed.
fn in_kernel(planned: &Planned, held: Option<&Held>) -> KernelState {
    let said = |state, text: &str| KernelState { state, text: text.to_string() };
    let Some(held) = held else {
        return said(InKernel::Unknown, "a large change is being committed; ask again in a moment");
    };
    let is = held.destination.as_ref().map(Destination::unseated);
    let should_be = planned.wanted.as_ref().map(Destination::unseated);
    match (&held.rejected, is == should_be, planned.waits, held.in_step) {
        (Some(reason), ..) => said(InKernel::Refused, &format!("it refused this destination: {reason}")),
        (None, true, _, true) => said(InKernel::InStep, "it holds what is shown here"),
        (None, false, true, _) => said(InKernel::Pending, "a change is on its way; it holds the state before"),
        (None, true, _, false) => said(InKernel::Differs, "the table was not as it was left; it is being compared and mended"),
        (None, false, false, _) => said(InKernel::Differs, "it holds something else, and is compared with the plan again soon"),
    }
}

async fn body<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Failure> {
    let bad = |error: String| Failure::Status(StatusCode::BAD_REQUEST, error);
    let body = Limited::new(request.into_body(), LARGEST_REQUEST).collect().await;
    let body = body.map_err(|error| bad(format!("the request cannot be read: {error}")))?.to_bytes();
    serde_json::from_slice(&body).map_err(|error| bad(format!("the request is not the JSON that is expected: {error}")))
}

fn encoded(answer: &impl Serialize) -> Result<Vec<u8>, Failure> {
    let mut body = serde_json::to_vec(answer)
        .map_err(|error| Failure::Status(StatusCode::INTERNAL_SERVER_ERROR, format!("the answer cannot be written: {error}")))?;
    body.push(b'\n');
    Ok(body)
}

fn refused(code: StatusCode, error: String, foreign: Option<String>) -> Response<Full<Bytes>> {
    response(code, serde_json::to_vec(&Refusal { error, foreign }).unwrap_or_default())
}

fn response(code: StatusCode, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
