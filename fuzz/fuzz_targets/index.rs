//! Any bytes as the files of an index, by the first byte's choice: an error, or something that can
//! be read to its end.

#![no_main]

use brahman_index::folder::Folder;
use brahman_index::rows::RowStore;
use brahman_index::segment;
use brahman_storage::Steps;
use flat_hnsw::{self, SearchParameters};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((kind, bytes)) = data.split_first() else { return };
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("file");
    std::fs::write(&path, bytes).expect("written");
    match kind % 4 {
        0 => {
            if let Ok(index) = flat_hnsw::file::open(&path) {
                let query = vec![0.5; index.store.dim()];
                let found = index.search(&query, &SearchParameters { k: 3, ef: 10, live: None });
                assert!(found.iter().all(|f| (f.row as usize) < index.store.len()));
            }
        }
        1 => {
            for whole in [false, true] {
                if let Ok(rows) = RowStore::open(&path, whole) {
                    rows.iter().for_each(|row| drop(row.map(|row| row.text.len())));
                }
            }
        }
        2 => {
            let _ = segment::read(&path, 4);
            let _ = segment::read_columns(&path);
        }
        _ => {
            let generation = folder.path().join("gen-1");
            std::fs::create_dir(&generation).expect("made");
            std::fs::write(generation.join("manifest.json"), bytes).expect("written");
            std::fs::write(
                folder.path().join("CURRENT"),
                r#"{"sequence":1,"generation":"gen-1","reason":"x","at_ms":0}"#,
            )
            .expect("written");
            let _ = Folder::new(folder.path(), Steps::default()).open();
            std::fs::write(folder.path().join("CURRENT"), bytes).expect("written");
            let _ = Folder::new(folder.path(), Steps::default()).open();
        }
    }
});
