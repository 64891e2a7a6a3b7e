//! What the environment says: read once, before anything is opened.

use std::env;
use std::ffi::OsString;
use std::time::Duration;

use thiserror::Error;

/// How long a module stays at least before it makes room for another: less, and two that are called
/// by turns would only load.
const RESIDENCY_DEFAULT: Duration = Duration::from_secs(30);
/// Longest that may be asked for: an hour.
const RESIDENCY_MAX_S: u64 = 3600;
/// Longest address of a server.
const URL_BYTES_MAX: usize = 1024;

/// A variable makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{variable}={given}: expected {expected}")]
pub struct SettingError {
    /// By which name it is set.
    pub variable: &'static str,
    /// What it holds, escaped.
    pub given: String,
    /// What would do instead, in words.
    pub expected: &'static str,
}

/// How profiles work on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Of the main memory no more than this is shared out; all of it if none is said.
    pub cpu_mib: Option<u64>,
    /// How long a module stays at least.
    pub residency: Duration,
    /// Where an Ollama server is.
    pub ollama: Option<String>,
    /// NVML's library, where it is not found by its usual name.
    pub nvml: Option<OsString>,
    /// What programs see of CUDA unless their Card says otherwise.
    pub cuda_visible: Option<String>,
}

impl Settings {
    /// Reads `BRAHMAN_PROFILES_CPU_MIB`, `BRAHMAN_PROFILES_RESIDENCY_S`, `BRAHMAN_OLLAMA_URL`,
    /// `BRAHMAN_NVML` and `CUDA_VISIBLE_DEVICES`.
    ///
    /// # Errors
    /// [`SettingError`].
    pub fn from_env() -> Result<Self, SettingError> {
        Self::of(|name| env::var_os(name).filter(|value| !value.is_empty()))
    }

    fn of(var: impl Fn(&str) -> Option<OsString>) -> Result<Self, SettingError> {
        let text = |name: &str| var(name).map(|value| value.to_string_lossy().into_owned());
        let number =
            |variable: &'static str, most: u64, expected: &'static str| match text(variable) {
                None => Ok(None),
                Some(given) => match given.parse::<u64>() {
                    Ok(number) if (0..=most).contains(&number) => Ok(Some(number)),
                    _ => Err(SettingError {
                        variable,
                        given: given.escape_debug().to_string(),
                        expected,
                    }),
                },
            };
        let cpu_mib =
            number("BRAHMAN_PROFILES_CPU_MIB", u64::MAX >> 20, "a number of MiB, at least 1")?;
        if cpu_mib == Some(0) {
            let (variable, given) = ("BRAHMAN_PROFILES_CPU_MIB", "0".to_owned());
            return Err(SettingError { variable, given, expected: "a number of MiB, at least 1" });
        }
        let residency = number(
            "BRAHMAN_PROFILES_RESIDENCY_S",
            RESIDENCY_MAX_S,
            "a number of seconds, at most 3600",
        )?;
        let ollama = text("BRAHMAN_OLLAMA_URL");
        if let Some(given) = ollama.as_ref().filter(|url| !is_url(url)) {
            let given = given.escape_debug().to_string();
            return Err(SettingError {
                variable: "BRAHMAN_OLLAMA_URL",
                given,
                expected: "an address such as http://127.0.0.1:11434",
            });
        }
        Ok(Self {
            cpu_mib,
            residency: residency.map_or(RESIDENCY_DEFAULT, Duration::from_secs),
            ollama: ollama.map(|url| url.trim_end_matches('/').to_owned()),
            nvml: var("BRAHMAN_NVML"),
            cuda_visible: text("CUDA_VISIBLE_DEVICES"),
        })
    }
}

fn is_url(url: &str) -> bool {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    url.len() <= URL_BYTES_MAX
        && rest.is_some_and(|rest| !rest.is_empty() && !rest.contains([' ', '@', '\n', '\0']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Result<Settings, SettingError> {
        Settings::of(|name| {
            pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn what_is_not_said_is_as_documented_and_nonsense_is_refused() {
        let plain = of(&[]).expect("the defaults");
        assert_eq!(
            (plain.cpu_mib, plain.residency, plain.ollama),
            (None, Duration::from_secs(30), None)
        );
        let said = of(&[
            ("BRAHMAN_PROFILES_CPU_MIB", "4096"),
            ("BRAHMAN_PROFILES_RESIDENCY_S", "0"),
            ("BRAHMAN_OLLAMA_URL", "http://h:1/"),
        ]);
        let said = said.expect("good ones");
        assert_eq!(
            (said.cpu_mib, said.residency, said.ollama.as_deref()),
            (Some(4096), Duration::ZERO, Some("http://h:1"))
        );
        for (variable, value) in [
            ("BRAHMAN_PROFILES_CPU_MIB", "0"),
            ("BRAHMAN_PROFILES_CPU_MIB", "much"),
            ("BRAHMAN_PROFILES_RESIDENCY_S", "3601"),
            ("BRAHMAN_OLLAMA_URL", "localhost:11434"),
            ("BRAHMAN_OLLAMA_URL", "http://user:secret@host"),
        ] {
            assert_eq!(of(&[(variable, value)]).expect_err("refused").variable, variable);
        }
    }
}
