//! Names with their addresses, listed or in a file of the kind of `/etc/hosts`.

use super::model;
use super::values;
use crate::dns::answer::rtype;
use crate::dns::lookup::reverse_address;
use crate::dns::name::DomainName;
use crate::dns::resolv_conf::Stamp;
use arc_swap::ArcSwap;
use std::collections::HashMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
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
    inline: Table,
    file: Option<Arc<File>>,
}

/// A file, which nobody who asks ever waits for.
#[derive(Debug)]
struct File {
    path: PathBuf,
    /// `None`: it is read once.
    every: Option<Duration>,
    zones: Vec<DomainName>,
    reverse: bool,
    table: ArcSwap<Table>,
    /// When it was looked at last.
    looked: Mutex<Instant>,
    /// Held by who reads it.
    stamp: Mutex<Option<Stamp>>,
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
        Ok(Hosts { zones, falls_through: values::all_zones(&spec.fallthrough)?, ttl, inline, file })
    }

    /// TTL of the records, seconds.
    pub fn ttl(&self) -> u32 {
        self.ttl
    }

    /// Looks for a name (in lower case).
    pub fn find(&self, name: &DomainName, kind: u16) -> Found {
        let wire = name.as_wire();
        let file = self.file.as_ref().map(File::table);
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
    fn new(path: &Path, every: Option<Duration>, zones: &[DomainName], reverse: bool) -> Arc<File> {
        let file = File {
            path: path.to_path_buf(),
            every,
            zones: zones.to_vec(),
            reverse,
            table: ArcSwap::default(),
            looked: Mutex::new(Instant::now()),
            stamp: Mutex::new(None),
        };
        if Stamp::of(path).is_none() {
            warn!(file = %path.display(), "there is no such hosts file yet; its names are served when it appears");
        }
        file.read_again();
        Arc::new(file)
    }

    /// The names as they were read last. Now and then somebody else looks at the file meanwhile.
    fn table(self: &Arc<File>) -> Arc<Table> {
        if self.is_due()
            && let Ok(runtime) = Handle::try_current()
        {
            let file = self.clone();
            runtime.spawn_blocking(move || file.read_again());
        }
        self.table.load_full()
    }

    /// Whether it is to be looked at now; says so to one.
    fn is_due(&self) -> bool {
        let Some(every) = self.every else { return false };
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = looked.elapsed() >= every;
        if is_due {
            *looked = Instant::now();
        }
        is_due
    }

    fn read_again(&self) {
        // Whoever reads it already, perhaps from a disk that hangs, is enough.
        let Ok(mut known) = self.stamp.try_lock() else { return };
        let stamp = Stamp::of(&self.path);
        // What was read stays when the file is gone.
        if stamp.is_none() || stamp == *known {
            return;
        }
        match fs::read_to_string(&self.path) {
            Ok(text) => {
                self.table.store(Arc::new(Table::read(&text, &self.zones, self.reverse)));
                *known = stamp;
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

    #[tokio::test]
    async fn a_file_that_changes_is_read_again_and_nobody_waits_for_it() {
        let path = std::env::temp_dir().join(format!("waypost-hosts-{}", std::process::id()));
        let spec = model::Hosts {
            file: Some(path.clone()),
            reload: Some("1ms".parse().unwrap()),
            no_reverse: true,
            ..Default::default()
        };
        let hosts = hosts(&spec);
        assert_eq!(find(&hosts, "a.example", 1), Found::Failed);
        let until_it_is = async |expected: &str| {
            while find(&hosts, "a.example", 1) != addresses(&[expected]) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        for (text, expected) in [("192.0.2.1 a.example\n", "192.0.2.1"), ("192.0.2.22 a.example\n", "192.0.2.22")] {
            fs::write(&path, text).unwrap();
            until_it_is(expected).await;
        }
        assert_eq!(find(&hosts, "1.2.0.192.in-addr.arpa", 12), Found::Next);
        // Whoever opens this one waits for somebody who writes it.
        fs::remove_file(&path).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        for _ in 0..50 {
            assert_eq!(find(&hosts, "a.example", 1), addresses(&["192.0.2.22"]));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let file = path.clone();
        tokio::task::spawn_blocking(move || fs::write(file, "192.0.2.3 a.example\n").unwrap());
        until_it_is("192.0.2.3").await;
        // Nobody opens it any more; whoever still waits for a writer gets one, who says nothing.
        let end = path.with_extension("end");
        fs::rename(&path, &end).unwrap();
        drop(fs::OpenOptions::new().read(true).write(true).open(&end).unwrap());
        fs::remove_file(&end).unwrap();
    }
}
