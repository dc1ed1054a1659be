-- Sums are computed in the order in which their hours and days were marked, so that late events of old
-- hours keep no others waiting.

alter table centiloc.rollup_pending add column marked_at timestamptz not null default now();

comment on table centiloc.rollup_pending is
    'Hours and days whose sums are to be computed: those that last, and those that late events changed. An old one waits for further late events, an hour at most.';
comment on column centiloc.rollup_pending.marked_at is 'Since when it waits.';

comment on table centiloc.rollup_floor is
    'One row: sums of earlier hours and days are final, because their events may be deleted. Retention moves it on as far as stays and sums are computed.';

-- A batch whose events are all gone has a row too, so that a reader always gets on.
create or replace function centiloc.changes_since(after bigint, batches integer default 100)
returns table (
    "position"        bigint,
    committed_at      timestamptz,
    tenant            text,
    uid               text,
    board_sn          text,
    is_in             boolean,
    momentum          timestamptz,
    event_id          uuid,
    x_mm              integer,
    y_mm              integer,
    product_reference text,
    shelf_sn          text,
    loc_reference     text
) language sql stable parallel safe as $$
    select b.position, b.committed_at, e.tenant, e.uid, e.board_sn, e.is_in, e.momentum, e.event_id,
           e.x_mm, e.y_mm, e.product_reference, e.shelf_sn, e.loc_reference
      from (select *
              from centiloc.change_batch
             where change_batch.position > after
             order by change_batch.position
             limit batches) b
      left join lateral (
           select i.*
             from (select distinct tenant, uid, momentum
                     from unnest(b.tenants, b.uids, b.momenta) as t (tenant, uid, momentum)) k
            cross join lateral (
                  select tenant, uid, board_sn, is_in, momentum, event_id, x_mm, y_mm,
                         product_reference, shelf_sn, loc_reference
                    from centiloc.item_event
                   where uid = k.uid
                     and tenant = k.tenant
                     and momentum = k.momentum
                  offset 0) i) e on true
     order by b.position, e.momentum, e.event_id
$$;

comment on function centiloc.changes_since(bigint, integer) is
    'Item events of the next batches after a position, oldest batch first. A redelivered event may occur again: event_id tells. A batch whose events are erased or past their retention is one row without an event. Go on after the last position; if that is less than change_feed.first_position - 1, batches were deleted meanwhile.';
