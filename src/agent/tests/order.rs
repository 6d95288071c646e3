//! What happens before what.

use super::*;
use crate::model::{Demand, Details, LabelNames, Marks, SliceDetails, selector};
use futures::FutureExt;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_programmed_or_published_before_every_first_listing() {
    let agent = start(None);
    agent.send(listing(Kind::Service, vec![web()])).await;
    agent.send(namespaces()).await;
    agent.send(node()).await;
    agent.send([Update::ListBegin(Kind::Slice), slice()]).await;
    agent.until("all updates are taken in", |agent| agent.updates.capacity() == agent.updates.max_capacity()).await;
    assert!(agent.served.lock().unwrap().is_empty(), "no commit yet");
    assert_eq!(code(&agent.records, "web.shop.svc.cluster.local").0, Code::ServFail);
    assert!(!*agent.ready.borrow());
    agent.send([Update::ListEnd(Kind::Slice)]).await;
    agent.ready.clone().wait_for(|ready| *ready).await.unwrap();
    assert!(agent.holds(routed()));
    assert!(is_served(&agent.records, "web.shop.svc.cluster.local"));
    assert!(agent.status.pending().iter().all(|pending| pending.contains("DNS")), "{:?}", agent.status.pending());
}

#[tokio::test(flavor = "multi_thread")]
async fn services_do_not_wait_for_namespaces_but_missing_names_do() {
    let agent = start(None);
    for updates in [listing(Kind::Service, vec![web()]), listing(Kind::Slice, vec![slice()]), node()] {
        agent.send(updates).await;
    }
    agent.until("the rules are there", |agent| agent.holds(routed())).await;
    agent.until("the name is served", |agent| is_served(&agent.records, "web.shop.svc.cluster.local")).await;
    assert_eq!(code(&agent.records, "other.shop.svc.cluster.local").0, Code::ServFail);
    assert!(!*agent.ready.borrow());
    agent.send(namespaces()).await;
    agent.ready.clone().wait_for(|ready| *ready).await.unwrap();
    assert_eq!(code(&agent.records, "other.shop.svc.cluster.local").0, Code::NxDomain);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_appears_after_its_rules_and_disappears_before_them() {
    let agent = start(None);
    for updates in [listing(Kind::Service, vec![]), listing(Kind::Slice, vec![]), namespaces(), node()] {
        agent.send(updates).await;
    }
    agent.ready.clone().wait_for(|ready| *ready).await.unwrap();
    agent.served.lock().unwrap().clear();

    agent.send([web(), slice()]).await;
    agent.until("the name is served", |agent| is_served(&agent.records, "web.shop.svc.cluster.local")).await;
    agent.until("the rules are there", |agent| agent.holds(routed())).await;
    let first = agent.served.lock().unwrap().first().copied();
    assert_eq!(first, Some((Family::V4, false)), "the name was not served yet when its rules were committed");

    agent.served.lock().unwrap().clear();
    agent.send([Update::ServiceGone(ObjectKey::new("shop", "web"))]).await;
    agent.until("the rules are gone", |agent| !agent.holds(routed())).await;
    assert_eq!(agent.served.lock().unwrap().first(), Some(&(Family::V4, false)), "the name was gone when its rules were removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_names_of_a_first_start_are_made_during_its_commit_and_seen_after_it() {
    let (gate, waits) = std::sync::mpsc::channel();
    let agent = start(Some(waits));
    for updates in [listing(Kind::Service, vec![web()]), listing(Kind::Slice, vec![slice()]), namespaces(), node()] {
        agent.send(updates).await;
    }
    agent.until("the names are made", |agent| agent.records.service_count() == 1).await;
    drop(gate);
    agent.ready.clone().wait_for(|ready| *ready).await.unwrap();
    assert!(is_served(&agent.records, "web.shop.svc.cluster.local"));
    assert_eq!(agent.served.lock().unwrap().first(), Some(&(Family::V4, false)), "nobody saw them before");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_kernel_does_not_freeze_names() {
    let (gate, waits) = std::sync::mpsc::channel();
    let agent = start(Some(waits));
    for updates in [listing(Kind::Service, vec![web()]), listing(Kind::Slice, vec![slice()]), namespaces(), node()] {
        agent.send(updates).await;
    }
    agent.until("the name is served all the same", |agent| is_served(&agent.records, "web.shop.svc.cluster.local")).await;
    assert!(!agent.holds(routed()) && !*agent.ready.borrow());
    drop(gate);
    agent.ready.clone().wait_for(|ready| *ready).await.unwrap();
    assert!(agent.holds(routed()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_counts_though_more_has_gathered_meanwhile() {
    let (gate, waits) = std::sync::mpsc::channel();
    let agent = start(Some(waits));
    for updates in [listing(Kind::Service, vec![]), listing(Kind::Slice, vec![]), namespaces(), node()] {
        agent.send(updates).await;
    }
    agent.until("the first commit is asked for", |agent| agent.updates.capacity() == agent.updates.max_capacity()).await;
    agent.send([web(), slice()]).await;
    agent.until("more has gathered", |agent| agent.updates.capacity() == agent.updates.max_capacity()).await;
    Family::BOTH.iter().for_each(|_| gate.send(()).unwrap());
    let waits_for_commit = |agent: &Agent| agent.status.pending().iter().any(|pending| pending.contains("commit"));
    agent.until("the first commit counts", |agent| !waits_for_commit(agent)).await;
    assert!(!agent.holds(routed()), "the second commit is still under way");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_family_in_which_nothing_changes_does_not_look_stuck() {
    let agent = start(None);
    for updates in [listing(Kind::Service, vec![]), listing(Kind::Slice, vec![]), namespaces(), node()] {
        agent.send(updates).await;
    }
    agent.ready.clone().wait_for(|ready| *ready).await.unwrap();
    let time = |agent: &Agent, what: &str, family| {
        agent.metric(&format!("kubeproxy_sync_proxy_rules_last_{what}"), family).get_gauge().get_value()
    };
    let first = time(&agent, "queued_timestamp_seconds", Family::V6);
    agent.send([web(), slice()]).await;
    agent.until("another commit is asked for", |agent| time(agent, "queued_timestamp_seconds", Family::V6) > first).await;
    for family in Family::BOTH {
        let is_done = |agent: &Agent| time(agent, "timestamp_seconds", family) >= time(agent, "queued_timestamp_seconds", family);
        agent.until("the last commit is later than the last request for one", is_done).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_listing_after_an_outage_does_not_mention_is_removed() {
    let agent = start(None);
    for updates in [listing(Kind::Service, vec![web()]), listing(Kind::Slice, vec![slice()]), namespaces(), node()] {
        agent.send(updates).await;
    }
    agent.ready.clone().wait_for(|ready| *ready).await.unwrap();
    agent.send(listing(Kind::Service, vec![])).await;
    agent.until("the rules are gone", |agent| !agent.holds(routed())).await;
    assert_eq!(code(&agent.records, "web.shop.svc.cluster.local"), (Code::NxDomain, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_zones_ask_for_besides_is_known_once_all_of_it_is_published() {
    let agent = start(None);
    for updates in [namespaces(), node(), listing(Kind::Service, vec![web()]), listing(Kind::Slice, vec![slice()])] {
        agent.send(updates).await;
    }
    agent.ready.clone().wait_for(|ready| *ready).await.unwrap();
    let details = Details { labels: LabelNames::of(&selector("app=web").unwrap()), ..Details::default() };
    let demand = Demand { details: details.clone(), ..Demand::default() };
    agent.chain.ask_for(demand.clone());
    let labels = Marks::read(&details.labels, [("app", "web")].into_iter());
    let (Update::Service(mut service), Update::Slice(mut slice)) = (web(), slice()) else { panic!("that is what they are") };
    service.labels.clone_from(&labels);
    slice.details = Some(std::sync::Arc::new(SliceDetails { labels, ..SliceDetails::default() }));
    let mut shape = Shape::new(DomainName::parse("cluster.local").unwrap(), 30);
    shape.labels = selector("app=web");
    let said = |agent: &Agent| code_as(&agent.records, &shape, "web.shop.svc.cluster.local").0;
    let anew =
        |kind, update| vec![Update::ListBegin(kind), update, Update::ListTells(kind, details.clone()), Update::ListEnd(kind)];
    agent.send(anew(Kind::Service, Update::Service(service))).await;
    // Something that comes after it.
    agent.send([Update::Namespace("later".into(), None)]).await;
    agent.until("the listing is in", |agent| code(&agent.records, "later.svc.cluster.local").0 == Code::NoError).await;
    assert!(said(&agent) == Code::ServFail && agent.chain.knows(demand.clone()).now_or_never().is_none(), "slices are to come");
    agent.send(anew(Kind::Slice, Update::Slice(slice))).await;
    agent.chain.knows(demand).await;
    assert_eq!(said(&agent), Code::NoError);
}
