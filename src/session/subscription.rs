//! What was asked of the broker and what it granted. `session_present` proves nothing about
//! subscriptions, so they are made on every connection and every SUBACK is compared.

/// What the broker made of one filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// As asked.
    Qos1,
    /// Less than asked: deliveries would not survive an outage.
    Qos0,
    /// Return code 0x80.
    Refused,
}

/// The SUBACK beside the SUBSCRIBE it answers.
#[derive(Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Filters granted at QoS 1.
    pub granted: Vec<String>,
    /// Filters granted at QoS 0.
    pub lowered: Vec<String>,
    /// Filters refused.
    pub refused: Vec<String>,
}

impl Verdict {
    /// Compares the granted QoS of each filter, `None` for a refusal, with the filters asked for. `Err` where the SUBACK does not answer this SUBSCRIBE.
    pub fn new(filters: &[String], codes: &[Option<u8>]) -> Result<Self, String> {
        if filters.len() != codes.len() {
            return Err(format!(
                "the broker answered a SUBSCRIBE of {} filters with {} return codes",
                filters.len(),
                codes.len()
            ));
        }
        let mut verdict = Self { granted: vec![], lowered: vec![], refused: vec![] };
        for (filter, code) in filters.iter().zip(codes) {
            let list = match grant(*code) {
                Grant::Qos1 => &mut verdict.granted,
                Grant::Qos0 => &mut verdict.lowered,
                Grant::Refused => &mut verdict.refused,
            };
            list.push(filter.clone());
        }
        Ok(verdict)
    }

    /// What is wrong, with the cure; `None` where everything was granted at QoS 1.
    pub fn problem(&self) -> Option<String> {
        let mut parts = Vec::new();
        if !self.refused.is_empty() {
            parts.push(format!(
                "the broker refuses the subscription to {}: ask Centiloc support whether this \
                 user may read these topics, and compare the tenant",
                self.refused.join(", ")
            ));
        }
        if !self.lowered.is_empty() {
            parts.push(format!(
                "the broker grants only QoS 0 for {}: messages sent during an outage will be \
                 lost; ask for QoS 1",
                self.lowered.join(", ")
            ));
        }
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}

fn grant(granted: Option<u8>) -> Grant {
    match granted {
        Some(0) => Grant::Qos0,
        Some(_) => Grant::Qos1,
        None => Grant::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters() -> Vec<String> {
        vec!["centiloc/acme".to_owned(), "centiloc/acme/proto/board/v1/update".to_owned()]
    }

    #[test]
    fn a_refused_and_a_lowered_filter_are_named_with_the_cure() {
        let codes = [None, Some(0)];
        let problem = Verdict::new(&filters(), &codes).unwrap().problem().unwrap();
        assert!(problem.contains("refuses the subscription to centiloc/acme:"), "{problem}");
        assert!(problem.contains("QoS 0 for centiloc/acme/proto/board/v1/update"), "{problem}");
    }

    #[test]
    fn a_suback_of_another_length_is_an_error() {
        let codes = [Some(1)];
        assert!(Verdict::new(&filters(), &codes).is_err());
    }

    #[test]
    fn full_grants_are_no_problem() {
        let codes = [Some(1); 2];
        assert_eq!(Verdict::new(&filters(), &codes).unwrap().problem(), None);
    }
}
