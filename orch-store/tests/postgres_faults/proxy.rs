//! Proxy between a store and its server that speaks enough of PostgreSQL's protocol to answer in the server's
//! place.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::Notify,
};

/// Misbehaviour of the server, once for the next commit or until it is taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It carries the next commit out, and panics before it says so.
    PanicAfterCommit,
    /// It refuses the first statement of the next commit.
    RefuseFirst,
    /// The next commit is held on its way, until [`Proxy::release`].
    Hold,
    /// No answer comes through, and none ever on the connections that were used meanwhile.
    Silence,
}

pub(crate) struct Proxy {
    /// As `host:port`.
    pub(crate) address: String,
    fault: Arc<Mutex<Option<Fault>>>,
    released: Arc<Notify>,
}

impl Proxy {
    /// Serves until the runtime ends.
    pub(crate) async fn before(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let fault = Arc::new(Mutex::new(None));
        let released = Arc::new(Notify::new());
        let shared = (Arc::clone(&fault), Arc::clone(&released));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&server).await.unwrap();
                tokio::spawn(relay(client, server, shared.clone()));
            }
        });
        Self { address, fault, released }
    }

    /// Lets the commit go on that is held, or the next one that would be.
    pub(crate) fn release(&self) {
        self.released.notify_one();
    }

    pub(crate) fn set(&self, fault: impl Into<Option<Fault>>) {
        *self.fault.lock() = fault.into();
    }
}

/// State that the two directions of a connection share.
struct Shared {
    fault: Arc<Mutex<Option<Fault>>>,
    released: Arc<Notify>,
    to_client: tokio::sync::Mutex<OwnedWriteHalf>,
    /// Requests that were sent, with the start of the session as the first. Each is answered by a `Z` at
    /// last.
    requests: AtomicU64,
    /// Number of the request whose answer is replaced.
    panics: AtomicU64,
}

impl Shared {
    /// That of the commit that comes now.
    fn take_fault(&self) -> Option<Fault> {
        let mut fault = self.fault.lock();
        if *fault == Some(Fault::Silence) { *fault } else { fault.take() }
    }
}

async fn relay(
    client: TcpStream,
    server: TcpStream,
    (fault, released): (Arc<Mutex<Option<Fault>>>, Arc<Notify>),
) {
    for stream in [&client, &server] {
        stream.set_nodelay(true).unwrap();
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let to_client = tokio::sync::Mutex::new(to_client);
    let (requests_sent, panics) = (AtomicU64::new(1), AtomicU64::new(u64::MAX));
    let shared = Shared { fault, released, to_client, requests: requests_sent, panics };
    // With either of them both connections end.
    tokio::select! {
        _ = requests(from_client, to_server, &shared) => {}
        _ = answers(from_server, &shared) => {}
    }
}

async fn requests(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, shared: &Shared) -> io::Result<()> {
    // The first message has no type.
    let mut first = vec![0; 4];
    from.read_exact(&mut first).await?;
    let length = u32::from_be_bytes(first[..].try_into().unwrap());
    first.resize(usize::try_from(length).unwrap(), 0);
    from.read_exact(&mut first[4..]).await?;
    to.write_all(&first).await?;
    let (mut statements, mut refusing) = (HashMap::new(), false);
    loop {
        let message = message(&mut from).await?;
        let mut texts = message[5..].split(|byte| *byte == 0).map(<[u8]>::to_vec);
        let mut text = || String::from_utf8_lossy(&texts.next().unwrap_or_default()).into_owned();
        match message[0] {
            b'P' => drop(statements.insert(text(), text())),
            b'B' if commits(statements.get(&(text(), text()).1)) => {
                let fault = shared.take_fault();
                refusing |= fault == Some(Fault::RefuseFirst);
                if fault == Some(Fault::PanicAfterCommit) {
                    let number = shared.requests.load(Ordering::Relaxed) + 1;
                    shared.panics.store(number, Ordering::Relaxed);
                }
                if fault == Some(Fault::Hold) {
                    shared.released.notified().await;
                }
            }
            _ => {}
        }
        if !refusing {
            if matches!(message[0], b'S' | b'Q') {
                shared.requests.fetch_add(1, Ordering::Relaxed);
            }
            to.write_all(&message).await?;
        } else if message[0] == b'S' {
            refusing = false;
            let mut client = shared.to_client.lock().await;
            client.write_all(&error("ERROR", "57014", "canceling statement due to user request")).await?;
            client.write_all(b"Z\0\0\0\x05I").await?;
        }
    }
}

async fn answers(mut from: OwnedReadHalf, shared: &Shared) -> io::Result<()> {
    let (mut silent, mut answered) = (false, 0);
    loop {
        let message = message(&mut from).await?;
        silent |= *shared.fault.lock() == Some(Fault::Silence);
        let panics = shared.panics.load(Ordering::Relaxed) == answered + 1;
        answered += u64::from(message[0] == b'Z');
        if silent || panics && message[0] != b'Z' {
            continue;
        }
        let mut client = shared.to_client.lock().await;
        if panics {
            let lost = "could not fsync file \"pg_wal/000000010000000000000001\": No space left on device";
            client.write_all(&error("PANIC", "53100", lost)).await?;
            return Ok(());
        }
        client.write_all(&message).await?;
    }
}

/// The statement is a part of a commit.
fn commits(statement: Option<&String>) -> bool {
    statement.is_some_and(|text| text == "BEGIN" || text.contains("FROM apply"))
}

/// A message with its type and its length.
async fn message(from: &mut OwnedReadHalf) -> io::Result<Vec<u8>> {
    let mut message = vec![0; 5];
    from.read_exact(&mut message).await?;
    let length = u32::from_be_bytes(message[1..].try_into().unwrap());
    message.resize(usize::try_from(length).unwrap() + 1, 0);
    from.read_exact(&mut message[5..]).await?;
    Ok(message)
}

fn error(severity: &str, code: &str, text: &str) -> Vec<u8> {
    let fields = format!("S{severity}\0V{severity}\0C{code}\0M{text}\0\0");
    let mut message = vec![b'E'];
    message.extend(u32::try_from(fields.len() + 4).unwrap().to_be_bytes());
    message.extend(fields.as_bytes());
    message
}
