//! `waypost import corefile`: a Corefile as our own YAML.

use crate::dns::chain::Block;
use crate::dns::chain::values;
use crate::import::corefile::{Translation, translate};
use crate::import::read::{Texts, config_map, text_of};
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::Path;

/// A ConfigMap, as far as it matters.
#[derive(Deserialize)]
struct ConfigMap {
    kind: String,
    #[serde(default)]
    data: Texts,
}

/// What becomes of the Corefile in this text, or of that in a ConfigMap, whose other keys are the files that it imports.
pub(super) fn read(file: &Path, text: &str) -> anyhow::Result<Translation> {
    let blocks = match serde_saphyr::from_str::<ConfigMap>(text) {
        Ok(map) if map.kind == "ConfigMap" => config_map(&map.data)?,
        _ => text_of(file, text)?,
    };
    Ok(translate(&blocks)?)
}

/// Chart values, or the agent's file, with remarks about the rest at the end.
pub(super) fn render(translation: &Translation, as_values: bool) -> String {
    let blocks = &translation.model.blocks;
    let zones = json!(blocks);
    let domain = cluster_domain(blocks);
    let mut text = if as_values {
        let domain = domain.map(|domain| format!("clusterDomain: {}\n", json!(domain)));
        let of = |part: &str| format!("{part}:\n  config:\n    dns-zones:\n{}", lines(&zones, 6));
        format!("{}{}{}", domain.unwrap_or_default(), of("agent"), of("dns"))
    } else {
        let domain = domain.map(|domain| format!("cluster-domain: {}\n", json!(domain)));
        format!("{}dns-zones:\n{}", domain.unwrap_or_default(), lines(&zones, 2))
    };
    if !translation.remarks.is_empty() {
        text += "\n# Not needed:\n";
    }
    for remark in &translation.remarks {
        text += &format!("# - {}: {}: {}\n", remark.place, remark.what, remark.advice);
    }
    text
}

/// The first zone of the cluster's names, which the agent has to know for its other work.
fn cluster_domain(blocks: &[Block]) -> Option<String> {
    let named = |block: &Block| {
        let kubernetes = block.kubernetes.as_ref()?;
        let zones = if kubernetes.zones.is_empty() { &block.zones } else { &kubernetes.zones };
        let zones = values::all_zones(zones).ok()?;
        zones.iter().find(|zone| !values::is_reverse(zone)).map(|zone| zone.to_string().trim_end_matches('.').to_string())
    };
    blocks.iter().find_map(named)
}

/// YAML in blocks. Scalars are written as in JSON, which is YAML's too.
fn lines(value: &Value, indent: usize) -> String {
    let nested = |value: &Value| match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(list) => list.iter().any(|item| item.is_object() || item.is_array()),
        _ => false,
    };
    match value {
        Value::Object(map) => {
            let line = |(key, value): (&String, &Value)| match nested(value) {
                true => format!("{:indent$}{key}:\n{}", "", lines(value, indent + 2)),
                false => format!("{:indent$}{key}: {value}\n", ""),
            };
            map.iter().map(line).collect()
        }
        Value::Array(list) => {
            let item = |value: &Value| match nested(value) {
                // The first line of the item stands behind its dash.
                true => format!("{:indent$}- {}", "", lines(value, indent + 2).trim_start()),
                false => format!("{:indent$}- {value}\n", ""),
            };
            list.iter().map(item).collect()
        }
        scalar => format!("{:indent$}{scalar}\n", ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{RunArgs, Surroundings, ZonesSource, load};

    const CONFIG_MAP: &str = "\
apiVersion: v1
kind: ConfigMap
metadata: {name: coredns, namespace: kube-system}
data:
  Corefile: |
    .:53 {
        errors
        kubernetes cluster.local in-addr.arpa ip6.arpa {
           pods insecure
           fallthrough in-addr.arpa ip6.arpa
           ttl 10
        }
        import custom/*.override
        forward . 192.0.2.53 192.0.2.54:5353 {
           policy sequential
           except internal.example
           force_tcp
        }
        cache 30
        loop
    }
    corp.example:53 {
        forward . tls://192.0.2.55 {
           tls_servername dns.corp.example
        }
    }
  hosts.override: |
    hosts {
       192.0.2.7 printer.example
       fallthrough
    }
";

    #[test]
    fn the_agents_file_is_one_that_the_agent_takes_and_says_the_same() {
        let folder = std::env::temp_dir().join(format!("waypost-import-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("waypost.yaml");
        let translation = read(Path::new("-"), CONFIG_MAP).unwrap();
        std::fs::write(&file, render(&translation, false)).unwrap();
        let surroundings = Surroundings { host_name: Some("node".into()), ..Surroundings::default() };
        let (config, _) = load(&RunArgs::default().with_file(&file), &surroundings).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        let ZonesSource::Blocks { blocks, .. } = config.dns.zones else { panic!("there are no blocks") };
        assert_eq!(blocks, translation.model.blocks);
    }

    #[test]
    fn a_config_map_becomes_values_and_remarks() {
        let text = render(&read(Path::new("coredns.yaml"), CONFIG_MAP).unwrap(), true);
        for expected in [
            "clusterDomain: \"cluster.local\"\nagent:\n  config:\n    dns-zones:\n      - ",
            "        forward:\n          - except: [\"internal.example\"]\n            force-tcp: true\n",
            "          inline: [\"192.0.2.7 printer.example\"]\n",
            "# Not needed:\n# - Corefile:15: loop: a server that leads back",
        ] {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
    }

    #[test]
    fn what_is_no_corefile_is_an_error() {
        for (text, expected) in [
            ("kind: ConfigMap\ndata: {other: text}", "has no key Corefile"),
            ("# nothing", "there is no server block"),
            ("Some prose about nothing. {\n  nonsense\n}", "has a plugin \"nonsense\""),
        ] {
            let error = read(Path::new("file"), text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
