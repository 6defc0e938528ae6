//! Plan of an attempt as it is sent over standard input: a list of byte strings, each prefixed by its length,
//! the list prefixed by its size in bytes. None of it appears on a command line or in the launcher's
//! environment.

use std::{
    ffi::OsString,
    io::{self, Read},
    os::unix::ffi::OsStringExt,
    path::PathBuf,
};

/// Maximum size of a plan, in bytes: more than the kernel accepts as arguments and environment of one
/// program.
const BYTES_MAX: usize = 16 << 20;

pub(crate) struct Plan {
    /// Directory of the attempt.
    pub(crate) dir: PathBuf,
    /// Boot and PID namespace, as the agent sees them.
    pub(crate) boot: String,
    pub(crate) pid_namespace: String,
    pub(crate) output_limit: u64,
    pub(crate) working_dir: Option<PathBuf>,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    pub(crate) environment: Vec<(OsString, OsString)>,
}

impl Plan {
    pub(crate) fn read(input: &mut impl Read) -> io::Result<Self> {
        let mut length = [0; 4];
        input.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut bytes = vec![0; length];
        input.read_exact(&mut bytes)?;
        Self::parse(&mut Fields(&bytes)).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    fn parse(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self {
            dir: fields.text()?.into(),
            boot: fields.text()?.into_string().ok()?,
            pid_namespace: fields.text()?.into_string().ok()?,
            output_limit: fields.number()?,
            working_dir: Some(fields.text()?).filter(|dir| !dir.is_empty()).map(PathBuf::from),
            program: fields.text()?.into(),
            args: (0..fields.number()?).map(|_| fields.text()).collect::<Option<_>>()?,
            environment: (0..fields.number()?)
                .map(|_| Some((fields.text()?, fields.text()?)))
                .collect::<Option<_>>()?,
        })
    }
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn number(&mut self) -> Option<u64> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*number))
    }

    fn text(&mut self) -> Option<OsString> {
        let length = usize::try_from(self.number()?).ok()?;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(OsString::from_vec(text.to_vec()))
    }
}
