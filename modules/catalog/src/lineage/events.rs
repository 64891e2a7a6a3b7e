//! What is written of a run: that it was started, that it is complete, and that it was given up.

use std::io;

use brahman_card::interface::catalog::{Dataset, Origin, Version};
use serde_json::json;

use super::record::{NAMESPACE, Record, event, facet, input, output};
use super::{COLUMNS_MAX, End, Journal, Open};

/// Longest reason.
const REASON_CHARS: usize = 2000;
/// Objects and columns of a generation that are kept with its event; of more only their number.
const OBJECTS_MAX: usize = 1000;

impl Journal {
    /// Notes that a run was published, as its dataset's file says. Where its commit's record is
    /// damaged it counts all the same: it neither goes on, nor is it given up with what its
    /// producer has left. Nothing is written: a record of an old commit behind newer ones would be
    /// taken for the newest.
    pub fn note_published(&mut self, dataset: &str, version: &Version) {
        let Some(known) =
            self.runs.get_mut(&version.run_id).filter(|known| known.dataset == dataset)
        else {
            return;
        };
        if matches!(known.end, End::Committed) {
            return;
        }
        known.end = End::Committed;
        self.open.remove(&version.run_id);
        let words = format!(
            "the record of the commit of run {} (generation {} of dataset `{dataset}`) is damaged or missing in lineage.log; the dataset's file \
             says that it was published, and it counts as that",
            version.run_id, version.generation
        );
        tracing::error!("{words}");
        self.lost_commits.push(words);
    }

    /// A run begins that writes nowhere, or nobody knows where.
    ///
    /// # Errors
    /// As the file system gives them.
    pub fn start(&mut self, dataset: &str, run_id: &str, producer: &str) -> io::Result<()> {
        self.start_in(dataset, run_id, producer, None)
    }

    /// A run begins, and writes into a bucket.
    ///
    /// # Errors
    /// As the file system gives them.
    pub fn start_in(
        &mut self,
        dataset: &str,
        run_id: &str,
        producer: &str,
        bucket: Option<&str>,
    ) -> io::Result<()> {
        if self.open.contains_key(run_id) {
            return Ok(());
        }
        let event = event(
            "START",
            dataset,
            run_id,
            json!({}),
            Vec::new(),
            vec![json!({"namespace": NAMESPACE, "name": dataset})],
        );
        let (dataset, run_id, bucket) =
            (dataset.to_owned(), run_id.to_owned(), bucket.map(str::to_owned));
        self.append(vec![Record {
            dataset,
            run_id,
            producer: Some(producer.to_owned()),
            bucket,
            made: None,
            event,
        }])
    }

    /// A run's commit stands.
    ///
    /// # Errors
    /// As the file system gives them.
    pub fn complete(&mut self, dataset: &Dataset) -> io::Result<()> {
        self.complete_as(dataset, &dataset.lineage)
    }

    /// The same of a run that found nothing new: the dataset is still of the run that made it.
    ///
    /// # Errors
    /// As the file system gives them.
    pub fn complete_as(&mut self, dataset: &Dataset, lineage: &Origin) -> io::Result<()> {
        let run_id = lineage.run_id.clone();
        let inputs = lineage.inputs.iter().map(|source| input(source)).collect();
        let event =
            event("COMPLETE", &dataset.name, &run_id, json!({}), inputs, vec![output(dataset)]);
        let made = (dataset.objects.len() <= OBJECTS_MAX).then(|| {
            let columns = if dataset.columns.len() <= COLUMNS_MAX {
                dataset.columns.clone()
            } else {
                Vec::new()
            };
            Dataset { pii: None, columns, ..dataset.clone() }
        });
        let record = Record {
            dataset: dataset.name.clone(),
            run_id,
            producer: None,
            bucket: None,
            made,
            event,
        };
        match self.append(vec![record.clone()]) {
            // Longer than a record may be: that it was committed is worth more than of what.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                self.append(vec![Record { made: None, ..record }])
            }
            outcome => outcome,
        }
    }

    /// A dataset was deleted: what was committed before is no longer what there is.
    ///
    /// # Errors
    /// As the file system gives them.
    pub fn dropped(&mut self, dataset: &str) -> io::Result<()> {
        let run_id = ulid::Ulid::generate().to_string();
        let dropped = facet(
            "1-0-1",
            "LifecycleStateChangeDatasetFacet",
            json!({"lifecycleStateChange": "DROP"}),
        );
        let output = json!({"namespace": NAMESPACE, "name": dataset, "facets": {"lifecycleStateChange": dropped}});
        let event = event("OTHER", dataset, &run_id, json!({}), Vec::new(), vec![output]);
        self.append(vec![Record {
            dataset: dataset.to_owned(),
            run_id,
            producer: None,
            bucket: None,
            made: None,
            event,
        }])
    }

    /// Gives runs up: one by its id, or all of a producer. Says how many there were.
    ///
    /// # Errors
    /// As the file system gives them.
    pub fn abandon(
        &mut self,
        run_id: Option<&str>,
        producer: Option<&str>,
        reason: &str,
        cancelled: bool,
    ) -> io::Result<u64> {
        let meant = |id: &str, open: &Open| {
            run_id.is_some_and(|r| r == id) || producer.is_some_and(|p| p == open.producer)
        };
        let ended: Vec<Record> = self
            .open
            .iter()
            .filter(|(id, open)| meant(id, open))
            .map(|(id, open)| {
                let message: String = reason.chars().take(REASON_CHARS).collect();
                let error = facet(
                    "1-0-1",
                    "ErrorMessageRunFacet",
                    json!({"message": message, "programmingLanguage": "Rust"}),
                );
                let (kind, facets) = if cancelled {
                    ("ABORT", json!({}))
                } else {
                    ("FAIL", json!({"errorMessage": error}))
                };
                let outputs = vec![json!({"namespace": NAMESPACE, "name": open.dataset})];
                let event = event(kind, &open.dataset, id, facets, Vec::new(), outputs);
                Record {
                    dataset: open.dataset.clone(),
                    run_id: id.clone(),
                    producer: None,
                    bucket: None,
                    made: None,
                    event,
                }
            })
            .collect();
        let count = ended.len() as u64;
        if count > 0 {
            self.append(ended)?;
        }
        Ok(count)
    }
}
