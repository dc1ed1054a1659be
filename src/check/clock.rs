//! The clock of this machine, as far as can be told without another one. The certificates' validity
//! and the database's clock say more, each in a line of its own.

use time::OffsetDateTime;
use time::macros::datetime;

use crate::credentials::identity::date;
use crate::credentials::preflight::{Check, Status};

/// No release of this program is older: a machine that says so has lost its clock.
const FIRST_RELEASE: OffsetDateTime = datetime!(2026-01-01 00:00 UTC);

pub(super) fn check(now: OffsetDateTime) -> Check {
    let name = "system_clock";
    if now >= FIRST_RELEASE {
        return Check::ok(name, date(now));
    }
    Check::trouble(
        name,
        Status::Failed,
        format!("this machine's clock says {}, before this program existed", date(now)),
        "the time of day, without which no certificate is valid",
        "set the clock, and let it be kept: timedatectl set-ntp true",
    )
}
