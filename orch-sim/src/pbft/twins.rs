use std::{fmt, time::Duration};

use super::lab::Lab;
use crate::{NodeId, Random};

/// A scenario of Twins (Bano et al., "Twins: BFT Systems Made Robust", OPODIS 2021): replicas whose keys run
/// twice equivocate, forget and contradict themselves in all the ways that correct code can, and in each
/// round the network is cut in another way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Twins {
    /// Replicas of the group.
    pub replicas: usize,
    /// Those that run twice. With at most f of them nothing may happen.
    pub twins: Vec<NodeId>,
    /// The rounds.
    pub rounds: Vec<Round>,
}

/// A round of a [`Twins`] scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    /// The side of the network that each instance is on; the second instances of the twins come last.
    pub sides: Vec<usize>,
    /// Instance at which a value is proposed.
    pub proposer: usize,
    /// True if time passes until primaries are suspected.
    pub timeout: bool,
}

impl fmt::Display for Twins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} replicas, twins {:?}:", self.replicas, self.twins)?;
        for round in &self.rounds {
            let timeout = if round.timeout { " timeout" } else { "" };
            write!(f, " [sides {:?} proposer {}{timeout}]", round.sides, round.proposer)?;
        }
        Ok(())
    }
}

impl Twins {
    /// All scenarios with four replicas, one twin of the first primary, two sides and so many rounds.
    pub fn exhaustive(rounds: u32) -> impl Iterator<Item = Self> {
        const SIDES: u64 = 16;
        let choices = SIDES * 2;
        (0..choices.pow(rounds)).map(move |mut number| {
            let rounds = (0..rounds).map(|_| {
                let choice = number % choices;
                number /= choices;
                // The first instance is always on the first side: which side is called the first does not
                // matter.
                let sides = (0..5).map(|at| usize::from(at > 0 && (choice >> (at - 1)) & 1 == 1)).collect();
                Round {
                    sides,
                    proposer: 1 + usize::try_from(choice % 3).unwrap_or(0),
                    timeout: choice >= SIDES,
                }
            });
            Self { replicas: 4, twins: vec![0], rounds: rounds.collect() }
        })
    }

    /// A scenario by chance, with `twins` twins.
    #[must_use]
    pub fn sample(seed: u64, replicas: usize, twins: usize) -> Self {
        let mut random = Random::new(seed ^ 0x7717);
        let mut nodes: Vec<NodeId> = (0..replicas).collect();
        random.shuffle(&mut nodes);
        nodes.truncate(twins);
        let instances = replicas + twins;
        let rounds = (0..random.range(3..9)).map(|_| Round {
            sides: (0..instances).map(|_| usize::try_from(random.below(2)).unwrap_or(0)).collect(),
            proposer: usize::try_from(random.below(instances as u64)).unwrap_or(0),
            timeout: random.chance(500),
        });
        Self { replicas, rounds: rounds.collect(), twins: nodes }
    }

    /// Runs it, heals the network, and looks at what the correct replicas have.
    ///
    /// # Errors
    /// The description of a violation.
    pub fn run(&self) -> Result<(), String> {
        let mut lab = Lab::new(self.replicas, &self.twins, None);
        for (number, round) in (1..).zip(&self.rounds) {
            lab.partition(round.sides.clone());
            lab.propose(round.proposer, number);
            lab.deliver();
            if round.timeout {
                for _ in 0..3 {
                    lab.pass(Duration::from_millis(600));
                    lab.deliver();
                }
            }
        }
        lab.heal();
        let before = lab.correct().map(|(_, replica)| replica.executed()).max();
        let correct: Vec<usize> = lab.correct().map(|(at, _)| at).collect();
        for (at, value) in correct.iter().zip(1000..) {
            lab.propose(*at, value);
        }
        for _ in 0..200 {
            if let Some(problem) = lab.broken() {
                return Err(format!("safety: {problem}"));
            }
            let ends: Vec<_> =
                lab.correct().map(|(_, replica)| (replica.executed(), replica.chain())).collect();
            if ends.iter().all(|end| *end == ends[0]) && Some(ends[0].0) > before {
                return Ok(());
            }
            lab.pass(Duration::from_millis(100));
            lab.deliver();
        }
        Err("liveness: the correct replicas are not equal, or went no further, 20 s after the network was healed".into())
    }
}
