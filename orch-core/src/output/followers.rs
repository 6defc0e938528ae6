//! Those who wait for more output, by task, so that an append wakes nobody else.

use std::{collections::HashMap, sync::Arc};

use futures_util::{StreamExt as _, stream};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use super::OutputWatch;
use crate::model::TaskId;

#[derive(Clone, Debug, Default)]
pub(super) struct Followers(Arc<Mutex<HashMap<TaskId, watch::Sender<()>>>>);

impl Followers {
    pub(super) fn follow(&self, task: TaskId) -> OutputWatch {
        let woken = self.lock().entry(task).or_default().subscribe();
        let follower = Follower { all: self.clone(), task, woken };
        stream::unfold(follower, |mut follower| async move {
            follower.woken.changed().await.ok()?;
            Some((Ok(()), follower))
        })
        .boxed()
    }

    pub(super) fn wake(&self, task: TaskId) {
        if let Some(followed) = self.lock().get(&task) {
            followed.send_replace(());
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TaskId, watch::Sender<()>>> {
        self.0.lock()
    }
}

struct Follower {
    all: Followers,
    task: TaskId,
    woken: watch::Receiver<()>,
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        // Its own receiver is the last.
        if all.get(&self.task).is_some_and(|followed| followed.receiver_count() <= 1) {
            all.remove(&self.task);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn only_those_of_the_task_are_woken_and_the_last_one_leaves_nothing() {
        let (followers, one, other) = (Followers::default(), TaskId::generate(), TaskId::generate());
        let (mut first, mut second) = (followers.follow(one), followers.follow(one));
        let mut elsewhere = followers.follow(other);
        followers.wake(one);
        followers.wake(one);
        assert!(matches!(first.next().now_or_never(), Some(Some(Ok(())))));
        assert!(first.next().now_or_never().is_none(), "two appends may be reported as one");
        assert!(elsewhere.next().now_or_never().is_none());
        drop((first, elsewhere));
        assert_eq!(followers.lock().keys().collect::<Vec<_>>(), [&one]);
        assert!(matches!(second.next().now_or_never(), Some(Some(Ok(())))));
        drop(second);
        assert!(followers.lock().is_empty());
    }
}
