//! Hints for zones mean the zone of the node as it is now.

use super::PODS;
use crate::world::World;
use libtest_mimic::{Failed, Trial};

const ZONAL: &str = r#"
apiVersion: v1
kind: Node
metadata: {name: node-1, labels: {topology.kubernetes.io/zone: ZONE}}
status: {addresses: [{type: InternalIP, address: 192.0.2.10}]}
---
apiVersion: v1
kind: Service
metadata: {name: zonal, namespace: shop}
spec: {clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1], trafficDistribution: PreferSameZone, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: zonal-1, namespace: shop, labels: {kubernetes.io/service-name: zonal}}
addressType: IPv4
ports: [{port: 8080, protocol: TCP}]
endpoints:
- {addresses: [10.244.0.3], hints: {forZones: [{name: a}]}}
- {addresses: [10.244.7.7], hints: {forZones: [{name: b}]}}
"#;

pub fn tests() -> Vec<Trial> {
    vec![Trial::test("the_zone_of_the_node_is_followed_when_its_label_changes", zone)]
}

fn zone() -> Result<(), Failed> {
    let world = World::prepared("zone", &ZONAL.replace("ZONE", "a")).started(&[PODS]);
    let leads_to = |wanted: &[&str]| {
        world.eventually(&format!("it leads to {wanted:?}"), || {
            let map = world.run("nft", &["list", "map", "ip", "waypost", "endpoints"]);
            let right =
                ["10.244.0.3", "10.244.7.7"].iter().all(|one| map.contains(&format!(": {one} . 8080")) == wanted.contains(one));
            if right { Ok(()) } else { Err(map) }
        });
    };
    leads_to(&["10.244.0.3"]);
    world.reached(&world.client, "10.96.0.1:80");
    world.write(&ZONAL.replace("ZONE", "b"));
    leads_to(&["10.244.7.7"]);
    // None is meant for this zone, so no hint counts.
    world.write(&ZONAL.replace("ZONE", "c"));
    leads_to(&["10.244.0.3", "10.244.7.7"]);
    world.write(&ZONAL.replace("ZONE", "a"));
    leads_to(&["10.244.0.3"]);
    world.reached(&world.client, "10.96.0.1:80");
    Ok(())
}
