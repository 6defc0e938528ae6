//! Completions of the commits of one group. All are there before the first receiver is woken: a task that
//! waits for several is woken once, and a writer that completes a hundred does not switch to each of them in
//! between.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use parking_lot::Mutex;

/// Sender and receiver of one completion.
pub(crate) fn completion<T>() -> (CompletionSender<T>, CompletionReceiver<T>) {
    let slot = Arc::new(Slot(Mutex::new(State::Pending(None))));
    (CompletionSender(Arc::clone(&slot)), CompletionReceiver(slot))
}

/// Completes each with its result, and then wakes the receivers.
pub(crate) fn complete_all<T>(results: impl IntoIterator<Item = (CompletionSender<T>, T)>) {
    let wakers: Vec<_> = results
        .into_iter()
        .filter_map(|(sender, result)| sender.0.resolve(State::Completed(result)))
        .collect();
    wakers.into_iter().for_each(Waker::wake);
}

/// Completes once. Dropped before, it resolves the receiver to `None`.
pub(crate) struct CompletionSender<T>(Arc<Slot<T>>);

/// Resolves to the result, or to `None` when the sender was dropped. May be dropped at any time.
pub(crate) struct CompletionReceiver<T>(Arc<Slot<T>>);

struct Slot<T>(Mutex<State<T>>);

enum State<T> {
    /// Not completed; the waker of the receiver.
    Pending(Option<Waker>),
    Completed(T),
    Dropped,
}

impl<T> Slot<T> {
    /// Changes nothing once resolved. Returns the waker of the receiver.
    fn resolve(&self, state: State<T>) -> Option<Waker> {
        let mut current = self.0.lock();
        match &mut *current {
            State::Pending(waker) => {
                let waker = waker.take();
                *current = state;
                waker
            }
            State::Completed(_) | State::Dropped => None,
        }
    }
}

impl<T> Drop for CompletionSender<T> {
    fn drop(&mut self) {
        self.0.resolve(State::Dropped).into_iter().for_each(Waker::wake);
    }
}

impl<T> Future for CompletionReceiver<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        let mut state = self.0.0.lock();
        if let State::Pending(waker) = &mut *state {
            *waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        match std::mem::replace(&mut *state, State::Dropped) {
            State::Completed(result) => Poll::Ready(Some(result)),
            State::Pending(_) | State::Dropped => Poll::Ready(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::OnceLock, task::Wake};

    use super::*;

    /// Waits for both, and counts the results that are there when it is woken first.
    struct Both {
        receivers: Mutex<[CompletionReceiver<u8>; 2]>,
        found: OnceLock<usize>,
    }

    impl Wake for Both {
        fn wake(self: Arc<Self>) {
            let mut context = Context::from_waker(Waker::noop());
            let mut receivers = self.receivers.lock();
            let polls = receivers.iter_mut().map(|receiver| Pin::new(receiver).poll(&mut context));
            let _ = self.found.set(polls.filter(Poll::is_ready).count());
        }
    }

    #[test]
    fn all_completions_are_there_before_anybody_is_woken() {
        let ((first, one), (second, two)) = (completion(), completion());
        let both = Arc::new(Both { receivers: Mutex::new([one, two]), found: OnceLock::new() });
        let waker = Waker::from(Arc::clone(&both));
        for receiver in both.receivers.lock().iter_mut() {
            assert!(Pin::new(receiver).poll(&mut Context::from_waker(&waker)).is_pending());
        }
        complete_all([(first, 1), (second, 2)]);
        assert_eq!(both.found.get(), Some(&2), "the first to be woken must find both");
    }

    #[tokio::test]
    async fn each_gets_its_result_and_a_dropped_sender_resolves_its_receiver() {
        let ((first, one), (second, two), (third, three)) = (completion(), completion(), completion::<u8>());
        let waits = tokio::spawn(three);
        drop(two);
        complete_all([(first, 1), (second, 2)]);
        assert_eq!(one.await, Some(1));
        drop(third);
        assert_eq!(waits.await.unwrap(), None);
    }
}
