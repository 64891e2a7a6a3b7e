//! sd_notify, both ways: what foreign programs tell init, and what init tells systemd.

use std::env;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram as StdDatagram};
use std::path::Path;
use std::time::Duration;

use brahman_sidecar::place::socket::{BindError, SocketFile, datagram};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::io::Interest;
use tokio::net::UnixDatagram;

/// Longest notification read; systemd's own limit.
const BYTES_MAX: usize = 4096;

/// One notification and the process that sent it, by the kernel's word.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Word {
    pub(crate) pid: u32,
    pub(crate) ready: bool,
    pub(crate) stopping: bool,
    pub(crate) status: Option<String>,
}

/// The socket foreign programs write to.
#[derive(Debug)]
pub(crate) struct Ear {
    socket: UnixDatagram,
    file: SocketFile,
}

impl Ear {
    pub(crate) fn bind(path: &Path) -> Result<Self, BindError> {
        let (socket, file) = datagram(path)?;
        let failed = |source| BindError::Io { path: path.to_owned(), source };
        rustix::net::sockopt::set_socket_passcred(&socket, true).map_err(|e| failed(e.into()))?;
        socket.set_nonblocking(true).map_err(failed)?;
        Ok(Self { socket: UnixDatagram::from_std(socket).map_err(failed)?, file })
    }

    /// Removes the socket's file.
    pub(crate) fn close(self) {
        self.file.remove();
    }

    pub(crate) async fn hear(&self) -> io::Result<Word> {
        loop {
            self.socket.readable().await?;
            let mut bytes = [0_u8; BYTES_MAX];
            let received = self.socket.try_io(Interest::READABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
                let mut ancillary = RecvAncillaryBuffer::new(&mut space);
                let message = recvmsg(
                    &self.socket,
                    &mut [IoSliceMut::new(&mut bytes)],
                    &mut ancillary,
                    RecvFlags::DONTWAIT,
                )?;
                let sender = ancillary.drain().find_map(|m| match m {
                    RecvAncillaryMessage::ScmCredentials(cred) => {
                        Some(cred.pid.as_raw_nonzero().get().cast_unsigned())
                    }
                    _ => None,
                });
                Ok((message.bytes, sender))
            });
            match received {
                Ok((n, Some(pid))) => return Ok(parse(pid, &String::from_utf8_lossy(&bytes[..n]))),
                Ok((_, None)) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn parse(pid: u32, text: &str) -> Word {
    let mut word = Word { pid, ..Word::default() };
    for line in text.lines() {
        match line.split_once('=') {
            Some(("READY", "1")) => word.ready = true,
            Some(("STOPPING", "1")) => word.stopping = true,
            Some(("STATUS", status)) => word.status = Some(status.to_owned()),
            _ => {}
        }
    }
    word
}

/// The line to systemd, if it started us.
#[derive(Debug)]
pub(crate) struct Mouth {
    socket: Option<(StdDatagram, SocketAddr)>,
}

impl Mouth {
    pub(crate) fn from_env() -> Self {
        let address = env::var_os("NOTIFY_SOCKET").filter(|v| !v.is_empty()).and_then(|path| {
            match path.as_bytes().strip_prefix(b"@") {
                Some(name) => SocketAddr::from_abstract_name(name).ok(),
                None => SocketAddr::from_pathname(Path::new(&path)).ok(),
            }
        });
        let socket = address.and_then(|address| {
            let socket = StdDatagram::unbound().ok()?;
            socket.set_nonblocking(true).ok()?;
            Some((socket, address))
        });
        Self { socket }
    }

    pub(crate) fn say(&self, text: &str) {
        if let Some((socket, address)) = &self.socket
            && let Err(error) = socket.send_to_addr(text.as_bytes(), address)
        {
            tracing::warn!(%error, "systemd did not take `{text}`");
        }
    }

    /// How often systemd wants a sign of life, halved.
    pub(crate) fn watchdog() -> Option<Duration> {
        let us: u64 = env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
        (us > 0).then(|| Duration::from_micros(us / 2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notification_may_say_several_things() {
        let word = parse(7, "STATUS=loading 3/4\nREADY=1\nX_OTHER=1");
        assert_eq!(
            word,
            Word { pid: 7, ready: true, stopping: false, status: Some("loading 3/4".into()) }
        );
    }
}
