//! Looks at the host. Nothing here changes anything outside a network namespace that ends with the look.

use super::facts::{Chain, Facts, Probe, Reading};
use super::source;
use crate::agent::layouts::layout;
use crate::agent::local_dns;
use crate::config::{Config, ConntrackConfig, Role, Upstreams};
use crate::conntrack;
use crate::holder;
use crate::leftovers;
use crate::model::{Demand, Family, Protocol};
use crate::nft::{self, Committer, Layout, Netlink, NftError};
use crate::proxy::Delta;
use nftables::schema::{NfListObject, NfObject};
use nftables::types::{NfChainPolicy, NfFamily, NfHook};
use nix::sched::{CloneFlags, unshare};
use std::fs;
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Looks at everything that the judgement needs.
pub async fn facts(config: &Config, demand: Demand) -> Facts {
    let proxies = config.role != Role::Dns;
    let (nf_tables, zones) = if proxies { trial(config) } else { Default::default() };
    Facts {
        kernel: read("/proc/sys/kernel/osrelease").unwrap_or_default(),
        capabilities: capabilities(&read("/proc/self/status").unwrap_or_default()),
        unprivileged_port_start: number("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or(1024),
        nf_tables,
        zones,
        nft: if proxies { input_chains() } else { Reading::NoProgram },
        leftovers: if proxies { leftovers::facts() } else { leftovers::Facts::default() },
        sysctls: if proxies { sysctls(&config.proxy.conntrack) } else { Vec::new() },
        bridges: leftovers::links()
            .into_iter()
            .filter(|link| Path::new("/sys/class/net").join(link).join("bridge").is_dir())
            .collect(),
        bridge_nf_call_iptables: number("/proc/sys/net/bridge/bridge-nf-call-iptables").map(|value: u8| value != 0),
        taken: taken(config),
        absent: absent(config),
        resolv_conf: resolv_conf(&config.dns.upstreams),
        source: source::look(config, demand).await,
    }
}

fn read(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_string())
}

fn number<T: std::str::FromStr>(path: &str) -> Option<T> {
    read(path)?.parse().ok()
}

fn capabilities(status: &str) -> Option<u64> {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(effective.trim(), 16).ok()
}

/// Behind the trial, which brings the files where nothing was tracked yet.
fn sysctls(config: &ConntrackConfig) -> Vec<(&'static str, String)> {
    let wanted = conntrack::wanted(config, conntrack::processors());
    let unset = conntrack::unset(&conntrack::folder(), &wanted);
    unset.into_iter().map(|unset| (unset.sysctl.name, unset.to_string())).collect()
}

/// Writes the agent's own empty tables into a network namespace made for that, on a thread that ends with it. There it also looks whether the kernel
/// has conntrack zones, where tracked DNS questions need them.
fn trial(config: &Config) -> (Probe, Option<bool>) {
    let layouts = Family::BOTH.map(|family| layout(&config.proxy, None, family));
    let needs_zones = config.proxy.tracked_dns && !local_dns::addresses(config).is_empty();
    let attempt = std::thread::spawn(move || match unshare(CloneFlags::CLONE_NEWNET) {
        Err(error) => (Probe::Untried(format!("a network namespace for a trial is not allowed here ({error})")), None),
        Ok(()) => {
            let tables = match write_tables(layouts) {
                Ok(()) => Probe::Works,
                Err(error) => Probe::Fails(error.to_string()),
            };
            (tables, needs_zones.then(nft::knows_zones).and_then(Result::ok))
        }
    });
    attempt.join().unwrap_or_default()
}

fn write_tables(layouts: [Layout; 2]) -> Result<(), NftError> {
    let committed = Committer::new(Netlink::open()?, layouts).commit(Delta::default());
    committed.families.into_iter().find_map(|outcome| outcome.error).map_or(Ok(()), Err)
}

fn run_nft(arguments: &[&str]) -> io::Result<Output> {
    Command::new("nft").args(arguments).stdin(Stdio::null()).output()
}

/// The base chains at hook input. The `nftables` crate reads plain listings; one of the rules themselves it cannot read on a host with verdict
/// maps, so that the few chains that matter are taken as text.
fn input_chains() -> Reading<Vec<Chain>> {
    let listing = match nftables::helper::get_current_ruleset_with_args(None::<&str>, ["list", "chains"]) {
        Ok(listing) => listing,
        Err(nftables::helper::NftablesError::NftExecution { inner, .. }) if inner.kind() == io::ErrorKind::NotFound => {
            return Reading::NoProgram;
        }
        Err(error) => return Reading::Failed(error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")),
    };
    let mut chains: Vec<Chain> = listing.objects.iter().filter_map(input_chain).collect();
    for chain in &mut chains {
        let listed = run_nft(&["-n", "list", "chain", &chain.family, &chain.table, &chain.name]);
        chain.text = listed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    }
    Reading::Read(chains)
}

fn input_chain(object: &NfObject) -> Option<Chain> {
    let NfObject::ListObject(NfListObject::Chain(chain)) = object else { return None };
    (chain.hook == Some(NfHook::Input)).then(|| Chain {
        family: family(chain.family).to_string(),
        table: chain.table.to_string(),
        name: chain.name.to_string(),
        policy_drop: chain.policy == Some(NfChainPolicy::Drop),
        text: String::new(),
    })
}

fn family(family: NfFamily) -> &'static str {
    match family {
        NfFamily::IP => "ip",
        NfFamily::IP6 => "ip6",
        NfFamily::INet => "inet",
        NfFamily::ARP => "arp",
        NfFamily::Bridge => "bridge",
        NfFamily::NetDev => "netdev",
    }
}

/// The addresses that are asked for and that this host does not have.
fn absent(config: &Config) -> Vec<(&'static str, IpAddr)> {
    let lacks = |ip: IpAddr| UdpSocket::bind((ip, 0)).is_err_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable);
    let asked = super::addresses(config).into_iter().map(|(setting, address)| (setting, address.ip()));
    asked.filter(|(_, ip)| !ip.is_unspecified() && lacks(*ip)).collect()
}

fn taken(config: &Config) -> Vec<(&'static str, Protocol, std::net::SocketAddr, holder::Holder)> {
    let mut taken = Vec::new();
    for (setting, address) in super::addresses(config) {
        let protocols: &[Protocol] = if setting == "dns-address" { &[Protocol::Udp, Protocol::Tcp] } else { &[Protocol::Tcp] };
        for protocol in protocols {
            if let Some(holder) = holder::of(*protocol, address).filter(|_| address.port() != 0) {
                taken.push((setting, *protocol, address, holder));
            }
        }
    }
    taken
}

fn resolv_conf(upstreams: &Upstreams) -> Option<Result<Vec<IpAddr>, String>> {
    // With servers beside them nothing that a file has or lacks is a fault.
    let path = upstreams.files().next().filter(|_| upstreams.servers().next().is_none())?;
    let text = fs::read_to_string(path).map_err(|error| format!("{} cannot be read ({error})", path.display()));
    Some(text.map(|text| name_servers(&text)))
}

/// The addresses behind `nameserver`, see resolv.conf(5); a zone (`fe80::1%eth0`) does not matter here.
fn name_servers(text: &str) -> Vec<IpAddr> {
    let server = |line: &str| line.trim().strip_prefix("nameserver")?.split_whitespace().next()?.split('%').next()?.parse().ok();
    text.lines().filter_map(server).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_the_effective_ones() {
        let status = "Name:\tx\nCapPrm:\t000001ffffffffff\nCapEff:\t0000000000001400\nCapBnd:\t0\n";
        assert_eq!(capabilities(status), Some(1 << 12 | 1 << 10));
        assert_eq!(capabilities(""), None);
    }

    #[test]
    fn name_servers_are_read_as_the_resolver_reads_them() {
        let text =
            "# nameserver 192.0.2.9\nsearch example.org\nnameserver 192.0.2.53\n nameserver fe80::1%eth0\nnameserver bad\n";
        assert_eq!(name_servers(text), ["192.0.2.53".parse::<IpAddr>().unwrap(), "fe80::1".parse().unwrap()]);
    }
}
