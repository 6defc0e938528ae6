//! The replicated state: the machine, and what the protocol itself replicates. It changes by executing
//! batches in order and in no other way.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use orch_core::{
    consensus::{Author, Context, MachineError, StateMachine},
    store::Revision,
};

use super::{
    ballot::{VoteOutcome, VoteRefusal},
    batch::{Batch, Body, Request},
    clients::{Clients, Standing},
    config::Config,
    guard::Guard,
    ids::{Digest, PublicKey, ReplicaId, Seq},
    membership::{Change, Membership},
    message::{Checkpoint, Reply, SnapshotRef},
};
use crate::codec::{Decode, Encode, Input, Malformed, put_bytes, put_list};

/// The replicated state after [`Service::executed`].
#[derive(Debug)]
pub(super) struct Service {
    machine: Box<dyn StateMachine>,
    protocol: Protocol,
}

/// Replicated state of the protocol besides the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Protocol {
    executed: Seq,
    /// chain(s) = H(chain(s - 1), digest of batch s).
    chain: Digest,
    membership: Membership,
    /// Comes into force when the checkpoint at this sequence number is stable.
    successor: Option<(Seq, Membership)>,
    /// Voters for each change of members.
    ballots: BTreeMap<Vec<u8>, BTreeSet<ReplicaId>>,
    clients: Clients,
}

/// Outcome of a request in a batch.
pub(super) enum Executed {
    /// It was executed now.
    Now(Arc<Reply>),
    /// It was executed before.
    Before(Option<Arc<Reply>>),
    /// It is not executed.
    Refused,
}

impl Service {
    pub(super) fn new(machine: Box<dyn StateMachine>, membership: Membership) -> Self {
        let protocol = Protocol {
            executed: Seq::ZERO,
            chain: Digest::default(),
            membership,
            successor: None,
            ballots: BTreeMap::new(),
            clients: Clients::default(),
        };
        Self { machine, protocol }
    }

    pub(super) fn executed(&self) -> Seq {
        self.protocol.executed
    }

    pub(super) fn membership(&self) -> &Membership {
        &self.protocol.membership
    }

    pub(super) fn successor(&self) -> Option<&(Seq, Membership)> {
        self.protocol.successor.as_ref()
    }

    pub(super) fn chain(&self) -> Digest {
        self.protocol.chain
    }

    pub(super) fn machine(&self) -> &dyn StateMachine {
        &*self.machine
    }

    pub(super) fn standing(&self, request: &Request) -> Standing {
        self.protocol.clients.standing(request)
    }

    pub(super) fn session(&self, client: &PublicKey) -> u64 {
        self.protocol.clients.session(client)
    }

    /// Carries out the batch after [`Service::executed`].
    pub(super) fn execute(&mut self, batch: &Batch, config: &Config) -> Vec<(Arc<Request>, Executed)> {
        let seq = self.protocol.executed.next();
        self.protocol.executed = seq;
        self.protocol.chain = link(self.protocol.chain, batch.digest());
        let mut all = Vec::with_capacity(batch.requests.len());
        for request in &batch.requests {
            let standing = self.standing(request);
            let new = config.holds(Guard::NotExecutedBefore, standing == Standing::New);
            let result = match standing {
                _ if new => self.carry_out(request, batch, config),
                Standing::Done(reply) => Executed::Before(reply),
                Standing::New | Standing::Refused => Executed::Refused,
            };
            all.push((request.clone(), result));
        }
        self.machine.commit(Revision(seq.0));
        all
    }

    fn carry_out(&mut self, request: &Request, batch: &Batch, config: &Config) -> Executed {
        let outcomes = match &request.body {
            Body::Commands(commands) => {
                let member = self.protocol.membership.by_key(&request.client).is_some();
                let author = Author::Key { key: request.client.0, member };
                let context = Context::new(batch.time, &author);
                commands.iter().map(|command| self.machine.decide(&context, command).outcome).collect()
            }
            Body::Barrier => Vec::new(),
            Body::Membership(change) => vec![self.vote(&request.client, change, config).to_wire()],
        };
        Executed::Now(self.protocol.clients.done(request, self.protocol.executed, outcomes))
    }

    /// A change is adopted when f + 1 members voted for it, so that one of them is correct, and is in force
    /// from a checkpoint that lies beyond everything that may be in flight.
    fn vote(&mut self, client: &PublicKey, change: &Change, config: &Config) -> VoteOutcome {
        let protocol = &mut self.protocol;
        let Some(voter) = protocol.membership.by_key(client).map(|member| member.id) else {
            return VoteOutcome::Refused(VoteRefusal::NotAMember);
        };
        if let Some((_, next)) = &protocol.successor {
            // A vote for the change that the others voted for already gets what it wants.
            let same = protocol.membership.after(change).is_ok_and(|wanted| wanted == *next);
            return match same {
                true => VoteOutcome::Adopted,
                false => VoteOutcome::Refused(VoteRefusal::ChangeUnderway),
            };
        }
        let next = match protocol.membership.after(change) {
            Ok(next) => next,
            Err(error) => return VoteOutcome::Refused(error.into()),
        };
        // One open vote of each member at a time keeps the table small.
        for voters in protocol.ballots.values_mut() {
            voters.remove(&voter);
        }
        protocol.ballots.retain(|_, voters| !voters.is_empty());
        let voters = protocol.ballots.entry(change.to_bytes()).or_default();
        voters.insert(voter);
        if voters.len() < protocol.membership.quorum().weak() {
            return VoteOutcome::Recorded;
        }
        protocol.ballots.clear();
        let beyond = protocol.executed.0 + config.window;
        let at = beyond.next_multiple_of(config.checkpoint_interval);
        protocol.successor = Some((Seq(at), next));
        VoteOutcome::Adopted
    }

    /// Checkpoint that replicas vote for after [`Service::executed`].
    pub(super) fn checkpoint(&self, snapshot: SnapshotRef) -> Checkpoint {
        let protocol = &self.protocol;
        let here = |(at, _): &&(Seq, Membership)| *at == protocol.executed;
        Checkpoint {
            epoch: protocol.membership.epoch(),
            seq: protocol.executed,
            chain: protocol.chain,
            snapshot,
            membership: protocol.membership.digest(),
            successor: protocol.successor.as_ref().filter(here).map(|(_, next)| next.digest()),
        }
    }

    /// Puts the successor into force.
    pub(super) fn succeed(&mut self) {
        if let Some((_, next)) = self.protocol.successor.take() {
            self.protocol.membership = next;
        }
    }

    /// The whole state in bytes.
    pub(super) fn snapshot(&self) -> Bytes {
        let mut out = self.protocol.to_bytes();
        out.extend(self.machine.snapshot());
        out.into()
    }

    /// Forgets which requests were answered, as the seeded fault has it.
    #[cfg(feature = "simulation")]
    pub(super) fn forget_replies(&mut self) {
        self.protocol.clients = Clients::default();
    }

    /// Replaces the whole state. Nothing changes when it cannot be read.
    pub(super) fn restore(&mut self, snapshot: Bytes) -> Result<(), MachineError> {
        let mut input = Input(snapshot);
        let unparsable = |error| MachineError::unparsable("the part of the protocol in the snapshot", error);
        let protocol = Protocol::decode(&mut input).map_err(unparsable)?;
        self.machine.restore(&input.0)?;
        self.machine.commit(Revision(protocol.executed.0));
        self.protocol = protocol;
        Ok(())
    }
}

/// The next link of the chain over all batches.
pub(super) fn link(chain: Digest, batch: Digest) -> Digest {
    Digest::of("orch pbft chain", &[&chain.0, &batch.0])
}

impl Encode for Protocol {
    fn encode(&self, out: &mut Vec<u8>) {
        self.executed.encode(out);
        self.chain.encode(out);
        self.membership.encode(out);
        self.successor.encode(out);
        let ballots: Vec<_> = self.ballots.iter().collect();
        put_list(&ballots, out, |(change, voters), out| {
            put_bytes(change, out);
            let voters: Vec<_> = voters.iter().collect();
            put_list(&voters, out, |voter, out| voter.encode(out));
        });
        self.clients.encode(out);
    }
}

impl Decode for Protocol {
    fn decode(input: &mut Input) -> Result<Self, Malformed> {
        Ok(Self {
            executed: Decode::decode(input)?,
            chain: Decode::decode(input)?,
            membership: Decode::decode(input)?,
            successor: Decode::decode(input)?,
            ballots: input
                .list(8, usize::MAX, |input| {
                    let change = input.bytes()?.to_vec();
                    Ok((change, input.list(4, usize::MAX, ReplicaId::decode)?.into_iter().collect()))
                })?
                .into_iter()
                .collect(),
            clients: Decode::decode(input)?,
        })
    }
}
