-- Makes states whose rows were just deleted again from the events that are left: one arrived
-- meanwhile. $1 are the tenants, $2 the boards. The lists of columns in braces are filled in by
-- src/store/kinds/columns.rs.
insert into centiloc.board_state as s (tenant, board_sn, {state})
select k.tenant, k.board_sn, {e.state}
  from unnest($1::text[], $2::text[]) as k (tenant, board_sn)
 cross join lateral (
       select *
         from centiloc.board_event
        where board_sn = k.board_sn and tenant = k.tenant
          and centiloc.is_plausible(momentum, received_at)
        order by momentum desc, event_id desc
        limit 1) e
on conflict (tenant, board_sn) do update set ({state}) = row ({excluded.state})
where (excluded.momentum, excluded.event_id) > (s.momentum, s.event_id)
returning 1
