//! EndpointSlices for Services with selectors, as the EndpointSlice controller makes them.

use super::allocate::{families, is_headless};
use super::plan::{NODE_NAME, PlannedPod, key_of, protocol};
use crate::model::{Family, ObjectKey, Protocol};
use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::collections::BTreeMap;

/// Has the selected pods serve the ports that a Service means by number, declared in their manifests or not.
pub fn serve_targets(service: &Service, pods: &mut BTreeMap<ObjectKey, PlannedPod>) {
    let Some(selector) = selector(service) else { return };
    let namespace = key_of(&service.metadata).namespace;
    for pod in pods.values_mut().filter(|pod| pod.is_selected_by(&namespace, selector)) {
        let targets: Vec<_> = ports(service).filter_map(|port| target(port, pod)).collect();
        pod.served.extend(targets.into_iter().map(|(_, protocol, number)| (protocol, number)));
    }
}

/// The slices of a Service: one for each family and each set of port numbers, because a named port may be another number in another
/// pod. None for a Service without a selector: whoever writes that writes its slices too.
pub fn slices_of(service: &Service, pods: &BTreeMap<ObjectKey, PlannedPod>) -> Vec<EndpointSlice> {
    let (Some(selector), Some(spec)) = (selector(service), &service.spec) else { return Vec::new() };
    let key = key_of(&service.metadata);
    let mut slices = Vec::new();
    for family in families(spec) {
        let mut by_ports: BTreeMap<Vec<(String, Protocol, u16)>, Vec<&PlannedPod>> = BTreeMap::new();
        for pod in pods.values().filter(|pod| pod.is_selected_by(&key.namespace, selector) && pod.address(family).is_some()) {
            by_ports.entry(ports(service).filter_map(|port| target(port, pod)).collect()).or_default().push(pod);
        }
        for (number, (ports, pods)) in by_ports.into_iter().enumerate() {
            let name = format!("{}-{}-{}", key.name, family.to_string().to_lowercase(), number + 1);
            slices.push(slice(&key, name, family, is_headless(spec), &ports, &pods));
        }
    }
    slices
}

fn slice(
    service: &ObjectKey,
    name: String,
    family: Family,
    headless: bool,
    ports: &[(String, Protocol, u16)],
    pods: &[&PlannedPod],
) -> EndpointSlice {
    let mut labels = BTreeMap::from([("kubernetes.io/service-name".to_string(), service.name.to_string())]);
    if headless {
        labels.insert("service.kubernetes.io/headless".to_string(), String::new());
    }
    let port = |(name, protocol, number): &(String, Protocol, u16)| EndpointPort {
        name: Some(name.clone()),
        protocol: Some(protocol.name().to_uppercase()),
        port: Some(i32::from(*number)),
        ..EndpointPort::default()
    };
    EndpointSlice {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(service.namespace.to_string()),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        address_type: family.to_string(),
        ports: Some(ports.iter().map(port).collect()),
        endpoints: Some(pods.iter().map(|pod| endpoint(pod, family, service)).collect()),
    }
}

fn endpoint(pod: &PlannedPod, family: Family, service: &ObjectKey) -> Endpoint {
    let hostname = pod.hostname.as_ref().filter(|(_, subdomain)| **subdomain == *service.name).map(|(name, _)| name.clone());
    Endpoint {
        addresses: pod.address(family).iter().map(ToString::to_string).collect(),
        conditions: Some(EndpointConditions { ready: Some(true), serving: Some(true), terminating: Some(false) }),
        hostname,
        node_name: Some(NODE_NAME.to_string()),
        ..Endpoint::default()
    }
}

/// The port of a pod that a Service's port means; `None` when the pod has no port of that name.
fn target(port: &ServicePort, pod: &PlannedPod) -> Option<(String, Protocol, u16)> {
    let protocol = protocol(port.protocol.as_deref())?;
    let number = match &port.target_port {
        Some(IntOrString::String(name)) => *pod.named_ports.get(&(name.clone(), protocol))?,
        Some(IntOrString::Int(number)) => u16::try_from(*number).ok()?,
        None => u16::try_from(port.port).ok()?,
    };
    (number != 0).then(|| (port.name.clone().unwrap_or_default(), protocol, number))
}

fn selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    let spec = service.spec.as_ref().filter(|spec| spec.type_.as_deref() != Some("ExternalName"))?;
    spec.selector.as_ref().filter(|selector| !selector.is_empty())
}

fn ports(service: &Service) -> impl Iterator<Item = &ServicePort> {
    service.spec.iter().filter_map(|spec| spec.ports.as_ref()).flatten()
}
