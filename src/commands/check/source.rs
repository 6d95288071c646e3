//! Whether the objects can be had: asks the API server for one object of each kind that the agent watches.

use super::facts::SourceFact;
use crate::config::{ClusterSource, Config, Role};
use crate::model::{Demand, Kind};
use crate::source::{kubernetes, objects};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::{Namespace, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client};
use std::time::Duration;

/// A server that has not answered by now counts as unreachable.
const PATIENCE: Duration = Duration::from_secs(5);

/// Looks at the configured source.
pub async fn look(config: &Config, demand: Demand) -> SourceFact {
    if let ClusterSource::Manifests(folder) = &config.cluster {
        return match std::fs::read_dir(folder) {
            Ok(_) => SourceFact::Folder,
            Err(error) => SourceFact::Unreachable(format!("{} cannot be read: {error}", folder.display())),
        };
    }
    let client = match kubernetes::client(&config.cluster).await {
        Ok(client) => client,
        Err(error) => return SourceFact::Unreachable(error.to_string()),
    };
    match tokio::time::timeout(PATIENCE, ask(&client, config, demand)).await {
        Ok(fact) => fact,
        Err(_) => SourceFact::Unreachable(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

async fn ask(client: &Client, config: &Config, demand: Demand) -> SourceFact {
    let one = ListParams::default().limit(1);
    let own = ListParams::default().limit(1).fields(&format!("metadata.name={}", config.node_name));
    let mut refused = Vec::new();
    let always = [Kind::Service, Kind::Slice, Kind::Namespace, Kind::Node, Kind::ServiceCidr];
    for kind in always.iter().chain(demand.kinds()) {
        let answer = match kind {
            Kind::Service => Api::<Service>::all(client.clone()).list_metadata(&one).await.map(drop),
            Kind::Slice => Api::<EndpointSlice>::all(client.clone()).list_metadata(&one).await.map(drop),
            Kind::Namespace => Api::<Namespace>::all(client.clone()).list_metadata(&one).await.map(drop),
            Kind::Node | Kind::ServiceCidr if config.role == Role::Dns => continue,
            Kind::ServiceCidr => Api::<ServiceCIDR>::all(client.clone()).list_metadata(&one).await.map(drop),
            Kind::Pod => Api::<objects::Pod>::all(client.clone()).list_metadata(&one).await.map(drop),
            Kind::Import => Api::<objects::ServiceImport>::all(client.clone()).list_metadata(&one).await.map(drop),
            // Those of Services are the same to the API server.
            Kind::ImportedSlice => continue,
            Kind::Node => Api::<Node>::all(client.clone()).list_metadata(&own).await.map(drop),
        };
        match answer {
            Ok(()) => {}
            Err(kube::Error::Api(status)) => refused.push((*kind, status.message.clone())),
            Err(error) => return SourceFact::Unreachable(chain(&error)),
        }
    }
    SourceFact::Reached { refused, events: may_send_events(client, config).await }
}

/// Whether the agent's Events would be accepted. A server that does not tell is taken at its best: nothing else depends on it.
async fn may_send_events(client: &Client, config: &Config) -> bool {
    if config.role == Role::Dns {
        return true;
    }
    let attributes = |verb: &str| ResourceAttributes {
        group: Some("events.k8s.io".into()),
        resource: Some("events".into()),
        verb: Some(verb.into()),
        ..ResourceAttributes::default()
    };
    let reviews = Api::<SelfSubjectAccessReview>::all(client.clone());
    for verb in ["create", "patch"] {
        let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes(verb)), ..Default::default() };
        let review = SelfSubjectAccessReview { spec, ..Default::default() };
        let answer = reviews.create(&PostParams::default(), &review).await;
        if answer.is_ok_and(|review| review.status.is_some_and(|status| !status.allowed)) {
            return false;
        }
    }
    true
}

/// An error with its causes: the cause ("connection refused") says more than the error.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text += &format!(": {more}");
        }
        cause = error.source();
    }
    // kube's and hyper's names for the layer that failed say nothing to a user.
    ["ServiceError: ", "client error (Connect): "].iter().fold(text, |text, noise| text.replacen(noise, "", 1))
}
