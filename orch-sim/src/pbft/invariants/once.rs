//! A command is carried out at most once (TOCS 4.1).

use std::time::Duration;

use super::{Invariant, Observation};
use crate::NodeId;

#[derive(Debug)]
pub(super) struct Once;

impl Invariant for Once {
    fn name(&self) -> &'static str {
        "at most once"
    }

    fn observe(&mut self, node: NodeId, _: Duration, observation: &Observation<'_>) -> Result<(), String> {
        match observation {
            Observation::Repeated(id) => Err(format!("node {node} carried out command {id} twice")),
            _ => Ok(()),
        }
    }
}
