//! DNS over TLS (RFC 7858): who a server must prove to be, and how.

use crate::config::TlsConfig;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore, crypto};

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

/// How servers are asked over TLS. Clones share their sessions, so that a second connection is made faster.
#[derive(Clone)]
pub(super) struct Tls(TlsConnector);

impl Tls {
    /// Reads the certificates.
    pub fn new(config: &TlsConfig) -> Result<Tls, TlsError> {
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
        Ok(Tls(TlsConnector::from(Arc::new(client))))
    }

    /// A connection to a server that has proved to be this one: the name, or without one the address.
    pub async fn connect(&self, server: SocketAddr, name: Option<&str>) -> io::Result<TlsStream<TcpStream>> {
        let name = match name {
            Some(name) => ServerName::try_from(name.to_string()).map_err(io::Error::other)?,
            None => ServerName::IpAddress(server.ip().into()),
        };
        let stream = TcpStream::connect(server).await?;
        stream.set_nodelay(true)?;
        self.0.connect(name, stream).await
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unusable = |reason| TlsError::File { path: path.to_path_buf(), reason };
    let certificates = CertificateDer::pem_file_iter(path).map_err(unusable)?.collect::<Result<Vec<_>, _>>().map_err(unusable)?;
    if certificates.is_empty() { Err(TlsError::Empty { path: path.to_path_buf() }) } else { Ok(certificates) }
}
