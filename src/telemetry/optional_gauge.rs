//! A gauge that is absent while its value is unknown, because 0 could be mistaken for a
//! measurement.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::{EncodeGaugeValue, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;

/// A gauge that has no value until it is set. Clones share the value.
#[derive(Debug)]
pub struct OptionalGauge<N>(Arc<Mutex<Option<N>>>);

impl<N> Default for OptionalGauge<N> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<N> Clone for OptionalGauge<N> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<N: Copy> OptionalGauge<N> {
    /// Sets the value of the gauge.
    pub fn set(&self, value: N) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
    }

    /// Returns the value if it is known.
    pub fn get(&self) -> Option<N> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<N: Copy + Send + EncodeGaugeValue + fmt::Debug> EncodeMetric for OptionalGauge<N> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        self.get().map_or(Ok(()), |value| encoder.encode_gauge(&value))
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }

    fn is_empty(&self) -> bool {
        self.get().is_none()
    }
}
