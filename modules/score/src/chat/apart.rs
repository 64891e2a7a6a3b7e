//! Chat templates run in a process of their own, whose memory and time end where they are set.
//!
//! A template comes with a call, or with a model's folder. The interpreter bounds its steps and its
//! output, but a text that is doubled thirty times, a list that holds itself twice, or a product of
//! two constants takes few steps and gigabytes, or hours: only the kernel bounds those. One helper,
//! a second process of the same program, runs one template after the other; what its limits have
//! ended is replaced at the next run.
//!
//! Invariants: what a run takes is never taken from this process; a helper ends with the process
//! that started it, for nobody writes to it any more; a helper without its limits runs nothing. A
//! program that has not named itself (a test, a benchmark) runs templates as they are.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, ExitStatus, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use nix::sys::signal::Signal;
use serde_json::Value;
use thiserror::Error;

use super::render::{self, Recipe, Rendering};

/// Address space of a helper: fifteen times the longest conversation, which is there as JSON, as
/// values, and as the text made of it.
pub(super) const MEMORY_BYTES_MAX: u64 = 1 << 30;
/// Seconds of a processor for one run: ten times what all its steps take if none is long.
pub(super) const SECONDS_MAX: u64 = 10;
/// The argument by which a program is told to be a helper.
pub const COMMAND: &str = "__render";

/// What became of a helper.
#[derive(Debug, Error)]
pub enum HelperError {
    /// It ran into the bound of its memory.
    #[error("it took more memory than it may")]
    TooMuchMemory,
    /// It ran into the bound of its time.
    #[error("it took longer than it may")]
    TooSlow,
    /// It did not start, or could not be asked.
    #[error("the process that runs templates")]
    Io(#[from] io::Error),
    /// It ended by itself, or was ended.
    #[error("the process that runs templates ended with {0}")]
    Ended(ExitStatus),
    /// It said something else than an answer, or could not be told.
    #[error("what is said to the process that runs templates, or by it")]
    Malformed(#[from] serde_json::Error),
}

/// The one helper of this process.
static HELPER: OnceLock<Mutex<Helper>> = OnceLock::new();

/// From here on templates are run by a second process of this program, which is started by the
/// first of them with [`COMMAND`] as its argument and then calls [`serve`]. Who is named first
/// stays.
pub fn use_program(program: &Path) {
    let _first = HELPER.set(Mutex::new(Helper { program: program.to_owned(), process: None }));
}

/// Runs a template: apart, if a program is named for that.
pub(super) fn run(recipe: &Recipe, messages: Vec<Value>) -> Result<Rendering, HelperError> {
    match HELPER.get() {
        Some(helper) => {
            helper.lock().unwrap_or_else(PoisonError::into_inner).run(recipe, &messages)
        }
        None => Ok(render::run(recipe, messages)),
    }
}

/// Who runs templates, one after the other.
#[derive(Debug)]
struct Helper {
    program: PathBuf,
    /// None before the first run, and after one that its limits ended.
    process: Option<HelperProcess>,
}

impl Helper {
    fn run(&mut self, recipe: &Recipe, messages: &[Value]) -> Result<Rendering, HelperError> {
        let mut order = serde_json::to_vec(&(recipe, messages))?;
        order.push(b'\n');
        // One that was ended between two runs has nothing to do with this one.
        let standing = self.process.take().and_then(HelperProcess::alive);
        let mut process = standing.map_or_else(|| HelperProcess::start(&self.program), Ok)?;
        match process.ask(&order) {
            Ok(rendering) => {
                self.process = Some(process);
                Ok(rendering)
            }
            Err(error) => Err(process.end(error)),
        }
    }
}

/// A helper that has been started.
#[derive(Debug)]
struct HelperProcess {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl HelperProcess {
    fn start(program: &Path) -> Result<Self, HelperError> {
        let mut child = Command::new(program)
            .arg(COMMAND)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(input), Some(output)) => {
                Ok(Self { child, input, output: BufReader::new(output) })
            }
            _ => Err(io::Error::from(io::ErrorKind::BrokenPipe).into()),
        }
    }

    /// Itself, if it has not ended.
    fn alive(mut self) -> Option<Self> {
        matches!(self.child.try_wait(), Ok(None)).then_some(self)
    }

    fn ask(&mut self, order: &[u8]) -> Result<Rendering, HelperError> {
        self.input.write_all(order)?;
        self.input.flush()?;
        let mut answer = Vec::new();
        self.output.read_until(b'\n', &mut answer)?;
        if answer.last() != Some(&b'\n') {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        Ok(serde_json::from_slice(&answer)?)
    }

    /// Why it did not answer, as its end tells.
    fn end(mut self, error: HelperError) -> HelperError {
        let has_ended = |error: &io::Error| {
            matches!(
                error.kind(),
                io::ErrorKind::UnexpectedEof
                    | io::ErrorKind::BrokenPipe
                    | io::ErrorKind::ConnectionReset
            )
        };
        match error {
            HelperError::Io(error) if has_ended(&error) => match self.child.wait() {
                Ok(status) => ended(status),
                Err(error) => error.into(),
            },
            error => {
                let _gone_already = self.child.kill();
                let _reaped = self.child.wait();
                error
            }
        }
    }
}

/// What an end says. Memory that is not to be had aborts; a stack that cannot grow is a violation.
fn ended(status: ExitStatus) -> HelperError {
    match status.signal().map(Signal::try_from) {
        Some(Ok(Signal::SIGABRT | Signal::SIGSEGV | Signal::SIGBUS)) => HelperError::TooMuchMemory,
        Some(Ok(Signal::SIGXCPU)) => HelperError::TooSlow,
        _ => HelperError::Ended(status),
    }
}

/// The helper's own life: runs what it is told, line by line, until nobody tells it anything any
/// more.
#[must_use]
pub fn serve() -> ExitCode {
    let served = bound_memory().map_err(io::Error::from).and_then(|()| {
        let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
        loop {
            let mut order = Vec::new();
            if input.read_until(b'\n', &mut order)? == 0 {
                return Ok(());
            }
            bound_time()?;
            let (recipe, messages): (Recipe, Vec<Value>) = serde_json::from_slice(&order)?;
            drop(order);
            let mut answer = serde_json::to_vec(&render::run(&recipe, messages))?;
            answer.push(b'\n');
            output.write_all(&answer)?;
            output.flush()?;
        }
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _nobody_reads = writeln!(io::stderr(), "templates are run no longer: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Of its memory nothing is kept when it ends.
fn bound_memory() -> nix::Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_AS)?;
    let bytes = MEMORY_BYTES_MAX.min(most);
    setrlimit(Resource::RLIMIT_AS, bytes, bytes)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)
}

/// From now on. The kernel counts what a process has taken since it began.
fn bound_time() -> nix::Result<()> {
    let taken = getrusage(UsageWho::RUSAGE_SELF)?;
    let taken =
        u64::try_from(taken.user_time().tv_sec() + taken.system_time().tv_sec()).unwrap_or(0);
    let (_, most) = getrlimit(Resource::RLIMIT_CPU)?;
    setrlimit(Resource::RLIMIT_CPU, taken.saturating_add(SECONDS_MAX).min(most), most)
}
