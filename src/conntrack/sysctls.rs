//! The kernel's settings of connection tracking, with kube-proxy's defaults.

use crate::config::ConntrackConfig;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Where the chart mounts the host's, because a container's own /proc/sys can only be read. What is in it belongs to the network namespace of who looks.
const MOUNTED: &str = "/host/proc/sys/net/netfilter";
const OWN: &str = "/proc/sys/net/netfilter";

/// kube-proxy's, against a table that fills the memory of a machine with many cores.
const HIGHEST_MAX: u64 = 1 << 20;
/// Flows for each bucket of the kernel's hash table, at most.
const FLOWS_PER_BUCKET: u64 = 4;

/// A file in /proc/sys/net/netfilter and what it should say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sysctl {
    /// The file.
    pub name: &'static str,
    /// The number.
    pub value: u64,
    /// Whether a larger number will do: somebody has had a reason for it.
    pub or_more: bool,
}

/// A setting that is another one than wanted, and cannot be changed.
#[derive(Debug)]
pub struct Unset {
    /// What is wanted.
    pub sysctl: Sysctl,
    /// What it is, if it can be read.
    pub is: Option<u64>,
    /// Why it cannot be changed.
    pub why: io::Error,
}

impl fmt::Display for Unset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Sysctl { name, value, .. } = self.sysctl;
        match self.is {
            Some(is) => write!(f, "{name} is {is} instead of {value} ({})", self.why),
            None => write!(f, "{name} cannot be read ({})", self.why),
        }
    }
}

/// What this configuration wants on a machine with so many processors.
pub fn wanted(config: &ConntrackConfig, processors: u64) -> Vec<Sysctl> {
    let exactly = |name, seconds: u32| (seconds > 0).then_some(Sysctl { name, value: seconds.into(), or_more: false });
    let at_least = |name, value: u64| (value > 0).then_some(Sysctl { name, value, or_more: true });
    // As kube-proxy counts: the cap holds for the product only.
    let product = u64::from(config.max_per_core) * processors;
    let max = match config.max_per_core {
        0 => 0,
        _ if product > HIGHEST_MAX => HIGHEST_MAX,
        _ => product.max(config.min.into()),
    };
    let all = [
        at_least("nf_conntrack_buckets", max / FLOWS_PER_BUCKET),
        at_least("nf_conntrack_max", max),
        exactly("nf_conntrack_tcp_timeout_established", config.tcp_established_seconds),
        exactly("nf_conntrack_tcp_timeout_close_wait", config.tcp_close_wait_seconds),
        exactly("nf_conntrack_tcp_be_liberal", config.tcp_be_liberal.into()),
        exactly("nf_conntrack_udp_timeout", config.udp_seconds),
        exactly("nf_conntrack_udp_timeout_stream", config.udp_stream_seconds),
    ];
    all.into_iter().flatten().collect()
}

/// How many processors this machine has, whatever share of them this process may use: the table of flows is the machine's.
pub fn processors() -> u64 {
    let online = fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    let of_range = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(last.parse::<u64>().ok()? + 1 - first.parse::<u64>().ok()?)
    };
    online.trim().split(',').filter_map(of_range).sum::<u64>().max(1)
}

/// The folder of the settings.
pub fn folder() -> PathBuf {
    let mounted = Path::new(MOUNTED);
    if mounted.is_dir() { mounted.into() } else { OWN.into() }
}

/// Makes the settings what is wanted, and returns what could not be changed.
pub fn set(folder: &Path, wanted: &[Sysctl]) -> Vec<Unset> {
    change(folder, wanted, |mut file, value| file.write_all(value.to_string().as_bytes()))
}

/// What [`set`] could not change. Changes nothing.
pub fn unset(folder: &Path, wanted: &[Sysctl]) -> Vec<Unset> {
    change(folder, wanted, |_, _| Ok(()))
}

fn change(folder: &Path, wanted: &[Sysctl], write: impl Fn(fs::File, u64) -> io::Result<()>) -> Vec<Unset> {
    let one = |sysctl: &Sysctl| {
        let path = folder.join(sysctl.name);
        let is: Option<u64> = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
        if is.is_some_and(|is| is == sysctl.value || sysctl.or_more && is > sysctl.value) {
            return None;
        }
        let written = OpenOptions::new().write(true).open(&path).and_then(|file| write(file, sysctl.value));
        written.err().map(|why| Unset { sysctl: sysctl.clone(), is, why })
    };
    wanted.iter().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: ConntrackConfig = ConntrackConfig::DEFAULT;

    fn value(config: ConntrackConfig, processors: u64, name: &str) -> Option<u64> {
        wanted(&config, processors).iter().find(|sysctl| sysctl.name == name).map(|sysctl| sysctl.value)
    }

    #[test]
    fn the_size_of_the_table_follows_the_processors_as_in_kube_proxy() {
        let max = |config, processors| value(config, processors, "nf_conntrack_max");
        assert_eq!([1, 4, 8, 32, 64].map(|n| max(DEFAULTS, n).unwrap()), [131_072, 131_072, 262_144, 1 << 20, 1 << 20]);
        assert_eq!(max(ConntrackConfig { max_per_core: 0, ..DEFAULTS }, 8), None, "0 leaves it alone, the minimum too");
        assert_eq!(max(ConntrackConfig { min: 2_000_000, ..DEFAULTS }, 8), Some(2_000_000));
        assert_eq!(value(DEFAULTS, 8, "nf_conntrack_buckets"), Some(65_536));
    }

    #[test]
    fn time_outs_of_zero_are_left_alone() {
        assert_eq!(value(DEFAULTS, 1, "nf_conntrack_tcp_timeout_established"), Some(86_400));
        assert_eq!(value(DEFAULTS, 1, "nf_conntrack_tcp_timeout_close_wait"), Some(3600));
        assert_eq!(value(DEFAULTS, 1, "nf_conntrack_tcp_be_liberal"), Some(1));
        assert_eq!(value(DEFAULTS, 1, "nf_conntrack_udp_timeout"), None);
        assert_eq!(wanted(&ConntrackConfig::UNTOUCHED, 8), []);
    }

    #[test]
    fn what_is_larger_stays_what_differs_is_written_and_what_cannot_be_is_told() {
        let folder = std::env::temp_dir().join(format!("waypost-sysctls-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let write = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
        write("nf_conntrack_max", "500000\n");
        write("nf_conntrack_tcp_timeout_established", "432000\n");
        let wanted = [
            Sysctl { name: "nf_conntrack_max", value: 131_072, or_more: true },
            Sysctl { name: "nf_conntrack_tcp_timeout_established", value: 86_400, or_more: false },
            Sysctl { name: "nf_conntrack_udp_timeout", value: 30, or_more: false },
        ];
        assert_eq!(unset(&folder, &wanted).len(), 1);
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
        assert_eq!(read("nf_conntrack_tcp_timeout_established"), "432000\n", "looking changes nothing");
        let unset = set(&folder, &wanted);
        assert!(read("nf_conntrack_tcp_timeout_established").starts_with("86400"));
        assert_eq!(read("nf_conntrack_max"), "500000\n");
        assert_eq!(unset.iter().map(|one| one.why.kind()).collect::<Vec<_>>(), [io::ErrorKind::NotFound]);
        fs::remove_dir_all(&folder).unwrap();
    }
}
