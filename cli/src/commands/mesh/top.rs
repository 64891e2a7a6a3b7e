//! `brahman top`: the mesh as it is, live, on a whole screen; as lines for scripts; as one table
//! where there is no screen.
//!
//! What is known is in [`facts`], what is looked at in [`model`], and how it looks in [`screen`]:
//! all of them pure. Around them, [`feed`] asks the mesh and [`keys`] has the terminal.

mod facts;
mod feed;
mod keys;
mod model;
mod screen;
mod tables;

use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::time::Duration;

use ratatui::crossterm::event::{Event, KeyEventKind};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::status::{read_status, scripted, show_status};
use crate::output::{Output, one_line};
use facts::{News, View};
use feed::{NEWS_WAITING, NewsFeed};
use keys::{Display, KEYS_WAITING, KeyReader};
use model::{Model, Step};
use screen::Screen;

/// Time between two pictures at least: what changes faster, nobody reads.
const PICTURE_PAUSE: Duration = Duration::from_millis(40);

/// Shows the mesh until a key, Ctrl-C, SIGTERM or SIGHUP ends it; with --json a line each time, and
/// without a terminal one table.
pub(crate) async fn top(socket: &Path, every: u64, output: &Output) -> anyhow::Result<()> {
    let every = Duration::from_secs(every);
    // Whoever ends it so gets his own screen back, too.
    let mut terminated = signal(SignalKind::terminate())?;
    let mut hung_up = signal(SignalKind::hangup())?;
    let work = async {
        if output.json() {
            return lines(socket, every, output).await;
        }
        match is_screen(io::stdout().is_terminal(), std::env::var_os("TERM")).then(Display::open) {
            Some(Ok(display)) => screen(display, socket, every, output).await,
            // No terminal, or one that has no screen to be had.
            Some(Err(_)) | None => {
                show_status(&read_status(socket).await?, socket, output);
                Ok(())
            }
        }
    };
    tokio::select! {
        outcome = work => outcome,
        _ = tokio::signal::ctrl_c() => Ok(()),
        _ = terminated.recv() => Ok(()),
        _ = hung_up.recv() => Ok(()),
    }
}

/// Whether there is a terminal that can do more than print.
fn is_screen(is_terminal: bool, term: Option<OsString>) -> bool {
    is_terminal && term.is_some_and(|term| !term.is_empty() && term != "dumb")
}

/// The status for scripts, a line each time.
async fn lines(socket: &Path, every: Duration, output: &Output) -> anyhow::Result<()> {
    let mut beats = tokio::time::interval(every);
    loop {
        beats.tick().await;
        output.print_json(&scripted(&read_status(socket).await?)?);
    }
}

async fn screen(
    mut display: Display,
    socket: &Path,
    every: Duration,
    output: &Output,
) -> anyhow::Result<()> {
    let (said, mut keys) = mpsc::channel(KEYS_WAITING);
    let _reader = KeyReader::start(said)?;
    let (told, mut news) = mpsc::channel(NEWS_WAITING);
    let (looked_at, views) = watch::channel(View::default());
    let (followed, labels) = watch::channel(None);
    let feed = NewsFeed::new(socket, every, told);
    let mut model = Model::new(one_line(&socket.display().to_string()), output.colour());
    let shown = async {
        let mut next_picture = Some(Instant::now());
        loop {
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(next_picture.unwrap_or_else(Instant::now)),
                    if next_picture.is_some() =>
                {
                    display.terminal.draw(|frame| {
                        model.resize(frame.area());
                        frame.render_widget(Screen(&model), frame.area());
                    })?;
                    next_picture = None;
                    continue;
                }
                event = keys.recv() => match event {
                    Some(Event::Key(key)) if key.kind != KeyEventKind::Release => {
                        match model.key(key) {
                            Step::Quit => return Ok::<(), io::Error>(()),
                            Step::Suspend => display.suspend().await?,
                            Step::Stay => {}
                        }
                        looked_at.send_if_modified(|view| replaced(view, model.view()));
                        followed.send_if_modified(|label: &mut Option<String>| {
                            replaced(label, model.followed().map(str::to_owned))
                        });
                    }
                    Some(_) => {}
                    // The terminal is gone.
                    None => return Ok(()),
                },
                Some(said) = news.recv() => take_all(&mut model, said, &mut news),
            }
            // What comes within a picture's time is shown with the next.
            next_picture = next_picture.or_else(|| Some(Instant::now() + PICTURE_PAUSE));
        }
    };
    tokio::select! {
        () = feed.run(views, labels) => Ok(()),
        outcome = shown => {
            // What a terminal did not take is lost, as anything that is printed.
            if let Err(error) = outcome {
                output.lose(error);
            }
            Ok(())
        }
    }
}

/// Takes what has come by now: a log that grows by the line is drawn once.
fn take_all(model: &mut Model, first: News, news: &mut mpsc::Receiver<News>) {
    model.take(first);
    for _ in 0..NEWS_WAITING {
        let Ok(more) = news.try_recv() else { return };
        model.take(more);
    }
}

/// Puts a value in place of another, and says whether it is a different one.
fn replaced<T: PartialEq>(old: &mut T, new: T) -> bool {
    let is_new = *old != new;
    *old = new;
    is_new
}

#[cfg(test)]
mod tests;
