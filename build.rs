//! Compiles `proto/transtream.proto`, without protoc, into what `decode` embeds: the descriptors
//! that drive its reader, and the structs that encode messages. Lists the migrations that `store`
//! embeds. Finds out the commit for `--version`.

use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use protox::prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto/transtream.proto");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    // Only while it exists: cargo takes a missing path for one that always changed.
    if Path::new("migrations").exists() {
        println!("cargo:rerun-if-changed=migrations");
        std::fs::write(out.join("migrations.rs"), list_migrations()?)?;
    }
    embed_version()?;
    let descriptors = protox::Compiler::new(["proto"])?
        .include_imports(true)
        .open_file("transtream.proto")?
        .file_descriptor_set();
    std::fs::write(out.join("transtream.binpb"), descriptors.encode_to_vec())?;
    prost_build::Config::new().out_dir(out).compile_fds(descriptors)?;
    Ok(())
}

/// Returns the list of migrations in Rust, by version, from names such as `0001_events.sql`.
fn list_migrations() -> Result<String, Box<dyn Error>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir("migrations")?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<_>>()?;
    files.sort();
    let mut list = String::from("&[");
    for (version, file) in (1..).zip(&files) {
        let name = file.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        let description = name
            .strip_prefix(&format!("{version:04}_"))
            .filter(|_| file.extension().is_some_and(|extension| extension == "sql"))
            .ok_or_else(|| format!("{}: expected {version:04}_NAME.sql", file.display()))?;
        // The folder is that of the compilation, so that a target folder may outlive a checkout.
        let path = format!("/migrations/{name}.sql");
        write!(
            list,
            "({version}, {description:?}, include_str!(concat!(env!(\"CARGO_MANIFEST_DIR\"), {path:?}))),"
        )?;
    }
    Ok(list + "]")
}

/// Tells `src/version.rs` what is built. The commit is that of `GIT_COMMIT`, of the repository, or of
/// the package; a release archive may have none of them.
fn embed_version() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-env-changed=GIT_COMMIT");
    let commit = match std::env::var("GIT_COMMIT") {
        Ok(commit) if !commit.is_empty() => Some(commit),
        // Each commit would compile everything again while developing.
        _ if std::env::var("PROFILE")? == "debug" => None,
        _ => commit_of_repository().or_else(commit_of_package),
    };
    let commit = commit.unwrap_or_default();
    let commit: String = commit.chars().filter(char::is_ascii_hexdigit).take(12).collect();
    let version = std::env::var("CARGO_PKG_VERSION")?;
    let version = match (commit.as_str(), std::env::var("PROFILE")?.as_str()) {
        ("", "debug") => format!("{version} (debug build)"),
        ("", _) => version,
        (commit, _) => format!("{version} (commit {commit})"),
    };
    println!("cargo:rustc-env=BUILD_COMMIT={commit}");
    println!("cargo:rustc-env=BUILD_VERSION={version}");
    Ok(())
}

fn commit_of_repository() -> Option<String> {
    // Sources unpacked inside another repository are not what that one's commit names.
    let root = PathBuf::from(git(&["rev-parse", "--show-toplevel"])?);
    if root.canonicalize().ok()? != Path::new(".").canonicalize().ok()? {
        return None;
    }
    for file in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--git-path", file])?;
        if Path::new(&path).exists() {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    git(&["rev-parse", "HEAD"])
}

/// Returns the commit that `cargo package` notes.
fn commit_of_package() -> Option<String> {
    let text = std::fs::read_to_string(".cargo_vcs_info.json").ok()?;
    let (_, rest) = text.split_once("\"sha1\"")?;
    rest.split('"').nth(1).map(str::to_owned)
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}
