//! Permissions of authors, checked in this one place.
//!
//! Where members may crash but are not Byzantine, a member speaks for the clients and agents that it
//! authenticated. Where some may be Byzantine, an author is a key, and only the key that a node registered
//! with speaks for that node.

use super::{ClusterState, Command, Rejection};
use crate::{consensus::Author, model::NodeId};

impl ClusterState {
    /// Rejects a command for which the author has no permission.
    pub(super) fn check_author(&self, author: &Author, command: &Command) -> Result<(), Rejection> {
        let Author::Key { key, member } = author else { return Ok(()) };
        let refuse = |problem: String| Err(Rejection::NotAllowed { author: author.to_string(), problem });
        let of_another = |node: &NodeId| {
            let owner = self.nodes.get(node).and_then(|view| view.record.key);
            owner.is_some_and(|owner| owner.0 != *key)
        };
        match command {
            Command::RegisterNode { spec, .. } if of_another(&spec.id) => {
                refuse(format!("node {} registered with another key", spec.id))
            }
            Command::Report { report, .. } if of_another(&report.node) => {
                refuse(format!("node {} registered with another key", report.node))
            }
            _ if *member => Ok(()),
            Command::Submit { .. } | Command::Cancel { .. } if self.config.open_to_clients => Ok(()),
            _ => refuse("the key is not a member's".into()),
        }
    }
}
