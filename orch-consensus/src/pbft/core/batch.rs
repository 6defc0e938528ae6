//! Units of ordering: batches of requests, each a bundle of one client's commands under one signature.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use orch_core::model::Timestamp;

use super::{
    config::Config,
    ids::{Digest, PublicKey, Signature},
    membership::Change,
};
use crate::codec::{Decode, Encode, Input, Malformed, length, put_bytes, put_list};

/// Commands of one client that are ordered and answered together. At most once: a client numbers its requests
/// within a session, from 1.
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    /// Key of the client.
    pub client: PublicKey,
    /// Incarnation of the client. A later one has a higher number and ends the earlier one.
    pub session: u64,
    /// Its number in the session.
    pub number: u64,
    /// The client has the replies to all requests up to this number; replicas no longer keep them.
    pub answered: u64,
    /// Content of the request.
    pub body: Body,
    /// The client's, over the digest. Not needed when the client leads the view that it is proposed in.
    pub signature: Option<Signature>,
    digest: Digest,
}

/// Content of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// Commands for the machine.
    Commands(Commands),
    /// Nothing but a sequence number: a read that waits for it sees all that was answered before.
    Barrier,
    /// A vote for a change of members.
    Membership(Change),
}

impl Request {
    /// A request that is not signed yet.
    #[must_use]
    pub fn new(client: PublicKey, session: u64, number: u64, answered: u64, body: Body) -> Self {
        let mut request =
            Self { client, session, number, answered, body, signature: None, digest: Digest::default() };
        request.digest = request.compute_digest();
        request
    }

    /// The hash of everything but the signature.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Size within a batch, in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        let body = match &self.body {
            Body::Commands(commands) => commands.packed.len(),
            Body::Barrier => 0,
            Body::Membership(_) => 300,
        };
        body + 160
    }

    fn compute_digest(&self) -> Digest {
        let mut head = Vec::with_capacity(64);
        self.encode_head(&mut head);
        match &self.body {
            Body::Commands(commands) => Digest::of("orch pbft request", &[&head, b"c", &commands.packed]),
            Body::Barrier => Digest::of("orch pbft request", &[&head, b"b"]),
            Body::Membership(change) => Digest::of("orch pbft request", &[&head, b"m", &change.to_bytes()]),
        }
    }

    fn encode_head(&self, out: &mut Vec<u8>) {
        self.client.encode(out);
        for number in [self.session, self.number, self.answered] {
            out.extend(number.to_le_bytes());
        }
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match &self.body {
            Body::Commands(commands) => format!("{} commands", commands.len()),
            Body::Barrier => "barrier".into(),
            Body::Membership(change) => format!("{change:?}"),
        };
        write!(f, "{:?}/{}#{} ({what})", self.client, self.session, self.number)
    }
}

impl Encode for Request {
    fn encode(&self, out: &mut Vec<u8>) {
        self.encode_head(out);
        self.signature.encode(out);
        match &self.body {
            Body::Commands(commands) => {
                out.push(0);
                put_bytes(&commands.packed, out);
            }
            Body::Barrier => out.push(1),
            Body::Membership(change) => {
                out.push(2);
                change.encode(out);
            }
        }
    }
}

impl Decode for Request {
    fn decode(input: &mut Input) -> Result<Self, Malformed> {
        let (client, session, number, answered) =
            (PublicKey::decode(input)?, input.u64()?, input.u64()?, input.u64()?);
        let signature = Option::decode(input)?;
        let body = match input.u8()? {
            0 => Body::Commands(Commands::read(input.bytes()?)?),
            1 => Body::Barrier,
            2 => Body::Membership(Change::decode(input)?),
            _ => return Err(Malformed("an unknown kind of request")),
        };
        Ok(Self { signature, ..Self::new(client, session, number, answered, body) })
    }
}

/// Commands, packed as they travel, are hashed and are executed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Commands {
    packed: Bytes,
    count: u32,
}

impl Commands {
    /// Packs `commands`.
    #[must_use]
    pub fn pack<T: AsRef<[u8]>>(commands: impl IntoIterator<Item = T>) -> Self {
        let (mut packed, mut count) = (Vec::new(), 0);
        for command in commands {
            put_bytes(command.as_ref(), &mut packed);
            count += 1;
        }
        Self { packed: packed.into(), count }
    }

    /// Number of commands.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// True without any command.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Each command.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.packed[..];
        std::iter::from_fn(move || {
            let (length, after) = rest.split_first_chunk::<4>()?;
            let (command, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            rest = after;
            Some(command)
        })
    }

    fn read(packed: Bytes) -> Result<Self, Malformed> {
        let (mut rest, mut count) = (&packed[..], 0);
        while !rest.is_empty() {
            let (length, after) =
                rest.split_first_chunk::<4>().ok_or(Malformed("a command ends too early"))?;
            rest = after
                .get(u32::from_le_bytes(*length) as usize..)
                .ok_or(Malformed("a command ends too early"))?;
            count += 1;
        }
        Ok(Self { packed, count })
    }
}

/// Commands that become one request, and the tokens of those who wait for what comes of them.
pub(super) struct Bundle {
    pub(super) commands: Commands,
    pub(super) tokens: Vec<u64>,
}

/// Bytes of a request besides its commands, with room to spare.
const REQUEST_OVERHEAD: usize = 512;

impl Bundle {
    /// True when a command of this size fits into a request at all.
    pub(super) fn takes(size: usize, config: &Config) -> bool {
        size.saturating_add(REQUEST_OVERHEAD) <= config.batch_bytes_max
    }

    /// As many of the first commands that wait as fit into a batch.
    pub(super) fn take(open: &mut Vec<(u64, Bytes)>, config: &Config) -> Option<Self> {
        let (mut bytes, mut count) = (REQUEST_OVERHEAD, 0);
        for (_, command) in open.iter() {
            bytes += command.len() + 4;
            if count >= config.batch_commands_max || (bytes > config.batch_bytes_max && count > 0) {
                break;
            }
            count += 1;
        }
        if count == 0 {
            return None;
        }
        let rest = open.split_off(count);
        let bundle = std::mem::replace(open, rest);
        let commands = Commands::pack(bundle.iter().map(|(_, command)| command));
        Some(Self { commands, tokens: bundle.into_iter().map(|(token, _)| token).collect() })
    }
}

/// Content of one sequence number.
#[derive(Clone, PartialEq, Eq)]
pub struct Batch {
    /// Time of the proposal, by the primary's clock; replicas refuse what is far from theirs.
    pub time: Timestamp,
    /// The requests in order. Each client is answered with what came of each command.
    pub requests: Vec<Arc<Request>>,
    digest: Digest,
}

impl Batch {
    /// A batch proposed at `time`.
    #[must_use]
    pub fn new(time: Timestamp, requests: Vec<Arc<Request>>) -> Self {
        let mut digests = Vec::with_capacity(8 + requests.len() * 32);
        digests.extend(time.as_millis().to_le_bytes());
        for request in &requests {
            digests.extend(request.digest().0);
        }
        Self { time, requests, digest: Digest::of("orch pbft batch", &[&digests]) }
    }

    /// The null batch: it fills a gap that a view change found (TOCS 4.4), and does nothing.
    #[must_use]
    pub fn null() -> Self {
        Self::new(Timestamp::ZERO, Vec::new())
    }

    /// Its hash, without signatures.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// True for the null batch.
    #[must_use]
    pub fn is_null(&self) -> bool {
        self.requests.is_empty()
    }

    /// Its size in bytes, about.
    #[must_use]
    pub fn size(&self) -> usize {
        48 + self.requests.iter().map(|request| request.size()).sum::<usize>()
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_null() {
            return write!(f, "null batch");
        }
        write!(f, "batch {:?} at {}: {:?}", self.digest, self.time.as_millis(), self.requests)
    }
}

impl Encode for Batch {
    fn encode(&self, out: &mut Vec<u8>) {
        out.reserve(self.size());
        out.extend(self.time.as_millis().to_le_bytes());
        put_list(&self.requests, out, Encode::encode);
    }
}

impl Decode for Batch {
    fn decode(input: &mut Input) -> Result<Self, Malformed> {
        let time = Timestamp::from_millis(input.u64()?);
        let requests = input.list(58, usize::MAX, |input| Request::decode(input).map(Arc::new))?;
        Ok(Self::new(time, requests))
    }
}

/// Outcomes of the commands of one request, in order.
pub(crate) fn put_outcomes(outcomes: &[Bytes], out: &mut Vec<u8>) {
    out.extend(length(outcomes.len()).to_le_bytes());
    for outcome in outcomes {
        put_bytes(outcome, out);
    }
}
