//! Processes of a group, and what they use.

use std::{io, net::SocketAddr, process::ExitStatus, time::Duration};

use tokio::{
    net::TcpListener,
    process::{Child, Command},
    time::timeout,
};

use crate::Failure;

/// Time that a process may take to end when it was told to.
const FAREWELL: Duration = Duration::from_secs(5);

/// A process that ends with its owner.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) child: Child,
    id: u32,
}

impl Process {
    pub(super) fn start(command: &mut Command) -> io::Result<Self> {
        let child = command.kill_on_drop(true).spawn()?;
        let id = child.id().ok_or_else(|| io::Error::other("it has ended at once"))?;
        Ok(Self { child, id })
    }

    /// Processor time of all its threads so far.
    pub(super) fn cpu(&self) -> Result<Duration, Failure> {
        cpu_of(&self.id.to_string())
    }

    /// Whether it has ended already.
    pub(super) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Waits for the end of a process that was asked to, and forces it where that does not help.
    pub(super) async fn end(mut self) -> io::Result<()> {
        match timeout(FAREWELL, self.child.wait()).await {
            Ok(status) => status.map(drop),
            Err(_) => self.child.kill().await,
        }
    }

    pub(super) async fn kill(mut self) -> io::Result<()> {
        self.child.kill().await
    }
}

/// Processor time of this process so far.
pub(super) fn cpu_of_us() -> Result<Duration, Failure> {
    cpu_of("self")
}

fn cpu_of(process: &str) -> Result<Duration, Failure> {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name of a program may have blanks and brackets in it; what follows the last one does not.
    let (_, fields) = text.rsplit_once(')').ok_or("a process without a name")?;
    let mut ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
    let (user, system) = (ticks.next().ok_or("no user time")??, ticks.next().ok_or("no system time")??);
    Ok(Duration::from_secs_f64((user + system) as f64 / rustix::param::clock_ticks_per_second() as f64))
}

/// Addresses on loopback that nobody listens at. All are found before one is given back, so that they differ.
pub(super) async fn free_addresses(count: usize) -> io::Result<Vec<SocketAddr>> {
    let mut listeners = Vec::new();
    for _ in 0..count {
        listeners.push(TcpListener::bind("127.0.0.1:0").await?);
    }
    listeners.iter().map(TcpListener::local_addr).collect()
}
