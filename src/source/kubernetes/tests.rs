use super::*;
use crate::config::ClusterSource;
use crate::model::{LabelNames, Marks, Name, ObjectKey, selector};
use crate::store::Store;
use futures::StreamExt;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use hyper::{Request, Response, StatusCode};
use kube::client::Body;
use serde_json::{Value, json};
use std::io;
use std::path::Path;
use tokio::sync::{mpsc, oneshot};

type Answer = Result<Response<UnsyncBoxBody<Bytes, io::Error>>, io::Error>;

/// A request that waits for the test's answer.
struct Call {
    uri: String,
    answer: oneshot::Sender<Answer>,
}

/// An API server played by the test: it sees each request and decides on the answer.
struct Server {
    calls: mpsc::UnboundedReceiver<Call>,
}

/// An open watch, on the server's side. It ends when this is dropped.
struct Stream(mpsc::UnboundedSender<io::Result<Bytes>>);

impl Server {
    fn new() -> (Server, Client) {
        let (sender, calls) = mpsc::unbounded_channel();
        let service = tower::service_fn(move |request: Request<Body>| {
            let (answer, answered) = oneshot::channel();
            let uri = request.uri().to_string();
            let _ = sender.send(Call { uri, answer });
            async move { answered.await.unwrap_or_else(|_| Err(io::ErrorKind::ConnectionRefused.into())) }
        });
        (Server { calls }, Client::new(service, "default"))
    }

    async fn call(&mut self) -> Call {
        within(self.calls.recv()).await.expect("the watch goes on")
    }

    /// Answers the next request, a streaming listing, with these objects.
    async fn stream(&mut self, objects: &[Value]) -> Stream {
        let call = self.call().await;
        assert!(call.uri.contains("sendInitialEvents=true"), "{}", call.uri);
        let stream = call.stream();
        objects.iter().for_each(|object| stream.event("ADDED", object));
        stream.initial_events_end("100");
        stream
    }
}

impl Call {
    fn respond(self, code: u16, body: &Value) {
        let body = Full::new(Bytes::from(body.to_string())).map_err(|never| match never {}).boxed_unsync();
        let _ = self.answer.send(Ok(Response::builder().status(code).body(body).unwrap()));
    }

    fn fail(self, code: u16, message: &str) {
        let reason = StatusCode::from_u16(code).unwrap().canonical_reason().unwrap_or_default().replace(' ', "");
        self.respond(code, &json!({"kind": "Status", "status": "Failure", "code": code, "message": message, "reason": reason}));
    }

    fn refuse_connection(self) {
        let _ = self.answer.send(Err(io::ErrorKind::ConnectionRefused.into()));
    }

    fn stream(self) -> Stream {
        let (sender, receiver) = mpsc::unbounded_channel();
        let frames = futures::stream::unfold(receiver, |mut receiver: mpsc::UnboundedReceiver<io::Result<Bytes>>| async {
            let bytes = receiver.recv().await?;
            Some((bytes.map(Frame::data), receiver))
        });
        let _ = self.answer.send(Ok(Response::new(StreamBody::new(frames.boxed()).boxed_unsync())));
        Stream(sender)
    }
}

impl Stream {
    fn event(&self, kind: &str, object: &Value) {
        let line = format!("{}\n", json!({"type": kind, "object": object}));
        self.0.send(Ok(line.into())).expect("the watch is open");
    }

    fn initial_events_end(&self, version: &str) {
        let annotations = json!({"k8s.io/initial-events-end": "true"});
        self.event(
            "BOOKMARK",
            &json!({"kind": "Service", "apiVersion": "v1", "metadata": {"resourceVersion": version, "annotations": annotations}}),
        );
    }

    fn break_off(self) {
        let _ = self.0.send(Err(io::ErrorKind::ConnectionReset.into()));
    }
}

/// A watch of services, with the store that it fills.
struct Agent {
    updates: mpsc::Receiver<Update>,
    store: Store,
    health: Health,
    demand: tokio::sync::watch::Sender<Demand>,
    task: tokio::task::JoinHandle<()>,
}

impl Agent {
    fn of(kinds: &'static [Kind], client: Client) -> Agent {
        Agent::at(Pace::default(), kinds, client)
    }

    fn at(pace: Pace, kinds: &'static [Kind], client: Client) -> Agent {
        let (sender, updates) = mpsc::channel(16);
        let health = Health::default();
        let told = Told { updates: sender, health: health.clone(), notices: Notices::logged() };
        let demand = tokio::sync::watch::Sender::new(Demand::default());
        let asked = demand.subscribe();
        let task = tokio::spawn(async move { watch_at(pace, client, Some("n1"), kinds, asked, told).await });
        Agent { updates, store: Store::default(), health, demand, task }
    }

    async fn next(&mut self) -> Update {
        let update = within(self.updates.recv()).await.expect("the watch goes on");
        self.store.apply(update.clone());
        update
    }

    /// Takes updates up to this one and returns them all.
    async fn until(&mut self, last: &Update) -> Vec<Update> {
        let mut seen = Vec::new();
        loop {
            let update = self.next().await;
            seen.push(update.clone());
            if update == *last {
                return seen;
            }
        }
    }

    /// Takes a whole listing.
    async fn listed(&mut self) -> Vec<Update> {
        self.until(&Update::ListEnd(Kind::Service)).await
    }

    fn services(&self) -> Vec<Name> {
        let mut names: Vec<_> = self.store.service_keys().map(|key| key.name.clone()).collect();
        names.sort();
        names
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("something happens within a minute")
}

fn service(name: &str, version: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "default", "name": name, "resourceVersion": version, "managedFields": [{"manager": "kubectl"}]},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]},
    })
}

fn list(objects: &[Value], version: &str, token: Option<&str>) -> Value {
    json!({"kind": "ServiceList", "apiVersion": "v1", "metadata": {"resourceVersion": version, "continue": token}, "items": objects})
}

fn names(texts: &[&str]) -> Vec<Name> {
    texts.iter().map(|text| Name::from(*text)).collect()
}

#[tokio::test]
async fn what_the_zones_need_to_know_of_objects_besides_is_learnt_by_listing_them_anew() {
    let (mut server, client) = Server::new();
    let mut agent = Agent::of(&[Kind::Service], client);
    let mut web = service("web", "1");
    web["metadata"]["labels"] = json!({"app": "web", "version": "1.2.3"});
    let labels = |agent: &Agent| {
        let web = agent.store.service(&ObjectKey::new("default", "web")).unwrap();
        web.labels.clone()
    };
    let first = server.stream(std::slice::from_ref(&web)).await;
    agent.listed().await;
    assert_eq!(labels(&agent), None, "nobody wants to know");
    let details = Details { labels: app(), ..Details::default() };
    agent.demand.send_replace(Demand { details: details.clone(), ..Demand::default() });
    let _again = server.stream(&[web]).await;
    agent.listed().await;
    assert_eq!(labels(&agent), Marks::read(&app(), [("app", "web")].into_iter()), "and nothing else of them");
    assert_eq!(agent.store.details(Kind::Service).labels, app());
    // What concerns other kinds only lists nothing.
    let details = Details { zones: true, namespace_labels: LabelNames::All, ..details };
    agent.demand.send_replace(Demand { details, ..Demand::default() });
    first.event("DELETED", &service("web", "2"));
    assert_eq!(agent.next().await, gone("web"));
}

/// The label that is looked at.
fn app() -> LabelNames {
    LabelNames::of(&selector("app").unwrap())
}

/// An agent that has listed services, which is asked for their labels now. Beside the watch, which goes on, the server has to list them.
async fn asked_for_labels(server: &mut Server, client: Client, listed: &[Value]) -> (Agent, Stream, Call) {
    asked_for_labels_at(Pace::default(), server, client, listed).await
}

async fn asked_for_labels_at(pace: Pace, server: &mut Server, client: Client, listed: &[Value]) -> (Agent, Stream, Call) {
    let mut agent = Agent::at(pace, SERVICES, client);
    let watch = server.stream(listed).await;
    agent.listed().await;
    let details = Details { labels: app(), ..Details::default() };
    agent.demand.send_replace(Demand { details, ..Demand::default() });
    assert_eq!(agent.next().await, Update::ListBegin(Kind::Service));
    (agent, watch, server.call().await)
}

#[tokio::test]
async fn a_watch_goes_on_while_its_objects_are_listed_anew_and_is_believed_more_than_the_listing() {
    let (mut server, client) = Server::new();
    let before = [service("changed", "1"), service("removed", "2"), service("lost", "3"), service("quiet", "4")];
    let (mut agent, watch, call) = asked_for_labels(&mut server, client, &before).await;
    assert!(call.uri.contains("sendInitialEvents=true") && call.uri.contains("resourceVersion=100"), "{}", call.uri);
    let mut changed = service("changed", "130");
    changed["metadata"]["labels"] = json!({"app": "new"});
    watch.event("MODIFIED", &changed);
    watch.event("DELETED", &service("removed", "131"));
    watch.event("ADDED", &service("added", "132"));
    for _ in 0..3 {
        agent.next().await;
    }
    // As things were a moment ago; what was lost meanwhile the watch is late to tell.
    let listing = call.stream();
    [service("changed", "1"), service("removed", "2"), service("quiet", "4")].iter().for_each(|old| listing.event("ADDED", old));
    listing.initial_events_end("120");
    agent.listed().await;
    assert_eq!(agent.services(), names(&["added", "changed", "quiet"]));
    let key = ObjectKey::new("default", "changed");
    assert_eq!(agent.store.service(&key).unwrap().labels, Marks::read(&app(), [("app", "new")].into_iter()));
    watch.event("DELETED", &service("lost", "133"));
    watch.event("ADDED", &service("later", "134"));
    while agent.services() != names(&["added", "changed", "later", "quiet"]) {
        agent.next().await;
    }
    watch.break_off();
    let call = server.call().await;
    assert!(call.uri.contains("resourceVersion=134") && !call.uri.contains("sendInitialEvents"), "{}", call.uri);
}

#[tokio::test]
async fn a_listing_anew_that_fails_is_tried_again_and_disturbs_no_watch() {
    let (mut server, client) = Server::new();
    let (mut agent, watch, call) = asked_for_labels(&mut server, client, &[service("web", "1")]).await;
    call.fail(403, "services is forbidden: User \"waypost\" cannot list");
    watch.event("ADDED", &service("new", "101"));
    agent.until(&Update::ListBegin(Kind::Service)).await;
    server.call().await.fail(422, "sendInitialEvents: Forbidden");
    let call = server.call().await;
    assert!(!call.uri.contains("watch"), "in pages, then: {}", call.uri);
    call.respond(200, &list(&[service("web", "1")], "", Some("more")));
    let call = server.call().await;
    assert!(call.uri.contains("continue=more"), "{}", call.uri);
    assert_eq!(agent.store.details(Kind::Service).labels, LabelNames::None, "not all of them are listed");
    call.respond(200, &list(&[service("new", "101")], "101", None));
    agent.until(&Update::ListEnd(Kind::Service)).await;
    assert!(agent.store.details(Kind::Service).labels == app() && agent.health.is_connected(Kind::Service));
    assert_eq!(agent.services(), names(&["new", "web"]));
    watch.event("DELETED", &service("web", "102"));
    assert_eq!(agent.next().await, gone("web"));
}

#[tokio::test]
async fn a_listing_anew_that_is_silent_is_given_up_for_pages() {
    let (mut server, client) = Server::new();
    // It bounds the pauses of the first listing as well, which a slow machine may make long.
    let pace = Pace { quiet: Duration::from_secs(3), ..Pace::default() };
    let (mut agent, watch, call) = asked_for_labels_at(pace, &mut server, client, &[service("web", "1")]).await;
    // Open, and without a word.
    let silent = call.stream();
    let call = server.call().await;
    assert!(!call.uri.contains("watch"), "in pages, then: {}", call.uri);
    call.respond(200, &list(&[service("web", "1")], "100", None));
    agent.until(&Update::ListEnd(Kind::Service)).await;
    assert!(agent.store.details(Kind::Service).labels == app() && agent.health.is_connected(Kind::Service));
    drop(silent);
    watch.event("DELETED", &service("web", "102"));
    assert_eq!(agent.next().await, gone("web"));
}

#[tokio::test]
async fn what_is_asked_for_while_objects_are_listed_anew_lists_them_once_more() {
    let (mut server, client) = Server::new();
    let (mut agent, _watch, call) = asked_for_labels(&mut server, client, &[service("web", "1")]).await;
    let earlier = call.stream();
    earlier.event("ADDED", &service("web", "1"));
    agent.next().await;
    let details = Details { labels: LabelNames::All, ..Details::default() };
    agent.demand.send_replace(Demand { details, ..Demand::default() });
    let _again = server.stream(&[service("web", "1")]).await;
    assert!(earlier.0.is_closed(), "nobody reads the earlier one");
    agent.listed().await;
    assert_eq!(agent.store.details(Kind::Service).labels, LabelNames::All);
}

fn gone(name: &str) -> Update {
    Update::ServiceGone(ObjectKey::new("default", name))
}

const SERVICES: &[Kind] = &[Kind::Service];

#[tokio::test]
async fn a_streaming_listing_stands_between_its_begin_and_end_and_changes_follow() {
    let (mut server, client) = Server::new();
    let mut agent = Agent::of(SERVICES, client);
    let stream = server.stream(&[service("a", "1"), service("b", "2")]).await;
    let seen = agent.listed().await;
    assert_eq!(seen.first(), Some(&Update::ListBegin(Kind::Service)));
    assert_eq!(seen.len(), 4);
    assert_eq!(agent.services(), names(&["a", "b"]));
    assert!(agent.health.is_connected(Kind::Service));
    stream.event("ADDED", &service("c", "101"));
    assert!(matches!(agent.next().await, Update::Service(service) if &*service.key.name == "c"));
    stream.event("DELETED", &service("a", "102"));
    assert_eq!(agent.next().await, gone("a"));
    assert_eq!(agent.services(), names(&["b", "c"]));
}

#[tokio::test]
async fn each_kind_is_asked_for_in_its_own_way() {
    let (mut server, client) = Server::new();
    let agent = Agent::of(&[Kind::Service, Kind::Slice, Kind::Namespace, Kind::Node], client);
    let mut paths = Vec::new();
    for _ in 0..4 {
        let call = server.call().await;
        let (path, query) = call.uri.split_once('?').unwrap();
        assert_eq!(path.ends_with("/nodes"), query.contains("fieldSelector=metadata.name%3Dn1"), "{}", call.uri);
        paths.push(path.to_string());
    }
    paths.sort();
    assert_eq!(paths, ["/api/v1/namespaces", "/api/v1/nodes", "/api/v1/services", "/apis/discovery.k8s.io/v1/endpointslices"]);
    drop(agent);
}

#[tokio::test]
async fn a_server_without_streaming_lists_is_listed_in_pages() {
    let (mut server, client) = Server::new();
    let mut agent = Agent::of(SERVICES, client);
    server.call().await.fail(422, "ListOptions.meta.k8s.io \"\" is invalid: sendInitialEvents: Forbidden");
    let call = server.call().await;
    assert!(!call.uri.contains("watch") && call.uri.contains("limit=500"), "{}", call.uri);
    call.respond(200, &list(&[service("a", "1")], "", Some("more")));
    let call = server.call().await;
    assert!(call.uri.contains("continue=more"), "{}", call.uri);
    call.respond(200, &list(&[service("b", "2")], "7", None));
    assert_eq!(agent.listed().await.len(), 4);
    let call = server.call().await;
    assert!(call.uri.contains("watch=true") && call.uri.contains("resourceVersion=7"), "{}", call.uri);
    let stream = call.stream();
    stream.event("DELETED", &service("a", "8"));
    assert_eq!(agent.next().await, gone("a"));
    stream.event("ERROR", &json!({"kind": "Status", "code": 410, "message": "too old", "reason": "Expired"}));
    let call = server.call().await;
    assert!(!call.uri.contains("watch"), "a server that refused once is not asked again: {}", call.uri);
}

#[tokio::test]
async fn a_streaming_listing_that_goes_silent_is_given_up_for_pages() {
    let (mut server, client) = Server::new();
    let pace = Pace { quiet: Duration::from_millis(1), ..Pace::default() };
    let mut agent = Agent::at(pace, SERVICES, client);
    let stream = server.call().await.stream();
    let call = server.call().await;
    assert!(!call.uri.contains("watch"), "{}", call.uri);
    call.respond(200, &list(&[service("a", "1")], "7", None));
    agent.listed().await;
    assert_eq!(agent.services(), names(&["a"]));
    drop(stream);
}

#[tokio::test]
async fn a_dead_watch_is_opened_again() {
    let (mut server, client) = Server::new();
    let pace = Pace { watch: Duration::from_millis(1), grace: Duration::ZERO, ..Pace::default() };
    let mut agent = Agent::at(pace, SERVICES, client);
    let stream = server.stream(&[]).await;
    agent.listed().await;
    let call = server.call().await;
    assert!(call.uri.contains("resourceVersion=100"), "{}", call.uri);
    drop(stream);
}

#[tokio::test]
async fn a_watch_goes_on_from_where_it_ended() {
    let (mut server, client) = Server::new();
    let mut agent = Agent::of(SERVICES, client);
    let stream = server.stream(&[service("a", "1")]).await;
    agent.listed().await;
    stream.event("MODIFIED", &service("a", "104"));
    stream.event("BOOKMARK", &json!({"kind": "Service", "apiVersion": "v1", "metadata": {"resourceVersion": "109"}}));
    agent.next().await;
    drop(stream);
    let call = server.call().await;
    assert!(call.uri.contains("resourceVersion=109") && !call.uri.contains("sendInitialEvents"), "{}", call.uri);
    let stream = call.stream();
    stream.event("ADDED", &service("b", "110"));
    assert!(matches!(agent.next().await, Update::Service(_)), "no listing in between");
}

#[tokio::test]
async fn after_410_everything_is_listed_anew_and_deletions_are_noticed() {
    let (mut server, client) = Server::new();
    let mut agent = Agent::of(SERVICES, client);
    let stream = server.stream(&[service("a", "1"), service("b", "2")]).await;
    agent.listed().await;
    stream.event("ERROR", &json!({"kind": "Status", "code": 410, "message": "too old resource version", "reason": "Expired"}));
    let _stream = server.stream(&[service("b", "2")]).await;
    let seen = agent.listed().await;
    assert_eq!(seen.first(), Some(&Update::ListBegin(Kind::Service)));
    assert_eq!(agent.services(), names(&["b"]));
}

#[tokio::test]
async fn a_server_that_goes_away_and_comes_back_is_followed_without_loss() {
    let (mut server, client) = Server::new();
    let mut agent = Agent::of(SERVICES, client);
    let stream = server.stream(&[service("a", "1")]).await;
    agent.listed().await;
    stream.break_off();
    for _ in 0..3 {
        server.call().await.refuse_connection();
    }
    let call = server.call().await;
    assert!(!agent.health.is_connected(Kind::Service));
    assert!(call.uri.contains("resourceVersion=100"), "{}", call.uri);
    call.fail(410, "too old resource version");
    let call = server.call().await;
    assert!(call.uri.contains("resourceVersion=100") && call.uri.contains("NotOlderThan"), "not back in time: {}", call.uri);
    call.fail(504, "Timeout: Too large resource version: 100, current: 3");
    let call = server.call().await;
    assert!(call.uri.contains("resourceVersion=0"), "unless the server itself went back: {}", call.uri);
    let stream = call.stream();
    stream.event("ADDED", &service("b", "2"));
    stream.initial_events_end("3");
    agent.listed().await;
    assert!(agent.health.is_connected(Kind::Service));
    assert_eq!(agent.services(), names(&["b"]));
}

#[tokio::test]
async fn a_server_that_was_never_reached_is_said_to_be_unreachable_at_the_second_try() {
    let (mut server, client) = Server::new();
    let mut agent = Agent::of(SERVICES, client);
    server.call().await.refuse_connection();
    let second = server.call().await;
    assert!(agent.updates.try_recv().is_err(), "one failure may be chance");
    second.refuse_connection();
    assert_eq!(agent.next().await, Update::Unreachable);
    let _stream = server.stream(&[service("a", "1")]).await;
    assert!(!agent.listed().await.contains(&Update::Unreachable));
}

#[tokio::test]
async fn a_listing_that_breaks_off_begins_anew_and_loses_nothing() {
    let (mut server, client) = Server::new();
    let mut agent = Agent::of(SERVICES, client);
    let stream = server.call().await.stream();
    stream.event("ADDED", &service("a", "1"));
    agent.next().await;
    agent.next().await;
    drop(stream);
    let _stream = server.stream(&[service("b", "2")]).await;
    let seen = agent.listed().await;
    assert_eq!(seen.first(), Some(&Update::ListBegin(Kind::Service)));
    assert_eq!(agent.services(), names(&["b"]));
}

#[tokio::test]
async fn a_missing_permission_is_retried_until_it_is_granted() {
    let (mut server, client) = Server::new();
    let mut agent = Agent::of(SERVICES, client);
    for _ in 0..3 {
        server.call().await.fail(403, "services is forbidden: User \"system:serviceaccount:kube-system:waypost\" cannot watch");
    }
    assert_eq!(agent.next().await, Update::Refused(Kind::Service), "after the second time");
    let call = server.call().await;
    assert!(!agent.health.is_connected(Kind::Service));
    assert!(call.uri.contains("sendInitialEvents=true"), "a missing permission says nothing about streaming lists: {}", call.uri);
    let stream = call.stream();
    stream.initial_events_end("1");
    agent.listed().await;
    assert!(agent.health.is_connected(Kind::Service));
}

#[tokio::test]
async fn a_server_that_is_ill_has_not_said_that_a_kind_is_kept_from_us() {
    let (mut server, client) = Server::new();
    let mut agent = Agent::of(SERVICES, client);
    for code in [500, 503, 503, 401, 429] {
        server.call().await.fail(code, "etcdserver: no leader");
    }
    let stream = server.call().await.stream();
    stream.initial_events_end("1");
    assert_eq!(agent.listed().await, [Update::ListBegin(Kind::Service), Update::ListEnd(Kind::Service)]);
}

#[tokio::test]
async fn a_kind_that_the_server_does_not_know_is_not_waited_for() {
    let (mut server, client) = Server::new();
    let mut agent = Agent::of(SERVICES, client);
    for _ in 0..2 {
        server.call().await.fail(404, "the server could not find the requested resource");
    }
    assert_eq!(agent.next().await, Update::Refused(Kind::Service));
}

#[tokio::test]
async fn one_malformed_object_counts_as_absent_and_stops_nothing() {
    let (mut server, client) = Server::new();
    let mut agent = Agent::of(SERVICES, client);
    let mut bad = service("bad", "3");
    bad["spec"]["clusterIP"] = "nowhere".into();
    let stream = server.stream(&[service("bad", "1"), service("a", "2"), bad.clone(), service("b", "4")]).await;
    let seen = agent.listed().await;
    assert!(seen.contains(&gone("bad")));
    assert_eq!(agent.services(), names(&["a", "b"]));
    stream.event("MODIFIED", &json!({"metadata": "not even an object's shape"}));
    stream.event("MODIFIED", &service("bad", "5"));
    agent.next().await;
    assert_eq!(agent.services(), names(&["a", "b", "bad"]));
}

#[tokio::test]
async fn the_watch_ends_with_its_receiver() {
    let (mut server, client) = Server::new();
    let mut agent = Agent::of(SERVICES, client);
    let _stream = server.stream(&[]).await;
    agent.listed().await;
    drop(agent.updates);
    within(agent.task).await.unwrap();
}

#[test]
fn a_refusal_names_the_permission_and_whom_to_grant_it() {
    let message = "endpointslices.discovery.k8s.io is forbidden: User \"system:serviceaccount:kube-system:waypost\" cannot list";
    let status = kube::core::Status { code: 403, message: message.into(), ..Default::default() };
    let failure::Failure::Trouble(health::Trouble::Forbidden(text)) =
        failure::Failure::of_status(&status, "endpointslices.discovery.k8s.io")
    else {
        panic!("403 is a missing permission")
    };
    let wanted = "grant get, list and watch on endpointslices.discovery.k8s.io to system:serviceaccount:kube-system:waypost";
    assert!(text.contains(wanted), "{text}");
}

async fn refused(source: ClusterSource) -> String {
    client(&source).await.err().expect("an error").to_string()
}

#[tokio::test]
async fn a_connection_that_cannot_work_says_what_to_change() {
    let text = refused(ClusterSource::Kubeconfig("/nonexistent/config".into())).await;
    assert!(text.starts_with("cannot use the kubeconfig /nonexistent/config: ") && text.contains("--kubeconfig"), "{text}");
    for (url, reason) in
        [("10.0.0.1:6443", "http"), ("ftp://a", "http"), ("https:///x", "--api-server"), ("https://a b", "invalid uri")]
    {
        let text = refused(ClusterSource::ApiServer(url.into())).await;
        assert!(text.contains(&format!("{url:?}")) && text.contains(reason) && text.contains("https://HOST:PORT"), "{text}");
    }
    assert!(refused(ClusterSource::Manifests("x".into())).await.contains("manifests"));
}

#[tokio::test]
async fn an_api_server_by_url_is_used_with_the_service_account_where_there_is_one() {
    let url = ClusterSource::ApiServer("https://10.0.0.1:6443".into());
    let anonymous = client::config(&url, Path::new("/nonexistent")).await.unwrap();
    assert_eq!((anonymous.auth_info.token_file, anonymous.root_cert_file), (None, None));
    let folder = std::env::temp_dir().join(format!("waypost-service-account-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("token"), "secret").unwrap();
    std::fs::write(folder.join("ca.crt"), "").unwrap();
    let config = client::config(&url, &folder).await.unwrap();
    assert_eq!(config.cluster_url.to_string(), "https://10.0.0.1:6443/");
    assert_eq!(config.auth_info.token_file, Some(folder.join("token").display().to_string()), "by file, so that it may rotate");
    assert_eq!(config.root_cert_file, Some(folder.join("ca.crt")));
    std::fs::remove_dir_all(&folder).unwrap();
}
