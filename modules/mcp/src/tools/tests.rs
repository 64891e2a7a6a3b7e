//! Tools as a client sees them: their descriptions, bounds and texts.

use super::search::{each_once, joined, remarks};
use super::*;

fn chunk(start: u64, text: &str) -> index::Hit {
    index::Hit {
        start,
        end: start + text.len() as u64,
        text: text.to_owned(),
        ..index::Hit::default()
    }
}

#[test]
fn a_document_is_put_together_from_chunks_that_overlap() {
    let whole = "first line\nsecond line\nthird ä line\n";
    let chunks = [chunk(11, &whole[11..]), chunk(0, &whole[..16]), chunk(3, &whole[3..9])];
    assert_eq!(joined(&chunks), whole);
    assert_eq!(joined(&[chunk(0, "a"), chunk(10, "b")]), "a\nb", "what is missing is a line's end");
}

#[test]
fn a_model_is_told_of_an_index_whose_dataset_is_gone() {
    let out = index::SearchOut { dataset_gone: Some(true), ..index::SearchOut::default() };
    let notes = remarks("notes", &out);
    assert!(notes.len() == 1 && notes[0].contains("deleted or renamed"), "{notes:?}");
    assert!(remarks("notes", &index::SearchOut::default()).is_empty());
}

#[test]
fn arguments_are_bounded_and_no_index_is_searched_twice() {
    let names =
        |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<String>>();
    assert_eq!(each_once(names(&["a", "b", "a"])), names(&["a", "b"]));
    let fault = within("indexes", vec![0; INDEXES_MAX + 1], INDEXES_MAX).expect_err("too many");
    assert!(fault.message().contains("65") && fault.message().contains("64"), "{fault}");
    assert!(within("indexes", vec![0; INDEXES_MAX], INDEXES_MAX).is_ok());
}

#[test]
fn every_tool_describes_itself_and_its_arguments() {
    let tools = list();
    let tools = tools.as_array().expect("a list");
    let names: Vec<&str> = tools.iter().filter_map(|tool| tool["name"].as_str()).collect();
    assert_eq!(names, ["search", "get", "list", "ingest", "embed", "score", "explain"]);
    for tool in tools {
        assert!(tool["description"].as_str().is_some_and(|words| words.len() > 40), "{tool}");
        let properties = tool["inputSchema"]["properties"].as_object().expect("an object");
        for required in tool["inputSchema"]["required"].as_array().expect("a list") {
            assert!(properties.contains_key(required.as_str().expect("a name")), "{tool}");
        }
    }
}
