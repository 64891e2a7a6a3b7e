//! Any bytes as a source, by the first byte's choice: CSV, JSONL, Parquet, HTML or gzip. Every row
//! ends in the dataset or among those that are named, or the run fails; nothing panics and nothing
//! hangs.

#![no_main]

use brahman_ingest::files;
use brahman_ingest::run::Progress;
use brahman_ingest::sink::Place;
use brahman_ingest::source::{Format, WalkRules};
use tokio_util::sync::CancellationToken;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((kind, bytes)) = data.split_first() else { return };
    let folder = tempfile::tempdir().expect("a temporary directory");
    let name = ["a.csv", "a.jsonl", "a.parquet", "a.html", "a.csv.gz", "a.jsonl.zst"]
        [usize::from(*kind) % 6];
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).expect("written");
    let paths = [path.display().to_string()];
    let place = Place {
        folder: folder.path().to_owned(),
        bucket: "primary".into(),
        prefix: "datasets/x/run".into(),
        url_prefix: "file:///x".into(),
        samples: None,
        first_part: 0,
    };
    let Ok(format) = Format::of(None, &paths) else { return };
    let progress = tokio::sync::watch::channel(Progress::default()).0;
    if let Ok(read) = files::read(
        &paths,
        &WalkRules::default(),
        format,
        &files::by_all_cores(),
        &place,
        &progress,
        &CancellationToken::new(),
    ) {
        for object in &read.objects {
            assert!(std::fs::metadata(object.local()).is_ok_and(|meta| meta.len() == object.bytes));
        }
    }
});
