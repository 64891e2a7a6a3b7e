//! The one file with unsafe code: descriptors that come and go by number.
//!
//! Used between fork and the module's own program alone, in a fresh process with one thread.
#![expect(unsafe_code, reason = "a descriptor that was inherited is known by its number alone; there is no safe way to close one")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use rustix::io::{Errno, FdFlags, dup2, fcntl_dupfd_cloexec, fcntl_setfd};

/// Where a listening socket is looked for, by `sd_listen_fds(3)`.
const LISTEN_FDS_START: RawFd = 3;

/// Makes `listener` descriptor 3, whatever was there, and lets nothing above it reach the next program: what started
/// init may have leaked descriptors to it.
pub(crate) fn hand_over(listener: BorrowedFd<'_>) -> io::Result<()> {
    // The lowest free number from 3 on: usually 3 itself.
    let copy = fcntl_dupfd_cloexec(listener, LISTEN_FDS_START)?;
    if copy.as_raw_fd() == LISTEN_FDS_START {
        fcntl_setfd(&copy, FdFlags::empty())?;
        let _ = copy.into_raw_fd();
    } else {
        // SAFETY: 3 is open, or the copy would have taken it; nothing in this process owns it, and it is let go of below.
        let mut third = unsafe { OwnedFd::from_raw_fd(LISTEN_FDS_START) };
        dup2(listener, &mut third)?;
        let _ = third.into_raw_fd();
    }
    for number in open_descriptors()?.into_iter().filter(|number| *number > LISTEN_FDS_START) {
        // SAFETY: borrowed for this one call; a number that was closed since it was listed is refused by the kernel.
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        match fcntl_setfd(descriptor, FdFlags::CLOEXEC) {
            Ok(()) | Err(Errno::BADF) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn open_descriptors() -> io::Result<Vec<RawFd>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        numbers.extend(entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()));
    }
    Ok(numbers)
}
