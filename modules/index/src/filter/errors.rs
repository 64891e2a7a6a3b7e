//! What is wrong with a filter, by name.

use std::io;

use arrow_schema::DataType;
use brahman_card::Fault;
use brahman_card::interface::index::error::Damaged;
use brahman_sidecar::chain;

/// What is wrong with a filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// It is no object.
    #[error(
        "a filter is an object such as {{\"lang\": \"rust\"}} or {{\"year\": {{\"$gte\": 2020}}}}"
    )]
    NoObject,
    /// A filter within it has no members.
    #[error("`{operator}` has an empty filter, which matches nothing in particular")]
    EmptyFilter {
        /// What it is a part of.
        operator: String,
    },
    /// There are no filters to choose from.
    #[error("`{operator}` has an empty list: it says nothing")]
    EmptyList {
        /// Whose list.
        operator: String,
    },
    /// Something else stands where filters are expected.
    #[error("`{operator}` expects a list of filters")]
    NoFilters {
        /// Whose list.
        operator: String,
    },
    /// An operator without a column.
    #[error("`{operator}`: a column's name is expected here")]
    NoColumnName {
        /// The operator.
        operator: String,
    },
    /// A column cannot be compared with a list or an object.
    #[error(
        "`{field}` is compared with a list or an object, expected a text, a number, true, false or null"
    )]
    NoScalar {
        /// The column.
        field: String,
    },
    /// A column is compared by no operator.
    #[error(
        "`{field}` is compared with an empty object: it says nothing; expected such as {{\"$gte\": 2020}}"
    )]
    EmptyObject {
        /// The column.
        field: String,
    },
    /// NULL has no order.
    #[error("`{operator}` of `{field}` is null, which is neither more nor less: expected a value")]
    NullOrder {
        /// The operator.
        operator: String,
        /// The column.
        field: String,
    },
    /// Something else stands where values are expected.
    #[error("`{operator}` of `{field}` expects a list")]
    NoValues {
        /// The operator.
        operator: String,
        /// The column.
        field: String,
    },
    /// Something else stands where a truth is expected.
    #[error("`$exists` of `{field}` expects true or false")]
    NoTruth {
        /// The column.
        field: String,
    },
    /// A list is compared as a whole.
    #[error(
        "column `{field}` is {kind}, a list: ask for one of its values by {{\"$contains\": …}}"
    )]
    List {
        /// The column.
        field: String,
        /// Its type.
        kind: DataType,
    },
    /// A column that is no list is asked for what it contains.
    #[error("column `{field}` is {kind}, which contains nothing: `$contains` is for lists")]
    NoList {
        /// The column.
        field: String,
        /// Its type.
        kind: DataType,
    },
    /// There is no such operator.
    #[error(
        "`{operator}` of `{field}`: expected $eq, $ne, $gt, $gte, $lt, $lte, $in, $nin, $contains or $exists"
    )]
    UnknownOperator {
        /// The operator.
        operator: String,
        /// The column.
        field: String,
    },
    /// There is no such column.
    #[error("the index has no column `{field}` to filter by; it has {}", .there.join(", "))]
    NoColumn {
        /// The column.
        field: String,
        /// Those that there are.
        there: Vec<String>,
    },
    /// Nothing can be compared with a column of this type.
    #[error("column `{field}` is {kind}: searches cannot filter by it")]
    Unfilterable {
        /// The column.
        field: String,
        /// Its type.
        kind: DataType,
    },
    /// A value is of another type than the column.
    #[error(
        "column `{field}` is {kind} and is compared with {value}: expected {expected}, or null"
    )]
    OtherType {
        /// The column.
        field: String,
        /// Its type.
        kind: DataType,
        /// The value, in words.
        value: String,
        /// What would do.
        expected: &'static str,
    },
}

/// Why rows cannot be chosen.
#[derive(Debug, thiserror::Error)]
pub enum SelectionError {
    /// The filter does not fit the index's columns.
    #[error(transparent)]
    Unfit(#[from] FilterError),
    /// The columns cannot be read.
    #[error(transparent)]
    Damaged(#[from] io::Error),
}

impl SelectionError {
    /// As an answer of this index.
    #[must_use]
    pub fn fault(self, index: &str) -> Fault {
        match self {
            Self::Unfit(error) => Fault::invalid_parameter("filter", error),
            Self::Damaged(error) => {
                let why = chain(&error);
                let message = format!(
                    "index `{index}` cannot filter: {why}; `brahman index doctor {index}` says what else is damaged"
                );
                Fault::of(&Damaged { name: index.to_owned() }, false, message)
            }
        }
    }
}
