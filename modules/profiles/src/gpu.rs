//! Graphics processors by NVML: one handle, on a thread of its own, and an answer in two seconds
//! whatever the driver does.
//!
//! NVML's library is loaded at run time: where there is none there is no GPU, which is an answer
//! and no error. Invariants: at most one question is with the driver and one waits; who asks while
//! it hangs is told so at once; nothing that a driver says is added up unchecked.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nvml_wrapper::Nvml;
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use thiserror::Error;
use tokio::sync::oneshot;

/// How long an answer may take: NVML's come in milliseconds, the first in a second where a driver
/// has to be woken up.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// How often is looked whether another's question has been taken: NVML answers in milliseconds.
const TURN_EVERY: Duration = Duration::from_millis(5);
/// Graphics processors that are looked at: more than any machine has.
const GPUS_MAX: u32 = 64;
const MIB: u64 = 1 << 20;

/// A graphics processor, and what each process holds of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GpuReading {
    /// NVML's number, which need not be CUDA's.
    pub index: u32,
    /// By which it is told from others, whatever the order.
    pub uuid: String,
    /// The maker's name for it.
    pub name: String,
    /// All of its memory.
    pub total_mib: u64,
    /// In use by anybody.
    pub used_mib: u64,
    /// In use by nobody.
    pub free_mib: u64,
    /// Per cent of the last moments in which it was computing.
    pub utilisation: u32,
    /// What processes hold there, where the driver tells.
    pub processes: BTreeMap<u32, Option<u64>>,
}

/// Why nothing is known of graphics processors.
#[derive(Debug, Error)]
pub enum GpuError {
    /// There is no library, which means no driver, which means no GPU.
    #[error("no GPU: NVML's library cannot be loaded")]
    NoLibrary(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It is there and will not work.
    #[error("NVML does not answer as it should")]
    Failed(#[source] NvmlError),
    /// It does not answer at all.
    #[error("NVML has not answered for {seconds} s: the driver hangs")]
    Hanging {
        /// Since it was asked.
        seconds: u64,
    },
    /// The thread that asks it has ended.
    #[error("the thread that asks NVML has ended")]
    Ended,
}

/// What is asked: NVML, or a stand-in of a test.
pub trait GpuSource: Send + 'static {
    /// All graphics processors as they are now. It may take for ever.
    ///
    /// # Errors
    /// [`GpuError`].
    fn read(&mut self) -> Result<Vec<GpuReading>, GpuError>;
}

/// NVML itself, by the one handle.
#[derive(Default)]
pub struct NvmlSource {
    library: Option<OsString>,
    handle: Option<Nvml>,
}

impl fmt::Debug for NvmlSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NvmlSource")
            .field("library", &self.library)
            .field("is_open", &self.handle.is_some())
            .finish()
    }
}

impl NvmlSource {
    /// By a library's path, or by the name that drivers install it under.
    #[must_use]
    pub fn new(library: Option<OsString>) -> Self {
        Self { library, handle: None }
    }

    fn open(&self) -> Result<Nvml, NvmlError> {
        match &self.library {
            Some(library) => Nvml::builder().lib_path(library).init(),
            None => Nvml::init(),
        }
    }
}

impl GpuSource for NvmlSource {
    fn read(&mut self) -> Result<Vec<GpuReading>, GpuError> {
        let nvml = match self.handle.take() {
            Some(nvml) => nvml,
            None => self.open().map_err(|error| match error {
                // The loader's own words, which name the file and what is wrong with it.
                NvmlError::LibloadingError(cause) => GpuError::NoLibrary(cause.into()),
                NvmlError::LibraryNotFound | NvmlError::DriverNotLoaded => {
                    GpuError::NoLibrary(error.into())
                }
                other => GpuError::Failed(other),
            })?,
        };
        // Without its handle again after a failure: a driver that was replaced is opened anew.
        let gpus = all(&nvml).map_err(GpuError::Failed)?;
        self.handle = Some(nvml);
        Ok(gpus)
    }
}

fn all(nvml: &Nvml) -> Result<Vec<GpuReading>, NvmlError> {
    (0..nvml.device_count()?.min(GPUS_MAX)).map(|index| one(nvml, index)).collect()
}

fn one(nvml: &Nvml, index: u32) -> Result<GpuReading, NvmlError> {
    let device = nvml.device_by_index(index)?;
    let memory = device.memory_info()?;
    let mut processes: BTreeMap<u32, Option<u64>> = BTreeMap::new();
    // What a driver will not tell of processes is not known, and the rest is.
    for process in device.running_compute_processes().unwrap_or_default() {
        let mib = match process.used_gpu_memory {
            UsedGpuMemory::Used(bytes) => Some(bytes / MIB),
            UsedGpuMemory::Unavailable => None,
        };
        processes.insert(process.pid, mib);
    }
    Ok(GpuReading {
        index,
        uuid: device.uuid()?,
        name: device.name().unwrap_or_default(),
        total_mib: memory.total / MIB,
        used_mib: memory.used / MIB,
        free_mib: memory.free / MIB,
        utilisation: device.utilization_rates().map_or(0, |rates| rates.gpu.min(100)),
        processes,
    })
}

type Question = oneshot::Sender<Result<Vec<GpuReading>, GpuError>>;

/// Asks on a thread of its own.
#[derive(Debug)]
pub struct GpuWatch {
    questions: SyncSender<Question>,
    /// When the question was asked to which there is no answer yet.
    open: Arc<Mutex<Option<Instant>>>,
    patience: Duration,
}

impl GpuWatch {
    /// Starts the thread; nothing is asked yet.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(source: impl GpuSource) -> std::io::Result<Self> {
        Self::with_patience(source, PATIENCE)
    }

    fn with_patience(mut source: impl GpuSource, patience: Duration) -> std::io::Result<Self> {
        let (questions, asked) = sync_channel::<Question>(1);
        let open = Arc::new(Mutex::new(None));
        let answered = Arc::clone(&open);
        // Never joined: a driver that hangs would hold up the end of this process.
        std::thread::Builder::new().name("nvml".to_owned()).spawn(move || {
            while let Ok(question) = asked.recv() {
                *answered.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
                let answer = source.read();
                *answered.lock().unwrap_or_else(PoisonError::into_inner) = None;
                // Whoever asked may have given up.
                let _ = question.send(answer);
            }
        })?;
        Ok(Self { questions, open, patience })
    }

    /// For how long the driver has owed an answer, if that is longer than it may take.
    fn hangs(&self) -> Option<GpuError> {
        let since = (*self.open.lock().unwrap_or_else(PoisonError::into_inner))?;
        let elapsed = since.elapsed();
        (elapsed >= self.patience).then_some(GpuError::Hanging { seconds: elapsed.as_secs() })
    }

    /// All graphics processors as they are now, within [`PATIENCE`].
    ///
    /// # Errors
    /// [`GpuError`].
    pub async fn read(&self) -> Result<Vec<GpuReading>, GpuError> {
        let until = tokio::time::Instant::now() + self.patience;
        let (mut question, answer) = oneshot::channel();
        loop {
            if let Some(hangs) = self.hangs() {
                return Err(hangs);
            }
            question = match self.questions.try_send(question) {
                Ok(()) => break,
                // Another waits already, which says nothing of the driver.
                Err(TrySendError::Full(question)) if tokio::time::Instant::now() < until => {
                    question
                }
                Err(TrySendError::Full(_)) => {
                    return Err(GpuError::Hanging { seconds: self.patience.as_secs() });
                }
                Err(TrySendError::Disconnected(_)) => return Err(GpuError::Ended),
            };
            tokio::time::sleep(TURN_EVERY).await;
        }
        match tokio::time::timeout_at(until, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(GpuError::Ended),
            Err(_) => Err(GpuError::Hanging { seconds: self.patience.as_secs() }),
        }
    }
}

/// The UUID of the graphics processor that a program means by CUDA's number: that in its
/// `CUDA_VISIBLE_DEVICES`, if it has one, else NVML's, for both are in the order of the bus where
/// there is one kind only. None if it means none of these.
#[must_use]
pub fn uuid_of(number: u32, visible: Option<&str>, gpus: &[GpuReading]) -> Option<String> {
    let at = usize::try_from(number).ok()?;
    let Some(visible) = visible.filter(|visible| !visible.trim().is_empty()) else {
        return gpus.iter().find(|gpu| gpu.index == number).map(|gpu| gpu.uuid.clone());
    };
    let wanted = visible.split(',').map(str::trim).nth(at)?;
    let gpu = match wanted.parse::<u32>() {
        Ok(index) => gpus.iter().find(|gpu| gpu.index == index),
        // A UUID may be cut short where that is still one GPU's alone.
        Err(_) => gpus.iter().find(|gpu| !wanted.is_empty() && gpu.uuid.starts_with(wanted)),
    };
    gpu.map(|gpu| gpu.uuid.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers with what it is sent, or waits for that.
    struct Script(std::sync::mpsc::Receiver<Result<Vec<GpuReading>, GpuError>>);

    impl GpuSource for Script {
        fn read(&mut self) -> Result<Vec<GpuReading>, GpuError> {
            self.0.recv().unwrap_or(Err(GpuError::Ended))
        }
    }

    fn gpu(index: u32) -> GpuReading {
        GpuReading { index, uuid: format!("GPU-{index}{index}"), ..GpuReading::default() }
    }

    #[tokio::test]
    async fn without_a_library_there_is_no_gpu_and_that_is_said() {
        let watch =
            GpuWatch::start(NvmlSource::new(Some("/no/such/library.so".into()))).expect("a thread");
        for _ in 0..3 {
            let why = watch.read().await.expect_err("no library");
            assert!(matches!(why, GpuError::NoLibrary(_)), "{why}");
            let said = brahman_sidecar::chain(&why);
            assert!(said.contains("no GPU") && said.contains("/no/such/library.so"), "{said}");
            assert!(!said.contains("libloading"), "{said}");
        }
    }

    #[tokio::test]
    async fn a_driver_that_hangs_is_an_answer_in_time_and_after_that_at_once() {
        let (say, script) = std::sync::mpsc::channel();
        let patience = Duration::from_millis(50);
        let watch = GpuWatch::with_patience(Script(script), patience).expect("a thread");
        let begun = Instant::now();
        assert!(matches!(watch.read().await, Err(GpuError::Hanging { .. })));
        assert!(begun.elapsed() >= patience);
        let again = Instant::now();
        for _ in 0..100 {
            assert!(matches!(watch.read().await, Err(GpuError::Hanging { .. })));
        }
        assert!(
            again.elapsed() < 20 * patience,
            "a hundred questions wait for nobody: {:?}",
            again.elapsed()
        );
        // It answers after all, and is asked again.
        for _ in 0..3 {
            say.send(Ok(vec![gpu(0)])).expect("the thread is there");
        }
        let told = loop {
            match watch.read().await {
                Ok(told) => break told,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        assert_eq!(told.len(), 1);
    }

    #[tokio::test]
    async fn several_that_ask_at_once_are_answered_one_after_the_other() {
        let (say, script) = std::sync::mpsc::channel();
        let watch = Arc::new(GpuWatch::start(Script(script)).expect("a thread"));
        let asked = [0; 4].map(|_| {
            let watch = Arc::clone(&watch);
            tokio::spawn(async move { watch.read().await })
        });
        // All of them have asked by then, and one question alone may wait.
        tokio::task::yield_now().await;
        for _ in 0..4 {
            say.send(Ok(vec![gpu(0)])).expect("the thread is there");
        }
        for task in asked {
            let outcome = task.await.expect("no panic");
            assert!(outcome.is_ok(), "{outcome:?}");
        }
    }

    #[tokio::test]
    async fn what_a_driver_says_is_passed_on_be_it_an_error() {
        let (say, script) = std::sync::mpsc::channel();
        let watch = GpuWatch::start(Script(script)).expect("a thread");
        say.send(Ok(vec![gpu(0), gpu(1)])).expect("sent");
        assert_eq!(watch.read().await.expect("told").len(), 2);
        say.send(Err(GpuError::Failed(NvmlError::GpuLost))).expect("sent");
        assert!(
            brahman_card::chain(&watch.read().await.expect_err("lost"))
                .contains("NVML does not answer as it should")
        );
    }

    #[test]
    fn a_gpu_is_found_by_what_the_program_sees_and_not_by_its_number() {
        let gpus = [gpu(0), gpu(1), gpu(2)];
        let of = |number, visible| uuid_of(number, visible, &gpus);
        assert_eq!(
            (of(1, None), of(1, Some(" "))),
            (Some("GPU-11".to_owned()), Some("GPU-11".to_owned()))
        );
        assert_eq!(
            (of(0, Some("2,0")), of(1, Some("2, 0"))),
            (Some("GPU-22".to_owned()), Some("GPU-00".to_owned()))
        );
        assert_eq!(of(0, Some("GPU-1")), Some("GPU-11".to_owned()));
        assert_eq!(
            (of(1, Some("0")), of(7, None), of(0, Some("GPU-9")), of(0, Some("-1"))),
            (None, None, None, None)
        );
    }
}
