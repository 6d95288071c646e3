//! From server blocks to the model of how DNS answers ([`crate::dns::chain::model`]), and what is to be said about the rest.
//!
//! What a Corefile does not say has CoreDNS's default where answers show it (TTLs, names of pods), and is as the settings say otherwise.

mod plugins;
mod rewriting;

use super::parse::{Block as Written, CorefileError, Directive};
use super::words::Place;
use crate::dns::chain::model::{Block, Model};
use crate::dns::chain::values::{self, Time};
use std::time::Duration;

/// How often a source with a bare `reload` is looked at. CoreDNS's 30 seconds spare a cluster's servers from reading all at once; a look costs next
/// to nothing.
const RELOAD: Time = Time(Duration::from_secs(5));
/// CoreDNS's shortest interval.
const RELOAD_AT_LEAST: Duration = Duration::from_secs(2);

/// What becomes of a Corefile.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Translation {
    /// How DNS answers.
    pub model: Model,
    /// Where the parts of each block stand: plugin and line, in the order of the file.
    pub places: Vec<Vec<(String, Place)>>,
    /// What needs no doing here, or is done otherwise.
    pub remarks: Vec<Remark>,
}

/// Something in a Corefile that becomes no part of the model, and why nothing is lost by that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// Where it stands.
    pub place: Place,
    /// The plugin, or the plugin and its option.
    pub what: String,
    /// What holds here.
    pub advice: String,
}

/// What is said of plugins that need nothing: the name and the reason.
const UNNEEDED: &[(&str, &str)] = &[
    ("loop", "a server that leads back here is found in any case, and left out until it does so no more"),
    ("debug", "the setting log-level has debug; a panic is contained in any case"),
    ("pprof", "there is no profiling server; `perf` works on the agent as on any program"),
    ("cancel", "a forwarded question ends after five seconds in any case"),
    ("metadata", "nothing here makes use of metadata"),
    ("multisocket", "each address is read by as many threads as there are"),
];

/// What is said of those that are not there: the name and what to do instead.
const MISSING: &[(&str, &str)] = &[
    ("root", "give whole paths to the plugins that read files"),
    ("geoip", "there are no views that could ask for a client's place"),
    ("view", "clients are told apart by acl only; let a CoreDNS of your own answer those that are to see something else"),
    ("proxyproto", "clients are known by the source of their packets; let the load balancer keep it"),
    ("quic", "DNS is served over UDP and TCP; let a proxy take in DNS over QUIC"),
    ("grpc_server", "DNS is served over UDP and TCP"),
    ("https", "DNS is served over UDP and TCP; let a proxy take in DNS over HTTPS"),
    ("https3", "DNS is served over UDP and TCP; let a proxy take in DNS over HTTPS"),
    ("tls", "DNS is served over UDP and TCP; let a proxy take in DNS over TLS"),
    ("timeouts", "idle connections end after 10 seconds; take it out"),
    ("shed", "more than 4096 questions over TCP wait for each other; take it out"),
    ("trace", "there is no tracing of questions; `log` shows them"),
    ("dnstap", "there is no dnstap; `log` shows questions"),
    ("local", "names such as localhost are asked at the upstream servers; use template or hosts for them"),
    ("tsig", "questions are not signed"),
    ("dnssec", "answers are not signed"),
    ("sign", "zones are not signed"),
    ("transfer", "zones are not handed out (AXFR)"),
    ("route53", "forward the zone to its servers"),
    ("azure", "forward the zone to its servers"),
    ("clouddns", "forward the zone to its servers"),
    ("k8s_external", "names of load balancers outside the cluster's domain are not answered; use external-dns"),
    ("file", "zone files are not served; forward the zone to a CoreDNS of your own, or use hosts or template"),
    ("auto", "zone files are not served; forward the zone to a CoreDNS of your own, or use hosts or template"),
    ("secondary", "zones are not transferred; forward the zone to its servers"),
    ("etcd", "forward the zone to a CoreDNS of your own that reads etcd"),
    ("nomad", "forward the zone to a CoreDNS of your own that reads Nomad"),
    ("grpc", "servers are asked over UDP and TCP; use forward"),
    ("erratic", "it is a plugin for tests"),
    ("on", "no commands are run"),
];

/// Translates a Corefile.
///
/// # Errors
/// The first plugin or option that is not there, or that is wrong.
pub fn translate(blocks: &[Written]) -> Result<Translation, CorefileError> {
    let mut translation = Translation::default();
    for written in blocks {
        translation.block(written)?;
    }
    Ok(translation)
}

impl Translation {
    /// Where the part of a block stands, counted among those of its plugin; else where the block begins.
    pub fn place(&self, block: usize, plugin: &str, number: usize) -> Option<&Place> {
        let places = self.places.get(block)?;
        let mut of_plugin = places.iter().filter(|(name, _)| name == plugin).map(|(_, place)| place);
        of_plugin.nth(number).or_else(|| places.first().map(|(_, place)| place))
    }

    /// One block, or several where its keys have different ports.
    fn block(&mut self, written: &Written) -> Result<(), CorefileError> {
        let mut block = Block { loadbalance: false, zones: Vec::new(), ..Block::default() };
        let mut places = vec![("zones".to_string(), written.place.clone())];
        let mut ports: Vec<(Option<u16>, Vec<String>)> = Vec::new();
        for key in &written.keys {
            let (zone, port) = key_parts(key).map_err(|problem| wrong(&written.place, problem))?;
            match ports.iter_mut().find(|(other, _)| *other == port) {
                Some((_, zones)) => zones.push(zone),
                None => ports.push((port, vec![zone])),
            }
        }
        for directive in &written.directives {
            places.push((directive.name.clone(), directive.place.clone()));
            self.directive(&mut block, directive)?;
        }
        for (port, zones) in ports {
            self.model.blocks.push(Block { zones, port, ..block.clone() });
            self.places.push(places.clone());
        }
        Ok(())
    }

    fn directive(&mut self, block: &mut Block, directive: &Directive) -> Result<(), CorefileError> {
        let name = directive.name.as_str();
        match name {
            "bind" => block.bind.extend(plugins::bind(directive)?),
            "reload" => self.model.reload = Some(reload(directive)?),
            "nsid" => block.nsid = Some(directive.arguments.join(" ")),
            "bufsize" => block.bufsize = Some(plugins::bufsize(directive)?),
            "ready" => self.address(directive, "dns-ready-address", ":8181"),
            "health" => self.address(directive, "dns-health-address", ":8080"),
            "prometheus" => self.address(directive, "dns-metrics-address", ":9153"),
            "errors" => {
                block.errors = true;
                for option in &directive.options {
                    self.remark(option, "errors", "failures are logged one by one, and counted in any case");
                }
            }
            "log" => block.log.extend(plugins::log(directive)?),
            "dns64" => block.dns64 = Some(plugins::dns64(directive)?),
            "any" => block.any = true,
            "chaos" => block.chaos = Some(plugins::chaos(directive)?),
            "loadbalance" => {
                plugins::loadbalance(directive)?;
                block.loadbalance = true;
            }
            "rewrite" => block.rewrite.extend(rewriting::rewrite(directive)?),
            "autopath" => block.autopath = Some(plugins::autopath(directive)?),
            "acl" => block.acl.push(plugins::acl(directive)?),
            "cache" => once(&mut block.cache, directive, plugins::cache(directive)?)?,
            "header" => block.header = Some(plugins::header(directive)?),
            "minimal" => block.minimal = true,
            "template" => block.template.push(plugins::template(directive)?),
            "hosts" => once(&mut block.hosts, directive, plugins::hosts(directive)?)?,
            "kubernetes" => {
                let kubernetes = self.kubernetes(directive)?;
                once(&mut block.kubernetes, directive, kubernetes)?;
            }
            "forward" => {
                let forward = self.forward(directive)?;
                block.forward.push(forward);
            }
            "whoami" => block.whoami = true,
            _ => self.other(directive)?,
        }
        Ok(())
    }

    /// A plugin that needs nothing here, or that is not there.
    fn other(&mut self, directive: &Directive) -> Result<(), CorefileError> {
        let name = directive.name.as_str();
        if let Some((_, reason)) = UNNEEDED.iter().find(|(known, _)| *known == name) {
            self.remarks.push(Remark { place: directive.place.clone(), what: name.to_string(), advice: reason.to_string() });
            return Ok(());
        }
        Err(match MISSING.iter().find(|(known, _)| *known == name) {
            Some((_, advice)) => wrong(&directive.place, format!("the plugin {name} is not there: {advice}")),
            None => {
                let problem = format!(
                    "neither the stock CoreDNS nor Waypost has a plugin {name:?}; take it out, or let a CoreDNS that has it answer and forward to it"
                );
                wrong(&directive.place, problem)
            }
        })
    }

    fn address(&mut self, directive: &Directive, setting: &str, default: &str) {
        let address = directive.first();
        let advice = if address.is_empty() || address == default {
            format!("the setting {setting} says where")
        } else {
            format!("the setting {setting} says where; give it {address} there")
        };
        self.remarks.push(Remark { place: directive.place.clone(), what: directive.name.clone(), advice });
        for option in &directive.options {
            self.remark(option, &directive.name, "at its end a server answers all that has arrived");
        }
    }

    fn remark(&mut self, option: &Directive, plugin: &str, advice: &str) {
        let what = format!("{plugin} {}", option.name);
        self.remarks.push(Remark { place: option.place.clone(), what, advice: advice.to_string() });
    }
}

/// The zone and the port of a key, such as `dns://example.org:53`.
fn key_parts(key: &str) -> Result<(String, Option<u16>), String> {
    let (protocol, rest) = key.split_once("://").unwrap_or(("dns", key));
    if protocol != "dns" {
        return Err(format!("{key}: DNS is served over UDP and TCP only; let a proxy take in {protocol}"));
    }
    let (zone, port) = match rest.rsplit_once(':') {
        Some((zone, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => {
            let number = port.parse().ok().filter(|port| *port > 0);
            (zone, Some(number.ok_or_else(|| format!("{key}: {port} is no port"))?))
        }
        _ => (rest, None),
    };
    let zone = if zone.is_empty() { "." } else { zone };
    values::zones(zone)?;
    Ok((zone.to_ascii_lowercase(), port))
}

fn reload(directive: &Directive) -> Result<Time, CorefileError> {
    let mut time = RELOAD;
    if let Some(text) = directive.arguments.first() {
        time = parsed(&directive.place, text)?;
    }
    if time.0 < RELOAD_AT_LEAST {
        return Err(wrong(&directive.place, format!("{time} is too often; give at least 2s")));
    }
    Ok(time)
}

/// Puts in a plugin that may be there once.
fn once<T>(place: &mut Option<T>, directive: &Directive, value: T) -> Result<(), CorefileError> {
    if place.is_some() {
        return Err(wrong(&directive.place, format!("{} may be there once in a block", directive.name)));
    }
    *place = Some(value);
    Ok(())
}

/// A value of a text, or an error at this place.
fn parsed<T: std::str::FromStr<Err = String>>(place: &Place, text: &str) -> Result<T, CorefileError> {
    text.parse().map_err(|problem| wrong(place, problem))
}

/// A number.
fn number<T: std::str::FromStr>(place: &Place, text: &str) -> Result<T, CorefileError> {
    text.parse().map_err(|_| wrong(place, format!("{text:?} is no number that is allowed here")))
}

/// Zones of `fallthrough` and the like: without any all of them.
fn zones_or_all(option: &Directive) -> Vec<String> {
    if option.arguments.is_empty() { vec![".".to_string()] } else { option.arguments.clone() }
}

fn wrong(place: &Place, problem: impl Into<String>) -> CorefileError {
    CorefileError { place: place.clone(), problem: problem.into() }
}

/// An option that is not there.
fn unknown(plugin: &str, option: &Directive, known: &str) -> CorefileError {
    let instead = "take it out, or forward these names to a CoreDNS of your own that has it";
    wrong(&option.place, format!("{plugin} has no option {:?} here; there are {known}; {instead}", option.name))
}

impl Directive {
    /// The first argument, or nothing.
    pub(super) fn first(&self) -> &str {
        self.arguments.first().map_or("", String::as_str)
    }

    /// The one argument.
    fn one(&self) -> Result<&str, CorefileError> {
        match self.arguments.as_slice() {
            [one] => Ok(one),
            _ => Err(wrong(&self.place, format!("{} takes one value", self.name))),
        }
    }
}
