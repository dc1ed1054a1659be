//! The dashboards have one form: identity, links, annotations, and panels that do not overlap.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::dashboards::{Dashboard, dashboards, elements};

/// Panel types that Grafana has built in, used here.
const TYPES: [&str; 7] =
    ["barchart", "row", "stat", "state-timeline", "table", "timeseries", "xychart"];

/// Oldest schema of dashboards that Grafana 11 writes.
const SCHEMA: u64 = 39;

#[derive(Debug, Clone, Copy)]
struct Place {
    x: u64,
    y: u64,
    w: u64,
    h: u64,
}

impl Place {
    fn of(panel: &Value) -> Self {
        let number = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        Self { x: number("x"), y: number("y"), w: number("w"), h: number("h") }
    }

    fn overlaps(self, other: Self) -> bool {
        self.x < other.x + other.w
            && other.x < self.x + self.w
            && self.y < other.y + other.h
            && other.y < self.y + self.h
    }
}

/// Returns every value of a key below a value.
fn find<'a>(value: &'a Value, key: &str, found: &mut Vec<&'a Value>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                if name == key {
                    found.push(field);
                }
                find(field, key, found);
            }
        }
        Value::Array(elements) => elements.iter().for_each(|element| find(element, key, found)),
        _ => {}
    }
}

fn names(dashboard: &Dashboard) -> BTreeSet<&str> {
    dashboard.variables().iter().filter_map(|variable| variable["name"].as_str()).collect()
}

#[test]
fn panels_fill_the_grid_without_overlaps() {
    for dashboard in dashboards() {
        let places: Vec<_> = dashboard.panels().iter().map(Place::of).collect();
        for (number, place) in places.iter().enumerate() {
            let title = &dashboard.panels()[number]["title"];
            let is_row = dashboard.panels()[number]["type"] == "row";
            let least = if is_row { (24, 1) } else { (6, 4) };
            assert!(place.w >= least.0 && place.h >= least.1, "{title}: {place:?}");
            assert!(place.x + place.w <= 24 && place.h <= 16, "{title}: {place:?}");
            let other = places[..number].iter().position(|other| place.overlaps(*other));
            assert_eq!(other, None, "{}: {title} overlaps", dashboard.name);
        }
        let area: u64 = places.iter().map(|place| place.w * place.h).sum();
        let height = places.iter().map(|place| place.y + place.h).max().unwrap();
        assert_eq!(area, 24 * height, "{} has holes", dashboard.name);
    }
}

#[test]
fn dashboards_have_one_identity_and_language() {
    let dashboards = dashboards();
    let names: Vec<_> = dashboards.iter().map(|dashboard| dashboard.name.as_str()).collect();
    assert_eq!(names, ["boards", "bridge", "movement", "where"]);
    let first = &dashboards[0].json;
    for Dashboard { name, json } in &dashboards {
        assert_eq!(json["uid"], format!("centiloc-{name}"));
        assert_eq!(json["schemaVersion"], SCHEMA);
        assert!(json["id"].is_null() && json["description"].is_string(), "{name}");
        for same in ["tags", "links", "annotations", "graphTooltip", "timezone"] {
            assert_eq!(json[same], first[same], "{name}: {same}");
        }
        let annotation = &json["annotations"]["list"][0];
        assert!(annotation["target"]["rawSql"].as_str().unwrap().contains("centiloc.data_gap"));
        assert_eq!(annotation["enable"], true);
    }
}

#[test]
fn panels_are_complete_and_of_known_types() {
    for dashboard in dashboards() {
        let mut ids = BTreeSet::new();
        for panel in dashboard.panels() {
            let title = panel["title"].as_str().unwrap();
            let kind = panel["type"].as_str().unwrap();
            assert!(!title.is_empty() && TYPES.contains(&kind), "{title}: {kind}");
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its id is used twice");
            if kind == "row" {
                continue;
            }
            assert!(!elements(&panel["targets"]).is_empty(), "{title} has no query");
            for key in ["fieldConfig", "options", "datasource"] {
                assert!(panel[key].is_object(), "{title} has no {key}");
            }
            for target in elements(&panel["targets"]) {
                assert_eq!(target["datasource"], panel["datasource"], "{title}");
                assert!(target["refId"].is_string(), "{title}");
                assert!(target["rawSql"].is_string() != target["expr"].is_string(), "{title}");
            }
        }
    }
}

#[test]
fn data_sources_are_chosen_by_variables() {
    for dashboard in dashboards() {
        let mut found = Vec::new();
        find(&dashboard.json, "datasource", &mut found);
        for source in found {
            let uid = source["uid"].as_str().unwrap();
            let kind = match uid {
                "${postgres}" => "grafana-postgresql-datasource",
                "${prometheus}" => "prometheus",
                _ => panic!("{}: {uid}", dashboard.name),
            };
            assert_eq!(source["type"], kind);
            let name = uid.trim_matches(['$', '{', '}']);
            let variables = dashboard.variables();
            assert!(variables.iter().any(|v| v["name"] == name && v["query"] == kind), "{uid}");
        }
    }
}

#[test]
fn links_lead_to_variables_of_dashboards() {
    let dashboards = dashboards();
    let mut count = 0;
    for dashboard in &dashboards {
        let mut urls = Vec::new();
        find(&dashboard.json["panels"], "url", &mut urls);
        for url in urls {
            let url = url.as_str().unwrap();
            let (uid, query) = url.strip_prefix("/d/").unwrap().split_once('?').unwrap();
            let target = dashboards.iter().find(|d| d.json["uid"] == uid).expect(url);
            for part in query.split('&').filter_map(|part| part.strip_prefix("var-")) {
                let variable = part.split('=').next().unwrap();
                assert!(names(target).contains(variable), "{url}: no variable {variable}");
                count += 1;
            }
            if query.contains("${tenant:queryparam}") {
                assert!(names(dashboard).contains("tenant") && names(target).contains("tenant"));
            }
        }
    }
    assert!(count > 10, "{count}");
}

#[test]
fn variables_cover_tenant_to_product() {
    for dashboard in dashboards() {
        let wanted: &[&str] = match dashboard.name.as_str() {
            "where" | "movement" => &["tenant", "furniture", "shelf", "board", "product"],
            "boards" => &["tenant", "furniture", "shelf", "board"],
            _ => &["instance"],
        };
        let names = names(&dashboard);
        assert!(wanted.iter().all(|name| names.contains(name)), "{}: {names:?}", dashboard.name);
        let text = dashboard.json.to_string();
        for name in names {
            let uses = [format!("${{{name}:"), format!("${{{name}}}"), format!("${name}\\\"")];
            let is_used = uses.iter().any(|form| text.contains(form));
            assert!(is_used, "{}: variable {name} is not used", dashboard.name);
        }
    }
}

#[test]
fn queries_read_views_and_no_raw_tables() {
    // No view has these: lists of furniture, status over time, journals and sums of days.
    let tables = ["board_event", "connection", "known_value", "product_day", "rollup_pending"];
    let schema = include_str!("../../../docs/schema.md");
    let (_, answers) = schema.split_once("\n## Views\n").unwrap();
    for dashboard in dashboards() {
        for query in dashboard.sql_queries() {
            for name in query.text.split("centiloc.").skip(1) {
                let end = name.find(|c: char| !c.is_alphanumeric() && c != '_');
                let name = &name[..end.unwrap_or(name.len())];
                let is_answer = answers.contains(&format!("\n### {name}\n"));
                assert!(is_answer || tables.contains(&name), "{}: {name}", query.place);
            }
        }
    }
}
