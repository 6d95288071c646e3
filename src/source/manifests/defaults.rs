//! What the API server would have filled in before it stored an object.

use crate::source::objects::{Deployment, Namespace, Node, Pod, PodSpec, ServiceImport};
use k8s_openapi::api::{core::v1 as core, discovery::v1::EndpointSlice, networking::v1::ServiceCIDR};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// An object whose missing fields have defaults.
pub trait Defaults {
    /// Fills in what is missing.
    fn fill(&mut self);
}

impl Defaults for core::Service {
    /// Type, session affinity, policies, protocols and target ports. A missing `clusterIP` stays missing: nobody allocates one here.
    fn fill(&mut self) {
        in_default_namespace(&mut self.metadata);
        let spec = self.spec.get_or_insert_default();
        spec.type_.get_or_insert_with(|| "ClusterIP".into());
        spec.session_affinity.get_or_insert_with(|| "None".into());
        if spec.type_.as_deref() != Some("ExternalName") {
            spec.internal_traffic_policy.get_or_insert_with(|| "Cluster".into());
            agree_on_cluster_ip(spec);
        }
        if matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer")) {
            spec.external_traffic_policy.get_or_insert_with(|| "Cluster".into());
        }
        for port in spec.ports.iter_mut().flatten() {
            port.protocol.get_or_insert_with(|| "TCP".into());
            port.target_port.get_or_insert(IntOrString::Int(port.port));
        }
    }
}

/// `clusterIP` is always the first of `clusterIPs`; people write one or the other.
fn agree_on_cluster_ip(spec: &mut core::ServiceSpec) {
    let one = spec.cluster_ip.clone().filter(|text| !text.is_empty());
    let several = spec.cluster_ips.clone().unwrap_or_default();
    spec.cluster_ip = one.clone().or_else(|| several.first().cloned());
    spec.cluster_ips = if several.is_empty() { one.map(|text| vec![text]) } else { Some(several) };
}

impl Defaults for EndpointSlice {
    /// Port names and protocols.
    fn fill(&mut self) {
        in_default_namespace(&mut self.metadata);
        for port in self.ports.iter_mut().flatten() {
            port.name.get_or_insert_default();
            port.protocol.get_or_insert_with(|| "TCP".into());
        }
    }
}

impl Defaults for Namespace {
    fn fill(&mut self) {}
}

impl Defaults for Node {
    fn fill(&mut self) {}
}

impl Defaults for ServiceCIDR {
    fn fill(&mut self) {}
}

impl Defaults for ServiceImport {
    fn fill(&mut self) {
        in_default_namespace(&mut self.metadata);
    }
}

impl Defaults for Pod {
    /// Protocols of container ports.
    fn fill(&mut self) {
        in_default_namespace(&mut self.metadata);
        if let Some(spec) = &mut self.spec {
            fill_pod(spec);
        }
    }
}

impl Defaults for Deployment {
    /// One replica, and what a Pod has.
    fn fill(&mut self) {
        in_default_namespace(&mut self.metadata);
        if let Some(spec) = &mut self.spec {
            spec.replicas.get_or_insert(1);
            if let Some(pod) = &mut spec.template.spec {
                fill_pod(pod);
            }
        }
    }
}

fn fill_pod(spec: &mut PodSpec) {
    for port in spec.containers.iter_mut().flatten().filter_map(|container| container.ports.as_mut()).flatten() {
        port.protocol.get_or_insert_with(|| "TCP".into());
    }
}

fn in_default_namespace(metadata: &mut ObjectMeta) {
    if metadata.namespace.as_deref().is_none_or(str::is_empty) {
        metadata.namespace = Some("default".into());
    }
}
