//! Any bytes as an append log and as a checkpoint of vectors: what is torn is cut off, what is
//! damaged is put aside, and a second opening finds what the first one left.

#![no_main]

use brahman_index::pending::Pending;
use brahman_storage::log::Log;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("journal.log");
    std::fs::write(&path, data).expect("written");
    if let Ok((_, first)) = Log::open::<serde_json::Value>(&path) {
        let (mut log, second) = Log::open::<serde_json::Value>(&path).expect("opens again");
        assert_eq!(first, second);
        log.append(&[serde_json::json!({"more": 1})]).expect("appended");
        let (_, third) = Log::open::<serde_json::Value>(&path).expect("opens again");
        assert_eq!(
            (third.len(), third.last()),
            (first.len() + 1, Some(&serde_json::json!({"more": 1})))
        );
    }
    let path = folder.path().join("pending.log");
    std::fs::write(&path, data).expect("written");
    if let Ok(first) = Pending::open(&path, "model", 4) {
        let known = first.known.len();
        drop(first);
        assert_eq!(Pending::open(&path, "model", 4).expect("opens again").known.len(), known);
    }
});
