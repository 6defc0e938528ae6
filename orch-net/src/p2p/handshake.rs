//! Upgrade of a TCP connection to one that carries frames: TLS, then the greeting.

use std::{io, net::SocketAddr, sync::Arc};

use bytes::BytesMut;
use orch_core::transport::PeerId;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};
use tokio_rustls::TlsStream;

use super::{
    config::Address,
    connection::{self, Opened},
    frame::{Decoded, Frame, FrameError, Kind, decode},
    greeting::{Farewell, Hello, Welcome, decides},
    peers::{Ends, Unwanted},
    shared::Shared,
    tls::{self, KeyRefused},
};

/// Size of the read buffer below TLS, in bytes. The TLS library reads some kilobytes at a time; larger reads
/// from the system are cheaper.
const SOCKET_BUFFER_BYTES: usize = 128 << 10;

/// Stream that carries the frames.
pub(super) type Stream = TlsStream<BufReader<TcpStream>>;

/// Reason for which a handshake fails.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    #[error("{0}")]
    Io(io::Error),
    #[error("{0}")]
    Key(KeyRefused),
    #[error("{0}")]
    Tls(#[from] rustls::Error),
    #[error("the peer sent a {0}")]
    Frame(#[from] FrameError),
    #[error("the peer does not speak this version of the protocol")]
    Alpn,
    #[error("the peer did not greet as the protocol says")]
    Greeting,
    #[error("{0}")]
    Refused(&'static str),
    #[error("{0}")]
    Unwanted(#[from] Unwanted),
    #[error("it took too long")]
    Slow,
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        KeyRefused::within(&error).map_or_else(|| Self::Io(error), Self::Key)
    }
}

/// Accepts a connection that a peer dialled.
pub(super) async fn accept(
    shared: &Arc<Shared>,
    stream: TcpStream,
    remote: SocketAddr,
) -> Result<(), HandshakeError> {
    let open = async {
        let stream = shared.tls.acceptor().accept(prepare(stream)?).await?;
        let key = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let peer = key.and_then(|key| tls::peer_of(key)).ok_or(HandshakeError::Greeting)?;
        greet(shared, stream.into(), Ends { peer, remote, dialled: false }).await
    };
    tokio::time::timeout(shared.peers.config().handshake_timeout, open)
        .await
        .unwrap_or(Err(HandshakeError::Slow))
}

/// Opens a connection to `peer`.
pub(super) async fn dial(
    shared: &Arc<Shared>,
    peer: PeerId,
    address: &Address,
) -> Result<(), HandshakeError> {
    let open = async {
        let stream = TcpStream::connect(address.as_str()).await?;
        let remote = stream.peer_addr()?;
        // The name is not used: the key authenticates the peer.
        let name = ServerName::IpAddress(remote.ip().into());
        let stream = shared.tls.connector(peer)?.connect(name, prepare(stream)?).await?;
        greet(shared, stream.into(), Ends { peer, remote, dialled: true }).await
    };
    tokio::time::timeout(shared.peers.config().handshake_timeout, open)
        .await
        .unwrap_or(Err(HandshakeError::Slow))
}

fn prepare(stream: TcpStream) -> io::Result<BufReader<TcpStream>> {
    stream.set_nodelay(true)?;
    Ok(BufReader::with_capacity(SOCKET_BUFFER_BYTES, stream))
}

/// Agrees with the peer to use this connection, and starts its driver. There is no await after the decision:
/// the future may be dropped, and an agreed connection must have its driver.
async fn greet(shared: &Arc<Shared>, mut stream: Stream, ends: Ends) -> Result<(), HandshakeError> {
    if stream.get_ref().1.alpn_protocol() != Some(tls::ALPN) {
        return Err(HandshakeError::Alpn);
    }
    let mut received = BytesMut::new();
    if decides(shared.local, ends.peer) {
        let first = next_frame(&mut stream, &mut received).await?;
        let hello = Hello::parse(&first).ok_or(HandshakeError::Greeting)?;
        match shared.peers.offer(ends, hello) {
            Ok((link, welcome)) => {
                connection::start(shared, Opened { stream, received, first: Some(welcome.frame()) }, link);
                Ok(())
            }
            Err(unwanted) => {
                let code = match unwanted {
                    Unwanted::Redundant => Farewell::Redundant,
                    Unwanted::NotAllowed => Farewell::Closing,
                };
                write(&mut stream, &code.frame()).await?;
                stream.shutdown().await?;
                Err(unwanted.into())
            }
        }
    } else {
        write(&mut stream, &shared.peers.hello(ends.peer)?.frame()).await?;
        let first = next_frame(&mut stream, &mut received).await?;
        if first.kind == Kind::Close {
            return Err(HandshakeError::Refused(Farewell::explain(first.id)));
        }
        let welcome = Welcome::parse(&first).ok_or(HandshakeError::Greeting)?;
        let link = shared.peers.welcomed(ends, welcome)?;
        connection::start(shared, Opened { stream, received, first: None }, link);
        Ok(())
    }
}

async fn next_frame(stream: &mut Stream, received: &mut BytesMut) -> Result<Frame, HandshakeError> {
    loop {
        // A message is invalid here, so none is waited for.
        if let Decoded::Frame(frame) = decode(received, 0)? {
            return Ok(frame);
        }
        if stream.read_buf(received).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
}

async fn write(stream: &mut Stream, frame: &Frame) -> io::Result<()> {
    stream.write_all(&[&frame.header()[..], &frame.body].concat()).await?;
    stream.flush().await
}
