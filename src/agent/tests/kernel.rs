//! What the kernel refuses, and who is told.

use super::*;
use crate::notices::{ADDRESS_CONFLICT, KERNEL_REFUSED, Subject, TABLE_OUT_OF_DATE};

#[tokio::test(flavor = "multi_thread")]
async fn what_the_kernel_refuses_is_told_of_its_service_and_the_rest_is_programmed() {
    let agent = start(None);
    for updates in [listing(Kind::Service, vec![]), listing(Kind::Slice, vec![slice()]), namespaces(), node()] {
        agent.send(updates).await;
    }
    agent.ready.clone().wait_for(|ready| *ready).await.unwrap();
    *agent.refused.lock().unwrap() = Some(routed());
    let Update::Service(mut web) = web() else { panic!("it is a service") };
    web.external_ips = vec!["198.51.100.1".parse().unwrap()];
    agent.send([Update::Service(web)]).await;
    let external = Dest { address: "198.51.100.1".parse().unwrap(), protocol: Protocol::Tcp, port: 80 };
    agent.until("its other address is there", |agent| agent.holds(Element::Service(external, Chain::Outside))).await;
    let notice = agent.told.lock().await.recv().await.unwrap();
    assert_eq!((notice.reason, &notice.about), (&KERNEL_REFUSED, &Subject::Service(ObjectKey::new("shop", "web"))));
    assert!(notice.note.contains("10.96.0.1:80/tcp") && notice.note.contains("the test says so"), "{}", notice.note);
    assert!(!agent.holds(routed()));
}

const SYNC_FAILURES: &str = "kubeproxy_sync_proxy_rules_nftables_sync_failures_total";
const CLEANUP_FAILURES: &str = "kubeproxy_sync_proxy_rules_nftables_cleanup_failures_total";

#[tokio::test(flavor = "multi_thread")]
async fn a_family_that_the_kernel_lacks_is_told_and_the_other_one_is_served() {
    let agent = start_with(None, None, Some(Family::V6));
    let Update::Service(mut web) = web() else { panic!("it is a service") };
    web.health_check_node_port = 32000;
    let key = web.key.clone();
    for updates in [listing(Kind::Service, vec![Update::Service(web)]), listing(Kind::Slice, vec![slice()]), namespaces(), node()]
    {
        agent.send(updates).await;
    }
    agent.ready.clone().wait_for(|ready| *ready).await.unwrap();
    assert!(agent.holds(routed()) && is_served(&agent.records, "web.shop.svc.cluster.local"));
    assert!(agent.service_health.check(&key).is_some(), "load balancers are told");
    let waits_for_commit = |agent: &Agent| agent.status.pending().iter().any(|pending| pending.contains("commit"));
    assert!(!waits_for_commit(&agent), "{:?}", agent.status.pending());
    assert_eq!(agent.status.remarks().len(), 1);
    assert!(agent.status.remarks()[0].contains("IPv6") && agent.status.remarks()[0].contains("the kernel lacks it"));
    let notice = agent.told.lock().await.recv().await.unwrap();
    assert_eq!((notice.reason, &notice.about), (&TABLE_OUT_OF_DATE, &Subject::Node));
    let said = ["the IPv6 table of node-1", "the kernel lacks it", "IPv4 is served"];
    assert!(said.iter().all(|part| notice.note.contains(part)), "{}", notice.note);
    assert!(agent.counted(SYNC_FAILURES, Family::V6) >= 2);
    assert_eq!(agent.counted(SYNC_FAILURES, Family::V4), 0);
    // What changes later is not held up by it: names come with the commit, and not by the deadline for a kernel that hangs. Nor does it cost more.
    let full = |agent: &Agent| {
        agent.metric("kubeproxy_sync_full_proxy_rules_duration_seconds", Family::V4).get_histogram().get_sample_count()
    };
    let compared = full(&agent);
    agent.send([Update::ServiceGone(key.clone())]).await;
    agent.until("the rules are gone", |agent| !agent.holds(routed())).await;
    agent.until("the health check is gone", |agent| agent.service_health.check(&key).is_none()).await;
    let failures = agent.counted(SYNC_FAILURES, Family::V6);
    agent.until("the family is tried again", |agent| agent.counted(SYNC_FAILURES, Family::V6) > failures).await;
    assert_eq!(full(&agent), compared, "the table of the other family is not looked at again");
    *agent.lacks.lock().unwrap() = None;
    agent.until("the family is back", |agent| agent.status.remarks().is_empty()).await;
    assert!(agent.told.lock().await.try_recv().is_err(), "it was told once");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_family_an_agent_is_not_ready() {
    let agent = start_with(None, None, Some(Family::V6));
    // The other one is refused as a whole: not even its skeleton can be made.
    agent.memory.lock().unwrap().refuses_rebuild = true;
    for updates in [listing(Kind::Service, vec![web()]), listing(Kind::Slice, vec![slice()]), namespaces(), node()] {
        agent.send(updates).await;
    }
    agent.until("both have failed twice", |agent| agent.status.remarks().len() == 2).await;
    assert!(!*agent.ready.borrow());
    assert_eq!(agent.status.pending().iter().filter(|pending| pending.contains("commit")).count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_the_kernel_refuses_is_counted_as_a_failed_clean_up() {
    let agent = start(None);
    for updates in [listing(Kind::Service, vec![web()]), listing(Kind::Slice, vec![slice()]), namespaces(), node()] {
        agent.send(updates).await;
    }
    agent.ready.clone().wait_for(|ready| *ready).await.unwrap();
    assert_eq!(agent.counted(CLEANUP_FAILURES, Family::V4), 0);
    *agent.refused.lock().unwrap() = Some(routed());
    agent.send([Update::ServiceGone(ObjectKey::new("shop", "web"))]).await;
    agent.until("it is counted", |agent| agent.counted(CLEANUP_FAILURES, Family::V4) == 1).await;
    assert_eq!(agent.counted(CLEANUP_FAILURES, Family::V6), 0);
    assert!(agent.holds(routed()));
    let notice = agent.told.lock().await.recv().await.unwrap();
    assert!(notice.note.contains("the removal of 10.96.0.1:80/tcp"), "{}", notice.note);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_loser_of_an_address_is_told_who_has_it() {
    let agent = start(None);
    let Update::Service(mut thief) = web() else { panic!("it is a service") };
    (thief.key, thief.created) = (ObjectKey::new("shop", "thief"), 7);
    let services = vec![web(), Update::Service(thief)];
    for updates in [listing(Kind::Service, services), listing(Kind::Slice, vec![slice()]), namespaces(), node()] {
        agent.send(updates).await;
    }
    agent.ready.clone().wait_for(|ready| *ready).await.unwrap();
    let notice = agent.told.lock().await.recv().await.unwrap();
    assert_eq!((notice.reason, &notice.about), (&ADDRESS_CONFLICT, &Subject::Service(ObjectKey::new("shop", "thief"))));
    assert!(notice.note.contains("10.96.0.1:80/tcp") && notice.note.contains("shop/web"), "{}", notice.note);
    assert!(agent.holds(routed()));
}
