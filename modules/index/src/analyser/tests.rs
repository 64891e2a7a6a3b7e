//! Words of texts: what becomes one, of which languages, and what it costs.

use std::time::{Duration, Instant};

use super::*;

fn pieces(text: &str) -> Vec<(String, usize)> {
    let mut out = Vec::new();
    segment(text, &mut |piece| out.push((piece.text.to_owned(), piece.position)));
    out
}

fn texts(text: &str) -> Vec<String> {
    pieces(text).into_iter().map(|(text, _)| text).collect()
}

#[test]
fn words_are_folded_and_identifiers_are_cut_and_kept_whole() {
    for (text, words) in [
        ("The Réunion, naïve façade!", vec!["the", "reunion", "naive", "facade"]),
        ("STRASSE straße Æther Łódź", vec!["strasse", "strasse", "aether", "lodz"]),
        ("ＡＢＣ ﬁne ½", vec!["abc", "fine", "1⁄2"]),
        ("ёлка Ёлка", vec!["елка", "елка"]),
        ("parse_http_v2", vec!["parse_http_v2", "parse", "http", "v2"]),
        ("parseHTTPResponse", vec!["parsehttpresponse", "parse", "http", "response"]),
        ("__init__ _x ___", vec!["__init__", "init", "_x", "x"]),
        ("URLs HTTP sha256sum", vec!["urls", "http", "sha256sum"]),
        ("co\u{ad}operate don't 3.14", vec!["cooperate", "don", "t", "3", "14"]),
    ] {
        assert_eq!(texts(text), words, "{text}");
    }
    let places: Vec<usize> =
        pieces("see parseHTTP now").into_iter().map(|(_, position)| position).collect();
    assert_eq!(places, [0, 1, 1, 2, 3], "an identifier takes the places of its parts");
}

#[test]
fn scripts_without_spaces_are_pairs_and_their_last_character() {
    assert_eq!(texts("審批流程。"), ["審批", "批流", "流程", "程"]);
    assert_eq!(texts("猫"), ["猫"]);
    assert_eq!(texts("東京Tower"), ["東京", "京", "tower"]);
    assert_eq!(texts("ｶﾞｽ"), texts("ガス"));
    assert_eq!(texts("か"), ["か"]);
    assert_ne!(texts("がか"), texts("かか"), "the mark makes another letter");
    let mut places = Vec::new();
    let text = "a 流程b";
    segment(text, &mut |piece| places.push(&text[piece.from..piece.to]));
    assert_eq!(places, ["a", "流程", "程", "b"]);
}

#[test]
fn what_goes_on_without_a_space_is_found_by_its_beginning_in_linear_time() {
    let started = Instant::now();
    for unit in ["x", "aB", "é", "流"] {
        let text = unit.repeat((10 << 20) / unit.len());
        let mut count = 0_usize;
        segment(&text, &mut |piece| {
            assert!(piece.text.len() <= TOKEN_BYTES);
            count += 1;
        });
        assert!(count > 0, "{unit}");
    }
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
}

#[test]
fn languages_are_told_by_their_linking_words_and_scripts() {
    for (text, languages) in [
        (
            "We decided to keep nightly backups for thirty days, and this is the reason.",
            vec!["english"],
        ),
        ("Die Sicherung der Dateien ist für eine Nacht und nicht für den Tag.", vec!["german"]),
        (
            "Les fichiers sont dans le dossier et une copie est faite pour que rien ne manque.",
            vec!["french"],
        ),
        ("Мы сохраняем резервные копии каждую ночь.", vec!["russian"]),
        (
            "The backups of the server are kept: резервные копии каждую ночь.",
            vec!["english", "russian"],
        ),
        ("let x = foo.bar();", vec![]),
        ("今天天气很好，我们去公园散步。", vec![]),
        ("", vec![]),
    ] {
        assert_eq!(detected([text].into_iter()), languages, "{text}");
    }
    let named = |name| Analyser::of(Some(name), ["the of and"].into_iter()).languages().to_vec();
    assert_eq!(
        (named("none"), named("dutch"), named("auto")),
        (vec![], vec!["dutch".to_owned()], vec!["english".to_owned()])
    );
    assert!(
        check_language("klingon").is_err()
            && check_language("auto").is_ok()
            && check_language("tamil").is_ok()
    );
}

#[test]
fn stems_are_those_of_the_languages_and_forms_are_as_written() {
    let analyser = Analyser::of(Some("english"), std::iter::empty());
    let all = |mut analyzer: TextAnalyzer, text: &str| {
        let (mut stream, mut out) = (analyzer.token_stream(text), Vec::new());
        while stream.advance() {
            out.push(stream.token().text.clone());
        }
        out
    };
    assert_eq!(all(analyser.stems(), "nightly backups 流程"), ["night", "backup", "流程", "程"]);
    assert_eq!(all(analyser.forms(), "nightly backups 流程"), ["nightly", "backups"]);
    assert_eq!(analyser.reducer().stem("backups"), "backup");
    let mut linking = analyser.linking_words();
    assert!(linking.has("The") && linking.has("how") && !linking.has("backup"));
    let record = serde_json::to_string(&analyser).expect("written");
    assert_eq!(record, r#"{"version":1,"languages":["english"]}"#);
    let later: Analyser =
        serde_json::from_str(r#"{"version":7,"languages":["klingon"]}"#).expect("reads");
    assert!(!later.is_known() && later.renewed().is_known());
}
