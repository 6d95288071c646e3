//! From server blocks to settings of ours, and what is lost on the way.

use super::parse::{Block, CorefileError, Directive};
use super::words::Place;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// What becomes of a Corefile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Takeover {
    /// Settings by their keys, with their values; as the configuration file has them.
    pub settings: BTreeMap<&'static str, Vec<String>>,
    /// What is said about the rest, in the order of the file.
    pub findings: Vec<Finding>,
}

/// Something in a Corefile that becomes no setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where it stands.
    pub place: Place,
    /// The plugin, or the plugin and its option.
    pub what: String,
    /// Why nothing need be done, or what to do instead.
    pub advice: String,
    /// Whether answers will differ.
    pub is_lost: bool,
}

/// Makes settings of what a Corefile asks for.
///
/// # Errors
/// A plugin that the stock CoreDNS does not have: the text may be no Corefile at all.
pub fn take_over(blocks: &[Block]) -> Result<Takeover, CorefileError> {
    let mut takeover = Takeover::default();
    for block in blocks {
        let zones = takeover.zones(block);
        for directive in &block.directives {
            takeover.directive(directive, &zones)?;
        }
    }
    Ok(takeover)
}

/// What is said of plugins as a whole: the name, the advice, and whether answers will differ.
const PLUGINS: &[(&str, &str, bool)] = &[
    ("errors", "failures are logged and counted in any case", false),
    ("loop", "own addresses are never asked, and an upstream server that leads back is left out until it does so no more", false),
    ("reload", "a change of the chart's values replaces the pods, one after the other", false),
    ("debug", "the setting log-level has debug", false),
    ("log", "questions are counted, not logged", true),
    ("trace", "there is no tracing of questions", true),
    ("dnstap", "there is no dnstap", true),
    ("pprof", "there is no profiling server", false),
    ("cancel", "a forwarded question ends after five seconds in any case", false),
    ("any", "ANY is answered with NOERROR and no record for names of the cluster", false),
    ("minimal", "answers have no authority section but where they are negative; addresses of SRV targets are sent along", false),
    ("metadata", "nothing makes use of metadata", false),
    ("bind", "set agent.dnsAddresses in the chart, or dns-address", true),
];

/// The other plugins that the stock CoreDNS has.
const WITHOUT_COUNTERPART: &[&str] = &[
    "root",
    "geoip",
    "proxyproto",
    "quic",
    "grpc_server",
    "https",
    "https3",
    "timeouts",
    "multisocket",
    "nsid",
    "shed",
    "local",
    "dns64",
    "chaos",
    "tsig",
    "rewrite",
    "autopath",
    "acl",
    "header",
    "dnssec",
    "tls",
    "template",
    "transfer",
    "hosts",
    "route53",
    "azure",
    "clouddns",
    "k8s_external",
    "file",
    "auto",
    "secondary",
    "etcd",
    "grpc",
    "erratic",
    "whoami",
    "on",
    "sign",
    "view",
    "nomad",
];

impl Takeover {
    /// The zones of a block, lower case and without final dots.
    fn zones(&mut self, block: &Block) -> Vec<String> {
        let mut zones = Vec::new();
        for key in &block.keys {
            let (protocol, rest) = key.split_once("://").unwrap_or(("dns", key));
            let (zone, port) = match rest.rsplit_once(':') {
                Some((zone, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (zone, port),
                _ => (rest, "53"),
            };
            if protocol != "dns" {
                self.lost(&block.place, key, "DNS is served over UDP and TCP only");
            } else if port != "53" {
                self.lost(&block.place, key, "another port than 53 is set by dns-address, for all zones alike");
            }
            zones.push(normal(zone));
        }
        zones
    }

    fn directive(&mut self, directive: &Directive, zones: &[String]) -> Result<(), CorefileError> {
        match directive.name.as_str() {
            "kubernetes" => self.kubernetes(directive),
            "forward" => self.forward(directive, zones),
            "cache" => self.cache(directive),
            "health" => self.address(directive, "dns-health-address"),
            "ready" => self.address(directive, "dns-ready-address"),
            "prometheus" => self.address(directive, "dns-metrics-address"),
            "loadbalance" if ["", "round_robin"].contains(&directive.first()) => {
                self.unneeded(&directive.place, "loadbalance", "addresses are shuffled in any case");
            }
            "bufsize" if ["", "1232"].contains(&directive.first()) => {
                self.unneeded(&directive.place, "bufsize", "no answer over UDP is longer than 1232 bytes");
            }
            name => match PLUGINS.iter().find(|(known, ..)| *known == name) {
                Some((_, advice, is_lost)) => self.say(&directive.place, name, advice, *is_lost),
                None => return self.without_counterpart(directive),
            },
        }
        Ok(())
    }
}

impl Takeover {
    fn kubernetes(&mut self, directive: &Directive) {
        let zones = directive.arguments.iter().map(|zone| normal(zone)).filter(|zone| !is_reverse(zone));
        for (number, zone) in zones.enumerate() {
            match number {
                0 => self.set("cluster-domain", [zone]),
                _ => self.lost(
                    &directive.place,
                    &format!("kubernetes {zone}"),
                    "one cluster domain is served; the first one is taken",
                ),
            }
        }
        for option in &directive.options {
            self.kubernetes_option(option);
        }
    }

    fn kubernetes_option(&mut self, option: &Directive) {
        let what = format!("kubernetes {}", option.name);
        let connection = "the chart gives the agent its way to the API server";
        match (option.name.as_str(), option.first()) {
            ("ttl", ttl) => self.set("dns-ttl", [ttl.to_string()]),
            ("pods", "insecure") => {}
            ("pods", _) => self.lost(&option.place, &what, "names of pods are answered as with `pods insecure`"),
            ("fallthrough", _)
                if !option.arguments.is_empty() && option.arguments.iter().all(|zone| is_reverse(&normal(zone))) => {}
            ("fallthrough", _) => {
                self.lost(&option.place, &what, "a name in the cluster domain that the cluster does not have does not exist; only reverse names are asked elsewhere");
            }
            ("endpoint" | "tls" | "kubeconfig", _) => self.unneeded(&option.place, &what, connection),
            ("startup_timeout" | "apiserver_qps" | "apiserver_burst" | "apiserver_max_inflight", _) => {
                self.unneeded(
                    &option.place,
                    &what,
                    "what is known is answered at once; the API server is asked for five lists and their changes",
                );
            }
            _ => {
                self.lost(&option.place, &what, "every Service of every namespace is answered, by the rules of the specification")
            }
        }
    }

    fn forward(&mut self, directive: &Directive, zones: &[String]) {
        let Some((from, to)) = directive.arguments.split_first() else { return };
        let of_block = || zones.iter().map(String::as_str).find(|zone| !zone.is_empty());
        let zone = Some(normal(from)).filter(|zone| !zone.is_empty()).or_else(|| of_block().map(str::to_string));
        let is_address = |server: &&String| server.parse::<IpAddr>().is_ok() || server.parse::<SocketAddr>().is_ok();
        let (plain, others): (Vec<&String>, Vec<&String>) = to.iter().partition(is_address);
        if let Some(zone) = zone {
            for server in others {
                self.lost(
                    &directive.place,
                    &format!("forward {server}"),
                    "servers of a zone are given by address, and asked without encryption",
                );
            }
            self.stub_zone(directive, &zone, &plain);
            return;
        }
        match others.as_slice() {
            [file] if plain.is_empty() && file.starts_with('/') => self.set("dns-upstream", [file.to_string()]),
            others => {
                for server in others {
                    self.lost(
                        &directive.place,
                        &format!("forward {server}"),
                        "servers are given by address, or by one resolv.conf, and asked without encryption",
                    );
                }
            }
        }
        if !plain.is_empty() {
            self.set("dns-upstream", plain.into_iter().cloned());
        }
        for option in &directive.options {
            let what = format!("forward {}", option.name);
            match option.name.as_str() {
                "policy" => self.set("dns-forward-policy", [option.first().to_string()]),
                "max_fails" => self.set("dns-forward-max-fails", [option.first().to_string()]),
                "max_concurrent" => self.set("dns-forward-max-concurrent", [option.first().to_string()]),
                "except" => self.set("dns-forward-except", option.arguments.iter().map(|zone| normal(zone))),
                "force_tcp" => self.set("dns-forward-tcp", ["true".to_string()]),
                "prefer_udp" => self.unneeded(&option.place, &what, "UDP is used first in any case"),
                "health_check" | "expire" | "max_idle_conns" | "max_age" | "read_timeout" => {
                    self.unneeded(&option.place, &what, "failing servers are checked twice a second, connections are kept for 10 seconds, and another server is asked long before a time-out");
                }
                _ => self.lost(&option.place, &what, "has no counterpart: see the settings dns-forward-…"),
            }
        }
    }

    fn stub_zone(&mut self, directive: &Directive, zone: &str, servers: &[&String]) {
        if servers.is_empty() {
            return;
        }
        let servers: Vec<&str> = servers.iter().map(|server| server.as_str()).collect();
        self.settings.entry("dns-stub-zone").or_default().push(format!("{zone}={}", servers.join("+")));
        for option in &directive.options {
            let what = format!("forward for {zone} {}", option.name);
            self.lost(&option.place, &what, "the settings dns-forward-… hold for the servers of all zones");
        }
    }

    fn cache(&mut self, directive: &Directive) {
        let ttl = directive.first();
        if ttl.parse::<u32>().is_ok() {
            self.set("dns-cache-ttl", [ttl.to_string()]);
            self.set("dns-cache-negative-ttl", [ttl.to_string()]);
        }
        for option in &directive.options {
            let what = format!("cache {}", option.name);
            let argument = |place: usize| option.arguments.get(place).cloned();
            match option.name.as_str() {
                "success" => {
                    argument(0).into_iter().for_each(|entries| self.set("dns-cache-entries", [entries]));
                    argument(1).into_iter().for_each(|ttl| self.set("dns-cache-ttl", [ttl]));
                    argument(2).into_iter().for_each(|ttl| self.set("dns-cache-min-ttl", [ttl]));
                }
                "denial" => {
                    argument(1).into_iter().for_each(|ttl| self.set("dns-cache-negative-ttl", [ttl]));
                    if argument(2).is_some() {
                        self.lost(
                            &option.place,
                            &what,
                            "there is one shortest time for answers and denials, and one number of entries: that of `success`",
                        );
                    }
                }
                "prefetch" => argument(0).into_iter().for_each(|times| self.set("dns-cache-prefetch", [times])),
                "serve_stale" => self.seconds(option, "dns-cache-serve-stale", "3600"),
                "servfail" => self.seconds(option, "dns-cache-failure-ttl", "5"),
                "disable" => {
                    self.unneeded(&option.place, &what, "names of the cluster are answered from memory, and never cached")
                }
                _ => self.lost(&option.place, &what, "the TTL of a cached answer is what is left of it"),
            }
        }
    }

    /// A duration in whole seconds.
    fn seconds(&mut self, option: &Directive, key: &'static str, default: &str) {
        let text = if option.first().is_empty() { default } else { option.first() };
        match seconds(text) {
            Some(seconds) => self.set(key, [seconds.to_string()]),
            None => self.lost(
                &option.place,
                &format!("cache {}", option.name),
                &format!("{text:?} is no duration such as 5s or 1h; {key} has its default"),
            ),
        }
    }

    fn address(&mut self, directive: &Directive, key: &'static str) {
        if !directive.first().is_empty() {
            self.set(key, [directive.first().to_string()]);
        }
        for option in &directive.options {
            let what = format!("{} {}", directive.name, option.name);
            self.unneeded(
                &option.place,
                &what,
                "at its end a server answers all that has arrived, and its pod is out of the Service by then",
            );
        }
    }

    fn without_counterpart(&mut self, directive: &Directive) -> Result<(), CorefileError> {
        let Directive { name, place, .. } = directive;
        if !WITHOUT_COUNTERPART.contains(&name.as_str()) {
            let problem = format!(
                "the stock CoreDNS has no plugin {name:?}; is this a Corefile? Take out what only a CoreDNS of your own has"
            );
            return Err(CorefileError { place: place.clone(), problem });
        }
        self.lost(
            place,
            name,
            "has no counterpart yet: let a CoreDNS of your own do it, and make that one the upstream server (dns-upstream)",
        );
        Ok(())
    }

    fn set(&mut self, key: &'static str, values: impl IntoIterator<Item = String>) {
        self.settings.insert(key, values.into_iter().collect());
    }

    fn lost(&mut self, place: &Place, what: &str, advice: &str) {
        self.say(place, what, advice, true);
    }

    fn unneeded(&mut self, place: &Place, what: &str, advice: &str) {
        self.say(place, what, advice, false);
    }

    fn say(&mut self, place: &Place, what: &str, advice: &str, is_lost: bool) {
        self.findings.push(Finding { place: place.clone(), what: what.to_string(), advice: advice.to_string(), is_lost });
    }
}

impl Directive {
    /// The first argument, or nothing.
    fn first(&self) -> &str {
        self.arguments.first().map_or("", String::as_str)
    }
}

/// A zone in lower case, without the final dot.
fn normal(zone: &str) -> String {
    zone.trim_end_matches('.').to_ascii_lowercase()
}

fn is_reverse(zone: &str) -> bool {
    zone.ends_with("in-addr.arpa") || zone.ends_with("ip6.arpa") || zone.contains('/')
}

/// A duration as Go writes it, such as `1h30m` or `5s`, in whole seconds.
fn seconds(text: &str) -> Option<u64> {
    let (mut total, mut rest) = (0.0, text);
    while !rest.is_empty() {
        let digits = rest.find(|character: char| !character.is_ascii_digit() && character != '.')?;
        let (number, unit) = rest.split_at(digits);
        let letters = unit.find(|character: char| character.is_ascii_digit()).unwrap_or(unit.len());
        let factor = match &unit[..letters] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 0.001,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * factor;
        rest = &unit[letters..];
    }
    (!text.is_empty()).then_some(total as u64)
}
