//! Labels that identify our containers and their attempts.

use std::{collections::HashMap, fs};

use orch_core::model::AttemptId;

use crate::DockerConfig;

const CLUSTER: &str = "orch.cluster";
const OWNER: &str = "orch.owner";
const TASK: &str = "orch.task";
const ATTEMPT: &str = "orch.attempt";
const BOOT: &str = "orch.boot";

/// Labels that all containers of one runtime carry.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    prefix: String,
    cluster: String,
    owner: String,
    /// Id of this boot of the machine, where it is known.
    boot: Option<String>,
}

impl Identity {
    pub(crate) fn new(config: &DockerConfig) -> Self {
        Self {
            prefix: config.name_prefix.clone(),
            cluster: config.cluster.clone(),
            owner: config.owner.clone(),
            boot: fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().map(|name| name.trim().into()),
        }
    }

    pub(crate) fn cluster(&self) -> &str {
        &self.cluster
    }

    pub(crate) fn owner(&self) -> &str {
        &self.owner
    }

    pub(crate) fn name(&self, attempt: AttemptId) -> String {
        format!("{}-{}-{}", self.prefix, attempt.task, attempt.attempt)
    }

    pub(crate) fn labels(&self, attempt: AttemptId) -> HashMap<String, String> {
        let mut labels = HashMap::from([
            (CLUSTER.into(), self.cluster.clone()),
            (OWNER.into(), self.owner.clone()),
            (TASK.into(), attempt.task.to_string()),
            (ATTEMPT.into(), attempt.attempt.to_string()),
        ]);
        labels.extend(self.boot.clone().map(|boot| (BOOT.into(), boot)));
        labels
    }

    /// Whether a container with these labels was created before the last boot of the machine.
    pub(crate) fn is_of_another_boot(&self, labels: &HashMap<String, String>) -> bool {
        labels.get(BOOT).zip(self.boot.as_ref()).is_some_and(|(made, now)| made != now)
    }

    /// Filter of the engine's API for our containers.
    pub(crate) fn filter(&self) -> HashMap<String, Vec<String>> {
        let labels = vec![format!("{CLUSTER}={}", self.cluster), format!("{OWNER}={}", self.owner)];
        HashMap::from([("label".into(), labels)])
    }

    /// Attempt of a container with these labels; `None` when it is not ours.
    pub(crate) fn attempt(&self, labels: &HashMap<String, String>) -> Option<AttemptId> {
        let is = |label: &str, value: &str| labels.get(label).is_some_and(|found| found == value);
        if !is(CLUSTER, &self.cluster) || !is(OWNER, &self.owner) {
            return None;
        }
        Some(AttemptId { task: labels.get(TASK)?.parse().ok()?, attempt: labels.get(ATTEMPT)?.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use orch_core::model::TaskId;

    use super::*;

    #[test]
    fn only_the_same_cluster_and_owner_are_ours() {
        let attempt = AttemptId { task: TaskId::generate(), attempt: NonZeroU32::MIN };
        let ours = Identity::new(&DockerConfig::new("c", "o"));
        assert_eq!(ours.attempt(&ours.labels(attempt)), Some(attempt));
        for (cluster, owner) in [("c", "x"), ("x", "o"), ("", "")] {
            let other = Identity::new(&DockerConfig::new(cluster, owner));
            assert_eq!(other.attempt(&ours.labels(attempt)), None);
        }
        assert_eq!(ours.attempt(&HashMap::new()), None);
        assert_eq!(ours.name(attempt), format!("orch-{}-1", attempt.task));
    }
}
