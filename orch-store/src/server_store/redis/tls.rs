//! Encrypted connections: whom they trust, and as whom they log in.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::error::Cause;

/// Certificates and keys, in PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Files {
    /// Those of authorities; `None` for those that browsers trust.
    pub(super) ca: Option<PathBuf>,
    /// A certificate, and its private key.
    pub(super) identity: Option<(PathBuf, PathBuf)>,
}

impl Files {
    /// TLS connector of new connections.
    pub(super) fn connector(&self) -> Result<TlsConnector, Cause> {
        let mut roots = RootCertStore::empty();
        match &self.ca {
            None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
            Some(path) => {
                for certificate in certificates(path)? {
                    roots.add(certificate).map_err(|_| unusable(path))?;
                }
            }
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|source| Cause::Tls { source })?
            .with_root_certificates(roots);
        let config = match &self.identity {
            None => config.with_no_client_auth(),
            Some((certificate, key)) => {
                let private = PrivateKeyDer::from_pem_file(key).map_err(|_| unusable(key))?;
                let ours = config.with_client_auth_cert(certificates(certificate)?, private);
                ours.map_err(|source| Cause::Tls { source })?
            }
        };
        Ok(TlsConnector::from(Arc::new(config)))
    }
}

pub(super) type Stream = TlsStream<TcpStream>;

/// A connection to the server, once it has shown who it is.
pub(super) async fn connect(connector: &TlsConnector, host: &str, port: u16) -> io::Result<Stream> {
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    connector.connect(name, stream).await
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Cause> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    read.ok().filter(|found| !found.is_empty()).ok_or_else(|| unusable(path))
}

fn unusable(path: &Path) -> Cause {
    Cause::Pem { path: path.to_owned() }
}
