use std::os::unix::fs::symlink;
use std::path::PathBuf;

use super::*;
use crate::config::TlsConfig;
use crate::credentials::testing::{IssuedCertificate, LeafSpec, TestFiles, TestPki};

/// Files as they are in use, and a watcher that has seen them.
struct RenewalFixture {
    pki: TestPki,
    files: TestFiles,
    watcher: CredentialWatcher,
    material: watch::Receiver<CredentialState>,
    /// Keeps the sources' receiver open.
    sources: watch::Sender<CredentialSource>,
}

impl RenewalFixture {
    fn new() -> Self {
        let (pki, files) = (TestPki::new(), TestFiles::new());
        write(&files, &pki.issue(&LeafSpec::client("acme")));
        let authority = files.write("ca.pem", pki.authority_pem());
        let section =
            TlsConfig::of_files(Some(authority), files.path("cert.pem"), files.path("key.pem"));
        let password_file = files.write("password", "first\n");
        let sources = CredentialSource {
            tenant: "acme".into(),
            tls: Some(section),
            username: Some("u".into()),
            password: None,
            password_file: Some(password_file),
        };
        let material = watch::Sender::new(first(&sources));
        let receiver = material.subscribe();
        let sources = watch::Sender::new(sources);
        let watcher = CredentialWatcher::new(RenewalParts {
            sources: sources.subscribe(),
            material,
            health: Arc::default(),
            metrics: Arc::new(Metrics::new()),
            stop: CancellationToken::new(),
        });
        let mut bench = Self { pki, files, watcher, material: receiver, sources };
        assert!(!bench.looks(2), "what the start loaded is nothing new");
        bench
    }

    /// Whether so many looks took something up.
    fn looks(&mut self, count: usize) -> bool {
        for _ in 0..count {
            self.look(CheckTrigger::Routine);
        }
        let changed = self.material.has_changed().unwrap();
        self.material.borrow_and_update();
        changed
    }

    fn look(&mut self, trigger: CheckTrigger) {
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
        let CredentialState::Ready(credentials) = self.material.borrow().clone() else {
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
fn a_new_pair_is_taken_up_at_the_second_look_that_finds_it() {
    let mut bench = RenewalFixture::new();
    let old = bench.serial();
    bench.issue(&LeafSpec::client("acme"));
    assert!(!bench.looks(1));
    assert!(bench.looks(1));
    assert_ne!(bench.serial(), old);
    assert!(!bench.looks(3));
}

#[test]
fn a_pair_written_one_file_after_the_other_is_waited_out_and_then_taken_up() {
    let mut bench = RenewalFixture::new();
    let old = bench.serial();
    let new = bench.pki.issue(&LeafSpec::client("acme"));
    bench.files.write("cert.pem", &new.pem);
    assert!(!bench.looks(1));
    assert_eq!(bench.problem(), None, "it may be complete in a moment");
    assert!(!bench.looks(3));
    assert!(bench.problem().unwrap().contains("does not belong to it"));
    assert_eq!(bench.serial(), old);
    bench.files.write("key.pem", new.key.to_sec1_pem().as_str());
    assert!(bench.looks(2));
    assert_eq!(bench.problem(), None);
}

#[test]
fn what_cannot_be_used_is_kept_out_and_named() {
    let cases: [(LeafSpec, &str); 3] = [
        (LeafSpec::client("acme").days(-400, -1), "expired on"),
        (LeafSpec::client("acme").days(2, 300), "not valid before"),
        (LeafSpec::client("other"), "not the tenant \"acme\""),
    ];
    let mut bench = RenewalFixture::new();
    let old = bench.serial();
    for (leaf, words) in cases {
        bench.issue(&leaf);
        assert!(!bench.looks(3), "{words}");
        let problem = bench.problem().unwrap();
        assert!(problem.contains(words) && problem.contains("cert.pem"), "{problem}");
        assert_eq!(bench.serial(), old);
    }
    bench.files.write("password", "");
    bench.issue(&LeafSpec::client("acme"));
    assert!(!bench.looks(3));
    assert!(bench.problem().unwrap().contains("mqtt.password_file"), "{:?}", bench.problem());
    std::fs::remove_file(bench.files.path("ca.pem")).unwrap();
    assert!(!bench.looks(3));
    assert!(bench.problem().unwrap().contains("mqtt.tls.ca_file"), "{:?}", bench.problem());
}

#[test]
fn putting_the_old_files_back_ends_the_complaint() {
    let mut bench = RenewalFixture::new();
    let cert = std::fs::read(bench.files.path("cert.pem")).unwrap();
    bench.files.write("cert.pem", "rubbish");
    assert!(!bench.looks(2));
    assert!(bench.problem().is_some());
    bench.files.write("cert.pem", cert);
    assert!(!bench.looks(1));
    assert_eq!(bench.problem(), None);
}

#[test]
fn a_new_password_and_a_swapped_link_are_noticed_and_a_touch_is_not() {
    let mut bench = RenewalFixture::new();
    bench.files.write("password", "first\n");
    assert!(!bench.looks(3), "rewritten, but the same");
    bench.files.write("password", "second\n");
    assert!(bench.looks(2));

    // As Kubernetes mounts a secret: ..data is a link to a folder with a date for its name.
    let folder = |name: &str| -> PathBuf {
        let path = bench.files.path(name);
        std::fs::create_dir(&path).unwrap();
        let issued = bench.pki.issue(&LeafSpec::client("acme"));
        std::fs::write(path.join("tls.crt"), &issued.pem).unwrap();
        std::fs::write(path.join("tls.key"), issued.key.to_sec1_pem().as_str()).unwrap();
        path
    };
    let (one, two) = (folder("..one"), folder("..two"));
    let data = bench.files.path("..data");
    symlink(&one, &data).unwrap();
    bench.sources.send_modify(|sources| {
        let tls = sources.tls.as_mut().unwrap();
        tls.cert_file = data.join("tls.crt");
        tls.key_file = data.join("tls.key");
    });
    assert!(bench.looks(2), "other paths");
    let before = bench.serial();
    let fresh = bench.files.path("..fresh");
    symlink(&two, &fresh).unwrap();
    std::fs::rename(&fresh, &data).unwrap();
    assert!(bench.looks(2));
    assert_ne!(bench.serial(), before);
}

#[test]
fn on_demand_one_look_is_enough() {
    let mut bench = RenewalFixture::new();
    bench.issue(&LeafSpec::client("acme"));
    bench.look(CheckTrigger::Demand);
    assert!(bench.material.has_changed().unwrap());
}

#[test]
fn without_usable_files_at_the_start_whatever_loads_is_taken_up_later() {
    let mut bench = RenewalFixture::new();
    bench.watcher.parts.material.send_replace(CredentialState::Unusable("none".into()));
    // Expired, for another tenant: the broker decides.
    bench.issue(&LeafSpec::client("other").days(-400, -1));
    bench.material.borrow_and_update();
    assert!(bench.looks(2));
    assert!(matches!(*bench.material.borrow(), CredentialState::Ready(_)));
}

#[test]
fn an_end_that_is_near_is_shown_with_the_command_that_renews() {
    let mut bench = RenewalFixture::new();
    bench.issue(&LeafSpec::client("acme").days(-358, 6));
    assert!(bench.looks(2));
    bench.watcher.check_expiry(OffsetDateTime::now_utc());
    let renewal = bench.watcher.parts.health.snapshot().credentials.renewal.unwrap();
    let key = bench.files.path("key.pem");
    assert!(renewal.contains("expires in 5 days"), "{renewal}");
    let command = format!("`centiloc-bridge csr --key {} --tenant acme", key.display());
    assert!(renewal.contains(&command), "{renewal}");
}
