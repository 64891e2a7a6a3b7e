//! Who serves a flow: a pure function of the modules, the context and the asker.
//!
//! Rank, first difference decides: pinned, exact before structural, effective priority (the Card's
//! plus the context's offset, not clamped), label, id. The last two make the order total, so it is
//! the same on every machine. What leads while it is on its way is waited for where those that are
//! ready are of another model (ADR 40).

use std::cmp::Reverse;
use std::collections::BTreeMap;

use brahman_card::card::{FlowType, contexts};
use brahman_card::interface::broker::Match;
use brahman_card::names::base_of;
use brahman_card::{Label, ModuleRecord, ModuleState};

/// The attribute that says by which model a provider answers.
const MODEL: &str = "model";

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
    /// Whether it is of another model than the one that leads, which is on its way: it stands
    /// behind every provider of that model, and gets no call while the leading one is waited for.
    pub is_behind: bool,
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

    /// Whether calls wait although somebody may be ready: the one that leads is on its way, and
    /// nobody who is ready is of its model.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.eligible().first().is_some_and(|first| first.matched.state != ModuleState::Ready)
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
    put_behind(&mut candidates);
    refuse_late(&mut candidates);
    candidates.sort_by(|a, b| key(a).cmp(&key(b)));
    let eligible = candidates.iter().filter(|c| c.refused.is_none()).count();
    let pinned = candidates[..eligible].iter().any(|c| c.matched.pinned);
    let note = wish
        .pin
        .filter(|_| !pinned)
        .map(|pin| format!("the pin to `{pin}` cannot be met: matched by type"));
    Ranking { candidates, eligible, note }
}

/// Another model does not stand in for the one that leads while that is on its way: its vectors
/// are not the other's, and whoever keeps them would be bound to whichever model was loaded first.
/// One that has died again and again (`backoff`) is not waited for.
fn put_behind(candidates: &mut [RankedProvider]) {
    let Some(leading) = candidates
        .iter()
        .find(|c| c.refused.is_none())
        .filter(|c| c.matched.state.is_coming() && c.matched.state != ModuleState::Backoff)
    else {
        return;
    };
    let (label, model) =
        (leading.matched.label.clone(), leading.matched.attributes.get(MODEL).cloned());
    for candidate in candidates.iter_mut().filter(|c| c.refused.is_none()) {
        let Match { label: other, attributes, .. } = &candidate.matched;
        // A replica is of the same model, whichever of them has told it.
        let is_replica = base_of(other) == base_of(&label);
        candidate.is_behind = !is_replica && attributes.get(MODEL) != model.as_ref();
    }
}

/// The modules as they would be if those that were stopped were ready; none if none is stopped.
#[must_use]
pub fn if_woken(modules: &[ModuleRecord]) -> Option<Vec<ModuleRecord>> {
    if !modules.iter().any(is_stopped) {
        return None;
    }
    let mut woken = modules.to_vec();
    woken
        .iter_mut()
        .filter(|module| is_stopped(module))
        .for_each(|module| module.state = ModuleState::Ready);
    Some(woken)
}

fn is_stopped(module: &ModuleRecord) -> bool {
    module.state == ModuleState::Stopped && module.pid == 0
}

/// Whether a stopped provider would lead where one of another model answers: it is to be loaded
/// first, if it was only unloaded until it is called.
#[must_use]
pub fn leads_asleep(modules: &[ModuleRecord], ask: &Ask<'_>, ranking: &Ranking) -> bool {
    let Some(answering) = ranking.eligible().first() else { return false };
    let Some(woken) = if_woken(modules) else { return false };
    let woken = rank(&woken, ask);
    woken.eligible().first().is_some_and(|leading| {
        let (own, other) = (&leading.matched, &answering.matched);
        is_stopped(&modules[leading.index])
            && base_of(&own.label) != base_of(&other.label)
            && own.attributes.get(MODEL) != other.attributes.get(MODEL)
    })
}

/// What is on its way serves only if nothing is ready: of its own model, where others are behind.
fn refuse_late(candidates: &mut [RankedProvider]) {
    let is_ready =
        |c: &RankedProvider| c.refused.is_none() && c.matched.state == ModuleState::Ready;
    let any_ready = candidates.iter().any(is_ready);
    let any_leading = candidates.iter().any(|c| is_ready(c) && !c.is_behind);
    for candidate in candidates
        .iter_mut()
        .filter(|c| c.refused.is_none() && c.matched.state != ModuleState::Ready)
    {
        let is_late = if candidate.is_behind { any_ready } else { any_leading };
        if is_late {
            candidate.refused =
                Some(format!("is {}, and another one is ready", candidate.matched.state.as_str()));
        }
    }
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
        c.is_behind,
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
    Some(RankedProvider { index, matched, refused, is_behind: false })
}

#[cfg(test)]
mod tests;
