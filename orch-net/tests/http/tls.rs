//! Encrypted connections with a certificate that nobody else knows.

use orch_net::http::{
    Client, ClientConfig, ClientError, Server, ServerError, TlsFiles,
    testkit::{ADMIN, TestServer, client_config, server_config},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::bench::{hang, orchestrator, serving};

#[tokio::test]
async fn a_client_that_trusts_the_certificate_gets_through() {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (cert_pem, key_pem) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    std::fs::write(&cert_pem, certified.cert.pem()).unwrap();
    std::fs::write(&key_pem, certified.signing_key.serialize_pem()).unwrap();
    let orch = orchestrator().await;
    let mut config = server_config();
    config.tls = Some(TlsFiles { cert_pem, key_pem });
    let server = TestServer::start(orch.clone(), config.clone()).await;

    let url = format!("https://localhost:{}", server.address.port());
    let mut client = ClientConfig::new(&url, ADMIN);
    client.timeouts.tries = 1;
    let error = Client::new(&client).unwrap().status().await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");

    // The wrong scheme, either way.
    let plain = client_config(server.address, ADMIN);
    let error = Client::new(&plain).unwrap().status().await.unwrap_err();
    assert_eq!((error.status(), error.code()), (Some(400), Some("tls_needed")), "{error}");
    assert!(error.to_string().contains("https://"), "{error}");
    server.admin("POST", "/api/v1/tasks", &"x".repeat(100_000)).await.problem(400, "tls_needed");
    let without = serving().await;
    let mut encrypted = ClientConfig::new(format!("https://{}", without.address), ADMIN);
    encrypted.timeouts.tries = 1;
    let error = Client::new(&encrypted).unwrap().status().await.unwrap_err();
    assert!(
        error.to_string().contains("does not speak TLS") && error.to_string().contains("http://"),
        "{error}"
    );
    client.ca_pem = Some(certified.cert.pem().into_bytes());
    let trusting = Client::new(&client).unwrap();
    assert_eq!(
        trusting.submit_one(hang("secret")).await.unwrap().status,
        orch_core::state::TaskStatus::Pending
    );

    client.ca_pem = Some(b"nothing".to_vec());
    assert!(matches!(Client::new(&client), Err(ClientError::Config(_))));
    config.tls = Some(TlsFiles { cert_pem: dir.path().join("no.pem"), key_pem: dir.path().join("no.pem") });
    let error = Server::bind(config, orch).await.unwrap_err();
    assert!(matches!(error, ServerError::Tls { .. }), "{error}");
}

#[tokio::test]
async fn a_server_that_speaks_no_http_is_told() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            // The alert of a server with TLS, to what is no handshake.
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(&[21, 3, 3, 0, 2, 2, 70]).await;
        }
    });
    let mut config = client_config(address, ADMIN);
    config.timeouts.tries = 1;
    let error = Client::new(&config).unwrap().status().await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable(_)), "{error:?}");
    assert!(
        error.to_string().contains("speaks no HTTP") && error.to_string().contains("https://"),
        "{error}"
    );
}
