//! How runs end: in the list, also when their caller hangs up, and in the lineage, now or before
//! the next run.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use brahman_card::interface::catalog::{self, AbandonIn, AbandonedRun};
use brahman_card::interface::ingest::Run;
use brahman_sidecar::{CallOptions, Client, ClientError, chain};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::earlier::EarlierRuns;
use super::{Progress, RunList, Runs};

/// Ends of runs that the lineage has yet to be told of.
#[derive(Debug)]
pub(super) struct Ends {
    client: Client,
    untold: tokio::sync::Mutex<Vec<AbandonIn>>,
    /// Runs of earlier lives, once the catalog has named them.
    earlier: Mutex<EarlierRuns>,
}

/// The list of runs, which is whole between statements.
pub(super) fn hold(all: &RunList) -> MutexGuard<'_, VecDeque<(Run, CancellationToken)>> {
    all.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ends {
    pub(super) fn new(client: Client, earlier: EarlierRuns) -> Self {
        Self { client, untold: tokio::sync::Mutex::default(), earlier: Mutex::new(earlier) }
    }

    /// Runs of earlier lives; the list is whole between statements.
    pub(super) fn earlier(&self) -> MutexGuard<'_, EarlierRuns> {
        self.earlier.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of an end, now or before the next run.
    pub(super) async fn tell(&self, end: AbandonIn) {
        self.untold.lock().await.push(end);
        if let Err(error) = self.tell_all().await {
            tracing::warn!(
                "the end of a run will be recorded in the lineage later: {}",
                chain(&error)
            );
        }
    }

    /// Tells of all ends that could not be told before. A run begins only after that: one end means
    /// all runs that there were.
    pub(super) async fn tell_all(&self) -> Result<(), ClientError> {
        let mut untold = self.untold.lock().await;
        while let Some(end) = untold.first() {
            let ended = self
                .client
                .call_method::<catalog::method::Abandon>(end, &CallOptions::default())
                .await?
                .value;
            let end = untold.remove(0);
            if end.producer.is_some() {
                self.list(&end, ended.runs.unwrap_or_default());
            }
        }
        Ok(())
    }

    /// Lists runs that the last life was in the middle of. How far they had come nobody knows.
    fn list(&self, end: &AbandonIn, runs: Vec<AbandonedRun>) {
        let cut_off = |AbandonedRun { run_id, dataset, started_ms }| Run {
            run_id,
            dataset,
            state: "failed".to_owned(),
            rows: 0,
            bytes: 0,
            started_ms,
            seconds: 0.0,
            error: Some(end.reason.clone()),
        };
        self.earlier().add(runs.into_iter().map(cut_off));
    }
}

/// Writes a run's end into the list, also when its future is dropped.
pub(super) struct RunEnd<'a> {
    pub(super) runs: &'a Runs,
    pub(super) run_id: &'a str,
    pub(super) watching: watch::Receiver<Progress>,
    pub(super) started: Instant,
}

impl RunEnd<'_> {
    /// False if it has been written already.
    pub(super) fn with(&self, (state, error): (&str, Option<String>)) -> bool {
        let last = *self.watching.borrow();
        let mut all = self.runs.lock();
        let found =
            all.iter_mut().find(|(run, _)| run.run_id == self.run_id && run.state == "running");
        let Some((run, _)) = found else { return false };
        (run.rows, run.bytes, run.seconds) =
            (last.rows, last.bytes, self.started.elapsed().as_secs_f64());
        (run.state, run.error) = (state.to_owned(), error);
        true
    }
}

impl Drop for RunEnd<'_> {
    fn drop(&mut self) {
        // The caller hung up: nobody waits for this any more, the lineage is told all the same.
        if self.with(("cancelled", None))
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let (ends, run_id, mock) =
                (Arc::clone(&self.runs.ends), Some(self.run_id.to_owned()), Some(self.runs.mock));
            let end = AbandonIn {
                run_id,
                reason: "the caller hung up".to_owned(),
                cancelled: Some(true),
                mock,
                producer: None,
            };
            runtime.spawn(async move { ends.tell(end).await });
        }
    }
}
