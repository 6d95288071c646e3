use super::fields::FIELDS;
use super::{ImportError, kube_proxy_config};
use crate::config::SETTINGS;
use serde_json::{Value, json};
use std::collections::BTreeSet;

const FULL: &str = include_str!("testdata/full.yaml");
const KUBEADM: &str = include_str!("testdata/kubeadm.yaml");

fn holds(file: &str, expected: &str, found: &str) {
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(format!("{}/src/import/testdata/{file}", env!("CARGO_MANIFEST_DIR")), found).unwrap();
    } else {
        assert_eq!(found, expected, "{file}; UPDATE_DOCS=1 writes it");
    }
}

#[test]
fn a_configuration_with_every_field_becomes_ours_and_nothing_is_passed_over_in_silence() {
    let imported = kube_proxy_config(FULL).unwrap();
    assert!(imported.unknown.is_empty());
    holds("full.values.yaml", include_str!("testdata/full.values.yaml"), &imported.as_values());
    holds("full.config.yaml", include_str!("testdata/full.config.yaml"), &imported.as_config());
}

#[test]
fn what_kubeadm_writes_becomes_a_few_values() {
    let imported = kube_proxy_config(KUBEADM).unwrap();
    assert!(imported.unknown.is_empty());
    assert_eq!(imported.settings["cluster-cidr"], json!(["10.244.0.0/16"]));
    assert_eq!(imported.settings["nodeport-addresses"], json!(["all", "localhost"]), "as in mode iptables");
    holds("kubeadm.values.yaml", include_str!("testdata/kubeadm.values.yaml"), &imported.as_values());
}

#[test]
fn the_example_has_every_field_and_no_other() {
    let document: Value = serde_saphyr::from_str(FULL).unwrap();
    let mut paths = BTreeSet::new();
    leaves("", &document, &mut paths);
    assert_eq!(paths, FIELDS.iter().map(|field| field.path.to_string()).collect());
}

fn leaves(path: &str, value: &Value, paths: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) if path != "featureGates" => {
            for (key, value) in map {
                leaves(&if path.is_empty() { key.clone() } else { format!("{path}.{key}") }, value, paths);
            }
        }
        _ => drop(paths.insert(path.to_string())),
    }
}

#[test]
fn settings_that_fields_become_exist() {
    for key in kube_proxy_config(FULL).unwrap().settings.keys() {
        assert!(SETTINGS.iter().any(|setting| setting.key == *key), "{key}");
    }
}

fn with(lines: &str) -> Result<super::Imported, ImportError> {
    kube_proxy_config(&format!("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n{lines}\n"))
}

#[test]
fn node_ports_answer_where_they_did_in_each_mode() {
    let addresses = |lines: &str| with(lines).unwrap().settings.get("nodeport-addresses").cloned();
    assert_eq!(addresses("mode: nftables"), None, "primary in both");
    assert_eq!(addresses("mode: ipvs"), Some(json!(["all"])));
    assert_eq!(addresses("iptables: {localhostNodePorts: false}"), Some(json!(["all"])));
    assert_eq!(addresses("nodePortAddresses: [primary]"), Some(json!(["primary"])));
    assert_eq!(addresses("nodePortAddresses: [192.0.2.0/24, 127.0.0.0/8]"), Some(json!(["192.0.2.0/24", "localhost"])));
}

#[test]
fn the_section_of_the_mode_counts_and_zero_is_a_bit() {
    let imported = with("mode: ipvs\niptables: {masqueradeBit: 0}\nnftables: {masqueradeBit: 9}").unwrap();
    assert_eq!(imported.settings["masquerade-bit"], json!(0));
    assert!(imported.remarks.iter().any(|remark| remark.starts_with("nftables.masqueradeBit: 9")), "{:?}", imported.remarks);
}

#[test]
fn unknown_fields_are_named_and_impossible_values_are_errors() {
    assert_eq!(with("udpIdleTimeout: 250ms\niptables: {speed: 9}").unwrap().unknown, ["iptables.speed", "udpIdleTimeout"]);
    let error = |lines: &str| with(lines).unwrap_err().to_string();
    assert!(error("mode: userspace").contains("iptables, ipvs or nftables"));
    assert!(error("mode: kernelspace").contains("Windows"));
    assert!(error("clusterCIDR: 10.244.0.0").contains("10.244.0.0"));
    assert!(error("nodePortAddresses: primary").contains("a list of networks"));
    assert!(kube_proxy_config("kind: Pod\napiVersion: v1").unwrap_err().to_string().contains("it is v1 Pod"));
    assert!(kube_proxy_config("a: [").unwrap_err().to_string().contains("no YAML"));
}
