//! TLS 1.3 with raw public keys (RFC 7250): both sides present an Ed25519 key instead of a certificate, and
//! prove that they hold it.

use std::{fmt, io, sync::Arc};

use orch_core::transport::PeerId;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    PeerMisbehaved, ServerConfig, SignatureScheme,
    client::{
        AlwaysResolvesClientRawPublicKeys, Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls13_signature_with_raw_key},
    pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime},
    server::{
        AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
    version::TLS13,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::identity::Identity;

/// Name and version of the protocol in the TLS handshake.
pub(super) const ALPN: &[u8] = b"orch-p2p/1";

/// Prefix of the `SubjectPublicKeyInfo` of an Ed25519 key, up to the key.
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
const SPKI_BYTES: usize = SPKI_PREFIX.len() + 32;

pub(super) fn spki(peer: PeerId) -> [u8; SPKI_BYTES] {
    let mut spki = [0; SPKI_BYTES];
    spki[..SPKI_PREFIX.len()].copy_from_slice(&SPKI_PREFIX);
    spki[SPKI_PREFIX.len()..].copy_from_slice(peer.as_bytes());
    spki
}

/// Peer that has this key, if it is an Ed25519 key.
pub(super) fn peer_of(spki: &[u8]) -> Option<PeerId> {
    Some(PeerId::from_bytes(spki.strip_prefix(&SPKI_PREFIX)?.try_into().ok()?))
}

/// Keys that are allowed at this moment.
pub(super) trait AllowList: fmt::Debug + Send + Sync + 'static {
    fn allows(&self, peer: PeerId) -> bool;
}

/// TLS configuration of both ends of connections.
pub(super) struct Tls {
    provider: Arc<CryptoProvider>,
    key: Arc<CertifiedKey>,
    acceptor: TlsAcceptor,
}

impl Tls {
    pub(super) fn new(identity: &Identity, allowed: Arc<dyn AllowList>) -> Result<Self, Error> {
        let provider = Arc::new(ring::default_provider());
        let key = identity.certified();
        let verifier = Arc::new(Members { allowed, keys: Keys::of(&provider) });
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(Arc::clone(&key))));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok(Self { provider, key, acceptor: TlsAcceptor::from(Arc::new(config)) })
    }

    pub(super) fn acceptor(&self) -> &TlsAcceptor {
        &self.acceptor
    }

    /// Connector that accepts `peer` and nobody else.
    pub(super) fn connector(&self, peer: PeerId) -> Result<TlsConnector, Error> {
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Expected { peer, keys: Keys::of(&self.provider) }))
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(Arc::clone(
                &self.key,
            ))));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        config.enable_early_data = false;
        Ok(TlsConnector::from(Arc::new(config)))
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

/// Reason for which a presented key is rejected.
#[derive(Debug, Clone, Copy, thiserror::Error)]
pub(super) enum KeyRefused {
    #[error("the peer shows no Ed25519 key")]
    NotEd25519,
    #[error("peer {0} is not allowed")]
    NotAllowed(PeerId),
    #[error("peer {found} is there, not {expected}")]
    Another { expected: PeerId, found: PeerId },
}

impl KeyRefused {
    /// Extracts it from an error of the TLS library, whose text does not contain it.
    pub(super) fn within(error: &io::Error) -> Option<Self> {
        match error.get_ref()?.downcast_ref()? {
            Error::InvalidCertificate(CertificateError::Other(OtherError(refused))) => {
                refused.downcast_ref().copied()
            }
            _ => None,
        }
    }
}

impl From<KeyRefused> for Error {
    fn from(refused: KeyRefused) -> Self {
        CertificateError::Other(OtherError(Arc::new(refused))).into()
    }
}

/// Verification of signatures.
#[derive(Debug)]
struct Keys(WebPkiSupportedAlgorithms);

impl Keys {
    fn of(provider: &CryptoProvider) -> Self {
        Self(provider.signature_verification_algorithms)
    }

    fn verify(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if signed.scheme != SignatureScheme::ED25519 {
            return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
        }
        verify_tls13_signature_with_raw_key(
            message,
            &SubjectPublicKeyInfoDer::from(key.as_ref()),
            signed,
            &self.0,
        )
    }
}

fn shown(key: &CertificateDer<'_>) -> Result<PeerId, KeyRefused> {
    peer_of(key).ok_or(KeyRefused::NotEd25519)
}

fn no_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::General("TLS 1.2 is not spoken".to_owned()))
}

/// Methods of both verifiers, which are of two traits.
macro_rules! verify_by_raw_key {
    () => {
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            no_tls12()
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            key: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            self.keys.verify(message, key, signed)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ED25519]
        }

        fn requires_raw_public_keys(&self) -> bool {
            true
        }
    };
}

/// Verifier of the listening side: accepts keys on the list.
#[derive(Debug)]
struct Members {
    allowed: Arc<dyn AllowList>,
    keys: Keys,
}

impl ClientCertVerifier for Members {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        key: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let peer = shown(key)?;
        match self.allowed.allows(peer) {
            true => Ok(ClientCertVerified::assertion()),
            false => Err(KeyRefused::NotAllowed(peer).into()),
        }
    }

    verify_by_raw_key!();
}

/// Verifier of the dialling side: accepts the key of the dialled peer.
#[derive(Debug)]
struct Expected {
    peer: PeerId,
    keys: Keys,
}

impl ServerCertVerifier for Expected {
    fn verify_server_cert(
        &self,
        key: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let found = shown(key)?;
        match found == self.peer {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(KeyRefused::Another { expected: self.peer, found }.into()),
        }
    }

    verify_by_raw_key!();
}
