//! The chart with sets of values that people give it: what helm renders is whole and consistent each time (`sound.rs`), and has what the values ask for.

mod helm;
mod sound;

use helm::render;
use serde_json::Value;
use sound::{Rendered, list, text};
use std::net::SocketAddr;
use waypost::config::{ClusterSource, LogFormat, Role, ZonesSource};

#[test]
fn by_its_defaults_it_has_agents_that_answer_dns_and_servers_behind_kube_dns() {
    let rendered = of("defaults", &[]);
    let (agent, dns) = (rendered.agent(), rendered.dns().expect("DNS servers"));
    assert_eq!((agent.config.role, dns.config.role), (Role::All, Role::Dns));
    assert_eq!(agent.config.dns.addresses, sockets(&["10.96.0.10:53", "169.254.20.10:53"]));
    assert_eq!(agent.config.admin.metrics, socket("127.0.0.1:10249"), "nobody asks from outside");
    assert_eq!(agent.config.cluster, ClusterSource::InCluster);
    assert_eq!(agent.config.log.format, LogFormat::Json);
    assert_eq!(rendered.get("Service", "kube-dns").expect("it makes the Service")["spec"]["clusterIP"], "10.96.0.10");
    for kind in ["ServiceMonitor", "PrometheusRule", "Role"] {
        assert_eq!(rendered.all(kind).count(), 0, "{kind}");
    }
    assert!(agent.pod["imagePullSecrets"].is_null());
}

#[test]
fn the_api_server_and_the_networks_are_handed_on() {
    let networks = [r#"clusterCIDRs=["10.244.0.0/16","fd00:244::/48"]"#, r#"serviceCIDRs=["10.96.0.0/12"]"#];
    let rendered = of("networks", &[&networks[..], &[r#"k8sServiceHost="2001:db8::10""#, "k8sServicePort=443"]].concat());
    let agent = rendered.agent().config;
    let server = ClusterSource::ApiServer("https://[2001:db8::10]:443".into());
    assert_eq!((&agent.cluster, rendered.dns().expect("DNS servers").config.cluster), (&server, server.clone()));
    assert_eq!(agent.proxy.service_cidrs, ["10.96.0.0/12".parse().unwrap()]);
}

#[test]
fn without_dns_on_the_node_the_agents_open_none_of_its_ports() {
    let rendered = of("no-local-dns", &["agent.localDNS=false", "serviceMonitor.enabled=true"]);
    let agent = rendered.agent().config;
    assert!(agent.dns.addresses.is_empty());
    assert_eq!((agent.admin.dns_health, agent.admin.dns_ready, agent.admin.dns_metrics), (None, None, None));
    assert!(rendered.get("ServiceMonitor", "waypost-agent-dns").is_none(), "there are no metrics of it");
}

#[test]
fn with_no_addresses_of_their_own_the_agents_answer_at_kube_dns_alone() {
    let rendered = of("no-addresses", &["agent.dnsAddresses=[]", r#"dns.service.clusterIP="fd00:10:96::a""#]);
    assert_eq!(rendered.agent().config.dns.addresses, sockets(&["[fd00:10:96::a]:53"]));
}

#[test]
fn without_dns_servers_nothing_of_them_is_left() {
    let rendered = of("no-dns", &["dns.enabled=false", "serviceMonitor.enabled=true", "prometheusRule.enabled=true"]);
    assert!(rendered.dns().is_none());
    for (kind, name) in [
        ("Service", "kube-dns"),
        ("PodDisruptionBudget", "waypost-dns"),
        ("ServiceAccount", "waypost-dns"),
        ("ClusterRole", "waypost-dns"),
        ("ClusterRoleBinding", "waypost-dns"),
        ("ConfigMap", "waypost-dns"),
        ("ServiceMonitor", "waypost-dns"),
    ] {
        assert!(rendered.get(kind, name).is_none(), "{kind} {name}");
    }
    assert_eq!(alert_groups(&rendered), ["waypost-agent", "waypost-dns"], "alerts about them would fire for ever");
}

#[test]
fn a_kube_dns_service_of_somebody_else_is_left_to_him() {
    assert!(of("no-service", &["dns.service.create=false"]).get("Service", "kube-dns").is_none());
}

#[test]
fn a_certificate_authority_for_upstream_servers_is_mounted_where_both_look_for_it() {
    let rendered = of("upstream-tls", &[r#"dnsUpstreamTLS.secretName="upstream""#]);
    for workload in [rendered.agent(), rendered.dns().expect("DNS servers")] {
        let volumes: Vec<_> = list(&workload.pod["volumes"]).map(|volume| &volume["secret"]["secretName"]).collect();
        assert!(volumes.iter().any(|name| **name == "upstream"), "{volumes:?}");
        assert!(workload.config.dns.forward.tls.ca.is_some_and(|path| path.ends_with("ca.crt")));
    }
}

#[test]
fn secrets_for_the_registry_and_the_image_are_everybodys() {
    let image =
        [r#"imagePullSecrets=[{"name":"registry"}]"#, r#"image.repository="registry.example/waypost""#, r#"image.tag="9.9""#];
    let rendered = of("pull-secrets", &image);
    for workload in [rendered.agent(), rendered.dns().expect("DNS servers")] {
        assert_eq!(workload.pod["imagePullSecrets"][0]["name"], "registry");
        assert_eq!(workload.container["image"], "registry.example/waypost:9.9");
    }
}

#[test]
fn agents_without_a_folder_to_hand_over_in_follow_each_other() {
    let strategy = r#"agent.updateStrategy.rollingUpdate={"maxSurge":0,"maxUnavailable":"10%"}"#;
    let rendered =
        of("no-handover", &[r#"agent.handoverDirectory="""#, r#"agent.stateDirectory="""#, "agent.hostSysctls=false", strategy]);
    let agent = rendered.agent();
    assert_eq!((agent.config.handover, agent.config.state_dir), (None, None));
    let folders: Vec<_> = list(&agent.pod["volumes"]).filter(|volume| !volume["hostPath"].is_null()).collect();
    assert!(folders.is_empty(), "nothing of the node is mounted: {folders:?}");
    refused(&[r#"agent.handoverDirectory="""#], "maxSurge");
}

#[test]
fn folders_can_be_moved() {
    let rendered = of("folders", &[r#"agent.handoverDirectory="/var/run/other""#, r#"agent.stateDirectory="/srv/waypost""#]);
    let agent = rendered.agent();
    assert_eq!(agent.config.handover.as_deref(), Some("/var/run/other/handover.sock".as_ref()));
    let on_node: Vec<_> = list(&agent.pod["volumes"]).filter_map(|volume| volume["hostPath"]["path"].as_str()).collect();
    assert_eq!(on_node, ["/srv/waypost", "/var/run/other", "/proc/sys/net"]);
}

/// All that asks at a port asks where it was moved.
#[test]
fn ports_that_are_moved_are_moved_for_probes_and_prometheus_too() {
    let agent = [r#"agent.config={"healthz-bind-address":":10266","metrics-bind-address":":10259"}"#];
    let dns = r#"dns.config={"dns-health-address":":18080","dns-ready-address":":18181","dns-metrics-address":":19153"}"#;
    let rendered = of("ports", &[&agent[..], &[dns, "scrapeAnnotations.enabled=true", "serviceMonitor.enabled=true"]].concat());
    let agent = rendered.agent();
    assert_eq!((agent.config.admin.healthz, agent.config.admin.metrics), (socket("[::]:10266"), socket("[::]:10259")));
    assert_eq!(agent.config.admin.dns_metrics, agent.config.admin.metrics, "one page has both halves");
    assert_eq!(agent.object["spec"]["template"]["metadata"]["annotations"]["prometheus.io/port"], "10259");
    for scraped in ["waypost-agent-metrics", "waypost-agent-dns-metrics"] {
        assert_eq!(rendered.get("Service", scraped).expect("its Service")["spec"]["ports"][0]["port"], 10259, "{scraped}");
    }
    let dns = rendered.dns().expect("DNS servers");
    assert_eq!(
        (&dns.container["livenessProbe"]["httpGet"]["port"], dns.config.admin.dns_health),
        (&18080.into(), socket("[::]:18080"))
    );
    assert_eq!(
        (&dns.container["readinessProbe"]["httpGet"]["port"], dns.config.admin.dns_ready),
        (&18181.into(), socket("[::]:18181"))
    );
    let kube_dns = rendered.get("Service", "kube-dns").expect("it makes the Service");
    assert_eq!(
        (&kube_dns["metadata"]["annotations"]["prometheus.io/port"], dns.config.admin.dns_metrics),
        (&"19153".into(), socket("[::]:19153"))
    );
}

#[test]
fn a_port_that_somebody_asks_at_cannot_be_switched_off() {
    for key in ["dns-health-address", "dns-ready-address", "dns-metrics-address"] {
        refused(&[&format!(r#"dns.config={{"{key}":""}}"#)], key);
    }
    for switch in ["scrapeAnnotations", "serviceMonitor"] {
        refused(&[r#"agent.config={"metrics-bind-address":""}"#, &format!("{switch}.enabled=true")], "metrics-bind-address");
    }
    let agent = of("no-metrics", &[r#"agent.config={"metrics-bind-address":"","healthz-bind-address":""}"#]).agent().config.admin;
    assert_eq!((agent.healthz, agent.metrics, agent.dns_metrics), (None, None, None), "probes use a socket of their own");
}

/// In both families, so that a Prometheus which has IPv6 alone gets there; a node without IPv6 has the other one (src/admin).
#[test]
fn metrics_that_are_scraped_are_everywhere_and_others_are_not() {
    for (name, switch) in [("annotated", "scrapeAnnotations"), ("monitored", "serviceMonitor")] {
        let rendered = of(name, &[&format!("{switch}.enabled=true")]);
        let agent = rendered.agent();
        assert_eq!((agent.config.admin.metrics, agent.config.admin.dns_metrics), (socket("[::]:10249"), socket("[::]:10249")));
        let annotation = &agent.object["spec"]["template"]["metadata"]["annotations"]["prometheus.io/scrape"];
        assert_eq!(*annotation == "true", name == "annotated");
        assert_eq!(rendered.all("ServiceMonitor").count(), if name == "monitored" { 3 } else { 0 });
    }
}

#[test]
fn alerts_and_dashboard_are_the_files_of_the_chart() {
    let rendered = of(
        "watched",
        &["prometheusRule.enabled=true", "grafanaDashboard.enabled=true", r#"prometheusRule.labels={"release":"x"}"#],
    );
    assert_eq!(alert_groups(&rendered), ["waypost-agent", "waypost-dns", "waypost-dns-servers", "waypost-dns-replicas"]);
    assert_eq!(rendered.all("PrometheusRule").next().expect("a rule")["metadata"]["labels"]["release"], "x");
    let board = rendered.all("ConfigMap").find(|map| map["metadata"]["labels"]["grafana_dashboard"] == "1").expect("a dashboard");
    for file in board["data"].as_object().expect("files").values() {
        let board: Value = serde_json::from_str(text(file)).expect("the dashboard is JSON");
        assert!(list(&board["panels"]).count() > 10, "{board}");
    }
    let one = of("one-server", &["prometheusRule.enabled=true", "dns.replicas=1"]);
    assert!(!alert_groups(&one).contains(&"waypost-dns-replicas".to_string()), "one is what was asked for");
}

#[test]
fn a_corefile_in_config_maps_is_obeyed_and_can_be_read_and_nothing_else() {
    let maps = r#"corefile.configMaps=["kube-system/coredns","other/coredns-custom"]"#;
    let rendered = of("corefile", &[maps]);
    let wanted = ZonesSource::ConfigMaps(vec!["kube-system/coredns".into(), "other/coredns-custom".into()]);
    assert_eq!((&rendered.agent().config.dns.zones, &rendered.dns().expect("DNS servers").config.dns.zones), (&wanted, &wanted));
    let mut granted: Vec<_> = rendered
        .all("Role")
        .map(|role| format!("{}/{}", text(&role["metadata"]["namespace"]), text(&role["rules"][0]["resourceNames"][0])))
        .collect();
    granted.sort();
    assert_eq!(granted, ["kube-system/coredns", "kube-system/coredns", "other/coredns-custom", "other/coredns-custom"]);
    assert_eq!(rendered.all("RoleBinding").count(), 4);
}

#[test]
fn zones_can_be_written_into_the_values() {
    let zones = r#"config={"dns-zones":[{"zones":["example.org"],"forward":[{"to":["192.0.2.53"]}]}]}"#;
    let rendered = of("zones", &[&format!("agent.{zones}"), &format!("dns.{zones}")]);
    for workload in [rendered.agent(), rendered.dns().expect("DNS servers")] {
        assert!(matches!(workload.config.dns.zones, ZonesSource::Blocks { blocks, .. } if blocks.len() == 1));
    }
}

#[test]
fn rights_are_given_where_they_are_asked_for() {
    let may = |rendered: &Rendered, resource: &str| {
        let roles = rendered
            .all("ClusterRole")
            .map(|role| list(&role["rules"]).any(|rule| list(&rule["resources"]).any(|one| one == resource)));
        roles.collect::<Vec<_>>()
    };
    let (more, usual) = (of("rights", &["watchPods=true", "watchServiceImports=true"]), of("no-rights", &[]));
    for resource in ["pods", "serviceimports"] {
        assert_eq!((may(&more, resource), may(&usual, resource)), (vec![true, true], vec![false, false]), "{resource}");
    }
    for resource in ["secrets", "configmaps"] {
        assert_eq!(may(&more, resource), [false, false], "{resource}");
    }
}

#[test]
fn where_pods_go_is_as_it_is_written() {
    let rendered = of(
        "places",
        &[
            r#"agent.nodeSelector={"service-proxy":"waypost"}"#,
            "agent.tolerations=[]",
            r#"agent.seLinuxOptions={"type":"spc_t"}"#,
            r#"agent.podAnnotations={"a":"b"}"#,
            "agent.resources=null",
            r#"dns.resources={"limits":{"cpu":"1","memory":"1Gi"}}"#,
            r#"dns.podDisruptionBudget={"minAvailable":1,"maxUnavailable":null}"#,
            "dns.tolerations=[]",
        ],
    );
    let agent = rendered.agent();
    assert_eq!(agent.pod["nodeSelector"]["service-proxy"], "waypost");
    assert!(agent.pod["tolerations"].is_null() && agent.container["resources"].is_null(), "{}", agent.pod);
    assert_eq!(agent.container["securityContext"]["seLinuxOptions"]["type"], "spc_t");
    assert_eq!(agent.object["spec"]["template"]["metadata"]["annotations"]["a"], "b");
    assert_eq!(rendered.all("PodDisruptionBudget").next().expect("a budget")["spec"]["minAvailable"], 1);
}

fn of(name: &str, settings: &[&str]) -> Rendered {
    Rendered::sound(name, render(settings).unwrap_or_else(|error| panic!("{name}: {error}")))
}

fn refused(settings: &[&str], says: &str) {
    let error = render(settings).expect_err("it is refused");
    assert!(error.contains(says), "{settings:?}: {error}");
}

fn alert_groups(rendered: &Rendered) -> Vec<String> {
    let rules = rendered.all("PrometheusRule").next().expect("a rule");
    list(&rules["spec"]["groups"]).map(|group| text(&group["name"]).to_string()).collect()
}

fn socket(text: &str) -> Option<SocketAddr> {
    Some(text.parse().expect("an address"))
}

fn sockets(texts: &[&str]) -> Vec<SocketAddr> {
    texts.iter().map(|text| text.parse().expect("an address")).collect()
}
