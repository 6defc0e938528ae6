use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, DefaultHasher};

use super::{Event, History, Model, Part, Violation, apply};

/// Checks a history by walking once through its time with all configurations that are possible so far.
/// Nothing happens in them until an operation returns: then each configuration in which it has not happened
/// is replaced by those in which some of the open operations happen and this one last.
///
/// The just-in-time linearization of Lowe, "Testing for linearizability" (2017), breadth first. Its time
/// depends little on the length of a history and much on how many operations are open at once; those that
/// were never completed count only where they make a difference.
///
/// # Errors
/// The [`Violation`] of the first partition that is not linearizable, by the number of the partition.
pub fn just_in_time<M: Model>(model: &M, history: &History<M::Input, M::Output>) -> Result<(), Violation> {
    history.parts(|input| model.partition(input)).try_for_each(|part| check(model, &part))
}

/// Indices of operations, sorted.
type Set = Vec<usize>;

/// A state that the data can be in, and the open operations that have happened in it.
#[derive(Clone, Debug)]
struct Configuration<State> {
    state: State,
    /// Those that will return.
    returned: Set,
    /// Those that stay open for ever.
    pending: Set,
}

/// A configuration to go on from, with the state before its last operation if that one never returns.
type Waiting<State> = (Configuration<State>, Option<State>);

/// Without those of which another one is the same, except that fewer operations without a return have
/// happened: it can go on in each way that they can.
struct Configurations<State> {
    pending: HashMap<(Set, State), Vec<Set>, BuildHasherDefault<DefaultHasher>>,
}

impl<State: Clone + Eq + std::hash::Hash> Configurations<State> {
    fn new() -> Self {
        Self { pending: HashMap::default() }
    }

    /// False when it adds nothing.
    fn insert(&mut self, configuration: &Configuration<State>) -> bool {
        let Configuration { state, returned, pending } = configuration;
        let sets = self.pending.entry((returned.clone(), state.clone())).or_default();
        if sets.iter().any(|set| is_part(set, pending)) {
            return false;
        }
        sets.retain(|set| !is_part(pending, set));
        sets.push(pending.clone());
        true
    }

    /// False when a better one has replaced it.
    fn contains(&self, configuration: &Configuration<State>) -> bool {
        let key = (configuration.returned.clone(), configuration.state.clone());
        self.pending.get(&key).is_some_and(|sets| sets.contains(&configuration.pending))
    }

    fn iter(&self) -> impl Iterator<Item = Configuration<State>> + '_ {
        self.pending.iter().flat_map(|((returned, state), sets)| {
            sets.iter().map(|pending| Configuration {
                state: state.clone(),
                returned: returned.clone(),
                pending: pending.clone(),
            })
        })
    }
}

fn is_part(part: &[usize], whole: &[usize]) -> bool {
    part.len() <= whole.len() && part.iter().all(|item| whole.binary_search(item).is_ok())
}

fn check<M: Model>(model: &M, part: &Part<'_, M::Input, M::Output>) -> Result<(), Violation> {
    let mut configurations = Configurations::new();
    configurations.insert(&Configuration {
        state: model.initial(),
        returned: Vec::new(),
        pending: Vec::new(),
    });
    let mut open: Vec<usize> = Vec::new();
    for (position, event) in part.events.iter().enumerate() {
        match *event {
            Event::Call(operation) => open.push(operation),
            Event::Return(operation) => {
                let after = happened(model, part, &configurations, &open, operation);
                if after.pending.is_empty() {
                    let states = configurations.iter().map(|configuration| configuration.state);
                    return Err(Violation::new(part, position, states));
                }
                configurations = after;
                open.retain(|other| *other != operation);
            }
        }
    }
    Ok(())
}

/// The configurations in which `returned` has happened. It is no longer open, so they do not name it.
fn happened<M: Model>(
    model: &M,
    part: &Part<'_, M::Input, M::Output>,
    before: &Configurations<M::State>,
    open: &[usize],
    returned: usize,
) -> Configurations<M::State> {
    let mut after = Configurations::new();
    let mut visited = Configurations::new();
    let mut waiting: VecDeque<Waiting<M::State>> = VecDeque::new();
    for mut configuration in before.iter() {
        if let Ok(at) = configuration.returned.binary_search(&returned) {
            configuration.returned.remove(at);
            after.insert(&configuration);
        } else if visited.insert(&configuration) {
            waiting.push_back((configuration, None));
        }
    }
    // First in, first out: the smaller sets come first, and most of the larger ones then add nothing.
    while let Some((configuration, before_untold)) = waiting.pop_front() {
        if !visited.contains(&configuration) {
            continue;
        }
        for &index in open {
            let operation = part.operations[index].1;
            let pending = operation.returned.is_none();
            let set = if pending { &configuration.pending } else { &configuration.returned };
            let Err(at) = set.binary_search(&index) else { continue };
            let Some(state) = apply(model, &configuration.state, operation) else { continue };
            // The last operation makes no difference if this one could as well have come instead of it.
            if before_untold
                .as_ref()
                .is_some_and(|before| apply(model, before, operation).as_ref() == Some(&state))
            {
                continue;
            }
            let mut next = Configuration { state, ..configuration.clone() };
            if index == returned {
                after.insert(&next);
                continue;
            }
            let set = if pending { &mut next.pending } else { &mut next.returned };
            set.insert(at, index);
            if visited.insert(&next) {
                waiting.push_back((next, pending.then(|| configuration.state.clone())));
            }
        }
    }
    after
}
