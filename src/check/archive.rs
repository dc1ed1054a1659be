//! Check of the folder of the archive: files can be created there.

use super::line::{CheckLine, CheckStatus};
use super::names;
use crate::archive::check_folder;
use crate::config::Config;

/// Checks the folder. One that cannot be written is a warning, because events are stored all the same.
pub(super) fn check(config: &Config) -> CheckLine {
    let Some(dir) = &config.retention.archive_dir else {
        return CheckLine::ok(names::ARCHIVE, "off: events past retention.events are deleted");
    };
    if config.retention.events.is_none() {
        let found = format!("{}: nothing is archived, because nothing is deleted", dir.display());
        return CheckLine::problem(
            names::ARCHIVE,
            CheckStatus::Warning,
            found,
            "retention.events, the age at which events are archived",
            "set retention.events, or remove retention.archive_dir",
        );
    }
    match check_folder(dir) {
        Ok(()) => CheckLine::ok(names::ARCHIVE, format!("{} is writable", dir.display())),
        Err(error) => CheckLine::from_sentence(
            names::ARCHIVE,
            CheckStatus::Warning,
            &format!("retention.archive_dir {error}"),
            "a folder that this user may write to: events past retention.events are kept until then",
        ),
    }
}
