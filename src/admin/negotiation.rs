//! Chooses the format of `/metrics` by the Accept header (RFC 9110, section 12.5.1).

use axum::http::HeaderMap;
use axum::http::header::ACCEPT;

/// An exposition format of `/metrics`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MetricsFormat {
    /// Prometheus text format 0.0.4, which every collector reads.
    Text,
    /// OpenMetrics 1.0.0, for clients that name it.
    OpenMetrics,
}

impl MetricsFormat {
    /// Returns OpenMetrics where the client names it and prefers no other text format.
    pub fn accepted_by(headers: &HeaderMap) -> Self {
        let (mut openmetrics, mut text) = (0.0, 0.0);
        let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        for range in values.flat_map(|value| value.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default().to_ascii_lowercase();
            let parameters: Vec<_> = parts.filter_map(|part| part.split_once('=')).collect();
            let parameter = |key: &str| {
                let found =
                    parameters.iter().find(|(name, _)| name.trim().eq_ignore_ascii_case(key));
                found.map(|(_, value)| value.trim().trim_matches('"'))
            };
            let quality = parameter("q").map_or(1.0, |q| q.parse::<f64>().unwrap_or(0.0));
            match (name.as_str(), parameter("version")) {
                ("application/openmetrics-text", None | Some("1.0.0")) => {
                    openmetrics = f64::max(openmetrics, quality);
                }
                ("text/plain", _) => text = f64::max(text, quality),
                _ => {}
            }
        }
        if openmetrics > 0.0 && openmetrics >= text { Self::OpenMetrics } else { Self::Text }
    }

    /// Returns the Content-Type of the format.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn accepted(values: &[&str]) -> MetricsFormat {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(ACCEPT, HeaderValue::from_str(value).expect("a header"));
        }
        MetricsFormat::accepted_by(&headers)
    }

    #[test]
    fn openmetrics_goes_only_to_clients_naming_it() {
        for (values, expected) in [
            (&[][..], MetricsFormat::Text),
            (&["*/*"], MetricsFormat::Text),
            (&["application/*;q=0.9"], MetricsFormat::Text),
            // Prometheus 2 and 3, in this order of versions.
            (
                &["application/openmetrics-text;version=1.0.0;q=0.5,\
                   application/openmetrics-text;version=0.0.1;q=0.4,\
                   text/plain;version=0.0.4;q=0.3,*/*;q=0.2"],
                MetricsFormat::OpenMetrics,
            ),
            (
                &["application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;\
                   encoding=delimited;q=0.6,application/openmetrics-text;version=1.0.0;\
                   escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.2"],
                MetricsFormat::OpenMetrics,
            ),
            // Telegraf before 1.21.
            (
                &["application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;\
                   encoding=delimited;q=0.7,text/plain;version=0.0.4;q=0.3"],
                MetricsFormat::Text,
            ),
            (&["Application/OpenMetrics-Text; Version=\"1.0.0\""], MetricsFormat::OpenMetrics),
            (&["application/openmetrics-text;version=0.0.1"], MetricsFormat::Text),
            (&["application/openmetrics-text;q=0"], MetricsFormat::Text),
            (&["application/openmetrics-text;q=0.1, text/plain"], MetricsFormat::Text),
            (
                &["text/plain;q=0.5", "application/openmetrics-text;q=0.5"],
                MetricsFormat::OpenMetrics,
            ),
        ] {
            assert_eq!(accepted(values), expected, "{values:?}");
        }
    }

    proptest! {
        #[test]
        fn any_accept_header_chooses_a_format(value in "[ -~]{0,80}") {
            let _ = accepted(&[&value]);
        }
    }
}
