use super::*;
use crate::model::{self, Family, Policy, ServiceKind};
use crate::source::objects;

fn read_service(spec: &str) -> Result<model::Service, Malformed> {
    let text = format!("{{metadata: {{namespace: default, name: web}}, {spec}}}");
    service(&serde_saphyr::from_str(&text).unwrap(), &mut Interner::default())
}

fn read_slice(rest: &str) -> Result<Option<model::Slice>, Malformed> {
    let metadata = "metadata: {namespace: default, name: web-1, labels: {kubernetes.io/service-name: web}}";
    let text = format!("{{{metadata}, {rest}}}");
    slice(&serde_saphyr::from_str(&text).unwrap(), &mut Interner::default())
}

fn read_node(rest: &str) -> Result<model::Node, Malformed> {
    node(&serde_saphyr::from_str(&format!("{{metadata: {{name: n1}}, {rest}}}")).unwrap())
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn the_networks_of_a_nodes_pods_are_the_list_or_the_older_single_one() {
    let networks = |spec: &str| {
        let object: objects::Node = serde_saphyr::from_str(&format!("{{metadata: {{name: n}}, spec: {spec}}}")).unwrap();
        node(&object).map(|node| node.pod_cidrs.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    assert_eq!(networks("{podCIDR: 10.1.0.0/24, podCIDRs: [10.1.0.0/24, 'fd00::/64']}").unwrap(), ["10.1.0.0/24", "fd00::/64"]);
    assert_eq!(networks("{podCIDR: 10.1.0.0/24}").unwrap(), ["10.1.0.0/24"]);
    assert_eq!(networks("{podCIDR: ''}").unwrap(), Vec::<String>::new());
    assert!(networks("{podCIDRs: [10.1.0.0]}").unwrap_err().to_string().contains("spec.podCIDRs[0]"));
}

#[test]
fn every_field_of_a_load_balancer_service_is_read() {
    let text = r#"
metadata:
  namespace: shop
  name: web
  creationTimestamp: "2026-01-02T03:04:05Z"
  annotations: {waypost.dev/balance: round-robin, other: x}
  managedFields: [{manager: kubectl, fieldsV1: {"f:spec": {}}}]
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10, "fd00::10"]
  externalIPs: [192.0.2.1]
  externalTrafficPolicy: Local
  internalTrafficPolicy: Local
  healthCheckNodePort: 32000
  loadBalancerSourceRanges: [" 10.1.2.3/8 ", "fd00::/8\n"]
  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}
  ports:
  - {name: http, protocol: TCP, port: 80, targetPort: web, nodePort: 30080}
  - {name: dns, protocol: UDP, port: 53, nodePort: 30053}
  - {name: sig, protocol: SCTP, port: 99}
status:
  loadBalancer:
    ingress:
    - {ip: 203.0.113.1}
    - {ip: 203.0.113.2, ipMode: VIP}
    - {ip: 203.0.113.3, ipMode: Proxy}
    - {hostname: lb.example.org}
"#;
    let object: objects::Service = serde_saphyr::from_str(text).unwrap();
    let port = |name: &str, protocol, port, node_port| model::ServicePort { name: name.into(), protocol, port, node_port };
    let expected = model::Service {
        key: ObjectKey::new("shop", "web"),
        kind: ServiceKind::ClusterIp,
        cluster_ips: ips(&["10.96.0.10", "fd00::10"]),
        external_ips: ips(&["192.0.2.1"]),
        load_balancer_ips: ips(&["203.0.113.1", "203.0.113.2"]),
        source_ranges: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
        ports: vec![
            port("http", Protocol::Tcp, 80, 30080),
            port("dns", Protocol::Udp, 53, 30053),
            port("sig", Protocol::Sctp, 99, 0),
        ],
        internal_policy: Policy::Local,
        external_policy: Policy::Local,
        affinity_seconds: Some(60),
        health_check_node_port: 32000,
        proxied: true,
        created: 1_767_323_045,
        options: model::ServiceOptions { balance: model::Balance::RoundRobin, ..model::ServiceOptions::default() },
        labels: None,
    };
    assert_eq!(service(&object, &mut Interner::default()).unwrap(), expected);
}

#[test]
fn a_service_with_nothing_but_a_port_gets_kubernetes_defaults() {
    let service = read_service("spec: {ports: [{port: 80}]}").unwrap();
    assert_eq!(service.kind, ServiceKind::ClusterIp);
    assert_eq!((service.internal_policy, service.external_policy), (Policy::Cluster, Policy::Cluster));
    assert_eq!((service.affinity_seconds, service.health_check_node_port, service.proxied), (None, 0, true));
    assert_eq!(&*service.ports[0].name, "");
    assert_eq!(service.ports[0].protocol, Protocol::Tcp);
    assert!(service.cluster_ips.is_empty());
}

#[test]
fn null_lists_are_empty_lists() {
    let service =
        read_service("spec: {ports: null, clusterIPs: null, externalIPs: null}, status: {loadBalancer: {ingress: null}}");
    assert!(service.unwrap().ports.is_empty());
    let slice = read_slice("addressType: IPv4, ports: null, endpoints: null").unwrap().unwrap();
    assert!(slice.ports.is_empty() && slice.endpoints.is_empty());
}

#[test]
fn cluster_ip_alone_is_enough() {
    assert_eq!(read_service("spec: {clusterIP: 10.96.0.1, clusterIPs: []}").unwrap().cluster_ips, ips(&["10.96.0.1"]));
    assert_eq!(read_service("spec: {clusterIP: None}").unwrap().kind, ServiceKind::Headless);
    let headless = read_service("spec: {clusterIPs: [None]}").unwrap();
    assert_eq!((headless.kind, headless.cluster_ips), (ServiceKind::Headless, vec![]));
}

#[test]
fn an_external_name_loses_its_trailing_dot() {
    let service = read_service("spec: {type: ExternalName, externalName: db.example.org.}").unwrap();
    assert_eq!(service.kind, ServiceKind::ExternalName("db.example.org".into()));
    let error = read_service("spec: {type: ExternalName, externalName: .}").unwrap_err();
    assert_eq!(error.complaint.field, "spec.externalName");
}

#[test]
fn affinity_without_a_time_lasts_three_hours() {
    assert_eq!(read_service("spec: {sessionAffinity: ClientIP}").unwrap().affinity_seconds, Some(10_800));
}

#[test]
fn node_ports_and_health_checks_count_only_where_the_type_has_them() {
    let service =
        read_service("spec: {type: ClusterIP, healthCheckNodePort: 32000, ports: [{port: 80, nodePort: 30080}]}").unwrap();
    assert_eq!((service.ports[0].node_port, service.health_check_node_port), (0, 0));
    let service = read_service("spec: {type: LoadBalancer, externalTrafficPolicy: Cluster, healthCheckNodePort: 32000}").unwrap();
    assert_eq!(service.health_check_node_port, 0);
}

#[test]
fn the_proxy_name_label_gives_a_service_away() {
    let text = "metadata: {namespace: a, name: b, labels: {service.kubernetes.io/service-proxy-name: other}}";
    assert!(!service(&serde_saphyr::from_str(text).unwrap(), &mut Interner::default()).unwrap().proxied);
}

#[test]
fn addresses_are_read_as_leniently_as_kubernetes_reads_stored_ones() {
    let service =
        read_service(r#"spec: {externalIPs: ["010.000.0.09", "::ffff:192.0.2.1"], loadBalancerSourceRanges: [010.0.0.0/8]}"#);
    let service = service.unwrap();
    assert_eq!(service.external_ips, ips(&["10.0.0.9", "192.0.2.1"]));
    assert_eq!(service.source_ranges, ["10.0.0.0/8".parse().unwrap()]);
}

#[test]
fn a_malformed_service_is_named_with_field_and_value() {
    let cases = [
        ("spec: {clusterIPs: [10.96.0]}", "spec.clusterIPs[0]", "10.96.0"),
        ("spec: {clusterIPs: [10.96.0.1, 10.96.0.2]}", "spec.clusterIPs[1]", "10.96.0.2"),
        ("spec: {externalIPs: [1.2.3.4, x]}", "spec.externalIPs[1]", "x"),
        ("spec: {ports: [{port: 70000}]}", "spec.ports[0].port", "70000"),
        ("spec: {ports: [{port: 80}, {port: 0}]}", "spec.ports[1].port", "0"),
        ("spec: {ports: [{}]}", "spec.ports[0].port", ""),
        ("spec: {type: NodePort, ports: [{port: 80, nodePort: -1}]}", "spec.ports[0].nodePort", "-1"),
        ("spec: {ports: [{port: 80, protocol: QUIC}]}", "spec.ports[0].protocol", "QUIC"),
        ("spec: {type: Magic}", "spec.type", "Magic"),
        ("spec: {internalTrafficPolicy: Near}", "spec.internalTrafficPolicy", "Near"),
        ("spec: {externalTrafficPolicy: Far}", "spec.externalTrafficPolicy", "Far"),
        ("spec: {sessionAffinity: Cookie}", "spec.sessionAffinity", "Cookie"),
        (
            "spec: {sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}}",
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            "0",
        ),
        ("spec: {loadBalancerSourceRanges: [10.0.0.0/33]}", "spec.loadBalancerSourceRanges[0]", "10.0.0.0/33"),
        ("status: {loadBalancer: {ingress: [{ip: lb}]}}", "status.loadBalancer.ingress[0].ip", "lb"),
    ];
    for (text, field, value) in cases {
        let error = read_service(text).expect_err(text);
        assert_eq!((error.kind, error.object.as_str()), ("Service", "default/web"));
        assert_eq!((error.complaint.field.as_str(), error.complaint.value.as_str()), (field, value), "{text}");
    }
}

#[test]
fn the_message_says_which_object_which_field_and_what_is_allowed() {
    let error = read_service("spec: {ports: [{port: 70000}]}").unwrap_err();
    assert_eq!(
        error.to_string(),
        "Service default/web: spec.ports[0].port is \"70000\", it must be a port number from 1 to 65535; \
         it is ignored until it is corrected"
    );
}

#[test]
fn a_slice_is_read_with_all_its_addresses() {
    let slice = read_slice(
        "addressType: IPv4, ports: [{name: http, port: 8080}, {name: dns, protocol: UDP, port: 53}], endpoints: [\
         {addresses: [10.0.0.1, 10.0.0.2], conditions: {ready: false, serving: true, terminating: true}, hostname: web-0, nodeName: n1},\
         {addresses: [10.0.0.3]}]",
    );
    let slice = slice.unwrap().unwrap();
    assert_eq!((slice.key, slice.service), (ObjectKey::new("default", "web-1"), ObjectKey::new("default", "web")));
    assert_eq!((slice.family, slice.headless), (Family::V4, false));
    let port = |name: &str, protocol, port| model::SlicePort { name: name.into(), protocol, port };
    assert_eq!(*slice.ports, [port("http", Protocol::Tcp, 8080), port("dns", Protocol::Udp, 53)]);
    let first = model::Endpoint {
        ready: false,
        terminating: true,
        hostname: Some("web-0".into()),
        node: Some("n1".into()),
        ..model::Endpoint::at("10.0.0.1".parse().unwrap())
    };
    let second = model::Endpoint { address: "10.0.0.2".parse().unwrap(), secondary: true, ..first.clone() };
    let third = model::Endpoint::at("10.0.0.3".parse().unwrap());
    assert_eq!(*slice.endpoints, [first, second, third]);
}

#[test]
fn hints_are_read_and_shared_by_endpoints_that_have_the_same() {
    let hints = "hints: {forZones: [{name: a}, {name: b}], forNodes: [{name: n1}, {}]}";
    let slice = read_slice(&format!(
        "addressType: IPv4, endpoints: [{{addresses: [10.0.0.1], {hints}}}, {{addresses: [10.0.0.2], {hints}}}, \
         {{addresses: [10.0.0.3], hints: {{forZones: []}}}}]"
    ));
    let endpoints = slice.unwrap().unwrap().endpoints;
    let read = endpoints[0].hints.clone().unwrap();
    assert_eq!(*read, model::Hints { zones: ["a".into(), "b".into()].into(), nodes: ["n1".into()].into() });
    assert!(std::sync::Arc::ptr_eq(&read, endpoints[1].hints.as_ref().unwrap()));
    assert_eq!(endpoints[2].hints, None, "an empty list is no hint");
}

#[test]
fn a_nodes_zone_is_its_label() {
    let zone = |label: &str| {
        node(&serde_saphyr::from_str(&format!("metadata: {{name: n1, labels: {{{label}}}}}")).unwrap()).unwrap().zone
    };
    assert_eq!(zone("topology.kubernetes.io/zone: eu-1a").as_deref(), Some("eu-1a"));
    assert_eq!((zone("topology.kubernetes.io/zone: ''"), zone("other: x")), (None, None));
}

#[test]
fn ports_without_a_number_are_left_out_and_a_nil_name_is_empty() {
    let slice = read_slice("addressType: IPv6, ports: [{name: all}, {name: zero, port: 0}, {port: 80}]").unwrap().unwrap();
    assert_eq!(*slice.ports, [model::SlicePort { name: "".into(), protocol: Protocol::Tcp, port: 80 }]);
}

#[test]
fn slices_of_names_or_of_no_service_concern_nobody() {
    assert_eq!(read_slice("addressType: FQDN, endpoints: [{addresses: [a.example.org]}]"), Ok(None));
    let text = "{metadata: {namespace: default, name: stray}, addressType: IPv4, ports: [{port: 99999}]}";
    assert_eq!(slice(&serde_saphyr::from_str(text).unwrap(), &mut Interner::default()), Ok(None));
}

#[test]
fn the_headless_label_marks_a_slice() {
    let labels = "labels: {kubernetes.io/service-name: web, service.kubernetes.io/headless: ''}";
    let text = format!("{{metadata: {{namespace: default, name: web-1, {labels}}}, addressType: IPv4}}");
    assert!(slice(&serde_saphyr::from_str(&text).unwrap(), &mut Interner::default()).unwrap().unwrap().headless);
}

#[test]
fn a_malformed_slice_is_named_with_field_and_value() {
    let cases = [
        ("ports: []", "addressType", ""),
        ("addressType: IPX", "addressType", "IPX"),
        ("addressType: IPv4, ports: [{port: 65536}]", "ports[0].port", "65536"),
        ("addressType: IPv4, ports: [{port: 1, protocol: tcp}]", "ports[0].protocol", "tcp"),
        (
            "addressType: IPv4, endpoints: [{addresses: [10.0.0.1]}, {addresses: ['fd00::1']}]",
            "endpoints[1].addresses[0]",
            "fd00::1",
        ),
        ("addressType: IPv6, endpoints: [{addresses: ['fd00::1', 'fd00::g']}]", "endpoints[0].addresses[1]", "fd00::g"),
    ];
    for (text, field, value) in cases {
        let error = read_slice(text).expect_err(text);
        assert_eq!((error.kind, error.object.as_str()), ("EndpointSlice", "default/web-1"));
        assert_eq!((error.complaint.field.as_str(), error.complaint.value.as_str()), (field, value), "{text}");
    }
}

#[test]
fn a_node_has_its_first_internal_address_of_each_family_or_else_an_external_one() {
    let node = read_node(
        "status: {addresses: [{type: Hostname, address: n1}, {type: ExternalIP, address: 192.0.2.9}, {type: InternalIP, address: 10.0.0.1},\
         {type: InternalIP, address: 10.0.0.2}, {type: ExternalIP, address: 'fd00::9'}, {type: ExternalIP, address: 'fd00::8'}]}",
    );
    assert_eq!(node.unwrap(), model::Node { addresses: ips(&["10.0.0.1", "fd00::9"]), eligible: true, ..model::Node::default() });
}

#[test]
fn a_node_on_its_way_out_is_not_eligible() {
    assert!(!read_node("spec: {taints: [{key: other}, {key: ToBeDeletedByClusterAutoscaler}]}").unwrap().eligible);
    assert!(read_node("spec: {taints: [{key: other}]}").unwrap().eligible);
    let text = "{metadata: {name: n1, deletionTimestamp: '2026-01-02T03:04:05Z'}}";
    assert!(!node(&serde_saphyr::from_str(text).unwrap()).unwrap().eligible);
}

#[test]
fn a_node_with_an_impossible_address_is_malformed() {
    let error = read_node("status: {addresses: [{type: Hostname, address: n1}, {type: InternalIP, address: here}]}").unwrap_err();
    assert_eq!(
        error.to_string().split(';').next(),
        Some("Node n1: status.addresses[1].address is \"here\", it must be an IP address")
    );
}

#[test]
fn names_are_shared() {
    let mut names = Interner::default();
    let object: objects::Service = serde_saphyr::from_str("metadata: {namespace: default, name: web}").unwrap();
    let (first, second) = (service(&object, &mut names).unwrap(), service(&object, &mut names).unwrap());
    assert!(crate::model::Name::ptr_eq(&first.key.name, &second.key.name));
}

#[test]
fn a_service_cidr_has_its_networks_and_a_bad_one_is_named() {
    let read = |cidrs: &str| {
        let object = serde_saphyr::from_str(&format!("{{metadata: {{name: more}}, spec: {{cidrs: {cidrs}}}}}")).unwrap();
        service_cidr(&object, &mut Interner::default())
    };
    let networks: [ipnet::IpNet; 2] = ["10.99.0.0/16".parse().unwrap(), "fd00:99::/112".parse().unwrap()];
    assert_eq!(read("[10.99.0.1/16, 'fd00:99::/112']").unwrap(), ("more".into(), networks.into()));
    assert_eq!(read("null").unwrap().1.len(), 0);
    let error = read("[10.99.0.0/99]").unwrap_err();
    assert_eq!((error.kind, error.object.as_str(), error.complaint.field.as_str()), ("ServiceCIDR", "more", "spec.cidrs[0]"));
}

#[test]
fn a_slice_tells_when_its_change_was_triggered_and_a_bad_time_is_none() {
    let read = |annotations: &str| {
        let metadata = "namespace: default, name: web-1, labels: {kubernetes.io/service-name: web}";
        let text = format!("{{metadata: {{{metadata}, annotations: {annotations}}}, addressType: IPv4}}");
        slice(&serde_saphyr::from_str(&text).unwrap(), &mut Interner::default()).unwrap().unwrap().triggered
    };
    let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_767_323_045);
    assert_eq!(read("{other: x, endpoints.kubernetes.io/last-change-trigger-time: '2026-01-02T03:04:05Z'}"), Some(time));
    assert_eq!(read("{endpoints.kubernetes.io/last-change-trigger-time: yesterday}"), None);
    assert_eq!((read("{other: x}"), read("null")), (None, None));
}

#[test]
fn only_annotations_that_are_read_reach_the_heap() {
    let read = |text: &str| -> objects::Service { serde_saphyr::from_str(text).unwrap() };
    let service = read("metadata: {annotations: {waypost.dev/balance: random, waypost: x, kubectl.kubernetes.io/last: '{}'}}");
    assert_eq!(service.metadata.annotations, Some([("waypost.dev/balance".to_string(), "random".to_string())].into()));
    assert_eq!(read("metadata: {annotations: {other: x}}").metadata.annotations, None);
}

#[test]
fn a_pod_has_the_addresses_of_both_families_until_it_is_over() {
    let addresses = |rest: &str| {
        let object: objects::Pod = serde_saphyr::from_str(&format!("{{{rest}}}")).unwrap();
        pod(&object).map(|addresses| addresses.to_vec())
    };
    let metadata = "metadata: {namespace: shop, name: a}";
    let status = |phase: &str| {
        format!("{metadata}, status: {{phase: {phase}, podIP: 10.0.0.1, podIPs: [{{ip: 10.0.0.1}}, {{ip: 'fd00::1'}}]}}")
    };
    assert_eq!(addresses(&status("Running")).unwrap(), ips(&["10.0.0.1", "fd00::1"]));
    assert_eq!(addresses(&status("Pending")).unwrap().len(), 2);
    for phase in ["Succeeded", "Failed", "Unknown"] {
        assert!(addresses(&status(phase)).unwrap().is_empty(), "{phase}");
    }
    let ending = status("Running").replace("name: a", "name: a, deletionTimestamp: '2026-01-02T03:04:05Z'");
    assert!(addresses(&ending).unwrap().is_empty());
    assert!(addresses(metadata).unwrap().is_empty());
    assert_eq!(addresses(&format!("{metadata}, status: {{podIP: 10.0.0.7}}")).unwrap(), ips(&["10.0.0.7"]));
    let error = addresses(&format!("{metadata}, status: {{podIP: nowhere}}")).unwrap_err().to_string();
    assert!(error.starts_with("Pod shop/a: status.podIPs[0].ip"), "{error}");
}
