//! Tiny servers that say who answers and whom they see.

use super::{LabError, Namespace};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::{AbortHandle, JoinSet};

/// How a port is served. Every answer is the line `<pod> <client address>:<client port>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serve {
    /// HTTP/1.1 over TCP: the line is the body.
    Http,
    /// TCP: the line comes first, then an echo of what the client sends.
    Tcp,
    /// UDP: the line, for each datagram.
    Udp,
}

/// One served address. Dropping it closes the socket and every connection before it returns.
#[derive(Debug)]
pub(super) struct Server {
    task: AbortHandle,
    ended: Mutex<mpsc::Receiver<()>>,
}

/// Held by each task of a server: when the last one is dropped, the server has ended. The tasks take it as their first argument,
/// because arguments are dropped last to first and the sockets must be closed by then.
type Alive = mpsc::Sender<()>;

impl Server {
    /// Opens the socket in the namespace and serves it from the background runtime.
    pub(super) fn start(namespace: &Namespace, what: Serve, address: SocketAddr, pod: Arc<str>) -> Result<Server, LabError> {
        let handle = runtime()?;
        let _context = handle.enter();
        let failed = || LabError::system(format!("serving {address}"));
        let (alive, ended) = mpsc::channel();
        let task = match what {
            Serve::Http | Serve::Tcp => {
                let listener = TcpListener::from_std(namespace.tcp_listener(address)?).map_err(failed())?;
                handle.spawn(accept(alive, listener, what, pod))
            }
            Serve::Udp => {
                let socket = UdpSocket::from_std(namespace.udp_socket(address)?).map_err(failed())?;
                handle.spawn(answer_datagrams(alive, socket, pod))
            }
        };
        Ok(Server { task: task.abort_handle(), ended: Mutex::new(ended) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
        // Nothing is ever sent: this waits for the tasks' ends to be gone.
        let _ = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner).recv();
    }
}

/// The connections live in a set that dies with this task, so that a stopped server cuts them.
async fn accept(alive: Alive, listener: TcpListener, what: Serve, pod: Arc<str>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, client)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let (line, alive) = (line(&pod, client), alive.clone());
        match what {
            Serve::Http => connections.spawn(serve_http(alive, stream, line)),
            _ => connections.spawn(serve_tcp(alive, stream, line)),
        };
    }
}

async fn serve_http(_alive: Alive, stream: TcpStream, line: String) {
    let answer = service_fn(|_: Request<Incoming>| {
        let body = Full::new(Bytes::from(line.clone()));
        async { Ok::<_, Infallible>(Response::new(body)) }
    });
    // The client's broken connection is the client's business.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
}

async fn serve_tcp(_alive: Alive, mut stream: TcpStream, line: String) {
    let (mut from, mut to) = stream.split();
    if to.write_all(line.as_bytes()).await.is_ok() {
        let _ = tokio::io::copy(&mut from, &mut to).await;
    }
}

async fn answer_datagrams(_alive: Alive, socket: UdpSocket, pod: Arc<str>) {
    let mut buffer = [0; 2048];
    loop {
        // An error here is an ICMP message about an earlier answer.
        if let Ok((_, client)) = socket.recv_from(&mut buffer).await {
            let _ = socket.send_to(line(&pod, client).as_bytes(), client).await;
        }
    }
}

fn line(pod: &str, client: SocketAddr) -> String {
    format!("{pod} {client}\n")
}

/// The runtime of all servers, one background thread. A namespace belongs to the sockets, not to the thread that reads them.
fn runtime() -> Result<Handle, LabError> {
    static RUNTIME: Mutex<Option<Runtime>> = Mutex::new(None);
    let mut runtime = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(runtime) = runtime.as_ref() {
        return Ok(runtime.handle().clone());
    }
    let made = Builder::new_multi_thread().worker_threads(1).thread_name("lab-servers").enable_io().build();
    Ok(runtime.insert(made.map_err(LabError::system("starting the servers' runtime"))?).handle().clone())
}
