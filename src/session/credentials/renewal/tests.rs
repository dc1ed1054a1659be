use std::os::unix::fs::symlink;
use std::path::PathBuf;

use super::*;
use crate::config::TlsConfig;
use crate::credentials::testing::{IssuedCertificate, LeafSpec, TestFiles, TestPki};

/// Credential files in use, and a watcher that has checked them.
struct RenewalFixture {
    pki: TestPki,
    files: TestFiles,
    watcher: CredentialWatcher,
    state: watch::Receiver<CredentialState>,
    /// Keeps the receiver of the source open.
    source: watch::Sender<CredentialSource>,
}

impl RenewalFixture {
    fn new() -> Self {
        let (pki, files) = (TestPki::new(), TestFiles::new());
        write(&files, &pki.issue(&LeafSpec::client("acme")));
        let authority = files.write("ca.pem", pki.authority_pem());
        let section =
            TlsConfig::of_files(Some(authority), files.path("cert.pem"), files.path("key.pem"));
        let password_file = files.write("password", "first\n");
        let source = CredentialSource {
            tenant: "acme".into(),
            tls: Some(section),
            username: Some("u".into()),
            password: None,
            password_file: Some(password_file),
        };
        let state = watch::Sender::new(load_initial(&source));
        let receiver = state.subscribe();
        let source = watch::Sender::new(source);
        let watcher = CredentialWatcher::new(RenewalParts {
            source: source.subscribe(),
            state,
            health: Arc::default(),
            metrics: Arc::new(Metrics::new()),
            stop: CancellationToken::new(),
        });
        let mut fixture = Self { pki, files, watcher, state: receiver, source };
        assert!(!fixture.checks(2), "the credentials loaded at the start are not new");
        fixture
    }

    /// Returns true if `count` checks adopted new credentials.
    fn checks(&mut self, count: usize) -> bool {
        for _ in 0..count {
            self.check(CheckTrigger::Periodic);
        }
        let changed = self.state.has_changed().unwrap();
        self.state.borrow_and_update();
        changed
    }

    fn check(&mut self, trigger: CheckTrigger) {
        let found = self.watcher.next_check(trigger, OffsetDateTime::now_utc()).inspect();
        self.watcher.apply(found);
    }

    fn problem(&self) -> Option<String> {
        self.watcher.parts.health.snapshot().credentials.problem
    }

    fn issue(&self, leaf: &LeafSpec) {
        write(&self.files, &self.pki.issue(leaf));
    }

    fn serial(&self) -> String {
        let CredentialState::Ready(credentials) = self.state.borrow().clone() else {
            panic!("none")
        };
        credentials.certificate().unwrap().serial.clone()
    }
}

fn write(files: &TestFiles, issued: &IssuedCertificate) {
    files.write("cert.pem", &issued.pem);
    files.write("key.pem", issued.key.to_sec1_pem().as_str());
}

#[test]
fn new_pair_is_adopted_at_the_second_check() {
    let mut fixture = RenewalFixture::new();
    let old = fixture.serial();
    fixture.issue(&LeafSpec::client("acme"));
    assert!(!fixture.checks(1));
    assert!(fixture.checks(1));
    assert_ne!(fixture.serial(), old);
    assert!(!fixture.checks(3));
}

#[test]
fn pair_is_adopted_once_both_files_are_written() {
    let mut fixture = RenewalFixture::new();
    let old = fixture.serial();
    let new = fixture.pki.issue(&LeafSpec::client("acme"));
    fixture.files.write("cert.pem", &new.pem);
    assert!(!fixture.checks(1));
    assert_eq!(fixture.problem(), None, "it may be complete in a moment");
    assert!(!fixture.checks(3));
    assert!(fixture.problem().unwrap().contains("does not belong to it"));
    assert_eq!(fixture.serial(), old);
    fixture.files.write("key.pem", new.key.to_sec1_pem().as_str());
    assert!(fixture.checks(2));
    assert_eq!(fixture.problem(), None);
}

#[test]
fn invalid_files_are_rejected_and_named() {
    let cases: [(LeafSpec, &str); 3] = [
        (LeafSpec::client("acme").days(-400, -1), "expired on"),
        (LeafSpec::client("acme").days(2, 300), "not valid before"),
        (LeafSpec::client("other"), "not the tenant \"acme\""),
    ];
    let mut fixture = RenewalFixture::new();
    let old = fixture.serial();
    for (leaf, words) in cases {
        fixture.issue(&leaf);
        assert!(!fixture.checks(3), "{words}");
        let problem = fixture.problem().unwrap();
        assert!(problem.contains(words) && problem.contains("cert.pem"), "{problem}");
        assert_eq!(fixture.serial(), old);
    }
    fixture.files.write("password", "");
    fixture.issue(&LeafSpec::client("acme"));
    assert!(!fixture.checks(3));
    assert!(fixture.problem().unwrap().contains("mqtt.password_file"), "{:?}", fixture.problem());
    std::fs::remove_file(fixture.files.path("ca.pem")).unwrap();
    assert!(!fixture.checks(3));
    assert!(fixture.problem().unwrap().contains("mqtt.tls.ca_file"), "{:?}", fixture.problem());
}

#[test]
fn restoring_the_old_files_clears_the_problem() {
    let mut fixture = RenewalFixture::new();
    let cert = std::fs::read(fixture.files.path("cert.pem")).unwrap();
    fixture.files.write("cert.pem", "rubbish");
    assert!(!fixture.checks(2));
    assert!(fixture.problem().is_some());
    fixture.files.write("cert.pem", cert);
    assert!(!fixture.checks(1));
    assert_eq!(fixture.problem(), None);
}

#[test]
fn changed_content_is_adopted_and_a_touch_ignored() {
    let mut fixture = RenewalFixture::new();
    fixture.files.write("password", "first\n");
    assert!(!fixture.checks(3), "rewritten, but the same");
    fixture.files.write("password", "second\n");
    assert!(fixture.checks(2));

    // As Kubernetes mounts a secret: ..data is a link to a folder with a date for its name.
    let folder = |name: &str| -> PathBuf {
        let path = fixture.files.path(name);
        std::fs::create_dir(&path).unwrap();
        let issued = fixture.pki.issue(&LeafSpec::client("acme"));
        std::fs::write(path.join("tls.crt"), &issued.pem).unwrap();
        std::fs::write(path.join("tls.key"), issued.key.to_sec1_pem().as_str()).unwrap();
        path
    };
    let (one, two) = (folder("..one"), folder("..two"));
    let data = fixture.files.path("..data");
    symlink(&one, &data).unwrap();
    fixture.source.send_modify(|source| {
        let tls = source.tls.as_mut().unwrap();
        tls.cert_file = data.join("tls.crt");
        tls.key_file = data.join("tls.key");
    });
    assert!(fixture.checks(2), "other paths");
    let before = fixture.serial();
    let fresh = fixture.files.path("..fresh");
    symlink(&two, &fresh).unwrap();
    std::fs::rename(&fresh, &data).unwrap();
    assert!(fixture.checks(2));
    assert_ne!(fixture.serial(), before);
}

#[test]
fn files_that_change_while_loaded_wait() {
    let fixture = RenewalFixture::new();
    let source = fixture.source.borrow().clone();
    let found = source.fingerprint().unwrap();
    let other = CredentialSource { username: None, ..source.clone() }.fingerprint().unwrap();
    let late = || CredentialSourceError::TenantMismatch("late".into());
    let judge = |found, again| judge(found, source.load(), || again);
    assert!(matches!(judge(found, Ok(found)), CheckResult::Valid(_)));
    for (found, again) in [(other, Ok(other)), (found, Ok(other)), (found, Err(late()))] {
        let judged = judge(found, again);
        assert!(matches!(judged, CheckResult::Changing(now) if now == found));
    }
}

#[test]
fn requested_check_adopts_at_once() {
    let mut fixture = RenewalFixture::new();
    fixture.issue(&LeafSpec::client("acme"));
    fixture.check(CheckTrigger::Requested);
    assert!(fixture.state.has_changed().unwrap());
}

#[test]
fn loadable_files_are_adopted_after_an_unusable_start() {
    let mut fixture = RenewalFixture::new();
    fixture.watcher.parts.state.send_replace(CredentialState::Unusable("none".into()));
    // Expired, for another tenant: the broker decides.
    fixture.issue(&LeafSpec::client("other").days(-400, -1));
    fixture.state.borrow_and_update();
    assert!(fixture.checks(2));
    assert!(matches!(*fixture.state.borrow(), CredentialState::Ready(_)));
}

#[test]
fn near_expiry_is_shown_with_the_renewal_command() {
    let mut fixture = RenewalFixture::new();
    fixture.issue(&LeafSpec::client("acme").days(-358, 6));
    assert!(fixture.checks(2));
    fixture.watcher.check_expiry(OffsetDateTime::now_utc());
    let renewal = fixture.watcher.parts.health.snapshot().credentials.renewal.unwrap();
    let key = fixture.files.path("key.pem");
    assert!(renewal.contains("expires in 5 days"), "{renewal}");
    let command = format!("`centiloc-bridge csr --key {} --tenant acme", key.display());
    assert!(renewal.contains(&command), "{renewal}");
}

#[test]
fn unresponsive_files_are_read_again_later() {
    let mut fixture = RenewalFixture::new();
    fixture.watcher.read_timed_out("a slow disk".into());
    assert_eq!(fixture.problem().as_deref(), Some("a slow disk"));
    let file = fixture.watcher.unanswered.unwrap();
    assert!(file.until > Instant::now());
    let waiting = UnresponsiveFile { reads: 0, ..file };
    assert!(!waiting.is_over());
    assert!(UnresponsiveFile { reads: usize::MAX, ..file }.is_over(), "a read has ended");
    assert!(CheckTrigger::Requested.is_due(Some(waiting)));
    assert!(!CheckTrigger::Periodic.is_due(Some(waiting)));
    assert!(CheckTrigger::Periodic.is_due(None));
    assert!(UnresponsiveFile { until: Instant::now(), reads: 0 }.is_over());
    fixture.checks(1);
    assert!(fixture.watcher.unanswered.is_none() && fixture.problem().is_none());
}

#[test]
fn only_another_problem_is_news() {
    let mut fixture = RenewalFixture::new();
    let unusable = |problem: &str| CredentialState::Unusable(problem.into());
    fixture.watcher.parts.state.send_replace(unusable("absent"));
    fixture.state.borrow_and_update();
    fixture.watcher.reject("absent".into(), RejectionReason::InvalidFiles);
    assert!(!fixture.state.has_changed().unwrap());
    fixture.watcher.reject("invalid".into(), RejectionReason::InvalidFiles);
    assert!(fixture.state.has_changed().unwrap());
    let now = fixture.state.borrow().clone();
    assert!(matches!(now, CredentialState::Unusable(problem) if problem == "invalid"));
}

#[test]
fn an_unchanged_name_may_differ_from_the_tenant() {
    let mut fixture = RenewalFixture::new();
    fixture.source.send_modify(|source| source.tenant = "other".into());
    fixture.issue(&LeafSpec::client("acme"));
    assert!(fixture.checks(2));
    fixture.issue(&LeafSpec::client("another"));
    assert!(!fixture.checks(2));
}
