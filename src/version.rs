//! The version and commit of this program.

/// Version and commit, for example `0.1.0 (commit 6a146d8c1f2e)`. `build.rs` composes it.
pub const VERSION: &str = env!("BUILD_VERSION");

/// Commit from which the program was built, empty if it is unknown.
pub const COMMIT: &str = env!("BUILD_COMMIT");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_names_package_and_commit() {
        let rest = VERSION.strip_prefix(env!("CARGO_PKG_VERSION")).unwrap();
        if COMMIT.is_empty() {
            assert!(matches!(rest, "" | " (debug build)"), "{VERSION}");
        } else {
            assert_eq!(rest, format!(" (commit {COMMIT})"));
        }
    }
}
