//! The two paths of a question, over UDP and TCP, and how their answers are compared. Used by the fuzz test too.

use hickory_proto::op::Message;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::task::yield_now;
use tokio::time::timeout;
use waypost::config::{CacheConfig, Upstreams};
use waypost::dns::chain::{Chain, Plan};
use waypost::dns::fast::Composer;
use waypost::dns::forward::Forwarder;
use waypost::dns::metrics::Metrics;
use waypost::dns::records::Records;
use waypost::dns::resolve::Resolver;
use waypost::dns::respond::Responder;
use waypost::dns::server::{self, Serving};
use waypost::dns::shape::Shape;

const PATIENCE: Duration = Duration::from_secs(60);
/// Whoever asks.
const CLIENT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 5353);

/// Both paths over the same records. Names from elsewhere are not resolved here: SERVFAIL.
pub struct Both {
    records: Arc<Records>,
    shape: Shape,
    slow: Responder,
    chain: Chain,
    metrics: Arc<Metrics>,
    resolver: Resolver,
    runtime: tokio::runtime::Runtime,
}

impl Both {
    pub fn over(records: Records) -> Both {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().event_interval(1).build().unwrap();
        let records = Arc::new(records);
        let metrics = Arc::new(Metrics::new(&prometheus::Registry::new()).unwrap());
        let resolver = {
            let _inside = runtime.enter();
            Resolver::new(Forwarder::to(&Upstreams::default(), metrics.clone()), &CacheConfig::default(), metrics.clone())
        };
        let shape = records.shape().clone();
        let chain = Chain::new(Plan::simple(shape.clone(), resolver.clone()));
        let slow = Responder::new(records.clone(), chain.clone(), metrics.clone(), "127.0.0.1:53".parse().unwrap());
        Both { records, shape, slow, chain, metrics, resolver, runtime }
    }

    /// From now on the records are shown in this shape, which has one zone.
    pub fn show(&mut self, shape: Shape) {
        self.chain.replace(Plan::simple(shape.clone(), self.resolver.clone()));
        self.shape = shape;
    }

    /// The shape in which they are shown.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// What both paths answer from.
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// The fast path's reply, if it has one.
    pub fn fast(&self, datagram: &[u8]) -> Option<Vec<u8>> {
        Composer::new(7)
            .answer(&self.records.view_as(&self.shape, &self.shape.zones[0]), datagram)
            .map(|composed| composed.bytes.to_vec())
    }

    /// The other path's reply, if there is one.
    pub fn slow(&self, datagram: &[u8]) -> Option<Vec<u8>> {
        self.runtime.block_on(self.slow.answer_datagram(datagram.to_vec(), CLIENT))
    }

    /// The other path's reply over TCP, if there is one.
    pub fn slow_message(&self, message: &[u8]) -> Option<Vec<u8>> {
        self.runtime.block_on(self.slow.answer_message(message.to_vec(), CLIENT))
    }

    /// A server over the same records, on loopback. It runs while something is asked of this.
    pub fn serve(&self) -> (SocketAddr, Serving) {
        let _inside = self.runtime.enter();
        let sockets = server::bind(&["127.0.0.1:0".parse().unwrap()]).unwrap();
        let serving = sockets.serve(self.records.clone(), self.chain.clone(), self.metrics.clone()).unwrap();
        (serving.local_addrs()[0], serving)
    }

    /// What it says on a connection to all of these pieces, each of which it has read before the next one comes.
    pub fn converse(&self, server: SocketAddr, pieces: &[&[u8]]) -> Vec<u8> {
        self.runtime.block_on(async {
            let stream = TcpSocket::new_v4().unwrap().connect(server).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (mut from, mut to) = stream.into_split();
            let mut answers = Vec::new();
            let says = async {
                for piece in pieces {
                    // The server may have had enough.
                    let _ = to.write_all(piece).await;
                    for _ in 0..3 {
                        yield_now().await;
                    }
                }
                let _ = to.shutdown().await;
            };
            let said = timeout(PATIENCE, async { tokio::join!(says, from.read_to_end(&mut answers)) }).await;
            let _ = said.expect("the server ends a connection whose client has said its last word");
            answers
        })
    }

    /// Whether the fast path has an answer over UDP, which must be the other's; over TCP as well.
    pub fn agree_on(&self, question: &[u8]) -> bool {
        self.agree_on_message(question);
        let Some(fast) = self.fast(question) else { return false };
        compare(&fast, self.slow(question), question);
        true
    }

    /// Whether the fast path has an answer over TCP, which must be the other's.
    pub fn agree_on_message(&self, question: &[u8]) -> bool {
        let view = self.records.view_as(&self.shape, &self.shape.zones[0]);
        let mut composer = Composer::new(7);
        let Some(fast) = composer.answer_message(&view, question) else { return false };
        compare(fast.bytes, self.slow_message(question), question);
        true
    }
}

fn compare(fast: &[u8], slow: Option<Vec<u8>>, question: &[u8]) {
    let slow = slow.expect("what the fast path answers the other one answers too");
    assert_eq!(in_order(fast), in_order(&slow), "{:?}", Message::from_vec(question));
}

/// The bytes of a reply, except that records of the same type, owner and length in the answer section are in the order of their data; such
/// are the addresses of one name. Truncated ones are a choice: which ones is not compared.
fn in_order(reply: &[u8]) -> (Vec<u8>, Option<Message>) {
    let message = Message::from_vec(reply).unwrap();
    let types: Vec<u16> = message.answers.iter().map(|answer| answer.record_type().into()).collect();
    let length = match types.first() {
        // A pointer, ten bytes, and the address.
        Some(1) => 2 + 10 + 4,
        Some(28) => 2 + 10 + 16,
        _ => return (reply.to_vec(), None),
    };
    assert!(types.iter().all(|rtype| *rtype == types[0]), "addresses are of one family: {message:?}");
    let question: usize = message.queries[0].name().iter().map(|label| label.len() + 1).sum::<usize>() + 1 + 4;
    let (head, rest) = reply.split_at(12 + question);
    let (addresses, tail) = rest.split_at(length * types.len());
    let mut chunks: Vec<&[u8]> = addresses.chunks(length).collect();
    chunks.sort();
    if message.metadata.truncation {
        chunks.iter_mut().for_each(|chunk| *chunk = &chunk[..12]);
    }
    (
        [head, &chunks.concat(), tail].concat(),
        Some(message).map(|mut message| {
            message.answers.clear();
            message
        }),
    )
}
