//! Many services: made directly through the API, checked element by element.

use super::agent::{Agent, addresses_of};
use super::cluster::Cluster;
use super::processes::eventually;
use super::stage::Stage;
use super::table;
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// How many endpoints each of these services has.
pub const ENDPOINTS: u32 = 10;
/// The slices of the service that has many, and how many endpoints are in each.
const WIDE_SLICES: u32 = 50;
const WIDE_SLICE: u8 = 100;
/// The API server is quickest with about this many requests at once.
const CONNECTIONS: usize = 8;

pub fn a_thousand_services(cluster: &Cluster) {
    let stage = Stage::new(cluster, "thousand");
    cluster.runtime().block_on(load(cluster.client(), &stage.name, 0..1000));
    let _agent = Agent::start(&stage);
    assert_everything_programmed(&stage);
    assert_everything_resolvable(&stage);
}

/// Makes services with ten endpoints each; no controller is involved.
pub async fn load(client: Client, namespace: &str, numbers: std::ops::Range<u32>) {
    let (services, slices) = (Api::namespaced(client.clone(), namespace), Api::namespaced(client, namespace));
    let made = stream::iter(numbers).map(|number| make(services.clone(), slices.clone(), number));
    made.buffer_unordered(CONNECTIONS).try_collect::<()>().await.unwrap();
}

async fn make(services: Api<Service>, slices: Api<EndpointSlice>, number: u32) -> kube::Result<()> {
    let service = serde_json::from_value(json!({
        "metadata": { "name": format!("many-{number}") },
        "spec": { "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] },
    }))
    .expect("a service");
    let endpoints: Vec<_> = (0..ENDPOINTS).map(|endpoint| endpoint_address(number * ENDPOINTS + endpoint)).collect();
    let slice = serde_json::from_value(json!({
        "metadata": { "name": format!("many-{number}"), "labels": { "kubernetes.io/service-name": format!("many-{number}") } },
        "addressType": "IPv4",
        "endpoints": endpoints.iter().map(|address| json!({ "addresses": [address], "conditions": { "ready": true } }))
            .collect::<Vec<_>>(),
        "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
    }))
    .expect("a slice");
    services.create(&PostParams::default(), &service).await?;
    slices.create(&PostParams::default(), &slice).await?;
    Ok(())
}

/// A service with 5,000 endpoints, in slices as the controller cuts them; how many endpoints it has.
pub async fn make_wide(client: Client, namespace: &str) -> u32 {
    let (services, slices) =
        (Api::<Service>::namespaced(client.clone(), namespace), Api::<EndpointSlice>::namespaced(client, namespace));
    let service = json!({ "metadata": { "name": "wide" }, "spec": { "ports": [{ "name": "http", "port": 80 }] } });
    for number in 0..WIDE_SLICES {
        let endpoint = |endpoint| json!({ "addresses": [Ipv4Addr::from([10, 180, number as u8, endpoint])], "conditions": { "ready": true } });
        let slice = json!({
            "metadata": { "name": format!("wide-{number}"), "labels": { "kubernetes.io/service-name": "wide" } },
            "addressType": "IPv4",
            "endpoints": (0..WIDE_SLICE).map(endpoint).collect::<Vec<_>>(),
            "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
        });
        slices.create(&PostParams::default(), &serde_json::from_value(slice).expect("a slice")).await.unwrap();
    }
    services.create(&PostParams::default(), &serde_json::from_value(service).expect("a service")).await.unwrap();
    WIDE_SLICES * u32::from(WIDE_SLICE)
}

/// Removes the service with many endpoints.
pub async fn drop_wide(client: Client, namespace: &str) {
    let (services, slices) =
        (Api::<Service>::namespaced(client.clone(), namespace), Api::<EndpointSlice>::namespaced(client, namespace));
    services.delete("wide", &DeleteParams::default()).await.unwrap();
    let of_it = ListParams::default().labels("kubernetes.io/service-name=wide");
    slices.delete_collection(&DeleteParams::default(), &of_it).await.unwrap();
}

/// Outside the pod network: nobody has these addresses.
fn endpoint_address(number: u32) -> String {
    let [_, high, middle, low] = number.to_be_bytes();
    format!("10.{}.{middle}.{low}", 130 + high)
}

/// Waits until the kernel balances exactly what the API server holds, and says what differs if it does not.
pub fn assert_everything_programmed(stage: &Stage) {
    eventually("the kernel holds what the API server holds", || {
        let expected = stage.cluster.runtime().block_on(expected(stage.cluster.client())).map_err(|error| error.to_string())?;
        let programmed = table::balanced(stage.node.namespace());
        let missing: Vec<_> = expected.iter().filter(|(key, value)| programmed.get(*key) != Some(value)).take(5).collect();
        let extra: Vec<_> = programmed.iter().filter(|(key, _)| !expected.contains_key(*key)).take(5).collect();
        let counts = (expected.len(), programmed.len());
        if expected == programmed {
            Ok(())
        } else {
            Err(format!("{counts:?}, missing or other: {missing:?}, too many: {extra:?}"))
        }
    });
}

/// Every ClusterIP and port with ready endpoints, and those endpoints, as the API server has them.
async fn expected(client: Client) -> kube::Result<BTreeMap<String, BTreeSet<String>>> {
    let services = Api::<Service>::all(client.clone()).list(&ListParams::default()).await?;
    let slices = Api::<EndpointSlice>::all(client).list(&ListParams::default()).await?;
    let mut by_service: BTreeMap<(Option<String>, String), Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in &slices {
        if let Some(service) = slice.labels().get("kubernetes.io/service-name") {
            by_service.entry((slice.namespace(), service.clone())).or_default().push(slice);
        }
    }
    let mut expected = BTreeMap::new();
    for service in &services {
        let slices = by_service.get(&(service.namespace(), service.name_any())).map_or(&[][..], Vec::as_slice);
        let spec = service.spec.clone().unwrap_or_default();
        for address in spec.cluster_ips.iter().flatten().filter(|address| *address != "None") {
            let family = if address.contains(':') { "IPv6" } else { "IPv4" };
            for port in spec.ports.iter().flatten() {
                let endpoints: BTreeSet<_> = slices
                    .iter()
                    .filter(|slice| slice.address_type == family)
                    .flat_map(|slice| ready_endpoints(slice, port.name.as_deref()))
                    .collect();
                if !endpoints.is_empty() {
                    let protocol = if port.protocol.as_deref() == Some("UDP") { "17" } else { "6" };
                    expected.insert(format!("{address} . {protocol} . {}", port.port), endpoints);
                }
            }
        }
    }
    Ok(expected)
}

/// The endpoints that a slice gives to a service port of this name. A port without a number is no port.
fn ready_endpoints(slice: &EndpointSlice, port_name: Option<&str>) -> Vec<String> {
    let ports = slice.ports.iter().flatten().filter(|port| port.name.as_deref().unwrap_or("") == port_name.unwrap_or(""));
    let is_ready = |endpoint: &&Endpoint| endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true);
    let ready: Vec<_> = slice.endpoints.iter().flatten().filter(is_ready).map(|endpoint| &endpoint.addresses[0]).collect();
    ports.filter_map(|port| port.port).flat_map(|port| ready.iter().map(move |address| format!("{address} . {port}"))).collect()
}

fn assert_everything_resolvable(stage: &Stage) {
    let services = Api::<Service>::namespaced(stage.cluster.client(), &stage.name);
    let services = stage.cluster.runtime().block_on(services.list(&ListParams::default())).unwrap();
    assert_eq!(services.items.len(), 1000);
    let names: Vec<_> = services.iter().map(|service| stage.dns_name(&service.name_any())).collect();
    let addresses: Vec<_> = services.iter().filter_map(|service| service.spec.as_ref()?.cluster_ip.clone()).collect();
    assert_eq!(addresses_of(stage.client.namespace(), &names, stage.cluster.directory()), addresses);
}
