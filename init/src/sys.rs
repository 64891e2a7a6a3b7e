//! The one file with unsafe code: descriptors that come and go by number.
//!
//! Used between fork and the module's own program alone, in a fresh process with one thread.
#![expect(
    unsafe_code,
    reason = "a descriptor that was inherited is known by its number alone; there is no safe way to close one"
)]

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::{Errno, FdFlags, dup2, fcntl_dupfd_cloexec, fcntl_setfd};

/// Where a listening socket is looked for, by `sd_listen_fds(3)`.
const LISTEN_FDS_START: RawFd = 3;

/// Makes `listener` descriptor 3 and those that are given by their numbers the ones after it,
/// whatever was there, and lets nothing above them reach the next program: what started init may
/// have leaked descriptors to it.
pub(crate) fn hand_over(listener: BorrowedFd<'_>, also: &[RawFd]) -> io::Result<()> {
    let end = also.iter().fold(LISTEN_FDS_START + 1, |end, _| end + 1);
    // Out of the way of the places that are to be filled.
    let mut copies = vec![fcntl_dupfd_cloexec(listener, end)?];
    for number in also {
        // SAFETY: borrowed for this one call; a number that is not open is refused by the kernel.
        let descriptor = unsafe { BorrowedFd::borrow_raw(*number) };
        copies.push(fcntl_dupfd_cloexec(descriptor, end)?);
    }
    for (place, copy) in (LISTEN_FDS_START..end).zip(&copies) {
        // SAFETY: nothing in this process owns what has this number, if it is open at all; it is
        // let go of below, and not closed.
        let mut target = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(place) });
        dup2(copy, &mut target)?;
    }
    for number in open_descriptors()?.into_iter().filter(|number| *number >= end) {
        // SAFETY: borrowed for this one call; a number that was closed since it was listed is
        // refused by the kernel.
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
