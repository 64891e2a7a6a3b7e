//! Chat templates that would take all memory, or all time: they are refused by name, and the next
//! one runs.

use std::path::Path;

use brahman_card::interface::score::ChatTemplate;
use brahman_score::chat::{ChatError, Renderer, Source, apart};
use brahman_sidecar::chain;
use serde_json::json;

fn rendered(template: &str) -> Result<String, ChatError> {
    apart::use_program(Path::new(env!("CARGO_BIN_EXE_score-mock")));
    let source = Source::new("given", template)?;
    let how = ChatTemplate { now_s: Some(1_700_000_000), ..ChatTemplate::default() };
    Renderer::new(&source, None, None, &how)?
        .render(vec![json!({ "role": "user", "content": "ü\n\"x\"" })])
}

/// Resident and swapped memory of this process, in KiB.
fn memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("this process");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its peak");
    peak.trim().trim_end_matches("kB").trim().parse().expect("a number")
}

#[test]
fn what_a_template_doubles_is_bounded_and_the_next_template_runs() {
    let told = |out: Result<String, ChatError>| out.expect("a text");
    assert_eq!(told(rendered("{{ messages[0].content }}")), "ü\n\"x\"");
    let loops = |set: &str| {
        format!(
            "{{% set n = namespace(s='0123456789', l=['x']) %}}{{% for i in range(60) %}}{set}{{% endfor %}}"
        )
    };
    let deep = "{% set n = namespace(l=[]) %}{% for i in range(100000) %}{% set n.l = [n.l] %}{% endfor %}{{ n.l ~ '' }}";
    for template in [
        loops("{% set n.s = n.s ~ n.s %}") + "{{ n.s }}",
        loops("{% set n.s = n.s + n.s %}") + "{{ n.s | length }}",
        loops("{% set n.s = n.s | replace('0', n.s) %}"),
        loops("{% set n.s = n.s * 10 %}"),
        loops("{% set n.s = [n.s, n.s, n.s] | join(n.s) %}"),
        loops("{% set n.s = '%s%s' | format(n.s, n.s) %}"),
        loops("{% set n.l = n.l + n.l %}{% set n.s = n.l | join %}"),
        loops("{% set n.l = [n.l, n.l] %}") + "{{ n.l }}",
        loops("{% set n.l = [n.l, n.l] %}") + "{{ n.l | tojson }}",
        loops("{% set n.l = {'a': n.l, 'b': n.l} %}") + "{{ n.l | string | length }}",
        loops("{% set s %}{{ n.s }}{{ n.s }}{% endset %}{% set n.s = s %}"),
        "{{ 'x' * 1000000000 }}".to_owned(),
        "{{ ('x' * 10000000) | replace('x', 'y' * 10000000) | length }}".to_owned(),
        "{{ range(100000) | join('0123456789' * 100000) | length }}".to_owned(),
        "{% macro m(s) %}{{ m(s ~ s) }}{% endmacro %}{{ m('0123456789') }}".to_owned(),
        deep.to_owned(),
    ] {
        let error = rendered(&template).expect_err(&template);
        let said = chain(&error);
        let is_bound = matches!(
            error,
            ChatError::TooMuchMemory { .. }
                | ChatError::TooSlow { .. }
                | ChatError::TooMuchText { .. }
                | ChatError::Failed { .. }
        );
        assert!(is_bound && said.contains("given"), "{template}: {said}");
        assert_eq!(told(rendered("{{ messages | length }}")), "1", "after {template}");
    }
    assert!(
        memory_kib() < 400 << 10,
        "what a template takes is not taken here: {} KiB",
        memory_kib()
    );
}

#[test]
fn what_a_template_says_comes_back_as_it_said_it() {
    assert!(matches!(rendered("a\n{% if %}"), Err(ChatError::Syntax { line: Some(2), .. })));
    assert!(
        matches!(rendered("{{ raise_exception('only pairs') }}"), Err(ChatError::Refusal { message, .. }) if message == "only pairs")
    );
    let endless = "{% for a in range(10000) %}{% for b in range(10000) %}{% endfor %}{% endfor %}";
    assert!(matches!(rendered(endless), Err(ChatError::TooManySteps { .. })));
    assert!(matches!(
        rendered("\n{{ open('/etc/passwd') }}"),
        Err(ChatError::Failed { line: Some(2), .. })
    ));
    assert_eq!(rendered("{{ strftime_now('%Y') }}").expect("a text"), "2023");
}
