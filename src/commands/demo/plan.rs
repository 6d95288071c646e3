//! What an API server, its controllers and the kubelet would have made of the manifests. No I/O.

use super::allocate::Allocator;
use super::slices;
use crate::model::{Family, ObjectKey, Protocol};
use crate::source::manifests::Manifests;
use crate::source::objects::{Deployment, Node, NodeAddress, NodeStatus, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The name of the demo's only node.
pub const NODE_NAME: &str = "demo-node";

/// More pods than a laptop should make for a demo.
const MOST_PODS: usize = 250;

/// A pod as it should run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedPod {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Its labels, for selectors.
    pub labels: BTreeMap<String, String>,
    /// Its addresses, one of each family unless the manifest says otherwise.
    pub addresses: Vec<IpAddr>,
    /// Its host name and subdomain, when it has both: DNS then names it under the Service of the subdomain's name.
    pub hostname: Option<(String, String)>,
    /// Its named ports.
    pub named_ports: BTreeMap<(String, Protocol), u16>,
    /// The ports that are to be served.
    pub served: BTreeSet<(Protocol, u16)>,
}

impl PlannedPod {
    /// Its first address of a family.
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| Family::of(*address) == family)
    }

    /// Whether a Service's selector chooses it.
    pub fn is_selected_by(&self, namespace: &str, selector: &BTreeMap<String, String>) -> bool {
        *self.key.namespace == *namespace && selector.iter().all(|(key, value)| self.labels.get(key) == Some(value))
    }
}

/// The cluster as it should be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// The manifests with everything filled in that controllers fill in: addresses, NodePorts, EndpointSlices, the Node.
    pub manifests: Manifests,
    /// The pods, by namespace and name.
    pub pods: BTreeMap<ObjectKey, PlannedPod>,
}

/// What the manifests ask for and the demo cannot do.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// Too many replicas.
    #[error("the manifests ask for {0} pods; the demo runs at most {MOST_PODS}: lower spec.replicas")]
    TooManyPods(usize),
    /// An address in a Pod's status is none.
    #[error("pod {0}: status.podIP {1:?} is not an address")]
    PodAddress(ObjectKey, String),
}

/// Makes the plan. The allocator remembers what was given to whom, so that planning again moves nothing. Pods in `dead` are left out.
///
/// # Errors
///
/// [`PlanError`], when the demo cannot run these manifests.
pub fn plan(
    mut manifests: Manifests,
    node_addresses: &[IpAddr],
    dead: &BTreeSet<ObjectKey>,
    allocator: &mut Allocator,
) -> Result<Plan, PlanError> {
    allocator.reserve(&manifests.services);
    manifests.services.iter_mut().for_each(|service| allocator.fill(service));
    let mut pods = pods(&manifests, allocator)?;
    pods.retain(|key, _| !dead.contains(key));
    for service in &manifests.services {
        slices::serve_targets(service, &mut pods);
    }
    let made: Vec<_> = manifests.services.iter().flat_map(|service| slices::slices_of(service, &pods)).collect();
    manifests.slices.extend(made);
    manifests.nodes.push(node(node_addresses));
    Ok(Plan { manifests, pods })
}

fn pods(manifests: &Manifests, allocator: &mut Allocator) -> Result<BTreeMap<ObjectKey, PlannedPod>, PlanError> {
    let replicas = |deployment: &Deployment| {
        deployment.spec.as_ref().and_then(|spec| spec.replicas).map_or(0, |count| usize::try_from(count).unwrap_or(0))
    };
    let count = manifests.pods.len() + manifests.deployments.iter().map(replicas).sum::<usize>();
    if count > MOST_PODS {
        return Err(PlanError::TooManyPods(count));
    }
    let mut pods = BTreeMap::new();
    for pod in &manifests.pods {
        let key = key_of(&pod.metadata);
        let addresses = match own_addresses(&key, pod)? {
            own if own.is_empty() => allocator.pod_addresses(&key),
            own => own,
        };
        pods.insert(key.clone(), planned(key, pod.metadata.labels.clone(), pod.spec.as_ref(), addresses));
    }
    for deployment in &manifests.deployments {
        let Some(template) = deployment.spec.as_ref().map(|spec| &spec.template) else { continue };
        let labels = template.metadata.labels.clone();
        let of = key_of(&deployment.metadata);
        for number in 1..=replicas(deployment) {
            let key = ObjectKey::new(of.namespace.clone(), format!("{}-{number}", of.name));
            // A Pod that is written down keeps its name and place.
            if !pods.contains_key(&key) {
                let addresses = allocator.pod_addresses(&key);
                pods.insert(key.clone(), planned(key, labels.clone(), template.spec.as_ref(), addresses));
            }
        }
    }
    Ok(pods)
}

fn planned(
    key: ObjectKey,
    labels: Option<BTreeMap<String, String>>,
    spec: Option<&PodSpec>,
    addresses: Vec<IpAddr>,
) -> PlannedPod {
    let containers = spec.and_then(|spec| spec.containers.as_deref()).unwrap_or_default();
    let (mut named_ports, mut served) = (BTreeMap::new(), BTreeSet::new());
    for port in containers.iter().filter_map(|container| container.ports.as_ref()).flatten() {
        let (Some(protocol), Ok(number)) = (protocol(port.protocol.as_deref()), u16::try_from(port.container_port)) else {
            continue;
        };
        served.insert((protocol, number));
        if let Some(name) = &port.name {
            named_ports.insert((name.clone(), protocol), number);
        }
    }
    let hostname = spec.and_then(|spec| spec.hostname.clone().zip(spec.subdomain.clone()));
    PlannedPod { key, labels: labels.unwrap_or_default(), addresses, hostname, named_ports, served }
}

/// The addresses that a Pod's manifest gives it, so that EndpointSlices in the same folder can name them.
fn own_addresses(key: &ObjectKey, pod: &Pod) -> Result<Vec<IpAddr>, PlanError> {
    let Some(status) = &pod.status else { return Ok(Vec::new()) };
    let several = status.pod_ips.iter().flatten().filter_map(|pod_ip| pod_ip.ip.as_ref());
    let texts: BTreeSet<&String> = several.chain(&status.pod_ip).collect();
    texts.into_iter().map(|text| text.parse().map_err(|_| PlanError::PodAddress(key.clone(), text.clone()))).collect()
}

fn node(addresses: &[IpAddr]) -> Node {
    let address = |address: &IpAddr| NodeAddress { type_: Some("InternalIP".to_string()), address: Some(address.to_string()) };
    Node {
        metadata: ObjectMeta { name: Some(NODE_NAME.to_string()), ..ObjectMeta::default() },
        status: Some(NodeStatus { addresses: Some(addresses.iter().map(address).collect()) }),
        ..Node::default()
    }
}

/// Namespace and name of an object; both are there when it was read from a manifest.
pub fn key_of(metadata: &ObjectMeta) -> ObjectKey {
    ObjectKey::new(metadata.namespace.as_deref().unwrap_or("default"), metadata.name.as_deref().unwrap_or_default())
}

/// The protocol of this name; TCP where none is given.
pub fn protocol(name: Option<&str>) -> Option<Protocol> {
    match name {
        None | Some("TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some("SCTP") => Some(Protocol::Sctp),
        Some(_) => None,
    }
}
