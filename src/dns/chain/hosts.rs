//! Names with their addresses, listed or in a file of the kind of `/etc/hosts`.

use super::model;
use super::values;
use crate::dns::answer::rtype;
use crate::dns::lookup::reverse_address;
use crate::dns::name::DomainName;
use crate::dns::resolv_conf::Stamp;
use std::collections::HashMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tracing::warn;

/// CoreDNS's TTL.
const TTL: u32 = 3600;
/// How often the file is looked at (CoreDNS's).
const RELOAD: Duration = Duration::from_secs(5);

/// The names, ready.
#[derive(Debug)]
pub struct Hosts {
    zones: Vec<DomainName>,
    falls_through: Vec<DomainName>,
    ttl: u32,
    reverse: bool,
    inline: Table,
    file: Option<File>,
}

#[derive(Debug)]
struct File {
    path: PathBuf,
    /// `None`: it is read once.
    every: Option<Duration>,
    read: RwLock<Read>,
}

#[derive(Debug)]
struct Read {
    table: Arc<Table>,
    stamp: Option<Stamp>,
    looked: Instant,
}

/// Names in lower case, and what they have.
#[derive(Debug, Default, PartialEq, Eq)]
struct Table {
    addresses: HashMap<DomainName, Vec<IpAddr>>,
    names: HashMap<IpAddr, Vec<DomainName>>,
}

/// What becomes of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The name has these addresses of the asked family, or none.
    Addresses(Vec<IpAddr>),
    /// These names are at the address.
    Names(Vec<DomainName>),
    /// It is the next one's.
    Next,
    /// It is not there, and does not fall through. There is no zone that could say so: SERVFAIL.
    Failed,
}

impl Hosts {
    /// Reads what is listed, and the file if it is there. Without zones of its own it has those of the block.
    ///
    /// # Errors
    /// What is wrong.
    pub fn new(spec: &model::Hosts, block: &[String]) -> Result<Hosts, String> {
        let zones = values::all_zones(if spec.zones.is_empty() { block } else { &spec.zones })?;
        let reverse = !spec.no_reverse;
        for line in &spec.inline {
            let address = line.split_whitespace().next().unwrap_or_default();
            if parse_address(address).is_none() {
                return Err(format!("{line:?} does not begin with an address"));
            }
        }
        let inline = Table::read(&spec.inline.join("\n"), &zones, reverse);
        let every = spec.reload.map_or(Some(RELOAD), |time| Some(time.0).filter(|time| !time.is_zero()));
        let file = spec.file.as_ref().map(|path| File::new(path, every, &zones, reverse));
        let ttl = spec.ttl.unwrap_or(TTL);
        if !(1..=65_535).contains(&ttl) {
            return Err(format!("the TTL {ttl} is not allowed; give 1 to 65535 seconds"));
        }
        Ok(Hosts { zones, falls_through: values::all_zones(&spec.fallthrough)?, ttl, reverse, inline, file })
    }

    /// TTL of the records, seconds.
    pub fn ttl(&self) -> u32 {
        self.ttl
    }

    /// Looks for a name (in lower case).
    pub fn find(&self, name: &DomainName, kind: u16) -> Found {
        let wire = name.as_wire();
        let file = self.file.as_ref().map(|file| file.table(&self.zones, self.reverse));
        let tables = || file.as_deref().into_iter().chain([&self.inline]);
        if kind == rtype::PTR {
            let names = |address: IpAddr| tables().filter_map(|table| table.names.get(&address)).flatten().cloned().collect();
            let names: Vec<DomainName> = reverse_address(wire).map(names).unwrap_or_default();
            return if names.is_empty() { Found::Next } else { Found::Names(names) };
        }
        if !self.zones.iter().any(|zone| zone.is_above(wire)) {
            return Found::Next;
        }
        let all: Vec<IpAddr> = tables().flat_map(|table| table.find(name)).collect();
        let is_asked = |address: &IpAddr| match kind {
            rtype::A => address.is_ipv4(),
            rtype::AAAA => address.is_ipv6(),
            _ => false,
        };
        match all.is_empty() {
            false => Found::Addresses(all.into_iter().filter(is_asked).collect()),
            true if self.falls_through.iter().any(|zone| zone.is_above(wire)) => Found::Next,
            true => Found::Failed,
        }
    }
}

impl Table {
    fn read(text: &str, zones: &[DomainName], reverse: bool) -> Table {
        let mut table = Table::default();
        for line in text.lines() {
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            let Some(address) = words.next().and_then(parse_address) else { continue };
            for name in words.filter_map(DomainName::parse_escaped).map(|name| name.to_lower()) {
                if !zones.iter().any(|zone| zone.is_above(name.as_wire())) {
                    continue;
                }
                table.addresses.entry(name.clone()).or_default().push(address);
                if reverse && name.labels().next() != Some(b"*") {
                    table.names.entry(address).or_default().push(name);
                }
            }
        }
        table
    }

    /// The addresses of a name, or of the wildcard beside it, for each family.
    fn find(&self, name: &DomainName) -> Vec<IpAddr> {
        let exact = self.addresses.get(name).map(Vec::as_slice).unwrap_or_default();
        let star = DomainName::from_labels([b"*".as_slice()].into_iter().chain(name.labels().skip(1)));
        let wild = star.and_then(|star| self.addresses.get(&star)).map(Vec::as_slice).unwrap_or_default();
        let of = |addresses: &[IpAddr], v4: bool| {
            addresses.iter().copied().filter(|address| address.is_ipv4() == v4).collect::<Vec<_>>()
        };
        let family = |v4| {
            let exact = of(exact, v4);
            if exact.is_empty() { of(wild, v4) } else { exact }
        };
        [family(true), family(false)].concat()
    }
}

impl File {
    fn new(path: &Path, every: Option<Duration>, zones: &[DomainName], reverse: bool) -> File {
        let read = Read { table: Arc::default(), stamp: None, looked: Instant::now() };
        let file = File { path: path.to_path_buf(), every, read: RwLock::new(read) };
        if Stamp::of(path).is_none() {
            warn!(file = %path.display(), "there is no such hosts file yet; its names are served when it appears");
        }
        file.read_again(zones, reverse);
        file
    }

    /// The names in the file, which is looked at now and then.
    fn table(&self, zones: &[DomainName], reverse: bool) -> Arc<Table> {
        let read = self.read.read().unwrap_or_else(PoisonError::into_inner);
        let is_due = self.every.is_some_and(|every| read.looked.elapsed() >= every);
        let table = read.table.clone();
        drop(read);
        if !is_due {
            return table;
        }
        self.read_again(zones, reverse);
        self.read.read().unwrap_or_else(PoisonError::into_inner).table.clone()
    }

    fn read_again(&self, zones: &[DomainName], reverse: bool) {
        let mut read = self.read.write().unwrap_or_else(PoisonError::into_inner);
        read.looked = Instant::now();
        let stamp = Stamp::of(&self.path);
        // What was read stays when the file is gone.
        if stamp.is_none() || stamp == read.stamp {
            return;
        }
        match fs::read_to_string(&self.path) {
            Ok(text) => {
                read.table = Arc::new(Table::read(&text, zones, reverse));
                read.stamp = stamp;
            }
            Err(error) => warn!(file = %self.path.display(), %error, "the hosts file cannot be read; what was read before stays"),
        }
    }
}

/// An address; the zone of a link-local one does not matter.
fn parse_address(text: &str) -> Option<IpAddr> {
    text.split('%').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(spec: &model::Hosts) -> Hosts {
        Hosts::new(spec, &[".".to_string()]).unwrap()
    }

    fn find(hosts: &Hosts, name: &str, kind: u16) -> Found {
        hosts.find(&DomainName::parse(name).unwrap(), kind)
    }

    fn inline(lines: &[&str]) -> model::Hosts {
        model::Hosts { inline: lines.iter().map(ToString::to_string).collect(), ..Default::default() }
    }

    fn addresses(texts: &[&str]) -> Found {
        Found::Addresses(texts.iter().map(|text| text.parse().unwrap()).collect())
    }

    #[test]
    fn listed_names_have_addresses_and_addresses_names() {
        let hosts =
            hosts(&inline(&["192.0.2.1 A.example b.example # c.example", "2001:db8::1 a.example", "192.0.2.2 *.wild.example"]));
        assert_eq!(find(&hosts, "a.example", 1), addresses(&["192.0.2.1"]));
        assert_eq!(find(&hosts, "a.example", 28), addresses(&["2001:db8::1"]));
        assert_eq!(find(&hosts, "b.example", 28), addresses(&[]));
        assert_eq!(find(&hosts, "a.example", 16), addresses(&[]));
        assert_eq!(find(&hosts, "c.example", 1), Found::Failed);
        assert_eq!(find(&hosts, "x.wild.example", 1), addresses(&["192.0.2.2"]));
        assert_eq!(find(&hosts, "y.x.wild.example", 1), Found::Failed);
        let names = ["a.example", "b.example"].map(|name| DomainName::parse(name).unwrap()).to_vec();
        assert_eq!(find(&hosts, "1.2.0.192.in-addr.arpa", 12), Found::Names(names));
        assert_eq!(find(&hosts, "9.2.0.192.in-addr.arpa", 12), Found::Next);
    }

    #[test]
    fn zones_and_fallthrough_decide_on_what_is_not_there() {
        let spec = model::Hosts {
            zones: vec!["example".into()],
            fallthrough: vec!["b.example".into()],
            ..inline(&["192.0.2.1 a.example other"])
        };
        let hosts = hosts(&spec);
        assert_eq!(find(&hosts, "other", 1), Found::Next);
        assert_eq!(find(&hosts, "x.b.example", 1), Found::Next);
        assert_eq!(find(&hosts, "x.a.example", 1), Found::Failed);
    }

    #[test]
    fn a_file_that_changes_is_read_again() {
        let path = std::env::temp_dir().join(format!("waypost-hosts-{}", std::process::id()));
        let spec = model::Hosts {
            file: Some(path.clone()),
            reload: Some("1ms".parse().unwrap()),
            no_reverse: true,
            ..Default::default()
        };
        let hosts = hosts(&spec);
        assert_eq!(find(&hosts, "a.example", 1), Found::Failed);
        for (text, expected) in [("192.0.2.1 a.example\n", "192.0.2.1"), ("192.0.2.22 a.example\n", "192.0.2.22")] {
            fs::write(&path, text).unwrap();
            while find(&hosts, "a.example", 1) != addresses(&[expected]) {
                std::thread::yield_now();
            }
        }
        assert_eq!(find(&hosts, "1.2.0.192.in-addr.arpa", 12), Found::Next);
        fs::remove_file(&path).unwrap();
    }
}
