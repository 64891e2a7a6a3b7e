//! Where others want the core, nobody polls. Apart from the other tests, for it holds for a whole process.

use std::time::Duration;

use brahman_card::wire::frame::FrameBuffer;
use brahman_sidecar::serve::Wait;
use tokio::net::UnixStream;

const SOON: Duration = Duration::from_secs(60);

#[tokio::test]
async fn who_had_to_wait_for_a_turn_sleeps_from_then_on() {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let mut frames = FrameBuffer::nul();
    let mut wait = Wait::new(SOON);
    assert!(!wait.poll(&ours, &mut frames).await);
    wait.over();
    // This thread has one core; whoever works on it for long is a crowd.
    let work = tokio::spawn(async { std::thread::sleep(Duration::from_millis(5)) });
    assert!(!wait.poll(&ours, &mut frames).await, "polled on");
    work.await.expect("no panic");
    wait.over();
    theirs.try_write(b"{}\0").expect("written");
    assert!(!wait.poll(&ours, &mut frames).await, "polled again at once");
}
