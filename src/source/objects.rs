//! API objects with only the fields that the agent reads.
//!
//! Decoding these is two to three times faster than decoding the whole types, and managed fields, others' annotations and pod templates
//! never reach the heap. Numbers are wide and lists may be null, so that a bad value is a complaint about one object ([`super::convert`])
//! and never an error of the decoder, which would cost the whole listing.

mod metadata;
mod workloads;

pub use workloads::{Container, ContainerPort, Deployment, DeploymentSpec, Pod, PodIp, PodSpec, PodStatus, PodTemplate};

use k8s_openapi::api::{apps::v1 as apps, core::v1 as core, discovery::v1 as discovery, networking::v1 as networking};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use metadata::slim_metadata;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// A Service.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Service {
    /// Name, namespace, version, labels, times and our annotations; nothing else is kept.
    #[serde(deserialize_with = "slim_metadata")]
    pub metadata: ObjectMeta,
    /// The specification.
    #[serde(default)]
    pub spec: Option<ServiceSpec>,
    /// The status.
    #[serde(default)]
    pub status: Option<ServiceStatus>,
}

/// `spec` of a Service.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// `type`.
    #[serde(rename = "type")]
    pub type_: Option<String>,
    /// `clusterIP`.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: Option<String>,
    /// `clusterIPs`.
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: Option<Vec<String>>,
    /// `externalIPs`.
    #[serde(rename = "externalIPs")]
    pub external_ips: Option<Vec<String>>,
    /// `externalName`.
    pub external_name: Option<String>,
    /// `externalTrafficPolicy`.
    pub external_traffic_policy: Option<String>,
    /// `healthCheckNodePort`.
    pub health_check_node_port: Option<i64>,
    /// `internalTrafficPolicy`.
    pub internal_traffic_policy: Option<String>,
    /// `loadBalancerSourceRanges`.
    pub load_balancer_source_ranges: Option<Vec<String>>,
    /// `ports`.
    pub ports: Option<Vec<ServicePort>>,
    /// `sessionAffinity`.
    pub session_affinity: Option<String>,
    /// `sessionAffinityConfig`.
    pub session_affinity_config: Option<SessionAffinityConfig>,
}

/// A port of a Service.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePort {
    /// `name`.
    pub name: Option<String>,
    /// `protocol`.
    pub protocol: Option<String>,
    /// `port`.
    pub port: Option<i64>,
    /// `nodePort`.
    pub node_port: Option<i64>,
}

/// `sessionAffinityConfig` of a Service.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SessionAffinityConfig {
    /// `clientIP`.
    #[serde(rename = "clientIP")]
    pub client_ip: Option<ClientIpConfig>,
}

/// `sessionAffinityConfig.clientIP` of a Service.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientIpConfig {
    /// `timeoutSeconds`.
    pub timeout_seconds: Option<i64>,
}

/// `status` of a Service.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceStatus {
    /// `loadBalancer`.
    pub load_balancer: Option<LoadBalancerStatus>,
}

/// `status.loadBalancer` of a Service.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct LoadBalancerStatus {
    /// `ingress`.
    pub ingress: Option<Vec<LoadBalancerIngress>>,
}

/// One address of a load balancer.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadBalancerIngress {
    /// `ip`; absent where the load balancer is known by a host name.
    pub ip: Option<String>,
    /// `ipMode`.
    pub ip_mode: Option<String>,
}

/// An EndpointSlice.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSlice {
    /// Name, namespace, version, labels, times, our annotations and the time of the change's trigger; nothing else is kept.
    #[serde(deserialize_with = "slim_metadata")]
    pub metadata: ObjectMeta,
    /// `addressType`.
    #[serde(default)]
    pub address_type: Option<String>,
    /// `ports`.
    #[serde(default)]
    pub ports: Option<Vec<EndpointPort>>,
    /// `endpoints`.
    #[serde(default)]
    pub endpoints: Option<Vec<Endpoint>>,
}

/// A port of an EndpointSlice, or of a ServiceImport.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct EndpointPort {
    /// `name`.
    pub name: Option<String>,
    /// `protocol`.
    pub protocol: Option<String>,
    /// `port`.
    pub port: Option<i64>,
}

/// An endpoint of an EndpointSlice.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoint {
    /// `addresses`.
    pub addresses: Option<Vec<String>>,
    /// `conditions`.
    pub conditions: Option<EndpointConditions>,
    /// `hostname`.
    pub hostname: Option<String>,
    /// `nodeName`.
    pub node_name: Option<String>,
    /// `hints`.
    pub hints: Option<EndpointHints>,
    /// `targetRef`.
    pub target_ref: Option<TargetRef>,
    /// `zone`.
    pub zone: Option<String>,
}

/// `targetRef` of an endpoint: the pod that it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct TargetRef {
    /// `name`.
    pub name: Option<String>,
}

/// `hints` of an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointHints {
    /// `forZones`.
    pub for_zones: Option<Vec<Hint>>,
    /// `forNodes`.
    pub for_nodes: Option<Vec<Hint>>,
}

/// A zone or a node for which an endpoint is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Hint {
    /// `name`.
    pub name: Option<String>,
}

/// `conditions` of an endpoint.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct EndpointConditions {
    /// `ready`.
    pub ready: Option<bool>,
    /// `serving`.
    pub serving: Option<bool>,
    /// `terminating`.
    pub terminating: Option<bool>,
}

/// A Namespace.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Namespace {
    /// Name, version, labels and times; nothing else is kept.
    #[serde(deserialize_with = "slim_metadata")]
    pub metadata: ObjectMeta,
}

/// A Node.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Node {
    /// Name, version, labels and times; nothing else is kept.
    #[serde(deserialize_with = "slim_metadata")]
    pub metadata: ObjectMeta,
    /// The specification.
    #[serde(default)]
    pub spec: Option<NodeSpec>,
    /// The status.
    #[serde(default)]
    pub status: Option<NodeStatus>,
}

/// `spec` of a Node.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct NodeSpec {
    /// `podCIDR`.
    #[serde(rename = "podCIDR")]
    pub pod_cidr: Option<String>,
    /// `podCIDRs`.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Option<Vec<String>>,
    /// `taints`.
    pub taints: Option<Vec<Taint>>,
}

/// A taint of a Node.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Taint {
    /// `key`.
    pub key: Option<String>,
}

/// `status` of a Node.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    /// `addresses`.
    pub addresses: Option<Vec<NodeAddress>>,
}

/// An address of a Node.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct NodeAddress {
    /// `type`.
    #[serde(rename = "type")]
    pub type_: Option<String>,
    /// `address`.
    pub address: Option<String>,
}

/// A ServiceImport (KEP-1645), `multicluster.x-k8s.io/v1alpha1`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct ServiceImport {
    /// Name, namespace, version, labels and times; nothing else is kept.
    #[serde(deserialize_with = "slim_metadata")]
    pub metadata: ObjectMeta,
    /// The specification.
    #[serde(default)]
    pub spec: Option<ServiceImportSpec>,
}

/// `spec` of a ServiceImport.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct ServiceImportSpec {
    /// `type`: `ClusterSetIP` or `Headless`.
    #[serde(rename = "type")]
    pub type_: Option<String>,
    /// `ips`.
    pub ips: Option<Vec<String>>,
    /// `ports`.
    pub ports: Option<Vec<EndpointPort>>,
}

/// An EndpointSlice as one of a ServiceImport.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(transparent)]
pub struct ImportedSlice(pub EndpointSlice);

/// A ServiceCIDR (KEP-1880).
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ServiceCidr {
    /// Name, version, labels and times; nothing else is kept.
    #[serde(deserialize_with = "slim_metadata")]
    pub metadata: ObjectMeta,
    /// The specification.
    #[serde(default)]
    pub spec: Option<ServiceCidrSpec>,
}

/// `spec` of a ServiceCIDR.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ServiceCidrSpec {
    /// `cidrs`.
    pub cidrs: Option<Vec<String>>,
}

/// The slim form of a whole API object, so that objects from any origin are converted by the same code.
///
/// # Errors
/// Only where `object` is not of the kind that `Slim` stands for.
pub fn slim<Slim: DeserializeOwned>(object: &impl Serialize) -> Result<Slim, serde_json::Error> {
    serde_json::to_value(object).and_then(serde_json::from_value)
}

/// Tells kube under which path an object is found and how it is called.
macro_rules! served_as {
    ($slim:ty, $whole:ty) => {
        impl kube::Resource for $slim {
            type DynamicType = ();
            type Scope = <$whole as kube::Resource>::Scope;

            fn kind(_: &()) -> Cow<'_, str> {
                <$whole as kube::Resource>::kind(&())
            }
            fn group(_: &()) -> Cow<'_, str> {
                <$whole as kube::Resource>::group(&())
            }
            fn version(_: &()) -> Cow<'_, str> {
                <$whole as kube::Resource>::version(&())
            }
            fn plural(_: &()) -> Cow<'_, str> {
                <$whole as kube::Resource>::plural(&())
            }
            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }
            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

served_as!(Service, core::Service);
served_as!(EndpointSlice, discovery::EndpointSlice);
served_as!(Node, core::Node);
served_as!(ServiceCidr, networking::ServiceCIDR);
served_as!(Pod, core::Pod);
served_as!(Deployment, apps::Deployment);

impl kube::Resource for ServiceImport {
    type DynamicType = ();
    type Scope = k8s_openapi::NamespaceResourceScope;

    fn kind(_: &()) -> Cow<'_, str> {
        "ServiceImport".into()
    }
    fn group(_: &()) -> Cow<'_, str> {
        "multicluster.x-k8s.io".into()
    }
    fn version(_: &()) -> Cow<'_, str> {
        "v1alpha1".into()
    }
    fn plural(_: &()) -> Cow<'_, str> {
        "serviceimports".into()
    }
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl kube::Resource for ImportedSlice {
    type DynamicType = ();
    type Scope = <EndpointSlice as kube::Resource>::Scope;

    fn kind(_: &()) -> Cow<'_, str> {
        EndpointSlice::kind(&())
    }
    fn group(_: &()) -> Cow<'_, str> {
        EndpointSlice::group(&())
    }
    fn version(_: &()) -> Cow<'_, str> {
        EndpointSlice::version(&())
    }
    fn plural(_: &()) -> Cow<'_, str> {
        EndpointSlice::plural(&())
    }
    fn meta(&self) -> &ObjectMeta {
        self.0.meta()
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.meta_mut()
    }
}

impl kube::Resource for Namespace {
    type DynamicType = ();
    type Scope = <core::Namespace as kube::Resource>::Scope;

    fn kind(_: &()) -> Cow<'_, str> {
        "Namespace".into()
    }
    fn group(_: &()) -> Cow<'_, str> {
        "".into()
    }
    fn version(_: &()) -> Cow<'_, str> {
        "v1".into()
    }
    fn plural(_: &()) -> Cow<'_, str> {
        "namespaces".into()
    }
    /// Only metadata is asked for: the server then sends nothing else.
    fn metadata_api() -> bool {
        true
    }
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// When the change happened that made the controller write an EndpointSlice: the one annotation of others that is kept.
pub const TRIGGER_TIME_ANNOTATION: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// What the names of our own annotations begin with; [`super::convert`] says which there are.
pub const ANNOTATION_PREFIX: &str = "waypost.dev/";
