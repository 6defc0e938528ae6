//! Priority queues of one peer's outgoing frames. No I/O.
//!
//! Channels 0 to 6 are a class each, 7 to 255 share the last one. The lowest class with frames goes first. A
//! class that has waited for [`PASSED_BYTES_MAX`] of lower ones sends [`TURN_BYTES`], so that a flood on one
//! channel slows the ones behind it and does not stop them. Within a class order is kept.

use std::{array, collections::VecDeque};

use orch_core::transport::Channel;

use super::frame::Frame;

const CLASSES: usize = 8;
const PASSED_BYTES_MAX: usize = 256 << 10;
const TURN_BYTES: usize = 16 << 10;

/// Bounds of each class.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

/// Error: the queue of the class is full.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

pub(super) struct Queues {
    classes: [Class; CLASSES],
    bounds: Bounds,
    /// Number of frames in all classes.
    frames: usize,
}

#[derive(Default)]
struct Class {
    frames: VecDeque<Frame>,
    bytes: usize,
    /// Bytes that lower classes sent while this one waited.
    passed: usize,
    /// Bytes that it may send now ahead of lower classes.
    turn: usize,
}

impl Queues {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { classes: array::from_fn(|_| Class::default()), bounds, frames: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames == 0
    }

    pub(super) fn clear(&mut self) {
        *self = Self::new(self.bounds);
    }

    pub(super) fn push(&mut self, channel: Channel, frame: Frame) -> Result<(), Full> {
        let class = &mut self.classes[usize::from(channel.0).min(CLASSES - 1)];
        let bytes = class.bytes + frame.size();
        if class.frames.len() >= self.bounds.messages || bytes > self.bounds.bytes {
            return Err(Full);
        }
        class.bytes = bytes;
        class.frames.push_back(frame);
        self.frames += 1;
        Ok(())
    }

    pub(super) fn pop(&mut self) -> Option<Frame> {
        let waits = |class: &Class| !class.frames.is_empty();
        let turn = self.classes.iter().position(|class| waits(class) && class.turn > 0);
        let chosen = turn.or_else(|| self.classes.iter().position(waits))?;
        let (class, higher) = self.classes[chosen..].split_first_mut()?;
        let frame = class.frames.pop_front()?;
        let size = frame.size();
        self.frames -= 1;
        class.bytes -= size;
        class.passed = 0;
        class.turn = if class.frames.is_empty() { 0 } else { class.turn.saturating_sub(size) };
        for other in higher.iter_mut().filter(|class| waits(class)) {
            other.passed += size;
            if other.passed >= PASSED_BYTES_MAX {
                (other.passed, other.turn) = (0, TURN_BYTES);
            }
        }
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{
        super::frame::{HEADER_BYTES, Kind},
        *,
    };

    const BOUNDS: Bounds = Bounds { messages: 10_000, bytes: 100 << 20 };

    fn frame(channel: u8, bytes: usize) -> Frame {
        Frame { kind: Kind::Message, channel, id: 0, body: Bytes::from(vec![0; bytes]) }
    }

    fn push(queues: &mut Queues, channel: u8, bytes: usize) -> Result<(), Full> {
        queues.push(Channel(channel), frame(channel, bytes))
    }

    #[test]
    fn lower_channels_go_first_and_each_keeps_its_order() {
        let mut queues = Queues::new(BOUNDS);
        for (channel, bytes) in [(200, 1), (7, 2), (3, 3), (0, 4), (3, 5)] {
            push(&mut queues, channel, bytes).unwrap();
        }
        let order = std::iter::from_fn(|| queues.pop()).map(|frame| (frame.channel, frame.body.len()));
        assert_eq!(order.collect::<Vec<_>>(), [(0, 4), (3, 3), (3, 5), (200, 1), (7, 2)]);
        assert!(queues.is_empty());
    }

    #[test]
    fn a_flood_does_not_starve_what_is_behind_it() {
        let mut queues = Queues::new(BOUNDS);
        for _ in 0..5000 {
            push(&mut queues, 0, 1000).unwrap();
            push(&mut queues, 1, 1000).unwrap();
            push(&mut queues, 9, 1000).unwrap();
        }
        let mut sent = [0; 10];
        for _ in 0..5000 {
            sent[usize::from(queues.pop().unwrap().channel)] += 1;
        }
        assert!(sent[0] > 4000, "the first class has most of it: {sent:?}");
        assert!(sent[1] > 200 && sent[9] > 200, "the others have their share: {sent:?}");
    }

    #[test]
    fn each_class_is_bounded_in_messages_and_in_bytes() {
        let mut queues = Queues::new(Bounds { messages: 2, bytes: 100 });
        push(&mut queues, 0, 0).unwrap();
        push(&mut queues, 0, 0).unwrap();
        assert_eq!(push(&mut queues, 0, 0), Err(Full));
        push(&mut queues, 1, 100 - HEADER_BYTES).unwrap();
        assert_eq!(push(&mut queues, 1, 0), Err(Full));
        queues.pop().unwrap();
        push(&mut queues, 0, 0).unwrap();
        push(&mut queues, 8, 0).unwrap();
        push(&mut queues, 255, 0).unwrap();
        assert_eq!(push(&mut queues, 7, 0), Err(Full), "they share a class");
    }
}
