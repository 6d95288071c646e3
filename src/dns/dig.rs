//! Questions that people ask a running server about itself: `waypost dig` and `waypost dns top`.

use super::chain::Chain;
use super::lookup::{self, Node};
use super::metrics::Metrics;
use super::name::{DomainName, Labels};
use super::records::{Records, Unheard};
use super::reply;
use super::respond::Responder;
use super::service_record::{RecordKind, ServiceRecord};
use super::shape::PodNames;
use super::trace::{self, Step};
use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// As the kubelet writes it into the pods' resolv.conf.
const NDOTS: usize = 5;
/// More search domains than the C library takes are no help.
const MAX_SEARCH: usize = 32;
/// Once so much time has passed no further name is asked,
const TIME_FOR_NAMES: Duration = Duration::from_secs(10);
/// and one is given up after so much: a forwarded question has ended by then. Both together are less than the socket has for an answer.
const TIME_FOR_ONE: Duration = Duration::from_secs(8);
/// Longer than this nobody may have questions counted.
const MAX_SECONDS: u32 = 15;
/// Nobody reads more.
const MAX_COUNT: usize = 1000;

/// The body of `POST /v1/dig`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DigRequest {
    /// The name, or an address for its reverse name.
    pub name: String,
    /// The type, such as `AAAA`, `SRV` or `TYPE65`; A, and PTR for an address.
    #[serde(default, rename = "type")]
    pub rtype: Option<String>,
    /// Search as a pod of this namespace does.
    #[serde(default)]
    pub namespace: Option<String>,
    /// More domains to search in, after those of the namespace.
    #[serde(default)]
    pub search: Vec<String>,
}

/// The answer to it: each name that was tried, in order. The last one is the answer, if there is one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dug {
    /// What was asked.
    pub attempts: Vec<Attempt>,
    /// The names that were not asked any more, because the others have taken too long: their upstream servers do not answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unasked: Vec<String>,
}

/// One question and its answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// The name that was asked for.
    pub name: String,
    /// The type.
    #[serde(rename = "type")]
    pub rtype: String,
    /// The response code, `NOERROR` or `NXDOMAIN`, say.
    pub code: String,
    /// Milliseconds until the answer was there.
    pub millis: f64,
    /// The records of the answer section, and of the authority section where that is empty.
    pub records: Vec<Line>,
    /// The objects of the cluster of which the answer is made, or what is known of the name instead.
    pub objects: Vec<String>,
    /// Where it comes from.
    pub steps: Vec<Step>,
}

impl Attempt {
    /// Whether it is what was asked for.
    pub fn is_found(&self) -> bool {
        self.code == "NOERROR" && self.records.iter().any(|record| record.section == "answer")
    }
}

/// A record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// `answer` or `authority`.
    pub section: String,
    /// The owner.
    pub name: String,
    /// Seconds.
    pub ttl: u32,
    /// The type.
    #[serde(rename = "type")]
    pub rtype: String,
    /// The data as text.
    pub data: String,
}

/// The body of `POST /v1/dns/top`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopRequest {
    /// For so long questions are counted, 1 to 15 seconds.
    pub seconds: u32,
    /// So many names and clients at most.
    pub count: usize,
}

/// The answer to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Listed {
    /// For how long questions were counted.
    pub seconds: u32,
    /// How many there were.
    pub questions: u64,
    /// By so much each of the counts below may be too low.
    pub missed: u64,
    /// The names that were asked for most, and how often.
    pub names: Vec<Counted>,
    /// The clients that asked most, and how often.
    pub clients: Vec<Counted>,
}

/// How often.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Counted {
    /// A name or an address.
    pub what: String,
    /// So often.
    pub questions: u64,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unasked {
    /// No name.
    #[error("{0:?} is no domain name and no address")]
    Name(String),
    /// No type.
    #[error("{0:?} is no record type; give A, AAAA, SRV, PTR, TXT, MX or the like, or TYPE and a number")]
    Type(String),
    /// Too many search domains.
    #[error("there are {0} search domains; give at most {MAX_SEARCH}")]
    Search(usize),
    /// There is nobody to ask.
    #[error("DNS is not served: it has no configuration that it can obey; the log and /readyz say why")]
    NotServed,
    /// No time.
    #[error("{0} seconds are not allowed; give 1 to {MAX_SECONDS}")]
    Seconds(u32),
    /// Somebody else is at it.
    #[error("somebody else is counting questions at the moment; try again in {MAX_SECONDS} seconds")]
    Busy,
}

/// Where these questions are answered.
#[derive(Clone)]
pub struct Desk {
    /// What is in force.
    pub chain: Chain,
    /// The cluster's names.
    pub records: Arc<Records>,
    /// They count the questions.
    pub metrics: Arc<Metrics>,
}

impl Desk {
    /// Asks the running server, and says where its answer comes from.
    ///
    /// # Errors
    /// What is asked is no question.
    pub async fn dig(&self, request: &DigRequest) -> Result<Dug, Unasked> {
        if request.search.len() > MAX_SEARCH {
            return Err(Unasked::Search(request.search.len()));
        }
        let (names, rtype) = match request.name.parse::<IpAddr>() {
            Ok(address) => (vec![Name::from(address)], RecordType::PTR),
            Err(_) => (self.candidates(request)?, RecordType::A),
        };
        let rtype = request.rtype.as_deref().map_or(Ok(rtype), |text| record_type(text).ok_or(Unasked::Type(text.into())))?;
        let address = self.chain.plan().addresses().first().copied().ok_or(Unasked::NotServed)?;
        let responder = Responder::new(self.records.clone(), self.chain.clone(), self.metrics.clone(), address);
        let mut attempts: Vec<Attempt> = Vec::new();
        let began = Instant::now();
        let mut names = names.into_iter();
        for name in names.by_ref() {
            attempts.push(self.ask(&responder, &name, rtype).await);
            if attempts.last().is_some_and(Attempt::is_found) {
                return Ok(Dug { attempts, unasked: Vec::new() });
            }
            if began.elapsed() > TIME_FOR_NAMES {
                break;
            }
        }
        Ok(Dug { attempts, unasked: names.map(|name| text(&name)).collect() })
    }

    /// The names that are tried, in the order of the C library.
    fn candidates(&self, request: &DigRequest) -> Result<Vec<Name>, Unasked> {
        let parse = |text: &str| {
            let name = DomainName::parse(text).map(|name| reply::name_to_hickory(&name));
            name.ok_or_else(|| Unasked::Name(text.to_string()))
        };
        let zone = self.records.shape().zones.first().map_or_else(String::new, ToString::to_string);
        let mut domains = Vec::new();
        if let Some(namespace) = &request.namespace {
            domains.extend([format!("{namespace}.svc.{zone}"), format!("svc.{zone}"), zone]);
        }
        domains.extend(request.search.iter().cloned());
        let as_given = parse(&request.name)?;
        if domains.is_empty() || request.name.ends_with('.') {
            return Ok(vec![as_given]);
        }
        let mut names = Vec::new();
        for domain in &domains {
            // What gets too long is no name: it is left out, as the C library does.
            parse(domain)?;
            names.extend(parse(&format!("{}.{domain}", request.name)).ok());
        }
        let is_given_first = request.name.matches('.').count() >= NDOTS;
        names.insert(if is_given_first { 0 } else { names.len() }, as_given);
        Ok(names)
    }

    async fn ask(&self, responder: &Responder, name: &Name, rtype: RecordType) -> Attempt {
        let mut question = Message::query();
        question.metadata.id = rand::random();
        question.metadata.recursion_desired = true;
        question.add_query(Query::query(name.clone(), rtype));
        let client = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let began = Instant::now();
        // A question that we have made ourselves can be written.
        let bytes = question.to_vec().unwrap_or_default();
        let (answer, steps) = trace::watched(async {
            let answer = timeout(TIME_FOR_ONE, responder.explore(bytes, client)).await;
            answer.unwrap_or_else(|_| {
                trace::note(|| Step::Failed { why: format!("given up after {} s", TIME_FOR_ONE.as_secs()) });
                None
            })
        })
        .await;
        let millis = millis(began.elapsed());
        let answer = answer.and_then(|bytes| Message::from_vec(&bytes).ok());
        let code = answer.as_ref().map_or("no answer".into(), code_name);
        let mut records = Vec::new();
        let mut objects = Vec::new();
        if let Some(answer) = &answer {
            records.extend(answer.answers.iter().map(|record| line("answer", record)));
            if answer.answers.is_empty() {
                records.extend(answer.authorities.iter().map(|record| line("authority", record)));
            }
            if steps.contains(&Step::Records) {
                let aliases = answer.answers.iter().filter_map(|record| match &record.data {
                    RData::CNAME(target) => Some(target.0.clone()),
                    _ => None,
                });
                objects.extend([name.clone()].into_iter().chain(aliases).filter_map(|name| self.objects_of(&name)).flatten());
            }
        }
        Attempt { name: text(name), rtype: rtype.to_string(), code, millis, records, objects, steps }
    }

    /// What the cluster has under this name; `None` for names that are not the cluster's.
    fn objects_of(&self, name: &Name) -> Option<Vec<String>> {
        let name = reply::from_hickory(name)?.to_lower();
        let (shape, view) = (self.records.shape(), self.records.view());
        if let Some(address) = lookup::reverse_address(name.as_wire()) {
            let mut found = Vec::new();
            let told = lookup::each_name_at(&view, address, |service, endpoint| {
                found.push(match endpoint {
                    Some(endpoint) => format!("endpoint {} of {}", endpoint.address, object(&service)),
                    None => object(&service),
                });
            });
            let unheard = || vec!["what decides it is not known of the cluster yet".to_string()];
            return Some(told.map_or_else(|Unheard| unheard(), |()| found));
        }
        let zone = shape.zone_of(name.as_wire())?;
        let view = self.records.view_as(shape, zone);
        let label = |label: &[u8]| String::from_utf8_lossy(label).into_owned();
        Some(vec![match lookup::find(&view, name.as_wire()) {
            Node::Missing if !view.is_synced() => "the cluster is not fully known yet".to_string(),
            Node::Missing => format!("nothing in {zone} has this name"),
            Node::Unheard => "what decides it is not known of the cluster yet".to_string(),
            Node::Bare => "a name that has others below it, and no records".to_string(),
            Node::Apex | Node::Version | Node::NameServer => format!("the zone {zone} itself"),
            Node::Pod(address) if shape.pods == PodNames::Verified => format!("a pod that has the address {address}"),
            Node::Pod(address) => format!("the address {address}, which the name spells (pods: insecure)"),
            Node::Service(service) => object(&service),
            Node::Port { service, port, protocol } => format!("port {}/{} of {}", label(port), label(protocol), object(&service)),
            Node::Endpoint { service, label: name, .. } => format!("endpoint {} of {}", label(name), object(&service)),
            Node::Zonal { service, .. } => format!("endpoints of {} in a zone of nodes", object(&service)),
        }])
    }

    /// Counts questions for a while, and lists the busiest names and clients.
    ///
    /// # Errors
    /// Another count is under way, or it is to take too long.
    pub async fn top(&self, request: &TopRequest) -> Result<Listed, Unasked> {
        let seconds = request.seconds;
        if !(1..=MAX_SECONDS).contains(&seconds) {
            return Err(Unasked::Seconds(seconds));
        }
        let watching = self.metrics.top.watch().ok_or(Unasked::Busy)?;
        sleep(Duration::from_secs(seconds.into())).await;
        let busiest = watching.busiest(request.count.min(MAX_COUNT));
        let name = |wire: &[u8]| DomainName::from_labels(Labels::of(wire)).map_or("?".to_string(), |name| name.to_string());
        Ok(Listed {
            seconds,
            questions: busiest.questions,
            missed: busiest.missed,
            names: busiest.names.iter().map(|(wire, questions)| Counted { what: name(wire), questions: *questions }).collect(),
            clients: busiest
                .clients
                .iter()
                .map(|(client, questions)| Counted { what: client.to_string(), questions: *questions })
                .collect(),
        })
    }
}

/// A Service in words.
fn object(service: &ServiceRecord) -> String {
    let mut labels = Labels::of(&service.labels).map(String::from_utf8_lossy);
    let (name, namespace) = (labels.next().unwrap_or_default(), labels.next().unwrap_or_default());
    let kind = match &service.kind {
        RecordKind::ClusterIp => "ClusterIP".to_string(),
        RecordKind::Headless => "headless".to_string(),
        RecordKind::Alias(Some(target)) => format!("ExternalName {target}"),
        RecordKind::Alias(None) => "ExternalName of an address, which is no name".to_string(),
        RecordKind::SlicesOnly => return format!("EndpointSlices without a Service {namespace}/{name}"),
    };
    format!("Service {namespace}/{name} ({kind})")
}

fn line(section: &str, record: &Record) -> Line {
    Line {
        section: section.to_string(),
        name: text(&record.name),
        ttl: record.ttl,
        rtype: record.record_type().to_string(),
        data: record.data.to_string(),
    }
}

/// Our own way of writing a name: hickory's escapes a dash at the beginning.
fn text(name: &Name) -> String {
    reply::from_hickory(name).map_or_else(|| name.to_string(), |name| name.to_string())
}

fn code_name(answer: &Message) -> String {
    super::metrics::code_label(answer.metadata.response_code.into()).to_string()
}

fn record_type(text: &str) -> Option<RecordType> {
    let text = text.to_ascii_uppercase();
    let by_number = text.strip_prefix("TYPE").and_then(|number| number.parse::<u16>().ok()).map(RecordType::from);
    by_number.or_else(|| RecordType::from_str(&text).ok())
}

/// Milliseconds, to the microsecond.
pub(super) fn millis(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}
