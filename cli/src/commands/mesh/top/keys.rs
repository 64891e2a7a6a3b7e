//! The terminal: keys and changes of its size as they come, and its former state at the end, and
//! while the program is stopped.
//!
//! Invariant: whatever ends the program but a kill, the terminal is given back as it was: by the
//! end of [`Display`], or by the panic's hook.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{EnterAlternateScreen, enable_raw_mode};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

/// Keys that may wait while a screen is drawn; what comes beyond is forgotten.
pub(super) const KEYS_WAITING: usize = 32;
/// How long the reader waits for a key before it looks whether it is to end.
const KEY_WAIT: Duration = Duration::from_millis(100);

/// How long it may take until this process has been stopped and goes on, not counting the time in
/// which it is stopped: it never is where there is no shell that could have it go on.
const STOP_WAIT: Duration = Duration::from_millis(200);

/// The whole terminal, for as long as this lives.
#[derive(Debug)]
pub(super) struct Display {
    pub(super) terminal: DefaultTerminal,
}

impl Display {
    /// Takes the terminal.
    ///
    /// # Errors
    /// If it has no modes to be changed, as one that nobody sits at.
    pub(super) fn open() -> io::Result<Self> {
        match ratatui::try_init() {
            Ok(terminal) => Ok(Self { terminal }),
            Err(error) => {
                // Half of it may have been done. That it cannot be undone says nothing new.
                let _ = ratatui::try_restore();
                Err(error)
            }
        }
    }

    /// Gives the terminal back and stops, as Ctrl-Z stops what does not take it for a key: all of
    /// the shell's job, for whoever waits for this process is part of it. Then takes it again.
    ///
    /// # Errors
    /// If the terminal has gone.
    pub(super) async fn suspend(&mut self) -> io::Result<()> {
        let mut continued = signal(SignalKind::from_raw(Signal::SIGCONT as i32))?;
        self.terminal.show_cursor()?;
        ratatui::try_restore()?;
        kill(Pid::from_raw(0), Signal::SIGTSTP)?;
        // Another thread may be the one that takes the signal, a moment later.
        let _ = tokio::time::timeout(STOP_WAIT, continued.recv()).await;
        enable_raw_mode()?;
        execute!(io::stdout(), EnterAlternateScreen)?;
        // The size may be another one by now, and nothing of what was drawn is there. It is not
        // cleared by `clear`, which asks the terminal where the cursor is, and would wait for the
        // thread that reads keys.
        let size = self.terminal.size()?;
        self.terminal.resize(size.into())
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        // A terminal that has gone is in no need of it.
        let _ = ratatui::try_restore();
    }
}

/// A thread that reads keys: the terminal is asked in a way that blocks.
#[derive(Debug)]
pub(super) struct KeyReader {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl KeyReader {
    /// Reads until this is dropped, nobody takes the keys any more, or the terminal is gone.
    ///
    /// # Errors
    /// If no thread can be started.
    pub(super) fn start(keys: mpsc::Sender<Event>) -> io::Result<Self> {
        let is_over = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&is_over);
        let thread = std::thread::Builder::new()
            .name("keys".to_owned())
            .spawn(move || read_keys(&keys, &seen))?;
        Ok(Self { is_over, thread: Some(thread) })
    }
}

impl Drop for KeyReader {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Its panic was told when it happened.
            let _ = thread.join();
        }
    }
}

fn read_keys(keys: &mpsc::Sender<Event>, is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) {
        match event::poll(KEY_WAIT) {
            Ok(false) => {}
            Ok(true) => {
                let Ok(event) = event::read() else { return };
                if let Err(TrySendError::Closed(_)) = keys.try_send(event) {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}
