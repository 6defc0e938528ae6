//! Table of requests and replies: a command is executed at most once (TOCS 4.1, and 5.2 for what is part of a
//! checkpoint).

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use super::{
    batch::Request,
    ids::{PublicKey, Seq},
    message::Reply,
};
use crate::codec::{Decode, Encode, Input, Malformed};

/// Requests that a client may have in flight. Those further ahead of its oldest unanswered one are not
/// executed.
pub(super) const CLIENT_WINDOW: u64 = 256;

/// State of every client. Part of the replicated state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Clients {
    clients: BTreeMap<PublicKey, Client>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Client {
    session: u64,
    answered: u64,
    replies: BTreeMap<u64, Arc<Reply>>,
}

/// Standing of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Not executed yet.
    New,
    /// Carried out; the answer, where the client may still need it.
    Done(Option<Arc<Reply>>),
    /// Of an earlier incarnation, or too far ahead. It will not be executed.
    Refused,
}

impl Clients {
    pub(super) fn standing(&self, request: &Request) -> Standing {
        let unknown = Client::default();
        let client = self.clients.get(&request.client).unwrap_or(&unknown);
        if request.session < client.session {
            return Standing::Refused;
        }
        let answered = if request.session == client.session { client.answered } else { 0 };
        if request.session == client.session {
            if let Some(reply) = client.replies.get(&request.number) {
                return Standing::Done(Some(reply.clone()));
            }
            if request.number <= answered {
                return Standing::Done(None);
            }
        }
        let first = answered.max(request.answered);
        if request.number > first.saturating_add(CLIENT_WINDOW) { Standing::Refused } else { Standing::New }
    }

    /// Latest incarnation of a client.
    pub(super) fn session(&self, client: &PublicKey) -> u64 {
        self.clients.get(client).map_or(0, |client| client.session)
    }

    /// Takes down what came of a new request.
    pub(super) fn done(&mut self, request: &Request, seq: Seq, outcomes: Vec<Bytes>) -> Arc<Reply> {
        let client = self.clients.entry(request.client).or_default();
        if request.session > client.session {
            *client = Client { session: request.session, ..Client::default() };
        }
        client.answered = client.answered.max(request.answered);
        let answered = client.answered;
        while client.replies.first_key_value().is_some_and(|(number, _)| *number <= answered) {
            client.replies.pop_first();
        }
        let reply = Arc::new(Reply { session: request.session, number: request.number, seq, outcomes });
        client.replies.insert(request.number, reply.clone());
        reply
    }
}

impl Encode for Clients {
    fn encode(&self, out: &mut Vec<u8>) {
        (self.clients.len() as u64).encode(out);
        for (key, client) in &self.clients {
            (*key, (client.session, client.answered)).encode(out);
            (client.replies.len() as u64).encode(out);
            for reply in client.replies.values() {
                reply.encode(out);
            }
        }
    }
}

impl Decode for Clients {
    fn decode(input: &mut Input) -> Result<Self, Malformed> {
        let mut clients = BTreeMap::new();
        for _ in 0..input.u64()? {
            let (key, (session, answered)) = Decode::decode(input)?;
            let mut replies = BTreeMap::new();
            for _ in 0..input.u64()? {
                let reply: Arc<Reply> = Decode::decode(input)?;
                replies.insert(reply.number, reply);
            }
            clients.insert(key, Client { session, answered, replies });
        }
        Ok(Self { clients })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pbft::core::batch::Body;

    fn request(session: u64, number: u64, answered: u64) -> Request {
        Request::new(PublicKey([1; 32]), session, number, answered, Body::Barrier)
    }

    fn table(done: &[(u64, u64, u64)]) -> Clients {
        let mut clients = Clients::default();
        for (session, number, answered) in done {
            let request = request(*session, *number, *answered);
            assert_eq!(clients.standing(&request), Standing::New);
            clients.done(&request, Seq(1), Vec::new());
        }
        clients
    }

    #[test]
    fn a_request_is_new_once() {
        let clients = table(&[(1, 2, 0), (1, 1, 0)]);
        assert!(matches!(clients.standing(&request(1, 1, 0)), Standing::Done(Some(_))));
        assert_eq!(clients.standing(&request(1, 3, 0)), Standing::New);
    }

    #[test]
    fn answers_are_kept_until_the_client_has_them() {
        let clients = table(&[(1, 1, 0), (1, 2, 1)]);
        assert_eq!(clients.standing(&request(1, 1, 0)), Standing::Done(None));
        assert!(matches!(clients.standing(&request(1, 2, 0)), Standing::Done(Some(_))));
    }

    #[test]
    fn a_later_incarnation_ends_the_earlier() {
        let clients = table(&[(5, 1, 0), (7, 1, 0)]);
        assert_eq!(clients.standing(&request(5, 2, 0)), Standing::Refused);
        assert_eq!(clients.standing(&request(8, 1, 0)), Standing::New);
    }

    #[test]
    fn a_client_runs_ahead_by_the_window_only() {
        let clients = table(&[(1, 1, 0)]);
        assert_eq!(clients.standing(&request(1, CLIENT_WINDOW, 0)), Standing::New);
        assert_eq!(clients.standing(&request(1, CLIENT_WINDOW + 1, 0)), Standing::Refused);
        assert_eq!(clients.standing(&request(1, CLIENT_WINDOW + 1, 1)), Standing::New);
    }

    #[test]
    fn the_table_survives_its_bytes() {
        let clients = table(&[(1, 1, 0), (1, 2, 1), (2, 1, 0)]);
        assert_eq!(Clients::from_bytes(clients.to_bytes().into()), Ok(clients));
    }
}
