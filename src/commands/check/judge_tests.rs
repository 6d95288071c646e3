use super::*;
use crate::config::{RunArgs, Surroundings, load};
use crate::holder::{Holder, Process};
use crate::model::{Kind, Protocol};
use crate::nft::ForeignTable;

fn config(flags: &[(&str, &str)]) -> Config {
    let surroundings = Surroundings { host_name: Some("node".into()), ..Surroundings::default() };
    load(&RunArgs::of(flags), &surroundings).unwrap().0
}

/// A host on which there is nothing to find.
fn good() -> Facts {
    Facts {
        kernel: "6.1.0-18-amd64".into(),
        capabilities: Some(1 << NET_ADMIN | 1 << NET_BIND_SERVICE),
        unprivileged_port_start: 1024,
        nf_tables: Probe::Works,
        zones: None,
        nft: Reading::Read(Vec::new()),
        leftovers: leftovers::Facts { links: vec!["lo".into(), "eth0".into()], ..leftovers::Facts::default() },
        sysctls: Vec::new(),
        bridges: Vec::new(),
        bridge_nf_call_iptables: None,
        taken: Vec::new(),
        absent: Vec::new(),
        resolv_conf: Some(Ok(vec!["192.0.2.53".parse().unwrap()])),
        source: SourceFact::Reached { refused: Vec::new(), events: true },
    }
}

const DNS: &[(&str, &str)] = &[("dns-address", "169.254.20.10,fd00::10")];

/// The one finding, as `severity subject: found -> advice`.
fn only(config: &Config, facts: &Facts) -> String {
    let all = findings(config, facts);
    assert_eq!(all.len(), 1, "{all:#?}");
    let Finding { severity, subject, found, advice } = &all[0];
    format!("{severity:?} {subject}: {found} -> {advice}")
}

fn starts(text: String, beginning: &str) {
    assert!(text.starts_with(beginning), "{text}");
}

#[test]
fn a_good_host_has_no_findings() {
    assert_eq!(findings(&config(DNS), &good()), []);
    assert_eq!(findings(&config(&[("role", "proxy")]), &good()), []);
}

#[test]
fn an_old_kernel_is_an_error_and_an_unreadable_version_a_note() {
    let kernel = |release: &str| Facts { kernel: release.into(), ..good() };
    let old = only(&config(&[]), &kernel("5.10.0-28-amd64"));
    assert_eq!(old, "Error kernel: Linux 5.10.0-28-amd64 is too old -> use Linux 5.13 or newer");
    assert_eq!(findings(&config(&[]), &kernel("5.13.0")), []);
    starts(only(&config(&[]), &kernel("mystery")), "Note kernel: ");
    assert_eq!(
        findings(&config(&[("role", "dns"), ("dns-address", "10.0.0.1")]), &kernel("4.19.0")),
        [],
        "role dns writes no rules"
    );
}

#[test]
fn a_kernel_without_conntrack_zones_is_a_warning_where_dns_questions_are_tracked() {
    let zones = |zones| Facts { zones, ..good() };
    let tracked = config(&[("dns-address", "169.254.20.10"), ("dns-untracked", "false")]);
    starts(only(&tracked, &zones(Some(false))), "Warning connection tracking: the kernel has no conntrack zones");
    assert_eq!(findings(&tracked, &zones(Some(true))), []);
}

#[test]
fn settings_of_connection_tracking_that_cannot_be_changed_are_notes_and_resets_a_warning() {
    let sysctl = |name, matter: &str| Facts { sysctls: vec![(name, matter.into())], ..good() };
    starts(
        only(&config(&[]), &sysctl("nf_conntrack_max", "nf_conntrack_max is 1 instead of 2 (read-only)")),
        "Note connection tracking: nf_conntrack_max is 1 instead of 2 (read-only) -> set it on the host, mount",
    );
    starts(
        only(&config(&[]), &sysctl("nf_conntrack_tcp_be_liberal", "nf_conntrack_tcp_be_liberal is 0 instead of 1 (read-only)")),
        "Warning connection tracking: nf_conntrack_tcp_be_liberal is 0 instead of 1 (read-only): TCP packets outside",
    );
}

#[test]
fn a_kernel_that_refuses_the_trial_is_an_error_and_no_trial_a_note() {
    let probe = |nf_tables| Facts { nf_tables, ..good() };
    let refused = only(&config(&[]), &probe(Probe::Fails("Operation not supported".into())));
    starts(
        refused,
        "Error nf_tables: the kernel refuses the kinds of rules that are needed: Operation not supported -> load or build",
    );
    starts(only(&config(&[]), &probe(Probe::Untried("not allowed".into()))), "Note nf_tables: not tried: not allowed");
}

#[test]
fn missing_capabilities_are_errors_where_they_are_needed() {
    let facts = Facts { capabilities: Some(0), ..good() };
    starts(only(&config(&[]), &facts), "Error capabilities: NET_ADMIN is missing: no rule can be written");
    let dns = config(&[("role", "dns"), ("dns-address", "10.0.0.1")]);
    starts(only(&dns, &facts), "Error capabilities: NET_BIND_SERVICE is missing: dns-address 10.0.0.1:53 cannot be bound");
    assert_eq!(findings(&dns, &Facts { unprivileged_port_start: 53, ..facts.clone() }), [], "the sysctl allows port 53");
    assert_eq!(findings(&config(&[("role", "dns"), ("dns-address", "10.0.0.1:5353")]), &facts), []);
}

#[test]
fn a_source_that_cannot_be_had_says_what_to_look_at() {
    let unreachable = Facts { source: SourceFact::Unreachable("connection refused".into()), ..good() };
    let found = only(&config(&[]), &unreachable);
    assert_eq!(
        found,
        "Error API server: connection refused -> in a pod look at its service account and give the API server's real address (the chart's k8sServiceHost)"
    );
    starts(only(&config(&[("manifests", "/m")]), &unreachable), "Error manifests: ");
    let refused = vec![(Kind::Slice, "forbidden".to_string())];
    let found = only(&config(&[]), &Facts { source: SourceFact::Reached { refused, events: true }, ..good() });
    starts(found, "Error API server: endpointslices cannot be listed: forbidden -> grant list and watch");
    let silent = Facts { source: SourceFact::Reached { refused: Vec::new(), events: false }, ..good() };
    starts(only(&config(&[]), &silent), "Warning API server: Events may not be written");
}

#[test]
fn leftovers_of_other_agents_are_named_with_what_removes_them() {
    let tables = ["kube-proxy", "firewalld", "waypost"];
    let tables = tables.map(|name| ForeignTable { family: "ip", name: name.into() }).into();
    let facts = Facts { leftovers: leftovers::Facts { tables, ..leftovers::Facts::default() }, ..good() };
    let found = findings(&config(&[]), &facts);
    assert_eq!(found.len(), 2, "{found:#?}");
    assert_eq!((found[0].severity, found[0].subject), (Severity::Warning, "kube-proxy"));
    assert_eq!(found[0].advice, "stop kube-proxy, then `waypost cleanup --kube-proxy`");
    assert_eq!((found[1].severity, found[1].subject), (Severity::Note, "waypost"));

    starts(only(&config(&[]), &with_link("kube-ipvs0")), "Warning kube-proxy: its IPVS link");
    starts(only(&config(DNS), &with_link("nodelocaldns")), "Warning NodeLocal DNSCache: ");
    assert_eq!(findings(&config(&[]), &with_link("nodelocaldns")), [], "without local DNS it is in nobody's way");
}

#[test]
fn what_could_not_be_looked_at_is_a_note() {
    let unseen = leftovers::Facts { unseen: Some("not permitted".into()), ..leftovers::Facts::default() };
    starts(only(&config(&[]), &Facts { leftovers: unseen, ..good() }), "Note other tables: other agents' tables were not");
    let legacy = leftovers::Facts { legacy_unseen: true, ..leftovers::Facts::default() };
    starts(only(&config(&[]), &Facts { leftovers: legacy, ..good() }), "Note other tables: iptables' older kernel interface");
    starts(only(&config(DNS), &Facts { nft: Reading::NoProgram, ..good() }), "Note firewall: the nft program is not here");
    starts(only(&config(DNS), &Facts { nft: Reading::Failed("x".into()), ..good() }), "Note firewall: nft cannot list chains: x");
}

fn with_link(name: &str) -> Facts {
    Facts { leftovers: leftovers::Facts { links: vec![name.into()], ..leftovers::Facts::default() }, ..good() }
}

fn with_chain(chain: Chain) -> Facts {
    Facts { nft: Reading::Read(vec![chain]), ..good() }
}

fn firewalld(rules: &str, policy_drop: bool) -> Chain {
    let (family, table, name) = ("inet".into(), "firewalld".into(), "filter_INPUT".into());
    let text = format!(
        "table inet firewalld {{\n\tchain filter_INPUT {{\n\t\ttype filter hook input priority 10; policy accept;\n{rules}\t}}\n}}\n"
    );
    Chain { family, table, name, policy_drop, text }
}

#[test]
fn an_input_chain_that_would_swallow_dns_is_named_with_the_rule_to_add() {
    let shape = "\t\tct state { 0x2, 0x4 } accept\n\t\tct status 0x20 accept\n\t\tiifname \"lo\" accept\n";
    let refusing = firewalld(&format!("{shape}\t\treject with icmpx 3\n"), false);
    let found = only(&config(DNS), &with_chain(refusing.clone()));
    assert_eq!(
        found,
        "Warning firewall: the input chain inet firewalld filter_INPUT lets only chosen traffic in and names no port 53: it will swallow DNS \
         -> add to the firewall's own configuration what this does: \
         nft insert rule inet firewalld filter_INPUT ip daddr 169.254.20.10 meta l4proto '{ tcp, udp }' th dport 53 accept; \
         nft insert rule inet firewalld filter_INPUT ip6 daddr fd00::10 meta l4proto '{ tcp, udp }' th dport 53 accept"
    );
    starts(only(&config(DNS), &with_chain(firewalld(shape, true))), "Warning firewall: ");
    assert_eq!(findings(&config(&[]), &with_chain(refusing)), [], "without local DNS there is nothing to swallow");
}

#[test]
fn an_input_chain_that_lets_dns_in_is_left_alone() {
    let open = [
        "\t\tct state 0x2 accept\n".to_string(),
        "\t\tudp dport 53 accept\n\t\treject with icmpx 3\n".to_string(),
        "\t\tmeta l4proto { 6, 17 } th dport { 53, 443 } accept\n\t\treject with icmpx 3\n".to_string(),
        "\t\tip saddr 192.0.2.1 drop\n\t\tcounter packets 0 bytes 0\n".to_string(),
    ];
    for rules in open {
        assert_eq!(findings(&config(DNS), &with_chain(firewalld(&rules, false))), [], "{rules}");
    }
    let other_port = firewalld("\t\tudp dport 5353 accept\n\t\tdrop\n", false);
    assert_eq!(findings(&config(DNS), &with_chain(other_port)).len(), 1);
}

#[test]
fn the_rule_to_add_to_iptables_own_chain_is_written_for_iptables_and_for_its_family() {
    let (family, table, name) = ("ip".into(), "filter".into(), "INPUT".into());
    let chain = Chain { family, table, name, policy_drop: true, text: String::new() };
    let found = only(&config(DNS), &with_chain(chain));
    assert!(found.ends_with(
        "iptables -I INPUT -d 169.254.20.10 -p udp --dport 53 -j ACCEPT; iptables -I INPUT -d 169.254.20.10 -p tcp --dport 53 -j ACCEPT"
    ));
}

#[test]
fn a_taken_port_names_setting_address_and_holder() {
    let holder = Holder { address: "0.0.0.0:53".parse().unwrap(), process: Some(Process { pid: 7, name: "dnsmasq".into() }) };
    let taken = vec![("dns-address", Protocol::Udp, "169.254.20.10:53".parse().unwrap(), holder)];
    assert_eq!(
        only(&config(DNS), &Facts { taken, ..good() }),
        "Error ports: dns-address 169.254.20.10:53 (udp) is taken by dnsmasq (pid 7) on 0.0.0.0:53 \
         -> stop it, or give --dns-address another address; until then services work, but DNS on this node does not"
    );
}

#[test]
fn an_address_that_the_host_lacks_is_an_error_with_the_command_that_adds_it() {
    let absent = vec![("dns-address", "fd00::10".parse().unwrap())];
    let facts = Facts { absent, ..good() };
    assert_eq!(findings(&config(DNS), &facts), [], "the agent makes it local");
    assert_eq!(
        only(&config(&[DNS, &[("role", "dns")]].concat()), &facts),
        "Error addresses: dns-address fd00::10 is no address of this host \
         -> `ip address add fd00::10/128 dev lo`, or give --dns-address another address"
    );
}

#[test]
fn a_port_held_by_the_running_agent_is_no_error() {
    let address = "127.0.0.1:10249".parse().unwrap();
    let holder = Holder { address, process: Some(Process { pid: 7, name: "waypost".into() }) };
    let taken = vec![
        ("metrics-bind-address", Protocol::Tcp, address, holder.clone()),
        ("healthz-bind-address", Protocol::Tcp, address, holder),
    ];
    starts(only(&config(&[]), &Facts { taken, ..good() }), "Note waypost: waypost runs here already (pid 7) and has its ports");
}

#[test]
fn bridged_traffic_must_pass_the_rules() {
    let bridged = Facts { bridges: vec!["cni0".into()], ..good() };
    starts(only(&config(&[]), &bridged), "Warning bridges: bridged traffic (cni0) bypasses the rules");
    starts(only(&config(&[]), &Facts { bridge_nf_call_iptables: Some(false), ..bridged.clone() }), "Warning bridges: ");
    assert_eq!(findings(&config(&[]), &Facts { bridge_nf_call_iptables: Some(true), ..bridged }), []);
}

#[test]
fn upstreams_that_lead_nowhere_or_back_are_named() {
    let resolv = |servers: &[&str]| {
        let servers = servers.iter().map(|server| server.parse().unwrap()).collect();
        Facts { resolv_conf: Some(Ok(servers)), ..good() }
    };
    starts(only(&config(DNS), &resolv(&[])), "Warning upstream DNS: the resolv.conf names no server");
    starts(only(&config(DNS), &resolv(&["169.254.20.10"])), "Warning upstream DNS: the resolv.conf names only this agent's own");
    assert_eq!(findings(&config(DNS), &resolv(&["127.0.0.53"])), [], "on the node the stub resolver answers");
    let dns = config(&[("role", "dns"), ("dns-address", "10.0.0.1")]);
    starts(only(&dns, &resolv(&["127.0.0.53"])), "Warning upstream DNS: the resolv.conf names only loopback addresses");
    let unreadable = Facts { resolv_conf: Some(Err("/x cannot be read (gone)".into())), ..good() };
    starts(only(&config(DNS), &unreadable), "Warning upstream DNS: /x cannot be read (gone)");
}

#[test]
fn the_worst_comes_first() {
    let facts = Facts { nft: Reading::NoProgram, capabilities: Some(1 << NET_BIND_SERVICE), ..with_link("kube-ipvs0") };
    let severities: Vec<Severity> = findings(&config(DNS), &facts).iter().map(|finding| finding.severity).collect();
    assert_eq!(severities, [Severity::Error, Severity::Warning, Severity::Note]);
}
