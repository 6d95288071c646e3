//! When the last known state is served, for how long, and when another one is saved.

use super::*;
use crate::config::{RunArgs, Surroundings, load};
use crate::model::{Name, ObjectKey};
use crate::store::Store;

const NEEDED: [Kind; 2] = [Kind::Service, Kind::Slice];

/// A folder with a state, which goes with this value.
struct Folder(PathBuf);

impl Folder {
    /// With a namespace and a pod in it.
    async fn new(name: &str) -> Folder {
        let folder = Folder(std::env::temp_dir().join(format!("waypost-last-state-{}-{name}", std::process::id())));
        let mut last = folder.open();
        last.changed(false);
        last.finish(&cluster()).await;
        folder
    }

    fn open(&self) -> LastState {
        let surroundings = Surroundings { host_name: Some("node".into()), ..Surroundings::default() };
        let (config, _) = load(&RunArgs::of(&[("dns-address", "127.0.0.1:5353")]), &surroundings).unwrap();
        LastState::open(&self.0, Status::new(&config), Notices::logged())
    }

    /// The agent of the next start, which has heard nothing and serves what is remembered.
    fn served(&self) -> LastState {
        let mut last = self.open();
        last.hurry();
        let served: Store = last.fall_back(&Store::default(), &NEEDED, &[]).into_iter().collect();
        assert!(served.has_namespace("shop") && last.status.last_state_age().is_some());
        last
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn listing(kind: Kind, objects: Vec<Update>) -> Vec<Update> {
    [vec![Update::ListBegin(kind)], objects, vec![Update::ListEnd(kind)]].concat()
}

fn cluster() -> Store {
    let namespace = Update::Namespace(Name::from("shop"), None);
    let pod = Update::Pod(ObjectKey::new("shop", "web-0"), ["10.244.0.2".parse().unwrap()].into(), None);
    let all = [(Kind::Namespace, vec![namespace]), (Kind::Pod, vec![pod]), (Kind::Service, vec![]), (Kind::Slice, vec![])];
    all.into_iter().flat_map(|(kind, objects)| listing(kind, objects)).collect()
}

#[tokio::test]
async fn it_is_served_when_its_time_has_come_and_nothing_was_heard() {
    let folder = Folder::new("time").await;
    let mut last = folder.open();
    assert!(last.next().is_some_and(|at| at > Instant::now()), "the API server has a moment for its first word");
    assert!(last.fall_back(&Store::default(), &NEEDED, &[]).is_empty());
    last.hurry();
    assert!(last.next().is_some_and(|at| at <= Instant::now()), "unless it is known to be away");
    assert!(!last.fall_back(&Store::default(), &NEEDED, &[]).is_empty());
    last.hurry();
    assert_eq!(last.next(), None, "it is served once");

    let mut last = folder.open();
    last.hurry();
    let heard: Store = [Update::ListBegin(Kind::Service)].into_iter().collect();
    assert!(last.fall_back(&heard, &NEEDED, &[]).is_empty(), "the API server lists already");
    assert_eq!((last.next(), last.status.last_state_age()), (None, None));
}

#[tokio::test]
async fn it_is_served_until_all_that_is_needed_and_namespaces_are_listed() {
    let folder = Folder::new("until").await;
    for order in [[Kind::Service, Kind::Slice, Kind::Namespace], [Kind::Namespace, Kind::Slice, Kind::Service]] {
        let mut last = folder.served();
        for kind in order {
            assert!(last.status.last_state_age().is_some(), "{kind} are still to come");
            last.listed(kind);
        }
        assert_eq!(last.status.last_state_age(), None);
    }
    let mut last = folder.served();
    assert!(last.refused(Kind::Service) && !last.refused(Kind::Service), "what is remembered of it was served");
}

#[tokio::test]
async fn what_is_remembered_is_not_saved_as_if_it_were_new() {
    let folder = Folder::new("saved").await;
    let mut last = folder.served();
    last.changed(false);
    assert_eq!(last.next(), None, "there is nothing to save");
    [Kind::Service, Kind::Slice, Kind::Namespace].into_iter().for_each(|kind| last.listed(kind));
    last.changed(false);
    assert!(last.next().is_some());
}

#[tokio::test]
async fn what_is_not_always_watched_is_kept_for_whoever_needs_it_until_the_api_server_has_a_word_about_it() {
    let folder = Folder::new("spare").await;
    let nothing = Store::default();
    let mut last = folder.served();
    assert!(last.serve_besides(&nothing, &[Kind::Import]).is_empty(), "nothing is remembered of those");
    let pods: Store = last.serve_besides(&nothing, &[Kind::Pod]).into_iter().collect();
    assert_eq!(pods.pods().count(), 1);
    assert!(last.serve_besides(&nothing, &[Kind::Pod]).is_empty(), "once");
    NEEDED.into_iter().chain([Kind::Namespace]).for_each(|kind| last.listed(kind));
    assert!(last.status.last_state_age().is_some(), "pods are awaited from then on");
    last.listed(Kind::Pod);
    assert_eq!(last.status.last_state_age(), None);

    for is_listed in [true, false] {
        let mut last = folder.served();
        match is_listed {
            true => last.listed(Kind::Pod),
            false => assert!(!last.refused(Kind::Pod), "nothing of it is served"),
        }
        assert!(last.serve_besides(&nothing, &[Kind::Pod]).is_empty());
    }
    let mut last = folder.served();
    NEEDED.into_iter().chain([Kind::Namespace]).for_each(|kind| last.listed(kind));
    assert!(last.serve_besides(&nothing, &[Kind::Pod]).is_empty(), "nothing of it is served any more");
}

#[tokio::test]
async fn a_kind_that_the_api_server_has_listed_is_not_served_from_memory() {
    let folder = Folder::new("listed").await;
    let mut last = folder.served();
    let listed: Store = listing(Kind::Pod, vec![]).into_iter().collect();
    assert!(last.serve_besides(&listed, &[Kind::Pod]).is_empty());
}
