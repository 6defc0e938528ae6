//! Only allowed members can connect, and only at their addresses.

use std::sync::Arc;

use orch_core::transport::{Transport as _, TransportError};
use orch_net::p2p::PeerTransport;
use rustls::{
    ClientConfig, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::{
    bench::{
        CHANNEL, acquaint, address, connected, eventually, identities, member, pair, passes, quick, sees,
        status_of,
    },
    raw::{Anyone, Key, Raw},
};

/// Waits until `member` has failed to reach `peer`, with an error that contains `why`.
async fn fails(member: &PeerTransport, peer: &PeerTransport, why: &str) {
    let error = || status_of(member, peer.local_peer()).last_error.unwrap_or_default();
    eventually(why, || error().contains(why)).await;
    assert!(member.peers().is_empty(), "it must not be connected");
}

#[tokio::test]
async fn strangers_are_refused_whoever_dials() {
    let [low, high] = identities();
    let (low, high) = (member(&low, quick()).await, member(&high, quick()).await);
    for (known, stranger) in [(&low, &high), (&high, &low)] {
        stranger.allow(known.local_peer(), vec![address(known)]);
        fails(stranger, known, "alert").await;
        assert!(known.peers().is_empty() && known.status().is_empty());
        let sent = stranger.send(known.local_peer(), CHANNEL, "x".into()).await;
        assert!(matches!(sent, Err(TransportError::Connection { .. })), "{sent:?}");
        let unknown = Err(TransportError::UnknownPeer(stranger.local_peer()));
        assert_eq!(known.send(stranger.local_peer(), CHANNEL, "x".into()).await, unknown);
        stranger.forbid(known.local_peer());
    }
}

#[tokio::test]
async fn another_key_at_an_address_is_refused() {
    let [a, b, c] = identities();
    let (a, b, c) = (member(&a, quick()).await, member(&b, quick()).await, member(&c, quick()).await);
    b.allow(a.local_peer(), vec![]);
    a.allow(c.local_peer(), vec![address(&b)]);
    fails(&a, &c, &format!("peer {} is there, not {}", b.local_peer(), c.local_peer())).await;
    assert!(b.peers().is_empty());
}

#[tokio::test]
async fn a_peer_may_have_several_addresses() {
    let [a, b] = identities();
    let (a, b) = (member(&a, quick()).await, member(&b, quick()).await);
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    b.allow(a.local_peer(), vec![]);
    let name = format!("localhost:{}", b.local_addr().unwrap().port());
    a.allow(b.local_peer(), vec![nobody.into(), name.parse().unwrap()]);
    connected(&a, &b).await;
}

#[tokio::test]
async fn certificates_are_refused() {
    let a = member(&identities::<1>()[0], quick()).await;
    let certified = rcgen::generate_simple_self_signed(["member".to_owned()]).unwrap();
    let cert = CertificateDer::from(certified.cert.der().to_vec());
    let key = || PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let provider = || Arc::new(ring::default_provider());

    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone { raw_keys: false }))
        .with_client_auth_cert(vec![cert.clone()], key())
        .unwrap();
    config.alpn_protocols = vec![b"orch-p2p/1".to_vec()];
    assert!(Raw::with(config, &a).await.is_err(), "a client with a certificate");

    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert], key())
        .unwrap();
    config.alpn_protocols = vec![b"orch-p2p/1".to_vec()];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = Key::new([1; 32]).peer;
    a.allow(peer, vec![listener.local_addr().unwrap().into()]);
    let (stream, _) = listener.accept().await.unwrap();
    assert!(TlsAcceptor::from(Arc::new(config)).accept(stream).await.is_err(), "a server with a certificate");
    eventually("the error", || status_of(&a, peer).last_error.is_some()).await;
    assert!(a.peers().is_empty());
}

#[tokio::test]
async fn a_connection_says_which_protocol_it_is_for() {
    let a = member(&identities::<1>()[0], quick()).await;
    let key = Key::above(&a);
    a.allow(key.peer, vec![]);
    assert!(Raw::with(key.config(b"h2"), &a).await.is_err(), "another protocol");
    let mut unnamed = Raw::with(key.config(b""), &a).await.unwrap();
    unnamed.hello(1, None).await;
    assert_eq!(unnamed.next().await, None, "no protocol");
    Raw::welcomed(&key, &a).await;
}

#[tokio::test]
async fn forbidding_ends_the_connection_and_keeps_the_peer_out() {
    let (a, b) = pair(quick()).await;
    b.send(a.local_peer(), CHANNEL, "not taken".into()).await.unwrap();
    eventually("arrival", || status_of(&a, b.local_peer()).traffic.received_messages == 1).await;
    assert!(a.forbid(b.local_peer()));
    assert!(!a.forbid(b.local_peer()), "it is gone already");
    sees(&a, <[_]>::is_empty).await;
    sees(&b, <[_]>::is_empty).await;
    fails(&b, &a, "alert").await;

    acquaint(&a, &b);
    connected(&a, &b).await;
    passes(&b, &a, "what came before it was forbidden is gone").await;
}
