//! Figures of real models, beside those that numpy makes of the same weights.

use serde_json::{Value, json};

use super::{entry, induction, logprobs, matrix, memory, real};

#[tokio::test]
async fn the_figures_are_those_of_numpy_on_the_same_weights() {
    let mesh = real(|setup| setup).await;
    let file = std::fs::read(induction().join("reference.json")).expect("made by make.py");
    let reference: Value = serde_json::from_slice(&file).expect("JSON");
    let out = mesh
        .call("org.brahman.Score.Logprobs", json!({ "text": reference["text"] }))
        .await
        .expect("scored");
    let numbers = |list: &Value| {
        list.as_array()
            .expect("a list")
            .iter()
            .map(|x| x.as_f64().expect("a number"))
            .collect::<Vec<_>>()
    };
    let (ours, theirs) = (numbers(&out["logprobs"]), numbers(&reference["logprobs"]));
    assert!(ours.len() == theirs.len() && ours.len() > 2000, "{} and {}", ours.len(), theirs.len());
    let worst = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(worst <= 1e-4, "{worst}");
}

#[tokio::test]
async fn models_of_five_layouts_give_the_figures_of_numpy() {
    for name in ["gpt", "llama", "gemma", "uncached", "merged"] {
        let folder = brahman_tests::repository().join("tests/assets/small").join(name);
        let reference: Value = serde_json::from_slice(
            &std::fs::read(folder.join("reference.json")).expect("made by make.py"),
        )
        .expect("JSON");
        let mesh = real(|setup| setup.env("BRAHMAN_SCORE_MODEL", &folder)).await;
        let info = mesh.call("org.brahman.Score.Info", json!({})).await.expect("told");
        assert_eq!((&info["window"], &info["vocabulary"]), (&json!(4096), &json!(256)), "{name}");
        let out = mesh
            .call("org.brahman.Score.Logprobs", json!({ "text": reference["text"] }))
            .await
            .expect("scored");
        let (ours, theirs) = (
            out["logprobs"].as_array().expect("a list"),
            reference["logprobs"].as_array().expect("a list"),
        );
        assert_eq!(ours.len(), theirs.len(), "{name}");
        for (at, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
            match (ours.as_f64(), theirs.as_f64()) {
                (Some(ours), Some(theirs)) => {
                    assert!((ours - theirs).abs() <= 1e-4, "{name} {at}: {ours} {theirs}");
                }
                // Nothing stands before a text unless the tokenizer puts something there.
                (ours, theirs) => assert_eq!((ours, theirs, at), (None, None, 0), "{name}"),
            }
        }
        // What a memory gives is the difference of two plain passes over the same ids.
        let (fact, said) = ("Kolva is warm.", "It is Kolva.");
        let conversation = json!({ "conversation": [memory("m", fact), entry("user", "Where?"), entry("assistant", said)] });
        let (rows, done) = matrix(&mesh, json!({ "conversation": conversation })).await;
        let first = out["logprobs"][0].is_null();
        let mut sums = Vec::new();
        for before in [
            format!("memory: {fact}\nuser: Where?\nassistant: "),
            "user: Where?\nassistant: ".to_owned(),
        ] {
            let begin: &[u32] = if first { &[] } else { &[1] };
            let ids: Vec<u32> = begin
                .iter()
                .copied()
                .chain(format!("{before}{said}").bytes().map(u32::from))
                .collect();
            let plain = logprobs(&mesh, &ids).await;
            sums.push(plain[plain.len() - said.len()..].iter().sum::<f64>());
        }
        assert!((sums[0] - sums[1] - rows[0].deltas[0]).abs() < 1e-3, "{name}: {sums:?} {rows:?}");
        assert!(done.noise_floor < 1e-3, "{name}: {done:?}");
        mesh.down();
    }
}
