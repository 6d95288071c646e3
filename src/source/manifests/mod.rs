//! A folder of ordinary manifests in place of an API server: for the demo, for tests, and for machines without a cluster.

mod defaults;
mod read;
#[cfg(test)]
mod tests;
mod watch;

pub use read::{ManifestError, read};
pub use watch::watch;

use super::objects;
use super::translate::{Translate, Translator};
use crate::model::Update;
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice, networking::v1::ServiceCIDR};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

/// The label that every namespace has, with its name.
const NAMESPACE_LABEL: &str = "kubernetes.io/metadata.name";

/// The objects of a folder, with the API server's defaults filled in.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Manifests {
    /// Services.
    pub services: Vec<Service>,
    /// EndpointSlices.
    pub slices: Vec<EndpointSlice>,
    /// Namespaces that are written down; see [`Manifests::namespaces`] for all.
    pub namespaces: Vec<objects::Namespace>,
    /// Nodes.
    pub nodes: Vec<objects::Node>,
    /// ServiceCIDRs.
    pub service_cidrs: Vec<ServiceCIDR>,
    /// ServiceImports.
    pub imports: Vec<objects::ServiceImport>,
    /// Pods.
    pub pods: Vec<objects::Pod>,
    /// Deployments.
    pub deployments: Vec<objects::Deployment>,
    /// Objects of kinds that mean nothing here.
    pub ignored: Vec<Ignored>,
}

/// An object of a kind that means nothing here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ignored {
    /// The file.
    pub file: PathBuf,
    /// The object's kind.
    pub kind: String,
    /// The object's name.
    pub name: String,
}

impl fmt::Display for Ignored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} in {}", self.kind, self.name, self.file.display())
    }
}

impl Manifests {
    /// Every namespace: `default`, those that are written down, and those that an object is in (an API server would have refused it otherwise).
    pub fn namespaces(&self) -> BTreeSet<&str> {
        let written = self.namespaces.iter().map(|namespace| &namespace.metadata.name);
        let services = self.services.iter().map(|service| &service.metadata.namespace);
        let slices = self.slices.iter().map(|slice| &slice.metadata.namespace);
        let pods = self.pods.iter().map(|pod| &pod.metadata.namespace);
        let deployments = self.deployments.iter().map(|deployment| &deployment.metadata.namespace);
        let imports = self.imports.iter().map(|import| &import.metadata.namespace);
        let all = written.chain(services).chain(imports).chain(slices).chain(pods).chain(deployments);
        all.filter_map(Option::as_deref).chain(["default"]).collect()
    }

    /// A full listing of every kind. `node_name` names the agent's own Node.
    pub fn updates(&self, node_name: Option<&str>, translator: &mut Translator) -> Vec<Update> {
        let mut updates = Vec::new();
        list::<objects::Service>(self.services.iter().map(objects::slim), translator, &mut updates);
        list::<objects::EndpointSlice>(self.slices.iter().map(objects::slim), translator, &mut updates);
        let own_node = self.nodes.iter().filter(|node| node_name.is_some() && node.metadata.name.as_deref() == node_name);
        list::<objects::Node>(own_node.cloned().map(Ok), translator, &mut updates);
        list::<objects::ServiceCidr>(self.service_cidrs.iter().map(objects::slim), translator, &mut updates);
        list::<objects::Pod>(self.pods.iter().cloned().map(Ok), translator, &mut updates);
        list::<objects::ServiceImport>(self.imports.iter().cloned().map(Ok), translator, &mut updates);
        list::<objects::ImportedSlice>(self.slices.iter().map(objects::slim), translator, &mut updates);
        list::<objects::Namespace>(self.namespaces().into_iter().map(|name| Ok(self.namespace(name))), translator, &mut updates);
        updates
    }

    /// A namespace, with the label that the API server gives to each.
    fn namespace(&self, name: &str) -> objects::Namespace {
        let written = self.namespaces.iter().find(|namespace| namespace.metadata.name.as_deref() == Some(name));
        let mut metadata = written.map(|namespace| namespace.metadata.clone()).unwrap_or_default();
        metadata.labels.get_or_insert_default().insert(NAMESPACE_LABEL.to_string(), name.to_string());
        objects::Namespace { metadata: ObjectMeta { name: Some(name.to_string()), ..metadata } }
    }
}

/// One kind, between its begin and its end. An object that cannot be made slim would not have been read in the first place.
fn list<T: Translate>(
    objects: impl Iterator<Item = Result<T, serde_json::Error>>,
    translator: &mut Translator,
    updates: &mut Vec<Update>,
) {
    updates.push(Update::ListBegin(T::KIND));
    updates.extend(objects.flatten().filter_map(|object| translator.present(&object)));
    updates.push(Update::ListTells(T::KIND, translator.details_of(T::KIND)));
    updates.push(Update::ListEnd(T::KIND));
}
