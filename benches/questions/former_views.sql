-- The views as they were before there were stays, for comparison. former.item_stay is
-- tests/it/support/stays_by_windows.sql.
create schema former;

create view former.item_location as
select s.*
  from centiloc.item_state s
 where centiloc.is_plausible(s.momentum, s.received_at)
   and not exists (
       select
         from centiloc.item_state o
        where o.tenant = s.tenant
          and o.uid = s.uid
          and centiloc.is_plausible(o.momentum, o.received_at)
          and (o.is_in, o.momentum, o.event_id) > (s.is_in, s.momentum, s.event_id));

create view former.board_content as
select *
  from former.item_location
 where is_in
   and board_sn <> '';

create view former.board_health as
select tenant, board_sn, b.status, i.last_item_at, coalesce(c.items, 0) as items
  from (select * from centiloc.board_state where centiloc.is_plausible(momentum, received_at)) b
  full join (select tenant, board_sn, max(momentum) as last_item_at
               from centiloc.item_state
              where board_sn <> ''
                and centiloc.is_plausible(momentum, received_at)
              group by tenant, board_sn) i using (tenant, board_sn)
  left join (select tenant, board_sn, count(*) as items
               from former.board_content
              group by tenant, board_sn) c using (tenant, board_sn);
