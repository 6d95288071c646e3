//! The pages: a path and the status in, a response out.

use super::{FamilyHealth, Health, Page, Registries, Status};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::{Method, Request, Response, StatusCode};
use k8s_openapi::jiff::Timestamp;
use prometheus::{Encoder, IntCounterVec, Opts, Registry, TextEncoder};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// What the pages show, shared by all listeners.
#[derive(Debug)]
pub(super) struct Pages {
    status: Status,
    registries: Registries,
    healthz: IntCounterVec,
    livez: IntCounterVec,
}

impl Pages {
    pub(super) fn new(status: Status, registries: Registries) -> Result<Pages, prometheus::Error> {
        let healthz = counter(&registries.proxy, "kubeproxy_proxy_healthz_total", "Answers of /healthz by status code")?;
        let livez = counter(&registries.proxy, "kubeproxy_proxy_livez_total", "Answers of /livez by status code")?;
        Ok(Pages { status, registries, healthz, livez })
    }

    /// Answers a request to a listener that has these pages.
    pub(super) fn answer<B>(&self, request: &Request<B>, pages: &BTreeSet<Page>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are understood here\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        let has = |page: Page| pages.contains(&page);
        match request.uri().path() {
            "/healthz" if has(Page::Healthz) => self.healthz(),
            "/livez" if has(Page::Healthz) => self.livez(),
            "/readyz" if has(Page::Healthz) => self.readyz(),
            "/metrics" if has(Page::Metrics) || has(Page::DnsMetrics) => self.metrics(pages),
            "/proxyMode" if has(Page::Metrics) => text(StatusCode::OK, "nftables"),
            "/version" if has(Page::Metrics) => text(StatusCode::OK, &format!("waypost {}\n", crate::VERSION)),
            "/health" if has(Page::DnsHealth) => text(StatusCode::OK, "OK"),
            "/ready" if has(Page::DnsReady) => match self.status.pending_dns() {
                pending if pending.is_empty() => text(StatusCode::OK, "OK"),
                pending => ready(&pending),
            },
            _ => text(StatusCode::NOT_FOUND, &format!("not found; there is {}\n", paths(pages).join(", "))),
        }
    }

    /// As kube-proxy: 503 while the node should get no traffic, so that load balancers look elsewhere.
    fn healthz(&self) -> Response<Full<Bytes>> {
        let health = self.status.health();
        let healthy = health.healthy && health.node_eligible;
        answer_health(&health, healthy, Some(health.node_eligible), &self.healthz)
    }

    /// As kube-proxy: the node's state is no reason to restart the agent; nor is one family of two that the kernel refuses.
    fn livez(&self) -> Response<Full<Bytes>> {
        let health = self.status.health();
        answer_health(&health, health.alive, None, &self.livez)
    }

    /// An old state is no reason to be taken out of service, nor is an old configuration of DNS or a family that cannot be had; that it is so is said
    /// all the same.
    fn readyz(&self) -> Response<Full<Bytes>> {
        match (self.status.pending(), self.status.remarks()) {
            (pending, remarks) if pending.is_empty() && !remarks.is_empty() => text(
                StatusCode::OK,
                &format!(
                    "ok, {}
",
                    remarks.join(", ")
                ),
            ),
            (pending, _) => ready(&pending),
        }
    }

    fn metrics(&self, pages: &BTreeSet<Page>) -> Response<Full<Bytes>> {
        let mut families = self.registries.process.gather();
        if pages.contains(&Page::Metrics) {
            families.extend(self.registries.proxy.gather());
        }
        if pages.contains(&Page::DnsMetrics) {
            families.extend(self.registries.dns.gather());
        }
        let mut body = Vec::new();
        match TextEncoder::new().encode(&families, &mut body) {
            Ok(()) => response(StatusCode::OK, TextEncoder::new().format_type(), body),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("metrics cannot be written: {error}\n")),
        }
    }
}

fn answer_health(health: &Health, healthy: bool, node_eligible: Option<bool>, counter: &IntCounterVec) -> Response<Full<Bytes>> {
    let code = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    counter.with_label_values(&[code.as_str()]).inc();
    let page = HealthPage::new(health, healthy, node_eligible, Timestamp::now());
    match serde_json::to_string(&page) {
        Ok(body) => response(code, "application/json", body),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("health cannot be written: {error}\n")),
    }
}

fn counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounterVec, prometheus::Error> {
    let counter = IntCounterVec::new(Opts::new(name, help), &["code"])?;
    registry.register(Box::new(counter.clone()))?;
    // Both codes from the start, so that a first 503 is an increase and not a new series.
    for code in ["200", "503"] {
        counter.with_label_values(&[code]);
    }
    Ok(counter)
}

/// kube-proxy's format (1.34 and later), field for field.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HealthPage {
    #[serde(skip_serializing_if = "Option::is_none")]
    last_updated: Option<Timestamp>,
    current_time: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
    status: BTreeMap<String, FamilyStatus>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FamilyStatus {
    #[serde(skip_serializing_if = "Option::is_none")]
    last_updated: Option<Timestamp>,
    healthy: bool,
}

impl HealthPage {
    fn new(health: &Health, answers_ok: bool, node_eligible: Option<bool>, now: Timestamp) -> HealthPage {
        let time = |updated| Timestamp::try_from(updated).ok();
        let status = |family: &FamilyHealth| {
            let status = FamilyStatus { last_updated: family.updated.and_then(time), healthy: family.healthy };
            (family.family.to_string(), status)
        };
        let latest = health.families.iter().filter_map(|family| family.updated).max();
        HealthPage {
            // Load balancers read an old time as trouble, also where there was only nothing to do: kube-proxy says "now" while all is well.
            last_updated: if answers_ok { Some(now) } else { latest.and_then(time) },
            current_time: now,
            node_eligible,
            // The rules alone: that the node should get no traffic is said by the field before it, and by the code.
            healthy: health.healthy,
            status: health.families.iter().map(status).collect(),
        }
    }
}

fn ready(pending: &[String]) -> Response<Full<Bytes>> {
    match pending {
        [] => text(StatusCode::OK, "ok\n"),
        pending => text(StatusCode::SERVICE_UNAVAILABLE, &format!("waiting for:\n- {}\n", pending.join("\n- "))),
    }
}

fn paths(pages: &BTreeSet<Page>) -> Vec<&'static str> {
    let mut paths: Vec<&str> = pages.iter().flat_map(|page| page.paths()).copied().collect();
    paths.dedup();
    paths
}

fn text(code: StatusCode, body: &str) -> Response<Full<Bytes>> {
    response(code, "text/plain; charset=utf-8", body.to_string())
}

fn response(code: StatusCode, content_type: &str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = code;
    let content_type = HeaderValue::from_str(content_type).unwrap_or(HeaderValue::from_static("text/plain"));
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
