//! Pooling in the graph beside pooling here: the same vectors, whatever the model and its rows.

use std::path::Path;
use std::sync::OnceLock;

use brahman_models::catalogue;
use brahman_models::device::DeviceChoice;
use brahman_models::layout::Overrides;
use brahman_models::runtime::load;
use brahman_sidecar::place::cache_dir;
use ort::environment::Environment;
use tempfile::TempDir;

use self::made_models::{MadeModel, WINDOW};
use super::{COPIED_BACK, POOLED_THERE, Row, Runner, open_pooling};
use crate::real::model::Model;

#[path = "../../../../../tests/src/made_models.rs"]
#[allow(dead_code, unreachable_pub, reason = "it belongs to the tests of whole meshes")]
mod made_models;

/// The id of a token whose vector is no number.
const VOID_ID: u32 = 17;

fn environment() -> &'static Environment {
    static ENVIRONMENT: OnceLock<Environment> = OnceLock::new();
    let open = || {
        load(&cache_dir(), DeviceChoice::Cpu)
            .expect("ONNX Runtime: run `make test`, or `brahman models pull`")
            .environment
    };
    ENVIRONMENT.get_or_init(open)
}

fn loaded(folder: &Path) -> Model {
    Model::load(folder, &Overrides::default()).expect("a model")
}

fn made(model: &MadeModel) -> (TempDir, Model) {
    let folder = tempfile::tempdir().expect("a temporary directory");
    model.write(folder.path());
    let model = loaded(folder.path());
    (folder, model)
}

fn opened(model: &Model, sums: Option<usize>) -> Runner {
    Runner::open(environment(), model, None, 1, sums).expect("a session")
}

/// Vectors of rows, pooled in the graph and pooled here.
fn both_ways(model: &Model, rows: &[Row<'_>]) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
    let sums = model.head.sums().expect("sums");
    let there = opened(model, Some(sums)).pool_there(rows, sums).expect("pooled there");
    let there = there.into_iter().map(|vector| model.head.after_pooling(vector)).collect();
    (there, opened(model, None).forward(rows).expect("pooled here"))
}

#[track_caller]
fn near(there: &[Vec<f32>], here: &[Vec<f32>], what: &str) {
    assert_eq!(there.len(), here.len(), "{what}");
    for (there, here) in there.iter().zip(here) {
        assert_eq!(there.len(), here.len(), "{what}");
        for (t, h) in there.iter().zip(here) {
            let most = 1e-6 * h.abs().max(1.0);
            assert!((t - h).abs() <= most, "{what}: {there:?}, expected {here:?}");
        }
    }
}

/// A row that is padded, one of the whole window, one of a single token, and one whose prompt is
/// not pooled.
const ROWS: [Row<'static>; 4] = [
    Row { ids: &[2, 4, 5, 6, 3], skip: 0 },
    Row { ids: &[2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 16, 3], skip: 0 },
    Row { ids: &[7], skip: 0 },
    Row { ids: &[2, 13, 15, 8, 9, 3], skip: 3 },
];

#[test]
fn every_pooling_that_is_a_sum_is_the_same_in_the_graph() {
    let pooled = |modes: &[&'static str]| MadeModel::pooled_by(modes);
    let models = [
        pooled(&["cls_token"]),
        pooled(&["mean_tokens"]),
        MadeModel { raw: true, ..pooled(&["mean_tokens"]) },
        MadeModel { raw: true, ..pooled(&["mean_sqrt_len_tokens"]) },
        MadeModel { raw: true, external: true, ..pooled(&["weightedmean_tokens"]) },
        pooled(&["lasttoken"]),
        pooled(&["cls_token", "mean_tokens", "lasttoken"]),
        MadeModel { dense: Some(5), ..pooled(&["mean_tokens", "cls_token"]) },
        MadeModel { half: true, ..pooled(&["mean_tokens"]) },
    ];
    for made_up in models {
        let (_folder, mut model) = made(&made_up);
        for fixed in [None, Some(WINDOW)] {
            model.plan.fixed_width = fixed;
            for rows in [&ROWS[..], &ROWS[..1], &ROWS[2..3]] {
                let (there, here) = both_ways(&model, rows);
                near(&there, &here, &format!("{made_up:?}, width {fixed:?}"));
            }
        }
    }
}

#[test]
fn padding_and_prompts_that_are_no_number_are_left_out_as_they_are_here() {
    let (_folder, mut model) = made(&MadeModel::pooled_by(&["mean_tokens"]));
    model.plan.pad_id = VOID_ID;
    let prompt = [Row { ids: &[2, VOID_ID, 8, 3], skip: 2 }];
    for rows in [&ROWS[..], &prompt[..]] {
        let (there, here) = both_ways(&model, rows);
        // 0 times what is no number is none: so the graph's sums alone would not do.
        assert!(there.iter().flatten().any(|x| x.is_nan()), "{there:?}");
        assert!(here.iter().flatten().all(|x| x.is_finite()), "{here:?}");
        let served = opened(&model, model.head.sums()).forward(rows).expect("pooled");
        assert_eq!(served, here);
    }
}

#[test]
fn a_text_of_no_token_and_one_that_is_no_number_have_no_vector_in_either_way() {
    let (_folder, model) = made(&MadeModel::pooled_by(&["mean_tokens"]));
    let rows = [Row { ids: &[], skip: 0 }, Row { ids: &[2, VOID_ID, 3], skip: 0 }, ROWS[0]];
    let vectors = opened(&model, model.head.sums()).forward(&rows).expect("pooled");
    let is_none = |vector: &Vec<f32>| vector.iter().all(|x| x.is_nan());
    assert_eq!(vectors.iter().map(is_none).collect::<Vec<_>>(), [true, true, false]);
}

#[test]
fn a_pooling_that_is_no_sum_or_is_refused_is_done_here_and_said() {
    let (_folder, model) = made(&MadeModel::pooled_by(&["mean_tokens"]));
    let (runner, said) = open_pooling(environment(), &model, None).expect("a session");
    assert_eq!((runner.sums, said.as_deref()), (Some(1), Some(POOLED_THERE)));

    let (_folder, model) = made(&MadeModel::pooled_by(&["mean_tokens", "max_tokens"]));
    let (runner, said) = open_pooling(environment(), &model, None).expect("a session");
    let said = said.expect("a reason");
    assert!(runner.sums.is_none() && said.starts_with(COPIED_BACK), "{said}");
    assert!(said.contains("max+mean is no weighted sum"), "{said}");

    // The same graph by the operators of ONNX 1.0, whose `Cast` is another.
    let (_folder, mut model) = made(&MadeModel::pooled_by(&["mean_tokens"]));
    let want = opened(&model, None).forward(&ROWS).expect("pooled here");
    *model.onnx.last_mut().expect("the version of the operators") = 5;
    let (runner, said) = open_pooling(environment(), &model, None).expect("a session");
    let said = said.expect("a reason");
    assert!(runner.sums.is_none() && said.starts_with(COPIED_BACK), "{said}");
    assert!(said.contains("refused") && said.contains("Cast"), "{said}");
    near(&runner.forward(&ROWS).expect("pooled here"), &want, "the older graph");
}

#[test]
fn the_default_model_pools_in_the_graph_as_it_does_here() {
    let model = loaded(&catalogue::folder(&cache_dir(), catalogue::NAME));
    let ids: Vec<Vec<u32>> =
        ["a river", "the mesh of services answers forty-two questions", "", "über"]
            .iter()
            .map(|text| model.reader.ids(text).expect("tokens").ids)
            .collect();
    let rows: Vec<Row<'_>> = ids.iter().map(|ids| Row { ids, skip: 0 }).collect();
    let (there, here) = both_ways(&model, &rows);
    near(&there, &here, catalogue::NAME);
}
