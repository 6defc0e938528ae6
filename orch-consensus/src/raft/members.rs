//! Changes of members.

use std::collections::BTreeSet;

use bytes::Bytes;
use openraft::{
    ChangeMembers, Membership,
    error::{ClientWriteError, RaftError},
    raft::ClientWriteResponse,
};
use orch_core::{consensus::MembershipChange, store::Revision, transport::PeerId};

use super::{
    node::Node,
    types::{NodeInfo, Types, node_of},
    wire::Response,
};

/// Role of a member in the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It votes: the group stands still when half of the voters are away.
    Voter,
    /// It follows the log and responses reads, and does not count.
    Learner,
}

/// The `detail` of [`MembershipChange::Add`]: the 64 hexadecimal digits of the peer id, a space and `voter`
/// or `learner`. The role may be left out for a voter, and so may the digits for the 32 bytes of the peer id
/// alone.
#[must_use]
pub fn member_detail(peer: PeerId, role: Role) -> Bytes {
    let role = match role {
        Role::Voter => "voter",
        Role::Learner => "learner",
    };
    format!("{peer} {role}").into()
}

/// Reads what [`member_detail`] writes.
pub(super) fn read_detail(detail: &Bytes) -> Result<(PeerId, Role), String> {
    if let Ok(bytes) = <[u8; 32]>::try_from(&detail[..]) {
        return Ok((PeerId::from_bytes(bytes), Role::Voter));
    }
    let text = std::str::from_utf8(detail).map_err(|_| "the detail of a member is not a text".to_owned())?;
    let (peer, role) = text.split_once(' ').unwrap_or((text, "voter"));
    let peer =
        peer.parse().map_err(|error| format!("the detail of a member is \"<peer id> <role>\": {error}"))?;
    match role {
        "voter" => Ok((peer, Role::Voter)),
        "learner" => Ok((peer, Role::Learner)),
        other => Err(format!("a member is a voter or a learner, not {other:?}")),
    }
}

/// The longest name of a member in bytes.
pub(super) const NAME_BYTES_MAX: usize = 255;

type Written = Result<ClientWriteResponse<Types>, RaftError<u64, ClientWriteError<u64, NodeInfo>>>;

impl Node {
    /// Changes the members, as the leader. What is so already is a success.
    pub(super) async fn change(&self, change: &MembershipChange) -> Option<Response> {
        let _one_at_a_time = self.changes.lock().await;
        match change {
            MembershipChange::Add { member, detail } => {
                if member.is_empty() || member.len() > NAME_BYTES_MAX {
                    let why = format!("the name of a member has 1 to {NAME_BYTES_MAX} bytes");
                    return Some(Response::Impossible(why));
                }
                match read_detail(detail) {
                    Ok((peer, role)) => self.add(NodeInfo::new(member, peer), role).await,
                    Err(why) => Some(Response::Impossible(why)),
                }
            }
            MembershipChange::Remove { member } => self.remove(member).await,
        }
    }

    async fn add(&self, info: NodeInfo, role: Role) -> Option<Response> {
        let node = node_of(info.peer());
        let members = self.members();
        if let Some((_, other)) = members.nodes().find(|(_, other)| other.name == info.name)
            && other.peer != info.peer
        {
            return Some(Response::Impossible(format!(
                "there is a member {} with another peer id",
                info.name
            )));
        }
        let mut last = self.revision();
        match members.get_node(&node) {
            Some(other) if other.name != info.name => {
                return Some(Response::Impossible(format!(
                    "the peer is a member already, as {}",
                    other.name
                )));
            }
            Some(_) => {}
            None => match response_of(self.raft.add_learner(node, info.clone(), false).await) {
                Some(Response::Changed(revision)) => last = revision,
                other => return other,
            },
        }
        let votes = members.voter_ids().any(|voter| voter == node) && members.get_joint_config().len() == 1;
        if role == Role::Learner || votes {
            return Some(Response::Changed(last));
        }
        if !self.caught_up(node).await {
            let why = format!("{} did not catch up in time; it stays a learner", info.name);
            return Some(Response::Impossible(why));
        }
        let voter = ChangeMembers::AddVoterIds(BTreeSet::from([node]));
        response_of(self.raft.change_membership(voter, true).await)
    }

    async fn remove(&self, name: &str) -> Option<Response> {
        let members = self.members();
        let Some((node, _)) = members.nodes().find(|(_, info)| info.name == name) else {
            return Some(Response::Changed(self.revision()));
        };
        let nodes = BTreeSet::from([*node]);
        let votes = members.voter_ids().any(|voter| voter == *node);
        let change =
            if votes { ChangeMembers::RemoveVoters(nodes) } else { ChangeMembers::RemoveNodes(nodes) };
        response_of(self.raft.change_membership(change, false).await)
    }

    /// Waits until a learner has what the log held a moment ago.
    async fn caught_up(&self, node: u64) -> bool {
        let mut metrics = self.raft.metrics();
        let goal = metrics.borrow().last_log_index;
        let reached = metrics.wait_for(|metrics| {
            let there = metrics.replication.as_ref().and_then(|all| all.get(&node)).copied().flatten();
            there.map(|log_id| log_id.index) >= goal
        });
        matches!(tokio::time::timeout(self.config.catch_up_timeout, reached).await, Ok(Ok(_)))
    }

    pub(super) fn members(&self) -> Membership<u64, NodeInfo> {
        self.raft.server_metrics().borrow().membership_config.membership().clone()
    }

    fn revision(&self) -> Revision {
        Revision(*self.view.applied.borrow())
    }
}

fn response_of(written: Written) -> Option<Response> {
    match written {
        Ok(response) => Some(Response::Changed(Revision(response.log_id.index))),
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => Some(Response::NotNow),
        Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error))) => match error {
            openraft::error::ChangeMembershipError::InProgress(_) => Some(Response::NotNow),
            error => Some(Response::Impossible(error.to_string())),
        },
        Err(RaftError::Fatal(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_read_as_they_were_written() {
        let peer = PeerId::from_bytes([7; 32]);
        for role in [Role::Voter, Role::Learner] {
            assert_eq!(read_detail(&member_detail(peer, role)), Ok((peer, role)));
        }
        assert_eq!(read_detail(&peer.to_string().into()), Ok((peer, Role::Voter)));
        assert_eq!(read_detail(&Bytes::from_static(&[7; 32])), Ok((peer, Role::Voter)));
        for bad in ["", "7", "voter", &format!("{peer} king"), &format!("{peer}  voter")] {
            assert!(read_detail(&Bytes::copy_from_slice(bad.as_bytes())).is_err(), "{bad}");
        }
    }
}
