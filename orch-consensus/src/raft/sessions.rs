//! Table of applied bundles. Part of the replicated state.

use std::collections::BTreeMap;

use super::types::{Command, Outcomes, Refusal};
use crate::codec::{Decode, Encode, Input, Malformed, put_list};

/// Bundles of one member that may be unsettled at a time, and so the outcomes that are kept for it.
pub(super) const WINDOW: u64 = 64;

/// Incarnation of each member and the outcomes that it may still ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sessions(BTreeMap<u64, Session>);

/// `floor <= number < floor + WINDOW` for every number in `responses`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Session {
    session: u64,
    floor: u64,
    responses: BTreeMap<u64, Outcomes>,
}

/// Verdict about a bundle.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admission {
    New,
    Known(Outcomes),
    Refused(Refusal),
}

impl Sessions {
    /// Forgets the outcomes that the bundle's member has received and says what to do with the bundle.
    pub(super) fn admit(&mut self, command: &Command) -> Admission {
        let known = self.0.entry(command.origin).or_default();
        if command.session > known.session {
            *known = Session { session: command.session, ..Session::default() };
        }
        if command.session == known.session && command.floor > known.floor {
            known.floor = command.floor;
            known.responses = known.responses.split_off(&command.floor);
        }
        let refused = Admission::Refused(Refusal::Stale { session: known.session });
        let open = known.floor..known.floor.saturating_add(WINDOW);
        if command.session < known.session || !open.contains(&command.number) {
            return refused;
        }
        known
            .responses
            .get(&command.number)
            .map_or(Admission::New, |outcomes| Admission::Known(outcomes.clone()))
    }

    pub(super) fn record(&mut self, command: &Command, outcomes: Outcomes) {
        if let Some(known) = self.0.get_mut(&command.origin) {
            known.responses.insert(command.number, outcomes);
        }
    }

    /// Latest incarnation of `node`.
    pub(super) fn session_of(&self, node: u64) -> u64 {
        self.0.get(&node).map_or(0, |known| known.session)
    }

    /// Forgets all other members.
    pub(super) fn retain(&mut self, stays: impl Fn(u64) -> bool) {
        self.0.retain(|node, _| stays(*node));
    }
}

impl Encode for Sessions {
    fn encode(&self, out: &mut Vec<u8>) {
        put_list(self.0.iter(), out, |(node, known), out| {
            for number in [*node, known.session, known.floor] {
                number.encode(out);
            }
            put_list(known.responses.iter(), out, |(number, outcomes), out| {
                number.encode(out);
                outcomes.encode(out);
            });
        });
    }
}

impl Decode for Sessions {
    fn decode(input: &mut Input) -> Result<Self, Malformed> {
        let sessions = input.list(28, usize::MAX, |input| {
            let (node, session, floor) = (input.u64()?, input.u64()?, input.u64()?);
            let responses =
                input.list(24, usize::MAX, |input| Ok((input.u64()?, Outcomes::decode(input)?)))?;
            Ok((node, Session { session, floor, responses: responses.into_iter().collect() }))
        })?;
        Ok(Self(sessions.into_iter().collect()))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use orch_core::{model::Timestamp, store::Revision};

    use super::*;
    use crate::raft::types::Commands;

    fn bundle(session: u64, number: u64, floor: u64) -> Command {
        let commands = Commands::pack([Bytes::from_static(b"x")].iter());
        Command { at: Timestamp::ZERO, origin: 7, session, number, floor, commands }
    }

    fn outcomes(at: u64) -> Outcomes {
        Outcomes { revision: Revision(at), each: [Bytes::from_static(b"done")].into() }
    }

    #[test]
    fn a_bundle_is_new_once() {
        let mut sessions = Sessions::default();
        assert_eq!(sessions.admit(&bundle(5, 0, 0)), Admission::New);
        sessions.record(&bundle(5, 0, 0), outcomes(1));
        assert_eq!(sessions.admit(&bundle(5, 0, 0)), Admission::Known(outcomes(1)));
        assert_eq!(sessions.admit(&bundle(5, 2, 1)), Admission::New, "numbers may come in any order");
        assert_eq!(sessions.admit(&bundle(5, 1, 1)), Admission::New);
        let stale = Admission::Refused(Refusal::Stale { session: 5 });
        assert_eq!(sessions.admit(&bundle(5, 0, 0)), stale, "received numbers stay received");
    }

    #[test]
    fn a_later_incarnation_ends_the_one_before() {
        let mut sessions = Sessions::default();
        assert_eq!(sessions.admit(&bundle(5, 3, 0)), Admission::New);
        assert_eq!(sessions.admit(&bundle(6, 3, 0)), Admission::New);
        assert_eq!(sessions.admit(&bundle(5, 4, 0)), Admission::Refused(Refusal::Stale { session: 6 }));
        assert_eq!(sessions.session_of(7), 6);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut sessions = Sessions::default();
        for number in 0..10 * WINDOW {
            if sessions.admit(&bundle(1, number, 0)) == Admission::New {
                sessions.record(&bundle(1, number, 0), outcomes(number));
            }
        }
        assert_eq!(sessions.0[&7].responses.len() as u64, WINDOW);
    }

    #[test]
    fn they_read_as_they_were_written() {
        let mut sessions = Sessions::default();
        sessions.admit(&bundle(1, 0, 0));
        sessions.record(&bundle(1, 0, 0), outcomes(9));
        assert_eq!(Sessions::from_bytes(sessions.to_bytes().into()), Ok(sessions));
    }
}
