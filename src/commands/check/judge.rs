//! From facts to findings: pure.

use super::facts::{Chain, Facts, Probe, Reading, SourceFact};
use crate::agent::local_dns;
use crate::config::{ClusterSource, Config, Role};
use crate::conntrack::kernel_version;
use crate::holder::Holder;
use crate::leftovers;
use crate::model::Kind;
use crate::nft::TABLE;
use serde::Serialize;
use std::net::{IpAddr, SocketAddr};

const NET_BIND_SERVICE: u8 = 10;
const NET_ADMIN: u8 = 12;
/// kube-proxy's nftables mode and the owner flag of tables need it.
const OLDEST_KERNEL: (u32, u32) = (5, 13);

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The agent cannot run, or not do its work.
    Error,
    /// It runs, but something will go wrong or get in its way.
    Warning,
    /// Good to know, among it what could not be found out.
    Note,
}

/// Something that was found, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is about.
    pub subject: &'static str,
    /// What was found.
    pub found: String,
    /// What to do.
    pub advice: String,
}

/// Judges the facts under this configuration; the worst first.
pub fn findings(config: &Config, facts: &Facts) -> Vec<Finding> {
    let mut judge = Judge { config, facts, findings: Vec::new() };
    if config.role != Role::Dns {
        judge.kernel();
        judge.nf_tables();
        judge.zones();
        judge.sysctls();
        judge.other_agents();
        judge.bridges();
    }
    judge.capabilities();
    judge.source();
    judge.ports();
    if judge.answers_dns() {
        judge.input_chains();
        judge.upstreams();
    }
    judge.findings.sort_by_key(|finding| finding.severity);
    judge.findings
}

struct Judge<'a> {
    config: &'a Config,
    facts: &'a Facts,
    findings: Vec<Finding>,
}

impl Judge<'_> {
    fn add(&mut self, severity: Severity, subject: &'static str, found: impl Into<String>, advice: impl Into<String>) {
        self.findings.push(Finding { severity, subject, found: found.into(), advice: advice.into() });
    }

    fn error(&mut self, subject: &'static str, found: impl Into<String>, advice: impl Into<String>) {
        self.add(Severity::Error, subject, found, advice);
    }

    fn warn(&mut self, subject: &'static str, found: impl Into<String>, advice: impl Into<String>) {
        self.add(Severity::Warning, subject, found, advice);
    }

    fn note(&mut self, subject: &'static str, found: impl Into<String>, advice: impl Into<String>) {
        self.add(Severity::Note, subject, found, advice);
    }

    fn kernel(&mut self) {
        let release = &self.facts.kernel;
        match kernel_version(release) {
            Some(version) if version >= OLDEST_KERNEL => {}
            Some(_) => self.error("kernel", format!("Linux {release} is too old"), "use Linux 5.13 or newer"),
            None => {
                self.note("kernel", format!("the version {release:?} cannot be read"), "make sure that it is Linux 5.13 or newer")
            }
        }
    }

    fn nf_tables(&mut self) {
        let modules =
            "load or build nf_tables, nft_chain_nat, nft_nat, nft_masq, nft_ct, nft_fib, nft_numgen, nft_hash and nft_reject";
        match &self.facts.nf_tables {
            Probe::Works => {}
            Probe::Fails(reason) => {
                self.error("nf_tables", format!("the kernel refuses the kinds of rules that are needed: {reason}"), modules)
            }
            Probe::Untried(reason) => self.note(
                "nf_tables",
                format!("not tried: {reason}"),
                "nothing, in the pod of an agent; elsewhere run this check as root",
            ),
        }
    }

    fn zones(&mut self) {
        if self.facts.zones == Some(false) {
            let found = "the kernel has no conntrack zones (CONFIG_NF_CONNTRACK_ZONES), in which tracked DNS questions are kept apart: if the agent is \
                         killed, a client that keeps its UDP socket is refused until its flow has lapsed or an agent is back";
            let advice =
                "use a kernel with that option, as those of distributions are, or leave questions untracked (--dns-untracked)";
            self.warn("connection tracking", found, advice);
        }
    }

    /// What can be set is no finding: the agent does it.
    fn sysctls(&mut self) {
        for (name, matter) in &self.facts.sysctls {
            let advice = "set it on the host, mount the host's /proc/sys/net at /host/proc/sys/net (agent.hostSysctls of the chart), or \
                          leave it alone by the setting of its name (docs/conntrack.md)";
            match *name {
                "nf_conntrack_tcp_be_liberal" => {
                    let found = format!("{matter}: TCP packets outside the window will reset their connections");
                    self.warn("connection tracking", found, advice);
                }
                _ => self.note("connection tracking", matter.clone(), advice),
            }
        }
    }

    fn capabilities(&mut self) {
        let Some(capabilities) = self.facts.capabilities else {
            return self.note("capabilities", "/proc does not tell them", "mount /proc");
        };
        let has = |bit: u8| capabilities & (1 << bit) != 0;
        if self.config.role != Role::Dns && !has(NET_ADMIN) {
            let advice = "run as root or with the capability NET_ADMIN (the DaemonSet's security context adds it)";
            self.error("capabilities", "NET_ADMIN is missing: no rule can be written", advice);
        }
        let low =
            self.addresses().into_iter().find(|(_, address)| (1..self.facts.unprivileged_port_start).contains(&address.port()));
        if let Some((setting, address)) = low
            && !has(NET_BIND_SERVICE)
        {
            let advice =
                "run as root, with that capability, or with the sysctl net.ipv4.ip_unprivileged_port_start at 53 or less";
            self.error("capabilities", format!("NET_BIND_SERVICE is missing: {setting} {address} cannot be bound"), advice);
        }
    }

    fn source(&mut self) {
        let grant = "grant list and watch on it, as the chart's ClusterRole does";
        match (&self.facts.source, &self.config.cluster) {
            (SourceFact::Reached { refused, events }, _) => {
                for (kind, reason) in refused {
                    let grant = match kind {
                        Kind::Pod => {
                            "the zones of DNS need it: grant list and watch on it, as the chart does with watchPods: true"
                        }
                        Kind::Import => {
                            "the zones of DNS need it: grant list and watch on it, as the chart does with watchServiceImports: true"
                        }
                        _ => grant,
                    };
                    self.error("API server", format!("{kind} cannot be listed: {reason}"), grant);
                }
                if !events {
                    let found = "Events may not be written: what the agent has to say of objects stands in its log only";
                    self.warn(
                        "API server",
                        found,
                        "grant create and patch on events.events.k8s.io, as the chart's ClusterRole does",
                    );
                }
            }
            (SourceFact::Unreachable(reason), ClusterSource::Manifests(_)) => {
                self.error("manifests", reason.clone(), "give --manifests a folder that can be read");
            }
            (SourceFact::Unreachable(reason), source) => {
                let advice = match source {
                    ClusterSource::InCluster => {
                        "in a pod look at its service account and give the API server's real address (the chart's k8sServiceHost)"
                    }
                    ClusterSource::Kubeconfig(_) => "look at the server, the certificates and the user in the kubeconfig file",
                    _ => "look at the address, and at whatever stands between this host and the API server",
                };
                self.error("API server", reason.clone(), advice);
            }
            (SourceFact::Folder | SourceFact::Untried, _) => {}
        }
    }

    fn ports(&mut self) {
        let runs = |holder: &Holder| holder.process.clone().filter(|process| process.name == "waypost");
        for (setting, protocol, address, holder) in &self.facts.taken {
            if runs(holder).is_none() {
                let found = format!("{setting} {address} ({protocol}) is taken by {holder}");
                let meanwhile = match *setting == "dns-address" && self.config.role == Role::All {
                    true => "; until then services work, but DNS on this node does not",
                    false => "",
                };
                self.error("ports", found, format!("stop it, or give --{setting} another address{meanwhile}"));
            }
        }
        let made_by_the_agent = local_dns::addresses(self.config);
        let made = |setting: &str, ip: &IpAddr| setting == "dns-address" && made_by_the_agent.contains(ip);
        for (setting, ip) in self.facts.absent.iter().filter(|(setting, ip)| !made(setting, ip)) {
            let prefix = if ip.is_ipv4() { 32 } else { 128 };
            let advice = format!("`ip address add {ip}/{prefix} dev lo`, or give --{setting} another address");
            self.error("addresses", format!("{setting} {ip} is no address of this host"), advice);
        }
        if let Some(agent) = self.facts.taken.iter().find_map(|(.., holder)| runs(holder)) {
            let found = format!("waypost runs here already (pid {}) and has its ports", agent.pid);
            self.note("waypost", found, "nothing, if that is the agent of this node; stop it before another is started");
        }
    }

    /// Whatever else translates service addresses, or answers DNS on the node.
    fn other_agents(&mut self) {
        let facts = &self.facts.leftovers;
        for leftover in leftovers::judge(facts, self.answers_dns()) {
            self.warn(leftover.subject, leftover.found, leftover.advice);
        }
        for table in facts.tables.iter().filter(|table| table.name == TABLE) {
            let advice = "nothing: it is taken over at the start; `waypost cleanup` removes it";
            self.note("waypost", format!("a table {} {TABLE} is here already", table.family), advice);
        }
        if let Some(reason) = &facts.unseen {
            let found = format!("other agents' tables were not looked at: {reason}");
            self.note("other tables", found, "run this check as root");
        }
        if facts.legacy_unseen {
            let found = "iptables' older kernel interface is in use, and no program here shows what stands in it";
            self.note("other tables", found, "look for KUBE-SERVICES in what `iptables-legacy-save` prints");
        }
    }

    /// Whether the agent answers DNS on this node.
    fn answers_dns(&self) -> bool {
        self.config.role != Role::Proxy && !self.config.dns.addresses.is_empty()
    }

    fn bridges(&mut self) {
        let Some(bridge) = self.facts.bridges.first() else { return };
        let advice = match self.facts.bridge_nf_call_iptables {
            Some(true) => return,
            Some(false) => "`sysctl -w net.bridge.bridge-nf-call-iptables=1` (and bridge-nf-call-ip6tables)",
            None => "`modprobe br_netfilter`, and see that net.bridge.bridge-nf-call-iptables is 1",
        };
        let found = format!(
            "bridged traffic ({bridge}) bypasses the rules: where pods hang on a bridge, answers of a pod on the same node come back \
             from the wrong address"
        );
        self.warn("bridges", found, advice);
    }

    fn input_chains(&mut self) {
        let chains = match &self.facts.nft {
            Reading::Read(chains) => chains,
            Reading::NoProgram if self.config.role == Role::Dns => return,
            Reading::NoProgram => {
                let found = "the nft program is not here: firewalls that swallow DNS were not looked for";
                return self.note("firewall", found, "install nftables on the host, or run this check where it is");
            }
            Reading::Failed(reason) => {
                let found = format!("nft cannot list chains: {reason}");
                return self.note("firewall", found, "run this check as root to have firewalls that swallow DNS looked for");
            }
        };
        for chain in chains.iter().filter(|chain| swallows_dns(chain)) {
            let Chain { family, table, name, .. } = chain;
            let rules: Vec<String> = self.config.dns.addresses.iter().filter_map(|address| rule_for(chain, *address)).collect();
            if rules.is_empty() {
                continue;
            }
            let found = format!(
                "the input chain {family} {table} {name} lets only chosen traffic in and names no port 53: it will swallow DNS"
            );
            self.warn("firewall", found, format!("add to the firewall's own configuration what this does: {}", rules.join("; ")));
        }
    }

    fn upstreams(&mut self) {
        let Some(resolv_conf) = &self.facts.resolv_conf else { return };
        let own: Vec<IpAddr> = self.config.dns.addresses.iter().map(SocketAddr::ip).collect();
        let advice = "give --dns-upstream the servers, or the path of another resolv.conf";
        match resolv_conf {
            Err(reason) => self.warn("upstream DNS", format!("{reason}: names outside the cluster cannot be resolved"), advice),
            Ok(servers) if servers.is_empty() => {
                self.warn(
                    "upstream DNS",
                    "the resolv.conf names no server: names outside the cluster cannot be resolved",
                    advice,
                );
            }
            Ok(servers) if servers.iter().all(|server| own.contains(server)) => {
                self.warn(
                    "upstream DNS",
                    "the resolv.conf names only this agent's own addresses: questions would go in a circle",
                    advice,
                );
            }
            Ok(servers) if self.config.role == Role::Dns && servers.iter().all(IpAddr::is_loopback) => {
                self.warn("upstream DNS", "the resolv.conf names only loopback addresses, which a pod does not reach", advice);
            }
            Ok(_) => {}
        }
    }

    fn addresses(&self) -> Vec<(&'static str, SocketAddr)> {
        super::addresses(self.config)
    }
}

/// An input chain that ends in a refusal (by policy, or by a last rule without a condition, as firewalld's) and names no port 53.
fn swallows_dns(chain: &Chain) -> bool {
    let rules: Vec<&str> = chain.text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('}')).collect();
    let refuses_at_end = rules.last().is_some_and(|rule| rule.starts_with("reject") || rule.starts_with("drop"));
    (chain.policy_drop || refuses_at_end) && !rules.iter().any(|rule| accepts_dns(rule))
}

fn accepts_dns(rule: &str) -> bool {
    let words = || rule.split(|c: char| c.is_whitespace() || "{},".contains(c));
    rule.contains("accept") && words().any(|word| word == "dport") && words().any(|word| word == "53" || word == "domain")
}

/// The rule that lets questions to this address in; `None` where the chain never sees the address's family.
fn rule_for(chain: &Chain, address: SocketAddr) -> Option<String> {
    let (ip, port) = (address.ip(), address.port());
    let (keyword, program) = if ip.is_ipv4() { ("ip", "iptables") } else { ("ip6", "ip6tables") };
    if chain.family != "inet" && chain.family != keyword {
        return None;
    }
    let Chain { family, table, name, .. } = chain;
    // iptables-nft's own chain: nft's rules in it would confuse iptables.
    Some(match name.as_str() {
        "INPUT" => format!(
            "{program} -I INPUT -d {ip} -p udp --dport {port} -j ACCEPT; {program} -I INPUT -d {ip} -p tcp --dport {port} -j ACCEPT"
        ),
        _ => format!(
            "nft insert rule {family} {table} {name} {keyword} daddr {ip} meta l4proto '{{ tcp, udp }}' th dport {port} accept"
        ),
    })
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
