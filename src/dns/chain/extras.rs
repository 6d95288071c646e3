//! The parts of a block beside cluster names, cache and forwarding, ready.

use super::hosts::Hosts;
use super::log::Log;
use super::model::{self, AclAction, Block};
use super::plan::Wrong;
use super::rewrite::Rule;
use super::template::Template;
use super::values::{self, Flag};
use crate::dns::name::DomainName;
use ipnet::{IpNet, Ipv6Net};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// RFC 6052, section 2.1.
const WELL_KNOWN_PREFIX: &str = "64:ff9b::/96";
/// The longest string in a TXT record.
const LONGEST_STRING: usize = 255;
/// The size of answers over UDP that is not exceeded.
const BUFSIZE: std::ops::RangeInclusive<u16> = 512..=4096;

/// What a block has beside cluster names, cache and forwarding.
pub struct Extras {
    pub nsid: Option<Vec<u8>>,
    pub bufsize: Option<u16>,
    pub logs: Vec<Log>,
    pub dns64: Option<Dns64>,
    pub any: bool,
    pub chaos: Option<Chaos>,
    pub rewrite: Vec<Rule>,
    pub autopath: Option<Autopath>,
    pub acl: Vec<Acl>,
    pub header: Vec<(Flag, bool)>,
    pub minimal: bool,
    pub templates: Vec<Template>,
    pub hosts: Option<Hosts>,
    pub whoami: bool,
}

impl Extras {
    /// Makes them; `None` where there are none.
    ///
    /// # Errors
    /// The first thing that cannot be done.
    pub fn new(block: &Block) -> Result<Option<Extras>, Wrong> {
        let part = |plugin: &'static str, number: usize| move |problem| Wrong { plugin, number, problem };
        let mut rewrite = Vec::new();
        for (number, spec) in block.rewrite.iter().enumerate() {
            rewrite.push(Rule::new(spec).map_err(part("rewrite", number))?);
        }
        let mut templates = Vec::new();
        for (number, spec) in block.template.iter().enumerate() {
            templates.push(Template::new(spec, &block.zones).map_err(part("template", number))?);
        }
        let mut acl = Vec::new();
        for (number, spec) in block.acl.iter().enumerate() {
            acl.push(Acl::new(spec, &block.zones).map_err(part("acl", number))?);
        }
        let mut logs = Vec::new();
        for (number, spec) in block.log.iter().enumerate() {
            logs.push(Log::new(spec).map_err(part("log", number))?);
        }
        if let Some(size) = block.bufsize.filter(|size| !BUFSIZE.contains(size)) {
            return Err(part("bufsize", 0)(format!("{size} is not allowed; give 512 to 4096 bytes")));
        }
        let header = block.header.as_ref().map(|header| {
            let flags = |flags: &[Flag], on| flags.iter().map(move |flag| (*flag, on)).collect::<Vec<_>>();
            [flags(&header.set, true), flags(&header.clear, false)].concat()
        });
        let extras = Extras {
            nsid: block.nsid.as_ref().map(|text| if text.is_empty() { host_name() } else { text.clone() }.into_bytes()),
            bufsize: block.bufsize,
            logs,
            dns64: block.dns64.as_ref().map(Dns64::new).transpose().map_err(part("dns64", 0))?,
            any: block.any,
            chaos: block.chaos.as_ref().map(Chaos::new),
            rewrite,
            autopath: block.autopath.as_ref().map(|spec| Autopath::new(spec, block)).transpose().map_err(part("autopath", 0))?,
            acl,
            header: header.unwrap_or_default(),
            minimal: block.minimal,
            templates,
            hosts: block.hosts.as_ref().map(|spec| Hosts::new(spec, &block.zones)).transpose().map_err(part("hosts", 0))?,
            whoami: block.whoami,
        };
        let is_there = extras.nsid.is_some()
            || extras.bufsize.is_some()
            || extras.dns64.is_some()
            || extras.any
            || extras.chaos.is_some()
            || extras.autopath.is_some()
            || extras.minimal
            || extras.hosts.is_some()
            || extras.whoami
            || !(extras.rewrite.is_empty()
                && extras.acl.is_empty()
                && extras.header.is_empty()
                && extras.templates.is_empty()
                && extras.logs.is_empty());
        Ok(is_there.then_some(extras))
    }
}

fn host_name() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_else(|| "localhost".to_string())
}

/// RFC 6147.
pub struct Dns64 {
    prefix: Ipv6Net,
    pub translate_all: bool,
    pub allow_ipv4: bool,
}

impl Dns64 {
    fn new(spec: &model::Dns64) -> Result<Dns64, String> {
        let prefix = match spec.prefix {
            None => WELL_KNOWN_PREFIX.parse().map_err(|_| "there is no well-known prefix".to_string())?,
            Some(IpNet::V6(prefix)) if matches!(prefix.prefix_len(), 32 | 40 | 48 | 56 | 64 | 96) => prefix.trunc(),
            Some(prefix) => {
                return Err(format!("{prefix} is no prefix; give an IPv6 network of length 32, 40, 48, 56, 64 or 96"));
            }
        };
        Ok(Dns64 { prefix, translate_all: spec.translate_all, allow_ipv4: spec.allow_ipv4 })
    }

    /// The IPv6 address of an IPv4 one (RFC 6052, section 2.2): octets 64 to 71 stay zero.
    pub fn address(&self, address: Ipv4Addr) -> Ipv6Addr {
        let mut octets = self.prefix.addr().octets();
        let mut place = usize::from(self.prefix.prefix_len() / 8);
        for octet in address.octets() {
            if place == 8 {
                place += 1;
            }
            octets[place] = octet;
            place += 1;
        }
        Ipv6Addr::from(octets)
    }
}

/// What is said of the server itself.
pub struct Chaos {
    pub version: String,
    pub authors: Vec<String>,
    pub host_name: String,
}

impl Chaos {
    fn new(spec: &model::Chaos) -> Chaos {
        let cut = |text: &str| text.chars().take(LONGEST_STRING).collect::<String>();
        let version = spec.version.clone().unwrap_or_else(|| format!("Waypost-{}", env!("CARGO_PKG_VERSION")));
        let authors = if spec.authors.is_empty() { vec!["The Waypost authors".to_string()] } else { spec.authors.clone() };
        Chaos { version: cut(&version), authors: authors.iter().map(|author| cut(author)).collect(), host_name: host_name() }
    }
}

/// Search paths walked on the server.
pub struct Autopath {
    zones: Vec<DomainName>,
    search: Search,
}

enum Search {
    /// That of the asking pod, and behind it what the host searches.
    OfPod(Vec<DomainName>),
    Fixed(Vec<DomainName>),
}

impl Autopath {
    fn new(spec: &model::Autopath, block: &Block) -> Result<Autopath, String> {
        let zones = values::all_zones(if spec.zones.is_empty() { &block.zones } else { &spec.zones })?;
        let search = match spec.search.as_str() {
            "kubernetes" if block.kubernetes.is_none() => return Err("the block has no cluster names (kubernetes)".to_string()),
            "kubernetes" => Search::OfPod(search_of(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default())),
            path if path.starts_with('/') => {
                let text = fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}"))?;
                Search::Fixed(search_of(&text))
            }
            other => return Err(format!("{other:?} is neither kubernetes nor the path of a resolv.conf")),
        };
        Ok(Autopath { zones, search })
    }

    /// The search path of a client for this name: `namespace` is that of its pod, where it is known, and `zone` the cluster's.
    pub fn path(
        &self,
        name: &DomainName,
        zone: Option<&DomainName>,
        namespace: impl FnOnce() -> Option<Vec<u8>>,
    ) -> Vec<DomainName> {
        if !self.zones.iter().any(|zone| zone.is_above(name.as_wire())) {
            return Vec::new();
        }
        match (&self.search, zone) {
            (Search::Fixed(path), _) => path.clone(),
            (Search::OfPod(host), Some(zone)) => {
                let Some(namespace) = namespace() else { return Vec::new() };
                let below = |labels: &[&[u8]]| DomainName::from_labels(labels.iter().copied().chain(zone.labels()));
                let own = [below(&[&namespace, b"svc"]), below(&[b"svc"]), Some(zone.clone())];
                own.into_iter().flatten().chain(host.iter().cloned()).collect()
            }
            (Search::OfPod(_), None) => Vec::new(),
        }
    }
}

/// The last `search` line of a resolv.conf.
fn search_of(text: &str) -> Vec<DomainName> {
    let mut lines =
        text.lines().filter_map(|line| line.trim_start().strip_prefix("search")).filter(|rest| rest.starts_with([' ', '\t']));
    let domains = lines.next_back().unwrap_or_default().split_whitespace();
    domains.filter_map(DomainName::parse_escaped).map(|name| name.to_lower()).collect()
}

/// Who may ask what.
pub struct Acl {
    zones: Vec<DomainName>,
    rules: Vec<model::AclRule>,
}

impl Acl {
    fn new(spec: &model::Acl, block: &[String]) -> Result<Acl, String> {
        let zones = values::all_zones(if spec.zones.is_empty() { block } else { &spec.zones })?;
        Ok(Acl { zones, rules: spec.rules.clone() })
    }

    /// What happens to a question; `None` where no rule fits.
    pub fn judge(&self, name: &DomainName, rtype: u16, client: IpAddr) -> Option<AclAction> {
        if !self.zones.iter().any(|zone| zone.is_above(name.as_wire())) {
            return None;
        }
        let client = client.to_canonical();
        let fits = |rule: &&model::AclRule| {
            (rule.types.is_empty() || rule.types.iter().any(|kind| kind.0 == rtype))
                && (rule.networks.is_empty() || rule.networks.iter().any(|network| network.contains(&client)))
        };
        self.rules.iter().find(fits).map(|rule| rule.action)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_addresses_are_put_into_prefixes_of_all_lengths() {
        // The examples of RFC 6052, section 2.4.
        for (prefix, expected) in [
            ("2001:db8::/32", "2001:db8:c000:221::"),
            ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
            ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
            ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
            ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
            ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
        ] {
            let spec = model::Dns64 { prefix: Some(prefix.parse().unwrap()), ..Default::default() };
            assert_eq!(
                Dns64::new(&spec).unwrap().address("192.0.2.33".parse().unwrap()).to_string(),
                expected.parse::<Ipv6Addr>().unwrap().to_string()
            );
        }
        let of_length = |length| model::Dns64 { prefix: format!("2001:db8::/{length}").parse().ok(), ..Default::default() };
        // Between 64 and 96 there is none (RFC 6052, section 2.2).
        assert!([24, 72, 80, 88, 104].iter().all(|length| Dns64::new(&of_length(*length)).is_err()));
        let bad = of_length(44);
        assert!(Dns64::new(&bad).is_err());
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let rule = |action, types: &[&str], networks: &[&str]| model::AclRule {
            action,
            types: types.iter().map(|kind| kind.parse().unwrap()).collect(),
            networks: networks.iter().map(|network| network.parse().unwrap()).collect(),
        };
        let rules = vec![
            rule(AclAction::Filter, &["AAAA"], &[]),
            rule(AclAction::Allow, &[], &["10.0.0.0/8"]),
            rule(AclAction::Block, &[], &[]),
        ];
        let acl = Acl::new(&model::Acl { zones: vec!["example".into()], rules }, &[]).unwrap();
        let judge = |name, rtype, client: &str| acl.judge(&DomainName::parse(name).unwrap(), rtype, client.parse().unwrap());
        assert_eq!(judge("a.example", 28, "10.1.2.3"), Some(AclAction::Filter));
        assert_eq!(judge("a.example", 1, "::ffff:10.1.2.3"), Some(AclAction::Allow));
        assert_eq!(judge("a.example", 1, "192.0.2.1"), Some(AclAction::Block));
        assert_eq!(judge("a.other", 1, "192.0.2.1"), None);
    }

    #[test]
    fn the_last_search_line_counts() {
        let names = |text| search_of(text).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            names("search a.example\nnameserver 192.0.2.1\nsearch b.example C.example.\nsearching x"),
            ["b.example.", "c.example."]
        );
        assert!(names("nameserver 192.0.2.1").is_empty());
    }
}
