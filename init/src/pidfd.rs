//! A process by descriptor: signalled, waited for and reaped without its number, which the kernel
//! gives out again.
//!
//! The calls are rustix's: nix has no `pidfd_open` and no `pidfd_send_signal`, and its `waitid`
//! gives an error, instead of how the process ended, once one that died by a realtime signal has
//! been reaped (ADR 32).

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::signal::Signal;
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};

use crate::state::Exit;

/// A process, whether it runs or has ended and was not reaped yet.
#[derive(Debug)]
pub(crate) struct Pidfd(OwnedFd);

impl Pidfd {
    /// The process that has this number now.
    pub(crate) fn open(pid: u32) -> io::Result<Self> {
        let pid = Pid::from_raw(pid.cast_signed()).ok_or(Errno::SRCH)?;
        Ok(Self(pidfd_open(pid, PidfdFlags::NONBLOCK)?))
    }

    pub(crate) fn send(&self, signal: Signal) -> io::Result<()> {
        let signal = rustix::process::Signal::from_named_raw(signal as i32).ok_or(Errno::INVAL)?;
        Ok(pidfd_send_signal(&self.0, signal)?)
    }

    /// A descriptor that becomes readable when the process has ended.
    pub(crate) fn watch(&self) -> io::Result<OwnedFd> {
        self.0.try_clone()
    }

    /// Waits for the end of a child of this process, and says how it was.
    pub(crate) fn reap(&self) -> Exit {
        match waitid(WaitId::PidFd(self.0.as_fd()), WaitIdOptions::EXITED) {
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Exit::Code(code),
                (None, Some(signal)) => Exit::Signal(signal),
                _ => Exit::Code(-1),
            },
            _ => Exit::Code(-1),
        }
    }
}
