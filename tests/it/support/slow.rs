//! A database that is slower than it could be.

use super::database::Database;

/// Each statement that inserts item events takes `factor` times as long as it did. Own time is
/// measured, not assumed, so that this is true on every machine. The factor is read from a table: to
/// change it locks nothing that the bridge needs.
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

/// Prepares a database that has its tables, at its own speed yet.
pub async fn prepare(database: &Database) {
    database.execute(TRIGGERS).await;
}

/// Makes inserts of item events take so many times as long as they would. 1 is the usual speed.
pub async fn slow_down(database: &Database, factor: u32) {
    database.execute(&format!("update public.slowness set factor = {factor}")).await;
}

/// Makes each statement that inserts item events take so many seconds longer, however few they are.
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
