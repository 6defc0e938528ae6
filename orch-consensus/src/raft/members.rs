//! Changes of members.

use std::collections::BTreeSet;

use openraft::{
    ChangeMembers, Membership,
    error::{ClientWriteError, RaftError},
    raft::ClientWriteResponse,
};
use orch_core::{
    consensus::{MemberRole, MembershipChange},
    store::Revision,
};

use super::{
    node::Node,
    types::{NodeInfo, Types, node_of},
    wire::Response,
};

type Written = Result<ClientWriteResponse<Types>, RaftError<u64, ClientWriteError<u64, NodeInfo>>>;

impl Node {
    /// Changes the members, as the leader. What is so already is a success.
    pub(super) async fn change(&self, change: &MembershipChange) -> Option<Response> {
        let _one_at_a_time = self.changes.lock().await;
        match change {
            MembershipChange::Add { member, peer, role, .. } => {
                self.add(NodeInfo::new(member.as_str(), *peer), *role).await
            }
            MembershipChange::Remove { member, .. } => self.remove(member.as_str()).await,
            // The wire has no others.
            _ => None,
        }
    }

    async fn add(&self, info: NodeInfo, role: MemberRole) -> Option<Response> {
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
        if role == MemberRole::Learner || votes {
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
