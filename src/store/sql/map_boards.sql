-- Every board of tenant $1 with its health. $2 asks for the shelf that an item on it named.
select l.board_sn, l.status, l.last_item_at, b.momentum as status_at, b.fw_version,
       coalesce(s.is_silent, false) as is_silent,
       p.shelf_sn, p.furniture_sn, p.floor
  from centiloc.board_list l
  left join centiloc.board_silence s using (tenant, board_sn)
  left join centiloc.board_state b using (tenant, board_sn)
  left join lateral (
       select i.shelf_sn, i.furniture_sn, i.floor
         from centiloc.item_state i
        where $2
          and i.board_sn = l.board_sn
          and i.tenant = l.tenant
          and i.shelf_sn is not null
        limit 1) p on true
 where l.tenant = $1
 order by l.board_sn
