//! What is found in the folder of all indexes when the module begins.

use super::*;

fn service(folder: &Path) -> IndexService {
    let client = Client::new(&folder.with_file_name("brahman.sock"));
    IndexService::open(folder, &folder.with_file_name("index.toml"), client).expect("opens")
}

fn write(folder: &Path, name: &str, of: &str) {
    let parameters = CreateIn { name: of.to_owned(), ..CreateIn::default() };
    fs::create_dir_all(folder.join(name)).expect("made");
    fs::write(folder.join(name).join(PARAMETERS), sealed::to_vec(&parameters).expect("sealed"))
        .expect("written");
}

#[test]
fn an_index_is_the_one_its_folder_is_called_by_and_what_is_no_name_is_left_alone() {
    let place = tempfile::tempdir().expect("a temporary directory");
    let folder = place.path().join("indexes");
    for (name, of) in [
        ("a", "a"),
        ("b", "../../work"),
        ("c d", "c d"),
        (".hidden", "x"),
        ("rescue.json", "rescue.json"),
    ] {
        write(&folder, name, of);
    }
    let service = service(&folder);
    let known: Vec<String> = lock(&service.indexes).keys().cloned().collect();
    assert_eq!(
        known,
        ["a", "b", "rescue.json"],
        "what was there before its name was reserved stays"
    );
    assert!(service.index("a").is_ok() && service.index("rescue.json").is_ok());
    let fault = service.index("b").expect_err("whose files are these?");
    assert!(
        fault.name == "org.brahman.Index.Damaged"
            && fault.message().contains("belongs to another index"),
        "{fault}"
    );
    assert!(
        service.attributes()["damaged"].starts_with("b: index.json"),
        "{:?}",
        service.attributes()
    );
    assert_eq!(service.stub("a").expect("a name"), folder.join("a"));
    for bad in ["", ".", "..", "a/b", "../a"] {
        assert!(service.stub(bad).is_err(), "{bad}");
    }
    assert!(folder.join("c d").join(PARAMETERS).exists());
}

#[test]
fn a_folder_that_can_be_written_to_is_said_nothing_of() {
    let place = tempfile::tempdir().expect("a temporary directory");
    let service = service(&place.path().join("indexes"));
    assert!(service.attributes().is_empty());
    assert!(WRITING.iter().chain(&["Search"]).all(|method| service.may_write(method).is_ok()));
}
