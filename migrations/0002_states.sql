-- The newest event of each tag on each board, and of each board. Newest is by (momentum, event_id),
-- never by arrival. Pages keep room so that an update stays on its page and touches no index.

create table centiloc.item_state (
    tenant            text        not null,
    uid               text        not null,
    board_sn          text        not null,
    momentum          timestamptz not null,
    event_id          uuid        not null,
    received_at       timestamptz not null,
    is_in             boolean     not null,
    x_mm              integer,
    y_mm              integer,
    shelf_x_mm        integer,
    shelf_y_mm        integer,
    floor_x_mm        integer,
    floor_y_mm        integer,
    floor             integer,
    nb_hits           integer,
    hold_time         interval,
    fill_ratio        real,
    product_reference text,
    shelf_sn          text,
    furniture_sn      text,
    loc_reference     text,
    loc_labels        text[],
    item_labels       text[],
    is_interpolated   boolean,
    extra             jsonb,
    first_seen_at     timestamptz not null,
    entered_at        timestamptz,
    primary key (tenant, uid, board_sn)
) with (fillfactor = 70);

-- Only columns that never change may be indexed here, else updates touch the indexes again.
create index item_state_board_sn on centiloc.item_state (board_sn);

comment on table centiloc.item_state is
    'The newest event of each tag on each board. A tag that visited three boards has three rows; item_location tells which counts.';
comment on column centiloc.item_state.tenant is 'Centiloc tenantID.';
comment on column centiloc.item_state.uid is 'The tag.';
comment on column centiloc.item_state.board_sn is 'Serial number of the board; empty if the event named none.';
comment on column centiloc.item_state.momentum is 'When the newest event happened.';
comment on column centiloc.item_state.event_id is 'The newest event, as in item_event.';
comment on column centiloc.item_state.received_at is 'When the bridge received the newest event.';
comment on column centiloc.item_state.is_in is 'True: on the board at x_mm, y_mm. False: it left.';
comment on column centiloc.item_state.x_mm is 'Position on the board, millimetres.';
comment on column centiloc.item_state.y_mm is 'Position on the board, millimetres.';
comment on column centiloc.item_state.shelf_x_mm is 'Position on the shelf, millimetres.';
comment on column centiloc.item_state.shelf_y_mm is 'Position on the shelf, millimetres.';
comment on column centiloc.item_state.floor_x_mm is 'Position on the floor, millimetres.';
comment on column centiloc.item_state.floor_y_mm is 'Position on the floor, millimetres.';
comment on column centiloc.item_state.floor is 'Level of the shelf in its furniture.';
comment on column centiloc.item_state.nb_hits is 'Number of detections behind the event.';
comment on column centiloc.item_state.hold_time is 'How long the item has been held.';
comment on column centiloc.item_state.fill_ratio is 'Fill ratio as sent, no unit.';
comment on column centiloc.item_state.product_reference is 'Product the tag is enrolled to.';
comment on column centiloc.item_state.shelf_sn is 'Shelf that bears the board.';
comment on column centiloc.item_state.furniture_sn is 'Furniture that bears the shelf.';
comment on column centiloc.item_state.loc_reference is 'Named location.';
comment on column centiloc.item_state.loc_labels is 'Labels of the location; never an empty array.';
comment on column centiloc.item_state.item_labels is 'Labels of the item; never an empty array.';
comment on column centiloc.item_state.is_interpolated is 'True: computed. False: measured.';
comment on column centiloc.item_state.extra is 'What no column holds.';
comment on column centiloc.item_state.first_seen_at is
    'Least momentum known of this tag on this board.';
comment on column centiloc.item_state.entered_at is
    'Since when the tag has been on the board without leaving, as far as known; null once it left.';

create table centiloc.board_state (
    tenant                text        not null,
    board_sn              text        not null,
    momentum              timestamptz not null,
    event_id              uuid        not null,
    received_at           timestamptz not null,
    status                text,
    fw_version            text,
    last_connection_at    timestamptz,
    last_disconnection_at timestamptz,
    last_error_at         timestamptz,
    extra                 jsonb,
    primary key (tenant, board_sn)
) with (fillfactor = 70);

comment on table centiloc.board_state is 'The newest status event of each board.';
comment on column centiloc.board_state.tenant is 'Centiloc tenantID.';
comment on column centiloc.board_state.board_sn is 'Serial number of the board.';
comment on column centiloc.board_state.momentum is 'When the newest event happened.';
comment on column centiloc.board_state.event_id is 'The newest event, as in board_event.';
comment on column centiloc.board_state.received_at is 'When the bridge received the newest event.';
comment on column centiloc.board_state.status is
    'CONNECTED, DISCONNECTED, ONERROR, MAINTENANCE, or a later word of the vendor''s.';
comment on column centiloc.board_state.fw_version is 'Firmware version.';
comment on column centiloc.board_state.last_connection_at is 'When the board last connected.';
comment on column centiloc.board_state.last_disconnection_at is 'When the board last disconnected.';
comment on column centiloc.board_state.last_error_at is 'When the board last reported an error.';
comment on column centiloc.board_state.extra is 'What no column holds.';
