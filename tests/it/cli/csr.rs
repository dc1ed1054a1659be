//! `csr`, as built, from an empty folder to a request that OpenSSL verifies.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;

use serde_json::Value;

use crate::support::bridge::{command, finish};
use crate::support::process::{ScratchFolder, run};

const KEY: &str = "private-key.pem";
const REQUEST: &str = "certificate-request.csr";

async fn csr(out: &Path, more: &[&str]) -> Output {
    let mut command = command(["csr", "--tenant", "acme", "--organization", "Acme Hospital"]);
    command.args(["--email", "it@example.com"]).args(more).arg("--out").arg(out);
    finish(command).await
}

fn said(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    (String::from_utf8_lossy(out) + String::from_utf8_lossy(err)).into_owned()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn openssl(args: &[&str], file: &Path) -> String {
    let file = file.to_str().unwrap();
    run("openssl", [args, &["-in", file]].concat())
}

/// Returns the public key of a request, which must verify.
fn public_key_of_request(path: &Path) -> String {
    openssl(&["req", "-verify", "-noout", "-pubkey"], path)
}

fn public_key_of_key(path: &Path) -> String {
    openssl(&["pkey", "-pubout"], path)
}

#[tokio::test]
async fn new_key_is_private_and_request_verifies() {
    let folder = ScratchFolder::new("csr");
    let out = folder.join("new/deep");
    let more = ["--country", "FR", "--state", "Isère", "--locality", "Grenoble"];
    let output = csr(&out, &[&more[..], &["--organizational-unit", "Ward 3"]].concat()).await;
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let (key, request) = (out.join(KEY), out.join(REQUEST));
    assert_eq!((mode(&out), mode(&key)), (0o700, 0o600));
    assert_eq!(public_key_of_request(&request), public_key_of_key(&key));
    let pem = std::fs::read_to_string(&key).unwrap();
    assert!(pem.starts_with("-----BEGIN EC PRIVATE KEY-----"), "the vendor's form");
    assert!(!said(&output).contains(pem.lines().nth(1).unwrap()), "the key is not shown");
    let text =
        openssl(&["req", "-noout", "-text", "-nameopt", "utf8,sep_comma_plus_space"], &request);
    for part in ["C=FR", "ST=Isère", "L=Grenoble", "O=Acme Hospital", "OU=Ward 3", "CN=acme"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert!(text.contains("emailAddress=it@example.com"), "{text}");
    assert!(text.contains("NIST CURVE: P-256"), "{text}");
    let steps =
        ["Next steps", "Send certificate-request.csr to the Centiloc support team", "check"];
    for step in steps {
        assert!(said(&output).contains(step), "{step} is not in {}", said(&output));
    }
}

#[tokio::test]
async fn nothing_is_ever_overwritten() {
    let folder = ScratchFolder::new("csr");
    assert_eq!(csr(folder.path(), &[]).await.status.code(), Some(0));
    let before = [KEY, REQUEST].map(|name| std::fs::read(folder.join(name)).unwrap());
    let again = csr(folder.path(), &[]).await;
    assert_eq!(again.status.code(), Some(1));
    assert!(said(&again).contains("exists and is not overwritten"), "{}", said(&again));
    let after = [KEY, REQUEST].map(|name| std::fs::read(folder.join(name)).unwrap());
    assert_eq!(before, after);
}

#[tokio::test]
async fn renewal_reuses_key_unchanged() {
    let folder = ScratchFolder::new("csr");
    let first = folder.join("first");
    assert_eq!(csr(&first, &["--curve", "p384"]).await.status.code(), Some(0));
    let key = first.join(KEY);
    let before = std::fs::read(&key).unwrap();
    let second = folder.join("second");
    let output = csr(&second, &["--key", key.to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(!second.join(KEY).exists(), "no second key");
    assert_eq!(std::fs::read(&key).unwrap(), before);
    let request = second.join(REQUEST);
    let text = said(&output);
    assert!(text.contains("put it in the place of the old one"), "{text}");
    for first_time in ["Next steps", "user name and password", "[mqtt.tls]", "check"] {
        assert!(!text.contains(first_time), "{first_time} is not part of a renewal: {text}");
    }
    assert_eq!(public_key_of_request(&request), public_key_of_key(&key));
    let text = openssl(&["req", "-noout", "-text"], &request);
    assert!(text.contains("NIST CURVE: P-384"), "{text}");
}

#[tokio::test]
async fn unsuitable_keys_are_refused_before_writing() {
    let folder = ScratchFolder::new("csr");
    let curve = |name| run("openssl", ["ecparam", "-name", name, "-genkey", "-noout"]);
    let keys = [
        ("RSA", run("openssl", ["genrsa", "2048"])),
        ("secp256k1", curve("secp256k1")),
        ("P-521", curve("secp521r1")),
        ("P-224", curve("secp224r1")),
        ("Ed25519", run("openssl", ["genpkey", "-algorithm", "ed25519"])),
    ];
    for (name, pem) in keys {
        let key = folder.write(&format!("{name}.pem"), pem);
        let out = folder.join(format!("out-{name}"));
        let output = csr(&out, &["--key", key.to_str().unwrap()]).await;
        assert_eq!(output.status.code(), Some(1), "{name}");
        let said = said(&output);
        assert!(said.contains(name), "{name} is not named: {said}");
        assert!(said.contains("--key"), "{said}");
        assert!(!out.exists(), "{name}: something was written");
    }
}

#[tokio::test]
async fn invalid_values_are_usage_errors() {
    let folder = ScratchFolder::new("csr");
    let out = folder.join("out");
    for (option, value) in [
        ("--country", "France"),
        ("--email", "nobody"),
        ("--organization", " "),
        ("--tenant", "a/b"),
        ("--state", ""),
        ("--curve", "p521"),
    ] {
        let mut args = vec!["csr"];
        let fixed =
            [("--tenant", "acme"), ("--organization", "Acme"), ("--email", "it@example.com")];
        args.extend(fixed.iter().filter(|(name, _)| *name != option).flat_map(|(n, v)| [*n, *v]));
        args.extend([option, value, "--out", out.to_str().unwrap()]);
        let output = finish(command(args)).await;
        assert_eq!(output.status.code(), Some(64), "{option} {value:?}: {}", said(&output));
        assert!(said(&output).contains(option), "{}", said(&output));
        assert!(!out.exists(), "{option}: something was written");
    }
}

#[tokio::test]
async fn json_names_files_and_contents() {
    let folder = ScratchFolder::new("csr");
    let output = csr(&folder.join("first"), &["--json"]).await;
    let first: Value = serde_json::from_slice(&output.stdout).unwrap();
    let key = folder.join("first").join(KEY);
    assert_eq!(first["key_file"], key.to_str().unwrap());
    assert_eq!(first["key_created"], true);
    let request = std::fs::read_to_string(first["request_file"].as_str().unwrap()).unwrap();
    assert_eq!(first["request"], request);
    assert!(first["subject"].as_str().unwrap().contains("CN = acme"), "{first}");
    let configuration: toml::Table = first["configuration"].as_str().unwrap().parse().unwrap();
    assert_eq!(configuration["tenant"].as_str(), Some("acme"));
    let more = ["--json", "--key", key.to_str().unwrap()];
    let output = csr(&folder.join("second"), &more).await;
    let second: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&second["key_created"], &second["configuration"]), (&false.into(), &Value::Null));
}
