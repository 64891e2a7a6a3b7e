//! `brahman-init __exec`: the few steps between fork and the module's own program.
//!
//! init starts itself in this role, so that limits, group and descriptors are set by safe code in a fresh process
//! rather than between fork and exec. The listening socket comes as standard input and leaves as descriptor 3.

use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use clap::Args;
use rustix::process::{Resource, Rlimit, Signal, getpid, setrlimit};

/// What init tells the shim.
#[derive(Args, Debug)]
pub struct Shim {
    /// RLIMIT_NOFILE
    #[arg(long)]
    pub files: Option<u64>,
    /// RLIMIT_DATA, where no cgroup limits memory
    #[arg(long)]
    pub data: Option<u64>,
    /// cgroup to enter
    #[arg(long)]
    pub cgroup: Option<PathBuf>,
    /// Program and arguments
    #[arg(last = true, required = true)]
    pub command: Vec<String>,
}

impl Shim {
    /// Becomes the program; returns only if that failed.
    #[must_use]
    pub fn exec(self) -> ExitCode {
        match self.try_exec() {
            Ok(never) => match never {},
            Err(why) => {
                // Standard error is the module's log pipe; this is its last line and so the reason in `status`.
                tracing::error!("{why}");
                ExitCode::from(78)
            }
        }
    }

    fn try_exec(self) -> Result<std::convert::Infallible, String> {
        // init's death ends its modules: they drain, and the next init starts fresh ones on the same sockets.
        rustix::process::set_parent_process_death_signal(Some(Signal::TERM)).map_err(|e| format!("prctl: {e}"))?;
        for (resource, name, limit) in [(Resource::Nofile, "files", self.files), (Resource::Data, "memory", self.data)] {
            if let Some(limit) = limit {
                let both = Rlimit { current: Some(limit), maximum: Some(limit) };
                setrlimit(resource, both).map_err(|e| format!("limits.{name} = {limit} was refused: {e}"))?;
            }
        }
        if let Some(cgroup) = &self.cgroup {
            let procs = cgroup.join("cgroup.procs");
            std::fs::write(&procs, getpid().as_raw_nonzero().to_string()).map_err(|e| format!("{}: {e}", procs.display()))?;
        }
        let stdin = std::io::stdin();
        // The lowest free descriptor from 3 on; nothing else is open, so it is 3 itself. Kept open on purpose.
        let listener =
            rustix::io::fcntl_dupfd_cloexec(stdin.as_fd(), 3).map_err(|e| format!("the listening socket did not arrive: {e}"))?;
        rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::empty()).map_err(|e| format!("fcntl: {e}"))?;
        let raw = std::os::fd::IntoRawFd::into_raw_fd(listener);
        if raw != 3 {
            return Err(format!("descriptor 3 is taken (got {raw})"));
        }
        let (program, arguments) = self.command.split_first().ok_or("no program was given")?;
        let error = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .env("LISTEN_PID", getpid().as_raw_nonzero().to_string())
            .env("LISTEN_FDS", "1")
            .env("LISTEN_FDNAMES", "varlink")
            .exec();
        Err(format!("cannot execute {program}: {error}"))
    }
}
