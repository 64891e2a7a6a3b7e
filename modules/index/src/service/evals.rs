//! `EvalAutogen` and `EvalList`: sets of queries, generated or given.

use std::sync::Arc;

use brahman_card::Fault;
use brahman_card::interface::index::{
    EvalAutogenIn, EvalListOut, EvalOut, GivenQuery, NameIn, error,
};
use brahman_sidecar::{Call, Deadline, Reply, blocking, chain};

use super::IndexService;
use super::parameters::bounded;
use super::search::unit;
use super::shelf::Index;
use crate::data::DataNames;
use crate::embedder;
use crate::evals::{self, Eval, EvalError, NewSet, OwnQuery};
use crate::generation::Generation;
use crate::refresh::io_fault;

/// Most queries of each half.
const QUERIES_MAX: u64 = 10_000;
/// Fewest queries that somebody gives: with fewer an interval says nothing.
const GIVEN_MIN: usize = 10;
/// Most of them: as many as a generated set has.
const GIVEN_MAX: usize = 20_000;
/// Most answers of one.
const ANSWERS_MAX: usize = 1000;

/// Why there is no set of queries, as an answer of an index.
fn eval_fault(name: &str, error: EvalError) -> Fault {
    match error {
        EvalError::NoSuch { .. } => {
            let message =
                format!("index `{name}`: {error}; `brahman index eval {name} --set SET` makes one");
            Fault::of(&error::NoEval { name: name.to_owned() }, false, message)
        }
        EvalError::Stale { name: set } => {
            let message = format!(
                "index `{name}`: the eval set `{set}` belongs to other data, and what is right for the data as it is now is not known: give \
                 it again (`brahman index eval {name} --set {set} --from FILE`), or name another set"
            );
            Fault::of(&error::StaleEval { name: name.to_owned(), set }, false, message)
        }
        EvalError::NoSuchDocument { .. } => Fault::invalid_parameter("given", error),
        EvalError::Disk(error) => io_fault("the eval set", &error),
    }
}

fn set_name(asked: Option<&str>) -> Result<&str, Fault> {
    let name = asked.unwrap_or(evals::DEFAULT);
    evals::check_name(name).map_err(|e| Fault::invalid_parameter("set", e))?;
    Ok(name)
}

/// The set of queries of a name for this generation; of other data it is made anew.
pub(super) fn eval_of(
    index: &Index,
    generation: &Generation,
    data: &DataNames,
    name: Option<&str>,
    threads: usize,
    aside: &(dyn Fn() + Sync),
) -> Result<Eval, Fault> {
    let eval = evals::wanted(index.folder.path(), generation, data, name, threads, aside);
    eval.map_err(|error| eval_fault(&index.parameters.name, error))
}

impl IndexService {
    pub(super) async fn eval_autogen(&self, call: &Call) -> Result<Reply, Fault> {
        let ask: EvalAutogenIn = call.parameters()?;
        let index = self.index(&ask.name)?;
        index.writable()?;
        let queries = bounded("queries", ask.queries, 10, QUERIES_MAX, evals::QUERIES)?;
        let k = bounded("k", ask.k, 1, 1000, evals::NEIGHBOURS)?;
        let set = set_name(ask.set.as_deref())?.to_owned();
        let (generation, _) = index.current()?;
        if ask.given.is_some() && (ask.queries.is_some() || ask.seed.is_some()) {
            return Err(Fault::invalid_parameter(
                "given",
                "expected without `queries` and `seed`, which are of generated sets",
            ));
        }
        let given = match ask.given {
            Some(given) => Some(self.given(&index, &generation, given).await?),
            None => None,
        };
        let seed = ask.seed.unwrap_or(0);
        let making = Arc::clone(&index);
        let make = move || -> Result<_, Fault> {
            let data = making.data_names(&generation)?;
            let (path, new) = (making.folder.path(), NewSet { name: &set, data: &data.now, k });
            let made = match given {
                Some(given) => evals::given(path, &generation, &new, &given, false),
                None => {
                    evals::autogen(path, &generation, &new, queries, seed).map_err(EvalError::from)
                }
            };
            made.map_err(|error| eval_fault(&making.parameters.name, error))
        };
        let eval = blocking(make).await.map_err(|e| Fault::internal(chain(&e)))??;
        // One that was made where the index no longer is would be lost.
        if !Arc::ptr_eq(&index, &self.index(&ask.name)?) {
            let message = format!("index `{}` was moved in the meantime: try again", ask.name);
            return Err(Fault::of(&error::Busy { name: ask.name }, true, message));
        }
        Reply::of(&EvalOut { eval })
    }

    /// Queries of somebody's own, as directions: texts are embedded by the index's model.
    async fn given(
        &self,
        index: &Index,
        generation: &Generation,
        queries: Vec<GivenQuery>,
    ) -> Result<Vec<OwnQuery>, Fault> {
        let (name, model) = (&index.parameters.name, &generation.manifest.model);
        if !(GIVEN_MIN..=GIVEN_MAX).contains(&queries.len()) {
            let message = format!("{} queries, expected {GIVEN_MIN} to {GIVEN_MAX}", queries.len());
            return Err(Fault::invalid_parameter("given", message));
        }
        let mut out = Vec::with_capacity(queries.len());
        for (place, GivenQuery { text, vector, answers }) in queries.into_iter().enumerate() {
            let wrong =
                |why: &str| Fault::invalid_parameter("given", format!("query {place}: {why}"));
            let vector = match (text, vector) {
                (Some(text), None) => {
                    let embedded =
                        embedder::query(&self.client, model, &text, Deadline::NEVER).await;
                    embedded.map_err(|fault| embedder::explained(fault, model, name))?.0
                }
                (None, Some(vector)) if vector.len() == model.dim => vector,
                (None, Some(vector)) => {
                    return Err(wrong(&format!(
                        "{} numbers, the index's vectors have {}",
                        vector.len(),
                        model.dim
                    )));
                }
                _ => return Err(wrong("expected either `text` or `vector`")),
            };
            let answers = answers.unwrap_or_default();
            if answers.len() > ANSWERS_MAX {
                return Err(wrong(&format!(
                    "{} answers, expected at most {ANSWERS_MAX}",
                    answers.len()
                )));
            }
            out.push(OwnQuery { vector: unit(vector)?, answers });
        }
        Ok(out)
    }

    pub(super) async fn eval_list(&self, call: &Call) -> Result<Reply, Fault> {
        let NameIn { name } = call.parameters()?;
        let index = self.index(&name)?;
        let list = move || -> Result<_, Fault> {
            let data =
                index.generation().map(|generation| index.data_names(&generation)).transpose()?;
            Ok(evals::list(index.folder.path(), data.as_ref()))
        };
        let (evals, damaged) = blocking(list).await.map_err(|e| Fault::internal(chain(&e)))??;
        Reply::of(&EvalListOut {
            evals,
            damaged: Some(damaged).filter(|damaged| !damaged.is_empty()),
        })
    }
}
