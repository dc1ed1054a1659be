-- Lets states that began before a date ($4) begin with the first event that is left. $1 to $3 are
-- their keys.
update centiloc.item_state s
   set first_seen_at = case when s.first_seen_at < $4 then coalesce(e.first, s.momentum)
                            else s.first_seen_at end,
       entered_at = case when s.entered_at < $4 then coalesce(e.first, s.momentum)
                         else s.entered_at end,
       last_in_id = case when s.last_in_at >= $4 then s.last_in_id end,
       last_in_at = case when s.last_in_at >= $4 then s.last_in_at end
  from unnest($1::text[], $2::text[], $3::text[]) as k (tenant, uid, board_sn)
 cross join lateral (
       select min(momentum) as first
         from centiloc.item_event
        where uid = k.uid and tenant = k.tenant and coalesce(board_sn, '') = k.board_sn
          and momentum >= $4) e
 where s.tenant = k.tenant and s.uid = k.uid and s.board_sn = k.board_sn
