//! Templates: what they find, and how those that misbehave end.

use super::*;

fn rendered(template: &str, messages: Value) -> Result<String, ChatError> {
    let source = Source::new("given", template)?;
    let how = ChatTemplate { now_s: Some(1_700_000_000), ..ChatTemplate::default() };
    let mut templates = Templates::default();
    templates.special.insert("bos_token".to_owned(), "<s>".into());
    let Value::Array(messages) = messages else { panic!("a list") };
    Renderer::new(&source, Some(&templates), None, &how)?.render(messages)
}

fn shown(template: &str) -> String {
    rendered(template, json!([{ "role": "user", "content": " Hi 'you'. " }]))
        .unwrap_or_else(|error| panic!("{template}: {error:?}"))
}

#[test]
fn a_template_finds_what_it_would_find_in_python() {
    for (template, text) in [
        ("{{ bos_token }}{{ messages[0].content.strip() }}", "<s>Hi 'you'."),
        ("{{ messages[0]['content'] | trim | tojson }}", "\"Hi 'you'.\""),
        (
            "{{ {'b': [1, 2.5, none, true], 'a': {}} | tojson }}",
            "{\"b\": [1, 2.5, null, true], \"a\": {}}",
        ),
        (
            "{{ {'b': [1], 'a': 'ü'} | tojson(indent=2, sort_keys=true) }}",
            "{\n  \"a\": \"ü\",\n  \"b\": [\n    1\n  ]\n}",
        ),
        (
            "{{ {'a': 'ü<'} | tojson(ensure_ascii=true, separators=(',', ':')) }}",
            "{\"a\":\"\\u00fc<\"}",
        ),
        ("{{ {'a': ['x', true, none]} }}", "{'a': ['x', True, None]}"),
        (
            "{{ [1e16, 1e15, 1e-5, 1e-4, 123456789012345680.0, 100.0, 2.5e-7, 1.5e300] | tojson }}",
            "[1e+16, 1000000000000000.0, 1e-05, 0.0001, 1.2345678901234568e+17, 100.0, 2.5e-07, 1.5e+300]",
        ),
        ("{{ 1e22 }} {{ 0.1 }} {{ -2.0 }} {{ [7, 1e-9] }}", "1e+22 0.1 -2.0 [7, 1e-09]"),
        (
            "{{ ['\u{a0}\u{200b}\u{e9}\u{7f}\u{e9}\u{301}\u{e0001}'] }}",
            "['\\xa0\\u200b\u{e9}\\x7f\u{e9}\u{301}\\U000e0001']",
        ),
        ("{{ '\u{7f}\u{2028}' | tojson(ensure_ascii=true) }}", "\"\\u007f\\u2028\""),
        ("{{ none }}{{ undefined_name }}{{ true }}", "NoneTrue"),
        (
            "{{ 'a-b-c'.split('-')[-1] }}{{ 'a b  c'.split()[1] }}{{ 'a-b-c'.rsplit('-', 1)[0] }}",
            "cba-b",
        ),
        (
            "{{ {'a': 1}.get('b', 'c') }}{{ {'a': 1}.get('a') }}{{ {'a': 1}.get('x') is none }}",
            "c1True",
        ),
        ("{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}{{ v }}{% endfor %}", "a1b2"),
        ("{{ 'abc'.startswith('ab') and 'abc'.endswith('bc') }}{{ 'abc'.find('c') }}", "True2"),
        (
            "{{ messages[::-1] | length }}{{ messages is sequence }}{{ 'x' is sequence }}{{ 'x' is mapping }}",
            "1TrueTrueFalse",
        ),
        (
            "{% set n = namespace(i=0) %}{% for i in [1, 2, 9] %}{% if i == 9 %}{% break %}{% endif %}{% set n.i = i %}{% endfor %}{{ n.i }}",
            "2",
        ),
        ("{%- generation -%} x {%- endgeneration -%}", "x"),
        ("{{ strftime_now('%d %b %Y') }}", "14 Nov 2023"),
        ("{% macro m(x) %}[{{ x }}]{% endmacro %}{{ m('a') }}", "[a]"),
        ("a\n  {% if true %}\nb\n  {% endif %}\nc", "a\nb\nc"),
        ("{{ '<b>' }}{{ 'a' ~ 1 ~ 'b' }}", "<b>a1b"),
    ] {
        assert_eq!(shown(template), text, "{template}");
    }
}

#[test]
fn a_template_that_misbehaves_ends_with_its_reason() {
    let refused = |template: &str| rendered(template, json!([])).expect_err(template);
    assert!(
        matches!(refused("{{ raise_exception('only pairs') }}"), ChatError::Refusal { message, .. } if message == "only pairs")
    );
    let nested = "{% macro m() %}{{ raise_exception('inside') }}{% endmacro %}{{ m() }}";
    assert!(matches!(refused(nested), ChatError::Refusal { message, .. } if message == "inside"));
    let endless = "{% for a in range(10000) %}{% for b in range(10000) %}{% endfor %}{% endfor %}";
    assert!(matches!(refused(endless), ChatError::TooManySteps { .. }));
    let flood =
        "{% for a in range(10000) %}{% for b in range(1000) %}0123456789{% endfor %}{% endfor %}";
    assert!(matches!(
        refused(flood),
        ChatError::TooMuchText { .. } | ChatError::TooManySteps { .. }
    ));
    let deep = "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}";
    assert!(matches!(refused(deep), ChatError::Failed { .. }));
    assert!(matches!(refused("a\n{% if %}"), ChatError::Syntax { line: Some(2), .. }));
    // There is no loader: no file is ever opened.
    assert!(matches!(refused("{% include '/etc/passwd' %}"), ChatError::Failed { .. }));
    assert!(matches!(refused("{{ open('/etc/passwd') }}"), ChatError::Failed { .. }));
    assert!(matches!(refused(&"x".repeat(1 << 20)), ChatError::TooLarge { bytes: 1_048_576, .. }));
}

#[test]
fn a_folder_s_templates_are_found_where_transformers_looks() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, text).expect("written");
    };
    let chosen =
        |name: Option<&str>, tools: bool| Templates::read(folder.path()).choose(name, tools);
    assert!(chosen(None, false).expect("none").is_none());
    assert!(matches!(chosen(Some("x"), false), Err(ChatError::NoSuch { .. })));
    write("chat_template.json", r#"{"chat_template": "legacy"}"#);
    assert_eq!(chosen(None, false).expect("read").expect("one").text, "legacy");
    write(
        "tokenizer_config.json",
        r#"{"chat_template": "one", "bos_token": {"content": "<s>"}, "eos_token": "</s>"}"#,
    );
    assert_eq!(
        chosen(None, true).expect("read").expect("one"),
        Source::new("tokenizer_config.json", "one").expect("short")
    );
    let several = r#"{"chat_template": [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]}"#;
    write("tokenizer_config.json", several);
    assert_eq!(chosen(None, false).expect("read").expect("one").text, "d");
    assert_eq!(
        chosen(None, true).expect("read").expect("one").name,
        "tokenizer_config.json:tool_use"
    );
    assert!(
        matches!(chosen(Some("rag"), false), Err(ChatError::NoSuch { there, .. }) if there == ["default", "tool_use"])
    );
    write("chat_template.jinja", "file");
    write("additional_chat_templates/rag.jinja", "r");
    assert_eq!(chosen(None, true).expect("read").expect("one").text, "file");
    assert_eq!(chosen(Some("rag"), false).expect("read").expect("one").text, "r");
    write("chat_template.jinja", &"x".repeat(1 << 20));
    assert!(matches!(chosen(None, false), Err(ChatError::TooLarge { .. })));
    write("chat_template.jinja", "{% set a = 1 %}");
    std::fs::remove_file(folder.path().join("chat_template.jinja")).expect("removed");
    write("tokenizer_config.json", "{");
    assert!(matches!(chosen(None, false), Err(ChatError::Unreadable { .. })));
}
