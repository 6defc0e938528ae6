use std::collections::HashSet;
use std::hash::{BuildHasherDefault, DefaultHasher};

use super::{Event, History, Model, Part, Violation, apply};

/// A state that the data can be in, and the open operations that have happened in it, sorted. An operation is open from
/// its call to its return; one without a return stays open.
type Configuration<State> = (Vec<usize>, State);
type Configurations<State> = HashSet<Configuration<State>, BuildHasherDefault<DefaultHasher>>;

/// Checks a history by walking once through its time with all configurations that are possible so far. Nothing happens
/// in them until an operation returns: then each configuration in which it has not happened is replaced by those in
/// which some of the open operations happen and this one last.
///
/// The just-in-time linearization of Lowe, "Testing for linearizability" (2017), breadth first. Its time depends little
/// on the length of a history and much on how many operations are open at once.
///
/// # Errors
/// The [`Violation`] of the first partition that is not linearizable, by the number of the partition.
pub fn just_in_time<M: Model>(model: &M, history: &History<M::Input, M::Output>) -> Result<(), Violation> {
    history.parts(|input| model.partition(input)).try_for_each(|part| check(model, &part))
}

fn check<M: Model>(model: &M, part: &Part<'_, M::Input, M::Output>) -> Result<(), Violation> {
    let mut configurations = Configurations::default();
    configurations.insert((Vec::new(), model.initial()));
    let mut open: Vec<usize> = Vec::new();
    for (position, event) in part.events.iter().enumerate() {
        match *event {
            Event::Call(operation) => open.push(operation),
            Event::Return(operation) => {
                let after = happened(model, part, &configurations, &open, operation);
                if after.is_empty() {
                    let states = configurations.into_iter().map(|(_, state)| state);
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
    let mut after = Configurations::default();
    let mut visited = Configurations::default();
    let mut waiting: Vec<Configuration<M::State>> = Vec::new();
    for (done, state) in before {
        if done.contains(&returned) {
            let rest = done.iter().copied().filter(|other| *other != returned).collect();
            after.insert((rest, state.clone()));
        } else {
            visited.insert((done.clone(), state.clone()));
            waiting.push((done.clone(), state.clone()));
        }
    }
    while let Some((done, state)) = waiting.pop() {
        for &operation in open {
            let Err(place) = done.binary_search(&operation) else { continue };
            let Some(next) = apply(model, &state, part.operations[operation].1) else { continue };
            if operation == returned {
                after.insert((done.clone(), next));
                continue;
            }
            let mut done = done.clone();
            done.insert(place, operation);
            let configuration = (done, next);
            if visited.insert(configuration.clone()) {
                waiting.push(configuration);
            }
        }
    }
    after
}
