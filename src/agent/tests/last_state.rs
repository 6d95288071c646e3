//! What an agent leaves for the next one.

use super::*;
use crate::dns::shape::PodNames;
use crate::model::{Demand, Import};
use crate::notices::{LAST_STATE_REFUSED, LAST_STATE_SERVED, Subject};

/// A folder for the last known state, which goes with this value.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("waypost-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// With services of other clusters, and names of pods that exist.
fn clusterset_and_verified() -> Shape {
    let mut shape = Shape::new(DomainName::parse("cluster.local").unwrap(), 30);
    let clusterset = DomainName::parse("clusterset.local").unwrap();
    shape.zones.push(clusterset.clone());
    shape.multicluster.push(clusterset);
    shape.pods = PodNames::Verified;
    shape
}

/// The service web of the namespace shop, of other clusters.
fn import() -> Update {
    Update::Import(Box::new(Import {
        key: ObjectKey::new("shop", "web"),
        headless: false,
        addresses: ["10.97.0.1".parse().unwrap()].into(),
        ports: [("http".into(), Protocol::Tcp, 80)].into(),
    }))
}

async fn learn_of_web_and_its_pod(agent: &Agent) {
    let pod = Update::Pod(ObjectKey::new("shop", "web-0"), ["10.244.0.2".parse().unwrap()].into(), None);
    for updates in [
        listing(Kind::Pod, vec![pod]),
        listing(Kind::Service, vec![web()]),
        listing(Kind::Slice, vec![slice()]),
        namespaces(),
        node(),
    ] {
        agent.send(updates).await;
    }
    agent.ready.clone().wait_for(|ready| *ready).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_knew_is_served_by_the_next_one_until_the_api_server_is_there() {
    let folder = Folder::new("last-state");
    let agent = start_with(None, Some(&folder.0), None);
    for updates in [listing(Kind::Import, vec![import()]), listing(Kind::ImportedSlice, vec![])] {
        agent.send(updates).await;
    }
    learn_of_web_and_its_pod(&agent).await;
    assert_eq!(agent.status.last_state_age(), None);
    agent.end().await;

    let agent = start_with(None, Some(&folder.0), None);
    agent.chain.ask_for(Demand { pods: true, imports: true, ..Demand::default() });
    agent.ready.clone().wait_for(|ready| *ready).await.unwrap();
    assert!(agent.holds(routed()) && is_served(&agent.records, "web.shop.svc.cluster.local"));
    assert_eq!(code(&agent.records, "other.shop.svc.cluster.local").0, Code::NxDomain, "namespaces are remembered too");
    let everything = |name: &str| code_as(&agent.records, &clusterset_and_verified(), name);
    assert_eq!(everything("web.shop.svc.clusterset.local"), (Code::NoError, 1));
    assert_eq!(everything("other.shop.svc.clusterset.local"), (Code::NxDomain, 0));
    assert_eq!(everything("10-244-0-2.shop.pod.cluster.local"), (Code::NoError, 1));
    assert_eq!(everything("10-244-0-3.shop.pod.cluster.local"), (Code::NxDomain, 0));
    assert!(agent.status.last_state_age().is_some() && agent.status.pending().iter().all(|pending| pending.contains("DNS")));
    assert_eq!(agent.told.lock().await.recv().await.unwrap().reason, &LAST_STATE_SERVED);

    for updates in [listing(Kind::Slice, vec![]), listing(Kind::Service, vec![]), node(), listing(Kind::Import, vec![])] {
        agent.send(updates).await;
    }
    agent.until("the remembered services are gone", |agent| !agent.holds(routed())).await;
    agent.send(listing(Kind::Pod, vec![])).await;
    let pod = "10-244-0-2.shop.pod.cluster.local";
    let said = |agent: &Agent, name: &str| code_as(&agent.records, &clusterset_and_verified(), name).0;
    agent.until("the remembered pod is gone", |agent| said(agent, pod) == Code::NxDomain).await;
    assert!(agent.status.last_state_age().is_some(), "namespaces and slices of imports are still to come");
    agent.send([Update::Refused(Kind::ImportedSlice), Update::Refused(Kind::Namespace)]).await;
    agent.until("nothing is awaited any more", |agent| agent.status.last_state_age().is_none()).await;
    let import = "web.shop.svc.clusterset.local";
    agent.until("what the API server does not tell is not known", |agent| said(agent, import) == Code::ServFail).await;
    assert_eq!(said(&agent, "10-244-0-3.shop.pod.cluster.local"), Code::NxDomain, "the namespace is still remembered");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_watches_is_not_served_from_memory_until_somebody_needs_it() {
    let folder = Folder::new("spare-state");
    let agent = start_with(None, Some(&folder.0), None);
    learn_of_web_and_its_pod(&agent).await;
    agent.end().await;

    let agent = start_with(None, Some(&folder.0), None);
    agent.ready.clone().wait_for(|ready| *ready).await.unwrap();
    let said = |agent: &Agent, name: &str| code_as(&agent.records, &clusterset_and_verified(), name).0;
    let (known, unknown) = ("10-244-0-2.shop.pod.cluster.local", "10-244-0-3.shop.pod.cluster.local");
    assert_eq!((said(&agent, known), said(&agent, unknown)), (Code::ServFail, Code::ServFail));
    agent.chain.ask_for(Demand { pods: true, ..Demand::default() });
    agent.until("pods are remembered", |agent| said(agent, known) == Code::NoError).await;
    assert_eq!(said(&agent, unknown), Code::NxDomain);
    for updates in [listing(Kind::Slice, vec![]), listing(Kind::Service, vec![]), node(), namespaces()] {
        agent.send(updates).await;
    }
    agent.until("services are gone", |agent| !agent.holds(routed())).await;
    assert!(agent.status.last_state_age().is_some(), "pods are still to come");
    agent.send(listing(Kind::Pod, vec![])).await;
    agent.until("nothing is awaited any more", |agent| agent.status.last_state_age().is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_state_is_reported_and_not_served() {
    let folder = Folder::new("damaged-state");
    std::fs::create_dir_all(&folder.0).unwrap();
    std::fs::write(folder.0.join("snapshot"), "WAYPOST\0 and nonsense").unwrap();
    let agent = start_with(None, Some(&folder.0), None);
    let notice = agent.told.lock().await.recv().await.unwrap();
    assert_eq!((notice.reason, &notice.about), (&LAST_STATE_REFUSED, &Subject::Node));
    assert!(notice.note.contains("snapshot") && notice.note.contains("version"), "{}", notice.note);
    assert!(!*agent.ready.borrow());
}
