//! The metrics of DNS beside those of the stock CoreDNS, after the same questions: names, types, labels, the labels' values, buckets and counts.

use super::agent::http_get;
use super::cluster::Cluster;
use std::collections::{BTreeMap, BTreeSet};

/// About CoreDNS's own making: how it asks itself for its health, reads its files, and talks to the API server (for which Waypost has
/// metrics of its own); and connections to upstream servers, which are shown when there has been one.
const THEIRS_ALONE: [&str; 8] = [
    "coredns_health_request_duration_seconds",
    "coredns_health_request_failures_total",
    "coredns_hosts_reload_timestamp_seconds",
    "coredns_kubernetes_rest_client_requests_total",
    "coredns_local_localhost_requests_total",
    "coredns_proxy_conn_cache_hits_total",
    "coredns_proxy_conn_cache_misses_total",
    "coredns_reload_failed_total",
];
/// Of one question each counts one. Of some CoreDNS counts two, because it asks itself for the target of an ExternalName service; and it counts
/// its own probes for loops.
const ONE_OF_EACH: [&str; 3] =
    ["coredns_dns_requests_total", "coredns_dns_request_size_bytes_count", "coredns_dns_response_size_bytes_count"];
const PROGRAMMING: &str = "coredns_kubernetes_dns_programming_duration_seconds_count";
const UPSTREAM: &str = "coredns_proxy_request_duration_seconds_count";
/// All that CoreDNS says in these labels must be said here as well.
const VALUES: [(&str, &str); 6] = [
    ("coredns_dns_responses_total", "rcode"),
    ("coredns_dns_requests_total", "type"),
    ("coredns_plugin_enabled", "name"),
    (UPSTREAM, "to"),
    (UPSTREAM, "proxy_name"),
    (PROGRAMMING, "service_kind"),
];
/// What the label `plugin` of answers may say, by server: ours where an answer is from, CoreDNS always the plugin that comes first in it. Ours says
/// nothing of what is refused before any name is looked for.
const PLUGINS: [&[&str]; 2] = [&["", "cache", "forward", "kubernetes"], &["errors"]];

/// What a `/metrics` page says.
pub struct Page {
    /// Values by name, and by labels in alphabetical order.
    samples: BTreeMap<(String, String), f64>,
    /// Types by name.
    types: BTreeMap<String, String>,
}

impl Page {
    /// Reads the page at this address. `server` is where DNS is served: labels that name its port say `PORT` instead.
    pub fn of(cluster: &Cluster, address: &str, server: &str) -> Page {
        let port = server.rsplit(':').next().unwrap_or_default();
        let (_, text) = http_get(cluster.namespace(), address, "/metrics").expect("the server shows its metrics");
        let mut page = Page { samples: BTreeMap::new(), types: BTreeMap::new() };
        for line in text.lines() {
            if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
                page.types.insert(name.to_string(), kind.to_string());
            } else if !line.starts_with('#')
                && let Some((sample, value)) = line.rsplit_once(' ')
            {
                let (name, labels) = sample.split_once('{').unwrap_or((sample, "}"));
                let labels = labels.trim_end_matches('}').replace(&format!("//:{port}"), "//:PORT");
                let mut labels: Vec<String> = labels.split("\",").map(bound).filter(|label| !label.is_empty()).collect();
                labels.sort_unstable();
                page.samples.insert((name.to_string(), labels.join(",")), value.parse().unwrap_or(f64::NAN));
            }
        }
        page
    }

    /// What was counted under this name since an earlier look, by labels.
    fn since<'a>(&'a self, before: &'a Page, name: &'a str) -> BTreeMap<&'a str, f64> {
        let of = self.samples.iter().filter(move |((sample, _), _)| sample == name);
        let grown = of.map(|(key, value)| (key.1.as_str(), value - before.samples.get(key).copied().unwrap_or(0.0)));
        grown.filter(|(_, grown)| *grown != 0.0).collect()
    }

    /// The values of a label.
    pub fn values(&self, name: &str, label: &str) -> BTreeSet<&str> {
        let of = self.samples.keys().filter(|(sample, _)| sample == name).flat_map(|(_, labels)| labels.split(','));
        of.filter_map(|pair| pair.strip_prefix(label)?.strip_prefix('=')).collect()
    }

    /// Of which type a metric is.
    pub fn kind(&self, metric: &str) -> Option<&str> {
        self.types.get(metric).map(String::as_str)
    }

    /// All combinations of labels that a metric has.
    pub fn labels(&self, name: &str) -> BTreeSet<&str> {
        self.samples.keys().filter(|(sample, _)| sample == name).map(|(_, labels)| labels.as_str()).collect()
    }

    /// The sum of what has this label with its value; of everything, where it is empty.
    pub fn sum(&self, name: &str, label: &str) -> f64 {
        let has = |labels: &str| label.is_empty() || labels.split(',').any(|pair| pair == label);
        let is_of = |(sample, labels): &(String, String)| sample == name && has(labels);
        self.samples.iter().filter(|(key, _)| is_of(key)).map(|(_, value)| value).sum()
    }

    /// The names of the labels, and the bounds of the buckets, of all samples of a metric.
    pub fn shape(&self, metric: &str) -> BTreeSet<String> {
        let is_of =
            |sample: &str| sample.strip_prefix(metric).is_some_and(|rest| ["", "_bucket", "_sum", "_count"].contains(&rest));
        let samples = self.samples.keys().filter(|(sample, _)| is_of(sample));
        let labels = samples.flat_map(|(_, labels)| labels.split(',')).filter(|label| !label.is_empty());
        labels
            .map(|label| if label.starts_with("le=") { label } else { label.split('=').next().unwrap_or(label) }.to_string())
            .collect()
    }
}

/// A bound of a bucket is a number, however it is written.
fn bound(label: &str) -> String {
    match label.trim_end_matches('"').strip_prefix("le=\"") {
        Some(bound) => format!("le={}", bound.parse::<f64>().unwrap_or(f64::INFINITY)),
        None => label.trim_end_matches('"').replace('"', ""),
    }
}

/// Whether it shows changes of so many kinds of Services that were timed.
pub fn is_complete(page: &Page, kinds: usize) -> Result<(), String> {
    let timed = page.values(PROGRAMMING, "service_kind");
    if timed.len() == kinds { Ok(()) } else { Err(format!("timed {timed:?}")) }
}

/// Fails unless everything that CoreDNS counts is counted here as well, by the same names, after so many questions.
pub fn compare(questions: usize, ours: [Page; 2], theirs: [Page; 2]) {
    let ([ours_before, ours], [theirs_before, theirs]) = (&ours, &theirs);
    let mut wrong = Vec::new();
    let names = theirs.types.keys().filter(|name| name.starts_with("coredns_") && !THEIRS_ALONE.contains(&name.as_str()));
    for name in names {
        if ours.types.get(name) != theirs.types.get(name) {
            wrong.push(format!("{name} is {:?}, and CoreDNS's {:?}", ours.types.get(name), theirs.types.get(name)));
        } else if ours.shape(name) != theirs.shape(name) {
            wrong.push(format!("{name} has {:?}, and CoreDNS's {:?}", ours.shape(name), theirs.shape(name)));
        }
    }
    for name in ONE_OF_EACH {
        let (mut ours, theirs) = (ours.since(ours_before, name), theirs.since(theirs_before, name));
        let counted: f64 = ours.values().sum();
        // Other classes than IN are refused before any zone is looked for, a difference that the documents list.
        ours.retain(|labels, _| !labels.contains("zone=dropped"));
        if counted != questions as f64 || !ours.keys().eq(theirs.keys()) {
            wrong.push(format!("{name} of {questions} questions {ours:?}, and CoreDNS's {theirs:?}"));
        }
        for (labels, count) in ours.iter().filter(|(labels, count)| theirs.get(*labels).is_none_or(|theirs| theirs < count)) {
            wrong.push(format!("{name}{{{labels}}} {count}, and CoreDNS's {:?}", theirs.get(labels)));
        }
    }
    for (name, label) in VALUES {
        let (ours, mut theirs) = (ours.values(name, label), theirs.values(name, label));
        // A plugin of the Corefile's that the settings, with which the agent runs here, do not have.
        theirs.remove("errors");
        if theirs.is_empty() || !theirs.is_subset(&ours) {
            wrong.push(format!("{label} of {name} is one of {ours:?}, and CoreDNS's one of {theirs:?}"));
        }
    }
    for (page, allowed) in [ours, theirs].into_iter().zip(PLUGINS) {
        let said = page.values("coredns_dns_responses_total", "plugin");
        if !said.iter().eq(allowed) {
            wrong.push(format!("the label plugin of answers says {said:?}, and {allowed:?} is what the documents say"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
