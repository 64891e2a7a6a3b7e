//! `brahman datasets adopt`: datasets that are stored in an S3 bucket and are not known here, as
//! after a loss of the state.

use std::path::Path;

use brahman_card::interface::catalog::{AdoptIn, method};

use super::get;
use crate::failure::{NotFound, Unsound};
use crate::output::{Output, Tone, counted};

/// Adopts every dataset that has a manifest in a bucket, or one by name. Fails if one is refused.
pub(crate) async fn adopt(
    socket: &Path,
    bucket: String,
    name: Option<String>,
    output: &Output,
) -> anyhow::Result<()> {
    let out = get::<method::Adopt>(socket, &AdoptIn { bucket: bucket.clone(), name: name.clone() })
        .await?;
    if output.json() {
        output.print_json(&out);
    } else {
        if name.is_none() && out.adopted.is_empty() && out.refused.is_empty() {
            output.line(&format!("no dataset has a manifest in bucket {bucket}"));
        }
        for dataset in &out.adopted {
            let rows = counted(dataset.rows, "row", "rows");
            output.line(&format!(
                "{} adopted: generation {}, {rows}",
                dataset.name, dataset.generation
            ));
        }
        out.notes.iter().flatten().for_each(|note| output.line(&output.paint(note, Tone::Busy)));
        out.refused.iter().for_each(|dataset| {
            output.line(&output.paint(&format!("{}: {}", dataset.name, dataset.why), Tone::Bad));
        });
    }
    match (out.refused.len(), name) {
        (0, Some(name)) if out.adopted.is_empty() => {
            Err(NotFound(format!("dataset `{name}` has no manifest in bucket {bucket}")).into())
        }
        (0, _) => Ok(()),
        (n, _) => Err(Unsound(format!(
            "{n} of {} datasets in bucket {bucket} were not adopted",
            n + out.adopted.len()
        ))
        .into()),
    }
}
