//! A listing beside a watch that goes on: more is to be read of objects than was when they were listed.
//!
//! What the listing says of an object may be older than what the watch has told meanwhile, and what the watch tells may be older than the listing. The watch
//! sees every change in the end, so it is believed: of objects that it tells of while the listing is under way, the listing says nothing.
//! A watch that lags behind the listing may show an object that is gone in it once more, until it comes to that.

use super::retry::{Reason, Retry};
use futures::StreamExt;
use futures::stream::BoxStream;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::HashSet;
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout_at};

/// Objects as they come, and `None` once all of them have come.
pub type Items<T> = BoxStream<'static, kube::Result<Option<T>>>;

/// A listing that is wanted, or under way, or neither.
pub struct Relisting<T> {
    /// When it is to begin.
    due: Option<Instant>,
    under_way: Option<Items<T>>,
    /// How long it may be silent, and until when it may be.
    patience: Duration,
    silent: Instant,
    /// Namespaces and names of objects of which the watch has told since it began.
    told: HashSet<(Option<String>, Option<String>)>,
    retry: Retry,
    /// Why it failed last: said once.
    said: String,
    /// The server has no streaming lists, or was silent.
    pub paged: bool,
}

/// What is next.
pub enum Step<T> {
    /// It is to begin.
    Begin,
    /// An object.
    Object(T),
    /// It is complete.
    End,
    /// It has been silent for too long.
    Silent,
    /// It broke off; with the reason, where there is one.
    Failed(Option<kube::Error>),
}

impl<T> Default for Relisting<T> {
    fn default() -> Relisting<T> {
        Relisting {
            due: None,
            under_way: None,
            patience: Duration::ZERO,
            silent: Instant::now(),
            told: HashSet::new(),
            retry: Retry::default(),
            said: String::new(),
            paged: false,
        }
    }
}

impl<T> Relisting<T> {
    /// It is wanted after so long, and from the beginning.
    pub fn want(&mut self, delay: Duration) {
        (self.due, self.under_way) = (Some(Instant::now() + delay), None);
    }

    /// It begins: the server is asked from now on. It may be silent for so long.
    pub fn begin(&mut self, items: Items<T>, patience: Duration) {
        self.told.clear();
        (self.due, self.under_way) = (None, Some(items));
        (self.patience, self.silent) = (patience, Instant::now() + patience);
    }

    /// It is not wanted any more.
    pub fn end(&mut self) {
        *self = Relisting { paged: self.paged, ..Relisting::default() };
    }

    /// It is tried again after a while. True where this is another reason than the last time.
    pub fn fail(&mut self, reason: Reason, why: String) -> bool {
        (self.due, self.under_way) = (Some(Instant::now() + self.retry.delay(reason)), None);
        let is_new = self.said != why;
        self.said = why;
        is_new
    }

    /// The watch tells of this object.
    pub fn watch_tells(&mut self, object: &ObjectMeta) {
        if self.under_way.is_some() {
            self.told.insert((object.namespace.clone(), object.name.clone()));
        }
    }

    /// Whether what the listing says of this object counts.
    pub fn counts(&self, object: &ObjectMeta) -> bool {
        self.told.is_empty() || !self.told.contains(&(object.namespace.clone(), object.name.clone()))
    }

    /// Waits for what is next; for ever while it is not wanted. May be dropped and called again.
    pub async fn next(&mut self) -> Step<T> {
        match (&mut self.under_way, self.due) {
            (Some(items), _) => {
                let Ok(item) = timeout_at(self.silent, items.next()).await else { return Step::Silent };
                self.silent = Instant::now() + self.patience;
                match item {
                    Some(Ok(Some(object))) => Step::Object(object),
                    Some(Ok(None)) => Step::End,
                    Some(Err(error)) => Step::Failed(Some(error)),
                    None => Step::Failed(None),
                }
            }
            (None, Some(due)) => {
                sleep_until(due).await;
                Step::Begin
            }
            (None, None) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;

    /// The beginning of a listing, which goes on for ever.
    fn endless(objects: &[&'static str]) -> Items<&'static str> {
        let objects: Vec<_> = objects.iter().map(|object| Ok(Some(*object))).collect();
        stream::iter(objects).chain(stream::pending()).boxed()
    }

    #[tokio::test]
    async fn a_listing_may_be_silent_for_so_long_after_each_object_and_no_longer() {
        let mut relisting = Relisting::default();
        relisting.begin(endless(&["one", "two"]), Duration::from_millis(20));
        for object in ["one", "two"] {
            let silent = relisting.silent;
            assert!(matches!(relisting.next().await, Step::Object(found) if found == object));
            assert!(relisting.silent > silent, "the time counts from the last object");
        }
        assert!(matches!(relisting.next().await, Step::Silent));
    }

    #[tokio::test]
    async fn one_that_is_wanted_anew_ends_the_one_that_is_under_way() {
        let mut relisting = Relisting::default();
        relisting.begin(endless(&["of the earlier one"]), Duration::from_secs(300));
        relisting.want(Duration::ZERO);
        assert!(matches!(relisting.next().await, Step::Begin));
        relisting.begin(endless(&["of the new one"]), Duration::from_secs(300));
        assert!(matches!(relisting.next().await, Step::Object("of the new one")));
    }

    #[tokio::test]
    async fn what_the_watch_told_before_a_listing_began_does_not_count_against_it() {
        let object = |name: &str| ObjectMeta { name: Some(name.to_string()), ..ObjectMeta::default() };
        let mut relisting = Relisting::default();
        relisting.watch_tells(&object("early"));
        relisting.begin(endless(&["early", "late"]), Duration::from_secs(300));
        relisting.watch_tells(&object("late"));
        assert!(relisting.counts(&object("early")) && !relisting.counts(&object("late")));
        // Nor what it told while an earlier one was under way.
        relisting.begin(endless(&["late"]), Duration::from_secs(300));
        assert!(relisting.counts(&object("late")));
    }
}
