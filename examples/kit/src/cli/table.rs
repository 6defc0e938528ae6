//! Formatting of tables, times and amounts.

use std::io::{self, Write as _};

use comfy_table::{Table, presets};
use orch_core::model::Timestamp;
use serde::Serialize;

use crate::failure::Failure;

/// Table without rules, as `docker ps` prints it. The content of a cell cannot break out of it.
pub(crate) fn render(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    draw(head, rows.into_iter().map(plain))
}

fn plain(mut row: Vec<String>) -> Vec<String> {
    row.iter_mut().for_each(|cell| *cell = one_line(cell));
    row
}

fn draw(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
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

/// The same, cut to the width of the terminal where standard output is one.
pub(crate) fn render_to_fit(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut rows: Vec<Vec<String>> = rows.into_iter().map(plain).collect();
    if let Some(width) = terminal_width() {
        fit(head, &mut rows, width);
    }
    draw(head, rows)
}

/// Truncates cells so that lines are no longer than `width`, as far as each column keeps some characters: the
/// last column first, then whichever is widest.
fn fit(head: &[&str], rows: &mut [Vec<String>], width: usize) {
    const LEAST: usize = 12;
    const BETWEEN: usize = 2;
    let widest = |at: usize| rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max();
    let mut widths: Vec<usize> =
        head.iter().enumerate().map(|(at, name)| widest(at).unwrap_or(0).max(name.len())).collect();
    let all = widths.iter().sum::<usize>() + BETWEEN * head.len().saturating_sub(1);
    let mut over = all.saturating_sub(width);
    let mut narrow = |at: usize, widths: &mut Vec<usize>| {
        let less = over.min(widths[at].saturating_sub(LEAST.max(head[at].len())));
        widths[at] -= less;
        over -= less;
        less > 0
    };
    if let Some(last) = head.len().checked_sub(1) {
        narrow(last, &mut widths);
    }
    while let Some((at, _)) = widths.iter().enumerate().max_by_key(|(_, width)| **width)
        && narrow(at, &mut widths)
    {}
    for row in rows {
        for (cell, most) in row.iter_mut().zip(&widths) {
            *cell = cut(cell, *most);
        }
    }
}

fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some(_) => text.chars().take(most.saturating_sub(3)).chain("...".chars()).collect(),
        None => text.to_owned(),
    }
}

fn terminal_width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// The text without line breaks and other control characters. Every text from a task, a node or an engine
/// passes through it on its way to a terminal, output of tasks excepted.
pub(crate) fn one_line(text: &str) -> String {
    text.trim_end().chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Writes to standard output. A reader that has closed it is no failure.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::from)
}

/// Writes JSON, indented.
pub(crate) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::other(error.to_string()))?;
    print(&(text + "\n"))
}

/// Age in the largest unit that makes sense.
pub(crate) fn ago(at: Timestamp) -> String {
    let seconds = Timestamp::now().since(at).as_secs();
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7199 => format!("{}m", seconds / 60),
        7200..=172_799 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

pub(crate) fn cores(millis: u64) -> String {
    format!("{}.{:03}", millis / 1000, millis % 1000).trim_end_matches('0').trim_end_matches('.').to_owned()
}

pub(crate) fn memory(bytes: u64) -> String {
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
    fn tables_fit_their_terminal_as_far_as_they_can() {
        let row = |why: &str| vec!["a-name-of-some-length".to_owned(), "x".into(), why.into()];
        let mut rows = [row("no node can take it now: 1 of 1: cpu is in use"), row("short")];
        fit(&["NAME", "ID", "WHY"], &mut rows, 50);
        assert!(render(&["NAME", "ID", "WHY"], rows.clone()).lines().all(|line| line.len() <= 50));
        assert_eq!((rows[0][0].as_str(), rows[1][2].as_str()), ("a-name-of-some-length", "short"));
        assert!(rows[0][2].starts_with("no node can") && rows[0][2].ends_with("..."));
        fit(&["NAME", "ID", "WHY"], &mut rows, 10);
        assert_eq!((rows[0][0].as_str(), rows[1][2].as_str()), ("a-name-of...", "short"));
        let mut wide = [row("short")];
        fit(&["NAME", "ID", "WHY"], &mut wide, 500);
        assert_eq!(wide, [row("short")]);
        assert_eq!(one_line("two\nlines\n"), "two lines");
    }

    #[test]
    fn tables_have_no_blanks_at_the_end_of_lines() {
        let text = render(&["A", "LONGER"], [vec!["1".into(), String::new()]]);
        assert_eq!(text, "A  LONGER\n1\n");
    }

    #[test]
    fn cells_keep_to_their_line() {
        let text = render(&["A", "B"], [vec!["one\ntwo\x1b[31m".into(), "\u{9b}2J\tx\r\n".into()]]);
        assert_eq!(text, "A             B\none two [31m   2J x\n");
    }
}
