//! Ranges copied into objects: each worker takes the next range that nobody has, until there are
//! none.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use brahman_card::interface::catalog::Object;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::watch;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::decode::Rows;
use super::plan::Plan;
use super::server::Server;
use crate::run::Progress;
use crate::sink::{Place, Sink};
use crate::table::{ReadError, ServerError};

/// The object, if there were rows, and the NULLs made by column.
pub(super) type CopyOutcome = (Option<Object>, Vec<u64>);

/// The workers of one read. Dropped, they are stopped and waited for.
pub(super) struct Crew {
    pub(super) stop: CancellationToken,
    pub(super) threads: Vec<std::thread::JoinHandle<()>>,
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.stop.cancel();
        for thread in self.threads.drain(..) {
            // What it had to say was said by its channel.
            let _ = thread.join();
        }
    }
}

/// One that copies ranges into one object.
pub(super) struct Worker {
    pub(super) server: Server,
    pub(super) plan: Arc<Plan>,
    /// The range that nobody has taken yet.
    pub(super) next: Arc<AtomicUsize>,
    pub(super) place: Place,
    pub(super) part: usize,
    pub(super) stall: Duration,
    pub(super) progress: watch::Sender<Progress>,
    pub(super) cancel: CancellationToken,
}

impl Worker {
    /// On a connection of its own, which joins the snapshot; not longer than until the deadline.
    pub(super) fn on_own_connection(
        &self,
        stop: &CancellationToken,
        deadline: Instant,
    ) -> Result<CopyOutcome, ReadError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let copying = async {
                let session = self.server.connected(self.stall, &self.cancel).await?;
                let ms = deadline.saturating_duration_since(Instant::now()).as_millis().max(1);
                let begin = format!(
                    "SET statement_timeout = {ms}; BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT '{}'",
                    self.plan.snapshot
                );
                session.client.batch_execute(&begin).await.map_err(|e| self.server.said("joining the snapshot", &e))?;
                self.copy(&session.client).await
            };
            tokio::select! {
                done = copying => done,
                () = stop.cancelled() => Err(ReadError::Cancelled),
            }
        })
    }

    /// Copies ranges until there are none; gives the object, if there were rows, and the NULLs made
    /// by column.
    pub(super) async fn copy(&self, client: &Client) -> Result<CopyOutcome, ReadError> {
        let mut rows = Rows::new(Arc::clone(&self.plan.schema), &self.plan.shapes);
        let mut sink: Option<Sink> = None;
        while let Some(range) = self.plan.ranges.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            rows.begin();
            let copy = format!("COPY ({}{range}) TO STDOUT (FORMAT binary)", self.plan.select);
            let beginning =
                self.server.patiently(client, self.stall, &self.cancel, client.copy_out(&copy));
            let stream = beginning.await?.map_err(|e| self.server.said("beginning to copy", &e))?;
            let mut stream = pin!(stream);
            loop {
                // What has come is taken without a timer; only for what has not is there a wait.
                let piece = match stream.next().now_or_never() {
                    Some(piece) => piece,
                    None => {
                        self.server
                            .patiently(client, self.stall, &self.cancel, stream.next())
                            .await?
                    }
                };
                let Some(piece) = piece else { break };
                rows.take(&piece.map_err(|e| self.server.said("copying", &e))?)?;
                if rows.is_full() {
                    self.write(&mut rows, &mut sink)?;
                    if self.cancel.is_cancelled() {
                        self.server.stop(client).await;
                        return Err(ReadError::Cancelled);
                    }
                }
            }
            if !rows.is_whole() {
                return Err(ServerError::CutOff { address: self.server.address() }.into());
            }
        }
        self.write(&mut rows, &mut sink)?;
        // An empty table is a dataset of no rows: its columns are worth having.
        if sink.is_none() && self.part == 0 {
            sink = Some(self.open()?);
        }
        Ok((sink.map(Sink::finish).transpose()?, rows.nulls_made))
    }

    fn open(&self) -> std::io::Result<Sink> {
        Sink::create(&self.place, self.part, Arc::clone(&self.plan.schema))
    }

    fn write(&self, rows: &mut Rows, sink: &mut Option<Sink>) -> Result<(), ReadError> {
        let Some((batch, bytes)) = rows.batch()? else { return Ok(()) };
        let sink = match sink {
            Some(sink) => sink,
            None => sink.insert(self.open()?),
        };
        sink.write(&batch)?;
        let count = batch.num_rows() as u64;
        self.progress.send_modify(|p| (p.rows, p.bytes) = (p.rows + count, p.bytes + bytes));
        Ok(())
    }
}
