//! The way to the database: its addresses, and how many connections it takes.

use super::database::{ADDRESS, CONNECTIONS};
use crate::credentials::preflight::{Check, Status};
use crate::store::inspect::{AddressProbe, ConnectionLimits};

pub(super) fn address(look: &AddressProbe) -> Check {
    let AddressProbe { address, problem } = look;
    match problem {
        None => Check::ok(ADDRESS, format!("{address} accepts connections")),
        Some(problem) => Check::trouble(
            ADDRESS,
            Status::Warning,
            format!("{address} {problem}"),
            "every address to accept connections",
            "the others are used; take it out of DNS or database.url, or make it reachable",
        ),
    }
}

pub(super) fn connections(limits: &ConnectionLimits) -> Check {
    let ConnectionLimits { needed, role, database, server, in_use } = *limits;
    let least = [
        (role, "the role", "alter role … connection limit"),
        (database, "the database", "alter database … connection limit"),
        (Some(server), "the server", "raise max_connections"),
    ];
    let too_low = least.iter().find_map(|(limit, whose, cure)| match limit {
        Some(limit) if *limit < needed => Some((limit, whose, cure)),
        _ => None,
    });
    let Some((limit, whose, cure)) = too_low else {
        return Check::ok(
            CONNECTIONS,
            format!("the service uses {needed}; {in_use} of the server's {server} are in use"),
        );
    };
    Check::trouble(
        CONNECTIONS,
        Status::Failed,
        format!("{whose} may have {limit} connections, and the service uses {needed}"),
        format!("a limit of at least {needed}"),
        format!("{cure}; database.max_connections may be lowered to 3"),
    )
}
