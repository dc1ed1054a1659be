//! The process: administration, reload, logging, clocks, and shutdown.

mod admin;
mod admin_page;
mod clock_jumps;
mod crashes;
mod hanging_lookups;
mod liveness;
mod logging;
mod map;
mod map_page;
mod reload;
mod shutdown;
mod shutdown_races;
