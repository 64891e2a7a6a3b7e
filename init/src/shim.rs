//! `brahman-init __exec`: the few steps between fork and the module's own program.
//!
//! init starts itself in this role, so that limits, group and descriptors are set in a fresh
//! process rather than between fork and exec. The listening socket comes as standard input and
//! leaves as descriptor 3, further ones come by their numbers and leave as those after it; nothing
//! else leaves.

use std::convert::Infallible;
use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use brahman_sidecar::chain;
use brahman_sidecar::module::EXIT_CONFIG;
use clap::Args;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::getppid;
use thiserror::Error;

/// What init tells the shim.
#[derive(Args, Debug)]
pub struct Shim {
    /// init's process id
    #[arg(long)]
    pub parent: Option<i32>,
    /// RLIMIT_NOFILE
    #[arg(long)]
    pub files: Option<u64>,
    /// RLIMIT_DATA, where no cgroup limits memory
    #[arg(long)]
    pub data: Option<u64>,
    /// cgroup to enter
    #[arg(long)]
    pub cgroup: Option<PathBuf>,
    /// Descriptor of a further listening socket
    #[arg(long)]
    pub also: Vec<i32>,
    /// Program and arguments
    #[arg(last = true, required = true)]
    pub command: Vec<OsString>,
}

/// Why the program was not reached.
#[derive(Debug, Error)]
enum ShimError {
    #[error("prctl")]
    Orphan(#[source] io::Error),
    #[error("init ended while this module was being started")]
    NoParent,
    #[error("limits.{name} = {limit} was refused")]
    Limit { name: &'static str, limit: u64, source: io::Error },
    #[error("{path}")]
    Cgroup { path: PathBuf, source: io::Error },
    #[error("the listening socket did not arrive")]
    Socket(#[source] io::Error),
    #[error("no program was given")]
    NoProgram,
    #[error("cannot execute {program}")]
    Exec { program: PathBuf, source: io::Error },
}

impl Shim {
    /// Becomes the program; returns only if that failed.
    #[must_use]
    pub fn exec(self) -> ExitCode {
        match self.try_exec() {
            Ok(never) => match never {},
            Err(error) => {
                // Standard error is the module's log pipe; this is its last line and so the reason
                // in `status`.
                tracing::error!("{}", chain(&error));
                ExitCode::from(EXIT_CONFIG)
            }
        }
    }

    fn try_exec(self) -> Result<Infallible, ShimError> {
        // init's death ends its modules: they drain, and the next init starts fresh ones on the
        // same sockets.
        set_pdeathsig(Signal::SIGTERM).map_err(|e| ShimError::Orphan(e.into()))?;
        // If init died before that line, no signal will ever come.
        if self.parent.is_some_and(|parent| parent != getppid().as_raw()) {
            return Err(ShimError::NoParent);
        }
        for (resource, name, limit) in [
            (Resource::RLIMIT_NOFILE, "files", self.files),
            (Resource::RLIMIT_DATA, "memory", self.data),
        ] {
            if let Some(limit) = limit {
                setrlimit(resource, limit, limit).map_err(|e| ShimError::Limit {
                    name,
                    limit,
                    source: e.into(),
                })?;
            }
        }
        if let Some(cgroup) = &self.cgroup {
            let procs = cgroup.join("cgroup.procs");
            let entered = std::fs::write(&procs, std::process::id().to_string());
            entered.map_err(|source| ShimError::Cgroup { path: procs, source })?;
        }
        crate::sys::hand_over(std::io::stdin().as_fd(), &self.also).map_err(ShimError::Socket)?;
        let (program, arguments) = self.command.split_first().ok_or(ShimError::NoProgram)?;
        let source = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .env("LISTEN_PID", std::process::id().to_string())
            .env("LISTEN_FDS", (1 + self.also.len()).to_string())
            .env("LISTEN_FDNAMES", format!("varlink{}", ":tcp".repeat(self.also.len())))
            .exec();
        Err(ShimError::Exec { program: program.into(), source })
    }
}
