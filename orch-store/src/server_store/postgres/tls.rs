//! TLS trust by `sslmode`, carried out by rustls.

use std::{path::PathBuf, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{super::tls::authorities, error::Cause};

/// Accepted identities of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// Whoever answers: TLS against listeners, not against impostors.
    Anybody,
    /// Certificate of one of these authorities, under any name.
    Authority(Roots),
    /// Certificate of one of these authorities for the requested name.
    Host(Roots),
}

/// Authorities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Roots {
    /// Those that browsers trust.
    Browsers,
    /// Those in a file in PEM form.
    File(PathBuf),
}

impl Trust {
    /// TLS connector of new connections.
    pub(super) fn connector(&self) -> Result<MakeRustlsConnect, Cause> {
        let provider = Arc::new(ring::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = match self {
            Self::Anybody => Arc::new(Unnamed { signed: None, provider: Arc::clone(&provider) }),
            Self::Authority(roots) => {
                let signed = Some(roots.verifier(&provider)?);
                Arc::new(Unnamed { signed, provider: Arc::clone(&provider) })
            }
            Self::Host(roots) => roots.verifier(&provider)?,
        };
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|source| Cause::Tls { source })?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        Ok(MakeRustlsConnect::new(config))
    }
}

impl Roots {
    fn verifier(&self, provider: &Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>, Cause> {
        let store = match self {
            Self::Browsers => authorities(None),
            Self::File(path) => authorities(Some(path)),
        };
        let store = store.ok_or_else(|| match self {
            Self::Browsers => Cause::Tls { source: Error::General("no authorities".into()) },
            Self::File(path) => Cause::Roots { path: path.clone() },
        })?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider))
            .build()
            .map_err(|error| Cause::Tls { source: Error::General(error.to_string()) })
    }
}

/// Does not care for the name; whether for the signature of an authority, depends.
#[derive(Debug)]
struct Unnamed {
    signed: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Unnamed {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(signed) = &self.signed else { return Ok(ServerCertVerified::assertion()) };
        match signed.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is looked at last.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
