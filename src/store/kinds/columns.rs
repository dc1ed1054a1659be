//! Lists of columns, from which the statements and their parameters are made.

use serde_json::{Map, Value};
use sqlx::postgres::types::PgInterval;

use super::PgQuery;

/// Which tables have a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ColumnRole {
    /// The event and the key of the state. A text.
    Key,
    /// The event and the state.
    State,
    /// The event alone.
    Event,
}

/// A column of a table of events.
pub(super) struct EventColumn<E> {
    pub name: &'static str,
    pub role: ColumnRole,
    /// The type of the array in which its values are sent.
    pub sent_as: &'static str,
    /// A cast to the type of the column. Empty where it is sent in that type.
    pub cast: &'static str,
    /// Binds the values of all events.
    pub bind: fn(PgQuery, &[&E]) -> PgQuery,
}

/// Makes a list of [`EventColumn`] by role: `name: "type sent" as "cast" = |event| value`.
macro_rules! event_columns {
    ($event:ty; $($role:ident {
        $($name:ident: $sent:literal $(as $cast:literal)? = $value:expr,)*
    })*) => {
        &[$($($crate::store::kinds::columns::EventColumn::<$event> {
            name: stringify!($name),
            role: $crate::store::kinds::columns::ColumnRole::$role,
            sent_as: $sent,
            cast: concat!($($cast)?),
            bind: |query, events| {
                query.bind(sqlx::postgres::PgBindIterExt::bind_iter(events.iter().map($value)))
            },
        },)*)*]
    };
}
pub(super) use event_columns;

/// Fills the lists of columns into the text of a statement:
///
/// - `{arrays}`, `{names}`, `{values}`: parameters, names and cast values of all columns.
/// - `{key}`, `{k.key}`: names of those of the key, also with a prefix.
/// - `{key_arrays}`: parameters in the order of the key, where there are no others before them.
/// - `{array:tenant}` and so on: the parameter of one column.
/// - `{state}`, `{state_values}`: names and cast values of those of the state, without its key.
/// - `{e.state}`, `{excluded.state}`: the same names with a prefix.
/// - `{set}`: assigns those of the state from `excluded`, where `newer` holds.
/// - `{newer}`: the condition `newer`.
/// - `{+1}` and so on: the parameters that follow the columns.
pub(super) fn fill<E>(template: &str, columns: &[EventColumn<E>], newer: &str) -> String {
    let all = |each: &dyn Fn(usize, &EventColumn<E>) -> String| {
        let parts = columns.iter().enumerate().map(|(at, column)| each(at, column));
        parts.collect::<Vec<_>>().join(", ")
    };
    let state = |each: &dyn Fn(&EventColumn<E>) -> String| {
        let of_state = columns.iter().filter(|column| column.role == ColumnRole::State);
        of_state.map(each).collect::<Vec<_>>().join(", ")
    };
    let key = key_of(columns);
    let key_array = |at: usize| format!("${}::text[]", at + 1);
    let value = |column: &EventColumn<E>| format!("{}{}", column.name, column.cast);
    let name = |column: &EventColumn<E>| column.name.to_owned();
    let set = |column: &EventColumn<E>| {
        let name = column.name;
        format!("{name} = case when {{newer}} then excluded.{name} else s.{name} end")
    };
    let mut text = template
        .replace("{arrays}", &all(&|at, column| format!("${}::{}[]", at + 1, column.sent_as)))
        .replace("{names}", &all(&|_, column| name(column)))
        .replace("{values}", &all(&|_, column| value(column)))
        .replace("{key}", &key.join(", "))
        .replace("{k.key}", &format!("k.{}", key.join(", k.")))
        .replace("{key_arrays}", &(0..key.len()).map(key_array).collect::<Vec<_>>().join(", "))
        .replace("{state}", &state(&name))
        .replace("{state_values}", &state(&value))
        .replace("{e.state}", &state(&|column| format!("e.{}", column.name)))
        .replace("{excluded.state}", &state(&|column| format!("excluded.{}", column.name)))
        .replace("{set}", &state(&set))
        .replace("{newer}", newer);
    for (at, column) in columns.iter().enumerate() {
        let array = format!("${}::{}[]", at + 1, column.sent_as);
        text = text.replace(&format!("{{array:{}}}", column.name), &array);
    }
    for following in 1..=5 {
        text =
            text.replace(&format!("{{+{following}}}"), &format!("${}", columns.len() + following));
    }
    text
}

/// Returns the names of the columns of the key of the state.
pub(super) fn key_of<E>(columns: &[EventColumn<E>]) -> Vec<&'static str> {
    columns.iter().filter(|column| column.role == ColumnRole::Key).map(|c| c.name).collect()
}

/// Binds all columns.
pub(super) fn bind<E>(query: PgQuery, columns: &[EventColumn<E>], events: &[&E]) -> PgQuery {
    columns.iter().fold(query, |query, column| (column.bind)(query, events))
}

/// Converts microseconds to an interval.
pub(super) fn interval(microseconds: i64) -> PgInterval {
    PgInterval { months: 0, days: 0, microseconds }
}

/// Serialises additional fields.
pub(super) fn json(extra: &Map<String, Value>) -> String {
    // Unwrap safety: a map with string keys always has a JSON form.
    serde_json::to_string(extra).expect("a JSON map serialises")
}
