use super::allocate::{Allocator, families};
use super::plan::{NODE_NAME, Plan, plan};
use crate::model::{Endpoint, Family, Kind, ObjectKey, Protocol, Slice, Update};
use crate::source::manifests::{Manifests, read};
use crate::source::translate::Translator;
use crate::store::Store;
use k8s_openapi::api::core::v1::ServiceSpec;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

/// The manifests that the demo brings along, as the repository has them.
fn samples() -> Manifests {
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests/demo")).unwrap()
}

fn manifests(yaml: &str) -> Manifests {
    let mut manifests = Manifests::default();
    for document in yaml.split("---\n") {
        match document {
            text if text.contains("kind: Deployment") => manifests.deployments.push(serde_saphyr::from_str(text).unwrap()),
            text if text.contains("kind: Pod") => manifests.pods.push(serde_saphyr::from_str(text).unwrap()),
            text => manifests.services.push(serde_saphyr::from_str(text).unwrap()),
        }
    }
    manifests
}

fn planned(manifests: Manifests) -> Plan {
    plan(manifests, &node(), &BTreeSet::new(), &mut Allocator::default()).unwrap()
}

fn node() -> [IpAddr; 1] {
    ["192.0.2.10".parse().unwrap()]
}

/// What the agent makes of a plan.
fn store(plan: &Plan) -> Store {
    plan.manifests.updates(Some(NODE_NAME), &mut Translator::default()).into_iter().collect()
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("shop", name)
}

fn slices<'a>(store: &'a Store, service: &str, family: Family) -> Vec<&'a Slice> {
    store.slices(&key(service)).into_iter().filter(|slice| slice.family == family).collect()
}

fn addresses(slice: &Slice) -> Vec<IpAddr> {
    slice.endpoints.iter().map(|endpoint: &Endpoint| endpoint.address).collect()
}

#[test]
fn the_samples_become_a_cluster_in_which_every_service_has_what_it_asked_for() {
    let store = store(&planned(samples()));
    assert_eq!(store.node().unwrap().addresses, node());
    assert_eq!(store.service(&key("web")).unwrap().cluster_ips.len(), 2, "PreferDualStack");
    assert!(store.service(&key("clock")).unwrap().cluster_ip(Family::V4).is_none(), "IPv6 only");
    assert_eq!(store.service(&key("web-public")).unwrap().ports[0].node_port, 30080);
    for (service, family, endpoints) in [
        ("web", Family::V4, 3),
        ("web", Family::V6, 3),
        ("clock", Family::V6, 2),
        ("db", Family::V4, 2),
        ("checkout", Family::V4, 0),
    ] {
        let count: usize = slices(&store, service, family).iter().map(|slice| slice.endpoints.len()).sum();
        assert_eq!(count, endpoints, "{service} {family}");
    }
    let db = slices(&store, "db", Family::V4);
    assert!(db[0].headless);
    let hosts: BTreeSet<_> = db[0].endpoints.iter().filter_map(|endpoint| endpoint.hostname.as_deref()).collect();
    assert_eq!(hosts, BTreeSet::from(["db-0", "db-1"]));
    assert!(db[0].endpoints.iter().all(|endpoint| endpoint.node.as_deref() == Some(NODE_NAME)));
}

#[test]
fn planning_again_moves_nobody_and_a_dead_pods_address_is_not_given_away() {
    let mut allocator = Allocator::default();
    let mut again = |dead: &[&str], replicas: i64| {
        let mut manifests = samples();
        manifests.deployments.iter_mut().for_each(|deployment| deployment.spec.as_mut().unwrap().replicas = Some(replicas));
        plan(manifests, &node(), &dead.iter().map(|name| key(name)).collect(), &mut allocator).unwrap()
    };
    let first = again(&[], 3);
    let without = again(&["web-2"], 4);
    assert!(!without.pods.contains_key(&key("web-2")));
    let lost = &first.pods[&key("web-2")].addresses;
    assert!(without.pods.values().all(|pod| pod.addresses != *lost));
    assert!(!slices(&store(&without), "web", Family::V4).iter().any(|slice| addresses(slice).contains(&lost[0])));
    let back = again(&[], 3);
    assert_eq!(back, first);
}

#[test]
fn wanted_addresses_and_ports_are_kept_and_nobody_else_gets_them() {
    let plan = planned(manifests(
        "kind: Service\nmetadata: {name: first, namespace: shop}\nspec: {type: NodePort, ports: [{port: 80}]}\n\
         ---\nkind: Service\nmetadata: {name: second, namespace: shop}\n\
         spec: {type: NodePort, clusterIP: 10.96.0.11, clusterIPs: [10.96.0.11], ports: [{port: 80, nodePort: 30000}]}\n",
    ));
    let store = store(&plan);
    let (first, second) = (store.service(&key("first")).unwrap(), store.service(&key("second")).unwrap());
    assert_eq!((second.cluster_ips[0].to_string().as_str(), second.ports[0].node_port), ("10.96.0.11", 30000));
    assert_ne!(first.cluster_ips, second.cluster_ips);
    assert_eq!(first.ports[0].node_port, 30001);
}

#[test]
fn a_load_balancer_gets_an_address_unless_its_manifest_has_one() {
    let service = |status: &str| {
        format!(
            "kind: Service\nmetadata: {{name: a, namespace: shop}}\nspec: {{type: LoadBalancer, ports: [{{port: 80}}]}}\n{status}"
        )
    };
    let address = |status| store(&planned(manifests(&service(status)))).service(&key("a")).unwrap().load_balancer_ips.clone();
    assert_eq!(address("").len(), 1);
    let own = "status: {loadBalancer: {ingress: [{ip: 198.51.100.9}]}}\n";
    assert_eq!(address(own), ["198.51.100.9".parse::<IpAddr>().unwrap()]);
}

#[test]
fn a_selector_chooses_by_all_its_labels_within_its_namespace() {
    let pod = |name: &str, namespace: &str, labels: &str| {
        format!(
            "kind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{{labels}}}}}\nspec: {{containers: []}}\n---\n"
        )
    };
    let service =
        "kind: Service\nmetadata: {name: web, namespace: shop}\nspec: {selector: {app: web, tier: front}, ports: [{port: 80}]}\n";
    let plan = planned(manifests(&format!(
        "{}{}{}{service}",
        pod("chosen", "shop", "app: web, tier: front, more: yes-please"),
        pod("half", "shop", "app: web"),
        pod("elsewhere", "other", "app: web, tier: front"),
    )));
    let store = store(&plan);
    let slices = slices(&store, "web", Family::V4);
    assert_eq!(slices.len(), 1);
    assert_eq!(addresses(slices[0]), [plan.pods[&key("chosen")].addresses[0]]);
    assert!(plan.pods[&key("chosen")].served.contains(&(Protocol::Tcp, 80)), "a port that only the Service names is served too");
}

#[test]
fn a_named_port_may_be_another_number_in_another_pod() {
    let pod = |name: &str, port: u16| {
        format!(
            "kind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: web}}}}\n\
             spec: {{containers: [{{name: c, ports: [{{name: http, containerPort: {port}}}]}}]}}\n---\n"
        )
    };
    let service = "kind: Service\nmetadata: {name: web, namespace: shop}\n\
                   spec: {selector: {app: web}, ports: [{name: www, port: 80, targetPort: http}]}\n";
    let plan = planned(manifests(&format!("{}{}{service}", pod("old", 8080), pod("new", 9090))));
    let store = store(&plan);
    let ports: BTreeSet<_> =
        slices(&store, "web", Family::V4).iter().map(|slice| (slice.ports[0].name.to_string(), slice.ports[0].port)).collect();
    assert_eq!(ports, BTreeSet::from([("www".to_string(), 8080), ("www".to_string(), 9090)]));
}

#[test]
fn a_service_without_a_selector_gets_no_slices() {
    let plan = planned(manifests("kind: Service\nmetadata: {name: manual, namespace: shop}\nspec: {ports: [{port: 80}]}\n"));
    assert!(plan.manifests.slices.is_empty());
}

#[test]
fn families_follow_addresses_then_names_then_the_policy() {
    let of = |yaml: &str| families(&serde_saphyr::from_str::<ServiceSpec>(yaml).unwrap());
    assert_eq!(of("{}"), [Family::V4]);
    assert_eq!(of("{ipFamilies: [IPv6]}"), [Family::V6]);
    assert_eq!(of("{ipFamilies: [IPv6], ipFamilyPolicy: RequireDualStack}"), [Family::V6, Family::V4]);
    assert_eq!(of("{clusterIPs: ['fd00:10:96::77'], ipFamilies: [IPv4]}"), [Family::V6]);
    assert_eq!(of("{clusterIP: None, ipFamilyPolicy: PreferDualStack}"), [Family::V4, Family::V6]);
}

#[test]
fn too_many_pods_are_refused_with_the_field_to_change() {
    let yaml = "kind: Deployment\nmetadata: {name: many, namespace: shop}\n\
                spec: {replicas: 100000, selector: {}, template: {spec: {containers: []}}}\n";
    let error = plan(manifests(yaml), &node(), &BTreeSet::new(), &mut Allocator::default()).unwrap_err().to_string();
    assert!(error.contains("100000") && error.contains("spec.replicas"), "{error}");
}

#[test]
fn a_pods_own_addresses_are_used() {
    let yaml = "kind: Pod\nmetadata: {name: a, namespace: shop}\nspec: {containers: []}\nstatus: {podIP: 10.244.7.7}\n";
    assert_eq!(planned(manifests(yaml)).pods[&key("a")].addresses, ["10.244.7.7".parse::<IpAddr>().unwrap()]);
}

#[test]
fn what_a_plan_tells_the_agent_is_a_full_listing() {
    let updates = planned(samples()).manifests.updates(Some(NODE_NAME), &mut Translator::default());
    let begins = updates.iter().filter(|update| matches!(update, Update::ListBegin(_))).count();
    assert_eq!(begins, Kind::COUNT, "of every kind, so that what is gone is noticed");
}
