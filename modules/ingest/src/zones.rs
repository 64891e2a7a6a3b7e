//! Instants that are to be printed: arrow's formatter knows zones by their offset alone, and an
//! instant is the same in UTC whatever its zone.

use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_cast::cast;
use arrow_schema::{ArrowError, DataType, FieldRef};

/// UTC as the formatter knows it.
const UTC: &str = "+00:00";

/// The column with all its instants, also within lists and objects, in a zone that can be printed.
pub(crate) fn in_utc(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let kind = kind_in_utc(column.data_type());
    if kind == *column.data_type() { Ok(Arc::clone(column)) } else { cast(column, &kind) }
}

fn kind_in_utc(kind: &DataType) -> DataType {
    let inner = |field: &FieldRef| -> FieldRef {
        let kind = kind_in_utc(field.data_type());
        Arc::new(field.as_ref().clone().with_data_type(kind))
    };
    match kind {
        DataType::Timestamp(unit, Some(_)) => DataType::Timestamp(*unit, Some(UTC.into())),
        DataType::List(field) => DataType::List(inner(field)),
        DataType::LargeList(field) => DataType::LargeList(inner(field)),
        DataType::FixedSizeList(field, length) => DataType::FixedSizeList(inner(field), *length),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(inner).collect()),
        DataType::Map(field, is_sorted) => DataType::Map(inner(field), *is_sorted),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::{StructArray, TimestampMicrosecondArray};
    use arrow_cast::display::array_value_to_string;

    use super::*;

    #[test]
    fn instants_of_any_zone_are_printed_in_utc_also_within_objects() {
        let at = |zone: &str| -> ArrayRef {
            Arc::new(TimestampMicrosecondArray::from(vec![0_i64]).with_timezone(zone))
        };
        for zone in ["UTC", "Europe/Berlin", "+02:00"] {
            let shown = in_utc(&at(zone)).expect("cast");
            let text = array_value_to_string(&shown, 0).expect("printed");
            assert_eq!(text, "1970-01-01T00:00:00Z", "{zone}");
        }
        let inner = at("UTC");
        let field = arrow_schema::Field::new("at", inner.data_type().clone(), true);
        let object: ArrayRef = Arc::new(StructArray::from(vec![(Arc::new(field), inner)]));
        let shown = in_utc(&object).expect("cast");
        let text = array_value_to_string(&shown, 0).expect("printed");
        assert_eq!(text, "{at: 1970-01-01T00:00:00Z}");
        let plain: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![0_i64]));
        assert_eq!(in_utc(&plain).expect("as it is").data_type(), plain.data_type());
    }
}
