//! `brahman models pull --gpu`: ONNX Runtime for GPUs brought into the cache, and CUDA's libraries
//! looked for.
//!
//! The library and what it looks for lie in one folder, which takes its place whole: what was there
//! before goes on being used by whoever has it open.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use brahman_card::chain;
use brahman_storage::atomic;
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::{PullError, named, place};
use crate::catalogue::{self, GPU_FILES, ORT_GPU_WHEELS, Wheel};
use crate::cuda::{self, CudaLibrary};
use crate::fetch::{self, FetchError, Listener, Progress};
use crate::wheel;

/// Where the libraries lie in the wheel.
const MEMBERS: &str = "onnxruntime/capi/";
/// What says of which wheel a folder is; written last.
const MARK: &str = "from";
/// Folders where CUDA's installer and containers have the libraries.
const USUAL: [&str; 3] =
    ["/usr/local/cuda-13/lib64", "/usr/local/cuda/lib64", "/usr/local/nvidia/lib64"];
/// Where the program that lists what the loader knows lies, beside `PATH`.
const LDCONFIG: [&str; 2] = ["/sbin/ldconfig", "ldconfig"];
/// Prints the folders of the `nvidia-*` wheels, which PyTorch brings, too.
const ASK_PYTHON: &str = "import glob, sys
for place in sys.path:
    for folder in sorted(glob.glob(glob.escape(place) + '/nvidia/*/lib')) if place else []:
        print(folder)";

/// What is here for GPUs.
#[derive(Debug)]
pub struct GpuPull {
    /// The library that modules open.
    pub library: PathBuf,
    /// Where CUDA's libraries are.
    pub folders: Vec<PathBuf>,
    /// Those of them that were found nowhere.
    pub missing: Vec<&'static CudaLibrary>,
}

/// Brings ONNX Runtime for GPUs, if need be, or again if `force`; then looks for CUDA's libraries,
/// in the packages of `python`, too, and remembers where they are.
///
/// # Errors
/// [`PullError`]. That libraries are missing is none.
pub fn gpu_library(
    cache: &Path,
    python: Option<&Path>,
    force: bool,
    tell: &mut Listener<'_>,
) -> Result<GpuPull, PullError> {
    // Before anything is fetched, since it is a person's to mend.
    let of_python = python.map(of_python).transpose()?.unwrap_or_default();
    // They lie in the folder that may be replaced.
    let recorded = cuda::recorded(cache);
    let library = match named("ORT_DYLIB_PATH") {
        Some(path) if path.is_file() => path,
        Some(path) => return Err(PullError::NamedLibrary { path }),
        None => {
            let arch = std::env::consts::ARCH;
            let wheel = ORT_GPU_WHEELS.iter().find(|wheel| wheel.arch == arch);
            bring(
                wheel.ok_or(PullError::NoLibrary { arch })?,
                &wheel::index(),
                cache,
                force,
                tell,
            )?;
            catalogue::gpu_library(cache)
        }
    };
    let path = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let by_person = std::env::split_paths(&path).filter(|folder| folder.is_absolute());
    let folders = by_person
        .chain(of_python)
        .chain(recorded)
        .chain(known_to_loader())
        .chain(USUAL.map(PathBuf::from))
        .collect::<Vec<_>>();
    let (missing, folders) = (cuda::missing(&folders), cuda::useful(&folders));
    cuda::record(cache, &folders)
        .map_err(|source| PullError::Write { path: catalogue::gpu_folder(cache), source })?;
    Ok(GpuPull { library, folders, missing })
}

/// Brings a wheel's libraries into their folder, unless they are there.
fn bring(
    wheel: &Wheel,
    index: &str,
    cache: &Path,
    force: bool,
    tell: &mut Listener<'_>,
) -> Result<(), PullError> {
    let target = catalogue::gpu_folder(cache);
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| PullError::Write { path, source }
    };
    fs::create_dir_all(cache).map_err(failed(cache))?;
    let _lock = lock(&cache.join("onnxruntime-gpu.lock"), tell)?;
    // Whoever had the lock may have brought it.
    if !force && is_whole(&target, wheel) {
        return Ok(());
    }
    let fresh = cache.join("onnxruntime-gpu.new");
    match wheel::fetch(wheel, index, cache, tell) {
        Ok(part) => {
            unpack(&part, &fresh, wheel, tell)?;
            fs::remove_file(&part).map_err(failed(&part))?;
        }
        Err(error) if error.is_of_index() => {
            tell(Progress::Note(&format!("{}; asking pip", chain(&error))));
            unpack(fetch::wheel(wheel, tell)?.path(), &fresh, wheel, tell)?;
        }
        Err(error) => return Err(error.into()),
    }
    swap(&fresh, &target).map_err(failed(&target))?;
    atomic::sync_dir(cache).map_err(failed(cache))
}

/// Whether a folder has all that is wanted of a wheel.
fn is_whole(folder: &Path, wheel: &Wheel) -> bool {
    fs::read_to_string(folder.join(MARK)).is_ok_and(|mark| mark == wheel.sha256)
        && GPU_FILES.iter().all(|name| folder.join(name).is_file())
}

/// One pull at a time: a part is gone on with by one process alone.
fn lock(path: &Path, tell: &mut Listener<'_>) -> Result<File, PullError> {
    let failed = |source| PullError::Write { path: path.to_owned(), source };
    let file =
        File::options().create(true).truncate(false).write(true).open(path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            tell(Progress::Note("another process fetches the same: waiting for it"));
            file.lock().map_err(failed)?;
        }
        Err(TryLockError::Error(source)) => return Err(failed(source)),
    }
    Ok(file)
}

/// Makes a folder of what is wanted of a wheel, anew.
fn unpack(
    archive: &Path,
    fresh: &Path,
    wheel: &Wheel,
    tell: &mut Listener<'_>,
) -> Result<(), PullError> {
    let damaged = |source| FetchError::Archive { path: archive.to_owned(), source };
    let failed = |source| PullError::Write { path: fresh.to_owned(), source };
    match fs::remove_dir_all(fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => fs::create_dir_all(fresh).map_err(failed)?,
    }
    let opened = File::open(archive)
        .map_err(|source| FetchError::File { path: archive.to_owned(), source })?;
    let mut zip = zip::ZipArchive::new(opened).map_err(damaged)?;
    for name in GPU_FILES {
        let member = format!("{MEMBERS}{name}");
        if zip.index_for_name(&member).is_none() {
            return Err(FetchError::NoMember { wanted: member }.into());
        }
        let mut from = zip.by_name(&member).map_err(damaged)?;
        tell(Progress::Begin { what: &format!("unpacking {name}"), bytes: None });
        let copied = File::create(fresh.join(name))
            .and_then(|mut to| io::copy(&mut from, &mut to).and_then(|_| to.sync_all()));
        tell(Progress::End);
        copied.map_err(failed)?;
    }
    // Last: a folder without it is not taken for one.
    place(&fresh.join(MARK), wheel.sha256.as_bytes())
}

/// Puts a folder in the place of another, which is removed. Whoever looks finds one of the two.
fn swap(fresh: &Path, target: &Path) -> io::Result<()> {
    if !target.exists() {
        return fs::rename(fresh, target);
    }
    if renameat_with(CWD, fresh, CWD, target, RenameFlags::EXCHANGE).is_err() {
        // Not every file system exchanges names.
        let old = target.with_extension("old");
        fs::rename(target, &old)?;
        fs::rename(fresh, target)?;
        return fs::remove_dir_all(&old);
    }
    fs::remove_dir_all(fresh)
}

/// Folders of CUDA's libraries among the packages of a Python.
fn of_python(program: &Path) -> Result<Vec<PathBuf>, PullError> {
    let asked = Command::new(program)
        .args(["-c", ASK_PYTHON])
        .stdin(Stdio::null())
        .output()
        .map_err(|source| PullError::NoPython { program: program.to_owned(), source })?;
    if !asked.status.success() {
        let said = String::from_utf8_lossy(&asked.stderr);
        let said = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("nothing");
        return Err(PullError::Python {
            program: program.to_owned(),
            said: said.trim().to_owned(),
        });
    }
    Ok(String::from_utf8_lossy(&asked.stdout).lines().map(PathBuf::from).collect())
}

/// Folders of CUDA's libraries that the loader knows; none where it cannot be asked.
fn known_to_loader() -> Vec<PathBuf> {
    let ask = |program: &&str| {
        Command::new(program)
            .arg("-p")
            .stdin(Stdio::null())
            .output()
            .ok()
            .filter(|it| it.status.success())
    };
    let listing = LDCONFIG.iter().find_map(ask).map(|output| output.stdout).unwrap_or_default();
    cuda::ldconfig_folders(&String::from_utf8_lossy(&listing))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;

    use brahman_storage::digest::{hex, sha256};
    use zip::write::SimpleFileOptions;

    use super::*;

    /// A wheel with these members, and its pin.
    fn made(folder: &Path, members: &[(&str, &[u8])]) -> (PathBuf, Wheel) {
        let path = folder.join("made.whl");
        let mut zip = zip::ZipWriter::new(File::create(&path).expect("created"));
        for (name, content) in members {
            zip.start_file(*name, SimpleFileOptions::default()).expect("begun");
            zip.write_all(content).expect("written");
        }
        zip.finish().expect("whole");
        let content = fs::read(&path).expect("there");
        let wheel = Wheel {
            arch: "any",
            package: "made",
            version: "1.0",
            platforms: &[],
            bytes: content.len() as u64,
            sha256: hex(&sha256(&content)).leak(),
        };
        (path, wheel)
    }

    fn whole<'a>(content: &'a [u8], names: &'a [String]) -> Vec<(&'a str, &'a [u8])> {
        let other = ("onnxruntime/capi/libonnxruntime_providers_tensorrt.so", &b"other"[..]);
        names.iter().map(|name| (name.as_str(), content)).chain([other]).collect()
    }

    fn names() -> Vec<String> {
        GPU_FILES.iter().map(|name| format!("{MEMBERS}{name}")).collect()
    }

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary directory")
    }

    #[test]
    fn a_wheel_s_libraries_take_their_place_side_by_side_and_nothing_else_does() {
        let (cache, names) = (folder(), names());
        let target = catalogue::gpu_folder(cache.path());
        for content in [&b"one"[..], b"another"] {
            let (archive, wheel) = made(cache.path(), &whole(content, &names));
            assert!(!is_whole(&target, &wheel), "of another wheel, or not there");
            let fresh = cache.path().join("onnxruntime-gpu.new");
            // What a pull that was killed has left is not taken over.
            fs::create_dir_all(fresh.join("left")).expect("made");
            unpack(&archive, &fresh, &wheel, &mut |_| {}).expect("unpacked");
            swap(&fresh, &target).expect("in its place");
            assert!(is_whole(&target, &wheel) && !fresh.exists());
            let mut there: Vec<String> = fs::read_dir(&target)
                .expect("there")
                .flatten()
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect();
            there.sort_unstable();
            let mut expected: Vec<&str> = GPU_FILES.into_iter().chain([MARK]).collect();
            expected.sort_unstable();
            assert_eq!(there, expected);
            assert_eq!(fs::read(catalogue::gpu_library(cache.path())).expect("there"), content);
        }
        fs::remove_file(target.join(GPU_FILES[2])).expect("removed");
        let (_, wheel) = made(cache.path(), &whole(b"another", &names));
        assert!(!is_whole(&target, &wheel), "a library was lost");
    }

    #[test]
    fn a_wheel_that_lacks_a_library_changes_nothing() {
        let (cache, names) = (folder(), names());
        let (archive, wheel) = made(cache.path(), &whole(b"x", &names[..2]));
        let fresh = cache.path().join("onnxruntime-gpu.new");
        let refused = unpack(&archive, &fresh, &wheel, &mut |_| {}).expect_err("not whole");
        assert!(refused.to_string().contains("libonnxruntime_providers_cuda.so"), "{refused}");
        assert!(!is_whole(&fresh, &wheel) && !catalogue::gpu_folder(cache.path()).exists());
    }

    #[test]
    fn a_python_s_packages_are_looked_through() {
        let packages = folder();
        let lib = packages.path().join("nvidia/cu13/lib");
        fs::create_dir_all(&lib).expect("made");
        let python = packages.path().join("python");
        // A Python that has these packages alone.
        let script = format!(
            "#!/bin/sh\nexport PYTHONPATH='{}'\nexec python3 \"$@\"\n",
            packages.path().display()
        );
        fs::write(&python, script).expect("written");
        fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).expect("executable");
        assert!(of_python(&python).expect("folders").contains(&lib));
        let none = of_python(Path::new("/nonexistent/python")).expect_err("no Python");
        assert!(none.to_string().contains("--python"), "{none}");
        let wrong = of_python(Path::new("/bin/false")).expect_err("no Python");
        assert!(matches!(wrong, PullError::Python { .. }), "{wrong}");
    }
}
