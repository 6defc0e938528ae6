//! Encrypted connections: whom they trust, and as whom they log in.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig,
    crypto::ring,
    pki_types::{PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    super::tls::{authorities, certificates},
    error::Cause,
};

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
        let unusable = |path: &Path| Cause::Pem { path: path.to_owned() };
        let roots = authorities(self.ca.as_deref());
        let roots = roots.ok_or_else(|| unusable(self.ca.as_deref().unwrap_or(Path::new(""))))?;
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|source| Cause::Tls { source })?
            .with_root_certificates(roots);
        let config = match &self.identity {
            None => config.with_no_client_auth(),
            Some((certificate, key)) => {
                let own = certificates(certificate).ok_or_else(|| unusable(certificate))?;
                let private = PrivateKeyDer::from_pem_file(key).map_err(|_| unusable(key))?;
                let ours = config.with_client_auth_cert(own, private);
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
