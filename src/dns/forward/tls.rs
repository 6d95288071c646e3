//! DNS over TLS (RFC 7858): who a server must prove to be, and how.

use crate::config::TlsConfig;
use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore, crypto};
use tracing::{info, warn};

/// Why servers cannot be asked over TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file of certificates or a key.
    #[error("cannot use {} for DNS over TLS: {reason}; give a PEM file", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: pem::Error,
    },
    /// A file without certificates.
    #[error("{} has no certificate that can be used: give a PEM file", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Nobody is trusted.
    #[error(
        "this system has no root certificates, so that no server over TLS could be trusted (the container image has none): \
         give --dns-forward-tls-ca a PEM file"
    )]
    NoRoots,
    /// Key and certificate do not go together, say.
    #[error("cannot use the client certificate for DNS over TLS: {0}")]
    Client(#[source] rustls::Error),
}

/// How servers are asked over TLS. Clones share their sessions, so that a second connection is made faster, and the files, which are read again when
/// they have changed: certificates are renewed while an agent runs.
#[derive(Clone)]
pub(super) struct Tls {
    config: TlsConfig,
    current: Arc<Mutex<Current>>,
}

/// What the files say, and which ones they were.
struct Current {
    files: Vec<Stamp>,
    connector: TlsConnector,
}

/// What tells a file from the one that stood in its place before; `None`: there is none.
type Stamp = Option<(u64, u64, SystemTime)>;

impl Tls {
    /// Reads the certificates.
    pub fn new(config: &TlsConfig) -> Result<Tls, TlsError> {
        // Looked at before they are read: what changes meanwhile is read again.
        let current = Current { files: stamps(config), connector: connector(config)? };
        Ok(Tls { config: config.clone(), current: Arc::new(Mutex::new(current)) })
    }

    /// As the files have it now. One that is being replaced, or is broken, changes nothing: the last good ones hold.
    fn connector(&self) -> TlsConnector {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let files = stamps(&self.config);
        if files != current.files {
            current.files = files;
            match connector(&self.config) {
                Ok(connector) => {
                    info!("the certificates for DNS over TLS have been read again");
                    current.connector = connector;
                }
                Err(error) => {
                    warn!(%error, "the certificates for DNS over TLS have changed and cannot be used: those from before are")
                }
            }
        }
        current.connector.clone()
    }

    /// A connection to a server that has proved to be this one: the name, or without one the address.
    pub async fn connect(&self, server: SocketAddr, name: Option<&str>) -> io::Result<TlsStream<TcpStream>> {
        let name = match name {
            Some(name) => ServerName::try_from(name.to_string()).map_err(io::Error::other)?,
            None => ServerName::IpAddress(server.ip().into()),
        };
        let stream = TcpStream::connect(server).await?;
        stream.set_nodelay(true)?;
        self.connector().connect(name, stream).await
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

fn stamps(config: &TlsConfig) -> Vec<Stamp> {
    let stamp = |path: &PathBuf| fs::metadata(path).ok().and_then(|file| Some((file.ino(), file.len(), file.modified().ok()?)));
    let client = config.client.iter().flat_map(|(certificate, key)| [certificate, key]);
    config.ca.iter().chain(client).map(stamp).collect()
}

fn connector(config: &TlsConfig) -> Result<TlsConnector, TlsError> {
    let mut roots = RootCertStore::empty();
    match &config.ca {
        Some(path) => {
            let (added, _) = roots.add_parsable_certificates(certificates(path)?);
            if added == 0 {
                return Err(TlsError::Empty { path: path.clone() });
            }
        }
        // What of it cannot be used is no matter, as long as something is left.
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    if roots.is_empty() {
        return Err(TlsError::NoRoots);
    }
    let provider = Arc::new(crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(TlsError::Client)?.with_root_certificates(roots);
    let client = match &config.client {
        Some((certificate, key)) => {
            let read = PrivateKeyDer::from_pem_file(key);
            let key = read.map_err(|reason| TlsError::File { path: key.clone(), reason })?;
            builder.with_client_auth_cert(certificates(certificate)?, key).map_err(TlsError::Client)?
        }
        None => builder.with_no_client_auth(),
    };
    Ok(TlsConnector::from(Arc::new(client)))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unusable = |reason| TlsError::File { path: path.to_path_buf(), reason };
    let certificates = CertificateDer::pem_file_iter(path).map_err(unusable)?.collect::<Result<Vec<_>, _>>().map_err(unusable)?;
    if certificates.is_empty() { Err(TlsError::Empty { path: path.to_path_buf() }) } else { Ok(certificates) }
}
