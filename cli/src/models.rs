//! `brahman models`: the model and the ONNX Runtime library, fetched, checked, converted and listed.
//!
//! Everything that is fetched is pinned by sha256 here; what is made from it is made the same on every machine.

mod convert;
mod fetch;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::commands::sibling;
use crate::failure::BadInput;
use crate::output::Output;

/// The default model.
pub(crate) const NAME: &str = "all-MiniLM-L6-v2";
const DIM: usize = 384;
/// sentence-transformers' window for it; BERT's own is 512.
const MAX_TOKENS: usize = 256;

/// Files of the model as published by sentence-transformers, and their checksums.
const FILES: [(&str, &str); 5] = [
    ("model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
    ("tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
    ("config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
    ("special_tokens_map.json", "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"),
    ("tokenizer_config.json", "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
];

/// What the conversion gives, on every machine.
const ONNX_SHA256: &str = "97ec8cf0abb4a95fe32c4d0e8754e1929c139f6d5f0e1ada19f2e1ada3205b91";

/// One model on this machine.
#[derive(Debug, Serialize)]
struct ListedModel {
    name: String,
    path: String,
    sha256: String,
    dim: usize,
    max_tokens: usize,
}

/// Where a model of this name is kept.
fn folder(cache: &Path, name: &str) -> PathBuf {
    cache.join("models").join(name)
}

pub(crate) fn hex_sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// `brahman models check`: the scorer itself tries the model, with the library and the device that it would use.
pub(crate) fn check(folder: &Path, output: &Output) -> anyhow::Result<()> {
    let program = sibling("score-real");
    let out = Command::new(&program)
        .arg("check")
        .arg(folder)
        .output()
        .with_context(|| format!("cannot start {}; it belongs beside `brahman` or in PATH", program.display()))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if !out.status.success() {
        return Err(BadInput(text(&out.stderr)).into());
    }
    let found = text(&out.stdout);
    if output.json() {
        output.print_json(&serde_json::json!({ "path": folder, "usable": true, "found": found }));
    } else {
        output.line(&found);
    }
    Ok(())
}

/// `brahman models pull`
pub(crate) fn pull(cache: &Path, force: bool, output: &Output) -> anyhow::Result<()> {
    let library = library(cache, force, output)?;
    let model = model(cache, force, output)?;
    if output.json() {
        output.print_json(&serde_json::json!({ "library": library, "model": model }));
    } else {
        output.line(&format!("library  {}", library.display()));
        output.line(&format!("model    {}", model.display()));
    }
    Ok(())
}

fn library(cache: &Path, force: bool, output: &Output) -> anyhow::Result<PathBuf> {
    if let Some(named) = std::env::var_os("ORT_DYLIB_PATH").filter(|v| !v.is_empty()) {
        let named = PathBuf::from(named);
        if !named.is_file() {
            bail!("ORT_DYLIB_PATH names {}, which is not a file; unset it to have the library fetched", named.display());
        }
        return Ok(named);
    }
    let target = cache.join("onnxruntime").join("libonnxruntime.so");
    let wheel = fetch::ORT_WHEELS.iter().find(|w| w.arch == std::env::consts::ARCH);
    let wheel =
        wheel.with_context(|| format!("no pinned ONNX Runtime for {}: set ORT_DYLIB_PATH to one ≥ 1.24", std::env::consts::ARCH))?;
    // The mark beside it says which wheel it came from, so that a new pin replaces it.
    let mark = target.with_extension("so.from");
    if !force && target.is_file() && fs::read_to_string(&mark).is_ok_and(|m| m == wheel.sha256) {
        return Ok(target);
    }
    let archive = fetch::wheel(wheel, output)?;
    let bytes = fetch::member(archive.path(), |name| name.starts_with("onnxruntime/capi/libonnxruntime.so."))?;
    place(&target, &bytes)?;
    place(&mark, wheel.sha256.as_bytes())?;
    Ok(target)
}

fn model(cache: &Path, force: bool, output: &Output) -> anyhow::Result<PathBuf> {
    if let Some(named) = std::env::var_os("BRAHMAN_MODEL_DIR").filter(|v| !v.is_empty()) {
        let named = PathBuf::from(named);
        for file in ["model.onnx", "tokenizer.json"] {
            if !named.join(file).is_file() {
                bail!("BRAHMAN_MODEL_DIR names {}, which has no {file}; unset it to have {NAME} fetched", named.display());
            }
        }
        return Ok(named);
    }
    let target = folder(cache, NAME);
    if !force && complete(&target) {
        return Ok(target);
    }
    let files = fetch::model_files(&FILES, output)?;
    let bar = output.spinner("converting to ONNX");
    let weights = files.get("model.safetensors").context("the weights were not fetched")?;
    let onnx = convert::bert(weights).context("model.safetensors")?;
    let made = hex_sha256(&onnx);
    if made != ONNX_SHA256 {
        bail!("the conversion gave a model with sha256 {made}, expected {ONNX_SHA256}: please report this as a defect");
    }
    let mut pins = BTreeMap::from([("model.onnx".to_owned(), made)]);
    place(&target.join("model.onnx"), &onnx)?;
    for (name, bytes) in files.iter().filter(|(name, _)| *name != "model.safetensors") {
        place(&target.join(name), bytes)?;
        pins.insert(name.clone(), hex_sha256(bytes));
    }
    // Last: a folder without it is not taken for a model.
    let manifest = serde_json::json!({
        "name": NAME, "dim": DIM, "max_tokens": MAX_TOKENS, "sha256": pins, "source": format!("safetensors sha256 {}", FILES[0].1),
    });
    place(&target.join("brahman.json"), serde_json::to_string_pretty(&manifest)?.as_bytes())?;
    bar.finish_and_clear();
    Ok(target)
}

/// Whether a folder has a manifest and every file that it pins, unchanged.
fn complete(folder: &Path) -> bool {
    let Some(manifest) = manifest(folder) else { return false };
    let Some(pins) = manifest["sha256"].as_object() else { return false };
    pins.iter().all(|(name, pin)| fs::read(folder.join(name)).is_ok_and(|bytes| Some(hex_sha256(&bytes).as_str()) == pin.as_str()))
}

fn manifest(folder: &Path) -> Option<serde_json::Value> {
    serde_json::from_slice(&fs::read(folder.join("brahman.json")).ok()?).ok()
}

/// `brahman models list`
pub(crate) fn list(cache: &Path, output: &Output) -> anyhow::Result<()> {
    let mut models = Vec::new();
    for entry in fs::read_dir(cache.join("models")).into_iter().flatten().flatten() {
        let path = entry.path();
        if let Some(manifest) = manifest(&path) {
            let number = |key: &str| manifest[key].as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
            models.push(ListedModel {
                name: manifest["name"].as_str().unwrap_or_default().to_owned(),
                sha256: manifest["sha256"]["model.onnx"].as_str().unwrap_or_default().to_owned(),
                path: path.display().to_string(),
                dim: number("dim"),
                max_tokens: number("max_tokens"),
            });
        }
    }
    models.sort_by(|a, b| a.name.cmp(&b.name));
    if output.json() {
        output.print_json(&serde_json::json!({ "models": models }));
        return Ok(());
    }
    if models.is_empty() {
        output.line(&format!("no models in {}: `brahman models pull` fetches {NAME}", cache.join("models").display()));
    }
    let rows = models.iter().map(|m| {
        vec![m.name.clone(), m.dim.to_string(), m.max_tokens.to_string(), m.sha256[..12.min(m.sha256.len())].to_owned(), m.path.clone()]
    });
    output.table(&["MODEL", "DIM", "TOKENS", "SHA256", "PATH"], rows.collect());
    Ok(())
}

/// Writes a file whole or not at all.
fn place(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    use std::io::Write as _;
    let folder = path.parent().context("a file has a folder")?;
    let written = fs::create_dir_all(folder).and_then(|()| {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|e| e.error)?;
        fs::File::open(folder)?.sync_all()
    });
    written.with_context(|| format!("cannot write {}", path.display()))
}
