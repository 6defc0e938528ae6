//! Answers to those who wait for one group. All are there before the first of them is woken: who waits for several is woken
//! once, and a writer that answers a hundred does not switch to each of them in between.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

/// The two ends of one question.
pub(crate) fn question<T>() -> (Question<T>, Answer<T>) {
    let slot = Arc::new(Slot(Mutex::new(State::Open(None))));
    (Question(Arc::clone(&slot)), Answer(slot))
}

/// Gives each its answer, and then wakes whoever waits.
pub(crate) fn answer_all<T>(answers: impl IntoIterator<Item = (Question<T>, T)>) {
    let wakers: Vec<_> = answers
        .into_iter()
        .filter_map(|(question, answer)| question.0.settle(State::Answered(answer)))
        .collect();
    wakers.into_iter().for_each(Waker::wake);
}

/// To be answered once. Dropped, it tells who waits that there will be no answer.
pub(crate) struct Question<T>(Arc<Slot<T>>);

/// Resolves to the answer, or to `None` when there will be none. May be dropped at any time.
pub(crate) struct Answer<T>(Arc<Slot<T>>);

struct Slot<T>(Mutex<State<T>>);

enum State<T> {
    /// Who is to be woken.
    Open(Option<Waker>),
    Answered(T),
    Dropped,
}

impl<T> Slot<T> {
    /// Leaves what was settled before. Returns who waits for it.
    fn settle(&self, state: State<T>) -> Option<Waker> {
        let mut current = self.lock();
        match &mut *current {
            State::Open(waker) => {
                let waker = waker.take();
                *current = state;
                waker
            }
            State::Answered(_) | State::Dropped => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Drop for Question<T> {
    fn drop(&mut self) {
        self.0.settle(State::Dropped).into_iter().for_each(Waker::wake);
    }
}

impl<T> Future for Answer<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        let mut state = self.0.lock();
        if let State::Open(waker) = &mut *state {
            *waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        match std::mem::replace(&mut *state, State::Dropped) {
            State::Answered(answer) => Poll::Ready(Some(answer)),
            State::Open(_) | State::Dropped => Poll::Ready(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::OnceLock, task::Wake};

    use super::*;

    /// Waits for both, and counts the answers that are there when it is woken first.
    struct Both {
        answers: Mutex<[Answer<u8>; 2]>,
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
        let ((first, one), (second, two)) = (question(), question());
        let both = Arc::new(Both { answers: Mutex::new([one, two]), found: OnceLock::new() });
        let waker = Waker::from(Arc::clone(&both));
        for answer in both.answers.lock().unwrap().iter_mut() {
            assert!(Pin::new(answer).poll(&mut Context::from_waker(&waker)).is_pending());
        }
        answer_all([(first, 1), (second, 2)]);
        assert_eq!(both.found.get(), Some(&2), "the first to be woken must find both");
    }

    #[tokio::test]
    async fn each_gets_its_answer_and_who_is_forgotten_hears_of_that() {
        let ((first, one), (second, two), (third, three)) = (question(), question(), question::<u8>());
        let waits = tokio::spawn(three);
        drop(two);
        answer_all([(first, 1), (second, 2)]);
        assert_eq!(one.await, Some(1));
        drop(third);
        assert_eq!(waits.await.unwrap(), None);
    }
}
