//! Converts OpenMetrics text into the Prometheus text format 0.0.4, which every collector reads.
//!
//! The two formats differ only in comments: 0.0.4 declares a counter and an info under the name of
//! the sample (`x_total`, `x_info`), knows fewer types, and has neither `# UNIT` nor `# EOF`.

/// Converts an OpenMetrics exposition without timestamps and exemplars.
pub(super) fn from_openmetrics(openmetrics: &str) -> String {
    let mut text = String::with_capacity(openmetrics.len() + openmetrics.len() / 16);
    // HELP precedes TYPE, which decides the name of both.
    let mut help = None;
    for line in openmetrics.lines() {
        let comment = line.strip_prefix("# ").and_then(|rest| rest.split_once(' '));
        match comment {
            Some(("HELP", rest)) => help = rest.split_once(' '),
            Some(("TYPE", rest)) => {
                let (family, kind) = rest.rsplit_once(' ').unwrap_or((rest, "unknown"));
                let (suffix, kind) = declared_as(kind);
                let suffix = if family.ends_with(suffix) { "" } else { suffix };
                if let Some((_, help)) = help.take().filter(|(name, _)| *name == family) {
                    text.extend(["# HELP ", family, suffix, " ", help, "\n"]);
                }
                text.extend(["# TYPE ", family, suffix, " ", kind, "\n"]);
            }
            // `# UNIT` and `# EOF`.
            _ if line.starts_with('#') => {}
            _ => text.extend([line, "\n"]),
        }
    }
    text
}

/// Returns the suffix of the declared name and the type name in 0.0.4.
fn declared_as(openmetrics_type: &str) -> (&'static str, &'static str) {
    match openmetrics_type {
        "counter" => ("_total", "counter"),
        "info" => ("_info", "gauge"),
        "gauge" | "stateset" => ("", "gauge"),
        "histogram" => ("", "histogram"),
        "summary" => ("", "summary"),
        _ => ("", "untyped"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_comments_differ_from_openmetrics() {
        let openmetrics = "\
            # HELP x_acks Packets.\n# TYPE x_acks counter\nx_acks_total 3\n\
            # HELP x_build The program.\n# TYPE x_build info\nx_build_info{version=\"1\"} 1\n\
            # HELP x_age_seconds Age.\n# TYPE x_age_seconds gauge\n# UNIT x_age_seconds seconds\n\
            x_age_seconds 1.5\n\
            # TYPE x_took histogram\nx_took_sum 1.0\nx_took_bucket{le=\"+Inf\"} 1\n\
            # TYPE x_other unknown\nx_other{topic=\"# EOF\"} 0\n# EOF\n";
        let expected = "\
            # HELP x_acks_total Packets.\n# TYPE x_acks_total counter\nx_acks_total 3\n\
            # HELP x_build_info The program.\n# TYPE x_build_info gauge\n\
            x_build_info{version=\"1\"} 1\n\
            # HELP x_age_seconds Age.\n# TYPE x_age_seconds gauge\nx_age_seconds 1.5\n\
            # TYPE x_took histogram\nx_took_sum 1.0\nx_took_bucket{le=\"+Inf\"} 1\n\
            # TYPE x_other untyped\nx_other{topic=\"# EOF\"} 0\n";
        assert_eq!(from_openmetrics(openmetrics), expected);
    }
}
