//! Reminders before the client certificate expires, and the command that renews it. Pure: time is an
//! argument.

use std::borrow::Cow;
use std::path::Path;

use time::OffsetDateTime;

use super::identity::date;
use super::inspect::CertificateFacts;

/// Days before the expiry at which a reminder is due: months for planning, weeks because two companies
/// need working days, and the last day because then hours count.
pub const NOTICES: [i64; 5] = [60, 30, 14, 7, 1];

/// A reminder that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpiryNotice {
    /// Whole days until the expiry, at most the largest of [`NOTICES`].
    Days(i64),
    /// The certificate has expired.
    Expired,
}

/// State of the reminders for one certificate.
#[derive(Debug, Clone, Default)]
pub struct ExpiryReminder {
    /// The last reminder: one of [`NOTICES`], or 0 for expired. Invariant: it never grows.
    last: Option<i64>,
}

impl ExpiryReminder {
    /// Returns the reminder that is due, once for each of [`NOTICES`] and once for the expiry. A process
    /// that starts late gets the most urgent one only.
    pub fn due(&mut self, facts: &CertificateFacts, now: OffsetDateTime) -> Option<ExpiryNotice> {
        let days = facts.days_left(now);
        let stage = if facts.expired(now) {
            0
        } else {
            NOTICES.into_iter().filter(|notice| days <= *notice).min()?
        };
        if self.last.is_some_and(|last| last <= stage) {
            return None;
        }
        self.last = Some(stage);
        Some(if stage == 0 { ExpiryNotice::Expired } else { ExpiryNotice::Days(days) })
    }
}

/// Returns the shell command that makes the request for the next certificate, with the same subject
/// and key.
pub fn renewal_command(facts: &CertificateFacts, tenant: &str, key_file: &Path) -> String {
    let folder = key_file.parent().unwrap_or(Path::new("/"));
    let out = folder.join(format!("renewal-{}", facts.not_after.date()));
    let words = [
        ("--tenant", tenant.to_owned()),
        ("--organization", facts.organization.clone().unwrap_or_else(|| "YOUR COMPANY".to_owned())),
        ("--email", facts.email.clone().unwrap_or_else(|| "YOUR ADDRESS".to_owned())),
        ("--out", out.display().to_string()),
    ];
    let mut command =
        format!("centiloc-bridge csr --key {}", quoted(&key_file.display().to_string()));
    for (option, value) in words {
        command.push(' ');
        command.push_str(option);
        command.push(' ');
        command.push_str(&quoted(&value));
    }
    command
}

/// Returns the hint that explains the renewal, for a log line or a page.
pub fn advice(facts: &CertificateFacts, tenant: &str, key_file: &Path) -> String {
    format!(
        "run `{}`, send the request to Centiloc's support, and replace the old certificate with the \
         one they return; it takes effect without a restart",
        renewal_command(facts, tenant, key_file)
    )
}

/// Returns the reminder as a sentence.
pub fn in_words(notice: ExpiryNotice, facts: &CertificateFacts) -> String {
    match notice {
        ExpiryNotice::Expired => {
            format!("the client certificate expired on {}", date(facts.not_after))
        }
        ExpiryNotice::Days(0) => {
            format!("the client certificate expires today, at {}", date(facts.not_after))
        }
        ExpiryNotice::Days(1) => {
            format!("the client certificate expires in 1 day, on {}", date(facts.not_after))
        }
        ExpiryNotice::Days(days) => {
            format!("the client certificate expires in {days} days, on {}", date(facts.not_after))
        }
    }
}

/// Quotes a word for a POSIX shell.
fn quoted(word: &str) -> Cow<'_, str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./@:+=,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        Cow::Borrowed(word)
    } else {
        Cow::Owned(format!("'{}'", word.replace('\'', r"'\''")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::testing::{LeafSpec, TestPki};
    use proptest::prelude::*;
    use time::Duration;

    fn facts() -> CertificateFacts {
        let issued = TestPki::new().issue(&LeafSpec::client("acme"));
        let der = rustls_pki_types::pem::PemObject::from_pem_slice(issued.pem.as_bytes());
        CertificateFacts::from_der(&der.expect("PEM")).expect("a certificate")
    }

    #[test]
    fn each_notice_comes_once_and_on_its_day() {
        let facts = facts();
        let mut expiry = ExpiryReminder::default();
        let mut notices = Vec::new();
        for hours in (-48..=24 * 70i64).rev() {
            let now = facts.not_after - Duration::hours(hours);
            notices.extend(expiry.due(&facts, now));
        }
        let expected = [60, 30, 14, 7, 1].map(ExpiryNotice::Days);
        assert_eq!(notices, [&expected[..], &[ExpiryNotice::Expired]].concat());
    }

    #[test]
    fn a_late_start_gives_one_notice() {
        let facts = facts();
        let mut expiry = ExpiryReminder::default();
        let now = facts.not_after - Duration::days(10) - Duration::HOUR;
        assert_eq!(expiry.due(&facts, now), Some(ExpiryNotice::Days(10)));
        assert_eq!(expiry.due(&facts, now), None);
        let mut expiry = ExpiryReminder::default();
        assert_eq!(
            expiry.due(&facts, facts.not_after + Duration::DAY),
            Some(ExpiryNotice::Expired)
        );
    }

    #[test]
    fn renewal_commands_survive_a_shell() {
        let mut facts = facts();
        facts.organization = Some("Dr. O'Neil & Sons".into());
        facts.email = Some("it@example.com".into());
        let command = renewal_command(&facts, "acme", Path::new("/etc/a b/private-key.pem"));
        let script = format!("centiloc-bridge() {{ printf '%s\\n' \"$@\"; }}\n{command}");
        let shell = script.replace("centiloc-bridge", "centiloc_bridge");
        let output = std::process::Command::new("sh").args(["-c", &shell]).output().expect("sh");
        let words = String::from_utf8(output.stdout).expect("text");
        let out = format!("/etc/a b/renewal-{}", facts.not_after.date());
        let expected = [
            "csr",
            "--key",
            "/etc/a b/private-key.pem",
            "--tenant",
            "acme",
            "--organization",
            "Dr. O'Neil & Sons",
            "--email",
            "it@example.com",
            "--out",
            &out,
        ];
        assert_eq!(words.lines().collect::<Vec<_>>(), expected);
    }

    proptest! {
        #[test]
        fn notices_never_repeat(
            hours in prop::collection::vec(-100i64..2000, 0..100)
        ) {
            let facts = facts();
            let mut expiry = ExpiryReminder::default();
            let notices = hours
                .into_iter()
                .filter_map(|h| expiry.due(&facts, facts.not_after - Duration::hours(h)))
                .count();
            prop_assert!(notices <= NOTICES.len() + 1);
        }
    }
}
