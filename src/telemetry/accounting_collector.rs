//! Encodes the account of messages at the moment of a scrape, so that its counts are consistent
//! with each other.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::stream::accounting::MessageAccounting;

/// Exposes an [`MessageAccounting`] as metrics.
#[derive(Debug)]
pub(super) struct AccountingCollector(pub Arc<MessageAccounting>);

impl Collector for AccountingCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let counts = self.0.counts();
        let unaccounted = ConstGauge::new(counts.unaccounted());
        let help = "Received messages that are neither durable nor with the broker nor in the \
                    pipeline; any value but 0 is a bug";
        unaccounted.encode(encoder.encode_descriptor(
            "messages_unaccounted",
            help,
            None,
            MetricType::Gauge,
        )?)?;
        let mut encoder = encoder.encode_descriptor(
            "deliveries",
            "Received messages by outcome",
            None,
            MetricType::Counter,
        )?;
        for (outcome, count) in [
            ("durable", counts.durable),
            ("repeated", counts.repeated),
            ("refused", counts.refused),
            ("dropped", counts.dropped),
        ] {
            let labels = [("outcome", outcome)];
            ConstCounter::new(count).encode(encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
