//! Asking the broker, and calling anything.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use brahman_card::interface::broker::{ExplainOut, FlowIn, SetContextIn};
use brahman_card::interface::service::DescriptionIn;
use brahman_card::interface::{self, Empty, broker, full_name, service};
use brahman_sidecar::CallOptions;
use brahman_sidecar::client::encode_call;
use serde_json::Value;

use super::{STANDARD, get, stdin_text};
use crate::failure::{BadInput, NotFound};
use crate::output::{Output, Tone};
use crate::{Call, Flow};

/// Whether the end of a name may be a method's: `EmbedText` in `org.brahman.Embed.EmbedText` or
/// `embed.EmbedText`.
fn without_method(given: &str) -> Option<&str> {
    given
        .rsplit_once('.')
        .filter(|(_, last)| last.starts_with(|c: char| c.is_ascii_uppercase()))
        .map(|(interface, _)| interface)
}

/// Asks about a flow, or about the interface of a method.
async fn question(socket: &Path, flow: &Flow) -> anyhow::Result<FlowIn> {
    let whole = ask_of(flow, &flow.flow)?;
    let Some(shorter) =
        without_method(&flow.flow).filter(|_| interface::known(&whole.flow).is_none())
    else {
        return Ok(whole);
    };
    if interface::known(&full_name(shorter)).is_some() {
        return ask_of(flow, shorter);
    }
    // Of somebody else's name only the mesh can tell whether it is an interface or a method.
    let out = get::<broker::method::Explain>(socket, &whole).await?;
    if out.candidates.is_empty() { ask_of(flow, shorter) } else { Ok(whole) }
}

fn ask_of(flow: &Flow, name: &str) -> anyhow::Result<FlowIn> {
    let require = attributes(&flow.require)?;
    Ok(FlowIn {
        flow: full_name(name),
        context: flow.context.clone(),
        require: Some(require).filter(|r| !r.is_empty()),
    })
}

/// What a provider must have, from `NAME=VALUE` each.
fn attributes(pairs: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    let mut require = BTreeMap::new();
    for pair in pairs {
        let (name, value) = pair
            .split_once('=')
            .ok_or_else(|| BadInput(format!("--require {pair}: expected NAME=VALUE")))?;
        require.insert(name.to_owned(), value.to_owned());
    }
    Ok(require)
}

pub(crate) async fn resolve(socket: &Path, flow: &Flow, output: &Output) -> anyhow::Result<()> {
    let out = get::<broker::method::Resolve>(socket, &question(socket, flow).await?).await?;
    if output.json() {
        output.print_json(&out);
    } else {
        let m = &out.matched;
        output.line(&format!(
            "{}{}  {}",
            output.paint(&m.label, Tone::Strong),
            if m.mock { " (mock)" } else { "" },
            m.socket
        ));
    }
    Ok(())
}

pub(crate) async fn explain(socket: &Path, flow: &Flow, output: &Output) -> anyhow::Result<()> {
    let ask = question(socket, flow).await?;
    let out = get::<broker::method::Explain>(socket, &ask).await?;
    // Said of no one module: whatever the flow, nothing could serve it.
    if out.candidates.is_empty() {
        return Err(NotFound(format!(
            "no Card offers {}; `brahman introspect` lists the interfaces on offer",
            ask.flow
        ))
        .into());
    }
    if output.json() {
        output.print_json(&out);
    } else {
        show_candidates(&ask.flow, &out, output);
    }
    Ok(())
}

fn show_candidates(flow: &str, out: &ExplainOut, output: &Output) {
    output.line(&format!("{flow} in context {}", out.context.as_deref().unwrap_or("(none)")));
    let rows = out.candidates.iter().map(|c| {
        let rank = c.rank.map_or("-".to_owned(), |r| (r + 1).to_string());
        let verdict = match (&c.reason, c.rank) {
            (Some(reason), _) => output.paint(&format!("refused: {reason}"), Tone::Bad),
            (None, Some(0)) => output.paint("serves", Tone::Good),
            _ => "standby".to_owned(),
        };
        let m = &c.matched;
        vec![
            rank,
            m.label.clone(),
            if m.pinned { "yes" } else { "no" }.into(),
            m.via.clone(),
            m.priority.to_string(),
            m.state.as_str().into(),
            verdict,
        ]
    });
    output.table(
        &["RANK", "MODULE", "PINNED", "VIA", "PRIORITY", "STATE", "VERDICT"],
        rows.collect(),
    );
    if let Some(note) = &out.note {
        output.line(note);
    }
}

pub(crate) async fn context(
    socket: &Path,
    name: Option<String>,
    clear: bool,
    output: &Output,
) -> anyhow::Result<()> {
    if name.is_none() && !clear {
        let now = get::<broker::method::GetContext>(socket, &Empty {}).await?;
        if output.json() {
            output.print_json(&now);
        } else {
            output.line(now.context.as_deref().unwrap_or("(none)"));
        }
        return Ok(());
    }
    let out =
        get::<broker::method::SetContext>(socket, &SetContextIn { context: name.clone() }).await?;
    if output.json() {
        output.print_json(&out);
    } else {
        let word = |c: &Option<String>| c.clone().unwrap_or_else(|| "(none)".into());
        output.line(&format!("{} → {}", word(&out.previous), word(&name)));
    }
    Ok(())
}

pub(crate) async fn call(socket: &Path, call: &Call, output: &Output) -> anyhow::Result<()> {
    let (interface, method) = call.method.rsplit_once('.').ok_or_else(|| {
        BadInput(format!("`{}`: expected INTERFACE.Method, such as embed.Info", call.method))
    })?;
    let method = format!("{}.{method}", full_name(interface));
    let text = match call.parameters.as_deref() {
        Some(STANDARD) => stdin_text()?,
        Some(text) => text.to_owned(),
        None => "{}".to_owned(),
    };
    let parameters: Value =
        serde_json::from_str(&text).context(BadInput("the parameters are not JSON".to_owned()))?;
    let options = CallOptions {
        context: call.context.clone(),
        deadline: call.deadline.map(Duration::from_millis),
        require: attributes(&call.require)?,
        ..CallOptions::default()
    };
    if !call.more {
        let answer = super::client(socket).call::<_, Value>(&method, &parameters, &options).await?;
        let (value, _) = super::reply_of(answer);
        if output.json() {
            output.print_json(&value);
        } else {
            output.pretty_json(&value);
        }
        return Ok(());
    }
    let (interface, _) = method.rsplit_once('.').unwrap_or_default();
    let mut connection = super::client(socket).open(interface, &options).await?;
    connection.send(&encode_call(&method, &parameters, &options, true, false)?).await?;
    loop {
        let reply = connection.receive().await?;
        let raw: &[u8] = if reply.parameters.is_empty() { b"{}" } else { &reply.parameters };
        let value: Value = serde_json::from_slice(raw)?;
        output.print_json(&value);
        if !reply.continues {
            return Ok(());
        }
    }
}

pub(crate) async fn introspect(
    socket: &Path,
    interface: Option<&str>,
    output: &Output,
) -> anyhow::Result<()> {
    match interface {
        Some(short) => {
            let ask = DescriptionIn { interface: full_name(short) };
            let out = get::<service::method::GetInterfaceDescription>(socket, &ask).await?;
            if output.json() {
                output.print_json(&out);
            } else {
                output.text(out.description.trim_end());
            }
        }
        None => {
            let info = get::<service::method::GetInfo>(socket, &Empty {}).await?;
            if output.json() {
                output.print_json(&info);
            } else {
                info.interfaces.iter().for_each(|name| output.line(name));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use brahman_card::ModuleState;
    use brahman_card::interface::broker::{Candidate, Match};

    use super::*;

    #[test]
    fn the_method_of_a_flow_is_told_by_its_capital() {
        for (given, interface) in [
            ("embed.EmbedText", Some("embed")),
            ("org.brahman.Embed.EmbedText", Some("org.brahman.Embed")),
            ("org.example.WordCount", Some("org.example")),
            ("embed", None),
            ("org.example.words", None),
        ] {
            assert_eq!(without_method(given), interface, "{given}");
        }
    }

    #[test]
    fn an_explanation_ranks_and_says_why_not() {
        let candidate = |label: &str, rank: Option<u64>, reason: Option<&str>| Candidate {
            matched: Match {
                label: label.into(),
                via: "exact".into(),
                priority: 1,
                state: ModuleState::Ready,
                ..Match::default()
            },
            eligible: rank.is_some(),
            reason: reason.map(str::to_owned),
            rank,
        };
        let candidates = vec![
            candidate("embed-real", Some(0), None),
            candidate("embed-other", Some(1), None),
            candidate("embed-mock", None, Some("is excluded in context `prod`")),
        ];
        let out = ExplainOut { context: Some("prod".into()), candidates, note: None };
        let output = Output::kept();
        show_candidates("org.brahman.Embed", &out, &output);
        insta::assert_snapshot!("explain", output.printed());
    }
}
