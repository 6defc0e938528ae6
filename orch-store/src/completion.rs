//! Answers to those who wait for one group. All are there before the first of them is woken: who waits for
//! several is woken once, and a writer that answers a hundred does not switch to each of them in between.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

/// Sender and receiver of one completion.
pub(crate) fn completion<T>() -> (CompletionSender<T>, CompletionReceiver<T>) {
    let slot = Arc::new(Slot(Mutex::new(State::Pending(None))));
    (CompletionSender(Arc::clone(&slot)), CompletionReceiver(slot))
}

/// Gives each its answer, and then wakes whoever waits.
pub(crate) fn complete_all<T>(answers: impl IntoIterator<Item = (CompletionSender<T>, T)>) {
    let wakers: Vec<_> = answers
        .into_iter()
        .filter_map(|(sender, answer)| sender.0.resolve(State::Completed(answer)))
        .collect();
    wakers.into_iter().for_each(Waker::wake);
}

/// Completes once. Dropped before, it resolves the receiver to `None`.
pub(crate) struct CompletionSender<T>(Arc<Slot<T>>);

/// Resolves to the answer, or to `None` when there will be none. May be dropped at any time.
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
        let mut current = self.lock();
        match &mut *current {
            State::Pending(waker) => {
                let waker = waker.take();
                *current = state;
                waker
            }
            State::Completed(_) | State::Dropped => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        let mut state = self.0.lock();
        if let State::Pending(waker) = &mut *state {
            *waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        match std::mem::replace(&mut *state, State::Dropped) {
            State::Completed(answer) => Poll::Ready(Some(answer)),
            State::Pending(_) | State::Dropped => Poll::Ready(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::OnceLock, task::Wake};

    use super::*;

    /// Waits for both, and counts the answers that are there when it is woken first.
    struct Both {
        answers: Mutex<[CompletionReceiver<u8>; 2]>,
        found: OnceLock<usize>,
    }

    impl Wake for Both {
        fn wake(self: Arc<Self>) {
            let mut context = Context::from_waker(Waker::noop());
            let mut answers = self.answers.lock().expect("no test panicked");
            let polls = answers.iter_mut().map(|answer| Pin::new(answer).poll(&mut context));
            let _ = self.found.set(polls.filter(Poll::is_ready).count());
        }
    }

    #[test]
    fn all_answers_are_there_before_anybody_is_woken() {
        let ((first, one), (second, two)) = (completion(), completion());
        let both = Arc::new(Both { answers: Mutex::new([one, two]), found: OnceLock::new() });
        let waker = Waker::from(Arc::clone(&both));
        for answer in both.answers.lock().unwrap().iter_mut() {
            assert!(Pin::new(answer).poll(&mut Context::from_waker(&waker)).is_pending());
        }
        complete_all([(first, 1), (second, 2)]);
        assert_eq!(both.found.get(), Some(&2), "the first to be woken must find both");
    }

    #[tokio::test]
    async fn each_gets_its_answer_and_who_is_forgotten_hears_of_that() {
        let ((first, one), (second, two), (third, three)) = (completion(), completion(), completion::<u8>());
        let waits = tokio::spawn(three);
        drop(two);
        complete_all([(first, 1), (second, 2)]);
        assert_eq!(one.await, Some(1));
        drop(third);
        assert_eq!(waits.await.unwrap(), None);
    }
}
