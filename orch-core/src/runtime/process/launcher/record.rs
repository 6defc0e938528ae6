//! Record of an attempt: identity of the launcher, written before the program runs, and exit status of the
//! program.
//!
//! It appears under its name complete or not at all, and only once: of two launchers of one attempt one
//! continues. The bytes of the exit status are allocated from the beginning, so that a disk which is full by
//! then can still take them.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::FileExt,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::plan::Plan;

const NO_PROGRAM: &str = "..........";
const NO_EXIT: &str = "......";

pub(crate) struct Record {
    file: File,
    text: String,
    /// Offsets of the program's process id and of the exit code in the text.
    program_at: usize,
    exit_at: usize,
}

impl Record {
    /// Creates the record; `None` when there is one already.
    pub(crate) fn create(plan: &Plan, [stdout, stderr]: [u64; 2]) -> io::Result<Option<Self>> {
        let pid = std::process::id();
        let (ticks, uptime) = (own_start_ticks()?, uptime_centis()?);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let Plan { dir, boot, pid_namespace, .. } = plan;
        let mut text = format!(
            "orch-attempt 1\nlauncher {pid} {ticks} {boot} {pid_namespace}\nstarted {now} {uptime}\n\
             pipes {stdout} {stderr}\nprogram "
        );
        let program_at = text.len();
        text.push_str(NO_PROGRAM);
        text.push_str("\nexit ");
        let exit_at = text.len();
        text.push_str(NO_EXIT);
        text.push('\n');

        let new = dir.join(format!("record.{pid}"));
        let made = write(&new, &text).and_then(|file| match fs::hard_link(&new, dir.join("record")) {
            Ok(()) => Ok(Some(Self { file, text, program_at, exit_at })),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
            Err(error) => Err(error),
        });
        let removed = fs::remove_file(&new);
        made.and_then(|made| removed.map(|()| made))
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn set_program(&mut self, pid: u32) -> io::Result<()> {
        self.set(self.program_at, &format!("{pid:010}"))
    }

    /// Writes the code twice, so that a partial write is not taken for a complete one.
    pub(crate) fn set_exit(&mut self, code: u8) -> io::Result<()> {
        self.set(self.exit_at, &format!("{code:03}{code:03}"))
    }

    fn set(&mut self, at: usize, value: &str) -> io::Result<()> {
        self.text.replace_range(at..at + value.len(), value);
        self.file.write_all_at(value.as_bytes(), at as u64)
    }
}

fn write(path: &std::path::Path, text: &str) -> io::Result<File> {
    // A process of the same number may have died here before it was done.
    let mut file = File::options().write(true).create(true).truncate(true).open(path)?;
    file.write_all(text.as_bytes())?;
    Ok(file)
}

/// Field 22 of proc_pid_stat(5). The name in parentheses may contain any character, so fields are counted
/// from its end.
fn own_start_ticks() -> io::Result<u64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let field = stat.rsplit_once(')').and_then(|(_, fields)| fields.split_whitespace().nth(19));
    field.and_then(|ticks| ticks.parse().ok()).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Hundredths of a second since boot. Not affected by changes of the wall clock.
fn uptime_centis() -> io::Result<u64> {
    let uptime = fs::read_to_string("/proc/uptime")?;
    let first = uptime.split_whitespace().next().map(|seconds| seconds.replace('.', ""));
    first.and_then(|centis| centis.parse().ok()).ok_or_else(|| io::ErrorKind::InvalidData.into())
}
