//! Datasets as things: deleted, renamed, copied, pinned.

use std::path::Path;

use brahman_card::ModuleState;
use brahman_card::interface::Empty;
use brahman_card::interface::broker::{self, FlowIn};
use brahman_card::interface::catalog::{
    CopyIn, CopyOut, DeleteOut, MarkStaleIn, NameIn, PinIn, PinOut, PinnedGeneration, UnpinIn,
    UnpinOut, error, method,
};
use brahman_card::interface::{WireError as _, index, ingest};
use brahman_sidecar::{ClientError, Connection};

use super::get;
use crate::failure::BadInput;
use crate::output::{Output, Tone, counted, duration};

/// How long a generation is kept: `90s`, `10m`, `2h`, `7d`.
pub(crate) fn parse_life(text: &str) -> Result<u64, BadInput> {
    let units = [("s", 1_u64), ("m", 60), ("h", 3600), ("d", 86_400), ("w", 7 * 86_400)];
    let life = units.iter().find_map(|(unit, seconds)| {
        Some(text.strip_suffix(unit)?.parse::<u64>().ok()?.saturating_mul(*seconds))
    });
    life.filter(|life| *life > 0).ok_or_else(|| {
        BadInput(format!("`{text}`: expected a number and a unit, such as 90s, 10m, 2h or 7d"))
    })
}

pub(crate) async fn delete(socket: &Path, name: String, output: &Output) -> anyhow::Result<()> {
    let out: DeleteOut =
        get::<method::Delete>(socket, &NameIn { name: name.clone(), mock: None }).await?;
    if output.json() {
        output.print_json(&out);
        return Ok(());
    }
    output.line(&format!("{name} deleted"));
    if let Some(later) = out.later {
        output.line(&format!(
            "  {} removed in the background",
            counted(later, "object or replica is", "objects and replicas are")
        ));
    }
    out.notes.iter().flatten().for_each(|note| output.line(&output.paint(note, Tone::Busy)));
    Ok(())
}

pub(crate) async fn copy(
    socket: &Path,
    name: String,
    to: String,
    output: &Output,
) -> anyhow::Result<()> {
    let out: CopyOut =
        get::<method::Copy>(socket, &CopyIn { name: name.clone(), to, mock: None }).await?;
    copied(&format!("copied from {name}"), &out, output);
    Ok(())
}

pub(crate) async fn rename(
    socket: &Path,
    name: String,
    to: String,
    output: &Output,
) -> anyhow::Result<()> {
    // What follows a folder writes under the name that it was given.
    let watches = match get::<ingest::method::Watches>(socket, &Empty {}).await {
        Ok(out) => out.watches,
        Err(ClientError::Fault(fault)) if fault.name == broker::error::NoProvider::NAME => {
            Vec::new()
        }
        Err(error) => return Err(error.into()),
    };
    if watches.iter().any(|watch| watch.dataset == name) {
        let words = format!(
            "dataset `{name}` follows a folder under its name: `brahman ingest unwatch {name}`, rename it, and watch again"
        );
        return Err(BadInput(words).into());
    }
    let ask = CopyIn { name: name.clone(), to, mock: None };
    let mut outcome = get::<method::Rename>(socket, &ask).await;
    if let Err(error) = &outcome
        && forget_deleted(socket, &name, error).await?
    {
        outcome = get::<method::Rename>(socket, &ask).await;
    }
    let out: CopyOut = outcome?;
    copied(&format!("was {name}"), &out, output);
    Ok(())
}

/// If a dataset was not renamed for indexes of which none is there any more, has the catalog forget
/// them. Whether it did. Which are there only the module that serves real indexes can say, and only
/// once it is ready.
async fn forget_deleted(socket: &Path, name: &str, error: &ClientError) -> anyhow::Result<bool> {
    let ClientError::Fault(fault) = error else { return Ok(false) };
    if fault.name != error::InUse::NAME {
        return Ok(false);
    }
    let flow = FlowIn { flow: index::INTERFACE.name.to_owned(), context: None, require: None };
    let told = match get::<broker::method::Explain>(socket, &flow).await {
        Ok(told) => told,
        Err(ClientError::Fault(fault)) if fault.name == broker::error::NoProvider::NAME => {
            return Ok(false);
        }
        Err(error) => return Err(error.into()),
    };
    let first = told
        .candidates
        .into_iter()
        .find(|candidate| candidate.eligible)
        .map(|candidate| candidate.matched);
    let Some(provider) =
        first.filter(|matched| !matched.mock && matched.state == ModuleState::Ready)
    else {
        return Ok(false);
    };
    // It itself: whoever serves the flow by the time of the call may be another.
    let there = Connection::connect(Path::new(&provider.socket))
        .await?
        .call_method::<index::method::List>(&Empty {})
        .await?
        .indexes;
    let named =
        fault.parameters.get("indexes").and_then(serde_json::Value::as_array).into_iter().flatten();
    let named: Vec<&str> = named.filter_map(serde_json::Value::as_str).collect();
    if named.is_empty() || there.iter().any(|index| named.contains(&index.name.as_str())) {
        return Ok(false);
    }
    for index in named {
        let mark = MarkStaleIn {
            name: name.to_owned(),
            index: index.to_owned(),
            gone: Some(true),
            ..MarkStaleIn::default()
        };
        get::<method::MarkStale>(socket, &mark).await?;
    }
    Ok(true)
}

fn copied(how: &str, out: &CopyOut, output: &Output) {
    if output.json() {
        output.print_json(out);
    } else {
        output.line(&format!(
            "{} generation {}: {}, {how}",
            out.name,
            out.generation,
            counted(out.rows, "row", "rows")
        ));
    }
}

pub(crate) async fn pin(socket: &Path, ask: PinIn, output: &Output) -> anyhow::Result<()> {
    let name = ask.name.clone();
    let PinOut { pin } = get::<method::Pin>(socket, &ask).await?;
    if output.json() {
        output.print_json(&PinOut { pin });
    } else {
        output.line(&format!("{name} {}", pinned(&pin)));
        pin.folder.iter().for_each(|folder| output.line(&format!("  {folder}")));
    }
    Ok(())
}

pub(crate) async fn unpin(socket: &Path, ask: UnpinIn, output: &Output) -> anyhow::Result<()> {
    let name = ask.name.clone();
    let out: UnpinOut = get::<method::Unpin>(socket, &ask).await?;
    if output.json() {
        output.print_json(&out);
    } else {
        output.line(&format!("{name}: {} taken away", counted(out.unpinned, "pin", "pins")));
    }
    Ok(())
}

/// What a pin keeps, and for how long, in words.
pub(crate) fn pinned(pin: &PinnedGeneration) -> String {
    let left_ms = pin.until_ms.map(|until| until.saturating_sub(brahman_card::clock::now_ms()));
    let life = left_ms.map_or_else(
        || "until it is unpinned".to_owned(),
        |ms| format!("for {}", duration(ms.div_ceil(1000) as f64)),
    );
    format!("generation {} is kept {life} (pin {})", pin.generation, pin.pin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_is_a_number_and_a_unit() {
        let life = |text: &str| parse_life(text).ok();
        assert_eq!(
            [life("90s"), life("10m"), life("2h"), life("7d")],
            [Some(90), Some(600), Some(7200), Some(604_800)]
        );
        for bad in ["", "7", "d", "-1d", "0s", "1y", "1.5h"] {
            assert_eq!(life(bad), None, "{bad}");
        }
    }
}
