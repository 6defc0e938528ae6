//! Programs of the suite's tasks, described by their behaviour.

use serde::{Deserialize, Serialize};

use crate::{model::StopSignal, runtime::OutputStream};

/// Behaviour of a task of the suite. A harness turns it into a spec: into a script of
/// [`script`](Self::script), or into whatever its backend runs. It can be written into the spec and read back
/// from there with `serde`.
///
/// "Ready" is the line `ready` on standard output. A stop signal that is not mentioned is handled by the
/// backend: it ends the task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Program {
    /// Writes the texts in their order and exits with the code.
    Prints {
        /// Texts, each with its stream.
        pieces: Vec<(OutputStream, String)>,
        /// Exit code.
        code: i32,
    },
    /// Writes the numbers from 1 to `lines` to standard output, with leading zeros, as lines of 20 bytes.
    /// Then the line `error` to standard error.
    Counts {
        /// Number of lines.
        lines: u64,
    },
    /// Is ready, and does nothing until it is killed.
    Sleeps,
    /// Does nothing for a fifth of a second.
    Naps,
    /// Is ready. One of the signals makes it write the last words to standard output and exit with the
    /// signal's code.
    EndsWhenAsked {
        /// Signals, each with its exit code.
        codes: Vec<(StopSignal, i32)>,
        /// May be empty.
        last_words: String,
    },
    /// Is ready, and does nothing about `SIGTERM`.
    IgnoresStop,
    /// Starts a child process that writes the line `tick` to standard output a hundred times a second. Is
    /// ready, and waits for the child.
    Ticks,
    /// Is killed by `SIGKILL`, or exits as if it had been.
    IsKilled,
    /// Writes to standard output the value of the variable `GREETING`, the last two arguments of its spec,
    /// and its working directory, separated by `|`, as one line.
    ShowsInput,
    /// Writes the value of the variable `TOKEN` to standard output.
    ShowsToken,
    /// The same, then `|` and the content of the file, then the permissions of group and others as `ls` shows
    /// them (`------` for none), as one line.
    ShowsTokens {
        /// Path of the file.
        path: String,
    },
    /// Allocates 128 MiB.
    EatsMemory,
    /// Writes [`Program::burst`] and exits.
    Bursts,
    /// Writes the burst for standard output and an empty line first, if `first` is set. Is ready. `SIGTERM`
    /// makes it write the whole burst and exit.
    BurstsWhenAsked {
        /// Whether it writes something before it is ready.
        first: bool,
    },
}

impl Program {
    /// Writes nothing and exits with the code.
    #[must_use]
    pub fn exits(code: i32) -> Self {
        Self::Prints { pieces: Vec::new(), code }
    }

    /// Writes one text to standard output and exits with the code.
    #[must_use]
    pub fn prints(text: &str, code: i32) -> Self {
        Self::Prints { pieces: vec![(OutputStream::Stdout, text.into())], code }
    }

    /// Is ready, and exits with the code on `SIGTERM`.
    #[must_use]
    pub fn ends_when_asked(code: i32, last_words: &str) -> Self {
        Self::EndsWhenAsked { codes: vec![(StopSignal::Term, code)], last_words: last_words.into() }
    }

    /// Burst for this stream: consecutive numbers, in lines of 1120 bytes, the last one unterminated. More
    /// than a MiB for standard output.
    #[must_use]
    pub fn burst(stream: OutputStream) -> String {
        let (first, last) = burst_of(stream);
        let numbers: Vec<_> = (first..=last).map(|number| format!("{number} ")).collect();
        let lines: Vec<_> = numbers.chunks(BURST_WIDTH / numbers[0].len()).map(<[String]>::concat).collect();
        lines.join("\n")
    }

    /// Script for a POSIX shell that behaves like this. It gets the arguments of the spec as `$0`, `$1`,
    /// `$2`.
    #[must_use]
    pub fn script(&self) -> String {
        match self {
            Self::Prints { pieces, code } => {
                let pieces: String = pieces.iter().map(|(stream, text)| print(*stream, text)).collect();
                format!("{pieces}exit {code}")
            }
            Self::Counts { lines } => format!(
                "i=1; while [ $i -le {lines} ]; do printf '%019d\\n' $i; i=$((i+1)); done; echo error >&2"
            ),
            Self::Sleeps => "echo ready; exec sleep 1000".into(),
            Self::Naps => "sleep 0.2".into(),
            Self::EndsWhenAsked { codes, last_words } => {
                let words = print(OutputStream::Stdout, last_words);
                let traps = codes.iter().map(|(signal, code)| {
                    format!("trap {} {}; ", quoted(&format!("{words}exit {code}")), name_of(*signal))
                });
                format!("{}echo ready; while :; do sleep 0.05; done", traps.collect::<String>())
            }
            Self::IgnoresStop => "trap '' TERM; echo ready; while :; do sleep 1; done".into(),
            Self::Ticks => "(while :; do echo tick; sleep 0.01; done) & echo ready; wait".into(),
            // The first process of a container cannot kill itself, so that a child does and the shell passes
            // it on.
            Self::IsKilled => "sh -c 'kill -KILL $$'; exit $?".into(),
            Self::ShowsInput => r#"echo "$GREETING|$1|$2|$(pwd)""#.into(),
            Self::ShowsToken => r#"printf %s "$TOKEN""#.into(),
            Self::ShowsTokens { path } => {
                let path = quoted(path);
                format!(r#"printf %s "$TOKEN|"; cat {path}; ls -ln {path} | cut -c5-10"#)
            }
            // `tail` keeps what may become the last line: all of it.
            Self::EatsMemory => "head -c 134217728 /dev/zero | tail; exit $?".into(),
            Self::Bursts => burst(),
            Self::BurstsWhenAsked { first } => {
                let before = if *first {
                    format!("{}; echo; ", print_burst(OutputStream::Stdout))
                } else {
                    String::new()
                };
                // The shell's own message about the signal is not printed.
                format!(
                    "exec 3>&2 2>/dev/null; trap 'exec 2>&3; {}; exit 0' TERM; {before}echo ready; \
                     while :; do sleep 0.05; done",
                    burst()
                )
            }
        }
    }
}

/// Bytes of a line without its end. The amount of data matters; lines cost runtimes time as well.
const BURST_WIDTH: usize = 1120;

/// First and last number of a burst.
fn burst_of(stream: OutputStream) -> (usize, usize) {
    match stream {
        OutputStream::Stdout => (100_000, 259_999),
        OutputStream::Stderr => (100_000, 101_599),
    }
}

fn print_burst(stream: OutputStream) -> String {
    let (first, last) = burst_of(stream);
    let to = if stream == OutputStream::Stderr { " >&2" } else { "" };
    format!("seq {first} {last} | tr \"\\n\" \" \" | fold -w {BURST_WIDTH}{to}")
}

fn burst() -> String {
    format!("{}; {}", print_burst(OutputStream::Stdout), print_burst(OutputStream::Stderr))
}

fn print(stream: OutputStream, text: &str) -> String {
    let to = if stream == OutputStream::Stderr { " >&2" } else { "" };
    format!("printf %s {}{to}; ", quoted(text))
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn name_of(signal: StopSignal) -> &'static str {
    match signal {
        StopSignal::Term => "TERM",
        StopSignal::Int => "INT",
        StopSignal::Quit => "QUIT",
        StopSignal::Hup => "HUP",
        StopSignal::Usr1 => "USR1",
        StopSignal::Usr2 => "USR2",
        StopSignal::Kill => "KILL",
        StopSignal::Winch => "WINCH",
    }
}
