//! Checks of the addresses of the database and of its connection limits.

use super::line::{CheckLine, CheckStatus};
use super::names;
use crate::store::inspect::{AddressProbe, ConnectionLimits};

pub(super) fn address(look: &AddressProbe) -> CheckLine {
    let AddressProbe { address, problem } = look;
    match problem {
        None => CheckLine::ok(names::DATABASE_ADDRESS, format!("{address} accepts connections")),
        Some(problem) => CheckLine::problem(
            names::DATABASE_ADDRESS,
            CheckStatus::Warning,
            format!("{address} {problem}"),
            "every address to accept connections",
            "the others are used; remove it from DNS or database.url, or make it reachable",
        ),
    }
}

pub(super) fn connections(limits: &ConnectionLimits) -> CheckLine {
    let ConnectionLimits { needed, role, database, server, in_use } = *limits;
    let least = [
        (role, "the role", "alter role … connection limit"),
        (database, "the database", "alter database … connection limit"),
        (Some(server), "the server", "raise max_connections"),
    ];
    let too_low = least.iter().find_map(|(limit, whose, hint)| match limit {
        Some(limit) if *limit < needed => Some((limit, whose, hint)),
        _ => None,
    });
    let Some((limit, whose, hint)) = too_low else {
        return CheckLine::ok(
            names::DATABASE_CONNECTIONS,
            format!("the service uses {needed}; {in_use} of the server's {server} are in use"),
        );
    };
    CheckLine::problem(
        names::DATABASE_CONNECTIONS,
        CheckStatus::Failed,
        format!("{whose} may have {limit} connections, and the service uses {needed}"),
        format!("a limit of at least {needed}"),
        format!("{hint}; database.max_connections may be lowered to 3"),
    )
}
