//! Logs: one line an event on stderr, where init or the journal picks it up. `BRAHMAN_LOG` filters (`info` unless set).

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;

/// Starts logging for this process. A second call does nothing.
pub fn init() {
    let filter = EnvFilter::try_from_env("BRAHMAN_LOG").unwrap_or_else(|_| EnvFilter::new("info,ort=warn,sled=warn"));
    let colour = stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_ansi(colour).without_time().with_target(false);
    // Somebody else's subscriber (a test's) stays.
    let _ = lines.try_init();
}
