//! JSON objects into columns: what is seen of their values, and arrays of the types that were seen
//! so far.

use std::sync::Arc;

use arrow_array::builder::StringBuilder;
use arrow_array::{ArrayRef, ListArray, StructArray};
use arrow_buffer::{NullBufferBuilder, OffsetBuffer, ScalarBuffer};
use arrow_schema::{ArrowError, FieldRef, Fields};

use super::scan::{Part, Sort, unescape};
use crate::lattice::cells::Cells;
use crate::lattice::number::Number;
use crate::lattice::{DEPTH_MAX, Facts, Keys, Kind, Value};

/// An array in the making.
pub(super) enum Column {
    Cells(Cells),
    Json(StringBuilder),
    Struct(Box<StructColumn>),
    List(Box<ListColumn>),
}

pub(super) struct StructColumn {
    fields: Fields,
    columns: Vec<Column>,
    nulls: NullBufferBuilder,
}

pub(super) struct ListColumn {
    field: FieldRef,
    item: Column,
    offsets: Vec<i32>,
    /// Items so far. A piece has 16 MiB at most, so they can be counted so.
    items: i32,
    nulls: NullBufferBuilder,
}

impl Column {
    /// An empty one.
    pub(super) fn new(kind: &Kind) -> Self {
        match kind {
            Kind::Json => Self::Json(StringBuilder::new()),
            Kind::Struct(kinds) => Self::Struct(Box::new(StructColumn {
                fields: Kind::fields(kinds),
                columns: kinds.iter().map(|(_, kind)| Self::new(kind)).collect(),
                nulls: NullBufferBuilder::new(0),
            })),
            Kind::List(item) => Self::List(Box::new(ListColumn {
                field: Arc::new(item.item()),
                item: Self::new(item),
                offsets: vec![0],
                items: 0,
                nulls: NullBufferBuilder::new(0),
            })),
            scalar => Self::Cells(Cells::new(scalar)),
        }
    }

    fn push_null(&mut self) {
        match self {
            Self::Cells(cells) => cells.push_null(),
            Self::Json(texts) => texts.append_null(),
            Self::Struct(of) => {
                of.columns.iter_mut().for_each(Self::push_null);
                of.nulls.append_null();
            }
            Self::List(of) => {
                of.offsets.push(of.items);
                of.nulls.append_null();
            }
        }
    }

    /// What was added, as an array; begins anew.
    pub(super) fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        Ok(match self {
            Self::Cells(cells) => cells.finish(),
            Self::Json(texts) => Arc::new(texts.finish()),
            Self::Struct(of) => {
                let columns = of.columns.iter_mut().map(Self::finish).collect::<Result<_, _>>()?;
                Arc::new(StructArray::try_new(of.fields.clone(), columns, of.nulls.finish())?)
            }
            Self::List(of) => {
                let offsets = std::mem::replace(&mut of.offsets, vec![0]);
                of.items = 0;
                let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
                Arc::new(ListArray::try_new(
                    Arc::clone(&of.field),
                    offsets,
                    of.item.finish()?,
                    of.nulls.finish(),
                )?)
            }
        })
    }
}

/// What is noticed on the way.
#[derive(Debug, Default)]
pub(super) struct Notice {
    /// A value is not of its column's type.
    pub(super) misfit: bool,
    /// Objects with a key more than once.
    pub(super) twice: u64,
    /// The first such key, and its row.
    pub(super) twice_first: Option<(String, u64)>,
    key: String,
    text: String,
}

/// One object that is read.
pub(super) struct Reading<'a> {
    pub(super) text: &'a str,
    pub(super) parts: &'a [Part],
    pub(super) row: u64,
    pub(super) notice: &'a mut Notice,
}

impl<'a> Reading<'a> {
    fn part(&self, at: u32) -> Part {
        self.parts[at as usize]
    }

    /// A part as it stands there; of a string, without its quotes.
    fn raw(&self, part: Part) -> &'a str {
        let text: &'a str = self.text;
        &text[part.start as usize..part.end as usize]
    }

    /// The object at a place: its keys, into these columns if it is to be kept.
    pub(super) fn object(
        &mut self,
        mut columns: Option<&mut [Column]>,
        keys: &mut Keys,
        at: u32,
        depth: usize,
    ) {
        keys.see();
        keys.turn();
        let (end, mut at, mut expected, mut twice) = (self.part(at).next, at + 1, 0, false);
        let mut unescaped = std::mem::take(&mut self.notice.key);
        while at < end {
            let key = self.part(at);
            let name = match key.sort {
                Sort::Escaped => {
                    unescape(self.raw(key), &mut unescaped);
                    unescaped.as_str()
                }
                _ => self.raw(key),
            };
            if let Some(place) = keys.place(name, expected) {
                expected = place + 1;
                if !keys.set(place, at + 1) && !std::mem::replace(&mut twice, true) {
                    self.notice.twice += 1;
                    let row = self.row;
                    self.notice.twice_first.get_or_insert_with(|| (name.to_owned(), row));
                }
            }
            at = self.part(at + 1).next;
        }
        self.notice.key = unescaped;
        if let Some(columns) = &columns
            && (keys.is_crowded() || keys.len() > columns.len())
        {
            self.notice.misfit = true;
        }
        for place in 0..keys.len() {
            let column = columns.as_deref_mut().and_then(|columns| columns.get_mut(place));
            match (keys.at(place), column) {
                (Some(at), column) => self.value(column, keys.facts(place), at, depth + 1),
                (None, Some(column)) => column.push_null(),
                (None, None) => {}
            }
        }
    }

    /// The value at a place.
    fn value(&mut self, column: Option<&mut Column>, facts: &mut Facts, at: u32, depth: usize) {
        let part = self.part(at);
        let value = match part.sort {
            Sort::Null => {
                if let Some(column) = column {
                    column.push_null();
                }
                return;
            }
            Sort::Object | Sort::List => return self.nested(column, facts, at, depth),
            Sort::Text | Sort::Escaped => return self.string(column, facts, part),
            Sort::True => Value::Bool(true),
            Sort::False => Value::Bool(false),
            Sort::Number => {
                Number::scan(self.raw(part).as_bytes()).map_or(Value::Text, Value::Number)
            }
            Sort::Special => Value::Special(match self.raw(part) {
                "NaN" => f64::NAN,
                "Infinity" => f64::INFINITY,
                _ => f64::NEG_INFINITY,
            }),
        };
        let (raw, row) = (self.raw(part), self.row);
        match value {
            Value::Special(_) => facts.add_special(raw, row),
            _ => facts.add(&value, raw, row),
        }
        let held = match column {
            Some(Column::Cells(cells)) => cells.push(&value, raw),
            Some(Column::Json(texts)) => {
                texts.append_value(raw);
                true
            }
            Some(Column::Struct(_) | Column::List(_)) => false,
            None => true,
        };
        self.notice.misfit |= !held;
    }

    /// A string.
    fn string(&mut self, column: Option<&mut Column>, facts: &mut Facts, part: Part) {
        let mut unescaped = std::mem::take(&mut self.notice.text);
        let text = match part.sort {
            Sort::Escaped => {
                unescape(self.raw(part), &mut unescaped);
                unescaped.as_str()
            }
            _ => self.raw(part),
        };
        facts.add_text(text, self.row);
        let held = match column {
            Some(Column::Cells(cells)) => cells.push_text(text),
            Some(Column::Json(texts)) => {
                texts.append_value(&self.text[part.start as usize - 1..part.end as usize + 1]);
                true
            }
            Some(Column::Struct(_) | Column::List(_)) => false,
            None => true,
        };
        self.notice.text = unescaped;
        self.notice.misfit |= !held;
    }

    /// An object or a list within another.
    fn nested(&mut self, column: Option<&mut Column>, facts: &mut Facts, at: u32, depth: usize) {
        let part = self.part(at);
        match (column, part.sort == Sort::Object) {
            (Some(Column::Struct(of)), true) => self.members(Some(of), facts, at, depth),
            (Some(Column::List(of)), false) => self.items(Some(of), facts, at, depth),
            (other, is_object) => {
                match other {
                    Some(Column::Json(texts)) => texts.append_value(self.raw(part)),
                    Some(_) => self.notice.misfit = true,
                    None => {}
                }
                if is_object {
                    self.members(None, facts, at, depth);
                } else {
                    self.items(None, facts, at, depth);
                }
            }
        }
    }

    fn members(
        &mut self,
        column: Option<&mut StructColumn>,
        facts: &mut Facts,
        at: u32,
        depth: usize,
    ) {
        let keys = facts.add_object(self.raw(self.part(at)), self.row);
        // Deeper it is JSON whatever is in it.
        if depth > DEPTH_MAX {
            return;
        }
        let columns = column.map(|of| {
            of.nulls.append_non_null();
            of.columns.as_mut_slice()
        });
        self.object(columns, keys, at, depth);
    }

    fn items(
        &mut self,
        mut column: Option<&mut ListColumn>,
        facts: &mut Facts,
        at: u32,
        depth: usize,
    ) {
        let part = self.part(at);
        let items = facts.add_list(self.raw(part), self.row);
        if depth > DEPTH_MAX {
            return;
        }
        let mut at = at + 1;
        while at < part.next {
            self.value(column.as_deref_mut().map(|of| &mut of.item), items, at, depth + 1);
            if let Some(of) = column.as_deref_mut() {
                of.items += 1;
            }
            at = self.part(at).next;
        }
        if let Some(of) = column {
            of.offsets.push(of.items);
            of.nulls.append_non_null();
        }
    }
}
