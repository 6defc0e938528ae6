use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};

use super::{Event, History, Model, Part, Violation, apply};

/// End of the list, and its anchor. Entry `i` is event `i - 1`.
const ANCHOR: usize = 0;

/// Enough for a reader; the search may come to the same return very often.
const STUCK_STATES_MAX: usize = 16;

/// States that were tried: the operations that will return and were chosen, and the state; with the sets of
/// operations that were never returned and were chosen with them.
///
/// A choice of more of the latter for the same leaves fewer possibilities, so a set is not tried after a
/// subset of it.
type Tried<State> = HashMap<(Returned, State), Vec<Bits>, BuildHasherDefault<DefaultHasher>>;
type Bits = Box<[u64]>;

/// Chosen operations, without the many words at both ends in which all or none were: how many have all, and
/// the words from there on.
type Returned = (usize, Bits);

/// Checks a history by depth-first search: choose an operation that could be the next one, take it out of the
/// history, go on, and take the last choice back where the next return belongs to an operation not yet
/// chosen.
///
/// Wing and Gong, "Testing and verifying concurrent objects" (1993), with the memory of configurations
/// (operations chosen, state) that were tried before of Lowe, "Testing for linearizability" (2017). Fast for
/// most histories, also long ones. Two things are added for operations that were never completed, of which a
/// run with faults has many: they are tried last, and not where they make no difference.
///
/// # Errors
/// The [`Violation`] of the first partition that is not linearizable, by the number of the partition.
pub fn wing_gong_lowe<M: Model>(model: &M, history: &History<M::Input, M::Output>) -> Result<(), Violation> {
    history.parts(|input| model.partition(input)).try_for_each(|part| check(model, &part))
}

/// Cursor of the search at the next operation.
#[derive(Clone, Copy)]
enum Cursor {
    /// At this entry of the list.
    Returned(usize),
    /// At this number among the operations that were never returned, and were called before the entry
    /// `limit`.
    Pending { number: usize, limit: usize },
}

fn check<M: Model>(model: &M, part: &Part<'_, M::Input, M::Output>) -> Result<(), Violation> {
    let mut entries = Entries::new(part);
    let pending = entries.unlink_pending(part);
    let mut missing = part.operations.len() - pending.len();
    let mut returned_chosen = bits(part.operations.len());
    let mut pending_chosen = bits(pending.len());
    let mut state = model.initial();
    let mut tried = Tried::default();
    tried.insert((trimmed(&returned_chosen), state.clone()), vec![pending_chosen.clone()]);
    let mut choices: Vec<(Cursor, M::State)> = Vec::new();
    let mut furthest = ANCHOR;
    let mut stuck_states: Vec<M::State> = Vec::new();

    let mut cursor = Cursor::Returned(entries.next[ANCHOR]);
    // An operation that is missing has its return in the list, so the search meets a return before the end.
    while missing > 0 {
        let candidate = match cursor {
            Cursor::Returned(entry) => match part.events[entry - 1] {
                Event::Call(index) => index,
                Event::Return(_) => {
                    cursor = Cursor::Pending { number: 0, limit: entry };
                    continue;
                }
            },
            Cursor::Pending { number, limit } => match pending.get(number) {
                Some((call, index)) if *call < limit => *index,
                _ => {
                    // All that returned before this one was explained, so the furthest such return is the
                    // first that cannot be.
                    if limit > furthest {
                        furthest = limit;
                        stuck_states.clear();
                    }
                    if limit == furthest && stuck_states.len() < STUCK_STATES_MAX {
                        stuck_states.push(state.clone());
                    }
                    let Some((choice, before)) = choices.pop() else {
                        return Err(Violation::new(part, furthest - 1, stuck_states));
                    };
                    state = before;
                    match choice {
                        Cursor::Returned(call) => {
                            let (Event::Call(index) | Event::Return(index)) = part.events[call - 1];
                            flip(&mut returned_chosen, index);
                            entries.put_back(call, index);
                            missing += 1;
                        }
                        Cursor::Pending { number, .. } => flip(&mut pending_chosen, number),
                    }
                    cursor = entries.after(choice);
                    continue;
                }
            },
        };
        if let Cursor::Pending { number, .. } = cursor
            && pending_chosen[number / 64] & (1 << (number % 64)) != 0
        {
            cursor = entries.after(cursor);
            continue;
        }
        let operation = part.operations[candidate].1;
        // An operation that never returned makes no difference if the one that follows it could as well have
        // come instead of it.
        let useless = |next: &M::State| match choices.last() {
            Some((Cursor::Pending { .. }, before)) => apply(model, before, operation).as_ref() == Some(next),
            _ => false,
        };
        let Some(next) = apply(model, &state, operation).filter(|next| !useless(next)) else {
            cursor = entries.after(cursor);
            continue;
        };
        let flip_choice = |returned_chosen: &mut Bits, pending_chosen: &mut Bits| match cursor {
            Cursor::Returned(_) => flip(returned_chosen, candidate),
            Cursor::Pending { number, .. } => flip(pending_chosen, number),
        };
        flip_choice(&mut returned_chosen, &mut pending_chosen);
        let before = tried.entry((trimmed(&returned_chosen), next.clone())).or_default();
        if before.iter().any(|set| is_part(set, &pending_chosen)) {
            flip_choice(&mut returned_chosen, &mut pending_chosen);
            cursor = entries.after(cursor);
            continue;
        }
        before.push(pending_chosen.clone());
        choices.push((cursor, std::mem::replace(&mut state, next)));
        if let Cursor::Returned(call) = cursor {
            entries.take_out(call, candidate);
            missing -= 1;
        }
        cursor = Cursor::Returned(entries.next[ANCHOR]);
    }
    Ok(())
}

fn bits(len: usize) -> Bits {
    vec![0; len.div_ceil(64)].into_boxed_slice()
}

fn trimmed(bits: &Bits) -> Returned {
    let full = bits.iter().take_while(|word| **word == u64::MAX).count();
    let end = bits.iter().rposition(|word| *word != 0).map_or(full, |last| full.max(last + 1));
    (full, bits[full..end].into())
}

fn flip(bits: &mut Bits, index: usize) {
    bits[index / 64] ^= 1 << (index % 64);
}

fn is_part(part: &Bits, whole: &Bits) -> bool {
    part.iter().zip(whole).all(|(part, whole)| part & !whole == 0)
}

/// The calls and returns as a doubly linked list, from which an operation can be taken and put back where it
/// was.
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

    /// Takes out the operations that were never returned. Returns their calls' entries and their indices, by
    /// time.
    fn unlink_pending<In, Out>(&mut self, part: &Part<'_, In, Out>) -> Vec<(usize, usize)> {
        let mut pending = Vec::new();
        for (position, event) in part.events.iter().enumerate() {
            if let Event::Call(index) = *event
                && self.returns[index].is_none()
            {
                self.unlink(position + 1);
                pending.push((position + 1, index));
            }
        }
        pending
    }

    fn after(&self, cursor: Cursor) -> Cursor {
        match cursor {
            Cursor::Returned(entry) => Cursor::Returned(self.next[entry]),
            Cursor::Pending { number, limit } => Cursor::Pending { number: number + 1, limit },
        }
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
