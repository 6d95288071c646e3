//! `waypost import corefile`: the files that a Corefile imports, and what is printed.

use crate::import::corefile::{Surroundings, Takeover, parse, take_over};
use anyhow::bail;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// The file's name in the ConfigMap, and in messages about it.
const COREFILE: &str = "Corefile";

/// A ConfigMap, as far as it matters.
#[derive(Deserialize)]
struct ConfigMap {
    kind: String,
    #[serde(default)]
    data: BTreeMap<String, String>,
}

/// What becomes of the Corefile in this text, or of that in a ConfigMap, whose other keys are the files that it imports.
pub(super) fn read(file: &Path, text: &str) -> anyhow::Result<Takeover> {
    let variable = |name: &str| std::env::var(name).ok();
    let blocks = match serde_saphyr::from_str::<ConfigMap>(text) {
        Ok(map) if map.kind == "ConfigMap" => {
            let Some(corefile) = map.data.get(COREFILE) else {
                bail!("{}: the ConfigMap has no key {COREFILE}; is it the one of CoreDNS?", file.display());
            };
            let import = |pattern: &str| files_in(&map.data, pattern);
            parse(COREFILE, corefile, &Surroundings { variable: &variable, import: &import })?
        }
        _ => {
            let folder = file.parent().unwrap_or(Path::new("."));
            let import = |pattern: &str| files_beside(folder, pattern);
            parse(&file.display().to_string(), text, &Surroundings { variable: &variable, import: &import })?
        }
    };
    if blocks.is_empty() {
        bail!("{}: there is no server block; a Corefile has lines such as `.:53 {{`", file.display());
    }
    Ok(take_over(&blocks)?)
}

/// The other keys of the ConfigMap: they are mounted in one folder.
fn files_in(data: &BTreeMap<String, String>, pattern: &str) -> Result<Vec<(String, String)>, String> {
    let pattern = pattern.rsplit('/').next().unwrap_or(pattern);
    let found = data.iter().filter(|(name, _)| matches(pattern, name)).map(|(name, text)| (name.clone(), text.clone()));
    some(found.collect(), pattern, "the ConfigMap has no such key; give the file itself, in a folder with all that it imports")
}

fn files_beside(folder: &Path, pattern: &str) -> Result<Vec<(String, String)>, String> {
    let path = folder.join(pattern);
    let (folder, name) = (path.parent().unwrap_or(folder), path.file_name().and_then(|name| name.to_str()).unwrap_or_default());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(|file| matches(name, file)) && entry.path().is_file() {
            let text = std::fs::read_to_string(entry.path()).map_err(|error| error.to_string())?;
            found.push((entry.path().display().to_string(), text));
        }
    }
    found.sort();
    some(found, name, &format!("there is no such file in {}", folder.display()))
}

/// A pattern may match nothing; a file must be there.
fn some(found: Vec<(String, String)>, pattern: &str, missing: &str) -> Result<Vec<(String, String)>, String> {
    if found.is_empty() && !pattern.contains('*') { Err(missing.to_string()) } else { Ok(found) }
}

/// Whether a name matches a pattern with one `*` at most; CoreDNS allows no more.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((before, after)) => name.len() >= before.len() + after.len() && name.starts_with(before) && name.ends_with(after),
    }
}

/// Chart values, or the agent's file, with remarks about the rest at the end: what is lost first.
pub(super) fn render(takeover: &Takeover, as_values: bool) -> String {
    let settings = |wanted: &dyn Fn(&str) -> bool| -> Map<String, Value> {
        let chosen = takeover.settings.iter().filter(|(key, _)| wanted(key));
        chosen.map(|(key, values)| (key.to_string(), value(key, values))).collect()
    };
    let mut text = if as_values {
        // The addresses of health and metrics are the Deployment's; an agent has none of these ports.
        let of_agent = settings(&|key| key.starts_with("dns-") && !key.ends_with("-address"));
        let of_dns = settings(&|key| key.starts_with("dns-"));
        let domain = takeover.settings.get("cluster-domain").map(|domain| format!("clusterDomain: {}\n", value("", domain)));
        format!("{}agent:\n  config:{}dns:\n  config:{}", domain.unwrap_or_default(), indented(&of_agent), indented(&of_dns))
    } else {
        lines(&settings(&|_| true), 0)
    };
    let (lost, unneeded): (Vec<_>, Vec<_>) = takeover.findings.iter().partition(|finding| finding.is_lost);
    for (heading, findings) in [("Without a counterpart; answers will differ:", lost), ("Not needed:", unneeded)] {
        if !findings.is_empty() {
            text += &format!("\n# {heading}\n");
        }
        for finding in findings {
            text += &format!("# - {}: {}: {}\n", finding.place, finding.what, finding.advice);
        }
    }
    text
}

fn indented(settings: &Map<String, Value>) -> String {
    if settings.is_empty() { " {}\n".to_string() } else { format!("\n{}", lines(settings, 4)) }
}

/// JSON's scalars and lists are YAML's too.
fn lines(settings: &Map<String, Value>, indent: usize) -> String {
    settings.iter().map(|(key, value)| format!("{:indent$}{key}: {value}\n", "")).collect()
}

fn value(key: &str, values: &[String]) -> Value {
    let is_list = matches!(key, "dns-upstream" | "dns-stub-zone" | "dns-forward-except");
    match values {
        [one] if !is_list => match (one.parse::<u64>(), one.parse::<bool>()) {
            (Ok(number), _) => json!(number),
            (_, Ok(flag)) => json!(flag),
            _ => json!(one),
        },
        several => json!(several),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{RunArgs, Surroundings, load};

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
    }
    corp.example:53 {
        forward . 192.0.2.55 192.0.2.56
    }
  hosts.override: |
    hosts {
       192.0.2.7 printer.example
    }
";

    #[test]
    fn a_config_map_becomes_values_and_remarks() {
        let text = render(&read(Path::new("coredns.yaml"), CONFIG_MAP).unwrap(), true);
        let settings = "    dns-cache-negative-ttl: 30
    dns-cache-ttl: 30
    dns-forward-except: [\"internal.example\"]
    dns-forward-policy: \"sequential\"
    dns-forward-tcp: true
    dns-stub-zone: [\"corp.example=192.0.2.55+192.0.2.56\"]
    dns-ttl: 10
    dns-upstream: [\"192.0.2.53\",\"192.0.2.54:5353\"]
";
        let expected =
            format!("clusterDomain: \"cluster.local\"\nagent:\n  config:\n{settings}dns:\n  config:\n{settings}\n# Without");
        assert!(text.starts_with(&expected), "{text}");
        assert!(
            text.contains("# - hosts.override:1: hosts: has no counterpart yet") && text.contains("# - Corefile:2: errors: "),
            "{text}"
        );
    }

    #[test]
    fn the_agents_file_is_one_that_the_agent_takes() {
        let folder = std::env::temp_dir().join(format!("waypost-import-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("waypost.yaml");
        std::fs::write(&file, render(&read(Path::new("-"), CONFIG_MAP).unwrap(), false)).unwrap();
        let surroundings = Surroundings { host_name: Some("node".into()), ..Surroundings::default() };
        let (config, _) = load(&RunArgs::default().with_file(&file), &surroundings).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!((config.dns.ttl, config.dns.domain.as_str()), (10, "cluster.local"));
    }

    #[test]
    fn what_is_no_corefile_is_an_error() {
        for (text, expected) in [
            ("kind: ConfigMap\ndata: {other: text}", "has no key Corefile"),
            ("# nothing", "there is no server block"),
            ("Some prose about nothing. {\n  nonsense\n}", "has no plugin \"nonsense\""),
        ] {
            let error = read(Path::new("file"), text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
