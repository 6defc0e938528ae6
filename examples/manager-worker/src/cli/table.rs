//! Tables, times and amounts for people.

use std::io::{self, Write as _};

use comfy_table::{Table, presets};
use orch_core::model::Timestamp;
use serde::Serialize;

use super::exit::Failure;

/// A table without lines, as `docker ps` prints it.
pub(crate) fn render(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(head.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let text = table.to_string();
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// Writes to standard output. A reader that went away is no failure.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::from)
}

/// Writes JSON, indented.
pub(super) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::other(error.to_string()))?;
    print(&(text + "\n"))
}

/// How long ago, in the largest unit that makes sense.
pub(super) fn ago(at: Timestamp) -> String {
    let seconds = Timestamp::now().since(at).as_secs();
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7199 => format!("{}m", seconds / 60),
        7200..=172_799 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

pub(super) fn cores(millis: u64) -> String {
    format!("{}.{:03}", millis / 1000, millis % 1000).trim_end_matches('0').trim_end_matches('.').to_owned()
}

pub(super) fn memory(bytes: u64) -> String {
    match bytes {
        0..1_048_576 => format!("{}K", bytes >> 10),
        1_048_576..10_737_418_240 => format!("{}M", bytes >> 20),
        _ => format!("{}G", bytes >> 30),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_short() {
        assert_eq!((cores(2000).as_str(), cores(1500).as_str(), cores(0).as_str()), ("2", "1.5", "0"));
        assert_eq!((memory(512 << 20).as_str(), memory(64 << 30).as_str()), ("512M", "64G"));
    }

    #[test]
    fn tables_have_no_blanks_at_the_end_of_lines() {
        let text = render(&["A", "LONGER"], [vec!["1".into(), String::new()]]);
        assert_eq!(text, "A  LONGER\n1\n");
    }
}
