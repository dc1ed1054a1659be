-- The message kept beside an event may go before the event.

comment on table centiloc.item_event is
    'One row per item move. Partitioned by momentum (UTC months or days). Rows are never updated, but for payload.';
comment on table centiloc.board_event is
    'One row per board status change. Rows are never updated, but for payload.';
comment on column centiloc.item_event.payload is
    'The message as received, where decode.keep_payload asks for it; removed after retention.payloads.';
comment on column centiloc.board_event.payload is
    'The message as received, where decode.keep_payload asks for it; removed after retention.payloads.';
