//! What the broker knows: init's table and the context, as one value that is replaced whole.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use brahman_card::ModuleRecord;
use brahman_card::clock::now_ms;
use brahman_card::interface::Empty;
use brahman_card::interface::init::{WatchOut, method};
use brahman_sidecar::client::encode_method;
use brahman_sidecar::{Backoff, CallOptions, ClientError, Connection, chain};
use tokio::sync::watch;

/// Pauses between attempts to reach init again.
const PAUSES: Backoff = Backoff::doubling(Duration::from_millis(2), Duration::from_millis(500));

/// One state of the mesh.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) modules: Vec<ModuleRecord>,
    pub(crate) context: Option<String>,
    /// Grows with every change of modules or context, over broker restarts too: it starts at the
    /// wall clock.
    pub(crate) generation: u64,
    pub(crate) received: Instant,
}

impl Table {
    pub(crate) fn empty(context: Option<String>) -> Self {
        Self { modules: Vec::new(), context, generation: now_ms(), received: Instant::now() }
    }
}

/// Follows init's `Watch` for ever. While init is away the last table stands.
pub(crate) async fn follow(init: PathBuf, table: watch::Sender<Arc<Table>>) {
    let mut pauses = PAUSES;
    loop {
        let watching = async {
            let mut connection = Connection::connect(&init).await?;
            connection
                .send(&encode_method::<method::Watch>(
                    &Empty {},
                    &CallOptions::default(),
                    true,
                    false,
                )?)
                .await?;
            loop {
                let word: WatchOut = connection.receive().await?.typed()?.value;
                pauses.reset();
                table.send_modify(|now| {
                    let next = Table {
                        modules: word.modules,
                        generation: now.generation + 1,
                        received: Instant::now(),
                        context: now.context.clone(),
                    };
                    *now = Arc::new(next);
                });
            }
        };
        let ended: Result<(), ClientError> = watching.await;
        if let Err(error) = ended {
            tracing::warn!("init's watch ended: {}", chain(&error));
        }
        pauses.wait().await;
    }
}

/// The context set by hand, kept beside the socket so that the broker's own death does not undo it.
#[derive(Debug)]
pub(crate) struct ContextFile(pub(crate) PathBuf);

impl ContextFile {
    /// What was set last, if anything was: the outer `None` means nobody set one.
    pub(crate) fn read(&self) -> Option<Option<String>> {
        let text = std::fs::read_to_string(&self.0).ok()?;
        let name = text.trim_end_matches('\n');
        Some((!name.is_empty()).then(|| name.to_owned()))
    }

    pub(crate) fn write(&self, context: Option<&str>) -> std::io::Result<()> {
        let other = |found: std::fs::Metadata| !found.is_file();
        if std::fs::symlink_metadata(&self.0).is_ok_and(other) {
            return Err(std::io::Error::new(
                std::io::ErrorKind::AlreadyExists,
                format!("{} is not a regular file", self.0.display()),
            ));
        }
        let temporary = self.0.with_extension("tmp");
        let mut options = std::fs::OpenOptions::new();
        options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed());
        let mut file = options.open(&temporary)?;
        file.write_all(format!("{}\n", context.unwrap_or_default()).as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, &self.0)
    }
}
