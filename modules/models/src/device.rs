//! CPU or GPU: what was asked for, what is in use, and why they differ. NVML is looked for at run
//! time; a machine without it is a machine without a GPU, not an error. [`uuid`]: a GPU's own name,
//! and the number by which CUDA knows it.

pub mod uuid;

use std::collections::BTreeMap;

use brahman_card::interface::embed::{Device, Gpu};
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::{Device as NvmlDevice, Nvml};

use self::uuid::{GpuIdentity, GpuUuid, UuidError, VisibleGpus};

/// `BRAHMAN_DEVICE` names no device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("BRAHMAN_DEVICE={given}: expected cpu, cuda, cuda:N, cuda:GPU-UUID or auto")]
pub struct DeviceError {
    /// What the variable holds instead.
    pub given: String,
}

/// What `BRAHMAN_DEVICE` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// `cpu`
    Cpu,
    /// `cuda` or `cuda:N`: that, or a refusal unless `BRAHMAN_ALLOW_CPU` is set.
    Cuda(u32),
    /// `cuda:GPU-…`: the same by the GPU's UUID, which `brahman gpu` lists.
    CudaUuid(GpuUuid),
    /// `auto`, or nothing: a GPU where one can be used.
    Auto,
}

impl DeviceChoice {
    /// Reads `cpu`, `cuda`, `cuda:N`, `cuda:GPU-…` or `auto`.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn parse(text: &str) -> Result<Self, DeviceError> {
        match text {
            "" | "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|which| {
                    let number = which.parse().ok().map(Self::Cuda);
                    number.or_else(|| GpuUuid::parse(which).map(Self::CudaUuid))
                })
                .ok_or_else(|| DeviceError { given: text.to_owned() }),
        }
    }

    /// Whether a GPU was asked for by name, so that the CPU is no answer unless that is allowed.
    #[must_use]
    pub fn names_gpu(self) -> bool {
        matches!(self, Self::Cuda(_) | Self::CudaUuid(_))
    }

    /// As it is reported.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Cpu => "cpu".into(),
            Self::Cuda(n) => format!("cuda:{n}"),
            Self::CudaUuid(uuid) => format!("cuda:{uuid}"),
            Self::Auto => "auto".into(),
        }
    }
}

/// What `BRAHMAN_DEVICE` and `BRAHMAN_ALLOW_CPU` ask for: the device, and whether the CPU will do
/// in its place.
///
/// # Errors
/// [`DeviceError`].
pub fn wanted() -> Result<(DeviceChoice, bool), DeviceError> {
    let var = |name: &str| std::env::var(name).unwrap_or_default();
    Ok((
        DeviceChoice::parse(&var("BRAHMAN_DEVICE"))?,
        matches!(var("BRAHMAN_ALLOW_CPU").as_str(), "1" | "true"),
    ))
}

/// GPUs that NVML sees; `None` without NVML.
#[must_use]
pub fn gpus() -> Option<Vec<Gpu>> {
    let nvml = Nvml::init().ok()?;
    let driver = nvml.sys_driver_version().unwrap_or_default();
    let count = nvml.device_count().ok()?;
    let gpus = (0..count).filter_map(|i| {
        let device = nvml.device_by_index(i).ok()?;
        let memory = device.memory_info().ok()?;
        Some(Gpu {
            name: device.name().unwrap_or_default(),
            driver: driver.clone(),
            memory_total: memory.total,
            memory_free: memory.free,
            utilization: device.utilization_rates().map_or(0, |u| u.gpu.into()),
        })
    });
    Some(gpus.collect())
}

/// CUDA's number, in this process, of the GPU that has a UUID.
///
/// # Errors
/// [`UuidError`]: it is not there, is hidden, or its number cannot be known.
pub fn number_of(uuid: GpuUuid) -> Result<u32, UuidError> {
    let gpus = identities().unwrap_or_default();
    let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
    let is_bus_order = std::env::var("CUDA_DEVICE_ORDER").is_ok_and(|order| order == "PCI_BUS_ID");
    VisibleGpus { visible: visible.as_deref(), is_bus_order, gpus: &gpus }.number(uuid)
}

/// GPUs in NVML's order; `None` without NVML.
fn identities() -> Option<Vec<GpuIdentity>> {
    let nvml = Nvml::init().ok()?;
    let identity = |index| {
        let device = nvml.device_by_index(index).ok()?;
        Some(GpuIdentity { uuid: device.uuid().ok()?, name: device.name().unwrap_or_default() })
    };
    // One that does not answer is counted by CUDA all the same: without it the others' numbers are
    // not known.
    (0..nvml.device_count().ok()?).map(identity).collect()
}

/// The newest CUDA that the driver bears, major and minor; `None` without NVML.
#[must_use]
pub fn cuda_version() -> Option<(u32, u32)> {
    let version = u32::try_from(Nvml::init().ok()?.sys_cuda_driver_version().ok()?).ok()?;
    Some((version / 1000, version % 1000 / 10))
}

/// What some work took of a GPU's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryGrowth {
    /// Bytes that this process has more than before, or if the driver does not tell that, that
    /// anybody has.
    pub taken: u64,
    /// Bytes for whoever asks next, after it.
    pub free: u64,
}

/// Does some work, and measures what it takes on the GPU of CUDA's number; nothing where NVML does
/// not tell.
pub fn measured<T>(index: u32, work: impl FnOnce() -> T) -> (T, Option<MemoryGrowth>) {
    let state = || -> Option<(Option<u64>, u64, u64)> {
        let nvml = Nvml::init().ok()?;
        let device = visible(&nvml, index)?;
        let memory = device.memory_info().ok()?;
        Some((own_on(&device), memory.used, memory.free))
    };
    let before = state();
    let done = work();
    let growth = before.zip(state()).map(|((own, used, _), (own_after, used_after, free))| {
        let taken = match (own, own_after) {
            (Some(before), Some(after)) => after.saturating_sub(before),
            _ => used_after.saturating_sub(used),
        };
        MemoryGrowth { taken, free }
    });
    (done, growth)
}

/// Bytes in use on the GPU of CUDA's number, by anybody.
#[must_use]
pub fn memory_used(index: u32) -> Option<u64> {
    Some(visible(&Nvml::init().ok()?, index)?.memory_info().ok()?.used)
}

/// Bytes that this process has on the GPU of CUDA's number, to confirm that a session really landed
/// there; none where the driver does not say, as in a container that numbers processes by itself.
#[must_use]
pub fn own_memory(index: u32) -> Option<u64> {
    own_on(&visible(&Nvml::init().ok()?, index)?)
}

fn own_on(device: &NvmlDevice<'_>) -> Option<u64> {
    let processes = device.running_compute_processes().ok()?;
    let own = processes.iter().find(|process| process.pid == std::process::id())?;
    match own.used_gpu_memory {
        UsedGpuMemory::Used(bytes) => Some(bytes),
        UsedGpuMemory::Unavailable => None,
    }
}

/// The GPU that this process means by CUDA's number, which is a place in `CUDA_VISIBLE_DEVICES`
/// where that is set.
fn visible(nvml: &Nvml, index: u32) -> Option<NvmlDevice<'_>> {
    match entry(&std::env::var("CUDA_VISIBLE_DEVICES").unwrap_or_default(), index)? {
        VisibleGpu::Number(number) => nvml.device_by_index(number).ok(),
        VisibleGpu::Uuid(uuid) => nvml.device_by_uuid(uuid).ok(),
    }
}

/// What stands in that variable at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
enum VisibleGpu {
    /// NVML's number, which is CUDA's as well where all GPUs are of one kind.
    Number(u32),
    /// Its UUID, whole.
    Uuid(String),
}

/// The GPU of a number by the variable; none if it does not go so far.
fn entry(visible: &str, index: u32) -> Option<VisibleGpu> {
    if visible.trim().is_empty() {
        return Some(VisibleGpu::Number(index));
    }
    let entry = visible.split(',').map(str::trim).nth(usize::try_from(index).ok()?)?;
    Some(entry.parse().map_or_else(|_| VisibleGpu::Uuid(entry.to_owned()), VisibleGpu::Number))
}

/// The report on a device.
#[must_use]
pub fn report(asked: DeviceChoice, active: &str, reason: String) -> Device {
    Device { requested: asked.name(), active: active.to_owned(), reason }
}

/// That the CPU is in use where a GPU was asked for, for people.
#[must_use]
pub fn shortfall(device: &Device) -> Option<String> {
    let is_short = device.requested.starts_with("cuda") && device.active == "cpu";
    is_short.then(|| format!("on the CPU instead of {}: {}", device.requested, device.reason))
}

/// What a module tells of its device beside the device itself: why it is that one
/// (`device_reason`), and that it is not what was asked for (`device_shortfall`; absent if it is).
#[must_use]
pub fn attributes(device: &Device) -> BTreeMap<String, String> {
    let reason = ("device_reason".to_owned(), device.reason.clone());
    let short = shortfall(device).map(|words| ("device_shortfall".to_owned(), words));
    std::iter::once(reason).chain(short).collect()
}

#[cfg(test)]
mod tests {
    use super::{DeviceChoice, VisibleGpu, attributes, entry, report, shortfall};

    #[test]
    fn a_gpu_that_was_asked_for_and_is_not_used_is_said() {
        let said = shortfall(&report(DeviceChoice::Cuda(1), "cpu", "NVML finds no GPU".to_owned()));
        assert_eq!(said.as_deref(), Some("on the CPU instead of cuda:1: NVML finds no GPU"));
        let as_asked = report(DeviceChoice::Auto, "cpu", String::new());
        assert_eq!(shortfall(&as_asked), None);
        assert!(!attributes(&as_asked).contains_key("device_shortfall"));
        let short = report(DeviceChoice::Cuda(0), "cpu", "no library".to_owned());
        let told = attributes(&short);
        assert_eq!(told["device_reason"], "no library");
        assert_eq!(told["device_shortfall"], "on the CPU instead of cuda:0: no library");
    }

    #[test]
    fn a_number_of_cuda_s_is_a_place_among_what_is_visible() {
        assert_eq!(
            (entry("", 1), entry("3, 1", 1)),
            (Some(VisibleGpu::Number(1)), Some(VisibleGpu::Number(1)))
        );
        assert_eq!(
            (entry("GPU-5f", 0), entry("0", 1)),
            (Some(VisibleGpu::Uuid("GPU-5f".to_owned())), None)
        );
    }

    #[test]
    fn devices_read_as_in_pytorch() {
        assert_eq!(DeviceChoice::parse("cuda:3"), Ok(DeviceChoice::Cuda(3)));
        assert_eq!(DeviceChoice::parse(""), Ok(DeviceChoice::Auto));
        assert!(DeviceChoice::parse("gpu").is_err_and(|e| e.to_string().contains("cuda:N")));
        let uuid = "cuda:GPU-5f0b3c1e-0d1a-4f7b-9c2d-8e6f00112233";
        let choice = DeviceChoice::parse(uuid).expect("a device");
        assert_eq!((choice.name().as_str(), choice.names_gpu()), (uuid, true));
        assert!(!DeviceChoice::Auto.names_gpu() && DeviceChoice::parse("cuda:GPU-5f").is_err());
    }
}
