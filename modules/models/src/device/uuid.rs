//! A GPU by its UUID, and the number that CUDA has for it in one process. Pure.
//!
//! CUDA numbers what `CUDA_VISIBLE_DEVICES` lists, in that order, else all GPUs, the fastest first,
//! or in the order of the bus where `CUDA_DEVICE_ORDER=PCI_BUS_ID`. NVML numbers all of them in the
//! order of the bus. The two agree where all GPUs are of one kind.

use std::fmt;

/// Letters of a UUID, its four dashes included.
const LETTERS: usize = 36;
/// Where the dashes are.
const DASHES: [usize; 4] = [8, 13, 18, 23];

/// A GPU's own name, or that of a part of one (MIG), which is the same on whatever it is seen by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GpuUuid {
    bytes: [u8; 16],
    is_part: bool,
}

impl GpuUuid {
    /// Reads `GPU-` or `MIG-` and the whole of a UUID; none if it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, uuid) = text.split_at_checked(4)?;
        let is_part = match kind {
            "GPU-" => false,
            "MIG-" => true,
            _ => return None,
        };
        let letters = uuid.as_bytes();
        if letters.len() != LETTERS || DASHES.iter().any(|at| letters[*at] != b'-') {
            return None;
        }
        let mut digits = uuid.chars().filter(|letter| *letter != '-').map(|c| c.to_digit(16));
        let mut bytes = [0; 16];
        for byte in &mut bytes {
            let (high, low) = (digits.next()??, digits.next()??);
            *byte = u8::try_from(high << 4 | low).ok()?;
        }
        digits.next().is_none().then_some(Self { bytes, is_part })
    }
}

impl fmt::Display for GpuUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_part { "MIG-" } else { "GPU-" })?;
        for (at, byte) in self.bytes.iter().enumerate() {
            if [4, 6, 8, 10].contains(&at) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// What NVML says of who a GPU is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuIdentity {
    /// With `GPU-` before it.
    pub uuid: String,
    /// Of which kind it is.
    pub name: String,
}

/// Why a GPU has no number for CUDA.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UuidError {
    /// There is no such GPU.
    #[error("NVML finds no GPU {uuid}: it finds {found}")]
    Absent {
        /// What was asked for.
        uuid: String,
        /// Those that there are, or `none`.
        found: String,
    },
    /// The environment hides it.
    #[error(
        "CUDA_VISIBLE_DEVICES={visible} does not show {uuid}: list it there, or leave that unset"
    )]
    Hidden {
        /// What was asked for.
        uuid: String,
        /// As the variable has it.
        visible: String,
    },
    /// Its number is CUDA's secret.
    #[error(
        "GPUs of several kinds are here, which CUDA numbers the fastest first: set CUDA_DEVICE_ORDER=PCI_BUS_ID, or CUDA_VISIBLE_DEVICES={uuid}"
    )]
    Unordered {
        /// What was asked for.
        uuid: String,
    },
}

/// Which GPUs CUDA sees in a process, and what its numbers depend on.
#[derive(Clone, Copy, Debug)]
pub struct VisibleGpus<'a> {
    /// `CUDA_VISIBLE_DEVICES`; none if it is not set, which is not the same as empty: that shows
    /// none of them.
    pub visible: Option<&'a str>,
    /// Whether CUDA numbers them in the order of the bus.
    pub is_bus_order: bool,
    /// All of them, in NVML's order.
    pub gpus: &'a [GpuIdentity],
}

impl VisibleGpus<'_> {
    /// CUDA's number of a GPU.
    ///
    /// # Errors
    /// [`UuidError`].
    pub fn number(&self, uuid: GpuUuid) -> Result<u32, UuidError> {
        let name = uuid.to_string();
        let is_it = |gpu: &GpuIdentity| gpu.uuid.eq_ignore_ascii_case(&name);
        // NVML does not list parts of GPUs beside them.
        if !uuid.is_part && !self.gpus.iter().any(is_it) {
            let found: Vec<&str> = self.gpus.iter().map(|gpu| gpu.uuid.as_str()).collect();
            let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
            return Err(UuidError::Absent { uuid: name, found });
        }
        let numbers = (0..self.gpus.len()).map(|number| number.to_string()).collect::<Vec<_>>();
        let entries: Vec<&str> = match self.visible {
            Some(visible) => visible.split(',').map(str::trim).collect(),
            None => numbers.iter().map(String::as_str).collect(),
        };
        let mut is_unordered = false;
        for (number, entry) in (0_u32..).zip(entries) {
            match self.shown(entry, &name) {
                VisibleEntry::Wanted => return Ok(number),
                VisibleEntry::Another => {}
                VisibleEntry::Somebody => is_unordered = true,
                // CUDA does not look behind an entry that is none.
                VisibleEntry::Nothing => break,
            }
        }
        Err(match self.visible {
            _ if is_unordered => UuidError::Unordered { uuid: name },
            visible => {
                UuidError::Hidden { uuid: name, visible: visible.unwrap_or_default().to_owned() }
            }
        })
    }

    /// Which GPU an entry of `CUDA_VISIBLE_DEVICES` shows, where `wanted` is looked for.
    fn shown(&self, entry: &str, wanted: &str) -> VisibleEntry {
        let told = |gpu: &GpuIdentity| {
            if gpu.uuid.eq_ignore_ascii_case(wanted) {
                VisibleEntry::Wanted
            } else {
                VisibleEntry::Another
            }
        };
        if let Ok(number) = entry.parse::<usize>() {
            return match self.gpus.get(number) {
                None => VisibleEntry::Nothing,
                Some(gpu) if self.is_bus_order || self.are_of_one_kind() => told(gpu),
                Some(_) => VisibleEntry::Somebody,
            };
        }
        let is_begin = |whole: &str| {
            whole.get(..entry.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(entry))
        };
        if entry.starts_with("MIG-") {
            return if is_begin(wanted) { VisibleEntry::Wanted } else { VisibleEntry::Another };
        }
        // A UUID may be cut short where that is still one GPU's alone.
        let mut found = self.gpus.iter().filter(|gpu| entry.len() > 4 && is_begin(&gpu.uuid));
        match (found.next(), found.next()) {
            (Some(gpu), None) => told(gpu),
            _ => VisibleEntry::Nothing,
        }
    }

    fn are_of_one_kind(&self) -> bool {
        self.gpus.windows(2).all(|two| two[0].name == two[1].name)
    }
}

/// What an entry of `CUDA_VISIBLE_DEVICES` is, to whoever looks for one GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum VisibleEntry {
    Wanted,
    Another,
    /// One or the other.
    Somebody,
    Nothing,
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUIDS: [&str; 3] = [
        "GPU-00000000-aaaa-bbbb-cccc-000000000000",
        "GPU-11111111-aaaa-bbbb-cccc-111111111111",
        "GPU-11112222-aaaa-bbbb-cccc-222222222222",
    ];

    fn gpus(names: [&str; 3]) -> Vec<GpuIdentity> {
        let identity = |(uuid, name): (&str, &str)| GpuIdentity {
            uuid: uuid.to_owned(),
            name: name.to_owned(),
        };
        UUIDS.into_iter().zip(names).map(identity).collect()
    }

    fn uuid(text: &str) -> GpuUuid {
        GpuUuid::parse(text).expect("a UUID")
    }

    #[test]
    fn a_uuid_is_read_whole_or_not_at_all() {
        for text in UUIDS {
            assert_eq!(uuid(text).to_string(), text);
        }
        let upper = "MIG-ABCDEF01-2345-6789-ABCD-EF0123456789";
        assert_eq!(uuid(upper).to_string(), "MIG-abcdef01-2345-6789-abcd-ef0123456789");
        assert_ne!(uuid(&upper.replace("MIG", "GPU")), uuid(upper));
        for text in [
            "",
            "GPU-",
            "GPU-11111111",
            "11111111-aaaa-bbbb-cccc-111111111111",
            "GPU-11111111-aaaa-bbbb-cccc-11111111111",
            "GPU-11111111-aaaa-bbbb-cccc-11111111111x",
            "GPU-1111111-1aaaa-bbbb-cccc-111111111111",
            "GPU-11111111-aaaa-bbbb-cccc-1111111-1111",
            "GPÜ-11111111-aaaa-bbbb-cccc-111111111111",
        ] {
            assert_eq!(GpuUuid::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_gpu_s_number_is_its_place_among_what_is_visible() {
        let alike = gpus(["A", "A", "A"]);
        let of = |visible, which: usize| {
            VisibleGpus { visible, is_bus_order: false, gpus: &alike }.number(uuid(UUIDS[which]))
        };
        assert_eq!((of(None, 0), of(None, 2)), (Ok(0), Ok(2)));
        assert_eq!((of(Some("2, 0"), 2), of(Some("2,0"), 0)), (Ok(0), Ok(1)));
        assert_eq!(of(Some("GPU-11112,GPU-0000"), 0), Ok(1), "cut short");
        let hidden = |visible| matches!(of(Some(visible), 1), Err(UuidError::Hidden { .. }));
        // Not listed; none at all; behind an entry that is none, of which one is two GPUs'.
        for visible in ["2,0", "", "-1,1", "7,1", "GPU-1111,1", "GPU-9,1", "GPU-"] {
            assert!(hidden(visible), "{visible}");
        }
        let said = of(Some("2,0"), 1).expect_err("hidden").to_string();
        assert!(said.contains("CUDA_VISIBLE_DEVICES=2,0") && said.contains(UUIDS[1]), "{said}");
    }

    #[test]
    fn of_gpus_of_several_kinds_a_number_is_known_by_the_bus_or_by_a_list_of_uuids() {
        let mixed = gpus(["A", "B", "A"]);
        let of = |visible, is_bus_order| {
            VisibleGpus { visible, is_bus_order, gpus: &mixed }.number(uuid(UUIDS[1]))
        };
        assert_eq!((of(None, true), of(Some("2,1"), true)), (Ok(1), Ok(1)));
        assert_eq!(of(Some(UUIDS[1]), false), Ok(0));
        for visible in [None, Some("1"), Some("0,1")] {
            let said = of(visible, false).expect_err("not known").to_string();
            assert!(said.contains("PCI_BUS_ID") && said.contains(UUIDS[1]), "{said}");
        }
        assert!(matches!(of(Some("7"), false), Err(UuidError::Hidden { .. })));
    }

    #[test]
    fn one_that_is_not_there_is_named_with_those_that_are() {
        let alike = gpus(["A", "A", "A"]);
        let other = uuid("GPU-99999999-aaaa-bbbb-cccc-999999999999");
        let of = |gpus: &[GpuIdentity]| {
            VisibleGpus { visible: None, is_bus_order: true, gpus }.number(other)
        };
        let said = of(&alike).expect_err("absent").to_string();
        assert!(said.contains("GPU-99999999") && said.contains(UUIDS[2]), "{said}");
        assert!(of(&[]).expect_err("absent").to_string().ends_with("none"));
        let part = uuid("MIG-99999999-aaaa-bbbb-cccc-999999999999");
        let visible = Some("MIG-99999999-aaaa-bbbb-cccc-999999999999");
        let shown = VisibleGpus { visible, is_bus_order: false, gpus: &alike };
        assert_eq!(shown.number(part), Ok(0), "a part of a GPU");
    }
}
