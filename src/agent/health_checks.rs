//! What load balancers are told about Services: once the kernel has it, never before.

use crate::admin::{Check, ServiceHealth};
use crate::model::{Family, ObjectKey, Service, ServiceKind};
use crate::proxy::{Context, local_ready};
use crate::store::Store;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Health checks on their way from the plan to the listeners.
pub struct HealthChecks {
    listeners: ServiceHealth,
    /// Planned since the last commit was handed over.
    planned: Checks,
    /// What the commit under way brings, or one that failed.
    committing: Checks,
}

type Checks = BTreeMap<ObjectKey, Option<Check>>;

impl HealthChecks {
    /// No checks yet.
    pub fn new(listeners: ServiceHealth) -> HealthChecks {
        HealthChecks { listeners, planned: Checks::new(), committing: Checks::new() }
    }

    /// Works out what is to be said about a Service. A node that does not expose it says that it has no endpoint, so that load balancers look elsewhere.
    pub fn plan(&mut self, key: &ObjectKey, store: &Store, context: &Context) {
        let check = store.service(key).filter(|service| has_check(service)).map(|service| {
            let families = Family::BOTH.into_iter().filter(|family| service.cluster_ip(*family).is_some());
            let slices = store.slices(key);
            let exposed = service.is_exposed_on(&context.node_labels);
            let ready = |family| if exposed { local_ready(family, &slices, &context.node_name) } else { 0 };
            let endpoints = families.map(|family| (family, ready(family))).collect();
            Check { port: service.health_check_node_port, endpoints }
        });
        // Nearly all Services have none, and never had one.
        if check.is_some() || self.knows(key) {
            self.planned.insert(key.clone(), check);
        }
    }

    fn knows(&self, key: &ObjectKey) -> bool {
        self.planned.contains_key(key) || self.committing.contains_key(key) || self.listeners.check(key).is_some()
    }

    /// The addresses on which load balancers ask.
    pub fn set_addresses(&self, addresses: &[IpAddr]) {
        self.listeners.set_addresses(addresses.to_vec());
    }

    /// A commit begins that brings everything that is planned.
    pub fn committing(&mut self) {
        self.committing.append(&mut self.planned);
    }

    /// The commit succeeded.
    pub fn publish_committed(&mut self) {
        for (key, check) in std::mem::take(&mut self.committing) {
            self.listeners.set(&key, check);
        }
    }

    /// The kernel holds everything that is planned.
    pub fn publish_planned(&mut self) {
        self.committing();
        self.publish_committed();
    }
}

fn has_check(service: &Service) -> bool {
    service.proxied && service.kind == ServiceKind::ClusterIp && service.health_check_node_port != 0
}
