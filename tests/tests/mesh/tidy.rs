//! What holds of the tree itself.

use std::collections::BTreeMap;

use brahman_tests::repository;

#[test]
fn crates_import_only_what_the_design_allows() {
    let metadata =
        cargo_metadata::MetadataCommand::new().manifest_path(repository().join("Cargo.toml")).no_deps().exec().expect("cargo metadata");
    let module = &["brahman-card", "brahman-sidecar", "brahman-storage"][..];
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("brahman-card", &["brahman-card-derive"][..]),
        ("brahman-card-derive", &[][..]),
        ("brahman-sidecar", &["brahman-card"][..]),
        ("brahman-storage", &["brahman-card"][..]),
        ("brahman-broker", &["brahman-card", "brahman-sidecar"][..]),
        ("brahman-init", &["brahman-card", "brahman-sidecar"][..]),
        ("brahman-cli", &["brahman-card", "brahman-sidecar"][..]),
        ("brahman-catalog", module),
        ("brahman-embed", module),
        ("brahman-index", module),
        ("brahman-ingest", module),
        ("brahman-score", module),
    ]);
    for package in metadata.packages.iter().filter(|p| p.name.as_str() != "brahman-tests" && p.name.as_str() != "brahman-benches") {
        let may = allowed.get(package.name.as_str()).unwrap_or_else(|| panic!("{} is not in the design", package.name));
        for dependency in package.dependencies.iter().filter(|d| d.name.starts_with("brahman-")) {
            assert!(may.contains(&dependency.name.as_str()), "{} must not import {}", package.name, dependency.name);
        }
    }
}

#[test]
fn every_source_file_says_what_it_is_for() {
    let out = std::process::Command::new("git").args(["ls-files", "*.rs"]).current_dir(repository()).output().expect("git runs");
    let files = String::from_utf8(out.stdout).expect("text");
    let mute: Vec<&str> =
        files.lines().filter(|f| !std::fs::read_to_string(repository().join(f)).is_ok_and(|t| t.starts_with("//!"))).collect();
    assert!(mute.is_empty(), "without a //! header: {mute:?}");
}

#[test]
fn one_arrow_version_is_in_the_tree() {
    let lock = std::fs::read_to_string(repository().join("Cargo.lock")).expect("the lock file");
    assert_eq!(lock.matches("name = \"arrow-array\"").count(), 1);
}
