use super::*;
use std::collections::HashSet;

fn slice(name: &str, service: &str) -> Update {
    Update::Slice(Box::new(Slice {
        key: ObjectKey::new("default", name),
        service: ObjectKey::new("default", service),
        family: Family::V4,
        ports: Box::new([]),
        endpoints: [].into(),
        headless: false,
        weight: 1,
        triggered: None,
        details: None,
    }))
}

fn owners(store: &Store, service: &str) -> HashSet<String> {
    store.slices(&ObjectKey::new("default", service)).iter().map(|slice| slice.key.name.to_string()).collect()
}

#[test]
fn what_a_new_listing_does_not_mention_is_gone() {
    let mut store: Store =
        [Update::ListBegin(Kind::Slice), slice("web-1", "web"), slice("web-2", "web"), Update::ListEnd(Kind::Slice)]
            .into_iter()
            .collect();
    store.take_dirty();
    store.apply(Update::ListBegin(Kind::Slice));
    store.apply(slice("web-2", "web"));
    assert!(store.take_dirty().is_empty(), "an unchanged object makes nothing dirty, and nothing is gone before the end");
    store.apply(Update::ListEnd(Kind::Slice));
    assert_eq!(owners(&store, "web"), HashSet::from(["web-2".to_string()]));
    assert_eq!(store.take_dirty().services.len(), 1);
}

#[test]
fn a_slice_that_a_listing_mentions_again_stays_the_one_whose_endpoints_others_share() {
    let mut store: Store = [slice("web-1", "web")].into_iter().collect();
    let endpoints = |store: &Store| store.slices(&ObjectKey::new("default", "web"))[0].endpoints.clone();
    let before = endpoints(&store);
    for update in [Update::ListBegin(Kind::Slice), slice("web-1", "web"), Update::ListEnd(Kind::Slice)] {
        store.apply(update);
    }
    assert!(Arc::ptr_eq(&before, &endpoints(&store)));
}

#[test]
fn the_time_of_a_change_is_told_with_the_change_and_is_no_state() {
    let at = |seconds: u64| SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
    let changed = |seconds: u64, headless: bool| match slice("web-1", "web") {
        Update::Slice(slice) => Update::Slice(Box::new(Slice { triggered: Some(at(seconds)), headless, ..*slice })),
        other => other,
    };
    let mut store: Store = [changed(1, false), changed(2, true)].into_iter().collect();
    let web = ObjectKey::new("default", "web");
    let triggered = |seconds, headless| Trigger { family: Family::V4, time: at(seconds), headless };
    assert_eq!(store.take_dirty().triggers[&web], [triggered(1, false), triggered(2, true)]);
    store.apply(changed(3, true));
    assert!(store.take_dirty().is_empty(), "only the time is another one");
    store.apply(changed(4, false));
    store.apply(Update::SliceGone(ObjectKey::new("default", "web-1")));
    assert_eq!(store.take_dirty().triggers.get(&web), None);
}

#[test]
fn a_slice_that_changes_its_service_leaves_the_old_one() {
    let mut store: Store = [slice("s", "old")].into_iter().collect();
    store.take_dirty();
    store.apply(slice("s", "new"));
    assert!(owners(&store, "old").is_empty());
    assert_eq!(store.take_dirty().services.len(), 2, "both services must be planned again");
}

#[test]
fn networks_of_service_addresses_come_change_and_go() {
    let networks = |text: &str| -> Box<[IpNet]> { Box::new([text.parse().unwrap()]) };
    let first = Update::ServiceCidr("kubernetes".into(), networks("10.96.0.0/16"));
    let mut store: Store = [
        Update::ListBegin(Kind::ServiceCidr),
        first.clone(),
        Update::ServiceCidr("more".into(), networks("10.97.0.0/16")),
        Update::ListEnd(Kind::ServiceCidr),
    ]
    .into_iter()
    .collect();
    assert!(store.take_dirty().service_cidrs && store.service_cidrs().count() == 2);
    store.apply(first.clone());
    assert!(!store.take_dirty().service_cidrs, "nothing has changed");
    let again = [Update::ListBegin(Kind::ServiceCidr), first, Update::ListEnd(Kind::ServiceCidr)];
    again.into_iter().for_each(|update| store.apply(update));
    assert!(store.take_dirty().service_cidrs);
    assert_eq!(store.service_cidrs().map(ToString::to_string).collect::<Vec<_>>(), ["10.96.0.0/16"]);
}

#[test]
fn addresses_of_pods_come_and_go_with_them() {
    let pod = |name: &str, address: &str| {
        Update::Pod(ObjectKey::new("shop", name), [address].map(|text| text.parse().unwrap()).into(), None)
    };
    let moves = |store: &mut Store| -> Vec<(String, bool)> {
        let dirty = store.take_dirty();
        assert!(dirty.is_of_pods_alone());
        dirty.pods.iter().map(|pod| (pod.address.to_string(), pod.is_there)).collect()
    };
    let came = |address: &str| (address.to_string(), true);
    let went = |address: &str| (address.to_string(), false);
    let mut store: Store = [Update::ListBegin(Kind::Pod), pod("a", "10.0.0.1"), pod("b", "10.0.0.1"), Update::ListEnd(Kind::Pod)]
        .into_iter()
        .collect();
    assert_eq!(moves(&mut store), [came("10.0.0.1"), came("10.0.0.1")]);
    store.apply(pod("a", "10.0.0.2"));
    store.apply(pod("a", "10.0.0.2"));
    assert_eq!(moves(&mut store), [went("10.0.0.1"), came("10.0.0.2")]);
    store.apply(Update::PodGone(ObjectKey::new("shop", "a")));
    [Update::ListBegin(Kind::Pod), Update::ListEnd(Kind::Pod)].into_iter().for_each(|update| store.apply(update));
    assert_eq!(moves(&mut store), [went("10.0.0.2"), went("10.0.0.1")]);
}

#[test]
fn a_listing_that_broke_off_removes_nothing() {
    let mut store: Store = [
        Update::ListBegin(Kind::Namespace),
        Update::Namespace("a".into(), None),
        Update::Namespace("b".into(), None),
        Update::ListEnd(Kind::Namespace),
        Update::ListBegin(Kind::Namespace),
        Update::Namespace("a".into(), None),
        Update::ListBegin(Kind::Namespace),
        Update::Namespace("a".into(), None),
        Update::Namespace("b".into(), None),
        Update::ListEnd(Kind::Namespace),
    ]
    .into_iter()
    .collect();
    assert!(store.has_namespace("a") && store.has_namespace("b"));
    assert!(store.is_listed(Kind::Namespace) && !store.is_listed(Kind::Service));
    store.take_dirty();
}
