//! Who serves a flow: a pure function of the modules, the context and the asker.
//!
//! Rank, first difference decides: pinned, exact before structural, effective priority (the Card's
//! plus the context's offset, not clamped), label, id. The last two make the order total, so it is
//! the same on every machine.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use brahman_card::card::{FlowType, contexts};
use brahman_card::interface::broker::Match;
use brahman_card::names::base_of;
use brahman_card::{Label, ModuleRecord, ModuleState};

/// Who serves a flow, asked for whom and under what.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Name of the wanted interface.
    pub flow: &'a str,
    /// Context it is asked in.
    pub context: Option<&'a str>,
    /// Attributes the provider must have.
    pub require: Option<&'a BTreeMap<String, String>>,
    /// The module that asks, if a module does.
    pub asker: Option<&'a ModuleRecord>,
}

/// One provider, ranked or refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RankedProvider {
    /// Place in the list of modules that was given.
    pub index: usize,
    /// What it would be as a match.
    pub matched: Match,
    /// Why it may not serve; `None` if it may.
    pub refused: Option<String>,
}

/// The answer: eligible providers best first, then refused ones by label.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranking {
    /// Every module that offers the flow.
    pub candidates: Vec<RankedProvider>,
    /// How many of them, from the front, are eligible.
    pub eligible: usize,
    /// What else the asker should know, such as a pin that fell through.
    pub note: Option<String>,
}

impl Ranking {
    /// The eligible ones, best first.
    #[must_use]
    pub fn eligible(&self) -> &[RankedProvider] {
        &self.candidates[..self.eligible]
    }

    /// One line for each refusal.
    #[must_use]
    pub fn refusals(&self) -> Vec<String> {
        self.candidates
            .iter()
            .filter_map(|c| Some(format!("{}: {}", c.matched.label, c.refused.as_ref()?)))
            .collect()
    }
}

/// Ranks every provider of a flow.
#[must_use]
pub fn rank(modules: &[ModuleRecord], ask: &Ask<'_>) -> Ranking {
    let wish = Wish::of(ask);
    let mut candidates: Vec<RankedProvider> =
        (0..modules.len()).filter_map(|index| consider(index, modules, ask, &wish)).collect();
    candidates.sort_by(|a, b| key(a).cmp(&key(b)));
    // One on its way that has not told whether it has what is required is waited for only if nobody
    // is known to have it.
    let unproven = |c: &RankedProvider| {
        required(ask, &wish).any(|(name, value)| c.matched.attributes.get(name) != Some(value))
    };
    if candidates.iter().any(|c| c.refused.is_none() && !unproven(c)) {
        for candidate in candidates.iter_mut().filter(|c| c.refused.is_none() && unproven(c)) {
            candidate.refused = Some(format!(
                "is {}, and another one has what is required",
                candidate.matched.state.as_str()
            ));
        }
    }
    // A mock does not stand in for a real one, nor the other way round: what one knows is not the
    // other's. Not while it is on its way, and not for one call that it did not answer.
    let best = candidates
        .iter()
        .find(|c| c.refused.is_none())
        .map(|c| (c.matched.label.clone(), c.matched.mock, c.matched.state));
    if let Some((label, mock, state)) = best {
        for candidate in
            candidates.iter_mut().filter(|c| c.refused.is_none() && c.matched.mock != mock)
        {
            let what = if candidate.matched.mock { "is a mock" } else { "is not a mock" };
            candidate.refused = Some(format!("{what}, and {label} is {}", state.as_str()));
        }
    }
    // Something on its way serves only if nothing is ready.
    let any_ready =
        candidates.iter().any(|c| c.refused.is_none() && c.matched.state == ModuleState::Ready);
    for candidate in &mut candidates {
        if candidate.refused.is_none() && candidate.matched.state != ModuleState::Ready && any_ready
        {
            candidate.refused =
                Some(format!("is {}, and another one is ready", candidate.matched.state.as_str()));
        }
    }
    candidates.sort_by(|a, b| key(a).cmp(&key(b)));
    let eligible = candidates.iter().filter(|c| c.refused.is_none()).count();
    let pinned = candidates[..eligible].iter().any(|c| c.matched.pinned);
    let note = wish
        .pin
        .filter(|_| !pinned)
        .map(|pin| format!("the pin to `{pin}` cannot be met: matched by type"));
    Ranking { candidates, eligible, note }
}

/// Attributes that the provider must have, by the call and by the asker's Card.
fn required<'a>(
    ask: &Ask<'a>,
    wish: &Wish<'a>,
) -> impl Iterator<Item = (&'a String, &'a String)> + use<'a> {
    [ask.require, wish.require].into_iter().flatten().flatten()
}

/// Contexts that are looked at for somebody who answers: people have a handful, and Cards may name
/// thousands.
const CONTEXTS_TRIED: usize = 16;

/// Who would answer in other contexts, where nobody does in the one asked in: words for the end of
/// an error, or none.
#[must_use]
pub fn elsewhere(modules: &[ModuleRecord], ask: &Ask<'_>) -> String {
    let named = contexts(modules.iter().map(|module| &module.card)).into_iter().map(Some);
    let others = named.chain([None]).filter(|context| *context != ask.context).take(CONTEXTS_TRIED);
    let answers = others.filter_map(|context| {
        let ranking = rank(modules, &Ask { context, ..*ask });
        let first = ranking.eligible().first().filter(|c| c.matched.state == ModuleState::Ready)?;
        let place =
            context.map_or("without a context".to_owned(), |name| format!("in context `{name}`"));
        Some(format!(
            "{place} {}{} answers",
            first.matched.label,
            if first.matched.mock { ", a mock," } else { "" }
        ))
    });
    let answers: Vec<String> = answers.collect();
    if answers.is_empty() {
        String::new()
    } else {
        format!("; other providers answer elsewhere: {}", answers.join(", "))
    }
}

fn key(c: &RankedProvider) -> impl Ord + '_ {
    let m = &c.matched;
    // Replicas stand together, whatever other label begins as theirs does.
    (
        c.refused.is_some(),
        Reverse(m.pinned),
        m.via != "exact",
        Reverse(m.priority),
        base_of(&m.label),
        &m.label,
        &m.id,
    )
}

/// Why a waiting module waits for something that nobody brings: what it requires was stopped or has
/// failed, or waits so itself.
fn held_up(module: &ModuleRecord, modules: &[ModuleRecord], depth: usize) -> Option<String> {
    if module.state != ModuleState::Waiting || module.pid != 0 || depth > modules.len() {
        return None;
    }
    module.card.requires.iter().find_map(|wanted| {
        let all: Vec<&ModuleRecord> =
            modules.iter().filter(|m| brahman_card::card::satisfies(&m.card, wanted)).collect();
        let comes = |m: &&&ModuleRecord| {
            m.state == ModuleState::Ready
                || m.state.is_coming() && held_up(m, modules, depth + 1).is_none()
        };
        match all.iter().find(comes) {
            Some(_) => None,
            None => {
                let states: Vec<String> = all
                    .iter()
                    .map(|m| format!("{} is {}", m.card.label, m.state.as_str()))
                    .collect();
                Some(format!(
                    "waits for {wanted}: {}",
                    if states.is_empty() {
                        "nobody offers it".to_owned()
                    } else {
                        states.join(", ")
                    }
                ))
            }
        }
    })
}

/// What the asker's own Card adds to the question.
struct Wish<'a> {
    pin: Option<&'a Label>,
    name: Option<&'a str>,
    require: Option<&'a BTreeMap<String, String>>,
}

impl<'a> Wish<'a> {
    fn of(ask: &Ask<'a>) -> Self {
        let Some(asker) = ask.asker else { return Self { pin: None, name: None, require: None } };
        let wanted = |ty: &FlowType| matches!(ty, FlowType::Interface { name } if name == ask.flow);
        let input = asker.card.flow.input.iter().find(|flow| wanted(&flow.ty));
        let in_context = ask
            .context
            .and_then(|c| asker.card.priority_contexts.get(c))
            .and_then(|rule| rule.pin_to.as_ref());
        Self {
            pin: in_context.or(input.and_then(|flow| flow.pin_to.as_ref())),
            name: input.map(|flow| flow.name.as_str()),
            require: input.map(|flow| &flow.require),
        }
    }
}

fn consider(
    index: usize,
    modules: &[ModuleRecord],
    ask: &Ask<'_>,
    wish: &Wish<'_>,
) -> Option<RankedProvider> {
    let module = &modules[index];
    let card = &module.card;
    let offered = card
        .flow
        .output
        .iter()
        .find(|flow| matches!(&flow.ty, FlowType::Interface { name } if name == ask.flow))?;
    // The flow's own name: what the asker's Card calls it, else the interface's last element.
    let name = wish.name.unwrap_or_else(|| ask.flow.rsplit('.').next().unwrap_or(ask.flow));
    let rule = ask.context.and_then(|context| card.priority_contexts.get(context));
    let matched = Match {
        flow: ask.flow.to_owned(),
        label: card.label.to_string(),
        id: card.id.clone(),
        socket: module.socket.clone(),
        via: if offered.name.eq_ignore_ascii_case(name) { "exact" } else { "structural" }
            .to_owned(),
        pinned: wish.pin.is_some_and(|pin| card.label.answers_to(pin.as_str())),
        priority: card.priority.rank() + rule.map_or(0, |rule| rule.priority_offset),
        mock: card.mock,
        state: module.state,
        attributes: module.attributes.clone(),
        idempotent: Some(offered.idempotent.clone()).filter(|methods| !methods.is_empty()),
    };
    // What one on its way has not told yet it may tell once it is ready: that is waited for, and
    // judged then. What its Card says holds.
    let lacking = required(ask, wish).find(|(name, value)| match module.attributes.get(*name) {
        Some(has) => has != *value,
        None => !module.state.is_coming(),
    });
    let refused = if ask.asker.is_some_and(|asker| asker.card.id == card.id) {
        Some("is the caller itself".to_owned())
    } else if rule.is_some_and(|rule| rule.exclude) {
        Some(format!("is excluded in context `{}`", ask.context.unwrap_or_default()))
    } else if let Some((name, value)) = lacking {
        let has = module.attributes.get(name).map(|has| format!("has `{has}`"));
        // What does not run has told nothing: that is what somebody can do something about.
        let (idle, reason) = (
            module.state != ModuleState::Ready,
            module.reason.as_ref().map(|r| format!(": {r}")).unwrap_or_default(),
        );
        let has = has.unwrap_or_else(|| {
            if idle {
                format!("is {}{reason}", module.state.as_str())
            } else {
                "lacks it".to_owned()
            }
        });
        Some(format!("{name} = `{value}` is required, it {has}"))
    } else if let Some(why) = held_up(module, modules, 0) {
        Some(why)
    } else if module.state == ModuleState::Ready || module.state.is_coming() {
        None
    } else {
        let reason = module.reason.as_ref().map(|r| format!(": {r}")).unwrap_or_default();
        Some(format!("is {}{reason}", module.state.as_str()))
    };
    Some(RankedProvider { index, matched, refused })
}

#[cfg(test)]
mod tests {
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
        assert_eq!(
            order(&Ask { asker: Some(&asker), ..ask(None) }),
            ["b@1", "b@2", "a", "b-other"]
        );
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
}
