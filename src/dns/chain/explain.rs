//! What a configuration does, in words: for `waypost check`. Pure.

use super::model::{AclAction, Block, Cache, Forward, Hosts, Kubernetes, Model, Pods};

/// One line for each block, and one for each of its parts in the order in which they see a question.
pub fn explain(model: &Model) -> Vec<String> {
    let mut lines = Vec::new();
    for (number, block) in model.blocks.iter().enumerate() {
        let place = match (block.bind.is_empty(), block.port) {
            (true, None) => String::new(),
            (true, Some(port)) => format!(", port {port}"),
            (false, port) => {
                let addresses = block.bind.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                format!(", at {addresses}{}", port.map_or(String::new(), |port| format!(", port {port}")))
            }
        };
        lines.push(format!("block {}: names in {}{place}", number + 1, zones(&block.zones)));
        lines.extend(parts(block).into_iter().map(|(part, what)| format!("  {part:<12}{what}")));
    }
    lines
}

fn zones(zones: &[String]) -> String {
    let named = zones.iter().map(|zone| if zone == "." { "all zones".to_string() } else { zone.clone() });
    named.collect::<Vec<_>>().join(", ")
}

/// Names that go on, and what becomes of the others.
fn rest(fallthrough: &[String], otherwise: &str) -> String {
    match fallthrough {
        [] => format!("what is not there is {otherwise}"),
        zones_ => format!("what is not there goes on in {}, and is {otherwise} elsewhere", zones(zones_)),
    }
}

fn parts(block: &Block) -> Vec<(&'static str, String)> {
    let mut parts = Vec::new();
    let mut say = |part, what: String| parts.push((part, what));
    if let Some(nsid) = &block.nsid {
        say(
            "nsid",
            if nsid.is_empty() { "clients that ask get the host name".into() } else { format!("clients that ask get {nsid:?}") },
        );
    }
    if let Some(size) = block.bufsize {
        say("bufsize", format!("no answer over UDP is larger than {size} bytes"));
    }
    if block.errors {
        say("errors", "questions that nobody answers are logged".into());
    }
    for log in &block.log {
        let names = if log.zones.is_empty() { "all zones".to_string() } else { zones(&log.zones) };
        say("log", format!("questions for names in {names} are logged"));
    }
    if let Some(dns64) = &block.dns64 {
        let prefix = dns64.prefix.map_or("64:ff9b::/96".to_string(), |prefix| prefix.to_string());
        say("dns64", format!("names without IPv6 addresses get some in {prefix}"));
    }
    if block.any {
        say("any", "ANY is answered with a note (RFC 8482)".into());
    }
    if block.chaos.is_some() {
        say("chaos", "version.bind and the like are answered".into());
    }
    for rule in &block.rewrite {
        let next = if rule.r#continue { ", then the next rule" } else { "" };
        say("rewrite", format!("{:?} {} becomes {}{next}", rule.what, rule.from, rule.to).to_lowercase());
    }
    if let Some(autopath) = &block.autopath {
        say("autopath", format!("search paths of {} are walked here", autopath.search));
    }
    for acl in &block.acl {
        for rule in &acl.rules {
            let what = match rule.action {
                AclAction::Allow => "allowed",
                AclAction::Block => "refused",
                AclAction::Filter => "answered with nothing",
                AclAction::Drop => "not answered",
            };
            let types = rule.types.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let from = rule.networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let types = if types.is_empty() { "all types".to_string() } else { types };
            let from = if from.is_empty() { "anybody".to_string() } else { from };
            say("acl", format!("questions for {types} from {from} are {what}"));
        }
    }
    if let Some(cache) = &block.cache {
        say("cache", of_cache(cache));
    }
    if let Some(header) = &block.header {
        let flags = |flags: &[super::values::Flag]| flags.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        say("header", format!("answers have set: {}; cleared: {}", flags(&header.set), flags(&header.clear)));
    }
    if block.minimal {
        say("minimal", "positive answers have an answer section only".into());
    }
    for template in &block.template {
        let code = template.rcode.map(|code| code.to_string());
        let says = [code.as_slice(), &template.answer].concat().join("; ");
        let says = if says.is_empty() { "NOERROR without a record" } else { &says };
        say("template", format!("{} {} is answered with {says}", template.class, template.r#type));
    }
    if let Some(hosts) = &block.hosts {
        say("hosts", of_hosts(hosts));
    }
    if let Some(kubernetes) = &block.kubernetes {
        say("kubernetes", of_kubernetes(kubernetes, block));
    }
    for forward in &block.forward {
        say("forward", of_forward(forward));
    }
    if block.whoami {
        say("whoami", "clients get their own address".into());
    }
    parts
}

fn of_cache(cache: &Cache) -> String {
    let ttl = |ttl: Option<u32>| ttl.map_or("as long as the settings say".to_string(), |ttl| format!("{ttl} s at most"));
    format!(
        "answers from other servers are kept {}, denials {}; names of the cluster never, they are in memory",
        ttl(cache.positive_ttl),
        ttl(cache.negative_ttl)
    )
}

fn of_hosts(hosts: &Hosts) -> String {
    let file = hosts.file.as_ref().map(|file| format!("names in {}", file.display()));
    let inline = (!hosts.inline.is_empty()).then(|| format!("{} lines of names", hosts.inline.len()));
    let what = [file, inline].into_iter().flatten().collect::<Vec<_>>().join(" and ");
    format!("{what} are answered; {}", rest(&hosts.fallthrough, "SERVFAIL"))
}

fn of_kubernetes(kubernetes: &Kubernetes, block: &Block) -> String {
    let names = if kubernetes.zones.is_empty() { &block.zones } else { &kubernetes.zones };
    let ttl = kubernetes.ttl.map_or("the TTL of the settings".to_string(), |ttl| format!("TTL {ttl} s"));
    let pods = match kubernetes.pods {
        Some(Pods::Disabled) => ", without names of pods",
        Some(Pods::Verified) => ", with names of pods that exist",
        Some(Pods::Insecure) | None => "",
    };
    let other = match kubernetes.multicluster.as_slice() {
        [] => String::new(),
        of_others => format!(", of other clusters in {}", zones(of_others)),
    };
    let chosen = |what: &str, selector: &Option<String>| selector.as_ref().map(|text| format!(", only {what} with {text}"));
    let choices = [
        (!kubernetes.namespaces.is_empty()).then(|| format!(", only in the namespaces {}", kubernetes.namespaces.join(", "))),
        chosen("namespaces", &kubernetes.namespace_labels),
        chosen("objects", &kubernetes.labels),
        kubernetes.endpoint_pod_names.then(|| ", endpoints by their pods' names".to_string()),
        kubernetes.zonal.then(|| ", with names for zones of nodes".to_string()),
    ];
    let chosen: String = choices.into_iter().flatten().collect();
    let rest = rest(&kubernetes.fallthrough, "NXDOMAIN");
    format!("the cluster's names in {}{other}, {ttl}{pods}{chosen}; {rest}", zones(names))
}

fn of_forward(forward: &Forward) -> String {
    let from = forward.from.as_deref().map_or(String::new(), |from| format!(" in {from}"));
    let except = if forward.except.is_empty() { String::new() } else { format!(", but not in {}", zones(&forward.except)) };
    format!("names{from} are asked at {}{except}", forward.to.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_of_a_block_is_said_in_its_order() {
        let block = Block {
            zones: vec!["corp.example".into()],
            port: Some(5353),
            any: true,
            kubernetes: Some(Kubernetes { fallthrough: vec![".".into()], ..Default::default() }),
            forward: vec![Forward { to: vec!["192.0.2.1".into()], ..Default::default() }],
            ..Block::default()
        };
        let lines = explain(&Model { blocks: vec![block], reload: None });
        let expected = [
            "block 1: names in corp.example, port 5353",
            "  any         ANY is answered with a note (RFC 8482)",
            "  kubernetes  the cluster's names in corp.example, the TTL of the settings; what is not there goes on in all zones, and is NXDOMAIN elsewhere",
            "  forward     names are asked at 192.0.2.1",
        ];
        assert_eq!(lines, expected);
    }
}
