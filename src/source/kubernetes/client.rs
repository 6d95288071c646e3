//! Connecting to an API server.

use crate::config::ClusterSource;
use hyper_util::client::legacy::{Client as HttpClient, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use kube::client::ConfigExt;
use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tower::{BoxError, ServiceBuilder};

/// Where Kubernetes mounts a pod's credentials.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the head of an answer may take. Bodies may last: a watch is one.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// A peer that vanished without a word is noticed after this and three unanswered probes, at no cost to the server.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// How much of an answer a connection may have in memory undecoded. Each watch has a connection, and a buffer stays as large as a listing has made it.
const READ_BUFFER: usize = 64 << 10;

/// Why there is no way to talk to an API server. (Whether one answers shows later: the watches retry for ever.)
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Not in a pod, or in one without a service account.
    #[error(
        "no API server is configured and this is no pod with a service account ({0}); name one with --kubeconfig FILE or --api-server URL"
    )]
    NoServiceAccount(#[source] InClusterError),
    /// The kubeconfig file is missing or cannot be used.
    #[error("cannot use the kubeconfig {}: {}; give --kubeconfig a readable file with a current context", path.display(), first_line(source))]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: KubeconfigError,
    },
    /// The kubeconfig asks for a proxy.
    #[error("the kubeconfig {} asks for the proxy {proxy}, which is not supported; connect directly", path.display())]
    Proxy {
        /// The file.
        path: PathBuf,
        /// The proxy's URL.
        proxy: String,
    },
    /// Not the URL of an API server.
    #[error("--api-server {url:?} is no URL of an API server ({reason}); write https://HOST:PORT")]
    Url {
        /// The URL as given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The credentials cannot be used.
    #[error("cannot use the credentials for the API server: {0}; check the token, certificate and CA files")]
    Credentials(#[source] kube::Error),
    /// The service account's CA cannot be used.
    #[error("cannot use the CA certificates in {}: {reason}", path.display())]
    Ca {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A folder of manifests has no API server.
    #[error("a folder of manifests is configured, so there is no API server to talk to")]
    NoServer,
}

/// Without the excerpt of the file that the YAML reader draws: a log has one line an event.
fn first_line(error: &KubeconfigError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_string()
}

/// A client for the configured API server. Nothing is sent yet, and no cluster DNS or service address is used unless the configuration
/// names one.
///
/// # Errors
/// [`ClientError`] says what to change.
pub async fn client(source: &ClusterSource) -> Result<Client, ClientError> {
    connect(config(source, Path::new(SERVICE_ACCOUNT)).await?)
}

pub(super) async fn config(source: &ClusterSource, service_account: &Path) -> Result<Config, ClientError> {
    match source {
        ClusterSource::InCluster => Config::incluster().map_err(ClientError::NoServiceAccount),
        ClusterSource::Kubeconfig(path) => kubeconfig(path).await,
        ClusterSource::ApiServer(url) => api_server(url, service_account),
        ClusterSource::Manifests(_) => Err(ClientError::NoServer),
    }
}

async fn kubeconfig(path: &Path) -> Result<Config, ClientError> {
    let unusable = |source| ClientError::Kubeconfig { path: path.to_path_buf(), source };
    let file = Kubeconfig::read_from(path).map_err(unusable)?;
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(unusable)?;
    match &config.proxy_url {
        Some(proxy) => Err(ClientError::Proxy { path: path.to_path_buf(), proxy: proxy.to_string() }),
        None => Ok(config),
    }
}

/// The given server, with the pod's own credentials where there are any. Both files are read again as they rotate.
fn api_server(url: &str, service_account: &Path) -> Result<Config, ClientError> {
    let bad = |reason: String| ClientError::Url { url: url.to_string(), reason };
    let uri: hyper::Uri = url.parse().map_err(|error: hyper::http::uri::InvalidUri| bad(error.to_string()))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(bad("it begins with neither http:// nor https://".into()));
    }
    if uri.host().is_none_or(str::is_empty) {
        return Err(bad("it names no host".into()));
    }
    let mut config = Config::new(uri);
    let (token, ca) = (service_account.join("token"), service_account.join("ca.crt"));
    if token.exists() {
        config.auth_info.token_file = Some(token.display().to_string());
    }
    if ca.exists() {
        config.root_cert_file = Some(ca);
        // The file alone decides. Without this kube looks for the system's certificates first, and fails in an image that has none.
        config.root_cert = Some(Vec::new());
    }
    Ok(config)
}

/// Our own stack instead of kube's: with keepalive, a limit on how long an answer may take, and without a log line for each failure
/// (the watches report those once).
fn connect(config: Config) -> Result<Client, ClientError> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    tcp.set_keepalive(Some(KEEPALIVE_IDLE));
    tcp.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    tcp.set_keepalive_retries(Some(3));
    let https = config.rustls_https_connector_with_connector(tcp).map_err(|error| credentials(&config, error))?;
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().map_err(|error| credentials(&config, error))?)
        .layer(config.extra_headers_layer().map_err(ClientError::Credentials)?)
        .timeout(ANSWER_TIMEOUT)
        .map_err(BoxError::from)
        .service(HttpClient::builder(TokioExecutor::new()).http1_max_buf_size(READ_BUFFER).build(https));
    Ok(Client::new(service, config.default_namespace))
}

fn credentials(config: &Config, error: kube::Error) -> ClientError {
    match (&config.root_cert_file, &error) {
        (Some(path), kube::Error::RustlsTls(reason)) => ClientError::Ca { path: path.clone(), reason: reason.to_string() },
        _ => ClientError::Credentials(error),
    }
}
