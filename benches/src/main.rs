//! `brahman-bench`: the figures of the mesh, each as a ratio against a named peer measured in the
//! same run.
//!
//! Usage: brahman-bench BINARIES [mesh|doors|embed|rerank|index|index-mesh|ingest|pii|score]… .
//! Figures inform; they never decide a test.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints, and stops at the first surprise"
)]

mod embed;
mod gateway;
mod index;
mod ingest;
mod mesh;
mod nginx;
mod pii;
mod rerank;
mod score;

use std::path::PathBuf;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let bin = PathBuf::from(
        arguments.next().expect("usage: brahman-bench BINARIES [mesh|doors|embed|rerank|index|index-mesh|ingest|pii|score]…"),
    );
    let parts: Vec<String> = arguments.collect();
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|p| p == part);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        if wanted("mesh") {
            mesh::run(&bin).await;
        }
        if wanted("doors") {
            gateway::run(&bin).await;
        }
        if wanted("embed") {
            embed::run(&bin).await;
        }
        if wanted("rerank") {
            rerank::run(&bin).await;
        }
        // Minutes of building and embedding: only when asked for.
        if parts.iter().any(|p| p == "index") {
            index::run(&bin).await;
        }
        if parts.iter().any(|p| p == "index-mesh") {
            index::run_on_mesh(&bin).await;
        }
        if parts.iter().any(|p| p == "ingest") {
            ingest::run(&bin).await;
        }
        if parts.iter().any(|p| p == "score") {
            score::run(&bin).await;
        }
        if parts.iter().any(|p| p == "pii") {
            pii::run();
        }
    });
}

/// One line of the table.
pub(crate) fn row(figure: &str, value: String, bar: &str, met: bool) {
    println!("| {figure} | {value} | {bar} | {} |", if met { "met" } else { "NOT met" });
}

pub(crate) fn head(title: &str) {
    println!("\n### {title}\n\n| figure | measured | bar | |\n|---|---|---|---|");
}

/// Median and 99th percentile.
pub(crate) fn percentiles(mut all: Vec<f64>) -> (f64, f64) {
    all.sort_by(f64::total_cmp);
    (all[all.len() / 2], all[all.len() * 99 / 100])
}
