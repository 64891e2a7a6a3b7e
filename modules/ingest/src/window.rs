//! A part of a table by the values of one column: after the last one that was read, up to one that
//! is taken inside the snapshot.
//!
//! Invariants: a bound is compared as the column's own type, and is refused if it does not find the
//! row that it was taken from; a row whose value no bound can be (NULL, infinite, later than
//! tomorrow) or whose value the last bound had already is read again by its key, or the read is
//! refused: no row is passed over in silence.

/// A column by whose values a table cannot be read in parts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// Its type will not do.
    #[error("column `{column}` is of type {kind}: {expected}")]
    Kind {
        /// Name of the column.
        column: String,
        /// Its type, as the server writes it.
        kind: String,
        /// Why it will not do, and what would.
        expected: &'static str,
    },
    /// A key that some rows do not have.
    #[error(
        "{rows} rows have NULL in the key `{column}`: expected a unique key that is never NULL"
    )]
    NullKey {
        /// Name of the column.
        column: String,
        /// So many rows.
        rows: u64,
    },
    /// Values that would end the reading for ever.
    #[error(
        "{rows} rows have a `{column}` that is infinite or later than tomorrow: give a key by which they can be read again (--key)"
    )]
    Far {
        /// Name of the column.
        column: String,
        /// So many rows.
        rows: u64,
    },
    /// Rows that no bound tells from those that were read.
    #[error(
        "{now} rows have a `{column}` that is NULL or not a finite number, {} when they were last read: without a key (--key) nobody can \
         tell which are new; give one, or read the table whole with mode full",
        before(.was)
    )]
    Strays {
        /// Name of the column.
        column: String,
        /// Rows now.
        now: u64,
        /// Rows when they were last read, if that is known.
        was: Option<u64>,
    },
    /// Rows that came after those of the same value.
    #[error(
        "{now} rows have `{column}` = {bound}, {was} when they were last read: without a key (--key) nobody can tell which are new; give \
         one, or read the table whole with mode full"
    )]
    Ties {
        /// Name of the column.
        column: String,
        /// The value.
        bound: String,
        /// Rows now.
        now: u64,
        /// Rows when they were last read.
        was: u64,
    },
    /// A value that is another once it was printed and read.
    #[error(
        "column `{column}`: the server does not find its own value {bound} again: expected a column whose values are printed exactly"
    )]
    Inexact {
        /// Name of the column.
        column: String,
        /// The value as it was printed.
        bound: String,
    },
}

fn before(was: &Option<u64>) -> String {
    was.map_or_else(|| "an unknown number of them".to_owned(), |was| was.to_string())
}

/// Which part of a table is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// The column; its values should only grow.
    pub column: String,
    /// The last value that was read, as the server prints it; from the beginning if there is none.
    pub since: Option<String>,
    /// So much before `since` is read again, for rows whose commit came late: seconds of a time,
    /// units of a number.
    pub lag: u64,
    /// At most so many rows; all there are unless said.
    pub rows: Option<u64>,
    /// Rows that had the value `since` when it was read, if that is known.
    pub ties: Option<u64>,
    /// Rows then whose value no bound can be, if that is known.
    pub strays: Option<u64>,
    /// The sum of what those were, if that is known.
    pub strays_sum: Option<String>,
    /// Whether rows that are read again take their own place.
    pub keyed: bool,
}

/// How far a part of a table goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// The last value, as the server prints it, if there is a row.
    pub bound: Option<String>,
    /// Rows that have this value, or the one before if there is no row.
    pub ties: Option<u64>,
    /// Rows whose value no bound can be.
    pub strays: Option<u64>,
    /// The sum of what those are, if there are any.
    pub strays_sum: Option<String>,
}

/// What stands at the source now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Rows whose value no bound can be: NULL, not finite, later than tomorrow.
    pub strays: u64,
    /// Those of them that are infinite or later than tomorrow, of a time.
    pub far: u64,
    /// Rows that have the value that was read last.
    pub ties: u64,
    /// Of the rows whose value no bound can be: the same as long as each of them is what it was, in
    /// whatever order.
    pub strays_sum: Option<String>,
}

/// Which rows are read besides those above the last value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// Those that have the last value, too.
    pub inclusive: bool,
    /// Those whose value no bound can be, too.
    pub strays: bool,
    /// What a person should know of them.
    pub note: Option<String>,
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
    /// Bytes that are no text.
    Bytes,
    Other,
}

/// The first word of a type.
fn base(source_type: &str) -> &str {
    source_type.split(['(', ' ']).next().unwrap_or_default()
}

fn kind(source_type: &str) -> Kind {
    match base(source_type) {
        "smallint" | "integer" | "bigint" | "numeric" | "oid" | "tinyint" | "mediumint" | "int"
        | "decimal" | "year" => Kind::Number,
        "timestamp" | "date" | "datetime" => Kind::Time,
        "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" => Kind::Bytes,
        _ => Kind::Other,
    }
}

/// Whether a text is digits with at most a sign and a point: as such it is a number to every
/// server, to its last digit.
fn is_number(value: &str) -> bool {
    let digits = value.strip_prefix('-').unwrap_or(value);
    digits.starts_with(|c: char| c.is_ascii_digit())
        && digits.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

impl Dialect {
    fn literal(self, value: &str, source_type: &str) -> String {
        match (self, kind(source_type)) {
            // Strings are standard there: `server` sees to it.
            (Self::Postgres, _) => format!("'{}'::{source_type}", value.replace('\'', "''")),
            (Self::Mysql, Kind::Number) if is_number(value) => value.to_owned(),
            // What was read while the column was of text may be anything.
            (Self::Mysql, Kind::Bytes) if value.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
                format!("X'{value}'")
            }
            (Self::Mysql, _)
                if value.bytes().all(|b| b.is_ascii_alphanumeric() || b" :.+-".contains(&b)) =>
            {
                format!("'{value}'")
            }
            // Whatever a backslash means to the server.
            (Self::Mysql, _) => format!(
                "_utf8mb4 X'{}'",
                value.bytes().map(|byte| format!("{byte:02X}")).collect::<String>()
            ),
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

    fn text(self, expression: &str, source_type: &str) -> String {
        match (self, kind(source_type)) {
            (Self::Postgres, _) => format!("{expression}::text"),
            (Self::Mysql, Kind::Bytes) => format!("HEX({expression})"),
            (Self::Mysql, _) => format!("CAST({expression} AS CHAR)"),
        }
    }

    /// What is infinite, or no number.
    fn infinite(self, column: &str, source_type: &str) -> Option<String> {
        match (self, base(source_type)) {
            (Self::Postgres, "timestamp" | "date") => Some(format!("NOT isfinite({column})")),
            (Self::Postgres, "real" | "double") => {
                Some(format!("{column} IN ('NaN', 'Infinity', '-Infinity')"))
            }
            (Self::Postgres, "numeric") => {
                Some(format!("{column}::text IN ('NaN', 'Infinity', '-Infinity')"))
            }
            _ => None,
        }
    }

    /// What is later than tomorrow: the zones of all clocks are within a day.
    fn far(self, column: &str, source_type: &str) -> Option<String> {
        match (self, kind(source_type)) {
            (Self::Postgres, Kind::Time) => Some(format!("{column} > now() + interval '1 day'")),
            (Self::Mysql, Kind::Time) => Some(format!("{column} > NOW() + INTERVAL 1 DAY")),
            _ => None,
        }
    }
}

impl Window {
    /// Whether a column of this type will do.
    ///
    /// # Errors
    /// If its values cannot be written down exactly, are not compared as they are sorted, or cannot
    /// be counted back from.
    pub fn check(&self, dialect: Dialect, source_type: &str) -> Result<(), WindowError> {
        let bad = |expected| {
            Err(WindowError::Kind {
                column: self.column.clone(),
                kind: source_type.to_owned(),
                expected,
            })
        };
        if dialect == Dialect::Mysql {
            match base(source_type) {
                "float" | "double" => {
                    return bad(
                        "the server prints its values rounded; expected whole numbers, decimals, times or text",
                    );
                }
                "enum" | "set" | "bit" | "json" | "geometry" | "point" => {
                    return bad(
                        "the server does not compare its values as it sorts them; expected numbers, times or text",
                    );
                }
                _ => {}
            }
        }
        if self.lag > 0 && !matches!(kind(source_type), Kind::Number | Kind::Time) {
            return bad("a lag is counted in seconds or units; expected a time or a number");
        }
        Ok(())
    }

    /// Rows whose value no bound can be.
    fn stray(&self, dialect: Dialect, column: &str, source_type: &str) -> String {
        let mut any = vec![format!("{column} IS NULL")];
        // A key is only sorted by, and everything but NULL can be.
        if self.rows.is_none() {
            any.extend(dialect.infinite(column, source_type));
            any.extend(dialect.far(column, source_type));
        }
        format!("({})", any.join(" OR "))
    }

    /// SQL that counts, in the order of [`Standing`], what stands at the source; none where nothing
    /// can be.
    #[must_use]
    pub fn standing_queries(
        &self,
        dialect: Dialect,
        column: &str,
        source_type: &str,
        table: &str,
    ) -> [Option<String>; 3] {
        let count = |condition: String| format!("SELECT count(*) FROM {table} WHERE {condition}");
        let is_first = self.since.is_none();
        let strays = (self.rows.is_none() || is_first)
            .then(|| count(self.stray(dialect, column, source_type)));
        let far = dialect.far(column, source_type).filter(|_| self.rows.is_none()).map(count);
        let ties = self.since.as_deref().filter(|_| self.rows.is_none() && self.lag == 0);
        [
            strays,
            far,
            ties.map(|since| self.equals_query(dialect, column, source_type, table, since)),
        ]
    }

    /// SQL that sums up the rows whose value no bound can be, by 60 bits of a hash of each; none of
    /// a key, which has none. Of MySQL `columns` are all there are, quoted, with their types;
    /// PostgreSQL knows a whole row as text.
    #[must_use]
    pub fn sum_query(
        &self,
        dialect: Dialect,
        (column, source_type): (&str, &str),
        table: &str,
        columns: &[(String, String)],
    ) -> Option<String> {
        let strays = self.rows.is_none().then(|| self.stray(dialect, column, source_type))?;
        let sum = match dialect {
            Dialect::Postgres => {
                "sum(('x' || left(md5(brahman_row::text), 15))::bit(60)::bigint)::text".to_owned()
            }
            Dialect::Mysql => {
                // A number of 32 bits is printed rounded, unless it is made one of 64.
                let exact = |(name, kind): &(String, String)| {
                    if base(kind) == "float" { format!("{name} * 1e0") } else { name.clone() }
                };
                let values: Vec<String> =
                    columns.iter().map(|column| format!("HEX(QUOTE({}))", exact(column))).collect();
                let hash = format!(
                    "CAST(CONV(LEFT(MD5(CONCAT_WS('#', {})), 15), 16, 10) AS UNSIGNED)",
                    values.join(", ")
                );
                // A row too long for the server to hash is another each time.
                format!(
                    "CAST(SUM(COALESCE({hash}, CAST(FLOOR(RAND() * 1e15) AS UNSIGNED))) AS CHAR)"
                )
            }
        };
        Some(format!("SELECT {sum} FROM {table} AS brahman_row WHERE {strays}"))
    }

    /// SQL that counts the rows with a value.
    #[must_use]
    pub fn equals_query(
        &self,
        dialect: Dialect,
        column: &str,
        source_type: &str,
        table: &str,
        value: &str,
    ) -> String {
        format!(
            "SELECT count(*) FROM {table} WHERE {column} = {}",
            dialect.literal(value, source_type)
        )
    }

    /// Which rows are to be read besides those above the last value.
    ///
    /// # Errors
    /// If there are rows of which nobody can tell whether they were read.
    pub fn cut(&self, now: &Standing) -> Result<Cut, WindowError> {
        let column = self.column.clone();
        if self.rows.is_some() {
            let nulls = self.since.is_none() && now.strays > 0;
            return if nulls {
                Err(WindowError::NullKey { column, rows: now.strays })
            } else {
                Ok(Cut::default())
            };
        }
        if now.far > 0 && !self.keyed {
            return Err(WindowError::Far { column, rows: now.far });
        }
        let such = format!(
            "{} rows whose `{column}` is NULL, not finite or later than tomorrow",
            now.strays
        );
        let Some(since) = &self.since else {
            let note = (now.strays > 0).then(|| format!("{such} were read as they are now"));
            return Ok(Cut { inclusive: false, strays: now.strays > 0, note });
        };
        let (strays, note) = match self.strays {
            _ if now.strays == 0 => (false, None),
            Some(was)
                if was == now.strays
                    && self.strays_sum.is_some()
                    && self.strays_sum == now.strays_sum =>
            {
                (false, None)
            }
            _ if self.keyed => (true, Some(format!("{such} were read again"))),
            // As an earlier version has read them, which summed up nothing.
            Some(was) if was == now.strays && self.strays_sum.is_none() => (
                false,
                Some(format!(
                    "{such} are as many as at the last read and are not looked at again: a run that is not incremental sees changes among them"
                )),
            ),
            Some(was) if was > now.strays => (
                false,
                Some(format!(
                    "{such} are fewer than at the last read: without a key (--key) nobody can tell whether some of them are new, and a run \
                     that is not incremental reads them"
                )),
            ),
            was => return Err(WindowError::Strays { column, now: now.strays, was }),
        };
        let (inclusive, tied) = match self.ties {
            _ if self.lag > 0 || now.ties == 0 => (false, None),
            Some(was) if was == now.ties => (false, None),
            _ if self.keyed => (true, None),
            Some(was) if was < now.ties => {
                return Err(WindowError::Ties { column, bound: since.clone(), now: now.ties, was });
            }
            Some(_) => (false, None),
            None => (
                false,
                Some(format!(
                    "rows that have `{column}` = {since} and came after the last read are not told from those before"
                )),
            ),
        };
        Ok(Cut { inclusive, strays, note: note.or(tied) })
    }

    /// Rows after `since`: what must hold, if anything.
    fn after(
        &self,
        dialect: Dialect,
        column: &str,
        source_type: &str,
        cut: &Cut,
    ) -> Option<String> {
        let since = self.since.as_deref()?;
        let above = if cut.inclusive { ">=" } else { ">" };
        Some(format!(
            "{column} {above} {}",
            dialect.before(&dialect.literal(since, source_type), self.lag, source_type)
        ))
    }

    /// SQL that gives the last value of this part, as text; no row if there is none.
    #[must_use]
    pub fn bound_query(
        &self,
        dialect: Dialect,
        column: &str,
        source_type: &str,
        table: &str,
        cut: &Cut,
    ) -> String {
        let after = self
            .after(dialect, column, source_type, cut)
            .map(|after| format!(" AND {after}"))
            .unwrap_or_default();
        let condition = format!("NOT {}{after}", self.stray(dialect, column, source_type));
        let from = match self.rows {
            Some(rows) => format!(
                "(SELECT {column} FROM {table} WHERE {condition} ORDER BY {column} LIMIT {rows}) AS brahman_part"
            ),
            None => format!("{table} WHERE {condition}"),
        };
        // Not max(), which not every type has. Sorted before it is text: the text goes by the
        // column's name, too, and PostgreSQL would sort by that (1200 stands before 999).
        format!(
            "SELECT {} FROM (SELECT {column} FROM {from} ORDER BY {column} DESC LIMIT 1) AS brahman_last",
            dialect.text(column, source_type)
        )
    }

    /// What must hold of a row of this part, whose last value is `bound`.
    #[must_use]
    pub fn condition(
        &self,
        dialect: Dialect,
        column: &str,
        source_type: &str,
        bound: Option<&str>,
        cut: &Cut,
    ) -> String {
        let strays = cut.strays.then(|| self.stray(dialect, column, source_type));
        let part = bound.map(|bound| {
            let up_to = format!("{column} <= {}", dialect.literal(bound, source_type));
            self.after(dialect, column, source_type, cut)
                .map_or_else(|| up_to.clone(), |after| format!("{after} AND {up_to}"))
        });
        match (part, strays) {
            (Some(part), Some(strays)) => format!("(({part}) OR {strays})"),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => "1 = 0".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests;
