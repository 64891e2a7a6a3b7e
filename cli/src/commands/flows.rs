//! Asking the broker, and calling anything.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use brahman_card::interface::Empty;
use brahman_card::interface::broker::{Context, ExplainOut, FlowIn, ResolveOut, SetContextOut};
use brahman_card::interface::full_name;
use brahman_card::interface::service::{DescriptionIn, DescriptionOut, Info};
use brahman_sidecar::client::encode_call;
use brahman_sidecar::{CallOptions, Connection};
use serde_json::Value;

use super::get;
use crate::failure::BadInput;
use crate::output::{Output, Tone};
use crate::{Call, Flow};

fn question(flow: &Flow) -> anyhow::Result<FlowIn> {
    let mut require = BTreeMap::new();
    for pair in &flow.require {
        let (name, value) = pair.split_once('=').ok_or_else(|| BadInput(format!("--require {pair}: expected NAME=VALUE")))?;
        require.insert(name.to_owned(), value.to_owned());
    }
    Ok(FlowIn { flow: full_name(&flow.flow), context: flow.context.clone(), require: Some(require).filter(|r| !r.is_empty()) })
}

pub(crate) async fn resolve(socket: &Path, flow: &Flow, output: &Output) -> anyhow::Result<()> {
    let out: ResolveOut = get(socket, "org.brahman.Broker.Resolve", &question(flow)?).await?;
    if output.json() {
        output.print_json(&out);
    } else {
        let m = &out.matched;
        output.line(&format!("{}{}  {}", output.paint(&m.label, Tone::Strong), if m.mock { " (mock)" } else { "" }, m.socket));
    }
    Ok(())
}

pub(crate) async fn explain(socket: &Path, flow: &Flow, output: &Output) -> anyhow::Result<()> {
    let ask = question(flow)?;
    let out: ExplainOut = get(socket, "org.brahman.Broker.Explain", &ask).await?;
    if output.json() {
        output.print_json(&out);
        return Ok(());
    }
    output.line(&format!("{} in context {}", ask.flow, out.context.as_deref().unwrap_or("(none)")));
    if out.candidates.is_empty() {
        output.line("no Card offers it");
    }
    let rows = out.candidates.iter().map(|c| {
        let rank = c.rank.map_or("-".to_owned(), |r| (r + 1).to_string());
        let verdict = match (&c.reason, c.rank) {
            (Some(reason), _) => output.paint(&format!("refused: {reason}"), Tone::Bad),
            (None, Some(0)) => output.paint("serves", Tone::Good),
            _ => "stands by".to_owned(),
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
    output.table(&["RANK", "MODULE", "PINNED", "VIA", "PRIORITY", "STATE", "VERDICT"], rows.collect());
    if let Some(note) = out.note {
        output.line(&note);
    }
    Ok(())
}

pub(crate) async fn context(socket: &Path, name: Option<String>, clear: bool, output: &Output) -> anyhow::Result<()> {
    if name.is_none() && !clear {
        let now: Context = get(socket, "org.brahman.Broker.GetContext", &Empty {}).await?;
        if output.json() {
            output.print_json(&now);
        } else {
            output.line(now.context.as_deref().unwrap_or("(none)"));
        }
        return Ok(());
    }
    let out: SetContextOut = get(socket, "org.brahman.Broker.SetContext", &Context { context: name.clone() }).await?;
    if output.json() {
        output.print_json(&out);
    } else {
        let word = |c: &Option<String>| c.clone().unwrap_or_else(|| "(none)".into());
        output.line(&format!("{} → {}", word(&out.previous), word(&name)));
    }
    Ok(())
}

pub(crate) async fn call(socket: &Path, call: &Call, output: &Output) -> anyhow::Result<()> {
    let (interface, method) = call
        .method
        .rsplit_once('.')
        .ok_or_else(|| BadInput(format!("`{}`: expected INTERFACE.Method, such as embed.Info", call.method)))?;
    let method = format!("{}.{method}", full_name(interface));
    let text = match call.parameters.as_deref() {
        Some("-") => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text)?;
            text
        }
        Some(text) => text.to_owned(),
        None => "{}".to_owned(),
    };
    let parameters: Value = serde_json::from_str(&text).map_err(|e| BadInput(format!("parameters are not JSON: {e}")))?;
    let options =
        CallOptions { context: call.context.clone(), deadline: call.deadline.map(Duration::from_millis), ..CallOptions::default() };
    let mut connection = Connection::connect(socket).await?;
    connection.send(&encode_call(&method, &parameters, &options, call.more, false)?).await?;
    loop {
        let reply = connection.receive().await?;
        let raw: &[u8] = if reply.parameters.is_empty() { b"{}" } else { &reply.parameters };
        let value: Value = serde_json::from_slice(raw)?;
        if output.json() || call.more {
            output.print_json(&value);
        } else {
            output.pretty_json(&value);
        }
        if !reply.continues {
            return Ok(());
        }
    }
}

pub(crate) async fn introspect(socket: &Path, interface: Option<&str>, output: &Output) -> anyhow::Result<()> {
    match interface {
        Some(short) => {
            let out: DescriptionOut =
                get(socket, "org.varlink.service.GetInterfaceDescription", &DescriptionIn { interface: full_name(short) }).await?;
            if output.json() {
                output.print_json(&out);
            } else {
                output.text(out.description.trim_end());
            }
        }
        None => {
            let info: Info = get(socket, "org.varlink.service.GetInfo", &Empty {}).await?;
            if output.json() {
                output.print_json(&info);
            } else {
                info.interfaces.iter().for_each(|name| output.line(name));
            }
        }
    }
    Ok(())
}
