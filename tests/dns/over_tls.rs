//! Upstream servers over TLS: who is believed, and that nothing else is spoken with them.

use crate::battery::cluster;
use crate::wire::{ELSEWHERE, Running, answer_to, query, tcp, udp};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RData;
use hickory_proto::rr::rdata::A;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, crypto};
use waypost::config::{RunArgs, Surroundings, load};
use waypost::dns::chain::Plan;
use waypost::dns::chain::plan::from_flags;
use waypost::dns::metrics::Metrics;

fn file(name: &str) -> String {
    format!("{}/tests/dns/tls/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn certificate(name: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(file(name)).unwrap()
}

/// A server that answers over TLS, as `dns.example` and 127.0.0.1. Over UDP it counts what should never come.
struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    questions: Arc<AtomicUsize>,
    in_the_clear: Arc<UdpSocket>,
    /// Told when all connections are to be closed.
    hang_up: Arc<Notify>,
}

impl Server {
    /// `knows_clients`: only for those with a certificate.
    async fn start(knows_clients: bool) -> Server {
        let provider = Arc::new(crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(certificate("ca.pem")).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let builder = if knows_clients { builder.with_client_cert_verifier(verifier) } else { builder.with_no_client_auth() };
        let key = PrivateKeyDer::from_pem_file(file("server.key")).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(builder.with_single_cert(vec![certificate("server.pem")], key).unwrap()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server {
            address,
            connections: Arc::default(),
            questions: Arc::default(),
            in_the_clear: Arc::new(UdpSocket::bind(address).await.unwrap()),
            hang_up: Arc::default(),
        };
        let (connections, questions, hang_up) = (server.connections.clone(), server.questions.clone(), server.hang_up.clone());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, connections, questions) = (acceptor.clone(), connections.clone(), questions.clone());
                let hang_up = hang_up.clone();
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    connections.fetch_add(1, Ordering::SeqCst);
                    loop {
                        let length = tokio::select! {
                            length = stream.read_u16() => length,
                            () = hang_up.notified() => return,
                        };
                        let Ok(length) = length else { return };
                        let mut question = vec![0; usize::from(length)];
                        stream.read_exact(&mut question).await.unwrap();
                        let question = Message::from_vec(&question).unwrap();
                        let mut answer = answer_to(&question, ELSEWHERE);
                        answer.answers = vec![answer.answers[0].clone(); 100];
                        questions.fetch_add(1, Ordering::SeqCst);
                        let bytes = answer.to_vec().unwrap();
                        stream.write_all(&[&(bytes.len() as u16).to_be_bytes(), &bytes[..]].concat()).await.unwrap();
                        stream.flush().await.unwrap();
                    }
                });
            }
        });
        server
    }

    fn heard_something_in_the_clear(&self) -> bool {
        self.in_the_clear.try_recv(&mut [0; 512]).is_ok()
    }
}

fn running(server: &Server, name: &str, more: &[(&str, &str)]) -> Running {
    let upstream = format!("tls://{}{name}", server.address);
    Running::configured(cluster(), &[&[("dns-upstream", upstream.as_str())], more].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_go_over_tls_to_the_server_that_proves_its_name_and_share_its_connection() {
    for name in ["#dns.example", ""] {
        let server = Server::start(false).await;
        let running = running(&server, name, &[("dns-forward-tls-ca", &file("ca.pem"))]);
        for name in ["a.example.com", "b.example.com", "c.example.com"] {
            let reply = tcp(running.ipv4(), &query(name, 1)).await;
            assert_eq!(reply.answers.len(), 100, "{name}: {reply:?}");
            assert_eq!(reply.answers[0].data, RData::A(A(ELSEWHERE)));
        }
        // One for the question by which loops are found, at most, and one for these.
        assert!(server.connections.load(Ordering::SeqCst) <= 2);
        assert!(running.counted("coredns_proxy_conn_cache_hits_total", "tcp-tls") >= 2);
        assert!(!server.heard_something_in_the_clear());
        running.serving.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_prove_its_name_is_told_nothing() {
    let server = Server::start(false).await;
    for (name, ca) in [("#another.example", "ca.pem"), ("#dns.example", "other-ca.pem")] {
        let running = running(&server, name, &[("dns-forward-tls-ca", &file(ca))]);
        let reply = udp(running.ipv4(), &query("www.example.com", 1)).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail, "{name} {ca}");
        running.serving.shutdown().await;
    }
    assert_eq!(server.questions.load(Ordering::SeqCst), 0);
    assert!(!server.heard_something_in_the_clear());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_wants_to_know_its_clients_is_shown_a_certificate() {
    let server = Server::start(true).await;
    let shown = [
        ("dns-forward-tls-ca", &*file("ca.pem")),
        ("dns-forward-tls-cert", &file("client.pem")),
        ("dns-forward-tls-key", &file("client.key")),
    ];
    for (flags, answers) in [(&shown[..], 100), (&shown[..1], 0)] {
        let running = running(&server, "#dns.example", flags);
        assert_eq!(tcp(running.ipv4(), &query("www.example.com", 1)).await.answers.len(), answers);
        running.serving.shutdown().await;
    }
}

/// Certificates are renewed while an agent runs, and what nobody has configured anew is read all the same.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_have_been_replaced_are_used_from_the_next_connection_on() {
    let server = Server::start(false).await;
    let ca = std::env::temp_dir().join(format!("waypost-ca-{}.pem", std::process::id()));
    let put = |text: &[u8]| {
        let unfinished = ca.with_extension("new");
        std::fs::write(&unfinished, text).unwrap();
        std::fs::rename(&unfinished, &ca).unwrap();
    };
    let good = std::fs::read(file("ca.pem")).unwrap();
    put(&std::fs::read(file("other-ca.pem")).unwrap());
    let flags = [("dns-forward-tls-ca", ca.to_str().unwrap()), ("dns-cache-ttl", "0"), ("dns-cache-negative-ttl", "0")];
    let running = running(&server, "#dns.example", &flags);
    let code = async || tcp(running.ipv4(), &query("www.example.com", 1)).await.metadata.response_code;
    assert_eq!(code().await, ResponseCode::ServFail);
    put(&good);
    assert_eq!(code().await, ResponseCode::NoError);
    // What cannot be used does not take the place of what can.
    put(b"nothing of the kind");
    let connections = server.connections.load(Ordering::SeqCst);
    server.hang_up.notify_waiters();
    assert_eq!(code().await, ResponseCode::NoError);
    assert!(server.connections.load(Ordering::SeqCst) > connections, "it took another connection");
    std::fs::remove_file(&ca).unwrap();
    running.serving.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stub_zone_may_have_its_servers_over_tls() {
    let server = Server::start(false).await;
    let stub = format!("corp.example=tls://{}#dns.example", server.address);
    let running = Running::configured(
        cluster(),
        &[("dns-upstream", "127.0.0.1:9"), ("dns-stub-zone", &stub), ("dns-forward-tls-ca", &file("ca.pem"))],
    );
    assert_eq!(tcp(running.ipv4(), &query("www.corp.example", 1)).await.answers.len(), 100);
    running.serving.shutdown().await;
}

#[test]
fn certificates_that_cannot_be_used_are_an_error_that_names_the_file() {
    let check = |flags: &[(&str, &str)]| {
        let flags = [&[("role", "dns"), ("dns-address", "127.0.0.1:5353"), ("node-name", "node")], flags].concat();
        let dns = load(&RunArgs::of(&flags), &Surroundings::default()).unwrap().0.dns;
        let metrics = Arc::new(Metrics::new(&prometheus::Registry::new()).unwrap());
        Plan::new(from_flags(&dns), &dns, &metrics, None).map(drop)
    };
    let (upstream, ca, key) = (("dns-upstream", "tls://192.0.2.1"), file("ca.pem"), file("server.key"));
    check(&[upstream, ("dns-forward-tls-ca", &ca)]).unwrap();
    check(&[("dns-forward-tls-ca", "/nonexistent")]).expect("nobody is asked over TLS");
    for (flags, complaint) in [
        (vec![upstream, ("dns-forward-tls-ca", "/nonexistent")], "cannot use /nonexistent for DNS over TLS"),
        (vec![upstream, ("dns-forward-tls-ca", &key)], "has no certificate that can be used"),
        (vec![("dns-stub-zone", "a.example=tls://192.0.2.1"), ("dns-forward-tls-ca", "/nonexistent")], "/nonexistent"),
        (vec![upstream, ("dns-forward-tls-ca", &ca), ("dns-forward-tls-cert", &ca), ("dns-forward-tls-key", &ca)], "cannot use"),
    ] {
        let error = check(&flags).unwrap_err().to_string();
        assert!(error.contains(complaint), "{error}");
    }
}
