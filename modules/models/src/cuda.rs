//! CUDA's libraries: which of them ONNX Runtime's provider wants, where they are looked for, and
//! what brings them.
//!
//! Where they were found is remembered beside the fetched library, since a module that init starts
//! has no `LD_LIBRARY_PATH` of a person's shell. Nothing here loads one.

use std::io;
use std::path::{Path, PathBuf};

use crate::catalogue;

/// What remembers the folders, in that of the library.
const RECORD: &str = "cuda.json";

/// A library of CUDA's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CudaLibrary {
    /// The name by which it is linked to.
    pub name: &'static str,
    /// What pip installs to bring it.
    pub requirement: &'static str,
    /// Whether no model runs without it. Others are for operators that few models have.
    pub is_required: bool,
}

/// What the provider is linked to, and what it loads when it needs it; what others need goes first.
pub static LIBRARIES: [CudaLibrary; 7] = [
    library("libcudart.so.13", "nvidia-cuda-runtime~=13.0", true),
    library("libnvrtc.so.13", "nvidia-cuda-nvrtc~=13.0", false),
    library("libcublasLt.so.13", "nvidia-cublas~=13.0", true),
    library("libcublas.so.13", "nvidia-cublas~=13.0", true),
    library("libcurand.so.10", "nvidia-curand~=10.0", true),
    library("libcufft.so.12", "nvidia-cufft~=12.0", false),
    library("libcudnn.so.9", "nvidia-cudnn-cu13~=9.0", true),
];

const fn library(name: &'static str, requirement: &'static str, is_required: bool) -> CudaLibrary {
    CudaLibrary { name, requirement, is_required }
}

/// Where a library lies: in the first of the folders that has it.
#[must_use]
pub fn find(library: &CudaLibrary, folders: &[PathBuf]) -> Option<PathBuf> {
    folders.iter().map(|folder| folder.join(library.name)).find(|path| path.is_file())
}

/// Required libraries that none of the folders has.
#[must_use]
pub fn missing(folders: &[PathBuf]) -> Vec<&'static CudaLibrary> {
    LIBRARIES
        .iter()
        .filter(|library| library.is_required && find(library, folders).is_none())
        .collect()
}

/// Those of the folders that have one of the libraries, each once and in their order.
#[must_use]
pub fn useful(folders: &[PathBuf]) -> Vec<PathBuf> {
    let mut useful: Vec<PathBuf> = Vec::new();
    for folder in folders {
        let has_one = LIBRARIES.iter().any(|library| folder.join(library.name).is_file());
        if has_one && !useful.contains(folder) {
            useful.push(folder.clone());
        }
    }
    useful
}

/// The command that brings libraries.
#[must_use]
pub fn pip_line(missing: &[&CudaLibrary]) -> String {
    let mut line = "pip install".to_owned();
    let mut seen: Vec<&str> = Vec::new();
    for library in missing {
        if !seen.contains(&library.requirement) {
            seen.push(library.requirement);
            line.push_str(&format!(" '{}'", library.requirement));
        }
    }
    line
}

/// Where libraries were found when the runtime was fetched; none if that was not remembered.
#[must_use]
pub fn recorded(cache: &Path) -> Vec<PathBuf> {
    let record = std::fs::read(record_path(cache)).ok();
    record.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

/// Remembers where libraries were found.
///
/// # Errors
/// As writing gives them.
pub fn record(cache: &Path, folders: &[PathBuf]) -> io::Result<()> {
    let bytes = serde_json::to_vec(folders).map_err(io::Error::from)?;
    std::fs::create_dir_all(catalogue::gpu_folder(cache))?;
    brahman_storage::atomic::write(&record_path(cache), &bytes)
}

fn record_path(cache: &Path) -> PathBuf {
    catalogue::gpu_folder(cache).join(RECORD)
}

/// Folders of the libraries that `ldconfig -p` lists, by what it says.
#[must_use]
pub fn ldconfig_folders(listing: &str) -> Vec<PathBuf> {
    let paths = listing.lines().filter_map(|line| line.split_once(" => ")).filter(|(entry, _)| {
        let name = entry.split_whitespace().next().unwrap_or_default();
        LIBRARIES.iter().any(|library| library.name == name)
    });
    paths.filter_map(|(_, path)| Path::new(path.trim()).parent().map(Path::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder_of(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a temporary directory");
        names
            .iter()
            .for_each(|name| std::fs::write(folder.path().join(name), b"").expect("written"));
        folder
    }

    #[test]
    fn what_is_missing_is_named_with_what_brings_it() {
        let cu13 = folder_of(&["libcudart.so.13", "libcublas.so.13", "libcublasLt.so.13"]);
        let (other, empty) = (folder_of(&["libcublas.so.13", "libcufft.so.12"]), folder_of(&[]));
        let folders = [&empty, &cu13, &other, &cu13].map(|folder| folder.path().to_owned());
        assert_eq!(
            find(&LIBRARIES[3], &folders),
            Some(cu13.path().join("libcublas.so.13")),
            "the first that has it"
        );
        let names: Vec<&str> = missing(&folders).iter().map(|library| library.name).collect();
        assert_eq!(names, ["libcurand.so.10", "libcudnn.so.9"]);
        assert_eq!(
            pip_line(&missing(&folders)),
            "pip install 'nvidia-curand~=10.0' 'nvidia-cudnn-cu13~=9.0'"
        );
        assert_eq!(pip_line(&missing(&[])).matches("nvidia-cublas").count(), 1, "each once");
        assert_eq!(useful(&folders), [cu13.path().to_owned(), other.path().to_owned()]);
    }

    #[test]
    fn folders_are_remembered_beside_the_library() {
        let cache = folder_of(&[]);
        assert!(recorded(cache.path()).is_empty());
        let folders = [PathBuf::from("/opt/cuda/lib"), PathBuf::from("/opt/a b")];
        record(cache.path(), &folders).expect("written");
        assert_eq!(recorded(cache.path()), folders);
    }

    #[test]
    fn what_the_loader_knows_is_read_from_its_listing() {
        let listing = "3 libs found in cache `/etc/ld.so.cache'\n\
            \tlibcurand.so.10 (libc6,x86-64) => /usr/local/cuda/lib64/libcurand.so.10\n\
            \tlibcublas.so.12 (libc6,x86-64) => /usr/lib/old/libcublas.so.12\n\
            \tlibcudnn.so.9 (libc6,x86-64) => /usr/lib/x86_64-linux-gnu/libcudnn.so.9\n";
        assert_eq!(
            ldconfig_folders(listing),
            [PathBuf::from("/usr/local/cuda/lib64"), PathBuf::from("/usr/lib/x86_64-linux-gnu")]
        );
        assert!(ldconfig_folders("").is_empty());
    }
}
