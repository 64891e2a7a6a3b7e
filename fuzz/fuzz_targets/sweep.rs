//! Any history of an index's generations, damaged anyhow: a sweep names nothing that a generation
//! may need which counts, is read, or cannot be read; and where anything cannot be read it names
//! nothing at all.

#![no_main]

use std::collections::HashSet;

use brahman_index::embedder::Model;
use brahman_index::files::FileRef;
use brahman_index::generation::{BaseRef, Manifest, SegmentRef};
use brahman_index::sweep::{Entry, Obstacle, Removal, Survey, plan};
use flat_hnsw::build::Parameters;

fn file(path: String) -> FileRef {
    FileRef { path, bytes: 1, sha256: String::new() }
}

fn damaged() -> Obstacle {
    std::io::Error::from(std::io::ErrorKind::InvalidData).into()
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let [head, generations @ ..] = data else { return };
    let generations = &generations[..generations.len().min(12)];
    if generations.is_empty() {
        return;
    }
    let model = Model { name: "m".into(), fingerprint: "f".into(), dim: 1, mock: false };
    let mut manifests: Vec<Manifest> = Vec::new();
    let mut seen = Survey::default();
    for (n, kind) in generations.iter().enumerate() {
        let first = Manifest::first(
            model.clone(),
            "exact".into(),
            Parameters { m: 8, ef_construction: 32, seed: 0 },
            64,
        );
        let mut manifest = Manifest {
            number: n as u64 + 1,
            parent: n.checked_sub(1).map(|p| format!("gen-{p}")),
            ..first
        };
        match manifests.last() {
            Some(before) if kind & 1 == 0 => {
                manifest.base.clone_from(&before.base);
                manifest.segments.clone_from(&before.segments);
                manifest
                    .segments
                    .push(SegmentRef { rows: 1, file: file(format!("segments/{n}.parquet")) });
            }
            _ => {
                manifest.base = Some(BaseRef {
                    rows: 1,
                    segment: file(format!("segments/{n}.parquet")),
                    graph: file(format!("gen-{n}/graph.flat")),
                    rows_file: file(format!("gen-{n}/rows.bin")),
                    lexical: None,
                    analyser: None,
                });
            }
        }
        seen.segments.push(format!("segments/{n}.parquet"));
        seen.entries.push(Entry {
            name: format!("gen-{n}"),
            manifest: match kind >> 1 & 7 {
                6 => Err(damaged()),
                7 => Ok(None),
                _ => Ok(Some(manifest.clone())),
            },
            unfinished: kind >> 4 & 3 == 3,
            retired: kind >> 6 == 3,
            is_empty: false,
        });
        manifests.push(manifest);
    }
    let current = usize::from(head >> 4) % manifests.len();
    seen.pointer = match head & 3 {
        0 => None,
        1 => Some(Err(damaged())),
        _ => Some(Ok(format!("gen-{current}"))),
    };
    let held: HashSet<String> = (head & 4 > 0).then(|| "gen-0".to_owned()).into_iter().collect();
    let Ok(removed) = plan(&seen, &held) else { return };
    assert!(head & 3 != 1, "nothing goes while CURRENT cannot be read");
    // Whole folders and segments; a manifest that goes leaves its base to others.
    let removed: HashSet<&str> =
        removed.iter().filter(|r| !matches!(r, Removal::Manifest(_))).map(Removal::name).collect();
    for (n, manifest) in manifests.iter().enumerate() {
        let name = format!("gen-{n}");
        let is_needed = held.contains(&name) || (head & 3 > 1 && n == current);
        let is_unreadable = seen.entries[n].manifest.is_err()
            && !seen.entries[n].unfinished
            && !seen.entries[n].retired;
        assert!(!is_unreadable, "nothing goes while {name} cannot be read");
        if is_needed {
            assert!(!removed.contains(name.as_str()), "{name} is needed");
            for needed in manifest.files() {
                let folder = needed.path.split('/').next().unwrap_or_default();
                assert!(
                    !removed.contains(needed.path.as_str()) && !removed.contains(folder),
                    "{name} needs {}",
                    needed.path
                );
            }
        }
    }
});
