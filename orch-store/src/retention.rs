//! Retention of a store's log: how far it is trimmed, and when.

use std::num::NonZeroU64;

use orch_core::store::Revision;

/// New start of a log that begins at `oldest` and reaches `head`, once it has an eighth more than the `keep`
/// revisions that stay: trimming with each commit would cost more than it frees.
pub(crate) fn trim_to(oldest: Revision, head: Revision, keep: NonZeroU64) -> Option<Revision> {
    let surplus = head.0.saturating_sub(oldest.0).saturating_sub(keep.get());
    (surplus > keep.get() / 8).then(|| Revision(oldest.0 + surplus))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_trimmed_in_steps_of_an_eighth() {
        let keep = NonZeroU64::new(40).unwrap();
        let trim = |oldest, head| trim_to(Revision(oldest), Revision(head), keep);
        assert_eq!((trim(0, 30), trim(0, 45), trim(5, 50)), (None, None, None));
        assert_eq!((trim(0, 46), trim(6, 60)), (Some(Revision(6)), Some(Revision(20))));
    }
}
