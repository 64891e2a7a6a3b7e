//! Who leads, who is refused, and who is waited for.

use brahman_card::Card;
use proptest::prelude::*;

use super::*;

fn module(label: &str, more: &str) -> ModuleRecord {
    let text = format!(
        "schema_version = 1\nlabel = \"{label}\"\npayload = \"virtual\"\n{more}\n[[flow.output]]\nname = \"embed\"\ntype.interface.name = \"org.brahman.Embed\"\n"
    );
    let card = Card::parse("t.toml", text.as_bytes()).expect("a good Card");
    ModuleRecord {
        attributes: card.attributes.clone(),
        socket: format!("/run/{}", card.socket_name()),
        card,
        state: ModuleState::Ready,
        pid: 1,
        incarnation: 1,
        restarts: 0,
        deaths: None,
        kills: None,
        uptime_ms: 0,
        reason: None,
        shortfalls: Vec::new(),
        origin: None,
    }
}

/// The Cards as shipped: the mock leads in `test` and is out in `prod`.
fn shipped() -> Vec<ModuleRecord> {
    vec![
        module(
            "embed-real",
            "attributes = { model = \"m\" }\n[priority_contexts.prod]\npriority_offset = 10",
        ),
        module(
            "embed-mock",
            "mock = true\n[priority_contexts.test]\npriority_offset = 10\n[priority_contexts.prod]\nexclude = true",
        ),
    ]
}

fn ask(context: Option<&str>) -> Ask<'_> {
    Ask { flow: "org.brahman.Embed", context, require: None, asker: None }
}

fn first(modules: &[ModuleRecord], ask: &Ask<'_>) -> Option<String> {
    rank(modules, ask).eligible().first().map(|c| c.matched.label.clone())
}

#[test]
fn the_seeds_rule() {
    let modules = shipped();
    assert_eq!(first(&modules, &ask(Some("test"))).as_deref(), Some("embed-mock"));
    assert_eq!(first(&modules, &ask(Some("prod"))).as_deref(), Some("embed-real"));
    assert_eq!(
        first(&modules, &ask(None)).as_deref(),
        Some("embed-mock"),
        "the alphabetically first label"
    );
}

#[test]
fn a_mock_does_not_stand_in_for_a_real_one_nor_the_other_way_round() {
    let states = [ModuleState::Ready, ModuleState::Draining];
    for ((context, best, other), state) in [(Some("test"), 1, 0), (None, 1, 0)]
        .into_iter()
        .flat_map(|case| states.map(|state| (case, state)))
    {
        let mut modules = shipped();
        modules[best].state = state;
        let ranking = rank(&modules, &ask(context));
        let eligible: Vec<&str> =
            ranking.eligible().iter().map(|c| c.matched.label.as_str()).collect();
        assert_eq!(
            eligible,
            [modules[best].card.label.as_str()],
            "nobody else is tried for a call that it does not answer"
        );
        assert!(
            ranking.refusals()[0]
                .starts_with(&format!("{}: is not a mock, and ", modules[other].card.label)),
            "{context:?}"
        );
        modules[best].state = ModuleState::Failed;
        assert_eq!(
            first(&modules, &ask(context)).as_deref(),
            Some(modules[other].card.label.as_str()),
            "one that does not come back"
        );
    }
}

#[test]
fn a_mock_never_serves_prod_even_alone() {
    let mut modules = shipped();
    modules[0].state = ModuleState::Failed;
    modules[0].reason = Some("no model".into());
    let ranking = rank(&modules, &ask(Some("prod")));
    assert_eq!(ranking.eligible, 0);
    assert_eq!(
        ranking.refusals(),
        ["embed-real: is failed: no model", "embed-mock: is excluded in context `prod`"]
    );
}

#[test]
fn replicas_of_a_card_stand_together_and_a_pin_to_it_means_each() {
    let replicas = module("b", "").card;
    let numbered = |number| {
        let mut replica = module("b", "");
        replica.card.label = replicas.label.replica(number);
        replica.card.id = format!("id-{number}");
        replica
    };
    let modules = [module("b-other", ""), numbered(2), module("a", ""), numbered(1)];
    let order = |ask: &Ask<'_>| -> Vec<String> {
        rank(&modules, ask).eligible().iter().map(|c| c.matched.label.clone()).collect()
    };
    assert_eq!(order(&ask(None)), ["a", "b@1", "b@2", "b-other"]);
    let pinned = "[[flow.input]]\nname = \"embed\"\ntype.interface.name = \"org.brahman.Embed\"\npin_to = \"b\"";
    let asker = module("c", pinned);
    assert_eq!(order(&Ask { asker: Some(&asker), ..ask(None) }), ["b@1", "b@2", "a", "b-other"]);
}

#[test]
fn where_nobody_answers_it_is_said_who_does_in_another_context() {
    let mut modules = shipped();
    modules[0].state = ModuleState::Failed;
    let words = elsewhere(&modules, &ask(Some("prod")));
    assert_eq!(
        words,
        "; other providers answer elsewhere: in context `test` embed-mock, a mock, answers, without a context embed-mock, a mock, answers"
    );
    modules[1].state = ModuleState::Stopped;
    assert_eq!(elsewhere(&modules, &ask(Some("prod"))), "");
}

#[test]
fn priorities_are_not_clamped() {
    let a = module("a", "priority = \"critical\"\n[priority_contexts.x]\npriority_offset = 1");
    let b = module("b", "priority = \"critical\"\n[priority_contexts.x]\npriority_offset = 2");
    assert_eq!(first(&[a, b], &ask(Some("x"))).as_deref(), Some("b"));
}

#[test]
fn what_loads_serves_only_if_nothing_is_ready() {
    let (mut a, mut b) = (module("a", "priority = \"high\""), module("b", ""));
    a.state = ModuleState::Loading;
    assert_eq!(first(&[a.clone(), b.clone()], &ask(None)).as_deref(), Some("b"));
    b.state = ModuleState::Failed;
    assert_eq!(first(&[a, b], &ask(None)).as_deref(), Some("a"));
}

#[test]
fn another_model_does_not_answer_while_the_one_that_leads_is_on_its_way() {
    let of = |label: &str, model: &str, priority: &str| {
        let more = format!("priority = \"{priority}\"\nattributes = {{ model = \"{model}\" }}");
        module(label, &more)
    };
    let mut modules = vec![of("a", "m", "high"), of("b", "n", "normal"), of("c", "m", "low")];
    modules[2].state = ModuleState::Failed;
    let order = |modules: &[ModuleRecord]| -> Vec<String> {
        rank(modules, &ask(None)).eligible().iter().map(|c| c.matched.label.clone()).collect()
    };
    for state in
        [ModuleState::Waiting, ModuleState::Starting, ModuleState::Loading, ModuleState::Draining]
    {
        modules[0].state = state;
        assert_eq!(order(&modules), ["a", "b"], "it leads");
        assert!(rank(&modules, &ask(None)).waits(), "{state:?}");
        // A model that is asked for by name has nobody to wait for.
        let require = BTreeMap::from([("model".to_owned(), "n".to_owned())]);
        let named = rank(&modules, &Ask { require: Some(&require), ..ask(None) });
        assert_eq!((named.eligible()[0].matched.label.as_str(), named.waits()), ("b", false));
    }
    // One that has not told its model yet may be of any.
    modules[0].attributes.clear();
    assert!(rank(&modules, &ask(None)).waits());
    modules[0].attributes = modules[2].attributes.clone();
    // Of the same model: before any other, as ever.
    modules[2].state = ModuleState::Ready;
    assert_eq!(order(&modules), ["c", "b"]);
    assert!(!rank(&modules, &ask(None)).waits());
    modules[2].state = ModuleState::Failed;
    // One that does not come, or comes and dies, keeps nobody waiting.
    for state in [ModuleState::Backoff, ModuleState::Failed, ModuleState::Stopped] {
        modules[0].state = state;
        assert_eq!(order(&modules), ["b"], "{state:?}");
        assert!(!rank(&modules, &ask(None)).waits(), "{state:?}");
    }
    modules[0].state = ModuleState::Ready;
    assert_eq!(order(&modules), ["a", "b"], "and b answers what a declines");
    // Of replicas one may have told its model, and the other not yet.
    let card = module("a", "").card;
    let replicas = [1, 2].map(|number| {
        let mut replica = module("a", "");
        replica.card.label = card.label.replica(number);
        replica.card.id = format!("id-{number}");
        replica
    });
    let [mut first, mut second] = replicas;
    first.state = ModuleState::Loading;
    second.attributes.insert("model".to_owned(), "m".to_owned());
    assert_eq!(order(&[first, second]), ["a@2"]);
}

#[test]
fn one_that_was_unloaded_is_woken_before_another_model_answers() {
    let of = |label: &str, model: &str| {
        module(label, &format!("attributes = {{ model = \"{model}\" }}"))
    };
    let mut modules = [of("a", "m"), of("b", "n")];
    let asleep =
        |modules: &[ModuleRecord], ask: &Ask<'_>| leads_asleep(modules, ask, &rank(modules, ask));
    assert!(!asleep(&modules, &ask(None)) && if_woken(&modules).is_none());
    (modules[0].state, modules[0].pid) = (ModuleState::Stopped, 0);
    assert!(asleep(&modules, &ask(None)));
    // Whoever names the other model wakes nobody.
    let require = BTreeMap::from([("model".to_owned(), "n".to_owned())]);
    assert!(!asleep(&modules, &Ask { require: Some(&require), ..ask(None) }));
    // Nobody answers at all: that is another question.
    modules[1].state = ModuleState::Failed;
    assert!(!asleep(&modules, &ask(None)));
    // One that follows by rank, or is of the same model, sleeps on.
    let mut modules = [of("a", "m"), of("b", "n")];
    (modules[1].state, modules[1].pid) = (ModuleState::Stopped, 0);
    assert!(!asleep(&modules, &ask(None)));
    let mut modules = [of("a", "m"), of("b", "m")];
    (modules[0].state, modules[0].pid) = (ModuleState::Stopped, 0);
    assert!(!asleep(&modules, &ask(None)));
}

#[test]
fn an_asker_is_never_matched_to_itself_and_its_pins_count() {
    let modules = [module("a", ""), module("b", "")];
    let pinned = "[[flow.input]]\nname = \"embed\"\ntype.interface.name = \"org.brahman.Embed\"\npin_to = \"b\"\n[priority_contexts.x]\npin_to = \"a\"";
    let asker = module("c", pinned);
    let with = |context, asker| Ask { asker: Some(asker), ..ask(context) };
    assert_eq!(first(&modules, &with(None, &asker)).as_deref(), Some("b"));
    assert_eq!(first(&modules, &with(Some("x"), &asker)).as_deref(), Some("a"));
    assert_eq!(first(&modules[..1], &with(None, &modules[0])), None);
    let ranking = rank(&modules[..1], &with(None, &asker));
    assert_eq!(ranking.eligible, 1);
    assert!(
        ranking.note.is_some_and(|note| note.contains("`b`")),
        "a pin that falls through says so"
    );
}

#[test]
fn requirements_are_met_or_named() {
    let modules = shipped();
    let require = BTreeMap::from([("model".to_owned(), "m".to_owned())]);
    let ranking = rank(&modules, &Ask { require: Some(&require), ..ask(Some("test")) });
    assert_eq!(ranking.eligible().len(), 1);
    assert_eq!(ranking.eligible()[0].matched.label, "embed-real");
    assert!(ranking.refusals()[0].contains("required"));
}

#[test]
fn one_that_loads_may_yet_meet_a_requirement_and_one_that_is_stopped_is_said_to_be() {
    let mut modules = shipped();
    let require = BTreeMap::from([
        ("model".to_owned(), "m".to_owned()),
        ("fingerprint".to_owned(), "f".to_owned()),
    ]);
    let ranked = |modules: &[ModuleRecord]| {
        rank(modules, &Ask { require: Some(&require), ..ask(Some("prod")) })
    };
    modules[0].state = ModuleState::Loading;
    assert_eq!(
        ranked(&modules).eligible().first().map(|c| c.matched.label.as_str()),
        Some("embed-real"),
        "its fingerprint comes"
    );
    modules[0].attributes.insert("model".into(), "another".into());
    assert_eq!(ranked(&modules).eligible, 0, "its Card says another model");
    modules[0].attributes.insert("model".into(), "m".into());
    modules[0].state = ModuleState::Stopped;
    assert!(
        ranked(&modules).refusals()[0].ends_with("it is stopped"),
        "{:?}",
        ranked(&modules).refusals()
    );
    modules[0].state = ModuleState::Ready;
    assert!(
        ranked(&modules).refusals()[0].ends_with("it lacks it"),
        "{:?}",
        ranked(&modules).refusals()
    );
    // One that is ready and meets it is not passed over for one on its way.
    modules[0].attributes.insert("fingerprint".into(), "f".into());
    modules.push(module("embed-first", "priority = \"critical\""));
    modules[2].state = ModuleState::Loading;
    assert_eq!(
        ranked(&modules).eligible().first().map(|c| c.matched.label.as_str()),
        Some("embed-real")
    );
}

#[test]
fn exact_comes_before_structural_whatever_the_label() {
    let mut a = module("a", "");
    a.card.flow.output[0].name = "vectors".into();
    assert_eq!(first(&[a, module("b", "")], &ask(None)).as_deref(), Some("b"));
}

prop_compose! {
    fn any_module()(
        label in "[a-d]",
        priority in 0_usize..4,
        offset in -3_i64..4,
        state in 0_usize..4,
        exclude in any::<bool>(),
        n in 0_u32..1000,
    ) -> ModuleRecord {
        let words = ["low", "normal", "high", "critical"];
        let more = format!("service_socket = \"s{n}\"\npriority = \"{}\"\n[priority_contexts.x]\npriority_offset = {offset}\nexclude = {exclude}", words[priority]);
        let mut module = module(&label, &more);
        module.state = [
            ModuleState::Ready,
            ModuleState::Loading,
            ModuleState::Failed,
            ModuleState::Stopped,
        ][state];
        module
    }
}

proptest! {
    #[test]
    fn the_order_is_total_and_blind_to_permutation(
        modules in prop::collection::vec(any_module(), 0..8),
        turn in 0_usize..8,
    ) {
        let mut unique: Vec<ModuleRecord> = Vec::new();
        for module in modules {
            if unique.iter().all(|m| m.card.id != module.card.id) {
                unique.push(module);
            }
        }
        let ids = |list: &[ModuleRecord]| -> Vec<String> {
            rank(list, &ask(Some("x"))).candidates.into_iter().map(|c| c.matched.id).collect()
        };
        let straight = ids(&unique);
        let mut turned = unique.clone();
        turned.reverse();
        if !turned.is_empty() {
            let n = turn % turned.len();
            turned.rotate_left(n);
        }
        prop_assert_eq!(&straight, &ids(&turned));
        prop_assert_eq!(straight.len(), unique.len());
        let ranking = rank(&unique, &ask(Some("x")));
        prop_assert!(ranking.eligible().iter().all(|c| c.refused.is_none()));
        prop_assert!(
            ranking.candidates[ranking.eligible..].iter().all(|c| c.refused.is_some())
        );
    }
}
