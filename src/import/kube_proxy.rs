//! kube-proxy's configuration as ours: chart values, or the agent's file.

use super::fields::{FIELDS, Meaning, ZERO_COUNTS};
use crate::config::{RunArgs, Surroundings, load};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Why a text is no configuration of kube-proxy.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Not YAML.
    #[error("this is no YAML: {0}")]
    Syntax(String),
    /// Something else.
    #[error(
        "this is no KubeProxyConfiguration of kubeproxy.config.k8s.io/v1alpha1, nor a ConfigMap with one under config.conf: it is {0}"
    )]
    Other(String),
    /// A field with an impossible value.
    #[error("{path}: {value} cannot be; it must be {expected}")]
    Value {
        /// The field.
        path: &'static str,
        /// Its value.
        value: String,
        /// What it must be.
        expected: &'static str,
    },
    /// A proxy for Windows.
    #[error("mode: kernelspace is for Windows, where Waypost does not run: leave kube-proxy there")]
    Windows,
    /// Values that kube-proxy may take and the agent does not.
    #[error("the agent would not take this configuration: {0}")]
    Refused(String),
}

/// A configuration, made of kube-proxy's.
#[derive(Debug, PartialEq)]
pub struct Imported {
    /// By the names of the configuration reference.
    pub settings: BTreeMap<&'static str, Value>,
    /// What is to be said about fields that have no counterpart, with their values.
    pub remarks: Vec<String>,
    /// Fields that kube-proxy does not know either.
    pub unknown: Vec<String>,
}

/// Reads a `KubeProxyConfiguration`, or the ConfigMap in which kubeadm keeps it.
///
/// # Errors
/// The text is something else, or a value is impossible.
pub fn kube_proxy_config(text: &str) -> Result<Imported, ImportError> {
    let mut document = parse(text)?;
    if document["kind"] == "ConfigMap" {
        let inner = document["data"]["config.conf"].as_str().unwrap_or_default().to_string();
        document = parse(&inner)?;
    }
    let of = format!("{} {}", document["apiVersion"], document["kind"]);
    if of != "\"kubeproxy.config.k8s.io/v1alpha1\" \"KubeProxyConfiguration\"" {
        return Err(ImportError::Other(of.replace('"', "")));
    }
    let mut given = Given { fields: BTreeMap::new(), unknown: Vec::new() };
    given.collect("", &document);
    given.translate()
}

fn parse(text: &str) -> Result<Value, ImportError> {
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| ImportError::Syntax(error.to_string()))
}

/// The fields that say something.
struct Given {
    fields: BTreeMap<&'static str, Value>,
    unknown: Vec<String>,
}

impl Given {
    fn collect(&mut self, path: &str, value: &Value) {
        if let Some(field) = FIELDS.iter().find(|field| field.path == path) {
            if !says_nothing(field.path, value) {
                self.fields.insert(field.path, value.clone());
            }
            return;
        }
        let inside = format!("{path}.");
        let is_section = path.is_empty() || FIELDS.iter().any(|field| field.path.starts_with(&inside));
        match value {
            Value::Null if is_section => {}
            Value::Object(map) if is_section => {
                for (key, value) in map {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    self.collect(&path, value);
                }
            }
            _ => self.unknown.push(path.to_string()),
        }
    }

    fn translate(self) -> Result<Imported, ImportError> {
        let mut settings = BTreeMap::new();
        let mut remarks = Vec::new();
        for field in FIELDS {
            let Some(value) = self.fields.get(field.path) else { continue };
            match field.meaning {
                Meaning::Is(setting) => drop(settings.insert(setting, value.clone())),
                Meaning::Read => {}
                Meaning::Needless(why) => remarks.push(format!("{}: {value} – not needed: {why}", field.path)),
                Meaning::Instead(what) => remarks.push(format!("{}: {value} – no counterpart: {what}", field.path)),
            }
        }
        let mode = self.mode()?;
        self.node_ports(mode, &mut settings)?;
        self.masquerading(mode, &mut settings, &mut remarks);
        self.networks(&mut settings)?;
        self.interfaces(&mut settings, &mut remarks);
        self.surroundings(&mut settings, &mut remarks);
        self.logging(&mut settings, &mut remarks)?;
        let imported = Imported { settings, remarks, unknown: self.unknown };
        imported.accepted()?;
        Ok(imported)
    }

    fn text(&self, path: &'static str) -> Result<Option<&str>, ImportError> {
        match self.fields.get(path) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(value) => Err(ImportError::Value { path, value: value.to_string(), expected: "a text" }),
        }
    }

    fn mode(&self) -> Result<&'static str, ImportError> {
        match self.text("mode")? {
            None | Some("iptables") => Ok("iptables"),
            Some("ipvs") => Ok("ipvs"),
            Some("nftables") => Ok("nftables"),
            Some("kernelspace") => Err(ImportError::Windows),
            Some(other) => {
                let expected = "iptables, ipvs or nftables";
                Err(ImportError::Value { path: "mode", value: other.into(), expected })
            }
        }
    }

    /// Without an answer of the user's, kube-proxy's modes differ: nftables answers on the primary addresses, as the agent does, and the others
    /// on all; iptables on 127.0.0.1 besides.
    fn node_ports(&self, mode: &str, settings: &mut BTreeMap<&'static str, Value>) -> Result<(), ImportError> {
        let path = "nodePortAddresses";
        let mut addresses: Vec<Value> = match self.fields.get(path) {
            Some(Value::Array(list)) => list.clone(),
            Some(other) => {
                return Err(ImportError::Value { path, value: other.to_string(), expected: "a list of networks, or primary" });
            }
            None if mode == "nftables" => Vec::new(),
            None => vec![json!("all")],
        };
        let localhost = self.fields.get("iptables.localhostNodePorts") != Some(&Value::Bool(false));
        let covers_localhost = |value: &Value| value == "all" || value.as_str().is_some_and(|text| text.starts_with("127."));
        if mode == "iptables" && localhost && addresses.iter().any(covers_localhost) {
            addresses.push(json!("localhost"));
        }
        // Networks of the loopback alone are said by that word.
        addresses.retain(|value| !value.as_str().is_some_and(|text| text.starts_with("127.")));
        if !addresses.is_empty() {
            settings.insert("nodeport-addresses", addresses.into());
        }
        Ok(())
    }

    /// Of the sections, kube-proxy reads the one of its mode; IPVS takes that of iptables.
    fn masquerading(&self, mode: &str, settings: &mut BTreeMap<&'static str, Value>, remarks: &mut Vec<String>) {
        let fields = [
            ("iptables.masqueradeBit", "masquerade-bit", mode != "nftables"),
            ("iptables.masqueradeAll", "masquerade-all", mode != "nftables"),
            ("nftables.masqueradeBit", "masquerade-bit", mode == "nftables"),
            ("nftables.masqueradeAll", "masquerade-all", mode == "nftables"),
        ];
        for (path, setting, in_use) in fields {
            match self.fields.get(path) {
                Some(value) if in_use => drop(settings.insert(setting, value.clone())),
                Some(value) => remarks.push(format!("{path}: {value} – not needed: kube-proxy does not read it in mode {mode}")),
                None => {}
            }
        }
    }

    fn networks(&self, settings: &mut BTreeMap<&'static str, Value>) -> Result<(), ImportError> {
        if let Some(networks) = self.text("clusterCIDR")? {
            let networks: Vec<Value> = networks.split(',').map(|network| json!(network.trim())).collect();
            settings.insert("cluster-cidr", networks.into());
        }
        Ok(())
    }

    fn interfaces(&self, settings: &mut BTreeMap<&'static str, Value>, remarks: &mut Vec<String>) {
        let mode = self.fields.get("detectLocalMode").and_then(Value::as_str).unwrap_or("ClusterCIDR");
        for (path, setting, its_mode) in [
            ("detectLocal.bridgeInterface", "pod-bridge-interface", "BridgeInterface"),
            ("detectLocal.interfaceNamePrefix", "pod-interface-name-prefix", "InterfaceNamePrefix"),
        ] {
            match self.fields.get(path) {
                Some(value) if mode == its_mode => drop(settings.insert(setting, value.clone())),
                Some(value) => remarks
                    .push(format!("{path}: {value} – not needed: kube-proxy reads it with detectLocalMode {its_mode} only")),
                None => {}
            }
        }
    }

    fn surroundings(&self, settings: &mut BTreeMap<&'static str, Value>, remarks: &mut Vec<String>) {
        if let Some(path) = self.fields.get("clientConnection.kubeconfig") {
            remarks.push(format!(
                "clientConnection.kubeconfig: {path} – the agent reaches the API server with its service account: set k8sServiceHost (chart) or api-server to the server that stands there"
            ));
        }
        if let Some(name) = self.fields.get("hostnameOverride") {
            settings.insert("node-name", name.clone());
        }
        if let Some(address) = self.fields.get("bindAddress").filter(|address| **address != "0.0.0.0" && **address != "::") {
            remarks.push(format!("bindAddress: {address} – not needed: the node's addresses are those of its Node object"));
        }
        if let Some(address) = self.fields.get("metricsBindAddress") {
            settings.insert("metrics-bind-address", address.clone());
        }
    }

    fn logging(&self, settings: &mut BTreeMap<&'static str, Value>, remarks: &mut Vec<String>) -> Result<(), ImportError> {
        match self.text("logging.format")? {
            None => {}
            Some("json") => drop(settings.insert("log-format", json!("json"))),
            Some("text") => drop(settings.insert("log-format", json!("human"))),
            Some(other) => remarks.push(format!("logging.format: {other:?} – no counterpart: log-format is json or human")),
        }
        match self.fields.get("logging.verbosity").and_then(Value::as_u64) {
            None | Some(0..=3) => {}
            Some(4..=5) => drop(settings.insert("log-level", json!("debug"))),
            Some(_) => drop(settings.insert("log-level", json!("trace"))),
        }
        Ok(())
    }
}

/// What Go's zero values look like: not there, as far as kube-proxy is concerned.
fn says_nothing(path: &str, value: &Value) -> bool {
    match value {
        Value::Null => true,
        _ if ZERO_COUNTS.contains(&path) => false,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty() || text == "0s" || text == "0",
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

impl Imported {
    /// The agent's own judgement.
    fn accepted(&self) -> Result<(), ImportError> {
        let texts: Vec<(&str, String)> = self.settings.iter().map(|(key, value)| (*key, as_text(value))).collect();
        let flags: Vec<(&str, &str)> = texts.iter().map(|(key, value)| (*key, value.as_str())).collect();
        let surroundings = Surroundings { host_name: Some("node".into()), ..Surroundings::default() };
        load(&RunArgs::of(&flags), &surroundings).map(drop).map_err(|error| ImportError::Refused(error.to_string()))
    }

    /// As the agent's configuration file.
    pub fn as_config(&self) -> String {
        self.with_remarks(&|text| {
            for (key, value) in &self.settings {
                // JSON's scalars and lists are YAML's too. Writing to a String cannot fail.
                let _ = writeln!(text, "{key}: {value}");
            }
        })
    }

    /// As values of the chart, which has places of its own for some settings.
    pub fn as_values(&self) -> String {
        let mut settings: Map<String, Value> =
            self.settings.iter().map(|(key, value)| (key.to_string(), value.clone())).collect();
        // The pages of DNS share the port of the service proxy's metrics.
        if let Some(address) = settings.get("metrics-bind-address").cloned() {
            settings.insert("dns-metrics-address".into(), address);
        }
        let name = settings.remove("node-name");
        let top = [("cluster-cidr", "", "clusterCIDRs"), ("log-format", "log", "format"), ("log-level", "log", "level")];
        let taken: Vec<_> =
            top.iter().filter_map(|(key, section, value)| Some((*section, *value, settings.remove(*key)?))).collect();
        self.with_remarks(&|text| {
            text.push_str(
                "# The API server's address: the kubernetes Service works only once the agents do.\nk8sServiceHost: \"\"\n",
            );
            if let Some(name) = &name {
                let _ =
                    writeln!(text, "# hostnameOverride: {name} – not needed: the chart gives each agent the name of its Node.");
            }
            let mut open = "";
            for (section, key, value) in &taken {
                if !section.is_empty() && open != *section {
                    let _ = writeln!(text, "{section}:");
                    open = section;
                }
                let _ = writeln!(text, "{}{key}: {value}", if section.is_empty() { "" } else { "  " });
            }
            if !settings.is_empty() {
                text.push_str("agent:\n  config:\n");
                for (key, value) in &settings {
                    let _ = writeln!(text, "    {key}: {value}");
                }
            }
        })
    }

    fn with_remarks(&self, body: &dyn Fn(&mut String)) -> String {
        let mut text = String::from("# Made of a KubeProxyConfiguration by `waypost import kube-proxy-config`.\n");
        body(&mut text);
        for (heading, remarks) in [
            ("Fields without a counterpart, or whose counterpart is elsewhere:", &self.remarks),
            ("Fields that kube-proxy does not know and passes over:", &self.unknown),
        ] {
            if !remarks.is_empty() {
                let _ = writeln!(text, "\n# {heading}");
                remarks.iter().for_each(|remark| text.push_str(&format!("#   {remark}\n")));
            }
        }
        text
    }
}

fn as_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().map(as_text).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}
