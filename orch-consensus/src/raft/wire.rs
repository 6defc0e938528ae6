//! Messages between members, in bytes: a version, a kind, the content.

use bytes::Bytes;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse};
use orch_core::{
    consensus::{MemberId, MemberRole, MembershipChange},
    store::Revision,
    transport::PeerId,
};

use super::types::{Command, LogId, Outcomes, Refusal, Types, Vote};
use crate::codec::{Decode, Encode, Input, Malformed, put_bytes, put_list};

/// The version of everything here. Another one is refused.
const VERSION: u8 = 1;

/// Request of one member to another.
#[derive(Debug)]
pub(super) enum Request {
    Append(AppendEntriesRequest<Types>),
    Vote(VoteRequest<u64>),
    Part(Part),
    /// A bundle for the leader to put into the log.
    Forward(Command),
    /// Index up to which a linearizable read has to wait.
    ReadIndex,
    /// A change of members for the leader to carry out.
    Change(MembershipChange),
}

/// Chunk of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// The leader's.
    pub(super) vote: Vote,
    /// Distinguishes this transfer from others of the same leader.
    pub(super) transfer: u64,
    pub(super) offset: u64,
    pub(super) last: bool,
    pub(super) bytes: Bytes,
}

/// The answer to a [`Request`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Response {
    Append(AppendEntriesResponse<u64>),
    Vote(VoteResponse<u64>),
    /// Offset of the chunk that is wanted next.
    Part(u64),
    /// The snapshot is installed, or refused by a greater vote.
    Installed(Vote),
    Outcomes(Outcomes),
    Refused(Refusal),
    ReadIndex(u64),
    Changed(Revision),
    /// The change cannot be done; trying again does not help.
    Impossible(String),
    /// Nothing happened: it has to be asked of the leader.
    NotLeader,
    /// It was begun and came to no end: the leader was deposed, or too few members answered.
    NotNow,
}

/// The beginning of a message, with room for most of them.
fn begin() -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    out.push(VERSION);
    out
}

impl Request {
    pub(super) fn to_message(&self) -> Bytes {
        let mut out = begin();
        match self {
            Self::Append(request) => {
                out.push(0);
                request.vote.encode(&mut out);
                request.prev_log_id.encode(&mut out);
                request.leader_commit.encode(&mut out);
                put_list(request.entries.iter(), &mut out, Encode::encode);
            }
            Self::Vote(request) => {
                out.push(1);
                request.vote.encode(&mut out);
                request.last_log_id.encode(&mut out);
            }
            Self::Part(part) => {
                out.push(2);
                part.vote.encode(&mut out);
                part.transfer.encode(&mut out);
                part.offset.encode(&mut out);
                out.push(u8::from(part.last));
                put_bytes(&part.bytes, &mut out);
            }
            Self::Forward(command) => {
                out.push(3);
                command.encode(&mut out);
            }
            Self::ReadIndex => out.push(4),
            Self::Change(change) => {
                out.push(5);
                put_bytes(change.member().as_str().as_bytes(), &mut out);
                out.push(u8::from(matches!(change, MembershipChange::Add { .. })));
                if let MembershipChange::Add { peer, role, .. } = change {
                    put_bytes(&detail(*peer, *role), &mut out);
                }
            }
        }
        out.into()
    }

    pub(super) fn from_message(message: Bytes) -> Result<Self, Malformed> {
        let mut input = open(message)?;
        let input = &mut input;
        let request = match input.u8()? {
            0 => {
                let (vote, prev_log_id) = (Vote::decode(input)?, Option::decode(input)?);
                let leader_commit = Option::<LogId>::decode(input)?;
                let entries = input.list(25, usize::MAX, Decode::decode)?;
                Self::Append(AppendEntriesRequest { vote, prev_log_id, entries, leader_commit })
            }
            1 => Self::Vote(VoteRequest::new(Vote::decode(input)?, Option::decode(input)?)),
            2 => Self::Part(Part {
                vote: Vote::decode(input)?,
                transfer: input.u64()?,
                offset: input.u64()?,
                last: input.flag()?,
                bytes: input.bytes()?,
            }),
            3 => Self::Forward(Command::decode(input)?),
            4 => Self::ReadIndex,
            5 => {
                let member = MemberId::new(input.text()?)
                    .map_err(|_| Malformed("the name of a member is empty or too long"))?;
                Self::Change(if input.flag()? {
                    let (peer, role) = read_detail(&input.bytes()?)?;
                    MembershipChange::add(member, peer, role)
                } else {
                    MembershipChange::remove(member)
                })
            }
            _ => return Err(Malformed("a request of an unknown kind")),
        };
        input.end()?;
        Ok(request)
    }
}

impl Response {
    pub(super) fn to_message(&self) -> Bytes {
        let mut out = begin();
        let out_ref = &mut out;
        match self {
            Self::Append(AppendEntriesResponse::Success) => out_ref.push(0),
            Self::Append(AppendEntriesResponse::PartialSuccess(matching)) => {
                out_ref.push(1);
                matching.encode(out_ref);
            }
            Self::Append(AppendEntriesResponse::Conflict) => out_ref.push(2),
            Self::Append(AppendEntriesResponse::HigherVote(vote)) => {
                out_ref.push(3);
                vote.encode(out_ref);
            }
            Self::Vote(response) => {
                out_ref.push(4);
                response.vote.encode(out_ref);
                out_ref.push(u8::from(response.vote_granted));
                response.last_log_id.encode(out_ref);
            }
            Self::Part(offset) => {
                out_ref.push(5);
                offset.encode(out_ref);
            }
            Self::Installed(vote) => {
                out_ref.push(6);
                vote.encode(out_ref);
            }
            Self::Outcomes(outcomes) => {
                out_ref.push(7);
                outcomes.encode(out_ref);
            }
            Self::Refused(Refusal::Stale { session }) => {
                out_ref.push(8);
                session.encode(out_ref);
            }
            Self::Refused(Refusal::NotMember) => out_ref.push(9),
            Self::ReadIndex(index) => {
                out_ref.push(10);
                index.encode(out_ref);
            }
            Self::Changed(revision) => {
                out_ref.push(11);
                revision.0.encode(out_ref);
            }
            Self::Impossible(why) => {
                out_ref.push(12);
                put_bytes(why.as_bytes(), out_ref);
            }
            Self::NotLeader => out_ref.push(13),
            Self::NotNow => out_ref.push(14),
        }
        out.into()
    }

    pub(super) fn from_message(message: Bytes) -> Result<Self, Malformed> {
        let mut input = open(message)?;
        let input = &mut input;
        let answer = match input.u8()? {
            0 => Self::Append(AppendEntriesResponse::Success),
            1 => Self::Append(AppendEntriesResponse::PartialSuccess(Option::decode(input)?)),
            2 => Self::Append(AppendEntriesResponse::Conflict),
            3 => Self::Append(AppendEntriesResponse::HigherVote(Vote::decode(input)?)),
            4 => {
                let (vote, granted) = (Vote::decode(input)?, input.flag()?);
                Self::Vote(VoteResponse::new(vote, Option::decode(input)?, granted))
            }
            5 => Self::Part(input.u64()?),
            6 => Self::Installed(Vote::decode(input)?),
            7 => Self::Outcomes(Outcomes::decode(input)?),
            8 => Self::Refused(Refusal::Stale { session: input.u64()? }),
            9 => Self::Refused(Refusal::NotMember),
            10 => Self::ReadIndex(input.u64()?),
            11 => Self::Changed(Revision(input.u64()?)),
            12 => Self::Impossible(input.text()?),
            13 => Self::NotLeader,
            14 => Self::NotNow,
            _ => return Err(Malformed("a response of an unknown kind")),
        };
        input.end()?;
        Ok(answer)
    }
}

/// Peer and role of a new member, as a text: the peer id, a space and `voter` or `learner`.
fn detail(peer: PeerId, role: MemberRole) -> Vec<u8> {
    let role = if role == MemberRole::Learner { "learner" } else { "voter" };
    format!("{peer} {role}").into()
}

/// Reads a [`detail`]. The role may be missing for a voter, and so may be the text for the 32 bytes of the
/// peer id alone.
fn read_detail(detail: &[u8]) -> Result<(PeerId, MemberRole), Malformed> {
    if let Ok(bytes) = <[u8; 32]>::try_from(detail) {
        return Ok((PeerId::from_bytes(bytes), MemberRole::Voter));
    }
    let text = std::str::from_utf8(detail).map_err(|_| Malformed("the detail of a member is not a text"))?;
    let (peer, role) = text.split_once(' ').unwrap_or((text, "voter"));
    let peer = peer.parse().map_err(|_| Malformed("the detail of a member has no peer id"))?;
    match role {
        "voter" => Ok((peer, MemberRole::Voter)),
        "learner" => Ok((peer, MemberRole::Learner)),
        _ => Err(Malformed("a member is neither voter nor learner")),
    }
}

fn open(message: Bytes) -> Result<Input, Malformed> {
    let mut input = Input(message);
    if input.u8()? != VERSION {
        return Err(Malformed("it is of another version"));
    }
    Ok(input)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use openraft::{CommittedLeaderId, EntryPayload, Membership};
    use orch_core::model::Timestamp;

    use super::*;
    use crate::raft::types::{Commands, Entry, NodeInfo};

    fn id(index: u64) -> LogId {
        LogId::new(CommittedLeaderId::new(3, 4), index)
    }

    fn command() -> Command {
        let commands = Commands::pack([Bytes::from_static(b"one"), Bytes::new()].iter());
        Command { at: Timestamp::from_millis(5), origin: 6, session: 7, number: 9, floor: 8, commands }
    }

    fn member(name: &str) -> MemberId {
        name.parse().expect("a valid name")
    }

    fn requests() -> Vec<Request> {
        let info = NodeInfo::new("a", PeerId::from_bytes([1; 32]));
        let members =
            Membership::new(vec![[1].into(), [1, 2].into()], BTreeMap::from([(1, info.clone()), (2, info)]));
        let payloads =
            [EntryPayload::Blank, EntryPayload::Normal(command()), EntryPayload::Membership(members)];
        let entries = payloads.into_iter().zip(1..).map(|(payload, at)| Entry { log_id: id(at), payload });
        let part = Part {
            vote: Vote::new(1, 2),
            transfer: 3,
            offset: 4,
            last: true,
            bytes: Bytes::from_static(b"x"),
        };
        vec![
            Request::Append(AppendEntriesRequest {
                vote: Vote::new_committed(1, 2),
                prev_log_id: Some(id(0)),
                entries: entries.collect(),
                leader_commit: None,
            }),
            Request::Vote(VoteRequest::new(Vote::new(1, 2), Some(id(9)))),
            Request::Part(part),
            Request::Forward(command()),
            Request::ReadIndex,
            Request::Change(MembershipChange::remove(member("a"))),
            Request::Change(MembershipChange::add(
                member("b"),
                PeerId::from_bytes([9; 32]),
                MemberRole::Learner,
            )),
        ]
    }

    fn responses() -> Vec<Response> {
        let outcomes = Outcomes { revision: Revision(4), each: [Bytes::from_static(b"done")].into() };
        vec![
            Response::Append(AppendEntriesResponse::Success),
            Response::Append(AppendEntriesResponse::PartialSuccess(Some(id(1)))),
            Response::Append(AppendEntriesResponse::Conflict),
            Response::Append(AppendEntriesResponse::HigherVote(Vote::new(1, 2))),
            Response::Vote(VoteResponse::new(Vote::new(1, 2), None, true)),
            Response::Part(5),
            Response::Installed(Vote::new(1, 2)),
            Response::Outcomes(outcomes),
            Response::Refused(Refusal::Stale { session: 1 }),
            Response::Refused(Refusal::NotMember),
            Response::ReadIndex(7),
            Response::Changed(Revision(8)),
            Response::Impossible("no".into()),
            Response::NotLeader,
            Response::NotNow,
        ]
    }

    #[test]
    fn messages_read_as_they_were_written() {
        for request in requests() {
            let again = Request::from_message(request.to_message()).expect("it is sound");
            assert_eq!(format!("{again:?}"), format!("{request:?}"));
            assert_eq!(again.to_message(), request.to_message());
        }
        for answer in responses() {
            assert_eq!(Response::from_message(answer.to_message()), Ok(answer));
        }
    }

    #[test]
    fn what_is_cut_or_longer_or_of_another_version_is_refused() {
        let sound = requests().iter().map(Request::to_message).collect::<Vec<_>>();
        for message in sound {
            for end in 0..message.len() {
                assert!(Request::from_message(message.slice(..end)).is_err(), "{message:?} cut at {end}");
            }
            let longer = [&message[..], b"x"].concat();
            assert!(Request::from_message(longer.into()).is_err());
            let mut other = message.to_vec();
            other[0] = VERSION + 1;
            assert!(Request::from_message(other.into()).is_err());
        }
    }

    /// A log or a peer of today has to be readable tomorrow: a change here needs another version.
    #[test]
    fn the_form_of_a_command_stays() {
        let message = Request::Forward(command()).to_message();
        let text: String = message.iter().map(|byte| format!("{byte:02x}")).collect();
        let numbers = "0500000000000000060000000000000007000000000000000900000000000000".to_owned();
        let rest = "0800000000000000020000000b000000030000006f6e6500000000";
        assert_eq!(text, format!("0103{numbers}{rest}"));
    }

    /// Members of today and of the version before have to understand each other.
    #[test]
    fn the_form_of_a_new_member_stays() {
        let peer = PeerId::from_bytes([7; 32]);
        let change = Request::Change(MembershipChange::add(member("b"), peer, MemberRole::Voter));
        let detail = [b"b\x01\x46\0\0\0".as_slice(), "07".repeat(32).as_bytes(), b" voter"].concat();
        assert_eq!(change.to_message(), [b"\x01\x05\x01\0\0\0".as_slice(), &detail].concat());
    }

    #[test]
    fn details_read_as_they_were_written() {
        let peer = PeerId::from_bytes([7; 32]);
        for role in [MemberRole::Voter, MemberRole::Learner] {
            assert_eq!(read_detail(&detail(peer, role)), Ok((peer, role)));
        }
        assert_eq!(read_detail(peer.to_string().as_bytes()), Ok((peer, MemberRole::Voter)));
        assert_eq!(read_detail(&[7; 32]), Ok((peer, MemberRole::Voter)));
        for bad in ["", "7", "voter", &format!("{peer} king"), &format!("{peer}  voter")] {
            assert!(read_detail(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
