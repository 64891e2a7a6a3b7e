//! CPU or GPU: what was asked for, what is in use, and why they differ. NVML is looked for at run time; a machine
//! without it is a machine without a GPU, not an error.

use brahman_card::interface::embed::{Device, Gpu};
use nvml_wrapper::Nvml;

/// `BRAHMAN_DEVICE` names no device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("BRAHMAN_DEVICE={given}: expected cpu, cuda, cuda:N or auto")]
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
    /// `auto`, or nothing: a GPU where one can be used.
    Auto,
}

impl DeviceChoice {
    /// Reads `cpu`, `cuda`, `cuda:N` or `auto`.
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
                .and_then(|n| n.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| DeviceError { given: text.to_owned() }),
        }
    }

    /// As it is reported.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Cpu => "cpu".into(),
            Self::Cuda(n) => format!("cuda:{n}"),
            Self::Auto => "auto".into(),
        }
    }
}

/// What `BRAHMAN_DEVICE` and `BRAHMAN_ALLOW_CPU` ask for: the device, and whether the CPU will do in its place.
///
/// # Errors
/// [`DeviceError`].
pub fn wanted() -> Result<(DeviceChoice, bool), DeviceError> {
    let var = |name: &str| std::env::var(name).unwrap_or_default();
    Ok((DeviceChoice::parse(&var("BRAHMAN_DEVICE"))?, matches!(var("BRAHMAN_ALLOW_CPU").as_str(), "1" | "true")))
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

/// Bytes in use on one GPU, to confirm that a session really landed there.
#[must_use]
pub fn memory_used(index: u32) -> Option<u64> {
    Some(Nvml::init().ok()?.device_by_index(index).ok()?.memory_info().ok()?.used)
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

#[cfg(test)]
mod tests {
    use super::{DeviceChoice, report, shortfall};

    #[test]
    fn a_gpu_that_was_asked_for_and_is_not_used_is_said() {
        let said = shortfall(&report(DeviceChoice::Cuda(1), "cpu", "NVML finds no GPU".to_owned()));
        assert_eq!(said.as_deref(), Some("on the CPU instead of cuda:1: NVML finds no GPU"));
        assert_eq!(shortfall(&report(DeviceChoice::Auto, "cpu", String::new())), None);
    }

    #[test]
    fn devices_read_as_in_pytorch() {
        assert_eq!(DeviceChoice::parse("cuda:3"), Ok(DeviceChoice::Cuda(3)));
        assert_eq!(DeviceChoice::parse(""), Ok(DeviceChoice::Auto));
        assert!(DeviceChoice::parse("gpu").is_err_and(|e| e.to_string().contains("cuda:N")));
    }
}
