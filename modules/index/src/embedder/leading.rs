//! The model that an index is bound to where nobody names one: that of the provider which leads in
//! the context by the Cards, whatever has become of it (ADR 40).
//!
//! Invariant: what is kept is never of a model that only answers in the leading one's place.

use std::cmp::Reverse;
use std::time::Instant;

use brahman_card::card::FlowType;
use brahman_card::interface::broker::error::NoProvider;
use brahman_card::interface::broker::{self, ExplainOut, FlowIn, Match};
use brahman_card::interface::profiles::error::Forbidden;
use brahman_card::interface::{Empty, WireError, embed, init};
use brahman_card::names::base_of;
use brahman_card::{Fault, ModuleRecord, ModuleState};
use brahman_sidecar::{CallOptions, Client};

use super::{LOADING, Model, PAUSES, served_model};

/// The attribute that says by which model a provider answers.
const MODEL: &str = "model";

/// Whoever leads, and the name of its model, if it or a replica of it has told that.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Leader {
    label: String,
    state: ModuleState,
    model: Option<String>,
}

/// The model of whoever leads in the context. One that is on its way is waited for, and one that
/// was unloaded until it is called is loaded.
///
/// # Errors
/// `NoProvider` if it does not come, with what to do about it; else what the mesh says.
pub(super) async fn default_model(client: &Client) -> Result<Model, Fault> {
    let (until, mut pauses, mut is_called) = (Instant::now() + LOADING, PAUSES, false);
    loop {
        // Nobody offers it: the mesh says so best.
        let Some(leader) = ask(client).await? else { return served_model(client, None).await };
        if let Some(name) = &leader.model {
            let served = served_model(client, Some(name)).await;
            return served.map_err(|fault| explained(fault, &leader));
        }
        match leader.state {
            // One that names no model is taken at its word.
            ModuleState::Ready => return served_model(client, None).await,
            state if state.is_coming() && Instant::now() < until => pauses.wait().await,
            // A call loads it, if it was unloaded and nothing else.
            ModuleState::Stopped if !is_called => {
                is_called = true;
                served_model(client, None).await.map_err(|fault| explained(fault, &leader))?;
            }
            state => {
                let refused = vec![format!("{}: is {}", leader.label, state.as_str())];
                let flow = embed::INTERFACE.name;
                return Err(explained(Fault::no_provider(flow, None, &refused), &leader));
            }
        }
    }
}

/// Who leads now.
async fn ask(client: &Client) -> Result<Option<Leader>, Fault> {
    let ask = FlowIn { flow: embed::INTERFACE.name.to_owned(), context: None, require: None };
    let options = CallOptions::default();
    let told = client.call_method::<broker::method::Explain>(&ask, &options).await?.value;
    let listed = client.call_method::<init::method::List>(&Empty {}, &options).await?.value;
    Ok(leading(&told, &listed.modules, std::process::id()))
}

/// Who leads by the Cards, by what the broker and init tell the process of that id.
fn leading(told: &ExplainOut, modules: &[ModuleRecord], own_pid: u32) -> Option<Leader> {
    let is_embed =
        |ty: &FlowType| matches!(ty, FlowType::Interface { name } if name == embed::INTERFACE.name);
    let require = modules
        .iter()
        .find(|module| module.pid == own_pid)
        .and_then(|own| own.card.flow.input.iter().find(|flow| is_embed(&flow.ty)))
        .map(|flow| &flow.require);
    let is_excluded = |matched: &Match| {
        let module = modules.iter().find(|module| module.card.id == matched.id);
        let context = told.context.as_ref();
        let rules = module.map(|module| &module.card.priority_contexts);
        rules
            .zip(context)
            .and_then(|(rules, context)| rules.get(context))
            .is_some_and(|rule| rule.exclude)
    };
    let lacks = |matched: &Match| {
        let mut wanted = require.into_iter().flatten();
        wanted.any(|(name, value)| matched.attributes.get(name).is_some_and(|has| has != value))
    };
    let all = || told.candidates.iter().map(|candidate| &candidate.matched);
    let first = all()
        .filter(|matched| !is_excluded(matched) && !lacks(matched))
        .min_by(|a, b| key(a).cmp(&key(b)))?;
    let model = first.attributes.get(MODEL).or_else(|| {
        all()
            .filter(|other| base_of(&other.label) == base_of(&first.label))
            .find_map(|replica| replica.attributes.get(MODEL))
    });
    Some(Leader { label: first.label.clone(), state: first.state, model: model.cloned() })
}

/// The broker's order, but for what states have to do with it.
fn key(matched: &Match) -> impl Ord + '_ {
    (
        Reverse(matched.pinned),
        matched.via != "exact",
        Reverse(matched.priority),
        base_of(&matched.label),
        &matched.label,
        &matched.id,
    )
}

/// What the mesh says where the default model does not come; with what to do about it.
fn explained(fault: Fault, leader: &Leader) -> Fault {
    if fault.name != NoProvider::NAME && fault.name != Forbidden::NAME {
        return fault;
    }
    let (label, why) = (&leader.label, fault.message());
    let model = leader.model.as_deref().unwrap_or("a model that it has not told yet");
    let message = format!(
        "no model was named, and the default one is {model}, of {label}, which does not serve now: an index is bound to its model for good, \
         and to no other that answers in its place; have {label} serve again (`brahman status {label}` says what it lacks), or name another \
         with `brahman index create … --model NAME` or `brahman index migrate INDEX --model NAME`; {why}"
    );
    fault.with("message", message)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use brahman_card::Card;
    use brahman_card::interface::broker::Candidate;

    use super::*;

    fn candidate(label: &str, priority: i64, state: ModuleState, model: Option<&str>) -> Candidate {
        let model = model.map(|model| (MODEL.to_owned(), model.to_owned()));
        let matched = Match {
            flow: embed::INTERFACE.name.to_owned(),
            label: label.to_owned(),
            id: label.to_owned(),
            socket: String::new(),
            via: "exact".to_owned(),
            pinned: false,
            priority,
            mock: false,
            state,
            attributes: model.into_iter().collect(),
            idempotent: None,
        };
        let eligible = state == ModuleState::Ready;
        Candidate { matched, eligible, reason: None, rank: None }
    }

    fn record(id: &str, more: &str) -> ModuleRecord {
        let text = format!("schema_version = 1\nlabel = \"{id}\"\npayload = \"virtual\"\n{more}\n");
        let mut card = Card::parse("t.toml", text.as_bytes()).expect("a good Card");
        card.id = id.to_owned();
        ModuleRecord {
            card,
            state: ModuleState::Ready,
            socket: String::new(),
            pid: 7,
            incarnation: 1,
            restarts: 0,
            deaths: None,
            kills: None,
            uptime_ms: 0,
            reason: None,
            attributes: BTreeMap::new(),
            shortfalls: Vec::new(),
            origin: None,
        }
    }

    #[test]
    fn who_leads_by_the_cards_leads_whatever_its_state() {
        let told = |state| ExplainOut {
            context: Some("prod".to_owned()),
            candidates: vec![
                candidate("b", 0, ModuleState::Ready, Some("n")),
                candidate("a", 0, state, Some("m")),
                candidate("out", 90, ModuleState::Ready, Some("x")),
            ],
            note: None,
        };
        let out = record("out", "[priority_contexts.prod]\nexclude = true");
        for state in [ModuleState::Backoff, ModuleState::Failed, ModuleState::Stopped] {
            let leader = leading(&told(state), std::slice::from_ref(&out), 1).expect("one leads");
            assert_eq!(
                (leader.label.as_str(), leader.state, leader.model.as_deref()),
                ("a", state, Some("m"))
            );
        }
        // What the index's own Card requires is a choice.
        let own = record(
            "index",
            "[[flow.input]]\nname = \"embed\"\ntype.interface.name = \"org.brahman.Embed\"\nrequire = { model = \"n\" }",
        );
        let leader = leading(&told(ModuleState::Failed), &[own, out], 7).expect("one leads");
        assert_eq!(leader.label, "b");
    }

    #[test]
    fn a_replica_tells_the_model_of_all_and_where_nobody_embeds_nobody_leads() {
        let mut told = ExplainOut {
            context: None,
            candidates: vec![
                candidate("a@1", 0, ModuleState::Loading, None),
                candidate("a@2", 0, ModuleState::Ready, Some("m")),
            ],
            note: None,
        };
        let leader = leading(&told, &[], 7).expect("one leads");
        assert_eq!((leader.label.as_str(), leader.model.as_deref()), ("a@1", Some("m")));
        told.candidates.clear();
        assert_eq!(leading(&told, &[], 7), None);
    }

    #[test]
    fn a_default_model_that_does_not_come_is_named_with_what_to_do() {
        let model = Some("m".to_owned());
        let leader = Leader { label: "a".to_owned(), state: ModuleState::Failed, model };
        let none = Fault::no_provider(embed::INTERFACE.name, None, &["a: is failed".to_owned()]);
        let said = explained(none, &leader);
        assert_eq!(said.name, NoProvider::NAME);
        for words in ["is m, of a", "--model NAME", "`brahman status a`", "a: is failed"] {
            assert!(said.message().contains(words), "{said}");
        }
        assert_eq!(explained(Fault::internal("broken"), &leader).message(), "broken");
    }
}
