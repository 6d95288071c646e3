//! What happened, under CoreDNS's metric names: its dashboards and alerts work unchanged.
//!
//! `zone` is the zone of the server block that a question was for; `view` is empty, because there are no views.

mod cache;

pub(super) use cache::CacheHits;

use super::tally::{Tallies, Tally};
use super::top::Top;
use cache::CacheMetrics;
use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

const VIEW: &str = "";
/// The code of a name that does not exist.
const NX_DOMAIN: u16 = 3;
/// Sizes of messages, bytes.
pub(super) const SIZES: [u64; 14] = [0, 100, 200, 300, 400, 511, 1023, 2047, 4095, 8291, 16_000, 32_000, 48_000, 64_000];
/// Times, nanoseconds: from a quarter of a millisecond on, each twice the one before.
pub(super) const TIMES: [u64; 16] = {
    let mut times = [250_000; 16];
    let mut index = 1;
    while index < times.len() {
        times[index] = 2 * times[index - 1];
        index += 1;
    }
    times
};

/// The counters of DNS.
#[derive(Debug)]
pub struct Metrics {
    requests: IntCounterVec,
    durations: HistogramVec,
    request_sizes: HistogramVec,
    response_sizes: HistogramVec,
    dnssec_requests: IntCounterVec,
    responses: IntCounterVec,
    saved: IntCounterVec,
    /// What the threads of the fast path count of these.
    tallies: Tallies,
    panics: IntCounter,
    upstream_durations: HistogramVec,
    rejects: IntCounter,
    health_check_failures: IntCounterVec,
    health_checks_broken: IntCounter,
    connection_hits: IntCounterVec,
    connection_misses: IntCounterVec,
    hedges: IntCounter,
    programming: HistogramVec,
    plugins: IntGaugeVec,
    dropped: IntCounterVec,
    slips: IntCounter,
    reload_failed: IntCounter,
    reload_version: IntGaugeVec,
    refused: IntGauge,
    loops: IntGaugeVec,
    cache: CacheMetrics,
    /// The busiest names and clients.
    pub top: Top,
}

/// How a question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
}

/// Why a question got no answer on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// The client is in no network that may ask.
    Source,
    /// The client asks too often.
    Rate,
    /// It was longer than any question is.
    Size,
    /// Too many others were being worked on.
    Busy,
    /// Its client does not take the answers over TCP.
    Unsent,
}

/// Where a question was answered. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The listener: `dns://:53`.
    pub server: Arc<str>,
    /// The zone of the server block; `dropped` where there is none.
    pub zone: Arc<str>,
    /// The zones of the block's cache.
    pub zones: Arc<str>,
}

/// One answered question.
#[derive(Debug)]
pub struct Answered<'a> {
    /// Where it was answered.
    pub place: &'a Place,
    /// UDP or TCP.
    pub transport: Transport,
    /// Whether the client came over IPv6.
    pub ipv6: bool,
    /// The type that was asked for.
    pub rtype: u16,
    /// The size of the question, bytes.
    pub request_bytes: usize,
    /// The size of the answer, bytes.
    pub response_bytes: usize,
    /// Whether the DO bit was set.
    pub dnssec_ok: bool,
    /// The response code.
    pub code: u16,
    /// `kubernetes`, `forward` or empty.
    pub origin: &'a str,
    /// When work on it began.
    pub started: Instant,
}

impl Metrics {
    /// Makes the metrics and registers them. Fails when the registry already has one of the names.
    pub fn new(registry: &Registry) -> Result<Metrics, prometheus::Error> {
        let of_server = ["server", "zone", "view"];
        let by_transport = ["server", "zone", "view", "proto"];
        let build = IntGaugeVec::new(
            Opts::new("coredns_build_info", "The version of this DNS server, which is Waypost; the value is always 1."),
            &["version", "revision", "goversion"],
        )?;
        build.with_label_values(&[crate::VERSION, "", ""]).set(1);
        let metrics = Metrics {
            requests: counters(
                "coredns_dns_requests_total",
                "DNS questions, by protocol, address family and type.",
                &["server", "zone", "view", "proto", "family", "type"],
            )?,
            durations: histograms(
                "coredns_dns_request_duration_seconds",
                "Time from a DNS question to its answer.",
                &of_server,
                times(),
            )?,
            request_sizes: histograms("coredns_dns_request_size_bytes", "Size of DNS questions.", &by_transport, sizes())?,
            response_sizes: histograms("coredns_dns_response_size_bytes", "Size of DNS answers.", &by_transport, sizes())?,
            dnssec_requests: counters("coredns_dns_do_requests_total", "DNS questions with the DO bit set.", &of_server)?,
            responses: counters(
                "coredns_dns_responses_total",
                "DNS answers, by response code and origin.",
                &["server", "zone", "view", "rcode", "plugin"],
            )?,
            saved: counters(
                "waypost_dns_saved_questions_total",
                "Questions that were saved: names that the cluster's zones do not have, nearly all of them misses of search paths, answered from memory \
                 and not asked upstream (memory); and names of search paths that were tried here in the place of the client (autopath).",
                &["server", "zone", "view", "how"],
            )?,
            tallies: Tallies::default(),
            panics: IntCounter::new("coredns_panics_total", "DNS questions that made the server panic.")?,
            upstream_durations: histograms(
                "coredns_proxy_request_duration_seconds",
                "Time that an upstream server took to answer.",
                &["proxy_name", "to", "rcode"],
                times(),
            )?,
            rejects: IntCounter::new(
                "coredns_forward_max_concurrent_rejects_total",
                "Questions refused because too many were being forwarded.",
            )?,
            health_check_failures: counters(
                "coredns_proxy_healthcheck_failures_total",
                "Failed checks of upstream servers.",
                &["proxy_name", "to"],
            )?,
            health_checks_broken: IntCounter::new(
                "coredns_forward_healthcheck_broken_total",
                "Questions asked while every upstream server was down.",
            )?,
            connection_hits: counters(
                "coredns_proxy_conn_cache_hits_total",
                "Questions over a connection to an upstream server that was there.",
                &["proxy_name", "to", "proto"],
            )?,
            connection_misses: counters(
                "coredns_proxy_conn_cache_misses_total",
                "Questions for which a connection to an upstream server was made.",
                &["proxy_name", "to", "proto"],
            )?,
            hedges: IntCounter::new(
                "waypost_dns_hedges_total",
                "Questions asked at a second upstream server because the first was slow.",
            )?,
            loops: IntGaugeVec::new(
                Opts::new(
                    "waypost_dns_upstream_loop",
                    "For how many zones an upstream server is left out because it leads back to this one.",
                ),
                &["to"],
            )?,
            programming: histograms(
                "coredns_kubernetes_dns_programming_duration_seconds",
                "Time from the change of a pod or Service to the answers that follow from it.",
                &["service_kind"],
                prometheus::exponential_buckets(0.001, 2.0, 20)?,
            )?,
            plugins: IntGaugeVec::new(
                Opts::new(
                    "coredns_plugin_enabled",
                    "What takes part in answering, in the words of CoreDNS; the value is always 1.",
                ),
                &["server", "zone", "view", "name"],
            )?,
            dropped: counters(
                "waypost_dns_dropped_questions_total",
                "Questions that were not answered on purpose, by reason: source, rate, size, busy (with SERVFAIL where possible), or unsent (its client takes no answers over TCP).",
                &["reason"],
            )?,
            slips: IntCounter::new(
                "waypost_dns_rate_limit_slips_total",
                "Questions beyond the rate limit whose clients were sent to TCP.",
            )?,
            reload_failed: IntCounter::new(
                "coredns_reload_failed_total",
                "New configurations of DNS that could not be used; the one before goes on.",
            )?,
            reload_version: IntGaugeVec::new(
                Opts::new(
                    "coredns_reload_version_info",
                    "What tells the configuration of DNS in use from others; the value is always 1.",
                ),
                &["hash", "value"],
            )?,
            refused: IntGauge::new(
                "waypost_dns_configuration_refused",
                "1 while what is written for DNS cannot be done, so that DNS goes on as before, or is not served.",
            )?,
            cache: CacheMetrics::new()?,
            top: Top::default(),
        };
        registry.register(Box::new(build))?;
        for reason in [DropReason::Source, DropReason::Rate, DropReason::Size, DropReason::Busy, DropReason::Unsent] {
            metrics.dropped(reason, 0);
        }
        metrics.register(registry)?;
        Ok(metrics)
    }

    /// Counts an answered question.
    pub fn answered(&self, what: &Answered<'_>) {
        let transport = transport_label(what.transport);
        let family = family_label(what.ipv6);
        let (server, zone, rtype) = (&*what.place.server, &*what.place.zone, TYPES[type_index(what.rtype)]);
        self.requests.with_label_values(&[server, zone, VIEW, transport, family, rtype]).inc();
        self.responses.with_label_values(&[server, zone, VIEW, code_label(what.code), what.origin]).inc();
        self.durations.with_label_values(&[server, zone, VIEW]).observe(what.started.elapsed().as_secs_f64());
        self.request_sizes.with_label_values(&[server, zone, VIEW, transport]).observe(what.request_bytes as f64);
        self.response_sizes.with_label_values(&[server, zone, VIEW, transport]).observe(what.response_bytes as f64);
        if what.code == NX_DOMAIN && what.origin == "kubernetes" {
            self.saved.with_label_values(&[server, zone, VIEW, "memory"]).inc();
        }
        if what.dnssec_ok {
            self.dnssec_requests.with_label_values(&[server, zone, VIEW]).inc();
        }
    }

    /// So many names of a search path were tried in the place of the client.
    pub fn searched(&self, place: &Place, names: usize) {
        self.saved.with_label_values(&[&place.server, &place.zone, VIEW, "autopath"]).inc_by(names as u64);
    }

    /// The counts of one thread that answers at once, by this part, on one port and for clients of one family that come so.
    pub(super) fn tally(&self, place: &Place, transport: Transport, ipv6: bool, origin: &'static str) -> Arc<Tally> {
        let labels = [("server", place.server.clone()), ("zone", place.zone.clone()), ("view", VIEW.into())];
        self.tallies.join(labels, transport_label(transport), family_label(ipv6), origin)
    }

    /// Counts a panic that was contained.
    pub fn panicked(&self) {
        self.panics.inc();
    }

    /// Counts an upstream's answer.
    pub fn upstream_answered(&self, upstream: &str, code: u16, took: Duration) {
        let labels = ["forward", upstream, code_label(code)];
        self.upstream_durations.with_label_values(&labels).observe(took.as_secs_f64());
    }

    /// Counts a question that was refused because too many are under way.
    pub fn rejected(&self) {
        self.rejects.inc();
    }

    /// An upstream server did not answer a check.
    pub fn health_check_failed(&self, upstream: SocketAddr) {
        self.health_check_failures.with_label_values(&["forward", &upstream.to_string()]).inc();
    }

    /// A question is asked although every upstream server is down.
    pub fn health_checks_broken(&self) {
        self.health_checks_broken.inc();
    }

    /// A connection to an upstream server is used, an old one or a new one; `tcp` or `tcp-tls`.
    pub fn connection_used(&self, upstream: SocketAddr, proto: &str, old: bool) {
        let counter = if old { &self.connection_hits } else { &self.connection_misses };
        counter.with_label_values(&["forward", &upstream.to_string(), proto]).inc();
    }

    /// A Service's names are served as they follow from a change at that time.
    pub fn programmed(&self, is_headless: bool, changed: SystemTime) {
        let kind = if is_headless { "headless_with_selector" } else { "cluster_ip" };
        // The clocks of two machines: a change from the future took no time.
        self.programming.with_label_values(&[kind]).observe(changed.elapsed().unwrap_or_default().as_secs_f64());
    }

    /// Questions got no answer on purpose.
    pub fn dropped(&self, reason: DropReason, count: usize) {
        self.dropped.with_label_values(&[reason_label(reason)]).inc_by(count as u64);
    }

    /// A client that asks too often was sent to TCP.
    pub fn slipped(&self) {
        self.slips.inc();
    }

    /// DNS is configured so from now on; the version tells two configurations apart.
    pub fn configured(&self, version: Option<&str>) {
        self.reload_version.reset();
        if let Some(version) = version {
            self.reload_version.with_label_values(&["siphash", version]).set(1);
        }
    }

    /// What is written cannot be done.
    pub fn configuration_refused(&self) {
        self.reload_failed.inc();
        self.refused.set(1);
    }

    /// What is written is obeyed.
    pub fn configuration_accepted(&self) {
        self.refused.set(0);
    }

    /// A second upstream server is asked because the first is slow.
    pub fn hedged(&self) {
        self.hedges.inc();
    }

    /// An upstream server is left out for one more zone because it leads back here, or for one less. One that never did is not shown.
    pub fn upstream_leads_back(&self, upstream: SocketAddr, is_loop: bool) {
        self.loops.with_label_values(&[&upstream.to_string()]).add(if is_loop { 1 } else { -1 });
    }

    /// No plugin is there until others are named.
    pub fn no_plugins(&self) {
        self.plugins.reset();
    }

    /// These plugins of CoreDNS have their like here.
    pub fn enabled(&self, place: &Place, plugins: &[&str]) {
        plugins.iter().for_each(|name| self.plugins.with_label_values(&[&*place.server, &*place.zone, VIEW, *name]).set(1));
    }

    /// How many questions were refused because too many were under way.
    pub fn rejects(&self) -> u64 {
        self.rejects.get()
    }

    fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(self.tallies.beside(&self.requests))?;
        registry.register(self.tallies.beside(&self.durations))?;
        registry.register(self.tallies.beside(&self.request_sizes))?;
        registry.register(self.tallies.beside(&self.response_sizes))?;
        registry.register(self.tallies.beside(&self.dnssec_requests))?;
        registry.register(self.tallies.beside(&self.responses))?;
        registry.register(self.tallies.beside(&self.saved))?;
        registry.register(Box::new(self.panics.clone()))?;
        registry.register(Box::new(self.programming.clone()))?;
        registry.register(Box::new(self.plugins.clone()))?;
        registry.register(Box::new(self.upstream_durations.clone()))?;
        registry.register(Box::new(self.reload_version.clone()))?;
        for counter in [&self.rejects, &self.health_checks_broken, &self.hedges, &self.slips, &self.reload_failed] {
            registry.register(Box::new(counter.clone()))?;
        }
        for counter in [&self.health_check_failures, &self.connection_hits, &self.connection_misses, &self.dropped] {
            registry.register(Box::new(counter.clone()))?;
        }
        registry.register(Box::new(self.loops.clone()))?;
        registry.register(Box::new(self.refused.clone()))?;
        self.cache.register(registry)
    }
}

fn reason_label(reason: DropReason) -> &'static str {
    match reason {
        DropReason::Source => "source",
        DropReason::Rate => "rate",
        DropReason::Size => "size",
        DropReason::Busy => "busy",
        DropReason::Unsent => "unsent",
    }
}

fn counters(name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
    IntCounterVec::new(Opts::new(name, help), labels)
}

fn histograms(name: &str, help: &str, labels: &[&str], buckets: Vec<f64>) -> Result<HistogramVec, prometheus::Error> {
    HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), labels)
}

fn times() -> Vec<f64> {
    TIMES.iter().map(|nanoseconds| *nanoseconds as f64 / 1e9).collect()
}

fn sizes() -> Vec<f64> {
    SIZES.iter().map(|bytes| *bytes as f64).collect()
}

/// The types that CoreDNS names; the rest is `other`, so that clients cannot make new time series at will.
pub(super) const TYPES: [&str; 19] = [
    "other", "A", "NS", "CNAME", "SOA", "PTR", "MX", "TXT", "AAAA", "SRV", "NAPTR", "DS", "RRSIG", "NSEC", "DNSKEY", "HTTPS",
    "IXFR", "AXFR", "ANY",
];

/// Where in [`TYPES`] a type is.
pub(super) fn type_index(rtype: u16) -> usize {
    match rtype {
        1 => 1,
        2 => 2,
        5 => 3,
        6 => 4,
        12 => 5,
        15 => 6,
        16 => 7,
        28 => 8,
        33 => 9,
        35 => 10,
        43 => 11,
        46 => 12,
        47 => 13,
        48 => 14,
        65 => 15,
        251 => 16,
        252 => 17,
        255 => 18,
        _ => 0,
    }
}

/// The numbers of IANA: 1 is IPv4, 2 is IPv6.
fn transport_label(transport: Transport) -> &'static str {
    match transport {
        Transport::Udp => "udp",
        Transport::Tcp => "tcp",
    }
}

fn family_label(ipv6: bool) -> &'static str {
    if ipv6 { "2" } else { "1" }
}

/// CoreDNS's name of a response code.
pub(super) fn code_label(code: u16) -> &'static str {
    match code {
        0 => "NOERROR",
        1 => "FORMERR",
        2 => "SERVFAIL",
        3 => "NXDOMAIN",
        4 => "NOTIMP",
        5 => "REFUSED",
        6 => "YXDOMAIN",
        7 => "YXRRSET",
        8 => "NXRRSET",
        9 => "NOTAUTH",
        10 => "NOTZONE",
        11 => "DSOTYPENI",
        16 => "BADVERS",
        17 => "BADKEY",
        18 => "BADTIME",
        19 => "BADMODE",
        20 => "BADNAME",
        21 => "BADALG",
        22 => "BADTRUNC",
        23 => "BADCOOKIE",
        _ => "other",
    }
}
