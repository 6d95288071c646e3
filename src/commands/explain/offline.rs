//! The plan of a node without its agent: from a folder of manifests, or from an API server.

use crate::agent::{
    self,
    layouts::{layout, pod_networks},
};
use crate::config::{ClusterSource, Config};
use crate::model::{Family, Name, Node, ObjectKey, Service, Update};
use crate::proxy::explain::{From, Unexplained, View};
use crate::proxy::listing::{self, Listing};
use crate::proxy::{Context as PlanContext, Delta, DetectLocal, Element, Planner};
use crate::source::manifests::{self, Manifests};
use crate::source::translate::Translator;
use crate::source::{kubernetes, objects};
use crate::store::Store;
use anyhow::{Context, bail};
use ipnet::IpNet;
use kube::Api;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

/// At most so many names of nodes are shown.
const SUGGESTIONS: usize = 5;

/// What the agent of a node would know and plan.
pub struct Offline {
    store: Store,
    planner: Planner,
    context: PlanContext,
    fixed: Vec<Element>,
    detect_local: [DetectLocal; 2],
    config: Config,
    /// The addresses of the pod that was named as the source.
    pod: Vec<IpAddr>,
}

/// The objects, and what cannot be read from them later.
struct Objects {
    updates: Vec<Update>,
    node: String,
    pod: Vec<IpAddr>,
}

impl Offline {
    /// Reads everything. `from` may name a pod, whose node is the one that is seen from unless another is named.
    ///
    /// # Errors
    /// The source cannot be read, or there is no such node or pod.
    pub async fn load(config: &Config, node: Option<&str>, from: &str) -> anyhow::Result<Offline> {
        let objects = match &config.cluster {
            ClusterSource::Manifests(folder) => {
                let manifests = manifests::read(folder)?;
                has_services(&manifests, folder)?;
                of_manifests(&manifests, config, node, from)?
            }
            _ => of_api_server(config, node, from).await?,
        };
        let store: Store = objects.updates.into_iter().collect();
        let mut offline = Offline {
            context: context(config, objects.node, store.node()),
            fixed: fixed(config, &store),
            detect_local: Family::BOTH.map(|family| layout(&config.proxy, store.node(), family).detect_local),
            planner: Planner::default(),
            config: config.clone(),
            pod: objects.pod,
            store,
        };
        let mut delta = Delta::default();
        for key in offline.store.service_keys() {
            let slices = offline.store.slices(key);
            offline.planner.update(key, offline.store.service(key), &slices, &offline.context, &mut delta);
        }
        Ok(offline)
    }

    /// What an explanation reads.
    pub fn view(&self) -> View<'_> {
        View {
            store: &self.store,
            planner: &self.planner,
            context: &self.context,
            own_addresses: &[],
            fixed: &self.fixed,
            masquerade_all: self.config.proxy.masquerade_all,
            detect_local: &self.detect_local,
            cluster_cidrs: &self.config.proxy.cluster_cidrs,
            service_cidrs: &self.config.proxy.service_cidrs,
            domain: &self.config.dns.domain,
            answers_dns: !self.context.dns_addresses.is_empty(),
            clients: None,
        }
    }

    /// What is programmed, of the services that are meant.
    pub fn rows(&self, is_meant: impl Fn(&ObjectKey) -> bool) -> Listing {
        let mut keys: Vec<&ObjectKey> = self.store.service_keys().filter(|key| is_meant(key)).collect();
        keys.sort_unstable();
        let services = keys.into_iter().filter_map(|key| self.store.service(key));
        let row = |service: &Service| listing::row(service, &self.store.slices(&service.key), &self.planner, &self.context);
        Listing { node: self.context.node_name.clone(), services: services.map(row).collect() }
    }

    /// The source as it was written.
    ///
    /// # Errors
    /// Says what may be written.
    pub fn source(&self, from: &str) -> Result<From, Unexplained> {
        if from.starts_with("pod/") { Ok(From::Pod(self.pod.clone())) } else { From::parse(from) }
    }
}

/// NodePorts answer on the Node's addresses as far as the configured networks allow; other addresses of the host are known on it alone.
fn context(config: &Config, node_name: String, node: Option<&Node>) -> PlanContext {
    let addresses = node.map(|node| node.addresses.clone()).unwrap_or_default();
    let wanted = &config.proxy.nodeport_addresses;
    let answers = |address: &IpAddr| wanted.primary || crate::config::in_networks(*address, &wanted.networks);
    PlanContext {
        node_name,
        zone: node.and_then(|node| node.zone.clone()),
        node_labels: node.map(|node| node.labels.clone()).unwrap_or_default(),
        nodeport_addresses: addresses.iter().copied().filter(answers).collect(),
        node_addresses: addresses,
        dns_addresses: agent::local_dns::addresses(config),
        without_external_ips: !config.proxy.external_ips,
    }
}

fn fixed(config: &Config, store: &Store) -> Vec<Element> {
    let service_cidrs: Vec<IpNet> = config.proxy.service_cidrs.iter().chain(store.service_cidrs()).copied().collect();
    let service_cidrs = IpNet::aggregate(&service_cidrs).into_iter().map(Element::ServiceCidr);
    let pod_cidrs = IpNet::aggregate(&pod_networks(&config.proxy, store.node()).to_vec()).into_iter().map(Element::PodCidr);
    agent::fixed_elements(config).elements.into_keys().chain(pod_cidrs).chain(service_cidrs).collect()
}

/// `pod/NAMESPACE/NAME` as namespace and name.
fn pod_name(from: &str) -> anyhow::Result<Option<(&str, &str)>> {
    let Some(name) = from.strip_prefix("pod/") else { return Ok(None) };
    name.split_once('/').map(Some).with_context(|| format!("--from {from:?} lacks a namespace: write pod/NAMESPACE/NAME"))
}

fn pod_addresses(pod: &objects::Pod, from: &str) -> anyhow::Result<Vec<IpAddr>> {
    let ips = pod.status.as_ref().and_then(|status| status.pod_ips.as_ref());
    let addresses: Vec<IpAddr> = ips.into_iter().flatten().filter_map(|ip| ip.ip.as_ref()?.parse().ok()).collect();
    if addresses.is_empty() { bail!("{from} has no address yet (status.podIPs)") } else { Ok(addresses) }
}

/// A folder without any Service is the wrong folder.
fn has_services(manifests: &Manifests, folder: &Path) -> anyhow::Result<()> {
    if !manifests.services.is_empty() {
        return Ok(());
    }
    let ignored: Vec<String> =
        manifests.ignored.iter().take(SUGGESTIONS).map(|one| format!("{} {}", one.kind, one.name)).collect();
    let ignored = if ignored.is_empty() { String::new() } else { format!("; passed over were {}", ignored.join(", ")) };
    bail!(
        "there is no Service in {}: its files .yaml, .yml and .json are read, those of its subfolders are not{ignored}",
        folder.display()
    )
}

fn of_manifests(manifests: &Manifests, config: &Config, node: Option<&str>, from: &str) -> anyhow::Result<Objects> {
    let pod = match pod_name(from)? {
        None => None,
        Some((namespace, name)) => {
            let is_it = |pod: &&objects::Pod| {
                pod.metadata.namespace.as_deref() == Some(namespace) && pod.metadata.name.as_deref() == Some(name)
            };
            Some(
                manifests
                    .pods
                    .iter()
                    .find(is_it)
                    .with_context(|| format!("there is no Pod {namespace}/{name} in the manifests"))?,
            )
        }
    };
    let of_pod = pod.and_then(|pod| pod.spec.as_ref()?.node_name.as_deref());
    let names: Vec<&str> = manifests.nodes.iter().filter_map(|node| node.metadata.name.as_deref()).collect();
    let node = choose_node(node.or(of_pod), &config.node_name, &names)?;
    let updates = manifests.updates(Some(&node), &mut Translator::default());
    Ok(Objects { updates, node, pod: pod.map(|pod| pod_addresses(pod, from)).transpose()?.unwrap_or_default() })
}

/// The node that is seen from: the one that is named, else this host's if it is one, else the only one.
fn choose_node(named: Option<&str>, host: &str, names: &[&str]) -> anyhow::Result<String> {
    let shown = || names.iter().take(SUGGESTIONS).copied().collect::<Vec<_>>().join(", ");
    match named {
        Some(name) if names.contains(&name) => Ok(name.to_string()),
        Some(name) if names.is_empty() => Ok(name.to_string()),
        Some(name) => bail!("there is no Node {name}; known are {}", shown()),
        None if names.contains(&host) => Ok(host.to_string()),
        None => match names {
            [] => Ok(host.to_string()),
            [only] => Ok(only.to_string()),
            _ => bail!("name the node from which it is to be seen with --node; known are {}", shown()),
        },
    }
}

async fn of_api_server(config: &Config, node: Option<&str>, from: &str) -> anyhow::Result<Objects> {
    let client = kubernetes::client(&config.cluster).await?;
    let pod = match pod_name(from)? {
        None => None,
        Some((namespace, name)) => {
            let pods: Api<objects::Pod> = Api::namespaced(client.clone(), namespace);
            Some(pods.get(name).await.with_context(|| format!("cannot read Pod {namespace}/{name}"))?)
        }
    };
    let of_pod = pod.as_ref().and_then(|pod| pod.spec.as_ref()?.node_name.as_deref());
    let nodes = kubernetes::list::<objects::Node>(&client).await.context("cannot list nodes")?;
    let names: Vec<&str> = nodes.iter().filter_map(|node| node.metadata.name.as_deref()).collect();
    let node = choose_node(node.or(of_pod), &config.node_name, &names)?;
    let mut translator = Translator::default();
    let mut updates: Vec<Update> = Vec::new();
    updates
        .extend(nodes.iter().filter(|one| one.metadata.name.as_deref() == Some(&node)).filter_map(|one| translator.present(one)));
    let services = kubernetes::list::<objects::Service>(&client).await.context("cannot list services")?;
    let namespaces: BTreeSet<&str> = services.iter().filter_map(|service| service.metadata.namespace.as_deref()).collect();
    updates.extend(namespaces.into_iter().map(|name| Update::Namespace(Name::from(name), None)));
    updates.extend(services.iter().filter_map(|service| translator.present(service)));
    let slices = kubernetes::list::<objects::EndpointSlice>(&client).await.context("cannot list endpointslices")?;
    updates.extend(slices.iter().filter_map(|slice| translator.present(slice)));
    match kubernetes::list::<objects::ServiceCidr>(&client).await {
        Ok(networks) => updates.extend(networks.iter().filter_map(|network| translator.present(network))),
        Err(error) => eprintln!("note: the ServiceCIDRs cannot be listed, only --service-cidr counts: {error}"),
    }
    Ok(Objects { updates, node, pod: pod.map(|pod| pod_addresses(&pod, from)).transpose()?.unwrap_or_default() })
}
