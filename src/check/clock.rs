//! Check of the clock of this machine, without another clock to compare it with. The checks of
//! certificate validity and of the database's clock are more precise.

use time::OffsetDateTime;
use time::macros::datetime;

use super::line::{CheckLine, CheckStatus};
use super::names;
use crate::credentials::identity::date;

/// Date before the first release of this program: an earlier clock is wrong.
const FIRST_RELEASE: OffsetDateTime = datetime!(2026-01-01 00:00 UTC);

pub(super) fn check(now: OffsetDateTime) -> CheckLine {
    let name = names::SYSTEM_CLOCK;
    if now >= FIRST_RELEASE {
        return CheckLine::ok(name, date(now));
    }
    CheckLine::problem(
        name,
        CheckStatus::Failed,
        format!(
            "the system clock is at {}, earlier than the first release of this program",
            date(now)
        ),
        "the current time, without which no certificate is valid",
        "set the clock, and keep it synchronised: timedatectl set-ntp true",
    )
}
