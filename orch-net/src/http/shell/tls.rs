//! [`TlsFiles`]: certificate and key of a server.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio_rustls::TlsAcceptor;

use super::error::ServerError;

/// Files in PEM form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, then those that lead to its root.
    pub cert_pem: PathBuf,
    /// Its private key.
    pub key_pem: PathBuf,
}

impl TlsFiles {
    pub(in crate::http) fn acceptor(&self) -> Result<TlsAcceptor, ServerError> {
        let refuse = |path: &Path, problem: &dyn std::fmt::Display| ServerError::Tls {
            path: path.to_owned(),
            problem: problem.to_string(),
        };
        let certs = CertificateDer::pem_file_iter(&self.cert_pem)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| refuse(&self.cert_pem, &error))?;
        let key =
            PrivateKeyDer::from_pem_file(&self.key_pem).map_err(|error| refuse(&self.key_pem, &error))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(certs, key))
            .map_err(|error| refuse(&self.cert_pem, &error))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}
