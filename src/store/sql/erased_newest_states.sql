-- Makes states whose rows were just deleted again from the events that are left: one arrived
-- meanwhile. The parameters are the columns of their keys. The names in braces are filled in by
-- src/store/kinds/newest.rs and columns.rs.
insert into centiloc.{state_table} as s ({key}, {state})
select {k.key}, {e.state}
  from unnest({key_arrays}) as k ({key})
 cross join lateral (
       select *
         from centiloc.{event_table}
        where ({key}) = ({k.key})
          and centiloc.is_plausible(momentum, received_at)
        order by momentum desc, event_id desc
        limit 1) e
on conflict ({key}) do update set ({state}) = row ({excluded.state})
where (excluded.momentum, excluded.event_id) > (s.momentum, s.event_id)
returning 1
