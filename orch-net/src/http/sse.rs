//! Server-sent events: writing frames and reading them.

use std::fmt::Write as _;

use bytes::Bytes;

/// Comment that keeps an idle connection alive, and tells the reader that the writer is there.
pub(crate) const KEEP_ALIVE: Bytes = Bytes::from_static(b": keep-alive\n\n");

/// A frame, as read. A frame without data only moves the position.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) id: Option<String>,
    pub(crate) event: String,
    pub(crate) data: String,
}

impl Frame {
    /// The frame's text. `data` is one line, as JSON is.
    pub(crate) fn encode(&self) -> Bytes {
        let mut text = String::with_capacity(self.data.len() + 64);
        if let Some(id) = &self.id {
            let _ = writeln!(text, "id: {id}");
        }
        if !self.data.is_empty() {
            let _ = write!(text, "event: {}\ndata: {}\n", self.event, self.data);
        }
        text.push('\n');
        text.into()
    }
}

/// Cuts a stream of bytes into lines. Lines beyond a bound are an error.
#[derive(Debug)]
pub(crate) struct Lines {
    buffer: Vec<u8>,
    max: usize,
}

/// A line is longer than is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server sent a line that is too long")]
pub(crate) struct TooLong;

impl Lines {
    pub(crate) fn new(max: usize) -> Self {
        Self { buffer: Vec::new(), max }
    }

    /// Takes bytes in and gives the lines that are complete now, without their ends.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<Vec<String>, TooLong> {
        let searched = self.buffer.len();
        self.buffer.extend_from_slice(bytes);
        let Some(last) = self.buffer[searched..].iter().rposition(|byte| *byte == b'\n') else {
            return if self.buffer.len() > self.max { Err(TooLong) } else { Ok(Vec::new()) };
        };
        let rest = self.buffer.split_off(searched + last + 1);
        let complete = std::mem::replace(&mut self.buffer, rest);
        let lines = String::from_utf8_lossy(&complete);
        Ok(lines.lines().map(str::to_owned).collect())
    }
}

/// Puts lines together to frames.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    open: Frame,
}

impl Frames {
    /// Takes a line; the frame that it completes, if it does.
    pub(crate) fn push(&mut self, line: &str) -> Option<Frame> {
        if line.is_empty() {
            let frame = std::mem::take(&mut self.open);
            return (frame != Frame::default()).then_some(frame);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => self.open.id = Some(value.to_owned()),
            "event" => value.clone_into(&mut self.open.event),
            "data" => {
                if !self.open.data.is_empty() {
                    self.open.data.push('\n');
                }
                self.open.data.push_str(value);
            }
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_any_cutting() {
        let frames = [
            Frame { id: Some("1.2".into()), event: String::new(), data: String::new() },
            Frame { id: Some("1.3".into()), event: "task".into(), data: "{\"ä\":1}".into() },
            Frame { id: None, event: "x".into(), data: "y".into() },
        ];
        let mut bytes = KEEP_ALIVE.to_vec();
        frames.iter().for_each(|frame| bytes.extend_from_slice(&frame.encode()));
        for size in 1..bytes.len() {
            let (mut lines, mut read, mut got) = (Lines::new(100), Frames::default(), Vec::new());
            for piece in bytes.chunks(size) {
                got.extend(lines.push(piece).unwrap().iter().filter_map(|line| read.push(line)));
            }
            assert_eq!(got, frames, "in pieces of {size}");
        }
    }

    #[test]
    fn a_line_without_end_is_not_collected_for_ever() {
        let mut lines = Lines::new(10);
        assert_eq!(lines.push(b"12345678"), Ok(vec![]));
        assert_eq!(lines.push(b"9abc"), Err(TooLong));
    }
}
