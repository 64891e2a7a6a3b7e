//! A part of a table by the values of one column: after the last one that was read, up to one that is taken inside the snapshot.

/// A column by whose values a table cannot be read in parts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("column `{column}` is of type {kind}: {expected}")]
pub struct WindowError {
    /// Name of the cursor's column.
    pub column: String,
    /// Its type, as the server writes it.
    pub kind: String,
    /// Why it will not do, and what would.
    pub expected: &'static str,
}

/// Which part of a table is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The column; its values should only grow.
    pub column: String,
    /// The last value that was read, as the server prints it; from the beginning if there is none.
    pub since: Option<String>,
    /// So much before `since` is read again, for rows whose commit came late: seconds of a time, units of a number.
    pub lag: u64,
    /// At most so many rows; all there are unless said.
    pub rows: Option<u64>,
}

/// Whose SQL is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// PostgreSQL.
    Postgres,
    /// MySQL and MariaDB.
    Mysql,
}

/// What a column's values are to arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Number,
    Time,
    Other,
}

fn kind(source_type: &str) -> Kind {
    let base = source_type.split(['(', ' ']).next().unwrap_or_default();
    match base {
        "smallint" | "integer" | "bigint" | "numeric" | "oid" | "tinyint" | "mediumint" | "int" | "decimal" | "year" => Kind::Number,
        "timestamp" | "date" | "datetime" => Kind::Time,
        _ => Kind::Other,
    }
}

impl Dialect {
    fn literal(self, value: &str, source_type: &str) -> String {
        let quoted = value.replace('\'', "''");
        match (self, kind(source_type)) {
            (Self::Postgres, _) => format!("'{quoted}'::{source_type}"),
            // A backslash escapes there, unless the server is told otherwise.
            (Self::Mysql, Kind::Number) => format!("CAST('{quoted}' AS DECIMAL(65,10))"),
            (Self::Mysql, _) => format!("'{}'", quoted.replace('\\', "\\\\")),
        }
    }

    fn before(self, literal: &str, lag: u64, source_type: &str) -> String {
        match (self, kind(source_type)) {
            _ if lag == 0 => literal.to_owned(),
            (_, Kind::Number) => format!("({literal} - {lag})"),
            (Self::Postgres, _) => format!("({literal} - interval '{lag} seconds')"),
            (Self::Mysql, _) => format!("(CAST({literal} AS DATETIME(6)) - INTERVAL {lag} SECOND)"),
        }
    }

    fn text(self, expression: &str) -> String {
        match self {
            Self::Postgres => format!("{expression}::text"),
            Self::Mysql => format!("CAST({expression} AS CHAR)"),
        }
    }
}

impl Window {
    /// Whether a column of this type will do.
    ///
    /// # Errors
    /// If its values cannot be written down exactly, or cannot be counted back from.
    pub fn check(&self, dialect: Dialect, source_type: &str) -> Result<(), WindowError> {
        let bad = |expected| Err(WindowError { column: self.column.clone(), kind: source_type.to_owned(), expected });
        let base = source_type.split(['(', ' ']).next().unwrap_or_default();
        if dialect == Dialect::Mysql && matches!(base, "float" | "double") {
            return bad("the server prints its values rounded; expected whole numbers, decimals, times or text");
        }
        if self.lag > 0 && kind(source_type) == Kind::Other {
            return bad("a lag is counted in seconds or units; expected a time or a number");
        }
        Ok(())
    }

    /// Rows after `since`: what must hold, if anything.
    fn after(&self, dialect: Dialect, column: &str, source_type: &str) -> Option<String> {
        let since = self.since.as_deref()?;
        Some(format!("{column} > {}", dialect.before(&dialect.literal(since, source_type), self.lag, source_type)))
    }

    /// SQL that gives the last value of this part, as text; NULL if there are no rows.
    #[must_use]
    pub fn bound_query(&self, dialect: Dialect, column: &str, source_type: &str, table: &str) -> String {
        let after = self.after(dialect, column, source_type).map(|after| format!(" WHERE {after}")).unwrap_or_default();
        let from = match self.rows {
            // NULLs, which come first or last by server, are no values of a key.
            Some(rows) => {
                let and = if after.is_empty() { format!(" WHERE {column} IS NOT NULL") } else { after };
                format!("(SELECT {column} FROM {table}{and} ORDER BY {column} LIMIT {rows}) AS brahman_part")
            }
            None => format!("{table}{after}"),
        };
        format!("SELECT {} FROM {from}", dialect.text(&format!("max({column})")))
    }

    /// What must hold of a row of this part, whose last value is `bound`.
    #[must_use]
    pub fn condition(&self, dialect: Dialect, column: &str, source_type: &str, bound: Option<&str>) -> String {
        // A key has no NULLs; of a cursor, rows without one are read once, with the first part.
        let nulls = self.since.is_none() && self.rows.is_none();
        let Some(bound) = bound else {
            return if nulls { format!("{column} IS NULL") } else { "1 = 0".to_owned() };
        };
        let up_to = format!("{column} <= {}", dialect.literal(bound, source_type));
        match self.after(dialect, column, source_type) {
            Some(after) => format!("{after} AND {up_to}"),
            None if nulls => format!("({up_to} OR {column} IS NULL)"),
            None => up_to,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(since: Option<&str>, lag: u64, rows: Option<u64>) -> Window {
        Window { column: "c".into(), since: since.map(str::to_owned), lag, rows }
    }

    #[test]
    fn parts_follow_one_another_without_a_gap() {
        let pg = Dialect::Postgres;
        let first = window(None, 0, None);
        assert_eq!(first.bound_query(pg, "c", "bigint", "t"), "SELECT max(c)::text FROM t");
        assert_eq!(first.condition(pg, "c", "bigint", Some("9")), "(c <= '9'::bigint OR c IS NULL)");
        let next = window(Some("9"), 2, None);
        assert_eq!(next.condition(pg, "c", "bigint", Some("12")), "c > ('9'::bigint - 2) AND c <= '12'::bigint");
        assert_eq!(next.condition(pg, "c", "bigint", None), "1 = 0");
        let times = window(Some("2026-01-01 00:00:00"), 60, None);
        assert!(times.condition(Dialect::Mysql, "c", "datetime(6)", Some("x")).contains("- INTERVAL 60 SECOND"));
        let chunk = window(None, 0, Some(5));
        assert!(chunk.bound_query(pg, "c", "text", "t").contains("ORDER BY c LIMIT 5"));
    }

    #[test]
    fn values_are_quoted_and_rounded_ones_refused() {
        assert_eq!(Dialect::Postgres.literal("o'b", "text"), "'o''b'::text");
        assert_eq!(Dialect::Mysql.literal(r"a\'", "varchar(9)"), r"'a\\'''");
        assert!(window(None, 0, None).check(Dialect::Mysql, "double").is_err());
        assert!(window(None, 3, None).check(Dialect::Postgres, "text").is_err());
        assert!(window(None, 3, None).check(Dialect::Postgres, "timestamp with time zone").is_ok());
    }
}
