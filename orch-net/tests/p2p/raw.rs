//! Peer that speaks the protocol by hand, and violates it where a test needs that.

use std::sync::Arc;

use orch_core::transport::{PeerId, Transport as _};
use orch_net::p2p::{Identity, PeerTransport};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::{
        AlwaysResolvesClientRawPublicKeys,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::ring,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
    sign::CertifiedKey,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::bench::PATIENCE;

pub(crate) const MESSAGE: u8 = 1;
pub(crate) const PING: u8 = 4;
pub(crate) const PONG: u8 = 5;
pub(crate) const HELLO: u8 = 6;
pub(crate) const WELCOME: u8 = 7;
pub(crate) const CLOSE: u8 = 8;

/// Verifier that accepts any server: it is the other side that is tested.
#[derive(Debug)]
pub(crate) struct Anyone {
    pub(crate) raw_keys: bool,
}

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519, SignatureScheme::ECDSA_NISTP256_SHA256]
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.raw_keys
    }
}

/// Key whose secret is known to the test.
pub(crate) struct Key {
    pub(crate) peer: PeerId,
    certified: Arc<CertifiedKey>,
}

impl Key {
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        let prefix = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
        let der = PrivatePkcs8KeyDer::from([&prefix[..], &seed].concat());
        let key = ring::sign::any_eddsa_type(&der).unwrap();
        let public = CertificateDer::from(key.public_key().unwrap().to_vec());
        Self {
            peer: Identity::from_seed(&seed).peer_id(),
            certified: Arc::new(CertifiedKey::new(vec![public], key)),
        }
    }

    /// Key of a member that does not decide when it meets `other`.
    pub(crate) fn above(other: &PeerTransport) -> Self {
        let key = |n: u64| Self::new(std::array::from_fn(|at| n.to_be_bytes()[at % 8]));
        (0..).map(key).find(|key| key.peer > other.local_peer()).unwrap()
    }

    pub(crate) fn config(&self, alpn: &[u8]) -> ClientConfig {
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone { raw_keys: true }))
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(
                self.certified.clone(),
            )));
        config.alpn_protocols = if alpn.is_empty() { vec![] } else { vec![alpn.to_vec()] };
        config
    }
}

pub(crate) struct Raw {
    pub(crate) stream: TlsStream<TcpStream>,
}

impl Raw {
    /// Connects, and sends nothing yet.
    pub(crate) async fn dial(key: &Key, to: &PeerTransport) -> Self {
        Self::with(key.config(b"orch-p2p/1"), to).await.unwrap()
    }

    pub(crate) async fn with(config: ClientConfig, to: &PeerTransport) -> std::io::Result<Self> {
        let stream = TcpStream::connect(to.local_addr().unwrap()).await.unwrap();
        let name = ServerName::try_from("member").unwrap();
        Ok(Self { stream: TlsConnector::from(Arc::new(config)).connect(name, stream).await? })
    }

    /// Connects and is welcomed; returns the id of the connection.
    pub(crate) async fn welcomed(key: &Key, to: &PeerTransport) -> (Self, u64) {
        let mut raw = Self::dial(key, to).await;
        raw.hello(1, None).await;
        let (kind, id, _) = raw.next().await.unwrap();
        assert_eq!(kind, WELCOME);
        (raw, id)
    }

    pub(crate) async fn hello(&mut self, life: u64, last: Option<(u64, bool)>) {
        let state = last.map_or(0, |(_, is_up)| 1 + u8::from(is_up));
        let max = 1_u32 << 20;
        let body =
            [&max.to_be_bytes()[..], &[state], &last.map_or(0, |(last, _)| last).to_be_bytes()].concat();
        self.send(HELLO, 0, life, &body).await;
    }

    pub(crate) async fn send(&mut self, kind: u8, channel: u8, id: u64, body: &[u8]) {
        let length = u32::try_from(body.len()).unwrap();
        self.bytes(&[&header(kind, channel, length, id)[..], body].concat()).await;
    }

    /// Sends bytes. They may fail to arrive because the other side closed, which is no fault.
    pub(crate) async fn bytes(&mut self, bytes: &[u8]) {
        if self.stream.write_all(bytes).await.is_ok() {
            let _ = self.stream.flush().await;
        }
    }

    /// Next frame as kind, id and body; `None` once the other side closed.
    pub(crate) async fn next(&mut self) -> Option<(u8, u64, Vec<u8>)> {
        let read = async {
            let mut header = [0; 16];
            self.stream.read_exact(&mut header).await?;
            let length = u32::from_be_bytes(header[4..8].try_into().unwrap());
            let mut body = vec![0; length as usize];
            self.stream.read_exact(&mut body).await?;
            std::io::Result::Ok((header[1], u64::from_be_bytes(header[8..].try_into().unwrap()), body))
        };
        tokio::time::timeout(PATIENCE, read).await.expect("the other side must say something or hang up").ok()
    }

    /// Next frame that is no ping.
    pub(crate) async fn told(&mut self) -> Option<(u8, u64, Vec<u8>)> {
        loop {
            match self.next().await {
                Some((PING, ..)) => {}
                other => return other,
            }
        }
    }
}

pub(crate) fn header(kind: u8, channel: u8, length: u32, id: u64) -> [u8; 16] {
    let mut header = [1, kind, channel, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    header[4..8].copy_from_slice(&length.to_be_bytes());
    header[8..].copy_from_slice(&id.to_be_bytes());
    header
}
