//! From facts to findings: pure.

use super::{Facts, IPVS_LINK, KUBE_PROXY_TABLE, NODE_LOCAL_DNS_LINK, iptables};
use crate::nft::{ForeignChain, TABLE};
use crate::notices::{FOREIGN_TRANSLATION, KUBE_PROXY_FOUND, NODE_LOCAL_DNS_FOUND, Reason};
use std::collections::BTreeSet;

/// `NF_INET_PRE_ROUTING` and `NF_INET_LOCAL_OUT`: where destinations are translated.
const TRANSLATING_HOOKS: [u32; 2] = [0, 3];
/// Where our translating chains stand: one before `dstnat`.
const OUR_PRIORITY: i32 = -101;

/// Something of others, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// What kind of thing it is.
    pub reason: &'static Reason,
    /// Whose it is.
    pub subject: &'static str,
    /// What was found.
    pub found: String,
    /// What to do.
    pub advice: String,
}

/// What of the facts gets in the agent's way. `answers_dns` says whether the agent answers DNS on this node.
pub fn judge(facts: &Facts, answers_dns: bool) -> Vec<Leftover> {
    let mut found = kube_proxy(facts);
    if answers_dns && facts.links.iter().any(|link| link == NODE_LOCAL_DNS_LINK) {
        found.push(Leftover {
            reason: &NODE_LOCAL_DNS_FOUND,
            subject: "NodeLocal DNSCache",
            found: format!("its link {NODE_LOCAL_DNS_LINK} is here and owns the local DNS addresses"),
            advice: format!("remove the node-local-dns DaemonSet, then `ip link delete {NODE_LOCAL_DNS_LINK}`"),
        });
    }
    let translators: BTreeSet<String> = facts.chains.iter().filter(|chain| translates_before_us(chain)).map(describe).collect();
    found.extend(translators.into_iter().map(|chain| Leftover {
        reason: &FOREIGN_TRANSLATION,
        subject: "other tables",
        found: format!("the chain {chain} translates addresses before ours, or at the same priority"),
        advice: "see whether its rules catch service addresses, and move it behind priority -101 if they do".into(),
    }));
    found
}

fn kube_proxy(facts: &Facts) -> Vec<Leftover> {
    let mut found = Vec::new();
    let stop = "stop kube-proxy, then `waypost cleanup --kube-proxy`";
    let mut add = |what: String, advice: &str| {
        found.push(Leftover { reason: &KUBE_PROXY_FOUND, subject: "kube-proxy", found: what, advice: advice.into() });
    };
    for process in &facts.kube_proxies {
        add(format!("it runs here (pid {})", process.pid), "remove its DaemonSet, or stop its service");
    }
    for table in facts.tables.iter().filter(|table| table.name == KUBE_PROXY_TABLE) {
        add(format!("its table {} {KUBE_PROXY_TABLE} is here and translates service addresses as well", table.family), stop);
    }
    let of_iptables = |chain: &&ForeignChain| chain.table.name == "nat" && iptables::is_kube_proxys(&chain.name);
    let families: BTreeSet<&str> = facts.chains.iter().filter(of_iptables).map(|chain| chain.table.family).collect();
    for family in families {
        add(format!("its chains of iptables are here (table {family} nat) and translate service addresses as well"), stop);
    }
    for program in &facts.legacy {
        add(
            format!("its chains are here in the older kernel interface ({program}) and translate service addresses as well"),
            stop,
        );
    }
    if facts.links.iter().any(|link| link == IPVS_LINK) {
        add(format!("its IPVS link {IPVS_LINK} is here and owns every service address"), stop);
    } else if facts.ipvs {
        add("IPVS has virtual services, which catch connections to this node's own addresses".into(), stop);
    }
    found
}

fn translates_before_us(chain: &ForeignChain) -> bool {
    let name = chain.table.name.as_str();
    let ours = name == TABLE || name.starts_with(&format!("{TABLE}-")) || name == KUBE_PROXY_TABLE;
    !ours
        && chain
            .base
            .as_ref()
            .is_some_and(|hook| hook.kind == "nat" && TRANSLATING_HOOKS.contains(&hook.number) && hook.priority <= OUR_PRIORITY)
}

fn describe(chain: &ForeignChain) -> String {
    let priority = chain.base.as_ref().map_or(0, |hook| hook.priority);
    format!("{} {} {} (priority {priority})", chain.table.family, chain.table.name, chain.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::holder::Process;
    use crate::nft::{ForeignHook, ForeignTable};

    fn chain(table: &str, name: &str, base: Option<(&str, u32, i32)>) -> ForeignChain {
        let base = base.map(|(kind, number, priority)| ForeignHook { kind: kind.into(), number, priority });
        ForeignChain { table: ForeignTable { family: "ip", name: table.into() }, name: name.into(), base }
    }

    fn found(facts: &Facts) -> Vec<String> {
        judge(facts, true).into_iter().map(|one| format!("{}: {}", one.reason.name, one.found)).collect()
    }

    #[test]
    fn every_trace_of_kube_proxy_is_named() {
        let facts = Facts {
            tables: vec![ForeignTable { family: "ip6", name: "kube-proxy".into() }],
            chains: vec![
                chain("nat", "KUBE-SERVICES", None),
                chain("nat", "KUBE-SEP-A", None),
                chain("filter", "KUBE-FIREWALL", None),
            ],
            legacy: vec!["iptables-legacy"],
            links: vec!["kube-ipvs0".into(), "lo".into()],
            ipvs: true,
            kube_proxies: vec![Process { pid: 7, name: "kube-proxy".into() }],
            ..Facts::default()
        };
        let found = found(&facts);
        assert_eq!(found.len(), 5, "{found:#?}");
        for (one, part) in found.iter().zip(["pid 7", "ip6 kube-proxy", "ip nat", "iptables-legacy", "kube-ipvs0"]) {
            assert!(one.starts_with("KubeProxyFound: ") && one.contains(part), "{one}");
        }
    }

    #[test]
    fn node_local_dns_matters_only_where_the_agent_answers() {
        let facts = Facts { links: vec!["nodelocaldns".into()], ..Facts::default() };
        assert!(found(&facts)[0].starts_with("NodeLocalDnsFound: "));
        assert_eq!(judge(&facts, false), []);
    }

    #[test]
    fn whoever_translates_before_us_is_named_and_others_are_not() {
        let early = Facts { chains: vec![chain("nat", "early", Some(("nat", 0, -150)))], ..Facts::default() };
        assert_eq!(found(&early).len(), 1);
        let equal = Facts { chains: vec![chain("x", "equal", Some(("nat", 3, -101)))], ..Facts::default() };
        assert_eq!(found(&equal).len(), 1);
        let harmless = [
            chain("nat", "PREROUTING", Some(("nat", 0, -100))),
            chain("raw", "PREROUTING", Some(("filter", 0, -300))),
            chain("nat", "POSTROUTING", Some(("nat", 4, -150))),
            chain("waypost", "nat-prerouting", Some(("nat", 0, -101))),
            chain("waypost-dns-7", "nat-prerouting", Some(("nat", 0, -101))),
        ];
        assert_eq!(found(&Facts { chains: harmless.into(), ..Facts::default() }), Vec::<String>::new());
    }
}
