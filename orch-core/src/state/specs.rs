//! [`Specs`]: table of large specs, each shared by all tasks that have it. Small ones stay with their tasks.

use std::collections::HashMap;

use crate::model::{SharedSpec, SpecId};

/// Specs by their ids, with the number of tasks that have each. Only looked up, or sorted before iteration
/// where replicas must agree.
#[derive(Debug, Default)]
pub(super) struct Specs {
    kept: HashMap<SpecId, Kept>,
    /// Number of specs without a record: those of tasks whose records are of format 1, which hold their specs
    /// themselves.
    without_record: usize,
}

#[derive(Debug)]
struct Kept {
    spec: SharedSpec,
    tasks: usize,
    /// Whether a store that applied all changes has a record of it.
    has_record: bool,
}

impl Specs {
    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    pub(super) fn get(&self, id: SpecId) -> Option<&SharedSpec> {
        self.kept.get(&id).map(|kept| &kept.spec)
    }

    /// The shared instance of an equal spec, if there is one.
    pub(super) fn shared(&self, spec: &SharedSpec) -> SharedSpec {
        let known = if spec.is_large() { self.get(spec.id()) } else { None };
        known.unwrap_or(spec).clone()
    }

    /// Number of tasks that have it.
    pub(super) fn tasks_of(&self, id: SpecId) -> usize {
        self.kept.get(&id).map_or(0, |kept| kept.tasks)
    }

    pub(super) fn has_record(&self, id: SpecId) -> bool {
        self.kept.get(&id).is_some_and(|kept| kept.has_record)
    }

    /// Whether it has a record that becomes unused when `added` more tasks have the spec and `released`
    /// fewer.
    pub(super) fn record_is_spare(&self, id: SpecId, added: usize, released: usize) -> bool {
        self.kept.get(&id).is_some_and(|kept| kept.has_record && kept.tasks + added == released)
    }

    pub(super) fn all_have_records(&self) -> bool {
        self.without_record == 0
    }

    /// All specs in order of their ids.
    pub(super) fn all(&self) -> Vec<&SharedSpec> {
        let mut specs: Vec<_> = self.kept.values().map(|kept| &kept.spec).collect();
        specs.sort_unstable_by_key(|spec| spec.id());
        specs
    }

    /// Counts a task that has the spec.
    pub(super) fn take(&mut self, spec: &SharedSpec) {
        if spec.is_large() {
            self.entry(spec).tasks += 1;
        }
    }

    /// Uncounts a task that had the spec.
    pub(super) fn release(&mut self, spec: &SharedSpec) {
        let Some(kept) = spec.is_large().then(|| self.kept.get_mut(&spec.id())).flatten() else { return };
        kept.tasks -= 1;
        if kept.is_unused() {
            self.remove(spec.id());
        }
    }

    /// Notes whether the spec has a record. Returns whether it had one.
    pub(super) fn set_record(&mut self, spec: &SharedSpec, has_record: bool) -> bool {
        let kept = self.entry(spec);
        let had = std::mem::replace(&mut kept.has_record, has_record);
        let unused = kept.is_unused();
        match (had, has_record) {
            (false, true) => self.without_record -= 1,
            (true, false) => self.without_record += 1,
            _ => {}
        }
        if unused {
            self.remove(spec.id());
        }
        had
    }

    fn entry(&mut self, spec: &SharedSpec) -> &mut Kept {
        self.kept.entry(spec.id()).or_insert_with(|| {
            self.without_record += 1;
            Kept { spec: spec.clone(), tasks: 0, has_record: false }
        })
    }

    /// Removes an unused spec, which therefore has no record.
    fn remove(&mut self, id: SpecId) {
        self.kept.remove(&id);
        self.without_record -= 1;
    }
}

impl Kept {
    fn is_unused(&self) -> bool {
        self.tasks == 0 && !self.has_record
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TaskSpec;

    #[test]
    fn a_spec_is_kept_as_long_as_a_task_or_a_record_has_it() {
        let large = || SharedSpec::from(TaskSpec::program("t", "true").env("LARGE", "x".repeat(600)));
        let (spec, same, small) = (large(), large(), SharedSpec::from(TaskSpec::program("t", "true")));
        let mut specs = Specs::default();
        specs.take(&small);
        specs.release(&small);
        assert!(specs.all().is_empty() && specs.all_have_records(), "small ones stay with their tasks");
        specs.take(&spec);
        assert!(!specs.all_have_records() && !specs.has_record(spec.id()));
        assert!(!specs.set_record(&same, true) && specs.all_have_records());
        specs.take(&same);
        assert_eq!((specs.tasks_of(spec.id()), specs.all().len()), (2, 1));
        specs.release(&spec);
        specs.release(&spec);
        assert_eq!((specs.tasks_of(spec.id()), specs.get(spec.id())), (0, Some(&spec)));
        assert!(specs.set_record(&spec, false) && specs.all_have_records());
        assert_eq!(specs.get(spec.id()), None);
        assert!(!specs.set_record(&spec, false), "taking it back twice is no harm");
        assert!(specs.all_have_records() && specs.all().is_empty());
    }
}
