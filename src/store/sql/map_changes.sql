-- Where the tags are now that changed after a position: $1 in recent_change, $2 in stay_pending. $3 is
-- the tenant. A tag that is on no board has nulls. The rule is that of item_location for tags that are
-- not computed yet, which holds for every tag.
with changed as materialized (
    select distinct t.tenant, t.uid
      from (select tenants, uids from centiloc.recent_change where id > $1
             union all
            select tenants, uids from centiloc.stay_pending where id > $2) batch
     cross join lateral unnest(batch.tenants, batch.uids) as t (tenant, uid)
     where t.tenant = $3
)
select c.uid, s.board_sn, s.x_mm, s.y_mm, s.product_reference, s.loc_reference, s.momentum,
       s.entered_at, s.shelf_sn, s.furniture_sn, s.floor
  from changed c
  left join lateral (
       select *
         from (select i.*
                 from centiloc.item_state i
                where i.tenant = c.tenant
                  and i.uid = c.uid
                  and centiloc.is_plausible(i.momentum, i.received_at)
                order by i.last_in_at desc nulls last, i.last_in_id desc, i.momentum desc,
                         i.event_id desc
                limit 1) newest
        where is_in
          and board_sn <> ''
       offset 0) s on true
 order by s.momentum nulls first, c.uid
