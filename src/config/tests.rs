use super::*;
use clap::{Args, Command, FromArgMatches};
use proptest::prelude::*;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

fn host() -> Surroundings {
    Surroundings { node_name: None, host_name: Some("Node-1".into()), pod_ips: None }
}

fn with(flags: &[(&str, &str)]) -> Result<Config, String> {
    load(&RunArgs::of(flags), &host()).map(|(config, _)| config).map_err(|error| error.to_string())
}

/// A file of this content that lives as long as the value.
struct Yaml(PathBuf);

impl Yaml {
    fn new(content: &str) -> Yaml {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("waypost-config-{}-{}.yaml", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::File::create(&path).and_then(|mut file| file.write_all(content.as_bytes())).expect("temporary file");
        Yaml(path)
    }

    fn load(&self, flags: &[(&str, &str)]) -> Result<Config, String> {
        let loaded = load(&RunArgs::of(flags).with_file(&self.0), &host());
        loaded.map(|(config, _)| config).map_err(|error| error.to_string().replace(&self.0.display().to_string(), "FILE"))
    }
}

impl Drop for Yaml {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn the_defaults_are_those_that_kube_proxy_and_coredns_users_know() {
    let config = with(&[]).unwrap();
    assert_eq!(config.role, Role::All);
    assert_eq!(config.node_name, "node-1", "the host name in lower case, as kube-proxy takes it");
    assert_eq!(config.cluster, ClusterSource::InCluster);
    assert_eq!(config.proxy.masquerade_bit, 14);
    assert_eq!(config.proxy.nodeport_addresses, NodePortAddresses::primary());
    assert_eq!((config.dns.domain.as_str(), config.dns.ttl), ("cluster.local", 30));
    assert_eq!(config.dns.upstreams, Upstreams::resolv_conf("/etc/resolv.conf"));
    assert_eq!(config.admin.healthz, Some("[::]:10256".parse().unwrap()), "IPv4 as well");
    assert_eq!(config.admin.metrics, Some("127.0.0.1:10249".parse().unwrap()));
    assert_eq!(config.admin.dns_health, None, "without DNS addresses nothing of DNS is opened");
}

#[test]
fn listeners_open_for_the_halves_that_run() {
    let both = with(&[("dns-address", "169.254.20.10")]).unwrap().admin;
    assert_eq!(both.dns_health, Some("[::]:8080".parse().unwrap()));
    assert_eq!(both.dns_ready, Some("[::]:8181".parse().unwrap()));
    assert_eq!(both.dns_metrics, Some("[::]:9153".parse().unwrap()));
    let proxy = with(&[("role", "proxy"), ("dns-address", "169.254.20.10")]).unwrap().admin;
    assert_eq!((proxy.dns_health, proxy.dns_ready, proxy.dns_metrics), (None, None, None));
    let dns = with(&[("role", "dns"), ("dns-address", "10.0.0.9")]).unwrap().admin;
    assert_eq!((dns.healthz, dns.metrics), (None, None));
    let asked_for = with(&[("role", "dns"), ("dns-address", "10.0.0.9"), ("healthz-bind-address", ":10256")]).unwrap().admin;
    assert_eq!(asked_for.healthz, Some("[::]:10256".parse().unwrap()));
}

#[test]
fn an_empty_text_switches_a_listener_off() {
    let config = with(&[("healthz-bind-address", ""), ("metrics-bind-address", "")]).unwrap();
    assert_eq!((config.admin.healthz, config.admin.metrics), (None, None));
    assert_eq!(Yaml::new("healthz-bind-address:\n").load(&[]).unwrap().admin.healthz, None);
}

#[test]
fn the_node_name_is_the_flag_else_node_name_else_the_host_name() {
    let surroundings = Surroundings { node_name: Some("from-env".into()), ..host() };
    let name = |flags: &[(&str, &str)], surroundings: &Surroundings| {
        load(&RunArgs::of(flags), surroundings).map(|(config, _)| config.node_name)
    };
    assert_eq!(name(&[("node-name", "flag")], &surroundings).unwrap(), "flag");
    assert_eq!(name(&[], &surroundings).unwrap(), "from-env");
    assert_eq!(name(&[], &host()).unwrap(), "node-1");
    assert!(name(&[], &Surroundings::default()).is_err());
}

#[test]
fn role_dns_serves_on_the_pods_addresses() {
    let surroundings = Surroundings { pod_ips: Some("10.244.0.7,fd00::7".into()), ..host() };
    let (config, _) = load(&RunArgs::of(&[("role", "dns")]), &surroundings).unwrap();
    assert_eq!(config.dns.addresses, ["10.244.0.7:53".parse().unwrap(), "[fd00::7]:53".parse().unwrap()]);
    let (config, _) = load(&RunArgs::of(&[]), &surroundings).unwrap();
    assert!(config.dns.addresses.is_empty(), "a node agent's own address is not where the cluster's DNS belongs");
    assert_eq!(
        with(&[("role", "dns")]).unwrap_err(),
        "role dns needs an address to serve on; give --dns-address, or set POD_IPS from the pod's status.podIPs"
    );
}

#[test]
fn pods_are_known_as_kube_proxys_modes_say() {
    let mode = |flags: &[(&str, &str)]| with(flags).map(|config| config.proxy.detect_local);
    assert_eq!(mode(&[]), Ok(DetectLocalMode::ClusterCidr));
    let bridge = [("detect-local-mode", "BridgeInterface"), ("pod-bridge-interface", "cni0")];
    assert_eq!(mode(&bridge), Ok(DetectLocalMode::BridgeInterface("cni0".into())));
    let prefix = [("detect-local-mode", "InterfaceNamePrefix"), ("pod-interface-name-prefix", "cali")];
    assert_eq!(mode(&prefix), Ok(DetectLocalMode::InterfaceNamePrefix("cali".into())));
    for name in ["BridgeInterface", "InterfaceNamePrefix"] {
        let message = mode(&[("detect-local-mode", name)]).unwrap_err();
        assert!(message.contains("pod-") && message.contains(name), "{message}");
    }
}

/// Each row: what is given, and the whole message that answers it.
#[test]
fn a_bad_value_is_answered_with_key_value_and_what_is_allowed() {
    let cases: &[(&[(&str, &str)], &str)] = &[
        (&[("role", "both")], r#"--role: "both" is not allowed; give one of all, proxy, dns"#),
        (&[("masquerade-all", "yes")], r#"--masquerade-all: "yes" is not allowed; give one of false, true"#),
        (&[("masquerade-bit", "32")], r#"--masquerade-bit: "32" is not allowed; give a number from 0 to 31"#),
        (
            &[("conntrack-udp-timeout", "90")],
            r#"--conntrack-udp-timeout: "90" is not allowed; give a duration in whole seconds such as 24h, 1h30m or 90s; 0: left alone"#,
        ),
        (
            &[("conntrack-tcp-timeout-established", "500ms")],
            r#"--conntrack-tcp-timeout-established: "500ms" is not allowed; give a duration in whole seconds such as 24h, 1h30m or 90s; 0: left alone"#,
        ),
        (&[("dns-ttl", "-1")], r#"--dns-ttl: "-1" is not allowed; give a number from 0 to 3600"#),
        (&[("dns-ttl", "")], r#"--dns-ttl: "" is not allowed; give a number from 0 to 3600"#),
        (
            &[("cluster-cidr", "10.244.0.0/16,10.244.0.0/33")],
            r#"--cluster-cidr: "10.244.0.0/33" is not allowed; give networks such as 10.244.0.0/16 or fd00:10:244::/56"#,
        ),
        (
            &[("detect-local-mode", "clusterCIDR")],
            r#"--detect-local-mode: "clusterCIDR" is not allowed; give one of ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix"#,
        ),
        (
            &[("detect-local-mode", "InterfaceNamePrefix"), ("pod-interface-name-prefix", "cali+")],
            r#"--pod-interface-name-prefix: "cali+" is not allowed; give how the names of interfaces begin, such as cali, without a wildcard"#,
        ),
        (
            &[("pod-bridge-interface", "cni0")],
            r#"--pod-bridge-interface: "cni0" is not allowed; give it with detect-local-mode BridgeInterface only"#,
        ),
        (
            &[("service-cidr", "10.96.0.0")],
            r#"--service-cidr: "10.96.0.0" is not allowed; give networks such as 10.96.0.0/12 or fd00:10:96::/112"#,
        ),
        (
            &[("nodeport-addresses", "primary,10.0.0.0/8,some")],
            r#"--nodeport-addresses: "some" is not allowed; give primary, all, localhost, or networks such as 192.0.2.0/24"#,
        ),
        (
            &[("api-server", "10.0.0.1:6443")],
            r#"--api-server: "10.0.0.1:6443" is not allowed; give a URL with scheme and host, such as https://10.0.0.1:6443"#,
        ),
        (
            &[("node-name", "a node")],
            r#"--node-name: "a node" is not allowed; give the name of this node's Node object: lower-case letters, digits, '-' and '.', at most 253 characters"#,
        ),
        (
            &[("cluster-domain", "cluster..local")],
            r#"--cluster-domain: "cluster..local" is not allowed; give a domain name such as cluster.local, at most 200 characters"#,
        ),
        (
            &[("dns-address", "0.0.0.0")],
            r#"--dns-address: "0.0.0.0" is not allowed; give the very addresses that are asked, such as 10.96.0.10, not the wildcard"#,
        ),
        (
            &[("dns-address", "kube-dns")],
            r#"--dns-address: "kube-dns" is not allowed; give addresses such as 169.254.20.10, 10.96.0.10:53 or [fd00::10]:53"#,
        ),
        (
            &[("dns-upstream", "192.0.2.53,etc/resolv.conf")],
            r#"--dns-upstream: "etc/resolv.conf" is not allowed; give up to 15 servers such as 192.0.2.53, [2001:db8::53]:53 or tls://192.0.2.53#dns.example, and paths such as /etc/resolv.conf"#,
        ),
        (
            &[("dns-address", "10.96.0.10"), ("dns-upstream", "10.96.0.10")],
            r#"--dns-upstream: "10.96.0.10:53" is not allowed; give servers that are not this agent's own dns-address: it would ask itself for ever"#,
        ),
        (
            &[("dns-stub-zone", "corp.example=192.0.2.1,corp.example=192.0.2.2")],
            r#"--dns-stub-zone: "corp.example=192.0.2.2" is not allowed; give zones with up to 15 servers each, such as corp.example=192.0.2.53+[2001:db8::53]:53, and each zone once"#,
        ),
        (
            &[("dns-forward-except", "corp..example")],
            r#"--dns-forward-except: "corp..example" is not allowed; give domains such as corp.example"#,
        ),
        (&[("dns-cache-failure-ttl", "301")], r#"--dns-cache-failure-ttl: "301" is not allowed; give a number from 0 to 300"#),
        (
            &[("metrics-bind-address", "localhost:10249")],
            r#"--metrics-bind-address: "localhost:10249" is not allowed; give an address with a port, such as 127.0.0.1:8080, [::1]:8080 or :8080; empty: off"#,
        ),
        (&[("log-format", "xml")], r#"--log-format: "xml" is not allowed; give one of human, json"#),
        (
            &[("log-level", "verbose")],
            r#"--log-level: "verbose" is not allowed; give error, warn, info, debug, trace, or pairs such as info,waypost::dns=debug"#,
        ),
        (
            &[("kubeconfig", "/a"), ("api-server", "https://b")],
            "--kubeconfig and --api-server exclude each other; give one of them",
        ),
    ];
    for (flags, message) in cases {
        assert_eq!(with(flags).unwrap_err(), *message);
    }
}

/// Each row: a file, and the whole message that answers it.
#[test]
fn a_broken_file_is_answered_with_file_line_and_what_is_allowed() {
    let keys = SETTINGS.iter().map(|setting| setting.key).chain(["dns-zones"]).collect::<Vec<_>>().join(", ");
    let expected = "expected are lines such as `dns-ttl: 30` (see waypost run --help for the keys)";
    let cases = [
        ("role: all\ndns-tttl: 3\n", format!("FILE, line 2: there is no key \"dns-tttl\"; allowed are {keys}")),
        ("# x\ndns-ttl: soon\n", "FILE, line 2, dns-ttl: \"soon\" is not allowed; give a number from 0 to 3600".into()),
        ("role: [all, dns]\n", "FILE, line 1, role: \"all,dns\" is not allowed; give a single value".into()),
        ("role: [all\n", format!("FILE: unclosed bracket '[' at line 1, column 7; {expected}")),
    ];
    for (content, message) in cases {
        assert_eq!(Yaml::new(content).load(&[]).unwrap_err(), message);
    }
    for (content, part) in [
        ("just words\n", "keys with values, such as `role: all`"),
        ("role: all\nrole: dns\n", "line 2"),
        ("dns-address: {a: b}\n", "a value or a list of values"),
    ] {
        let message = Yaml::new(content).load(&[]).unwrap_err();
        assert!(message.starts_with("FILE: ") && message.contains(part), "{message}");
        assert!(!message.contains('\n'), "{message:?} is one line");
    }
    let missing = load(&RunArgs::default().with_file("/nonexistent/waypost.yaml"), &host()).unwrap_err().to_string();
    assert_eq!(missing, "cannot read the configuration file /nonexistent/waypost.yaml: No such file or directory (os error 2)");
}

#[test]
fn a_flag_wins_over_the_file_and_lists_may_be_written_either_way() {
    let yaml = Yaml::new(
        "dns-ttl: 5\nmasquerade-all: true\ncluster-cidr: [10.244.3.4/16, 'fd00::/56']\nservice-cidr: 10.96.0.0/12, fd01::/112\n",
    );
    let config = yaml.load(&[("dns-ttl", "7")]).unwrap();
    assert_eq!(config.dns.ttl, 7);
    assert!(config.proxy.masquerade_all);
    assert_eq!(config.proxy.cluster_cidrs, ["10.244.0.0/16".parse().unwrap(), "fd00::/56".parse().unwrap()]);
    assert_eq!(config.proxy.service_cidrs.len(), 2);
    let emptied = yaml.load(&[("cluster-cidr", "")]).unwrap();
    assert!(emptied.proxy.cluster_cidrs.is_empty(), "an empty flag takes back what the file says");
}

#[test]
fn a_source_of_higher_rank_wins_over_another_source_of_lower_rank() {
    let yaml = Yaml::new("kubeconfig: /etc/kubeconfig\n");
    assert_eq!(yaml.load(&[]).unwrap().cluster, ClusterSource::Kubeconfig("/etc/kubeconfig".into()));
    assert_eq!(yaml.load(&[("manifests", "/m")]).unwrap().cluster, ClusterSource::Manifests("/m".into()));
    let url = "https://10.0.0.1:6443";
    assert_eq!(yaml.load(&[("api-server", url)]).unwrap().cluster, ClusterSource::ApiServer(url.into()));
}

#[test]
fn an_empty_file_changes_nothing() {
    assert_eq!(Yaml::new("").load(&[]), with(&[]));
    assert_eq!(Yaml::new("# nothing\n").load(&[]), with(&[]));
}

fn parse_flags(flags: &[&str]) -> RunArgs {
    let matches = RunArgs::augment_args(Command::new("run").no_binary_name(true)).try_get_matches_from(flags).unwrap();
    RunArgs::from_arg_matches(&matches).unwrap()
}

#[test]
fn flags_arrive_repeated_comma_separated_or_bare() {
    let args = parse_flags(&["--dns-address=10.96.0.10", "--dns-address", "169.254.20.10:5353,fd00::a", "--masquerade-all"]);
    let (config, origins) = load(&args, &host()).unwrap();
    assert_eq!(
        config.dns.addresses,
        ["10.96.0.10:53".parse().unwrap(), "169.254.20.10:5353".parse().unwrap(), "[fd00::a]:53".parse().unwrap()]
    );
    assert!(config.proxy.masquerade_all);
    assert!(origins.contains(&("masquerade-all", Origin::Flag("masquerade-all"))));
    let (config, _) = load(&parse_flags(&["--masquerade-all=false"]), &host()).unwrap();
    assert!(!config.proxy.masquerade_all);
}

#[test]
fn every_setting_has_one_name_everywhere() {
    for setting in SETTINGS {
        assert_eq!(setting.env, format!("WAYPOST_{}", setting.key.to_uppercase().replace('-', "_")));
        assert!(!setting.help.ends_with('.'), "{}", setting.key);
        assert!(reference_markdown().contains(&format!("| `--{} ", setting.key)));
    }
}

#[test]
fn the_effective_configuration_says_where_values_come_from() {
    let yaml = Yaml::new("\ndns-ttl: 5\n");
    let (config, origins) = load(&RunArgs::of(&[("log-level", "debug")]).with_file(&yaml.0), &host()).unwrap();
    let text = to_yaml(&config, &origins);
    assert!(text.contains(&format!("dns-ttl: 5  # {}, line 2\n", yaml.0.display())), "{text}");
    assert!(text.contains("log-level: \"debug\"  # --log-level\n"), "{text}");
    assert!(text.contains("role: \"all\"\n"), "{text}");
}

/// Any valid set of flags, few of them at a time.
fn any_flags() -> impl Strategy<Value = Vec<(&'static str, &'static str)>> {
    let choices: Vec<(&str, &[&str])> = vec![
        ("role", &["all", "proxy", "dns"]),
        ("node-name", &["n", "a.b-1"]),
        ("api-server", &["https://10.0.0.1:6443", "http://[::1]:8080"]),
        ("cluster-cidr", &["", "10.244.0.0/16", "10.244.0.0/16,fd00::/56"]),
        ("service-cidr", &["", "10.96.0.0/12"]),
        ("nodeport-addresses", &["primary", "0.0.0.0/0,::/0", "all,localhost", "primary,192.0.2.0/24"]),
        ("masquerade-all", &["true", "false"]),
        ("masquerade-bit", &["0", "31"]),
        ("conntrack-max-per-core", &["0", "65536"]),
        ("conntrack-tcp-timeout-established", &["0", "24h0m0s", "90s"]),
        ("conntrack-tcp-be-liberal", &["true", "false"]),
        ("conntrack-udp-timeout", &["1m30s"]),
        ("cluster-domain", &["Example.org.", "local"]),
        ("dns-ttl", &["0", "3600"]),
        ("dns-allow-from", &["", "10.0.0.0/8,fd00::/8"]),
        ("dns-rate-limit", &["0", "20"]),
        ("dns-tcp-connections", &["1", "5000"]),
        (
            "dns-upstream",
            &["/run/resolv # odd.conf", "192.0.2.53,[2001:db8::53]:5353,tls://192.0.2.53,tls://[2001:db8::53]:8853#dns.example"],
        ),
        ("dns-stub-zone", &["", "Corp.example.=192.0.2.1,lab.corp.example=192.0.2.1:5353+[2001:db8::53]"]),
        ("dns-forward-except", &["", "a.example,B.example."]),
        ("dns-forward-policy", &["round_robin", "sequential"]),
        ("dns-forward-hedge", &["0", "1000"]),
        ("dns-cache-size", &["1", "64"]),
        ("dns-cache-serve-stale", &["0", "86400"]),
        ("healthz-bind-address", &["", "127.0.0.1:0", ":1"]),
        ("dns-ready-address", &["", "[::1]:8181"]),
        ("log-format", &["human", "json"]),
        ("log-level", &["warn", "info,waypost::dns=debug"]),
    ];
    let picks: Vec<_> = choices
        .into_iter()
        .map(|(key, values)| {
            prop::option::of(prop::sample::select(values)).prop_map(move |value| value.map(|value| (key, value)))
        })
        .collect();
    picks.prop_map(|picked| picked.into_iter().flatten().collect())
}

proptest! {
    #[test]
    fn the_effective_configuration_loads_again_to_the_same(mut flags in any_flags()) {
        flags.push(("dns-address", "10.96.0.10,[fd00::10]:5353"));
        let (config, origins) = load(&RunArgs::of(&flags), &host()).unwrap();
        let printed = Yaml::new(&to_yaml(&config, &origins));
        prop_assert_eq!(printed.load(&[]).unwrap(), config);
    }

    #[test]
    fn no_value_of_any_setting_makes_loading_panic(index in 0..SETTINGS.len(), value in "\\PC{0,20}") {
        let _ = with(&[(SETTINGS[index].key, &value)]);
    }

    #[test]
    fn no_file_makes_loading_panic(content in "[a-z:\\-\\[\\]{}\"'&*!|>#% \n]{0,60}") {
        let _ = super::file::read(Path::new(&Yaml::new(&content).0));
    }
}

#[test]
fn a_public_dns_address_must_come_with_the_networks_that_may_ask() {
    for public in ["192.0.1.1", "10.96.0.10,[2a00:1450::53]:53", "::ffff:9.9.9.9"] {
        let error = with(&[("dns-address", public)]).unwrap_err().to_string();
        assert!(error.contains("dns-allow-from"), "{error}");
        let config = with(&[("dns-address", public), ("dns-allow-from", "0.0.0.0/0,10.1.2.3/8")]).unwrap();
        assert_eq!(config.dns.guard.allow_from, ["0.0.0.0/0".parse().unwrap(), "10.0.0.0/8".parse().unwrap()]);
    }
    for own in ["10.96.0.10", "169.254.20.10", "100.64.0.10", "fd00::10", "fe80::10", "192.0.2.1", "2001:db8::1"] {
        with(&[("dns-address", own)]).unwrap();
    }
}
