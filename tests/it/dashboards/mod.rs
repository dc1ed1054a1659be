//! The dashboards of `deploy/grafana`: their form, and their queries on real services.

mod form;
mod metrics;
mod queries;
