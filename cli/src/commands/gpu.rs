//! `brahman gpu`: graphics processors, and who holds memory there and in the main memory.

use std::path::Path;
use std::time::Duration;

use brahman_card::interface::Empty;
use brahman_card::interface::profiles::{SlotUse, VramOut, method};

use super::get;
use crate::output::{Output, Tone};

/// How often it is shown again.
const AGAIN: Duration = Duration::from_secs(1);
/// Columns of a bar.
const BAR_COLUMNS: u64 = 20;

pub(crate) async fn gpu(socket: &Path, watch: bool, output: &Output) -> anyhow::Result<()> {
    let mut every = tokio::time::interval(AGAIN);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut is_first = true;
    loop {
        every.tick().await;
        let out = get::<method::Vram>(socket, &Empty {}).await?;
        if output.json() {
            output.print_json(&out);
        } else {
            if !std::mem::take(&mut is_first) {
                output.line("");
            }
            show(&out, output);
        }
        if !watch {
            return Ok(());
        }
    }
}

/// How much of something is used, as a bar.
fn bar(used: u64, total: u64) -> String {
    let filled = used.min(total).saturating_mul(BAR_COLUMNS).checked_div(total).unwrap_or(0);
    (0..BAR_COLUMNS).map(|at| if at < filled { '█' } else { '░' }).collect()
}

/// Mebibytes as people read them.
fn size(mib: u64) -> String {
    if mib < 1024 { format!("{mib} MiB") } else { format!("{:.1} GiB", mib as f64 / 1024.0) }
}

fn show(out: &VramOut, output: &Output) {
    let rows = out.gpus.iter().map(|gpu| {
        vec![
            gpu.index.to_string(),
            gpu.name.clone(),
            gpu.uuid.clone(),
            format!(
                "{} {} of {}",
                bar(gpu.used_mib, gpu.total_mib),
                size(gpu.used_mib),
                size(gpu.total_mib)
            ),
            format!("{} %", gpu.utilisation),
        ]
    });
    output.table(&["GPU", "NAME", "UUID", "MEMORY", "BUSY"], rows.collect());
    if let Some(reason) = &out.reason {
        output.line(&output.paint(reason, Tone::Faint));
    }
    for slot in &out.slots {
        show_slot(slot, output);
    }
    let Some(external) = &out.external else { return };
    output.line(&format!("{}  Ollama", output.paint(&external.url, Tone::Strong)));
    if let Some(reason) = &external.reason {
        output.note(&format!("warning: {reason}"));
    }
    let rows = external.models.iter().map(|model| {
        let expires = model.expires.clone().unwrap_or_default();
        vec![format!("  {}", model.name), size(model.mib), size(model.vram_mib), expires]
    });
    output.table(&["  MODEL", "SIZE", "ON GPU", "UNLOADED"], rows.collect());
}

fn show_slot(slot: &SlotUse, output: &Output) {
    let lost: u64 = slot.quarantined.iter().flatten().map(|lost| lost.mib).sum();
    let reserved = slot.reservations.iter().map(|held| held.mib).sum::<u64>() + lost;
    let (bar, free) = (bar(reserved, slot.capacity_mib), size(slot.available_mib));
    let words = format!(
        "{bar} {} of {} reserved, {free} to be had",
        size(reserved),
        size(slot.capacity_mib)
    );
    output.line(&format!("{}  {words}", output.paint(&slot.slot, Tone::Strong)));
    let rows = slot.reservations.iter().map(|held| {
        vec![
            format!("  {}", held.module),
            size(held.mib),
            held.measured_mib.map_or_else(|| "?".to_owned(), size),
            held.state.clone(),
            if held.pinned { "pinned" } else { "" }.to_owned(),
            held.idle_s.map_or_else(|| "at work".to_owned(), |seconds| format!("{seconds} s")),
        ]
    });
    output.table(&["  MODULE", "RESERVED", "MEASURED", "STATE", "PINNED", "IDLE"], rows.collect());
    for lost in slot.quarantined.iter().flatten() {
        output.note(&format!(
            "warning: {} of `{}` did not come back: {}",
            size(lost.mib),
            lost.module,
            lost.reason
        ));
    }
    for note in slot.notes.iter().flatten() {
        output.note(&format!("warning: {note}"));
    }
}

#[cfg(test)]
mod tests {
    use brahman_card::interface::profiles::{GpuUse, Reservation};

    use super::*;

    #[test]
    fn memory_is_printed_for_people() {
        let reservation = Reservation {
            module: "embed-a".into(),
            mib: 700,
            measured_mib: Some(512),
            state: "loaded".into(),
            ..Reservation::default()
        };
        let slot = SlotUse {
            slot: "cpu".into(),
            capacity_mib: 1400,
            available_mib: 700,
            reservations: vec![reservation],
            ..SlotUse::default()
        };
        let gpu = GpuUse {
            uuid: "GPU-1".into(),
            name: "H100".into(),
            total_mib: 81920,
            used_mib: 40960,
            utilisation: 7,
            ..GpuUse::default()
        };
        let output = Output::kept();
        show(&VramOut { gpus: vec![gpu], slots: vec![slot], ..VramOut::default() }, &output);
        let expected = "GPU  NAME  UUID   MEMORY                                  BUSY\n\
                        0    H100  GPU-1  ██████████░░░░░░░░░░ 40.0 GiB of 80.0 GiB  7 %\n\
                        cpu  ██████████░░░░░░░░░░ 700 MiB of 1.4 GiB reserved, 700 MiB to be had\n\
                        \x20 MODULE  RESERVED  MEASURED  STATE   PINNED  IDLE\n\
                        \x20 embed-a  700 MiB   512 MiB   loaded          at work\n";
        let squeezed = |text: &str| {
            text.lines()
                .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
                .collect::<Vec<_>>()
        };
        assert_eq!(squeezed(&output.printed()), squeezed(expected));
    }

    #[test]
    fn a_bar_is_never_longer_than_itself() {
        assert_eq!(bar(0, 0).chars().filter(|c| *c == '█').count(), 0);
        assert_eq!(
            (bar(9, 3).chars().count(), bar(9, 3).chars().filter(|c| *c == '█').count()),
            (20, 20)
        );
    }
}
