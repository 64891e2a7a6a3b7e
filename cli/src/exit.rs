//! Exit codes of the command: the one place that knows their numbers, which are documented in
//! `docs/reference/commands.md`. What ends how is decided in `failure.rs`.

use std::process::ExitCode;

/// How a command ends, for a script to test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExitStatus {
    /// The mesh answered with an error, or a check found something.
    Failed,
    /// The arguments make no sense; clap's own number.
    Usage,
    /// Nobody listens at the mesh socket.
    NoMesh,
    /// Nothing serves the flow, or what was named does not exist.
    NotFound,
    /// Overloaded, or out of time.
    TryAgain,
    /// What was given cannot be used: a Card, JSON, a text that is too long, a file that cannot be
    /// read.
    BadInput,
    /// The person ended it (Ctrl-C): what a shell shows for a program that SIGINT has ended (128 +
    /// 2).
    Interrupted,
    /// What only a person can mend: a Card, a context or a state is refused (`EX_CONFIG` of
    /// sysexits.h, as brahman-init ends).
    Refused,
    /// Standard output took less than there was: `EX_IOERR` of sysexits.h.
    OutputLost,
    /// The reader of standard output has gone: what a shell shows for a program that SIGPIPE has
    /// ended (128 + 13), as for coreutils.
    ReaderGone,
}

impl ExitStatus {
    /// The number.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NoMesh => 3,
            Self::NotFound => 4,
            Self::TryAgain => 5,
            Self::BadInput => 6,
            Self::OutputLost => 74,
            Self::Refused => 78,
            Self::Interrupted => 130,
            Self::ReaderGone => 141,
        }
    }
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(status.code())
    }
}
