//! Topic names: the filters to subscribe to, and the kind and encoding of each topic.

use crate::config::MqttConfig;
use crate::event::EventKind;

/// Encoding of an event in a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventEncoding {
    /// Protobuf.
    Protobuf,
    /// JSON.
    Json,
}

impl EventEncoding {
    /// All encodings, in the vendor's order of topics.
    pub const ALL: [Self; 2] = [Self::Protobuf, Self::Json];

    /// Returns the name for messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Protobuf => "protobuf",
            Self::Json => "JSON",
        }
    }
}

const PREFIX: &str = "centiloc/";

/// Returns the kind and encoding of every topic, in the vendor's order.
fn all() -> impl Iterator<Item = (EventKind, EventEncoding)> {
    EventKind::ALL.into_iter().flat_map(|kind| EventEncoding::ALL.map(|encoding| (kind, encoding)))
}

/// Returns the part of a topic that follows `centiloc/<tenant>`.
fn suffix(kind: EventKind, encoding: EventEncoding) -> &'static str {
    match encoding {
        EventEncoding::Protobuf => kind.names().protobuf_topic,
        EventEncoding::Json => kind.names().json_topic,
    }
}

/// Returns the topic on which a tenant's events of a kind and encoding are published.
pub fn name(tenant: &str, kind: EventKind, encoding: EventEncoding) -> String {
    format!("{PREFIX}{tenant}{}", suffix(kind, encoding))
}

/// Returns the kind and encoding of a topic. `None` for one that is not the tenant's or not known. Topics that are
/// not subscribed to are routed too: the session may still hold filters of an earlier
/// configuration, and what they deliver is an event like any other.
pub fn route(tenant: &str, topic: &str) -> Option<(EventKind, EventEncoding)> {
    let wanted = topic.strip_prefix(PREFIX)?.strip_prefix(tenant)?;
    all().find(|(kind, encoding)| suffix(*kind, *encoding) == wanted)
}

/// Returns the filters to subscribe to, in the vendor's order of topics.
pub fn filters(mqtt: &MqttConfig, tenant: &str) -> Vec<String> {
    all()
        .filter(|(kind, encoding)| match encoding {
            EventEncoding::Protobuf => mqtt.formats[*kind].protobuf(),
            EventEncoding::Json => mqtt.formats[*kind].json(),
        })
        .map(|(kind, encoding)| name(tenant, kind, encoding))
        .map(|topic| match &mqtt.share_group {
            Some(group) => format!("$share/{group}/{topic}"),
            None => topic,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::{SubscribedFormats, testing};
    use crate::event::ByKind;

    fn mqtt(
        items: SubscribedFormats,
        boards: SubscribedFormats,
        share_group: Option<&str>,
    ) -> MqttConfig {
        let share_group = share_group.map(Into::into);
        let mut formats = ByKind::new(|_| SubscribedFormats::Off);
        formats[EventKind::Item] = items;
        formats[EventKind::Board] = boards;
        MqttConfig { formats, share_group, ..testing::mqtt() }
    }

    #[test]
    fn every_topic_of_the_vendor_is_routed() {
        for (topic, expected) in [
            ("centiloc/acme", (EventKind::Item, EventEncoding::Protobuf)),
            ("centiloc/acme/json/item/v1/update", (EventKind::Item, EventEncoding::Json)),
            ("centiloc/acme/proto/board/v1/update", (EventKind::Board, EventEncoding::Protobuf)),
            ("centiloc/acme/json/board/v1/update", (EventKind::Board, EventEncoding::Json)),
        ] {
            assert_eq!(route("acme", topic), Some(expected), "{topic}");
            assert_eq!(name("acme", expected.0, expected.1), topic);
        }
    }

    #[test]
    fn other_topics_and_other_tenants_are_not_routed() {
        for topic in [
            "",
            "centiloc",
            "centiloc/",
            "centiloc/acm",
            "centiloc/acme-two",
            "centiloc/acme/",
            "centiloc/acme/json/item/v2/update",
            "centiloc/other/json/item/v1/update",
            "Centiloc/acme",
            "$share/acme-g/centiloc/acme",
        ] {
            assert_eq!(route("acme", topic), None, "{topic}");
        }
    }

    #[test]
    fn filters_follow_from_the_formats() {
        assert_eq!(
            filters(&mqtt(SubscribedFormats::Protobuf, SubscribedFormats::Protobuf, None), "acme"),
            ["centiloc/acme", "centiloc/acme/proto/board/v1/update"]
        );
        assert_eq!(
            filters(&mqtt(SubscribedFormats::Both, SubscribedFormats::Json, None), "acme"),
            [
                "centiloc/acme",
                "centiloc/acme/json/item/v1/update",
                "centiloc/acme/json/board/v1/update"
            ]
        );
        assert!(
            filters(&mqtt(SubscribedFormats::Off, SubscribedFormats::Off, None), "acme").is_empty()
        );
    }

    #[test]
    fn a_share_group_goes_before_the_topic() {
        assert_eq!(
            filters(
                &mqtt(SubscribedFormats::Protobuf, SubscribedFormats::Off, Some("acme-ward3")),
                "acme"
            ),
            ["$share/acme-ward3/centiloc/acme"]
        );
    }

    proptest! {
        #[test]
        fn what_is_subscribed_to_is_routed(tenant in "[a-z0-9-]{1,20}") {
            for filter in filters(&mqtt(SubscribedFormats::Both, SubscribedFormats::Both, None), &tenant) {
                prop_assert!(route(&tenant, &filter).is_some());
            }
        }
    }
}
