//! Builds an index of 20,000 random vectors, writes it, maps it again, and searches it with and
//! without a filter.
//!
//! `cargo run --release -p flat-hnsw --example search`

use std::error::Error;
use std::time::Instant;

use flat_hnsw::{FlatIndex, LiveRows, Parameters, SearchParameters, sample};

const DIM: usize = 128;
const ROWS: usize = 20_000;

#[expect(clippy::print_stdout, reason = "an example shows what it found")]
fn main() -> Result<(), Box<dyn Error>> {
    let vectors = sample::unit_vectors(1, ROWS, DIM);
    let began = Instant::now();
    // Rows are put in another order than they came in; `numbers[row]` says where a row was.
    let (index, numbers) = FlatIndex::build(&vectors, DIM, Parameters::default(), 2, &|_| true)?;
    println!(
        "built {ROWS} × {DIM} in {:.1} s, {:.1} MB",
        began.elapsed().as_secs_f64(),
        index.memory_bytes() as f64 / 1e6
    );

    let path = std::env::temp_dir().join(format!("flat-hnsw-example-{}.flat", std::process::id()));
    index.save(&path)?;
    let index = FlatIndex::open(&path)?;
    std::fs::remove_file(&path)?;

    let query = &vectors[42 * DIM..][..DIM];
    let began = Instant::now();
    for found in index.search(query, &SearchParameters { k: 3, ef: 64, live: None }) {
        println!("vector {:>5}  inner product {:.4}", numbers[found.row as usize], found.score);
    }
    println!("in {} µs", began.elapsed().as_micros());

    // Only vectors with an even number: the search is exact wherever a walk could miss.
    let even = LiveRows::of(ROWS, |row| numbers[row].is_multiple_of(2));
    let best = index.search(query, &SearchParameters { k: 1, ef: 64, live: Some(&even) })[0];
    println!("with a filter: vector {}, exactly as {}", numbers[best.row as usize], {
        let truth = index.store.exact(query, 1, Some(&even), 1)[0];
        numbers[truth.row as usize]
    });
    Ok(())
}
