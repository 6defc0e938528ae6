use std::collections::HashSet;
use std::hash::{BuildHasherDefault, DefaultHasher};

use super::{Event, History, Model, Part, Violation, apply};

/// Where the list ends, and its anchor. Entry `i` is event `i - 1`.
const ANCHOR: usize = 0;

/// Enough for a reader; the search may come to the same return very often.
const STUCK_STATES_MAX: usize = 16;

type Configurations<State> = HashSet<(Box<[u64]>, State), BuildHasherDefault<DefaultHasher>>;

/// Checks a history by depth-first search: choose an operation that could be the next one, take it out of the history,
/// go on, and take the last choice back where the next return belongs to an operation not yet chosen.
///
/// Wing and Gong, "Testing and verifying concurrent objects" (1993), with the memory of configurations (operations
/// chosen, state) that were tried before of Lowe, "Testing for linearizability" (2017). Fast for most histories, also
/// long ones.
///
/// # Errors
/// The [`Violation`] of the first partition that is not linearizable, by the number of the partition.
pub fn wing_gong_lowe<M: Model>(model: &M, history: &History<M::Input, M::Output>) -> Result<(), Violation> {
    history.parts(|input| model.partition(input)).try_for_each(|part| check(model, &part))
}

fn check<M: Model>(model: &M, part: &Part<'_, M::Input, M::Output>) -> Result<(), Violation> {
    let mut entries = Entries::new(part);
    let mut missing = entries.returns.iter().flatten().count();
    let mut chosen = vec![0_u64; part.operations.len().div_ceil(64)].into_boxed_slice();
    let mut tried = Configurations::default();
    let mut choices: Vec<(usize, M::State)> = Vec::new();
    let mut state = model.initial();
    let mut furthest = ANCHOR;
    let mut stuck_states: Vec<M::State> = Vec::new();

    let mut entry = entries.next[ANCHOR];
    // An operation that is missing has its return in the list, so the search meets a return before the end.
    while missing > 0 {
        match part.events[entry - 1] {
            Event::Call(index) => {
                let operation = part.operations[index].1;
                let next = apply(model, &state, operation).filter(|next| {
                    chosen[index / 64] |= 1 << (index % 64);
                    let new = tried.insert((chosen.clone(), next.clone()));
                    if !new {
                        chosen[index / 64] &= !(1 << (index % 64));
                    }
                    new
                });
                match next {
                    Some(next) => {
                        choices.push((entry, std::mem::replace(&mut state, next)));
                        missing -= usize::from(operation.returned.is_some());
                        entries.take_out(entry, index);
                        entry = entries.next[ANCHOR];
                    }
                    None => entry = entries.next[entry],
                }
            }
            Event::Return(_) => {
                // All that returned before this one was explained, so the furthest such return ends the shortest
                // prefix that cannot be.
                if entry > furthest {
                    furthest = entry;
                    stuck_states.clear();
                }
                if entry == furthest && stuck_states.len() < STUCK_STATES_MAX {
                    stuck_states.push(state.clone());
                }
                let Some((call, before)) = choices.pop() else {
                    return Err(Violation::new(part, furthest - 1, stuck_states));
                };
                let (Event::Call(index) | Event::Return(index)) = part.events[call - 1];
                state = before;
                chosen[index / 64] &= !(1 << (index % 64));
                missing += usize::from(part.operations[index].1.returned.is_some());
                entries.put_back(call, index);
                entry = entries.next[call];
            }
        }
    }
    Ok(())
}

/// The calls and returns as a doubly linked list, from which an operation can be taken and put back where it was.
struct Entries {
    next: Vec<usize>,
    previous: Vec<usize>,
    /// The entry of each operation's return.
    returns: Vec<Option<usize>>,
}

impl Entries {
    fn new<In, Out>(part: &Part<'_, In, Out>) -> Self {
        let len = part.events.len() + 1;
        let mut returns = vec![None; part.operations.len()];
        for (index, event) in part.events.iter().enumerate() {
            if let Event::Return(operation) = event {
                returns[*operation] = Some(index + 1);
            }
        }
        let next = (0..len).map(|entry| (entry + 1) % len).collect();
        let previous = (0..len).map(|entry| (entry + len - 1) % len).collect();
        Self { next, previous, returns }
    }

    fn take_out(&mut self, call: usize, operation: usize) {
        self.unlink(call);
        if let Some(returned) = self.returns[operation] {
            self.unlink(returned);
        }
    }

    /// In the opposite order of [`take_out`](Self::take_out), so that each entry finds its neighbours.
    fn put_back(&mut self, call: usize, operation: usize) {
        if let Some(returned) = self.returns[operation] {
            self.link(returned);
        }
        self.link(call);
    }

    fn unlink(&mut self, entry: usize) {
        let (previous, next) = (self.previous[entry], self.next[entry]);
        self.next[previous] = next;
        self.previous[next] = previous;
    }

    fn link(&mut self, entry: usize) {
        let (previous, next) = (self.previous[entry], self.next[entry]);
        self.next[previous] = entry;
        self.previous[next] = entry;
    }
}
