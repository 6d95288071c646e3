//! Plugin by plugin: what its line and its options say.

use super::super::parse::{CorefileError, Directive};
use super::super::words::Place;
use super::{Translation, number, parsed, unknown, wrong, zones_or_all};
use crate::dns::chain::model::{
    Acl, AclAction, AclRule, Autopath, Cache, Chaos, Dns64, ExtendedError, Forward, ForwardPolicy, Header, Hosts, Kubernetes,
    Log, LogClass, Pods, Template,
};
use crate::dns::chain::values::{Flag, LONGEST_RECHECK, Time};
use ipnet::IpNet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// CoreDNS's TTL of cluster names.
const KUBERNETES_TTL: u32 = 5;
/// After these codes of one server another is asked ([`crate::dns::forward`]).
const FAILOVER: [&str; 4] = ["SERVFAIL", "REFUSED", "NOTIMP", "FORMERR"];
/// CoreDNS's longest times in the cache.
const CACHE_TTL: (u32, u32) = (3600, 1800);

type Outcome<T> = Result<T, CorefileError>;

pub fn bind(directive: &Directive) -> Outcome<Vec<IpAddr>> {
    if let Some(option) = directive.options.first() {
        return Err(unknown("bind", option, "none"));
    }
    let address = |text: &String| {
        text.parse().map_err(|_| {
            wrong(&directive.place, format!("{text:?} is no address; names of interfaces are not taken, give their addresses"))
        })
    };
    directive.arguments.iter().map(address).collect()
}

pub fn bufsize(directive: &Directive) -> Outcome<u16> {
    match directive.arguments.first() {
        None => Ok(1232),
        Some(text) => number::<u16>(&directive.place, text)
            .ok()
            .filter(|size| (512..=4096).contains(size))
            .ok_or_else(|| wrong(&directive.place, "bufsize takes 512 to 4096 bytes")),
    }
}

pub fn log(directive: &Directive) -> Outcome<Vec<Log>> {
    let mut class = Vec::new();
    for option in &directive.options {
        if option.name != "class" {
            return Err(unknown("log", option, "class"));
        }
        for word in &option.arguments {
            class.push(match word.as_str() {
                "success" => LogClass::Success,
                "denial" => LogClass::Denial,
                "error" => LogClass::Error,
                "all" => LogClass::All,
                _ => return Err(wrong(&option.place, format!("{word:?} is no class; there are success, denial, error and all"))),
            });
        }
    }
    let mut zones = directive.arguments.clone();
    let format = zones.pop_if(|last| directive.arguments.len() > 1 && last.contains('{'));
    Ok(vec![Log { zones, class, format }])
}

pub fn dns64(directive: &Directive) -> Outcome<Dns64> {
    let network = |text: &str| {
        text.parse::<IpNet>().map_err(|_| wrong(&directive.place, format!("{text:?} is no network such as 64:ff9b::/96")))
    };
    let mut dns64 = Dns64::default();
    if !directive.first().is_empty() {
        dns64.prefix = Some(network(directive.first())?);
    }
    for option in &directive.options {
        match option.name.as_str() {
            "prefix" => dns64.prefix = Some(network(option.one()?)?),
            "translate_all" => dns64.translate_all = true,
            "allow_ipv4" => dns64.allow_ipv4 = true,
            _ => return Err(unknown("dns64", option, "prefix, translate_all and allow_ipv4")),
        }
    }
    Ok(dns64)
}

pub fn chaos(directive: &Directive) -> Outcome<Chaos> {
    let mut arguments = directive.arguments.iter().cloned();
    let version = arguments.next();
    let mut authors: Vec<String> = arguments.collect();
    authors.sort();
    authors.dedup();
    Ok(Chaos { version, authors })
}

pub fn loadbalance(directive: &Directive) -> Outcome<()> {
    if !["", "round_robin"].contains(&directive.first()) {
        let problem = format!("addresses are shuffled (round_robin); the policy {} is not there", directive.first());
        return Err(wrong(&directive.place, problem));
    }
    match directive.options.first() {
        Some(option) => Err(unknown("loadbalance", option, "none")),
        None => Ok(()),
    }
}

pub fn autopath(directive: &Directive) -> Outcome<Autopath> {
    let Some((search, zones)) = directive.arguments.split_last() else {
        return Err(wrong(&directive.place, "autopath needs @kubernetes, or the path of a resolv.conf"));
    };
    let search = match search.strip_prefix('@') {
        None => search.clone(),
        Some("kubernetes") => "kubernetes".to_string(),
        Some(other) => return Err(wrong(&directive.place, format!("autopath asks kubernetes only, not {other}"))),
    };
    Ok(Autopath { zones: zones.to_vec(), search })
}

pub fn acl(directive: &Directive) -> Outcome<Acl> {
    let rules = directive.options.iter().map(acl_rule).collect::<Outcome<Vec<_>>>()?;
    Ok(Acl { zones: directive.arguments.clone(), rules })
}

fn acl_rule(option: &Directive) -> Outcome<AclRule> {
    let action = match option.name.to_ascii_lowercase().as_str() {
        "allow" => AclAction::Allow,
        "block" => AclAction::Block,
        "filter" => AclAction::Filter,
        "drop" => AclAction::Drop,
        _ => return Err(unknown("acl", option, "allow, block, filter and drop")),
    };
    let mut rule = AclRule { action, types: Vec::new(), networks: Vec::new() };
    // Once a section says `*` all others of the same kind are moot.
    let (mut section, mut all) = (String::new(), [false; 2]);
    for word in &option.arguments {
        match (word.to_ascii_lowercase().as_str(), section.as_str()) {
            (kind @ ("type" | "net"), _) => section = kind.to_string(),
            ("*", "type") => all[0] = true,
            ("*", "net") => all[1] = true,
            (_, "type") => rule.types.push(parsed(&option.place, word)?),
            (_, "net") => rule.networks.push(network(option, word)?),
            _ => return Err(wrong(&option.place, format!("{word:?} is neither type nor net"))),
        }
    }
    if all[0] {
        rule.types.clear();
    }
    if all[1] {
        rule.networks.clear();
    }
    Ok(rule)
}

fn network(option: &Directive, text: &str) -> Outcome<IpNet> {
    let network = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    network
        .map(|network| network.trunc())
        .ok_or_else(|| wrong(&option.place, format!("{text:?} is no network such as 10.0.0.0/8")))
}

pub fn header(directive: &Directive) -> Outcome<Header> {
    let mut header = Header::default();
    for option in &directive.options {
        let (action, flags) = match (option.name.as_str(), option.arguments.split_first()) {
            ("response", Some((action, flags))) => (action.as_str(), flags),
            (action @ ("set" | "clear"), _) => (action, option.arguments.as_slice()),
            _ => return Err(unknown("header", option, "response set and response clear")),
        };
        let flags = flags.iter().map(|flag| parsed::<Flag>(&option.place, flag)).collect::<Outcome<Vec<_>>>()?;
        match action {
            "set" => header.set.extend(flags),
            "clear" => header.clear.extend(flags),
            _ => return Err(wrong(&option.place, format!("{action:?} is neither set nor clear"))),
        }
    }
    Ok(header)
}

pub fn template(directive: &Directive) -> Outcome<Template> {
    let [class, kind, zones @ ..] = directive.arguments.as_slice() else {
        return Err(wrong(&directive.place, "template needs a class and a type, such as IN A"));
    };
    let mut template = Template {
        class: parsed(&directive.place, class)?,
        r#type: parsed(&directive.place, kind)?,
        zones: zones.to_vec(),
        r#match: Vec::new(),
        answer: Vec::new(),
        additional: Vec::new(),
        authority: Vec::new(),
        rcode: None,
        extended_error: None,
        fallthrough: Vec::new(),
    };
    for option in &directive.options {
        match option.name.as_str() {
            "match" => template.r#match.extend(option.arguments.iter().cloned()),
            "answer" => template.answer.extend(option.arguments.iter().cloned()),
            "additional" => template.additional.extend(option.arguments.iter().cloned()),
            "authority" => template.authority.extend(option.arguments.iter().cloned()),
            "rcode" => template.rcode = Some(parsed(&option.place, option.one()?)?),
            "ederror" => {
                let code = number(&option.place, option.first())?;
                let text = option.arguments.get(1).cloned().unwrap_or_default();
                template.extended_error = Some(ExtendedError { code, text });
            }
            "fallthrough" => template.fallthrough = zones_or_all(option),
            // Without a meaning in CoreDNS as well.
            "upstream" => {}
            _ => {
                let known = "match, answer, additional, authority, rcode, ederror and fallthrough";
                return Err(unknown("template", option, known));
            }
        }
    }
    Ok(template)
}

pub fn hosts(directive: &Directive) -> Outcome<Hosts> {
    let (file, zones) = match directive.arguments.split_first() {
        Some((file, zones)) => (Some(PathBuf::from(file)), zones.to_vec()),
        // CoreDNS reads the host's file in any case; a container has one of its own that names the pod.
        None => (Some(PathBuf::from("/etc/hosts")), Vec::new()),
    };
    let mut hosts = Hosts { file, zones, ..Hosts::default() };
    for option in &directive.options {
        match option.name.as_str() {
            "fallthrough" => hosts.fallthrough = zones_or_all(option),
            "no_reverse" => hosts.no_reverse = true,
            "ttl" => {
                let ttl = number::<u32>(&option.place, option.first())?;
                if !(1..=65_535).contains(&ttl) {
                    return Err(wrong(&option.place, "ttl takes 1 to 65535 seconds"));
                }
                hosts.ttl = Some(ttl);
            }
            "reload" => hosts.reload = Some(parsed(&option.place, option.one()?)?),
            address if address.parse::<IpAddr>().is_ok() || address.contains('%') => {
                hosts.inline.push(format!("{address} {}", option.arguments.join(" ")));
            }
            _ => {
                return Err(unknown("hosts", option, "lines with an address and names, ttl, no_reverse, reload and fallthrough"));
            }
        }
    }
    Ok(hosts)
}

pub fn cache(directive: &Directive) -> Outcome<Cache> {
    let (positive_ttl, negative_ttl) = (Some(CACHE_TTL.0), Some(CACHE_TTL.1));
    let mut cache = Cache { positive_ttl, negative_ttl, prefetch: Some(0), ..Cache::default() };
    let mut arguments = directive.arguments.as_slice();
    if let Some((first, rest)) = arguments.split_first()
        && let Ok(ttl) = first.parse::<u32>()
    {
        if ttl == 0 {
            return Err(wrong(&directive.place, "the TTL of a cache is above zero; leave cache out to have none"));
        }
        (cache.positive_ttl, cache.negative_ttl) = (Some(ttl), Some(ttl));
        arguments = rest;
    }
    cache.zones = arguments.to_vec();
    for option in &directive.options {
        let numbers = || option.arguments.iter().map(|text| number::<u32>(&option.place, text)).collect::<Outcome<Vec<_>>>();
        match option.name.as_str() {
            kind @ ("success" | "denial") => {
                let numbers = numbers()?;
                let (entries, ttl, least) = match kind {
                    "success" => (&mut cache.positive_entries, &mut cache.positive_ttl, &mut cache.min_positive_ttl),
                    _ => (&mut cache.negative_entries, &mut cache.negative_ttl, &mut cache.min_negative_ttl),
                };
                match numbers.as_slice() {
                    [count, rest @ ..] if rest.len() < 3 => {
                        *entries = Some(*count as usize);
                        *ttl = rest.first().copied().or(*ttl);
                        *least = rest.get(1).copied().or(*least);
                    }
                    _ => return Err(wrong(&option.place, format!("{kind} takes a number of entries, a TTL and a shortest TTL"))),
                }
            }
            "prefetch" => prefetch(&mut cache, option)?,
            "serve_stale" => serve_stale(&mut cache, option)?,
            "servfail" => cache.failure_ttl = Some(parsed(&option.place, option.one()?)?),
            "disable" => {
                let zones = if option.arguments.len() > 1 { option.arguments[1..].to_vec() } else { vec![".".to_string()] };
                match option.first() {
                    "success" => cache.without_positive = zones,
                    "denial" => cache.without_negative = zones,
                    _ => return Err(wrong(&option.place, "disable takes success or denial, and zones")),
                }
            }
            "keepttl" => cache.keep_ttl = true,
            _ => {
                let known = "success, denial, prefetch, serve_stale, servfail, disable and keepttl";
                return Err(unknown("cache", option, known));
            }
        }
    }
    Ok(cache)
}

fn prefetch(cache: &mut Cache, option: &Directive) -> Outcome<()> {
    let [times, rest @ ..] = option.arguments.as_slice() else {
        return Err(wrong(&option.place, "prefetch takes a number of questions, a duration and a percentage"));
    };
    cache.prefetch = Some(number(&option.place, times)?);
    if let Some(within) = rest.first() {
        cache.prefetch_within = Some(parsed(&option.place, within)?);
    }
    if let Some(percent) = rest.get(1) {
        let Some(percent) = percent.strip_suffix('%') else {
            return Err(wrong(&option.place, format!("{percent:?} is no percentage such as 10%")));
        };
        cache.prefetch_last = Some(number(&option.place, percent)?);
    }
    Ok(())
}

/// `serve_stale [DURATION [immediate [TTL [RECHECK]] | verify [PATIENCE [TTL [RECHECK]]]]]`
fn serve_stale(cache: &mut Cache, option: &Directive) -> Outcome<()> {
    let place = &option.place;
    let takes = "serve_stale takes a duration, and then immediate, or verify and how long it waits for the upstream servers; behind both the TTL of what is stale, and for how long they are not asked again when they have failed";
    let mut words = option.arguments.iter();
    let hour = Time(Duration::from_secs(3600));
    cache.serve_stale = Some(words.next().map_or(Ok(hour), |text| parsed(place, text))?);
    match words.next().map(|mode| mode.to_ascii_lowercase()).as_deref() {
        None | Some("immediate") => cache.stale_after = Some(Time::default()),
        Some("verify") => {
            let patience = words.next().map(|text| parsed::<Time>(place, text)).transpose()?;
            // Nothing is CoreDNS's word for as long as it takes.
            cache.stale_after = patience.filter(|patience| !patience.0.is_zero());
        }
        Some(_) => return Err(wrong(place, takes)),
    }
    cache.stale_ttl = words.next().map(|text| stale_ttl(place, text)).transpose()?;
    cache.stale_recheck = words.next().map(|text| parsed(place, text)).transpose()?;
    if cache.stale_recheck.is_some_and(|recheck| recheck.0 > LONGEST_RECHECK) {
        return Err(wrong(
            place,
            "after a failure the upstream servers are asked again within 5 minutes (RFC 8767); give at most 5m",
        ));
    }
    if words.next().is_some() { Err(wrong(place, takes)) } else { Ok(()) }
}

fn stale_ttl(place: &Place, text: &str) -> Outcome<u32> {
    let ttl = parsed::<Time>(place, text)?.0;
    let seconds = u32::try_from(ttl.as_secs()).ok().filter(|_| ttl.subsec_nanos() == 0);
    seconds.ok_or_else(|| wrong(place, format!("{text} is no whole number of seconds, which a TTL is")))
}

impl Translation {
    pub(super) fn kubernetes(&mut self, directive: &Directive) -> Outcome<Kubernetes> {
        const CONNECTION: &str = "the settings kubeconfig and api-server say how the API server is reached";
        const LISTS: &str = "what is known is answered at once; the API server is asked for a few lists and their changes";
        let mut kubernetes = Kubernetes {
            zones: directive.arguments.clone(),
            ttl: Some(KUBERNETES_TTL),
            pods: Some(Pods::Disabled),
            ..Kubernetes::default()
        };
        for option in &directive.options {
            match option.name.as_str() {
                "ttl" => {
                    let ttl = number::<u32>(&option.place, option.one()?)?;
                    if ttl > 3600 {
                        return Err(wrong(&option.place, "ttl takes 0 to 3600 seconds"));
                    }
                    kubernetes.ttl = Some(ttl);
                }
                "pods" => {
                    kubernetes.pods = Some(match option.one()? {
                        "disabled" => Pods::Disabled,
                        "insecure" => Pods::Insecure,
                        "verified" => Pods::Verified,
                        other => {
                            return Err(wrong(
                                &option.place,
                                format!("{other:?} is not allowed; pods takes disabled, insecure or verified"),
                            ));
                        }
                    });
                }
                "multicluster" => kubernetes.multicluster = option.arguments.clone(),
                "namespaces" => kubernetes.namespaces = option.arguments.clone(),
                "fallthrough" => kubernetes.fallthrough = zones_or_all(option),
                "noendpoints" => kubernetes.no_endpoints = true,
                "ignore" if option.first() == "empty_service" => kubernetes.ignore_empty_services = true,
                "endpoint" | "tls" | "kubeconfig" => self.remark(option, "kubernetes", CONNECTION),
                "startup_timeout" | "apiserver_qps" | "apiserver_burst" | "apiserver_max_inflight" => {
                    self.remark(option, "kubernetes", LISTS);
                }
                "labels" => kubernetes.labels = Some(selector(option)?),
                "namespace_labels" => kubernetes.namespace_labels = Some(selector(option)?),
                "endpoint_pod_names" => kubernetes.endpoint_pod_names = true,
                "zonal" => kubernetes.zonal = true,
                _ => {
                    let known = "ttl, pods, namespaces, namespace_labels, labels, endpoint_pod_names, zonal, multicluster, fallthrough, noendpoints and ignore empty_service";
                    return Err(unknown("kubernetes", option, known));
                }
            }
        }
        Ok(kubernetes)
    }

    pub(super) fn forward(&mut self, directive: &Directive) -> Outcome<Forward> {
        let [from, to @ ..] = directive.arguments.as_slice() else {
            return Err(wrong(&directive.place, "forward needs a zone and servers, such as `forward . /etc/resolv.conf`"));
        };
        let mut forward = Forward { from: Some(from.clone()).filter(|from| from != "."), to: to.to_vec(), ..Forward::default() };
        for option in &directive.options {
            let place = &option.place;
            match option.name.as_str() {
                "policy" => {
                    forward.policy = Some(match option.one()? {
                        "random" => ForwardPolicy::Random,
                        "round_robin" => ForwardPolicy::RoundRobin,
                        "sequential" => ForwardPolicy::Sequential,
                        other => {
                            return Err(wrong(
                                place,
                                format!("{other:?} is no policy; there are random, round_robin and sequential"),
                            ));
                        }
                    });
                }
                "max_fails" => forward.max_fails = Some(number(place, option.one()?)?),
                "max_concurrent" => forward.max_concurrent = Some(number(place, option.one()?)?),
                "except" => forward.except.extend(option.arguments.iter().cloned()),
                "force_tcp" => forward.force_tcp = Some(true),
                "prefer_udp" => forward.prefer_udp = true,
                "expire" => forward.expire = Some(parsed(place, option.one()?)?),
                "health_check" => health_check(&mut forward, option)?,
                "tls_servername" => forward.tls_servername = Some(option.one()?.to_string()),
                "tls" => match option.arguments.as_slice() {
                    [] => {}
                    [ca] => forward.tls_ca = Some(ca.into()),
                    [certificate, key, rest @ ..] if rest.len() < 2 => {
                        forward.tls_certificate = Some(certificate.into());
                        forward.tls_key = Some(key.into());
                        forward.tls_ca = rest.first().map(PathBuf::from);
                    }
                    _ => return Err(wrong(place, "tls takes a CA, or a certificate and a key, and perhaps a CA")),
                },
                "failover" => {
                    let other = option.arguments.iter().find(|code| !FAILOVER.contains(&code.to_ascii_uppercase().as_str()));
                    if let Some(code) = other {
                        let problem = format!(
                            "an answer of {code} counts, whoever it is from; another server is asked after {}",
                            FAILOVER.join(", ")
                        );
                        return Err(wrong(place, problem));
                    }
                    self.remark(option, "forward", "another server is asked in any case where one fails or refuses");
                }
                "max_idle_conns" | "max_age" | "read_timeout" | "max_connect_attempts" => self.remark(
                    option,
                    "forward",
                    "16 idle connections to a server are kept; another server is asked long before a time-out",
                ),
                _ => {
                    let known = "policy, max_fails, max_concurrent, except, force_tcp, prefer_udp, expire, health_check, failover, tls and tls_servername";
                    return Err(unknown("forward", option, known));
                }
            }
        }
        Ok(forward)
    }
}

/// A label selector, of which the blanks make several words.
fn selector(option: &Directive) -> Outcome<String> {
    match option.arguments.join(" ") {
        text if text.is_empty() => Err(wrong(&option.place, format!("{} takes a label selector", option.name))),
        text => Ok(text),
    }
}

fn health_check(forward: &mut Forward, option: &Directive) -> Outcome<()> {
    let mut arguments = option.arguments.iter();
    let Some(every) = arguments.next() else { return Err(wrong(&option.place, "health_check takes a duration")) };
    forward.health_check = Some(parsed(&option.place, every)?);
    while let Some(word) = arguments.next() {
        match (word.as_str(), arguments.clone().next()) {
            ("no_rec", _) => forward.health_check_without_recursion = true,
            ("domain", Some(domain)) => {
                forward.health_check_domain = Some(domain.clone());
                arguments.next();
            }
            _ => return Err(wrong(&option.place, format!("{word:?} is not there; health_check takes no_rec and domain NAME"))),
        }
    }
    Ok(())
}
