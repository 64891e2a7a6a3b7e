//! Buckets, which objects are stored in: their health, their objects, and what failed.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use brahman_card::clock::now_ms;
use brahman_card::interface::Empty;
use brahman_card::interface::index::{self, ListOut};
use brahman_card::interface::storage::{
    AddBucketIn, BucketsOut, CompactErrorsIn, ErrorsIn, GetObjectIn, HealthOut, OBJECT_BYTES_MAX,
    PutObjectIn, RemoveBucketIn, ScrubIn, decode, encode, method,
};
use clap::Subcommand;

use super::index::without_replicas;
use super::{get, is_standard, stdin_bytes, stream};
use crate::failure::{BadInput, Unsound};
use crate::output::{Output, Tone, bytes, counted, duration, one_line, shortened};

/// What can be done with buckets.
#[derive(Subcommand, Debug)]
pub(crate) enum Buckets {
    /// Probe and register a bucket; the one named `rescue` receives a replica of everything that is
    /// committed
    Add {
        /// Name of the bucket
        name: String,
        /// file:///folder or s3://bucket/prefix
        url: String,
        /// An option of S3: aws_endpoint, aws_region, aws_access_key_id, aws_allow_http, …
        #[arg(short, long = "option", value_name = "KEY=VALUE", value_parser = pair)]
        options: Vec<(String, String)>,
        /// Entry of the secrets file with the secret key as its password, and optionally `token`
        /// and `customer_key`
        #[arg(long)]
        secret: Option<String>,
    },
    /// Forget a bucket; its objects stay where they are
    Remove {
        /// Name of the bucket
        name: String,
    },
    /// Check whether every bucket is reachable; exit status 1 if one is not
    Health,
    /// Verify every object and replica against its checksum, and repair one from the other
    Scrub {
        /// Only this bucket
        #[arg(long)]
        bucket: Option<String>,
        /// Only the objects of this dataset
        #[arg(long)]
        dataset: Option<String>,
    },
    /// Read an object, to a file or standard output; from `rescue` if it is missing or damaged
    Get {
        /// Bucket
        bucket: String,
        /// Key
        key: String,
        /// Write the object to this file; - is standard output
        #[arg(short = 'f', long = "file", value_name = "FILE")]
        to: Option<PathBuf>,
    },
    /// Store a file of at most 8 MiB as an object; never in place of an object that a dataset uses
    Put {
        /// Bucket
        bucket: String,
        /// Key
        key: String,
        /// File; - reads standard input
        file: PathBuf,
    },
}

pub(crate) async fn run(
    socket: &Path,
    command: Option<Buckets>,
    output: &Output,
) -> anyhow::Result<()> {
    match command {
        None => list(socket, output).await,
        Some(Buckets::Add { name, url, options, secret }) => {
            let options = Some(options.into_iter().collect());
            add(socket, AddBucketIn { name, url, options, secret }, output).await
        }
        Some(Buckets::Remove { name }) => remove(socket, name, output).await,
        Some(Buckets::Health) => health(socket, output).await,
        Some(Buckets::Scrub { bucket, dataset }) => {
            scrub(socket, ScrubIn { bucket, dataset }, output).await
        }
        Some(Buckets::Get { bucket, key, to }) => {
            get_object(socket, bucket, key, to.as_deref(), output).await
        }
        Some(Buckets::Put { bucket, key, file }) => {
            put_object(socket, bucket, key, &file, output).await
        }
    }
}

/// `KEY=VALUE`.
fn pair(text: &str) -> Result<(String, String), BadInput> {
    let pair = text.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
    pair.ok_or_else(|| BadInput("expected KEY=VALUE".to_owned()))
}

async fn list(socket: &Path, output: &Output) -> anyhow::Result<()> {
    let out = get::<method::Buckets>(socket, &Empty {}).await?;
    if output.json() {
        output.print_json(&out);
    } else {
        show_buckets(&out, output);
    }
    Ok(())
}

fn show_buckets(out: &BucketsOut, output: &Output) {
    let rows = out.buckets.iter().map(|b| {
        let writers = if b.conditional_put { "several" } else { "one" };
        vec![
            b.name.clone(),
            b.url.clone(),
            writers.to_owned(),
            if b.protected { "protected" } else { "" }.to_owned(),
        ]
    });
    output.table(&["BUCKET", "URL", "WRITERS", ""], rows.collect());
    if let Some(why) = &out.shortfall {
        output.line(&output.paint(&format!("there may be others: {why}"), Tone::Bad));
    }
}

async fn add(socket: &Path, ask: AddBucketIn, output: &Output) -> anyhow::Result<()> {
    let out = get::<method::AddBucket>(socket, &ask).await?;
    if output.json() {
        output.print_json(&out);
        return Ok(());
    }
    let b = out.bucket;
    let writers = if b.conditional_put {
        ""
    } else {
        "; it does not support conditional writes, so only one catalog may write to it"
    };
    output.line(&format!("{} is {}{writers}", b.name, b.url));
    out.notes.iter().flatten().for_each(|note| output.line(&output.paint(note, Tone::Busy)));
    Ok(())
}

async fn remove(socket: &Path, name: String, output: &Output) -> anyhow::Result<()> {
    get::<method::RemoveBucket>(socket, &RemoveBucketIn { name: name.clone() }).await?;
    if output.json() {
        output.print_json(&serde_json::json!({}));
    } else {
        output.line(&format!("{name} removed from the list; its objects stay where they are"));
    }
    Ok(())
}

/// Widest key that is shown: one may have a thousand characters, and the person has just written
/// it.
const KEY_COLUMNS: usize = 100;
/// Bytes asked for at once.
const PART_BYTES: u64 = OBJECT_BYTES_MAX;

/// Writes an object, part by part, to a file or standard output.
async fn get_object(
    socket: &Path,
    bucket: String,
    key: String,
    to: Option<&Path>,
    output: &Output,
) -> anyhow::Result<()> {
    let to = to.filter(|path| !is_standard(path));
    if to.is_none() && output.json() {
        let ask = GetObjectIn { bucket, key, ..GetObjectIn::default() };
        let out = get::<method::GetObject>(socket, &ask).await?;
        output.print_json(&out);
        return Ok(());
    }
    let mut file: Option<std::fs::File> = None;
    let (mut at, mut rescued) = (0, false);
    let (size, sha256, verified) = loop {
        let ask = GetObjectIn {
            bucket: bucket.clone(),
            key: key.clone(),
            offset: Some(at),
            length: Some(PART_BYTES),
        };
        let out = get::<method::GetObject>(socket, &ask).await?;
        let bytes = decode(&out.data_base64).context("the reply is not base64")?;
        match to {
            None => output.put(&bytes),
            Some(path) => {
                let cannot = || BadInput(format!("cannot write {}", path.display()));
                // Not before there is something to put into it: an object that does not exist
                // leaves no empty file.
                if file.is_none() {
                    file = Some(std::fs::File::create(path).with_context(cannot)?);
                }
                if let Some(file) = &mut file {
                    file.write_all(&bytes).with_context(cannot)?;
                }
            }
        }
        at += bytes.len() as u64;
        rescued |= out.rescue_used;
        if at >= out.size || bytes.is_empty() {
            break (out.size, out.sha256, out.verified);
        }
    };
    // Standard output is the object's own.
    let Some(path) = to else {
        if rescued {
            output.note(&format!("{key} was read from bucket rescue: it is missing from bucket {bucket}, or damaged there"));
        }
        return Ok(());
    };
    if output.json() {
        let path = path.display().to_string();
        output.print_json(&serde_json::json!({
            "bucket": bucket, "key": key, "path": path, "size": size, "sha256": sha256, "rescue_used": rescued, "verified": verified,
        }));
        return Ok(());
    }
    let unverified = if verified == Some(true) {
        ""
    } else {
        "; not verified: no dataset names it, so no checksum of it is recorded"
    };
    output.line(&format!(
        "{}: {} in {}{unverified}",
        shortened(&key, KEY_COLUMNS),
        bytes(size),
        path.display()
    ));
    if rescued {
        output.line(&output.paint(
            "read from bucket rescue: it is missing from its own bucket, or damaged there",
            Tone::Busy,
        ));
    }
    Ok(())
}

/// Puts a file as an object.
async fn put_object(
    socket: &Path,
    bucket: String,
    key: String,
    from: &Path,
    output: &Output,
) -> anyhow::Result<()> {
    let too_large = || {
        BadInput(format!(
            "{}: larger than the {} that one call can store",
            from.display(),
            bytes(OBJECT_BYTES_MAX)
        ))
    };
    let held = if is_standard(from) {
        stdin_bytes()?
    } else {
        let unreadable = || BadInput(format!("cannot read {}", from.display()));
        if std::fs::metadata(from).with_context(unreadable)?.len() > OBJECT_BYTES_MAX {
            return Err(too_large().into());
        }
        std::fs::read(from).with_context(unreadable)?
    };
    if held.len() as u64 > OBJECT_BYTES_MAX {
        return Err(too_large().into());
    }
    let ask = PutObjectIn { bucket: bucket.clone(), key: key.clone(), data_base64: encode(&held) };
    let out = get::<method::PutObject>(socket, &ask).await?;
    if output.json() {
        output.print_json(&out);
    } else {
        let copied = if out.copied { ", with a replica in bucket rescue" } else { "" };
        output.line(&format!(
            "{} in {bucket}: {}{copied}",
            shortened(&key, KEY_COLUMNS),
            bytes(out.size)
        ));
    }
    Ok(())
}

async fn health(socket: &Path, output: &Output) -> anyhow::Result<()> {
    let out = get::<method::Health>(socket, &Empty {}).await?;
    if output.json() {
        output.print_json(&out);
    } else {
        show_health(&out, output);
        // The catalog knows of datasets alone. Where nobody serves indexes there are none to tell
        // of.
        if let Ok(ListOut { indexes }) = get::<index::method::List>(socket, &Empty {}).await {
            for index in &indexes {
                if let Some(words) = index.replicas.as_ref().and_then(without_replicas) {
                    output.line(
                        &output.paint(&format!("index `{}`: {words}", index.name), Tone::Busy),
                    );
                }
            }
        }
    }
    let away: Vec<&str> =
        out.health.iter().filter(|h| !h.reachable).map(|h| h.name.as_str()).collect();
    let damaged: u64 = out.health.iter().filter_map(|h| h.damaged).sum();
    match (away.is_empty(), damaged) {
        (true, 0) => Ok(()),
        (true, damaged) => {
            let are = counted(damaged, "object is", "objects are");
            Err(Unsound(format!("{are} damaged and not repaired")).into())
        }
        (false, _) => Err(Unsound(format!("not reachable: {}", away.join(", "))).into()),
    }
}

fn show_health(out: &HealthOut, output: &Output) {
    let rows = out.health.iter().map(|h| {
        let state = if h.reachable {
            output.paint("reachable", Tone::Good)
        } else {
            output.paint("not reachable", Tone::Bad)
        };
        let backlog = match (h.backlog_objects, h.backlog_bytes) {
            (Some(0), _) => "none".to_owned(),
            (Some(objects), size) => {
                let objects = counted(objects, "object", "objects");
                format!("{objects}, {}", bytes(size.unwrap_or(0)))
            }
            (None, _) => "-".to_owned(),
        };
        vec![
            h.name.clone(),
            state,
            format!("{} µs", h.latency_us),
            backlog,
            h.error.clone().unwrap_or_default(),
        ]
    });
    output.table(&["BUCKET", "STATE", "LATENCY", "NOT REPLICATED", "ERROR"], rows.collect());
    for h in &out.health {
        if let Some(hint) = &h.hint {
            output.line(&format!("{}: {hint}", h.name));
        }
        if let Some(oldest) = h.oldest_unsaved_s {
            output.line(&output.paint(
                &format!("the oldest object without a replica is {} old", duration(oldest as f64)),
                Tone::Busy,
            ));
        }
        if let Some(at_ms) = h.last_scrub_ms {
            let (damaged, tone) = (
                h.damaged.unwrap_or(0),
                if h.damaged.unwrap_or(0) > 0 { Tone::Bad } else { Tone::Faint },
            );
            let found = if damaged > 0 {
                format!("{damaged} damaged and not repaired")
            } else {
                "no damage".to_owned()
            };
            output.line(&output.paint(
                &format!("all objects were last verified {} ago: {found}", ago(at_ms)),
                tone,
            ));
        }
    }
}

/// How long ago a Unix time is.
fn ago(at_ms: u64) -> String {
    duration(now_ms().saturating_sub(at_ms) as f64 / 1000.0)
}

async fn scrub(socket: &Path, ask: ScrubIn, output: &Output) -> anyhow::Result<()> {
    let bar = output.spinner("verifying");
    let out = stream::<method::Scrub>(socket, &ask, |out| {
        bar.set_message(one_line(&format!(
            "{}, {}, {} damaged",
            counted(out.objects, "object", "objects"),
            bytes(out.bytes),
            out.damaged.len()
        )));
    })
    .await?;
    bar.finish_and_clear();
    if output.json() {
        output.print_json(&out);
    } else {
        let took = duration(out.elapsed_ms as f64 / 1000.0);
        let objects = counted(out.objects, "object", "objects");
        output.line(&format!(
            "{objects} of datasets, {} in {took}: {} damaged; files of indexes are verified by `brahman index doctor`",
            bytes(out.bytes),
            out.damaged.len()
        ));
        for of in out.unread.iter().flatten() {
            let left = format!(
                "not verified: {} in {}: {}",
                counted(of.objects, "object", "objects"),
                of.bucket,
                of.why
            );
            output.line(&output.paint(&left, Tone::Bad));
        }
        for repaired in &out.repaired {
            output.line(
                &output.paint(
                    &format!("repaired: {} in {}", repaired.key, repaired.bucket),
                    Tone::Busy,
                ),
            );
        }
        for left in &out.unrepaired {
            output.line(&output.paint(
                &format!("not repaired: {} in {}: {}", left.key, left.bucket, left.why),
                Tone::Bad,
            ));
        }
        out.records
            .iter()
            .flatten()
            .for_each(|record| output.line(&output.paint(record, Tone::Bad)));
        out.notes.iter().flatten().for_each(|note| output.line(&output.paint(note, Tone::Busy)));
        for run in out.unfinished.iter().flatten() {
            let since =
                run.since_ms.map(|at_ms| format!(", begun {} ago", ago(at_ms))).unwrap_or_default();
            let what =
                if run.given_up { "given up, and cleared away by itself" } else { "not ended" };
            let left = format!(
                "run {} of {} in {}: {} in {}{since}: {what}",
                run.run_id,
                run.dataset,
                run.bucket,
                bytes(run.bytes),
                counted(run.objects, "file", "files")
            );
            output.line(&output.paint(&left, Tone::Busy));
        }
    }
    let unread: u64 = out.unread.iter().flatten().map(|of| of.objects).sum();
    let records = out.records.iter().flatten().count();
    match (out.unrepaired.len(), unread) {
        (0, 0) if records > 0 => {
            let damaged = counted(records as u64, "damaged record", "damaged records");
            Err(Unsound(format!("{damaged}: see above")).into())
        }
        (0, 0) => Ok(()),
        (0, unread) => {
            let objects = counted(unread, "object", "objects");
            Err(Unsound(format!("{objects} could not be verified")).into())
        }
        (damaged, _) => {
            let are = counted(damaged as u64, "object is", "objects are");
            Err(Unsound(format!("{are} damaged and could not be repaired")).into())
        }
    }
}

pub(crate) async fn errors(
    socket: &Path,
    limit: u64,
    compact: Option<u64>,
    output: &Output,
) -> anyhow::Result<()> {
    if let Some(keep) = compact {
        let out =
            get::<method::CompactErrors>(socket, &CompactErrorsIn { keep: Some(keep) }).await?;
        if output.json() {
            output.print_json(&out);
        } else {
            output.line(&format!("{} kept, {} dropped", out.kept, out.dropped));
        }
        return Ok(());
    }
    let out = get::<method::Errors>(socket, &ErrorsIn { limit: Some(limit) }).await?;
    if output.json() {
        output.print_json(&out);
        return Ok(());
    }
    let rows = out.errors.iter().map(|e| {
        vec![
            format!("{} ago", ago(e.at_ms)),
            e.bucket.clone(),
            e.operation.clone(),
            e.key.clone(),
            e.message.clone(),
        ]
    });
    output.table(&["WHEN", "BUCKET", "OPERATION", "KEY", "ERROR"], rows.collect());
    if out.total > limit {
        output.line(&format!("{} more; --limit N shows more of them", out.total - limit));
    }
    out.shortfall.iter().for_each(|why| output.line(&output.paint(why, Tone::Bad)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use brahman_card::interface::storage::{Bucket, BucketHealth};

    use super::*;

    #[test]
    fn buckets_and_their_health_are_tables() {
        let bucket = |name: &str, url: &str, protected, conditional_put| Bucket {
            name: name.into(),
            url: url.into(),
            protected,
            conditional_put,
            ..Bucket::default()
        };
        let buckets = vec![
            bucket("primary", "file:///state/buckets/primary", true, true),
            bucket("lake", "s3://my-bucket/brahman", false, false),
        ];
        let output = Output::kept();
        show_buckets(
            &BucketsOut {
                buckets,
                shortfall: Some("the registry of buckets cannot be read".into()),
            },
            &output,
        );
        insta::assert_snapshot!("buckets", output.printed());

        let health = vec![
            BucketHealth {
                name: "primary".into(),
                reachable: true,
                latency_us: 120,
                ..BucketHealth::default()
            },
            BucketHealth {
                name: "rescue".into(),
                reachable: false,
                latency_us: 2_000_000,
                error: Some("its marker cannot be seen".into()),
                hint: Some("mount its disk".into()),
                backlog_objects: Some(3),
                backlog_bytes: Some(4096),
                oldest_unsaved_s: Some(90),
                ..BucketHealth::default()
            },
        ];
        let output = Output::kept();
        show_health(&HealthOut { health }, &output);
        insta::assert_snapshot!("buckets_health", output.printed());
    }
}
