//! Graphs that are built, searched and repaired, against an exact search.

use proptest::prelude::*;

use super::adopting::ADOPT_EF;
use super::*;
use crate::sample::unit_vectors;

fn parameters(seed: u64) -> Parameters {
    Parameters { m: 8, ef_construction: 40, seed }
}

fn recall(flat: &FlatIndex, queries: &[f32], ask: &SearchParameters<'_>) -> f64 {
    let dim = flat.store.dim();
    let (mut hits, mut all) = (0, 0);
    for query in queries.chunks(dim) {
        let truth = flat.store.exact(query, ask.k, ask.live, 1);
        let found = flat.search(query, ask);
        assert!(found.iter().all(|f| ask.live.is_none_or(|live| live.has(f.row))));
        all += truth.len();
        hits += truth.iter().filter(|t| found.contains(t)).count();
    }
    hits as f64 / all.max(1) as f64
}

#[test]
fn the_same_vectors_give_the_same_graph_on_any_number_of_threads() {
    let vectors = unit_vectors(7, 3000, 24);
    let [one, three] = [1, 3].map(|threads| {
        FlatIndex::build(&vectors, 24, parameters(1), threads, &|_| true).expect("built")
    });
    assert_eq!(one.1, three.1);
    assert_eq!(one.0.base.bytes(), three.0.base.bytes());
    assert_eq!((one.0.upper, one.0.top), (three.0.upper, three.0.top));
}

#[test]
fn a_build_can_be_stopped() {
    let vectors = unit_vectors(7, 3000, 8);
    // While rows are inserted, and while each of them is asked for.
    for stop in [500, 3000] {
        let error = FlatIndex::build(&vectors, 8, parameters(1), 2, &|done| done < stop)
            .expect_err("stopped");
        assert_eq!(error.kind(), io::ErrorKind::Interrupted);
    }
}

#[test]
fn rows_that_no_list_names_are_given_a_way_in() {
    let (dim, cut_off) = (24, [7, 800, 1999]);
    let vectors = unit_vectors(7, 3000, dim);
    let (mut flat, _) =
        FlatIndex::build(&vectors, dim, parameters(1), 2, &|_| true).expect("built");
    // Only rows of the base level: the others have more ways in.
    let cut_off: Vec<u32> = cut_off
        .into_iter()
        .map(|from| (from..).find(|r| flat.levels[*r as usize] == 0).expect("a row"))
        .collect();
    for list in
        bytemuck::cast_slice_mut::<u8, u32>(flat.base.bytes_mut()).chunks_mut(2 * flat.parameters.m)
    {
        let kept: Vec<u32> = list.iter().copied().filter(|n| !cut_off.contains(n)).collect();
        list.fill(NONE);
        list[..kept.len()].copy_from_slice(&kept);
    }
    assert_eq!(flat.orphans(64, 2, usize::MAX), cut_off);
    flat.adopt(2, &|_| true).expect("not stopped");
    assert_eq!(flat.orphans(64, 2, usize::MAX), Vec::<u32>::new());
    assert_eq!(flat.orphans(ADOPT_EF, 2, usize::MAX), Vec::<u32>::new());
}

#[test]
fn among_near_duplicates_that_codes_cannot_tell_apart_each_is_found() {
    let (dim, rows) = (32, 20_000);
    let (point, noise) = (unit_vectors(3, 1, dim), unit_vectors(5, rows, dim));
    let mut vectors = noise;
    for vector in vectors.chunks_mut(dim) {
        vector.iter_mut().zip(&point).for_each(|(x, p)| *x = p + 0.02 * *x);
        let length = kernel::dot(vector, vector).sqrt();
        vector.iter_mut().for_each(|x| *x /= length);
    }
    let (flat, _) = FlatIndex::build(&vectors, dim, parameters(2), 2, &|_| true).expect("built");
    assert_eq!(flat.orphans(64, 2, usize::MAX), Vec::<u32>::new());
    let asked = (0..rows as u32).step_by(200);
    let itself = |row: u32| {
        flat.search(flat.store.vector(row), &SearchParameters { k: 10, ef: 64, live: None })[0].row
            == row
    };
    assert!(asked.clone().all(itself));
}

#[test]
fn rows_stay_where_they_are_as_an_index_outgrows_being_scanned() {
    let vectors = unit_vectors(7, 3000, 8);
    let (few, rest) = vectors.split_at(100 * 8);
    let flat =
        FlatIndex::build_in_order(few.to_vec(), 8, parameters(1), 2, &|_| true).expect("few");
    let flat = flat.insert(rest, 2, &|_| true).expect("inserted");
    assert!(!flat.top.is_empty() && flat.store.vectors() == vectors);
    assert_eq!(flat.orphans(ADOPT_EF, 2, usize::MAX), Vec::<u32>::new());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]
    #[test]
    fn random_inserts_deletes_and_filters_are_searched_as_exactly_as_before(
        seed in any::<u64>(),
        rows in 1100_usize..3000,
        added in 1_usize..900,
        dead in 2_u64..12,
        share in 1_u64..40,
    ) {
        let dim = 16;
        let vectors = unit_vectors(seed, rows + added + 20, dim);
        let (queries, vectors) = vectors.split_at(20 * dim);
        let (first, rest) = vectors.split_at(rows * dim);
        let (flat, order) =
            FlatIndex::build(first, dim, parameters(seed), 2, &|_| true).expect("built");
        for (row, old) in order.iter().enumerate() {
            prop_assert_eq!(flat.store.vector(row as u32), &first[*old as usize * dim..][..dim]);
        }
        let flat = flat.insert(rest, 2, &|_| true).expect("inserted");
        prop_assert_eq!(flat.store.len(), rows + added);
        prop_assert_eq!(flat.store.vector(rows as u32), &rest[..dim]);
        prop_assert!(flat.orphans(64, 2, usize::MAX).is_empty());
        // Few rows are scanned, so the walk is asked by itself.
        let walked = |query: &[f32]| flat.walk(query, 5, 100, None).best;
        let right = queries.chunks(dim).flat_map(|q| {
            let truth = flat.store.exact(q, 5, None, 1);
            walked(q).into_iter().filter(move |f| truth.contains(f))
        });
        prop_assert!(right.count() >= 95, "of 100");
        let found = |live: Option<&LiveRows>| {
            recall(&flat, queries, &SearchParameters { k: 5, ef: 100, live })
        };
        prop_assert!(found(None) >= 0.95);
        let live = LiveRows::of(rows + added, |row| !mix(row as u64).is_multiple_of(dead));
        prop_assert!(found(Some(&live)) >= 0.95);
        let filter = LiveRows::of(rows + added, |row| (row as u64).is_multiple_of(share));
        prop_assert!(found(Some(&live.and(&filter))) >= 0.95);
    }
}
