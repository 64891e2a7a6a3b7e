//! The engines, by name: what makes the graph that a search walks. Vectors, exact search, filters,
//! walks and files are the same for all, [`flat_hnsw`]'s, so that engines differ by their graphs
//! alone.

mod hnsw_rs;

use std::borrow::Cow;
use std::io;

use flat_hnsw::build::Parameters;
use flat_hnsw::{FlatIndex, Progress};

/// What is to be built, and how.
#[expect(missing_debug_implementations, reason = "what hears of progress has none")]
pub struct Work<'a> {
    /// Of length 1, one after the other. Those that are given away are not copied.
    pub vectors: Cow<'a, [f32]>,
    /// How many numbers a vector has.
    pub dim: usize,
    /// Of the graph that is built.
    pub parameters: Parameters,
    /// How many threads at most.
    pub threads: usize,
    /// Hears how many rows are done, and says whether to go on.
    pub progress: &'a Progress<'a>,
}

/// There is no engine of a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{name}`, expected one of {}", names())]
pub struct UnknownEngine {
    /// The name that no engine has.
    pub name: String,
}

fn names() -> String {
    ENGINES.map(Engine::name).join(", ")
}

/// A parameter that an engine cannot build by.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{parameter}: {value}, expected {expected}")]
pub struct ParameterError {
    /// Name of the parameter in the call.
    pub parameter: &'static str,
    /// The number that will not do.
    pub value: usize,
    /// Which numbers would do, in words.
    pub expected: String,
}

/// What makes an index out of vectors.
pub trait Engine: Sync {
    /// Its name in `Create`, manifests and replies.
    fn name(&self) -> &'static str;

    /// Says what is wrong with parameters that it cannot build by.
    ///
    /// # Errors
    /// [`ParameterError`].
    fn check(&self, _parameters: &Parameters) -> Result<(), ParameterError> {
        Ok(())
    }

    /// Builds the index; also gives, for each row of it, the number that it had among the vectors.
    ///
    /// # Errors
    /// If there is not enough memory, or with [`io::ErrorKind::Interrupted`] if told to stop.
    fn build(&self, work: Work<'_>) -> io::Result<(FlatIndex, Vec<u32>)>;
}

/// Our own builder; the same graph on any number of threads.
struct FlatHnsw;

impl Engine for FlatHnsw {
    fn name(&self) -> &'static str {
        "flat-hnsw"
    }

    fn build(&self, work: Work<'_>) -> io::Result<(FlatIndex, Vec<u32>)> {
        FlatIndex::build_owned(
            work.vectors.into_owned(),
            work.dim,
            work.parameters,
            work.threads,
            work.progress,
        )
    }
}

/// No graph: every search compares all rows.
struct Exact;

impl Engine for Exact {
    fn name(&self) -> &'static str {
        "exact"
    }

    fn build(&self, work: Work<'_>) -> io::Result<(FlatIndex, Vec<u32>)> {
        FlatIndex::unlinked(work.vectors.into_owned(), work.dim, work.parameters)
    }
}

/// All of them; the first is the default.
pub static ENGINES: [&dyn Engine; 3] = [&FlatHnsw, &hnsw_rs::HnswRs, &Exact];

/// The engine of a name.
///
/// # Errors
/// [`UnknownEngine`].
pub fn named(name: &str) -> Result<&'static dyn Engine, UnknownEngine> {
    ENGINES
        .into_iter()
        .find(|engine| engine.name() == name)
        .ok_or_else(|| UnknownEngine { name: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use flat_hnsw::SearchParameters;
    use flat_hnsw::sample::unit_vectors;
    use flat_hnsw::store::LiveRows;

    #[test]
    fn every_engine_finds_what_comparing_all_rows_finds() {
        let (rows, dim) = (4000, 24);
        let (vectors, queries) = (unit_vectors(1, rows, dim), unit_vectors(2, 200, dim));
        let parameters = Parameters { m: 12, ef_construction: 100, seed: 0 };
        for engine in ENGINES {
            let (flat, order) = engine
                .build(Work {
                    vectors: Cow::Borrowed(&vectors),
                    dim,
                    parameters,
                    threads: 2,
                    progress: &|_| true,
                })
                .expect("built");
            assert_eq!(order.len(), rows);
            assert!(
                order
                    .iter()
                    .zip(0..)
                    .all(|(old, new)| flat.store.vector(new)
                        == &vectors[*old as usize * dim..][..dim])
            );
            assert!(
                flat.orphans(64, 2, usize::MAX).is_empty(),
                "{}: every row finds itself",
                engine.name()
            );
            for share in [1, 2, 100] {
                let live = LiveRows::of(rows, |row| row.is_multiple_of(share));
                let ask = SearchParameters { k: 10, ef: 200, live: Some(&live) };
                let right: usize = queries
                    .chunks(dim)
                    .map(|query| {
                        let truth = flat.store.exact(query, 10, Some(&live), 1);
                        flat.search(query, &ask)
                            .iter()
                            .filter(|found| truth.contains(found))
                            .count()
                    })
                    .sum();
                assert!(right >= 1980, "{} at 1/{share}: {right} of 2000", engine.name());
            }
        }
    }

    #[test]
    fn every_engine_takes_few_rows_and_equal_ones_and_stops_when_told() {
        let parameters = Parameters { m: 4, ef_construction: 16, seed: 0 };
        for engine in ENGINES {
            for rows in [0, 1, 2000] {
                let equal: Vec<f32> = std::iter::repeat_n([0.6_f32, 0.8], rows).flatten().collect();
                let (flat, _) = engine
                    .build(Work {
                        vectors: Cow::Borrowed(&equal),
                        dim: 2,
                        parameters,
                        threads: 2,
                        progress: &|_| true,
                    })
                    .expect("built");
                assert_eq!(
                    flat.search(&[0.6, 0.8], &SearchParameters { k: 3, ef: 10, live: None }).len(),
                    rows.min(3),
                    "{}",
                    engine.name()
                );
            }
            let vectors = unit_vectors(1, 3000, 8);
            let told = engine.build(Work {
                vectors: Cow::Borrowed(&vectors),
                dim: 8,
                parameters,
                threads: 2,
                progress: &|done| done < 1000,
            });
            assert_eq!(told.is_err(), engine.name() != "exact", "{}", engine.name());
        }
        assert!(
            named("faiss")
                .is_err_and(|error| error.to_string().contains("flat-hnsw, hnsw-rs, exact"))
        );
        let wrong = |m, ef_construction| {
            ENGINES[1]
                .check(&Parameters { m, ef_construction, seed: 0 })
                .expect_err("out of bounds")
                .parameter
        };
        assert_eq!((wrong(256, 4000), wrong(16, 32)), ("m", "ef_construction"));
    }
}
