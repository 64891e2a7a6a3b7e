//! A query made for a collection: which terms it has, what each weighs, and which of them tell
//! most.

use std::io;

use tantivy::query::{
    Bm25StatisticsProvider, BooleanQuery, BoostQuery, Occur, PhraseQuery, Query, TermQuery,
};
use tantivy::schema::IndexRecordOption;
use tantivy::{Searcher, Term};

use super::{ALONE_MAX, Lexical, PHRASE_ROWS_MAX, SATURATED, Statistics};
use crate::analyser::{Kind, segment};
use crate::files::bad;

/// Words of a query that count; more are a document, not a query.
pub(super) const TERMS_MAX: usize = 256;
/// Pairs that a single character of a script without spaces may begin.
const BEGUN_MAX: usize = 64;
/// What a word as it was written adds to its stem.
const FORM_BOOST: f32 = 0.5;
/// What a part of an identifier weighs beside the whole.
const PART_BOOST: f32 = 0.5;
/// What articles, prepositions and question words weigh: little, but they decide where a query has
/// nothing else.
const LINKING_BOOST: f32 = 0.1;

/// A query, made for a collection's analyser.
pub struct CompiledQuery {
    pub(super) ranking: BooleanQuery,
    /// What a row would score that has nothing but the query's words: scores are shares of it.
    pub ideal: f32,
    /// Words of the query that do not count: it has more than a query may.
    pub left_out: u64,
    /// What finds the rows that have the one word, or run, which is most of what the query tells.
    pub(super) decisive: Option<Box<dyn Query>>,
}

impl std::fmt::Debug for CompiledQuery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CompiledQuery").field("ideal", &self.ideal).finish_non_exhaustive()
    }
}

/// A term of a query.
pub(super) struct QueryTerm {
    term: Term,
    boost: f32,
    /// The number of its word.
    group: usize,
    /// Its place, if it is of what makes its word: not a part, and not the stem where there is the
    /// form.
    essence: Option<usize>,
}

/// The terms of a query, each once.
#[derive(Default)]
pub(super) struct WantedTerms {
    pub(super) all: Vec<QueryTerm>,
    /// Words for which there was no place, and the last of them.
    pub(super) left_out: u64,
    last_left_out: Option<usize>,
}

impl WantedTerms {
    fn is_full(&self) -> bool {
        self.all.len() >= TERMS_MAX
    }

    fn add(&mut self, wanted: QueryTerm) {
        if self.is_full() {
            self.leave_out(wanted.group);
        } else if !self.all.iter().any(|there| there.term == wanted.term) {
            self.all.push(wanted);
        }
    }

    /// Counts a word that finds no place, once for all its terms.
    fn leave_out(&mut self, group: usize) {
        if self.last_left_out.replace(group) != Some(group) {
            self.left_out += 1;
        }
    }
}

fn term_query(term: Term) -> Box<dyn Query> {
    Box::new(TermQuery::new(term, IndexRecordOption::WithFreqs))
}

/// Terms that stand at these places, as a query; none of no terms.
fn placed(mut terms: Vec<(usize, Term)>) -> Option<Box<dyn Query>> {
    match terms.len() {
        0 => None,
        1 => terms.pop().map(|(_, term)| term_query(term)),
        _ => Some(Box::new(PhraseQuery::new_with_offset(terms))),
    }
}

impl Lexical {
    /// Makes a query of a text, for this and all collections of the same analyser.
    ///
    /// # Errors
    /// As tantivy gives them.
    pub fn compile(&self, text: &str, statistics: &Statistics) -> io::Result<CompiledQuery> {
        let wanted = if self.analyser.version() == 0 {
            self.tokens(text)?
        } else {
            self.pieces(text, statistics)?
        };
        let (mut ideal, mut clauses, mut groups) = (0.0, Vec::new(), Vec::<(usize, f32)>::new());
        for wanted in &wanted.all {
            let worth = wanted.boost * statistics.rarity(&wanted.term).map_err(bad)?;
            ideal += SATURATED * worth;
            match groups.iter_mut().find(|(group, _)| *group == wanted.group) {
                Some((_, sum)) => *sum += worth,
                None => groups.push((wanted.group, worth)),
            }
            let query = term_query(wanted.term.clone());
            let is_plain = (wanted.boost - 1.0).abs() < f32::EPSILON;
            let query: Box<dyn Query> =
                if is_plain { query } else { Box::new(BoostQuery::new(query, wanted.boost)) };
            clauses.push((Occur::Should, query));
        }
        let all: f32 = groups.iter().map(|(_, worth)| worth).sum();
        let most = groups
            .into_iter()
            .max_by(|a, b| a.1.total_cmp(&b.1))
            .filter(|(_, worth)| worth * 2.0 >= all);
        let decisive = match most {
            Some((group, _)) if self.analyser.version() > 0 => {
                self.decisive(&wanted, group, statistics)?
            }
            _ => None,
        };
        Ok(CompiledQuery {
            ranking: BooleanQuery::new(clauses),
            ideal,
            left_out: wanted.left_out,
            decisive,
        })
    }

    /// The terms of a text by tantivy's own tokenizer.
    fn tokens(&self, text: &str) -> io::Result<WantedTerms> {
        let mut tokenizer = self.index.tokenizer_for_field(self.fields.text).map_err(bad)?;
        let mut wanted = WantedTerms::default();
        let mut group = 0;
        tokenizer.token_stream(text).process(&mut |token| {
            let term = Term::from_field_text(self.fields.text, &token.text);
            wanted.add(QueryTerm { term, boost: 1.0, group, essence: Some(token.position) });
            group += 1;
        });
        Ok(wanted)
    }

    /// The terms of a text by our own.
    fn pieces(&self, text: &str, statistics: &Statistics) -> io::Result<WantedTerms> {
        let (mut reducer, mut linking) = (self.analyser.reducer(), self.analyser.linking_words());
        let forms = self.fields.forms.filter(|_| self.analyser.has_stems());
        let (mut wanted, mut begun) = (WantedTerms::default(), Vec::new());
        segment(text, &mut |piece| {
            if wanted.is_full() {
                // Of a run whose last character comes too late, the pairs have told all.
                if piece.kind != Kind::Last {
                    wanted.leave_out(piece.group);
                }
                return;
            }
            let (group, essence) = (piece.group, Some(piece.position));
            let is_linking = piece.kind == Kind::Word && linking.has(&text[piece.from..piece.to]);
            let boost = match piece.kind {
                Kind::Last => return,
                Kind::Single => return begun.push((piece.text.to_owned(), group)),
                Kind::Pair => {
                    let term = Term::from_field_text(self.fields.text, piece.text);
                    return wanted.add(QueryTerm { term, boost: 1.0, group, essence });
                }
                Kind::Part => PART_BOOST,
                Kind::Word if is_linking => LINKING_BOOST,
                Kind::Word | Kind::Whole => 1.0,
            };
            let essence = essence.filter(|_| piece.kind != Kind::Part);
            let stem = Term::from_field_text(self.fields.text, &reducer.stem(piece.text));
            wanted.add(QueryTerm {
                term: stem,
                boost,
                group,
                essence: essence.filter(|_| forms.is_none()),
            });
            if let Some(forms) = forms {
                let term = Term::from_field_text(forms, piece.text);
                wanted.add(QueryTerm { term, boost: boost * FORM_BOOST, group, essence });
            }
        });
        for (character, group) in begun {
            for term in self.begun_by(&character, statistics)? {
                wanted.add(QueryTerm { term, boost: 1.0, group, essence: None });
            }
        }
        Ok(wanted)
    }

    /// The terms that begin with a character of a script without spaces: it is found wherever it
    /// stands in a run.
    fn begun_by(&self, character: &str, statistics: &Statistics) -> io::Result<Vec<Term>> {
        let mut found: Vec<String> = Vec::new();
        for reader in statistics.present.iter().flat_map(Searcher::segment_readers) {
            let words = reader.inverted_index(self.fields.text).map_err(bad)?;
            let mut terms = words.terms().range().ge(character.as_bytes()).into_stream()?;
            while found.len() < BEGUN_MAX && terms.advance() {
                let Some(text) = std::str::from_utf8(terms.key())
                    .ok()
                    .filter(|text| text.starts_with(character))
                else {
                    break;
                };
                if !found.iter().any(|there| there == text) {
                    found.push(text.to_owned());
                }
            }
        }
        Ok(found.iter().map(|text| Term::from_field_text(self.fields.text, text)).collect())
    }

    /// What finds the rows with the word that decides, if there can be few of them.
    pub(super) fn decisive(
        &self,
        wanted: &WantedTerms,
        group: usize,
        statistics: &Statistics,
    ) -> io::Result<Option<Box<dyn Query>>> {
        let essence = wanted.all.iter().filter(|wanted| wanted.group == group);
        let terms: Vec<(usize, Term)> =
            essence.filter_map(|wanted| Some((wanted.essence?, wanted.term.clone()))).collect();
        let mut rarest = u64::MAX;
        for (_, term) in &terms {
            rarest = rarest.min(statistics.doc_freq(term).map_err(bad)?);
        }
        let most = if terms.len() == 1 { ALONE_MAX as u64 } else { PHRASE_ROWS_MAX };
        Ok(if (1..=most).contains(&rarest) { placed(terms) } else { None })
    }

    /// A phrase, word by word; a single word as it is written if `exact`. None of no words.
    pub(super) fn phrase(
        &self,
        phrase: &str,
        exact: bool,
        statistics: &Statistics,
    ) -> io::Result<Option<Box<dyn Query>>> {
        if self.analyser.version() == 0 {
            let tokens = self.tokens(phrase)?.all;
            return Ok(placed(
                tokens
                    .into_iter()
                    .filter_map(|wanted| Some((wanted.essence?, wanted.term)))
                    .collect(),
            ));
        }
        let mut reducer = self.analyser.reducer();
        let (mut terms, mut words, mut begun, mut groups) = (Vec::new(), Vec::new(), Vec::new(), 0);
        segment(phrase, &mut |piece| {
            groups = piece.group + 1;
            if matches!(piece.kind, Kind::Word | Kind::Whole) {
                words.push(piece.text.to_owned());
            }
            let stem = match piece.kind {
                Kind::Last | Kind::Whole => return,
                Kind::Single => return begun.push(piece.text.to_owned()),
                Kind::Pair => piece.text.to_owned(),
                Kind::Word | Kind::Part => reducer.stem(piece.text),
            };
            terms.push((piece.position, Term::from_field_text(self.fields.text, &stem)));
        });
        let forms = self.fields.forms.filter(|_| self.analyser.has_stems());
        if let ([word], 1, true, Some(forms)) = (words.as_slice(), groups, exact, forms) {
            return Ok(Some(term_query(Term::from_field_text(forms, word))));
        }
        // A lone character counts where there is nothing else.
        if terms.is_empty()
            && let Some(character) = begun.first()
        {
            let any = self
                .begun_by(character, statistics)?
                .into_iter()
                .map(|term| (Occur::Should, term_query(term)));
            return Ok(Some(Box::new(BooleanQuery::new(any.collect()))));
        }
        Ok(placed(terms))
    }
}
