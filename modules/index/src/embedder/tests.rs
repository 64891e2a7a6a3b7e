//! Whose vectors are taken, and what is said where none are.

use super::*;

fn model(name: &str, mock: bool) -> Model {
    Model { name: name.into(), fingerprint: format!("{name}-v1"), dim: 32, mock }
}

#[test]
fn what_a_mock_made_before_models_were_marked_is_a_mocks_and_what_is_real_is_written_as_ever() {
    let old = r#"{"name": "mock-hash-32", "fingerprint": "mock-hash-32-v1", "dim": 32}"#;
    assert_eq!(serde_json::from_str::<Model>(old).expect("reads"), model("mock-hash-32", true));
    let text = r#"{"name":"real","fingerprint":"real-v1","dim":32}"#;
    let real: Model = serde_json::from_str(text).expect("reads");
    assert_eq!((&real, real.mark()), (&model("real", false), None));
    assert_eq!(serde_json::to_string(&real).expect("written"), text);
    let marked = serde_json::to_string(&model("other", true)).expect("written");
    assert_eq!(serde_json::from_str::<Model>(&marked).expect("reads"), model("other", true));
}

#[test]
fn a_stream_is_asked_of_the_model_that_is_wanted_and_of_no_other_that_is_ready() {
    let message = opening(require(Some(&model("real", false)))).expect("encodes");
    let message = String::from_utf8(message).expect("text");
    assert!(
        message.contains(r#""fingerprint":"real-v1""#) && !message.contains("deadline"),
        "{message}"
    );
}

#[test]
fn real_vectors_are_not_given_up_for_a_mocks() {
    let (real, mock) = (model("real", false), model("mock", true));
    let fault = may_replace("x", &real, &mock, false).expect_err("refused");
    assert_eq!(fault.name, ModelMismatch::NAME);
    assert!(["`x`", "real", "mock"].iter().all(|word| fault.message().contains(word)), "{fault}");
    for (from, to, allow_mock) in
        [(&real, &mock, true), (&mock, &mock, false), (&mock, &real, false), (&real, &real, false)]
    {
        may_replace("x", from, to, allow_mock).expect("allowed");
    }
}

#[test]
fn a_refusal_says_what_to_do_about_the_indexes_model() {
    let none = || Fault::new(NoProvider::NAME, true, "nothing serves");
    let said = explained(none(), &model("mock", true), "x");
    assert!(
        said.retryable()
            && said.message().contains("brahman index migrate x")
            && said.message().contains("nothing serves"),
        "{said}"
    );
    let said = explained(none(), &model("real", false), "x");
    assert!(
        said.message().contains("models enable real") && said.message().contains("nothing serves"),
        "{said}"
    );
    assert_eq!(explained(Fault::internal("broken"), &model("mock", true), "x").message(), "broken");
    let refused = [
        "a: is excluded".to_owned(),
        "embed-real: fingerprint = `f` is required, it is stopped".to_owned(),
    ];
    let said = explained(
        Fault::no_provider("org.brahman.Embed", Some("prod"), &refused),
        &model("real", false),
        "x",
    );
    assert!(
        said.message().contains("`brahman start embed-real`")
            && !said.message().contains("index migrate"),
        "{said}"
    );
    let said = explained(
        Fault::no_provider("org.brahman.Embed", None, &refused[1..]),
        &model("real", false),
        "x",
    );
    assert!(said.message().contains("`brahman start embed-real`"), "{said}");
}
