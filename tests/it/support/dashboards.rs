//! The dashboards of `deploy/grafana`, and their queries with macros and variables expanded as
//! Grafana does.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor as _, Row as _};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

/// A dashboard, as its file has it.
#[derive(Debug, Clone)]
pub struct Dashboard {
    pub name: String,
    pub json: Value,
}

/// A query of a panel, variable or annotation, not expanded.
#[derive(Debug, Clone)]
pub struct PanelQuery {
    /// Dashboard and panel.
    pub place: String,
    pub text: String,
}

/// The choice in the lists of variables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// All values where the variable allows that, else the first.
    All,
    /// The first value of each list.
    First,
}

/// Returns all dashboards, sorted by name.
pub fn dashboards() -> Vec<Dashboard> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/grafana/dashboards");
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let mut dashboards: Vec<_> = files
        .map(|path| Dashboard {
            name: path.file_stem().unwrap().to_str().unwrap().to_owned(),
            json: serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap(),
        })
        .collect();
    dashboards.sort_by(|a, b| a.name.cmp(&b.name));
    dashboards
}

/// Returns the elements of an array. Any other value has none.
pub fn elements(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

impl Dashboard {
    /// Returns the panels, rows included.
    pub fn panels(&self) -> &[Value] {
        elements(&self.json["panels"])
    }

    /// Returns the variables.
    pub fn variables(&self) -> &[Value] {
        elements(&self.json["templating"]["list"])
    }

    /// Returns the SQL of all panels and annotations.
    pub fn sql_queries(&self) -> Vec<PanelQuery> {
        let mut queries = self.targets("rawSql");
        for annotation in elements(&self.json["annotations"]["list"]) {
            queries.push(PanelQuery {
                place: format!("{}: {}", self.name, text(annotation, "name")),
                text: text(&annotation["target"], "rawSql").to_owned(),
            });
        }
        queries
    }

    /// Returns the `PromQL` expressions of all panels.
    pub fn expressions(&self) -> Vec<PanelQuery> {
        self.targets("expr")
    }

    fn targets(&self, key: &str) -> Vec<PanelQuery> {
        let mut queries = Vec::new();
        for panel in self.panels() {
            for target in elements(&panel["targets"]) {
                if let Some(query) = target[key].as_str() {
                    let place = format!("{}: {}", self.name, text(panel, "title"));
                    queries.push(PanelQuery { place, text: query.to_owned() });
                }
            }
        }
        queries
    }

    /// Returns the period that the dashboard shows at first.
    fn period(&self) -> Duration {
        let from = text(&self.json["time"], "from");
        let (number, unit) = from.strip_prefix("now-").unwrap().split_at(from.len() - 5);
        let number: i64 = number.parse().unwrap();
        match unit {
            "h" => Duration::hours(number),
            "d" => Duration::days(number),
            _ => panic!("{from}"),
        }
    }
}

/// The time range and the values of variables.
#[derive(Debug, Clone)]
pub struct Expansion {
    from: String,
    to: String,
    /// SQL list of values and plain text, by variable.
    values: BTreeMap<String, (String, String)>,
}

impl Expansion {
    /// Reads the lists of the variables of a dashboard, and chooses from them.
    pub async fn of(dashboard: &Dashboard, db: &mut PgConnection, choice: Choice) -> Self {
        let now = OffsetDateTime::now_utc();
        let literal = |at: OffsetDateTime| format!("'{}'", at.format(&Rfc3339).unwrap());
        let (from, to) = (literal(now - dashboard.period()), literal(now));
        let mut expansion = Self { from, to, values: BTreeMap::new() };
        for variable in dashboard.variables() {
            let name = text(variable, "name");
            match text(variable, "type") {
                "query" if text(&variable["datasource"], "type") != "prometheus" => {
                    let sql = expansion.expand(text(variable, "query"));
                    let rows = db.fetch_all(AssertSqlSafe(sql.clone())).await;
                    let rows = rows.unwrap_or_else(|e| panic!("variable {name}: {e}\n{sql}"));
                    let options: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
                    assert!(!options.is_empty(), "variable {name} has no values\n{sql}");
                    expansion.choose(variable, &options, choice);
                }
                "custom" | "textbox" => {
                    expansion.set(name, text(&variable["current"], "value"));
                }
                _ => {}
            }
        }
        expansion
    }

    /// Gives a variable this only value.
    pub fn set(&mut self, name: &str, value: &str) {
        self.values.insert(name.to_owned(), (sql_string(value), value.to_owned()));
    }

    fn choose(&mut self, variable: &Value, options: &[String], choice: Choice) {
        let name = text(variable, "name");
        if choice == Choice::First || variable["includeAll"] != true {
            return self.set(name, &options[0]);
        }
        let listed = options.iter().map(|option| sql_string(option)).collect::<Vec<_>>().join(",");
        let list = variable["allValue"].as_str().map_or(listed, str::to_owned);
        self.values.insert(name.to_owned(), (list, "All".to_owned()));
    }

    /// Returns the SQL that Grafana sends.
    pub fn expand(&self, sql: &str) -> String {
        let mut sql = sql.replace("$__timeFrom()", &self.from).replace("$__timeTo()", &self.to);
        while let Some((before, (column, after))) = sql
            .split_once("$__timeFilter(")
            .and_then(|(before, rest)| Some((before, rest.split_once(')')?)))
        {
            sql = format!("{before}{column} BETWEEN {} AND {}{after}", self.from, self.to);
        }
        for (name, (list, plain)) in &self.values {
            sql = sql.replace(&format!("${{{name}:sqlstring}}"), list);
            sql = sql.replace(&format!("${{{name}:raw}}"), plain);
        }
        assert!(!sql.contains("${") && !sql.contains("$__"), "not expanded: {sql}");
        sql
    }
}

fn sql_string(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}
