//! A look at a dataset's rows, in which personal data is masked.

use std::collections::BTreeSet;
use std::path::PathBuf;

use brahman_card::Fault;
use brahman_card::interface::catalog::{SampleIn, SampleOut};
use brahman_sidecar::{Call, Reply, blocking, chain};

use super::{CatalogService, fault, unanswered};
use crate::footers;
use crate::registry::RegistryError;

/// Rows of a sample unless more are asked for, and at most: a look, not an export.
const SAMPLE_ROWS: u64 = 5;
const SAMPLE_ROWS_MAX: u64 = 100;

impl CatalogService {
    pub(super) async fn sample(&self, call: &Call) -> Result<Reply, Fault> {
        let SampleIn { name, rows, mock } = call.parameters()?;
        let (realm, mut dataset) = self.seen(self.realm(call, mock).await, &name).await?;
        let wanted = usize::try_from(rows.unwrap_or(SAMPLE_ROWS).min(SAMPLE_ROWS_MAX)).unwrap_or(1);
        let personal = dataset
            .pii
            .iter()
            .flat_map(|report| &report.columns)
            .filter(|c| c.status == "found" || c.status == "possible");
        let personal: BTreeSet<String> = personal.map(|c| c.column.clone()).collect();
        // Where something within a column is personal, all of it is masked.
        let holds = |name: &String| personal.iter().any(|place| is_within(place, name));
        let masked: BTreeSet<String> = dataset
            .columns
            .iter()
            .map(|c| c.name.clone())
            .filter(holds)
            .chain(personal.iter().cloned())
            .collect();
        let roots =
            self.consult(realm, |registry| registry.roots().clone()).await.map_err(unanswered)?;
        let away = self.away_of(realm, &dataset.objects).await;
        let (mut notes, mut rows) = (Vec::new(), 0);
        for object in &mut dataset.objects {
            if rows >= wanted as u64 {
                break;
            }
            rows += object.rows;
            match self.borrow(object, &away, &roots).await {
                Some(path) => {
                    object.path = Some(path.display().to_string());
                    notes.push(format!(
                        "{} was read from its copy in bucket rescue: bucket `{}` is away",
                        object.key, object.bucket
                    ));
                }
                // To read what lies on a disk that does not answer would take for ever.
                None if away.contains_key(&object.bucket) && self.buckets.hangs(&object.bucket) => {
                    let why = format!(
                        "bucket `{}` does not answer, and no copy was found",
                        object.bucket
                    );
                    return Err(fault(RegistryError::BadObject { key: object.key.clone(), why }));
                }
                None => {}
            }
        }
        let work = blocking(move || {
            let mut out = Vec::new();
            for object in &dataset.objects {
                let path = object
                    .path
                    .as_ref()
                    .map_or_else(|| roots.path(object), |path| Ok(PathBuf::from(path)))?;
                let rows = footers::sample(&path, wanted - out.len(), &masked, &mut notes);
                out.extend(rows.map_err(|source| RegistryError::Unreadable {
                    key: object.key.clone(),
                    source,
                })?);
                if out.len() >= wanted {
                    break;
                }
            }
            if dataset.pii.is_none() {
                notes.push("nobody has looked for personal data: nothing is masked".to_owned());
            }
            Ok::<_, RegistryError>(SampleOut {
                rows: out,
                masked: masked.into_iter().collect(),
                notes,
            })
        });
        Reply::of(&work.await.map_err(|e| Fault::internal(chain(&e)))?.map_err(fault)?)
    }
}

/// Whether a place is a column, or lies within it.
fn is_within(place: &str, column: &str) -> bool {
    place.strip_prefix(column).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}
