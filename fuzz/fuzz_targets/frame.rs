//! Any bytes in any pieces: the frame reader and the header skimmer neither panic nor lose a byte.

#![no_main]

use brahman_card::interface::index::SearchIn;
use brahman_card::wire::frame::FrameBuffer;
use brahman_card::wire::header::{CallHeader, ReplyHeader};
use brahman_card::wire::parameters;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((cut, bytes)) = data.split_first() else { return };
    let (mut whole, mut pieces) = (FrameBuffer::with_max(512), FrameBuffer::with_max(512));
    let mut frames = [Vec::new(), Vec::new()];
    let mut ended = [false, false];
    whole.push(bytes);
    drain(&mut whole, &mut frames[0], &mut ended[0]);
    for piece in bytes.chunks(usize::from(*cut).max(1)) {
        if !ended[1] {
            pieces.push(piece);
            drain(&mut pieces, &mut frames[1], &mut ended[1]);
        }
    }
    // An endless message may be noticed earlier or later; what came whole before it is the same.
    let n = frames[0].len().min(frames[1].len());
    assert_eq!(frames[0][..n], frames[1][..n]);
    assert!(ended[0] || ended[1] || frames[0].len() == frames[1].len());
    // The quick reader of vectors gives what the general one gives, and takes nothing that it
    // refuses.
    let general: Result<SearchIn, _> = parameters::read(data);
    assert_eq!(SearchIn::read(data).ok(), general.ok());
});

fn drain(buffer: &mut FrameBuffer, frames: &mut Vec<Vec<u8>>, ended: &mut bool) {
    loop {
        match buffer.next_frame() {
            Ok(Some(frame)) => {
                let _ = CallHeader::skim(frame);
                let _ = ReplyHeader::skim(frame);
                frames.push(frame.to_vec());
            }
            Ok(None) => return,
            Err(_) => {
                *ended = true;
                return;
            }
        }
    }
}
