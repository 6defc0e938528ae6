//! Client of a group without being a member of it (TOCS 4.1). Like the replica, a function of its inputs.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    batch::{Body, Bundle, Request},
    clients::CLIENT_WINDOW,
    config::Config,
    ids::{Epoch, PublicKey, ReplicaId, View},
    io::{Answer, Refusal, To},
    membership::Membership,
    message::{EpochStep, Fetch, Message, Reply, Supply, follow},
    statement::Claim,
};

/// Bundles that are on their way at a time; more commands wait and fill the next one.
const BUNDLES_MAX: usize = 8;

/// Initial state of a [`Client`].
#[derive(Clone, Debug)]
pub struct ClientSetup {
    /// The group's.
    pub config: Config,
    /// The first members of the group, or later ones that are known for certain.
    pub members: Membership,
    /// Its own key, which the configuration of the members names.
    pub key: PublicKey,
    /// Incarnation of this client: higher than any before.
    pub session: u64,
}

/// Something that happened to a client.
#[derive(Clone, Debug)]
pub enum ClientInput {
    /// Command of a caller. [`ClientEffect::Answer`] with the same token has its outcome.
    Propose(u64, Bytes),
    /// A message whose sender the transport has authenticated.
    Message(PublicKey, Message),
    /// The signatures of [`ClientEffect::Verify`] were checked: whether all are good.
    Verified(bool),
    /// The time that [`Client::deadline`] named has come.
    Tick,
}

/// Something that a client wants done, in this order.
#[derive(Clone, Debug)]
pub enum ClientEffect {
    /// Sign the request and send it to a member, or to all.
    Submit(To, Message),
    /// Send it as it is.
    Send(To, Message),
    /// Check signatures and come back with [`ClientInput::Verified`].
    Verify(Vec<Claim>),
    /// Outcome of a command.
    Answer(u64, Result<Answer, Refusal>),
    /// [`Client::members`] changed.
    Members,
}

/// A client of a group. Its commands are bundled into requests; what f + 1 members say came of one is the
/// truth, because one of them is correct.
///
/// It sends to the member that it takes for the primary, and to all when that takes long. When the members
/// change it learns of it from them, by proofs that lead from the members it knows to those that followed:
/// until then, it relies on no more than f of those it knows being faulty.
#[derive(Debug)]
pub struct Client {
    config: Config,
    key: PublicKey,
    members: Membership,
    /// View that the group was last known to be in.
    view: View,
    session: u64,
    next: u64,
    open: Vec<(u64, Bytes)>,
    sent: BTreeMap<u64, Sent>,
    /// Members that know a later incarnation of this client, and which.
    later: BTreeMap<ReplicaId, u64>,
    /// New members whose proof is being checked.
    proving: Option<Membership>,
    asked_at: Option<Duration>,
}

/// A request on its way.
#[derive(Debug)]
struct Sent {
    request: Arc<Request>,
    tokens: Vec<u64>,
    replies: BTreeMap<ReplicaId, (View, Arc<Reply>)>,
    again_at: Duration,
    retry_after: Duration,
}

impl Client {
    /// A client that has asked for nothing yet.
    #[must_use]
    pub fn new(setup: ClientSetup) -> Self {
        Self {
            config: setup.config,
            key: setup.key,
            members: setup.members,
            view: View::default(),
            session: setup.session.max(1),
            next: 1,
            open: Vec::new(),
            sent: BTreeMap::new(),
            later: BTreeMap::new(),
            proving: None,
            asked_at: None,
        }
    }

    /// The members as far as they are known.
    #[must_use]
    pub fn members(&self) -> &Membership {
        &self.members
    }

    /// Commands that have no answer yet.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.open.len() + self.sent.values().map(|sent| sent.tokens.len()).sum::<usize>()
    }

    /// Latest time of the next step.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.sent.values().map(|sent| sent.again_at).min()
    }

    /// Handles inputs, at a time of a clock that never goes back. Commands that come at once share requests.
    pub fn step(
        &mut self,
        now: Duration,
        inputs: impl IntoIterator<Item = ClientInput>,
        out: &mut Vec<ClientEffect>,
    ) {
        for input in inputs {
            #[cfg(feature = "simulation")]
            self.take_wrongly(now, &input, out);
            self.take(now, input, out);
        }
        self.send_bundles(now, out);
        self.send_again(now, out);
    }

    /// Takes a reply for one of every member, as the seeded fault has it.
    #[cfg(feature = "simulation")]
    fn take_wrongly(&mut self, now: Duration, input: &ClientInput, out: &mut Vec<ClientEffect>) {
        use super::fault::SeededFault;
        if let ClientInput::Message(_, message @ Message::Reply(..)) = input
            && self.config.seeded_fault == Some(SeededFault::OneReplyBelieved)
        {
            let keys: Vec<_> = self.members.members().iter().map(|member| member.key).collect();
            for key in keys {
                self.take(now, ClientInput::Message(key, message.clone()), out);
            }
        }
    }

    fn take(&mut self, now: Duration, input: ClientInput, out: &mut Vec<ClientEffect>) {
        match input {
            ClientInput::Propose(token, command) => self.take_command(token, command, out),
            ClientInput::Message(from, Message::Reply(epoch, view, reply)) => {
                self.on_reply(now, from, (epoch, view), &reply, out);
            }
            ClientInput::Message(_, Message::Supply(Supply::Members(steps))) => self.on_steps(&steps, out),
            ClientInput::Message(..) | ClientInput::Tick => {}
            ClientInput::Verified(good) => self.on_verified(now, good, out),
        }
    }

    fn take_command(&mut self, token: u64, command: Bytes, out: &mut Vec<ClientEffect>) {
        let size = command.len();
        if !Bundle::takes(size, &self.config) {
            out.push(ClientEffect::Answer(token, Err(Refusal::TooLarge(size))));
            return;
        }
        self.open.push((token, command));
    }

    fn send_bundles(&mut self, now: Duration, out: &mut Vec<ClientEffect>) {
        // Members carry out nothing that is further ahead of the oldest unanswered request.
        let near = |next: u64, first: u64| next - first < CLIENT_WINDOW;
        while self.sent.len() < BUNDLES_MAX && near(self.next, self.first_unanswered()) {
            let Some(bundle) = Bundle::take(&mut self.open, &self.config) else { return };
            let (number, answered) = (self.next, self.first_unanswered() - 1);
            self.next += 1;
            let body = Body::Commands(bundle.commands);
            let request = Arc::new(Request::new(self.key, self.session, number, answered, body));
            let retry_after = self.config.request_timeout / 2;
            let primary = To::One(self.members.primary(self.view).key);
            out.push(ClientEffect::Submit(primary, Message::Request(request.clone())));
            self.sent.insert(
                number,
                Sent {
                    request,
                    tokens: bundle.tokens,
                    replies: BTreeMap::new(),
                    again_at: now + retry_after,
                    retry_after,
                },
            );
        }
    }

    fn first_unanswered(&self) -> u64 {
        self.sent.first_key_value().map_or(self.next, |(first, _)| *first)
    }

    /// Slow requests go to all members: the primary may be faulty, or another than we think.
    fn send_again(&mut self, now: Duration, out: &mut Vec<ClientEffect>) {
        let mut late = false;
        for sent in self.sent.values_mut().filter(|sent| sent.again_at <= now) {
            late = true;
            sent.retry_after = (sent.retry_after * 2).min(self.config.request_timeout_max);
            sent.again_at = now + sent.retry_after;
            out.push(ClientEffect::Submit(To::Others, Message::Request(sent.request.clone())));
        }
        if late {
            self.ask_for_members(now, To::Others, out);
        }
    }

    fn on_reply(
        &mut self,
        now: Duration,
        from: PublicKey,
        (epoch, view): (Epoch, View),
        reply: &Arc<Reply>,
        out: &mut Vec<ClientEffect>,
    ) {
        let Some(member) = self.members.by_key(&from).map(|member| member.id) else { return };
        if epoch > self.members.epoch() {
            // How many of the members have to agree is not known before it is known who they are.
            self.ask_for_members(now, To::One(from), out);
            return;
        }
        if reply.session > self.session {
            self.later.insert(member, reply.session);
            self.begin_later_session(out);
            return;
        }
        let enough = self.members.quorum().weak();
        let Some(sent) = self.sent.get_mut(&reply.number) else { return };
        if reply.session != self.session || reply.outcomes.len() != sent.tokens.len() {
            return;
        }
        let known_view = if epoch == self.members.epoch() { view } else { View::default() };
        sent.replies.insert(member, (known_view, reply.clone()));
        let equal = || sent.replies.values().filter(|(_, other)| other == reply);
        if equal().count() < enough {
            return;
        }
        // One of them is correct, so the group has come at least as far as the one that is least far.
        self.view = self.view.max(equal().map(|(view, _)| *view).min().unwrap_or_default());
        let tokens = self.sent.remove(&reply.number).map(|sent| sent.tokens).unwrap_or_default();
        for (token, outcome) in tokens.into_iter().zip(&reply.outcomes) {
            let answer = Answer { seq: reply.seq, outcome: outcome.clone() };
            out.push(ClientEffect::Answer(token, Ok(answer)));
        }
    }

    /// The group knows a later incarnation of this client: the clock that numbered this one was set back.
    /// What was sent so far will not be executed any more; whether it was is not known.
    fn begin_later_session(&mut self, out: &mut Vec<ClientEffect>) {
        let mut sessions: Vec<u64> =
            self.later.values().copied().filter(|session| *session > self.session).collect();
        sessions.sort_unstable_by(|a, b| b.cmp(a));
        let Some(session) = sessions.get(self.members.quorum().weak() - 1) else { return };
        self.session = session + 1;
        self.next = 1;
        self.later.clear();
        for (_, sent) in std::mem::take(&mut self.sent) {
            let unknown = |token| ClientEffect::Answer(token, Err(Refusal::Unknown));
            out.extend(sent.tokens.into_iter().map(unknown));
        }
    }

    /// A member that knows later members than we do answers with the proof.
    fn ask_for_members(&mut self, now: Duration, to: To, out: &mut Vec<ClientEffect>) {
        let due = self.asked_at.is_none_or(|at| now >= at + self.config.status_interval);
        if due {
            self.asked_at = Some(now);
            out.push(ClientEffect::Send(to, Message::Fetch(Fetch::Members(self.members.epoch()))));
        }
    }

    fn on_steps(&mut self, steps: &[EpochStep], out: &mut Vec<ClientEffect>) {
        if self.proving.is_some() {
            return;
        }
        let Some((members, claims)) = follow(steps, &self.members) else { return };
        if members.epoch() > self.members.epoch() {
            self.proving = Some(members);
            out.push(ClientEffect::Verify(claims));
        }
    }

    fn on_verified(&mut self, now: Duration, good: bool, out: &mut Vec<ClientEffect>) {
        let Some(members) = self.proving.take().filter(|_| good) else { return };
        self.members = members;
        // There may be still later ones.
        self.asked_at = None;
        self.view = View::default();
        let members = &self.members;
        self.later.retain(|member, _| members.member(*member).is_some());
        for sent in self.sent.values_mut() {
            sent.replies.retain(|member, _| members.member(*member).is_some());
            sent.again_at = now;
        }
        out.push(ClientEffect::Members);
    }
}

#[cfg(test)]
mod tests;
