//! Rules about files that no other tool checks.

use std::{collections::BTreeSet, fs, path::Path};

use crate::{
    gate::LIBRARIES,
    shell::{Context, Error, Result, read, root},
};

/// Maximum width of a comment, in columns: the `max_width` of rustfmt, which leaves comments alone.
const COMMENT_WIDTH_MAX: usize = 110;
/// Output directories of builds and runs; nothing in them belongs to the sources.
const OUTPUT: [&str; 3] = ["target", "node_modules", ".fixtures"];
/// Maximum number of lines of a file. A longer one usually holds two ideas.
const LINES_MAX: usize = 800;

/// Checks every file that Git knows of or would add.
pub(crate) fn check() -> Result {
    let mut git = std::process::Command::new("git");
    let names =
        read(git.args(["ls-files", "--cached", "--others", "--exclude-standard"]).current_dir(root()))?;
    let mut problems = Vec::new();
    let there = names.lines().filter(|name| root().join(name).exists());
    let programs: BTreeSet<&str> = there.filter_map(program_of).collect();
    // Seeds of fuzz targets are bytes, even where they could be read as text.
    for name in names.lines().filter(|name| !name.starts_with("fuzz/seeds/")) {
        // Binary and just deleted files have nothing to check.
        if let Ok(text) = fs::read_to_string(root().join(name)) {
            problems.extend(problems_of(name, &text));
            if name.ends_with(".md") {
                let absent = named_programs(&text).into_iter().filter(|named| !programs.contains(named));
                problems.extend(absent.map(|named| format!("{name}: there is no program {named}")));
            }
        }
    }
    for licence in ["LICENSE-MIT", "LICENSE-APACHE"] {
        if !root().join(licence).exists() {
            problems.push(format!("{licence} is missing"));
        }
    }
    for library in LIBRARIES {
        let readme = root().join(library).join("README.md");
        let text = fs::read_to_string(&readme).context(readme.display())?;
        if text.trim().is_empty() {
            problems.push(format!("{library}/README.md is empty"));
        }
    }
    match problems.is_empty() {
        true => Ok(()),
        false => Err(Error::new(problems.join("\n"))),
    }
}

fn problems_of(name: &str, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if name.rsplit('/').skip(1).any(|directory| OUTPUT.contains(&directory)) {
        problems.push(format!("{name}: output of a build"));
    }
    let is_rust = Path::new(name).extension().is_some_and(|extension| extension == "rs");
    if is_rust && text.lines().count() > LINES_MAX {
        problems.push(format!("{name}: more than {LINES_MAX} lines"));
    }
    for (index, line) in text.lines().enumerate() {
        let mut problem = |what: &str| problems.push(format!("{name}:{}: {what}", index + 1));
        if machine_paths().iter().any(|path| line.contains(path.as_str())) {
            problem("a path of somebody's machine");
        }
        if is_rust && is_silencer(line) && !attribute_at(text, index).contains("reason = ") {
            problem("a lint is silenced without a reason");
        }
        if is_rust && opens_with_a_question(text, index) {
            problem("a doc comment opens with a question word; begin with what the thing is");
        }
        if is_rust && line.trim_start().starts_with("//") && line.chars().count() > COMMENT_WIDTH_MAX {
            problem("a comment is wider than the code");
        }
        if name != "Cargo.lock" && line.ends_with([' ', '\t']) {
            problem("blanks at the end of the line");
        }
    }
    problems
}

/// Whether a doc comment begins on this line, and with a word that says nothing of the thing.
fn opens_with_a_question(text: &str, line: usize) -> bool {
    const WORDS: [&str; 5] = ["What ", "Who ", "How ", "Where ", "Which "];
    let doc = |line: &str| {
        let line = line.trim_start();
        ["///", "//!"]
            .iter()
            .find_map(|mark| line.strip_prefix(mark))
            .map(|rest| rest.trim_start().to_owned())
    };
    let mut lines = text.lines().skip(line.saturating_sub(1));
    let before = if line == 0 { None } else { lines.next().and_then(doc) };
    let words = lines.next().and_then(doc).filter(|_| before.is_none());
    words.is_some_and(|words| WORDS.iter().any(|word| words.starts_with(word)))
}

/// Name of the example, benchmark or further binary whose main file this is.
fn program_of(name: &str) -> Option<&str> {
    let (dir, file) = name.rsplit_once('/')?;
    let is_program = ["examples", "benches", "bin"].iter().any(|kind| dir.rsplit('/').next() == Some(*kind));
    file.strip_suffix(".rs").filter(|_| is_program)
}

/// Programs that commands of a document run.
fn named_programs(text: &str) -> Vec<&str> {
    let words: Vec<&str> = text.split([' ', '\n', '`', ')']).collect();
    let named = words.windows(2).filter(|pair| matches!(pair[0], "--example" | "--bin" | "--bench"));
    named
        .map(|pair| pair[1])
        .filter(|name| name.starts_with(|first: char| first.is_ascii_lowercase()))
        .collect()
}

/// Assembled here, so that this file passes its own check.
fn machine_paths() -> [String; 3] {
    ["home", "Users", "root"].map(|place| format!("/{place}/")).map(|path| match path.as_str() {
        "/root/" => format!("{path}."), // dot files; images do have the directory
        _ => path,
    })
}

fn is_silencer(line: &str) -> bool {
    let line = line.trim_start();
    ["#[", "#!["].iter().any(|open| {
        line.strip_prefix(open).is_some_and(|rest| rest.starts_with("allow(") || rest.starts_with("expect("))
    })
}

/// The attribute that begins on this line, to its closing bracket.
fn attribute_at(text: &str, line: usize) -> String {
    let mut attribute = String::new();
    for line in text.lines().skip(line) {
        attribute.push_str(line);
        if line.trim_end().ends_with(")]") {
            break;
        }
    }
    attribute
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_bites() {
        let path = ["/ho", "me/somebody"].concat();
        let bare = ["#[al", "low(dead_code)]"].concat();
        for text in [path, bare, "x ".into(), "\n".repeat(LINES_MAX + 1)] {
            assert_eq!(problems_of("a.rs", &text).len(), 1, "{text:?}");
        }
        let question = ["//", "/ What it is.\n"].concat();
        assert_eq!(problems_of("a.rs", &question).len(), 1);
        let second = ["//", "/ It is so,\n//", "/ Where that holds.\n"].concat();
        assert_eq!(problems_of("a.rs", &second), [""; 0]);
        let wide = ["/", "/ ", &"x".repeat(COMMENT_WIDTH_MAX)].concat();
        assert_eq!(problems_of("a.rs", &wide).len(), 1);
        assert_eq!(problems_of("benches/target/release/x.d", "").len(), 1);
        let reasoned = ["#[al", "low(\n    dead_code,\n    reason = \"why\"\n)]"].concat();
        assert_eq!(problems_of("a.rs", &reasoned), [""; 0]);
    }

    #[test]
    fn programs_of_commands_are_looked_for() {
        let command =
            "`cargo run --release -p orch-sim --example ping_pong -- x` or `cargo bench --bench NAME`";
        assert_eq!(named_programs(command), ["ping_pong"]);
        assert_eq!(program_of("orch-sim/examples/ping_pong.rs"), Some("ping_pong"));
        assert_eq!(program_of("orch-sim/src/lib.rs"), None);
    }

    #[test]
    fn long_files_of_other_kinds_are_fine() {
        assert_eq!(problems_of("a.json", &"{}\n".repeat(LINES_MAX * 2)), [""; 0]);
    }
}
