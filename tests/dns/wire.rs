//! Asking over the wire: a running server, a client for UDP and TCP, and an upstream that answers everything.

use crate::battery::abbreviate;
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;
use waypost::config::{CacheConfig, GuardConfig, RunArgs, Surroundings, load};
use waypost::dns::chain::{self, Chain, Plan};
use waypost::dns::forward::Forwarder;
use waypost::dns::limits::Limits;
use waypost::dns::metrics::Metrics;
use waypost::dns::records::Records;
use waypost::dns::reply::from_hickory;
use waypost::dns::resolve::Resolver;
use waypost::dns::server::{self, Serving};
use waypost::import::corefile::translate;
use waypost::import::read::text_of;

/// What the upstream of these tests says about every name.
pub const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
pub const LIMIT: Duration = Duration::from_secs(20);

/// A server on loopback, both families, ports chosen by the kernel.
pub struct Running {
    pub serving: Serving,
    pub registry: prometheus::Registry,
}

impl Running {
    /// Serves these records; what is not the cluster's goes to `upstreams`.
    pub fn start(records: Records, upstreams: &[SocketAddr]) -> Running {
        Running::with_cache(records, upstreams, &CacheConfig::default())
    }

    /// The same with other settings of the cache.
    pub fn with_cache(records: Records, upstreams: &[SocketAddr], cache: &CacheConfig) -> Running {
        let registry = prometheus::Registry::new();
        let metrics = Arc::new(Metrics::new(&registry).unwrap());
        let forwarder = Forwarder::to(&upstreams.iter().copied().collect(), metrics.clone());
        Running::with_forwarder(records, forwarder, cache, registry, metrics)
    }

    /// The same as these flags of `waypost run` say.
    pub fn configured(records: Records, flags: &[(&str, &str)]) -> Running {
        let flags = [&[("role", "dns"), ("dns-address", "127.0.0.1:5353"), ("node-name", "node")], flags].concat();
        let (config, _) = load(&RunArgs::of(&flags), &Surroundings::default()).unwrap();
        let registry = prometheus::Registry::new();
        let metrics = Arc::new(Metrics::new(&registry).unwrap());
        let plan = Plan::new(chain::plan::from_flags(&config.dns), &config.dns, &metrics, None).unwrap();
        Running::with_plan(records, plan, &config.dns.guard, registry, metrics)
    }

    fn with_forwarder(
        records: Records,
        forwarder: Forwarder,
        cache: &CacheConfig,
        registry: prometheus::Registry,
        metrics: Arc<Metrics>,
    ) -> Running {
        let plan = Plan::simple(records.shape().clone(), Resolver::new(forwarder, cache, metrics.clone()));
        Running::with_plan(records, plan, &GuardConfig::default(), registry, metrics)
    }

    /// The same as this Corefile says.
    pub fn by_corefile(records: impl Into<Arc<Records>>, corefile: &str) -> Running {
        let (plan, registry, metrics) = Running::planned(corefile).unwrap();
        Running::with_plan(records, plan, &GuardConfig::default(), registry, metrics)
    }

    /// The same as a file says, beside which there is what it imports.
    pub fn by_file(records: Records, path: &Path) -> Running {
        let (plan, registry, metrics) = Running::planned_at(path, &std::fs::read_to_string(path).unwrap()).unwrap();
        Running::with_plan(records, plan, &GuardConfig::default(), registry, metrics)
    }

    /// The same, with other limits of what may be under way.
    pub fn limited(records: Records, corefile: &str, limits: Limits) -> Running {
        let (plan, registry, metrics) = Running::planned(corefile).unwrap();
        Running::with_chain(records, Chain::limited(plan, limits), &GuardConfig::default(), registry, metrics)
    }

    /// What is wrong with a Corefile, if anything is.
    pub fn plan_of(corefile: &str) -> Result<(), String> {
        Running::planned(corefile).map(drop)
    }

    fn planned(corefile: &str) -> Result<(Plan, prometheus::Registry, Arc<Metrics>), String> {
        Running::planned_at(Path::new("Corefile"), corefile)
    }

    fn planned_at(path: &Path, corefile: &str) -> Result<(Plan, prometheus::Registry, Arc<Metrics>), String> {
        let (config, _) = load(
            &RunArgs::of(&[("role", "dns"), ("dns-address", "127.0.0.1:5353"), ("node-name", "node")]),
            &Surroundings::default(),
        )
        .unwrap();
        let registry = prometheus::Registry::new();
        let metrics = Arc::new(Metrics::new(&registry).unwrap());
        let blocks = text_of(path, corefile).map_err(|error| error.to_string())?;
        let translation = translate(&blocks).map_err(|error| error.to_string())?;
        let plan = Plan::new(translation.model.clone(), &config.dns, &metrics, None).map_err(|error| {
            let place = translation.place(error.block, error.plugin, error.number).unwrap();
            format!("{place}: {error}")
        })?;
        Ok((plan, registry, metrics))
    }

    fn with_plan(
        records: impl Into<Arc<Records>>,
        plan: Plan,
        guard: &GuardConfig,
        registry: prometheus::Registry,
        metrics: Arc<Metrics>,
    ) -> Running {
        Running::with_chain(records, Chain::new(plan), guard, registry, metrics)
    }

    /// By a plan that may be replaced.
    pub fn with_chain(
        records: impl Into<Arc<Records>>,
        chain: Chain,
        guard: &GuardConfig,
        registry: prometheus::Registry,
        metrics: Arc<Metrics>,
    ) -> Running {
        let sockets = server::bind(&["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()]).unwrap();
        Running { serving: sockets.guarded(guard).serve(records.into(), chain, metrics).unwrap(), registry }
    }

    pub fn ipv4(&self) -> SocketAddr {
        self.serving.local_addrs()[0]
    }

    pub fn ipv6(&self) -> SocketAddr {
        self.serving.local_addrs()[1]
    }

    /// The sum of a counter over all its labels that contain `label` as a value.
    pub fn counted(&self, name: &str, label: &str) -> u64 {
        let families = self.registry.gather();
        let metrics = families.iter().filter(|family| family.name() == name).flat_map(|family| family.get_metric());
        let chosen = metrics.filter(|metric| label.is_empty() || metric.get_label().iter().any(|pair| pair.value() == label));
        chosen.map(|metric| metric.get_counter().get_value() as u64).sum()
    }
}

impl Running {
    /// The largest value of a gauge with `label` as a value of one of its labels: the servers on the two addresses have different ports.
    pub fn shown(&self, name: &str, label: &str) -> f64 {
        let families = self.registry.gather();
        let metrics = families.iter().filter(|family| family.name() == name).flat_map(|family| family.get_metric());
        let chosen = metrics.filter(|metric| label.is_empty() || metric.get_label().iter().any(|pair| pair.value() == label));
        chosen.map(|metric| metric.get_gauge().get_value()).fold(f64::NAN, f64::max)
    }
}

/// A plain question.
pub fn query(name: &str, rtype: u16) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_labels(name.split('.').map(str::as_bytes)).unwrap(), RecordType::from(rtype)));
    message
}

/// Sends bytes as a datagram and waits for one.
pub async fn udp_bytes(server: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let any = if server.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
    let socket = UdpSocket::bind(any).await.unwrap();
    socket.connect(server).await.unwrap();
    socket.send(bytes).await.unwrap();
    let mut buffer = vec![0; 65_535];
    let length = timeout(LIMIT, socket.recv(&mut buffer)).await.expect("an answer over UDP").unwrap();
    buffer.truncate(length);
    buffer
}

/// Sends bytes with their length over TCP and waits for an answer.
pub async fn tcp_bytes(server: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(server).await.unwrap();
    let length = u16::try_from(bytes.len()).unwrap();
    stream.write_all(&[&length.to_be_bytes(), bytes].concat()).await.unwrap();
    let length = timeout(LIMIT, stream.read_u16()).await.expect("an answer over TCP").unwrap();
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await.unwrap();
    answer
}

/// Asks over a connection that is open.
pub async fn exchange(stream: &mut TcpStream, question: &Message) -> Message {
    let bytes = question.to_vec().unwrap();
    stream.write_all(&[&(bytes.len() as u16).to_be_bytes(), &bytes[..]].concat()).await.unwrap();
    let length = timeout(LIMIT, stream.read_u16()).await.expect("an answer over TCP").unwrap();
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await.unwrap();
    let answer = Message::from_vec(&answer).unwrap();
    assert_eq!(answer.metadata.id, question.metadata.id);
    answer
}

/// Asks over UDP.
pub async fn udp(server: SocketAddr, message: &Message) -> Message {
    Message::from_vec(&udp_bytes(server, &message.to_vec().unwrap()).await).unwrap()
}

/// Asks over TCP.
pub async fn tcp(server: SocketAddr, message: &Message) -> Message {
    Message::from_vec(&tcp_bytes(server, &message.to_vec().unwrap()).await).unwrap()
}

/// Writes a reply down as the table does.
pub fn lines(reply: &Message) -> Vec<String> {
    let code = format!("{:?}", reply.metadata.response_code).to_uppercase();
    let mut lines = vec![code];
    for (section, records) in [("answer", &reply.answers), ("authority", &reply.authorities), ("additional", &reply.additionals)]
    {
        lines.extend(records.iter().map(|record| abbreviate(line(section, record))));
    }
    lines.sort();
    lines
}

fn line(section: &str, record: &Record) -> String {
    let data = match &record.data {
        RData::SOA(soa) => {
            format!("{} {} SERIAL {} {} {} {}", soa.mname, soa.rname, soa.refresh, soa.retry, soa.expire, soa.minimum)
        }
        RData::TXT(text) => format!("\"{text}\""),
        data => data.to_string(),
    };
    // Hickory's own way of writing a name escapes a dash at the beginning.
    let owner = from_hickory(&record.name).unwrap();
    format!("{section} {owner} {} {} {data}", record.ttl, record.record_type())
}

/// An upstream that says [`ELSEWHERE`] to every question, with RA set.
pub async fn upstream() -> SocketAddr {
    fake_upstream(|question, _| vec![answer_to(question, ELSEWHERE)]).await
}

/// Answers every question on every connection by this.
pub fn answer_over_tcp(listener: TcpListener, answer: impl Fn(&Message) -> Message + Clone + Send + 'static) {
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let answer = answer.clone();
            tokio::spawn(async move {
                while let Ok(length) = stream.read_u16().await {
                    let mut question = vec![0; usize::from(length)];
                    stream.read_exact(&mut question).await.unwrap();
                    let answer = answer(&Message::from_vec(&question).unwrap()).to_vec().unwrap();
                    stream.write_all(&[&(answer.len() as u16).to_be_bytes(), &answer[..]].concat()).await.unwrap();
                }
            });
        }
    });
}

/// The next datagram that is a question of a client, and who sent it. Questions by which the server looks for loops are another matter (`faults.rs`):
/// they are answered on the way, as any server would.
pub async fn client_question(socket: &UdpSocket) -> (Message, SocketAddr) {
    let mut buffer = vec![0; 65_535];
    loop {
        let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
        let question = Message::from_vec(&buffer[..length]).unwrap();
        if question.queries.first().is_none_or(|query| query.query_type() != RecordType::HINFO) {
            return (question, client);
        }
        let mut answer = answer_to(&question, ELSEWHERE);
        answer.answers.clear();
        answer.metadata.response_code = ResponseCode::NXDomain;
        socket.send_to(&answer.to_vec().unwrap(), client).await.unwrap();
    }
}

/// An upstream over UDP; `behave` gets each question with its number and returns the datagrams to send back.
pub async fn fake_upstream(mut behave: impl FnMut(&Message, usize) -> Vec<Message> + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        for number in 0.. {
            let (question, client) = client_question(&socket).await;
            for answer in behave(&question, number) {
                socket.send_to(&answer.to_vec().unwrap(), client).await.unwrap();
            }
        }
    });
    address
}

/// A proper answer with one address.
pub fn answer_to(question: &Message, address: Ipv4Addr) -> Message {
    let mut answer = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
    answer.metadata.recursion_desired = question.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.add_queries(question.queries.clone());
    if let Some(query) = question.queries.first() {
        answer.add_answer(Record::from_rdata(query.name().clone(), 60, RData::A(A(address))));
    }
    answer
}
