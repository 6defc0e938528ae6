//! Connections: how many there are, how long they may dawdle, and how they end.

use std::{
    io::IoSlice,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{Router, http::StatusCode};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{self, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{Instant, Sleep},
};
use tokio_rustls::TlsAcceptor;
use tracing::debug;

use super::{
    limits::Limits,
    metrics::Metrics,
    problem::{Kind, Problem, kinds},
};

/// Server of connections.
pub(in crate::http) struct Connections {
    tls: Option<TlsAcceptor>,
    limits: Limits,
    metrics: Arc<Metrics>,
}

impl std::fmt::Debug for Connections {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connections").field("tls", &self.tls.is_some()).finish_non_exhaustive()
    }
}

impl Connections {
    pub(in crate::http) fn new(tls: Option<TlsAcceptor>, limits: Limits, metrics: Arc<Metrics>) -> Self {
        Self { tls, limits, metrics }
    }

    /// Serves connections until `shutdown`, then sets `closing` and waits for those that are there.
    pub(in crate::http) async fn run(
        self,
        listener: TcpListener,
        router: Router,
        shutdown: impl Future<Output = ()>,
        closing: watch::Sender<bool>,
    ) {
        let grace = self.limits.shutdown_grace;
        let slots = Arc::new(Semaphore::new(self.limits.connections_max.min(Semaphore::MAX_PERMITS)));
        let this = Arc::new(self);
        let mut open = JoinSet::new();
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                () = &mut shutdown => break,
                Some(_) = open.join_next() => continue,
                accepted = listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, say. Waiting lets connections end.
                    debug!(%error, "a connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            match slots.clone().try_acquire_owned() {
                Ok(slot) => {
                    let (this, router, closed) = (this.clone(), router.clone(), closing.subscribe());
                    open.spawn(async move {
                        this.metrics.connection_opened();
                        this.connection(stream, router, closed).await;
                        this.metrics.connection_closed();
                        drop(slot);
                    });
                }
                Err(_) => this.refuse(&stream),
            }
        }
        drop(listener);
        closing.send_replace(true);
        let ended = async { while open.join_next().await.is_some() {} };
        if tokio::time::timeout(grace, ended).await.is_err() {
            debug!("connections were cut at the end of the shutdown's grace");
        }
        open.shutdown().await;
    }

    async fn connection(&self, stream: TcpStream, router: Router, closing: watch::Receiver<bool>) {
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.tls else { return self.http(stream, router, closing).await };
        let limit = self.limits.header_timeout;
        if let Ok(true) = tokio::time::timeout(limit, is_plain(&stream)).await {
            let told = tokio::time::timeout(limit, self.ask_for_tls(stream)).await;
            return debug!(?told, "a caller did not speak TLS");
        }
        match tokio::time::timeout(limit, tls.accept(stream)).await {
            Ok(Ok(stream)) => self.http(stream, router, closing).await,
            Ok(Err(error)) => debug!(%error, "a TLS handshake failed"),
            Err(_) => debug!("a TLS handshake took too long"),
        }
    }

    async fn http(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        router: Router,
        mut closing: watch::Receiver<bool>,
    ) {
        let stream = StallGuard::new(stream, self.limits.write_timeout);
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_timeout)
            .max_buf_size(self.limits.header_bytes_max)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = closed(&mut closing) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            debug!(%error, "a connection ended early");
        }
    }

    /// Answers a request that came without TLS.
    async fn ask_for_tls(&self, mut stream: TcpStream) -> io::Result<u64> {
        let answer = plain_answer(kinds::TLS_NEEDED, "call it by https://");
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        // Closing with the rest of the request unread would take the answer away from its reader.
        let most = (self.limits.header_bytes_max + self.limits.body_bytes_max) as u64;
        io::copy(&mut stream.take(most), &mut io::sink()).await
    }

    /// Says why, as far as that is possible without waiting for anything.
    fn refuse(&self, stream: &TcpStream) {
        self.metrics.connection_refused();
        if self.tls.is_none() {
            let answer = plain_answer(kinds::TOO_MANY_CONNECTIONS, "close one, or try again later");
            let _ = stream.try_write(answer.as_bytes());
        }
    }
}

/// Whether the caller sends a request as it is: methods are in capitals, a handshake begins with the byte 22.
async fn is_plain(stream: &TcpStream) -> bool {
    let mut first = [0];
    matches!(stream.peek(&mut first).await, Ok(1) if first[0].is_ascii_uppercase())
}

/// The bytes of a refusal that is made before there is a request.
fn plain_answer(kind: Kind, detail: &str) -> String {
    let json = serde_json::to_string(&Problem::new(kind, detail).info()).unwrap_or_default();
    let reason = StatusCode::from_u16(kind.status).ok().and_then(|status| status.canonical_reason());
    let again = if kind.status == 503 { "retry-after: 1\r\n" } else { "" };
    format!(
        "HTTP/1.1 {} {}\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\n{again}connection: close\r\n\
         \r\n{json}",
        kind.status,
        reason.unwrap_or_default(),
        json.len()
    )
}

/// Resolves when connections should end.
async fn closed(closing: &mut watch::Receiver<bool>) {
    // An error means that the server is gone.
    let _ = closing.wait_for(|closing| *closing).await;
}

/// A stream whose writes fail when the other side takes nothing for too long. Hyper bounds reading, not
/// writing.
struct StallGuard<S> {
    stream: S,
    limit: Duration,
    /// Runs while a write waits.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> StallGuard<S> {
    fn new(stream: S, limit: Duration) -> Self {
        Self { stream, limit, stalled: None }
    }

    /// Judges what a write to the stream gave.
    fn judge<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let deadline = Instant::now() + self.limit;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for StallGuard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for StallGuard<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, buffer);
        self.judge(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, buffers);
        self.judge(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.judge(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.judge(context, shut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reader_that_takes_nothing_is_given_up() {
        let (near, _far) = io::duplex(8);
        let mut guarded = StallGuard::new(near, Duration::from_millis(20));
        guarded.write_all(&[0; 8]).await.unwrap();
        let stalled = guarded.write_all(&[0]).await.unwrap_err();
        assert_eq!(stalled.kind(), io::ErrorKind::TimedOut);
    }
}
