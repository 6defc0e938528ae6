//! Asking a group for something from outside.

use std::{
    fmt,
    sync::Arc,
    time::{Instant, SystemTime},
};

use bytes::Bytes;
use orch_core::{
    consensus::{Committed, ConsensusError},
    transport::{Incoming, Transport},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    task::JoinHandle,
};

use super::{
    calls::{Reply, Waiting, permit_for},
    config::{PbftConfig, PbftConfigError},
    outbox::Outbox,
    signer::Signer,
    verifier::Verifier,
};
use crate::pbft::core::{
    client::{Client, ClientEffect, ClientInput, ClientSetup},
    ids::PublicKey,
    message::Message,
};

/// Calls of one turn.
const CALLS_OF_TURN: usize = 4096;
/// Messages of one turn.
const MESSAGES_OF_TURN: usize = 256;

/// A client of a group that agrees with PBFT, without a vote and without the state. It has what f + 1 members
/// say came of its commands, so up to f of them can be Byzantine. A command that changes nothing is a
/// linearizable read.
///
/// The members name its key in [`Config::clients`](crate::pbft::Config::clients), all of them the same keys,
/// and their transports let it in. A key serves one client at a time: the later of two supersedes the
/// earlier, whose commands then end with [`ConsensusError::OutcomeUnknown`].
///
/// Dropping it stops it without waiting for anything; [`PbftClient::shutdown`] does so in good order.
pub struct PbftClient {
    key: PublicKey,
    max_command_bytes: usize,
    calls: mpsc::UnboundedSender<Call>,
    /// Bounds what is in `calls` and in the loop.
    permits: Arc<Semaphore>,
    task: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
enum Call {
    Propose(Bytes, Reply<Committed>, OwnedSemaphorePermit),
    Shutdown,
}

impl PbftClient {
    /// A client of the group with this configuration, the same that its members have; where their log is and
    /// how durable it is does not matter here. `signer` and `transport` have the same key. Begins a task, so
    /// it needs a Tokio runtime.
    ///
    /// # Errors
    /// [`PbftConfigError`].
    pub fn start(
        config: &PbftConfig,
        signer: Arc<dyn Signer>,
        transport: Arc<dyn Transport>,
    ) -> Result<Self, PbftConfigError> {
        config.validate()?;
        config.check_transport(&*transport, &signer.public_key())?;
        let (key, members, group) = (signer.public_key(), config.genesis()?, config.group()?);
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let session = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        let client =
            Client::new(ClientSetup { config: config.core.clone(), members: members.clone(), key, session });
        let outbox = Outbox::new(transport.clone(), signer, group, config.channel, &members);
        let verifier = Verifier::new(group, std::iter::empty());
        let driver = Driver {
            client,
            transport,
            outbox,
            verifier,
            waiting: Waiting::default(),
            start: Instant::now(),
            message_bytes_max: config.message_bytes_max(),
        };
        let (calls, queue) = mpsc::unbounded_channel();
        Ok(Self {
            key,
            max_command_bytes: config.max_command_bytes,
            calls,
            permits: Arc::new(Semaphore::new(config.queue_max.min(Semaphore::MAX_PERMITS))),
            task: tokio::sync::Mutex::new(Some(tokio::spawn(driver.run(queue)))),
        })
    }

    /// Has the group execute a command, once. Waits without a limit; a caller that stops waiting does not
    /// know whether the command was or will be executed.
    ///
    /// # Errors
    /// [`ConsensusError`], and whether it was executed all the same.
    pub async fn propose(&self, command: Bytes) -> Result<Committed, ConsensusError> {
        let permit = permit_for(&command, self.max_command_bytes, &self.permits)?;
        let (reply, answer) = oneshot::channel();
        self.calls.send(Call::Propose(command, reply, permit)).map_err(|_| ConsensusError::Stopped)?;
        answer.await.unwrap_or(Err(ConsensusError::Stopped))
    }

    /// Ends it. Commands without an answer end with [`ConsensusError::Stopped`]; what came of them is not
    /// known. The transport stays open.
    pub async fn shutdown(&self) {
        self.permits.close();
        // It may have ended by itself.
        let _ = self.calls.send(Call::Shutdown);
        if let Some(task) = self.task.lock().await.take() {
            // A loop that panicked has logged it.
            let _ = task.await;
        }
    }
}

impl fmt::Debug for PbftClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PbftClient").field("key", &self.key).finish_non_exhaustive()
    }
}

/// The loop: feeds inputs to the client and executes its effects.
struct Driver {
    client: Client,
    transport: Arc<dyn Transport>,
    outbox: Outbox,
    verifier: Verifier,
    waiting: Waiting,
    start: Instant,
    message_bytes_max: usize,
}

impl Driver {
    /// Runs until the shutdown, or until the last handle is dropped.
    async fn run(mut self, mut calls: mpsc::UnboundedReceiver<Call>) {
        let transport = self.transport.clone();
        let mut taken = Vec::new();
        let mut messages = Vec::new();
        loop {
            let deadline = self.client.deadline().map(|at| tokio::time::Instant::from(self.start + at));
            tokio::select! {
                biased;
                count = calls.recv_many(&mut taken, CALLS_OF_TURN) => {
                    if count == 0 {
                        return;
                    }
                }
                message = transport.incoming() => {
                    let Some(message) = message else {
                        tracing::error!("the transport is closed; the client stops");
                        return;
                    };
                    messages.push(message);
                    while messages.len() < MESSAGES_OF_TURN
                        && let Some(Some(message)) = futures_util::FutureExt::now_or_never(transport.incoming())
                    {
                        messages.push(message);
                    }
                }
                () = sleep_until(deadline) => {}
            }
            if self.turn(&mut taken, &mut messages).await {
                return;
            }
        }
    }

    /// Works on what came, and says whether that was all.
    async fn turn(&mut self, calls: &mut Vec<Call>, messages: &mut Vec<Incoming>) -> bool {
        let mut over = false;
        let mut inputs = Vec::with_capacity(calls.len() + messages.len() + 1);
        for call in calls.drain(..) {
            match call {
                Call::Propose(command, reply, permit) => {
                    inputs.push(ClientInput::Propose(self.waiting.command(reply, permit), command));
                }
                Call::Shutdown => over = true,
            }
        }
        inputs.extend(messages.drain(..).filter_map(|message| self.read(message)));
        inputs.push(ClientInput::Tick);
        // What is asked for at once shares bundles.
        let mut effects = Vec::new();
        self.client.step(self.start.elapsed(), inputs, &mut effects);
        while !effects.is_empty() {
            let mut inputs = Vec::new();
            for effect in effects.drain(..) {
                self.carry_out(effect, &mut inputs);
            }
            self.client.step(self.start.elapsed(), inputs, &mut effects);
        }
        self.outbox.flush().await;
        over
    }

    fn read(&self, incoming: Incoming) -> Option<ClientInput> {
        let Incoming { from, message, .. } = incoming;
        if message.len() > self.message_bytes_max {
            tracing::warn!(%from, size = message.len(), "a message is too large and is dropped");
            return None;
        }
        match Message::from_wire(message) {
            Ok(message) => Some(ClientInput::Message(PublicKey(*from.as_bytes()), message)),
            Err(error) => {
                tracing::debug!(%from, %error, "a message cannot be read");
                None
            }
        }
    }

    fn carry_out(&mut self, effect: ClientEffect, inputs: &mut Vec<ClientInput>) {
        match effect {
            ClientEffect::Submit(to, mut message) => {
                self.outbox.sign(&mut message);
                self.outbox.push(to, &message);
            }
            ClientEffect::Send(to, message) => self.outbox.push(to, &message),
            ClientEffect::Verify(claims) => {
                inputs.push(ClientInput::Verified(self.verifier.bad(&claims).is_empty()));
            }
            ClientEffect::Answer(token, answer) => drop(self.waiting.answer(token, answer)),
            ClientEffect::Members => self.outbox.set_members(self.client.members()),
        }
    }
}

async fn sleep_until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
