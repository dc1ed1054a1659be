//! A database that is slowed down on purpose.

use super::database::Database;

/// Makes each statement that inserts item events take `factor` times as long as it did. Its own
/// time is measured, not assumed, so this holds on every machine. The factor is read from a table,
/// because changing it there locks nothing that the bridge needs.
const TRIGGERS: &str = "
    create table public.slowness (factor integer not null);
    insert into public.slowness values (1);
    create function public.slow_begin() returns trigger language plpgsql security definer as $$
    begin
        perform set_config('slow.began', extract(epoch from clock_timestamp())::text, true);
        return null;
    end $$;
    create function public.slow_end() returns trigger language plpgsql security definer as $$
    declare
        took float8 := extract(epoch from clock_timestamp()) - current_setting('slow.began')::float8;
    begin
        perform pg_sleep(took * (select factor - 1 from public.slowness));
        return null;
    end $$;
    create trigger slow_begin before insert on centiloc.item_event
        for each statement execute function public.slow_begin();
    create trigger slow_end after insert on centiloc.item_event
        for each statement execute function public.slow_end()";

/// Prepares a migrated database, at its usual speed at first.
pub async fn prepare(database: &Database) {
    database.execute(TRIGGERS).await;
}

/// Slows inserts of item events by this factor. 1 is the usual speed.
pub async fn slow_down(database: &Database, factor: u32) {
    database.execute(&format!("update public.slowness set factor = {factor}")).await;
}

/// Makes each statement that inserts item events take that many seconds longer, however few the
/// events are.
pub async fn delay_inserts(database: &Database, seconds: f64) {
    let trigger = format!(
        "create function public.delay_inserts() returns trigger language plpgsql as $$
         begin
             perform pg_sleep({seconds});
             return null;
         end $$;
         create trigger delay_inserts before insert on centiloc.item_event
             for each statement execute function public.delay_inserts()"
    );
    database.execute(&trigger).await;
}
