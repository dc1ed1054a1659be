//! The clock of this machine, as far as can be told without another one. The certificates' validity
//! and the database's clock say more, each in a line of its own.

use super::line::{CheckLine, CheckStatus};
use super::names;
use time::OffsetDateTime;
use time::macros::datetime;

use crate::credentials::identity::date;

/// No release of this program is older: a machine that says so has lost its clock.
const FIRST_RELEASE: OffsetDateTime = datetime!(2026-01-01 00:00 UTC);

pub(super) fn check(now: OffsetDateTime) -> CheckLine {
    let name = names::SYSTEM_CLOCK;
    if now >= FIRST_RELEASE {
        return CheckLine::ok(name, date(now));
    }
    CheckLine::problem(
        name,
        CheckStatus::Failed,
        format!("this machine's clock says {}, before this program existed", date(now)),
        "the time of day, without which no certificate is valid",
        "set the clock, and let it be kept: timedatectl set-ntp true",
    )
}
