-- Fills a database with item and board events over 90 days: :each item events, a multiple of four, of
-- each of :tags tags on :boards boards. A visit has an arrival, two moves and a leave. Seven of ten
-- tags are on a board at the end. Stays are left to be computed.
set synchronous_commit = off;
set work_mem = '256MB';

select format('create table if not exists centiloc.%I partition of centiloc.item_event
                   for values from (%L) to (%L)',
              'item_event_' || to_char(month, 'YYYYMM'), month, month + interval '1 month')
  from generate_series(date_trunc('month', now() - interval '90 days', 'UTC'), now(),
                       interval '1 month') as month
\gexec

insert into centiloc.item_event
       (momentum, event_id, received_at, tenant, uid, is_in, board_sn, x_mm, y_mm,
        product_reference, shelf_sn, furniture_sn, loc_reference, loc_labels)
select momentum, gen_random_uuid(), momentum + interval '300 ms', 'T',
       'E004' || lpad(to_hex(tag), 12, '0'), n % 4 <> 3, 'B' || lpad(board::text, 4, '0'),
       random() * 800, random() * 400, 'P' || tag % 300, 'S' || board / 4, 'F' || board / 20,
       'L' || board / 2, array['zone ' || board % 7, '.technical']
  from (select n, tag, abs(hashint8(tag * 100003::bigint + n / 4)) % :boards as board,
               now() - interval '90 days' * (1 - (n + 0.9 * random()) / :each) as momentum
          from generate_series(0, :each - 1) as n, generate_series(1, :tags) as tag) event
 where n < :each - 1 or tag % 10 >= 7
 order by n, tag;

insert into centiloc.item_state
       (tenant, uid, board_sn, momentum, event_id, received_at, is_in, x_mm, y_mm,
        product_reference, shelf_sn, furniture_sn, loc_reference, loc_labels, first_seen_at,
        entered_at, last_in_at, last_in_id)
select newest.tenant, newest.uid, newest.board_sn, newest.momentum, newest.event_id,
       newest.received_at, newest.is_in, newest.x_mm, newest.y_mm, newest.product_reference,
       newest.shelf_sn, newest.furniture_sn, newest.loc_reference, newest.loc_labels,
       history.first_seen_at, case when newest.is_in then history.last_in_at end,
       history.last_in_at, arrival.event_id
  from (select distinct on (tenant, uid, board_sn) *
          from centiloc.item_event
         order by tenant, uid, board_sn, momentum desc, event_id desc) newest
  join (select tenant, uid, board_sn, min(momentum) as first_seen_at,
               max(momentum) filter (where is_in) as last_in_at
          from centiloc.item_event
         group by tenant, uid, board_sn) history using (tenant, uid, board_sn)
  left join centiloc.item_event arrival
    on arrival.tenant = history.tenant
   and arrival.uid = history.uid
   and arrival.board_sn = history.board_sn
   and arrival.momentum = history.last_in_at
   and arrival.is_in;

insert into centiloc.stay_pending (tenants, uids, momenta)
select array_agg(tenant), array_agg(uid), array_agg(first_seen_at)
  from (select tenant, uid, min(first_seen_at) as first_seen_at
          from centiloc.item_state
         group by tenant, uid) tag
 group by hashtext(uid) % 50;

insert into centiloc.board_event (momentum, event_id, received_at, tenant, board_sn, status)
select momentum, gen_random_uuid(), momentum, 'T', 'B' || lpad(board::text, 4, '0'),
       case when n % 5 = 4 then 'DISCONNECTED' else 'CONNECTED' end
  from (select board, n, now() - interval '90 days' * (n + random()) / 45 as momentum
          from generate_series(0, :boards - 1) as board, generate_series(0, 44) as n) event;

insert into centiloc.board_state (tenant, board_sn, momentum, event_id, received_at, status)
select distinct on (tenant, board_sn) tenant, board_sn, momentum, event_id, received_at, status
  from centiloc.board_event
 order by tenant, board_sn, momentum desc;

-- All boards but one are in the layout, and one of the layout never reported.
insert into centiloc.layout_shelf (tenant, shelf_sn, furniture_sn, floor)
select 'T', 'S' || shelf, 'F' || shelf / 5, shelf % 5
  from generate_series(0, :boards / 4) as shelf;

insert into centiloc.layout_board (tenant, board_sn, shelf_sn, x_mm, y_mm)
select 'T', 'B' || lpad(board::text, 4, '0'), 'S' || board / 4, board % 4 * 820, 0
  from generate_series(1, :boards) as board;

insert into centiloc.layout_location (tenant, loc_reference, shelf_sn)
select 'T', 'L' || board / 2, 'S' || board / 4
  from generate_series(0, :boards, 2) as board;

vacuum analyze;
