//! What the broker answers by itself: `org.brahman.Broker` and `org.varlink.service`.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use brahman_card::card::unknown_context;
use brahman_card::interface::broker::{
    Candidate, Context, ExplainOut, FlowIn, ModuleStatus, ResolveOut, SetContextIn, SetContextOut,
    StatusOut, WatchOut,
};
use brahman_card::interface::service::{DescriptionOut, Info};
use brahman_card::wire::fault::Fault;
use brahman_card::wire::parameters;
use brahman_card::{ModuleState, interface};
use brahman_sidecar::serve::{GONE_EVERY, encode_reply, hung_up, write_all};
use brahman_sidecar::{Peer, chain};
use serde::Serialize;

use super::{Broker, asker_of, described};
use crate::client::{After, Client};
use crate::matching::{Ask, Ranking, elsewhere, rank};
use crate::outgoing::Outgoing;
use crate::table::Table;

/// The interface that the broker itself serves, and the one that every socket has.
const OWN: &str = interface::broker::INTERFACE.name;
const EVERYBODYS: &str = interface::service::INTERFACE.name;

impl Broker {
    /// Answers a call to the broker itself; `None` if it is to be forwarded after all.
    pub(crate) async fn answer(
        &self,
        client: &mut Client,
        call: &Outgoing,
    ) -> io::Result<Option<After>> {
        let outcome = match (call.interface.as_str(), call.method.as_str()) {
            (OWN, "Watch") if call.more => return self.watch(client, call).await.map(Some),
            (EVERYBODYS, "GetInterfaceDescription") => {
                match self.description(call, client.frames.delimiter()) {
                    Ok(None) => return Ok(None),
                    Ok(Some(reply)) => Ok(reply),
                    Err(fault) => Err(fault),
                }
            }
            _ => self.local(client, call),
        };
        if call.oneway {
            return Ok(Some(After::Next));
        }
        match outcome {
            Ok(reply) => write_all(&client.stream, &reply).await?,
            Err(fault) => client.fault(&call.reply_head("broker"), &fault).await?,
        }
        Ok(Some(After::Next))
    }

    fn local(&self, client: &Client, call: &Outgoing) -> Result<Vec<u8>, Fault> {
        let delimiter = client.frames.delimiter();
        let table = Arc::clone(&self.table.borrow());
        if interface::known(&call.interface).is_some_and(|i| i.takes_nothing(&call.method)) {
            parameters::none(call.parameters())?;
        }
        match (call.interface.as_str(), call.method.as_str()) {
            (OWN, "Resolve") => {
                let ask: FlowIn = parameters::read(call.parameters())?;
                self.check_context(&table, ask.context.as_deref().or(call.context.as_deref()))?;
                let (ranking, context) = self.rank(&table, &ask, call, client.peer);
                let first = ranking.eligible().first().map(|c| c.matched.clone());
                let matched = first.ok_or_else(|| {
                    let asker = asker_of(&table, client.peer);
                    let asked = Ask {
                        flow: &ask.flow,
                        context: context.as_deref(),
                        require: ask.require.as_ref(),
                        asker,
                    };
                    let fault =
                        Fault::no_provider(&ask.flow, context.as_deref(), &ranking.refusals());
                    fault.adding(&elsewhere(&table.modules, &asked))
                })?;
                reply(call, &ResolveOut { matched, generation: table.generation }, delimiter)
            }
            (OWN, "Watch") => Err(Fault::expected_more("Watch")),
            (OWN, "Explain") => {
                let ask: FlowIn = parameters::read(call.parameters())?;
                self.check_context(&table, ask.context.as_deref().or(call.context.as_deref()))?;
                let (ranking, context) = self.rank(&table, &ask, call, client.peer);
                let eligible = ranking.eligible;
                let candidates =
                    ranking.candidates.into_iter().enumerate().map(|(i, c)| Candidate {
                        matched: c.matched,
                        eligible: i < eligible,
                        reason: c.refused,
                        rank: (i < eligible).then_some(i as u64),
                    });
                reply(
                    call,
                    &ExplainOut { context, candidates: candidates.collect(), note: ranking.note },
                    delimiter,
                )
            }
            (OWN, "GetContext") => {
                reply(call, &Context { context: table.context.clone() }, delimiter)
            }
            (OWN, "SetContext") => {
                let SetContextIn { context } = parameters::read(call.parameters())?;
                let uid = call.uid.unwrap_or(client.peer.uid);
                if !self.administers(uid) {
                    let why = "the context applies to everybody: only the mesh's own user and root may switch it";
                    return Err(Fault::permission_denied(format!("uid {uid}: {why}")));
                }
                if let Some(why) = context
                    .as_ref()
                    .and_then(|name| unknown_context(name, table.modules.iter().map(|m| &m.card)))
                {
                    return Err(Fault::invalid_parameter("context", why));
                }
                let unkept = |e: io::Error| {
                    Fault::internal(format!("the context cannot be saved: {}", chain(&e)))
                };
                self.context_file.write(context.as_deref()).map_err(unkept)?;
                let mut previous = None;
                self.table.send_modify(|now| {
                    previous.clone_from(&now.context);
                    *now = Arc::new(Table {
                        context,
                        generation: now.generation + 1,
                        ..(**now).clone()
                    });
                });
                reply(call, &SetContextOut { previous }, delimiter)
            }
            (OWN, "Status") => reply(call, &self.status(&table), delimiter),
            (EVERYBODYS, "GetInfo") => {
                let ready = table.modules.iter().filter(|m| m.state == ModuleState::Ready);
                let mut interfaces: Vec<String> =
                    ready.flat_map(|m| m.card.offered_interfaces()).map(str::to_owned).collect();
                interfaces.extend(
                    [
                        interface::service::INTERFACE.name,
                        interface::broker::INTERFACE.name,
                        interface::init::INTERFACE.name,
                    ]
                    .map(str::to_owned),
                );
                interfaces.sort();
                interfaces.dedup();
                let version = env!("CARGO_PKG_VERSION").to_owned();
                reply(
                    call,
                    &Info {
                        vendor: "Brahman".into(),
                        product: "mesh".into(),
                        version,
                        url: "https://varlink.org".into(),
                        interfaces,
                    },
                    delimiter,
                )
            }
            _ => Err(Fault::method_not_found(&format!("{}.{}", call.interface, call.method))),
        }
    }

    fn rank(
        &self,
        table: &Table,
        ask: &FlowIn,
        call: &Outgoing,
        peer: Peer,
    ) -> (Ranking, Option<String>) {
        let context =
            ask.context.clone().or_else(|| call.context.clone()).or_else(|| table.context.clone());
        let asker = asker_of(table, peer);
        let ranking = rank(
            &table.modules,
            &Ask {
                flow: &ask.flow,
                context: context.as_deref(),
                require: ask.require.as_ref(),
                asker,
            },
        );
        (ranking, context)
    }

    /// The text of an interface that is on offer; `None` if only its provider has the text.
    fn description(&self, call: &Outgoing, delimiter: u8) -> Result<Option<Vec<u8>>, Fault> {
        let wanted = described(call)?;
        let own = [
            interface::service::INTERFACE.name,
            interface::broker::INTERFACE.name,
            interface::init::INTERFACE.name,
        ]
        .contains(&wanted.as_str());
        let offered = self
            .table
            .borrow()
            .modules
            .iter()
            .any(|m| m.card.offered_interfaces().any(|i| i == wanted));
        match interface::known(&wanted).filter(|_| own || offered) {
            Some(known) => {
                reply(call, &DescriptionOut { description: known.idl().to_owned() }, delimiter)
                    .map(Some)
            }
            None if offered => Ok(None),
            None => Err(Fault::interface_not_found(&wanted)),
        }
    }

    async fn watch(&self, client: &mut Client, call: &Outgoing) -> io::Result<After> {
        let read = parameters::read(call.parameters()).and_then(|ask: FlowIn| {
            let context = ask.context.as_deref().or(call.context.as_deref());
            self.check_context(&self.table.borrow(), context).map(|()| ask)
        });
        let ask = match read {
            Ok(ask) => ask,
            Err(fault) => {
                return client
                    .fault(&call.reply_head("broker"), &fault)
                    .await
                    .map(|()| After::Next);
            }
        };
        let mut changes = self.table.subscribe();
        let mut last = None;
        loop {
            let table = Arc::clone(&changes.borrow_and_update());
            let matched = self
                .rank(&table, &ask, call, client.peer)
                .0
                .eligible()
                .first()
                .map(|c| c.matched.clone());
            if last.as_ref() != Some(&matched) {
                let word = WatchOut { matched: matched.clone(), generation: table.generation };
                match encode_reply(
                    &call.reply_head("broker"),
                    &word,
                    true,
                    client.frames.delimiter(),
                ) {
                    Ok(message) => write_all(&client.stream, &message).await?,
                    Err(fault) => {
                        return client
                            .fault(&call.reply_head("broker"), &fault)
                            .await
                            .map(|()| After::Next);
                    }
                }
                last = Some(matched);
            }
            tokio::select! {
                biased;
                () = self.drain.cancelled() => return Ok(After::Close),
                changed = changes.changed() => if changed.is_err() { return Ok(After::Close) },
                ready = client.stream.readable() => {
                    // Nothing may be said on a watched connection; hang-up is the way to end it.
                    ready?;
                    let mut byte = [0_u8; 64];
                    match client.stream.try_read(&mut byte) {
                        Ok(0) if !hung_up(&client.stream) => tokio::select! {
                            biased;
                            () = self.drain.cancelled() => return Ok(After::Close),
                            () = tokio::time::sleep(GONE_EVERY) => {}
                            changed = changes.changed() => if changed.is_err() {
                                return Ok(After::Close);
                            } else {
                                changes.mark_changed();
                            },
                        },
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        _ => return Ok(After::Close),
                    }
                }
            }
        }
    }

    fn status(&self, table: &Table) -> StatusOut {
        let now = Instant::now();
        let modules = table.modules.iter().map(|m| {
            let provider = self.providers.of(m);
            let queue = provider.load() as u64;
            let health = provider.health();
            let percentiles = health.percentiles();
            ModuleStatus {
                label: m.card.label.to_string(),
                state: m.state,
                pid: m.pid,
                restarts: m.restarts,
                uptime_s: m.uptime_ms as f64 / 1000.0
                    + now.duration_since(table.received).as_secs_f64(),
                flows: m.card.offered_interfaces().map(str::to_owned).collect(),
                mock: m.card.mock,
                reason: m.reason.clone(),
                queue,
                p50_us: percentiles.map(|(p50, _)| p50),
                p99_us: percentiles.map(|(_, p99)| p99),
                calls: health.calls,
                failures: health.failures,
                breaker: health.breaker(now).map(str::to_owned),
                attributes: m.attributes.clone(),
                shortfalls: Some(m.shortfalls.clone()).filter(|s| !s.is_empty()),
                origin: m.origin.clone(),
            }
        });
        StatusOut { context: table.context.clone(), modules: modules.collect() }
    }
}

fn reply<T: Serialize>(call: &Outgoing, value: &T, delimiter: u8) -> Result<Vec<u8>, Fault> {
    encode_reply(&call.reply_head("broker"), value, false, delimiter)
}
