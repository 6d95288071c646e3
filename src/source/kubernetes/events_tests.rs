//! Events against an API server that the test plays.

use super::events::{Limits, send_events_within};
use crate::model::ObjectKey;
use crate::notices::{ADDRESS_CONFLICT, DNS_PORT_TAKEN, Notices, Subject};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Request, Response};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A server that keeps Events, as far as the sender uses it.
#[derive(Clone, Default)]
struct Server {
    events: Arc<Mutex<BTreeMap<String, Value>>>,
    requests: Arc<Mutex<Vec<String>>>,
    refuses: Arc<Mutex<bool>>,
}

impl Server {
    fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        Client::new(service, "default")
    }

    async fn answer(&self, request: Request<Body>) -> Response<Full<Bytes>> {
        let (method, path) = (request.method().to_string(), request.uri().path().to_string());
        self.requests.lock().unwrap().push(format!("{method} {path}"));
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let mut events = self.events.lock().unwrap();
        let name = path.rsplit('/').next().unwrap_or_default().to_string();
        let (code, answer) = match method.as_str() {
            _ if *self.refuses.lock().unwrap() => (403, status(403)),
            "GET" if name == "gone" => (404, status(404)),
            "GET" => (200, json!({"kind": "PartialObjectMetadata", "metadata": {"name": name, "uid": format!("uid-of-{name}")}})),
            "POST" => {
                let name = body["metadata"]["name"].as_str().unwrap().to_string();
                match events.contains_key(&name) {
                    true => (409, status(409)),
                    false => (201, events.entry(name).or_insert(body).clone()),
                }
            }
            "PATCH" => match events.get_mut(&name) {
                Some(event) => {
                    body.as_object().unwrap().iter().for_each(|(key, value)| event[key] = value.clone());
                    (200, event.clone())
                }
                None => (404, status(404)),
            },
            other => panic!("{other} {path}"),
        };
        Response::builder().status(code).body(Full::new(answer.to_string().into())).unwrap()
    }

    fn events(&self) -> Vec<Value> {
        self.events.lock().unwrap().values().cloned().collect()
    }

    fn requests(&self, method: &str) -> usize {
        self.requests.lock().unwrap().iter().filter(|request| request.starts_with(method)).count()
    }

    /// Waits for what the sender brings about.
    async fn until(&self, what: &str, holds: impl Fn(&Server) -> bool) {
        for _ in 0..4_000 {
            if holds(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("still not: {what}; {:?}", self.events());
    }
}

fn status(code: u16) -> Value {
    json!({"kind": "Status", "status": "Failure", "code": code, "message": "the test says so", "reason": "Test"})
}

/// As the agent's, but in a hurry.
fn limits() -> Limits {
    Limits { spread: Duration::from_millis(20), repeat: Duration::from_millis(300), ..Limits::default() }
}

fn agent(server: &Server, node: &'static str) -> Notices {
    let (notices, received) = Notices::sent();
    let client = server.client();
    tokio::spawn(async move { send_events_within(limits(), client, node, received).await });
    notices
}

fn web() -> Subject {
    Subject::Service(ObjectKey::new("shop", "web"))
}

#[tokio::test]
async fn what_every_node_says_is_one_event() {
    let server = Server::default();
    let (first, second) = (agent(&server, "n1"), agent(&server, "n2"));
    first.tell(&ADDRESS_CONFLICT, web(), "198.51.100.1:80/tcp belongs to shop/old");
    second.tell(&ADDRESS_CONFLICT, web(), "198.51.100.1:80/tcp belongs to shop/old");
    server.until("both have asked", |server| server.requests("POST") == 2).await;
    let events = server.events();
    assert_eq!(events.len(), 1);
    let event = &events[0];
    assert_eq!((&event["reason"], &event["type"]), (&json!("AddressConflict"), &json!("Warning")));
    assert_eq!(event["reportingController"], "waypost");
    assert_eq!(event["metadata"]["namespace"], "shop");
    assert_eq!(event["regarding"]["uid"], "uid-of-web", "kubectl describe looks for it");
    assert_eq!(server.requests("PATCH"), 0);
}

#[tokio::test]
async fn a_repeated_notice_is_counted_and_another_note_is_another_event() {
    let server = Server::default();
    let notices = agent(&server, "n1");
    notices.tell(&DNS_PORT_TAKEN, Subject::Node, "named has it");
    server.until("the first", |server| server.events().len() == 1).await;
    for _ in 0..3 {
        notices.tell(&DNS_PORT_TAKEN, Subject::Node, "named has it");
    }
    notices.tell(&DNS_PORT_TAKEN, Subject::Node, "dnsmasq has it");
    server.until("both", |server| server.events().len() == 2).await;
    let counted = |server: &Server| server.events().iter().any(|event| event["series"]["count"] == 4);
    server.until("the count", counted).await;

    let restarted = agent(&server, "n1");
    restarted.tell(&DNS_PORT_TAKEN, Subject::Node, "named has it");
    server.until("it counts on", |server| server.events().iter().any(|event| event["series"]["count"] == 5)).await;
    assert_eq!(server.events().len(), 2);
    assert!(server.events().iter().all(|event| event["metadata"]["namespace"] == "default"));
}

#[tokio::test]
async fn an_event_about_an_object_that_is_gone_is_not_sent() {
    let server = Server::default();
    let notices = agent(&server, "n1");
    notices.tell(&ADDRESS_CONFLICT, Subject::Service(ObjectKey::new("shop", "gone")), "nobody reads this");
    notices.tell(&DNS_PORT_TAKEN, Subject::Node, "named has it");
    server.until("the gone one was looked for", |server| server.requests("GET") == 2 && server.events().len() == 1).await;
    assert_eq!(server.requests("POST"), 1);
}

#[tokio::test]
async fn without_the_right_to_send_the_agent_goes_on_and_sends_when_it_has_it() {
    let server = Server::default();
    *server.refuses.lock().unwrap() = true;
    let notices = agent(&server, "n1");
    notices.tell(&DNS_PORT_TAKEN, Subject::Node, "named has it");
    server.until("it was refused", |server| server.requests("GET") == 1).await;
    *server.refuses.lock().unwrap() = false;
    notices.tell(&DNS_PORT_TAKEN, Subject::Node, "named has it");
    server.until("the next one is sent", |server| server.events().len() == 1).await;
}
