-- Events as they happened. Rows are only ever inserted here.

create table centiloc.item_event (
    momentum          timestamptz not null,
    event_id          uuid        not null,
    received_at       timestamptz not null,
    tenant            text        not null,
    uid               text        not null,
    is_in             boolean     not null,
    board_sn          text,
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
    payload           bytea,
    primary key (momentum, event_id)
) partition by range (momentum);

-- Without a default partition a stray momentum would fail its whole batch.
create table centiloc.item_event_default partition of centiloc.item_event default;

-- "Where was item X, and when": the only second index, because each costs on every insert.
create index item_event_uid on centiloc.item_event (uid, momentum);

comment on table centiloc.item_event is
    'One row per item move. Partitioned by momentum (UTC months or days); rows are never updated.';
comment on column centiloc.item_event.momentum is 'When it happened; microseconds. Orders events.';
comment on column centiloc.item_event.event_id is
    'Key made from the content: a redelivery, or the same event in another format, has the same.';
comment on column centiloc.item_event.received_at is 'When the bridge received it.';
comment on column centiloc.item_event.tenant is 'Centiloc tenantID.';
comment on column centiloc.item_event.uid is 'The tag.';
comment on column centiloc.item_event.is_in is 'True: on the board at x_mm, y_mm. False: it left.';
comment on column centiloc.item_event.board_sn is 'Serial number of the board.';
comment on column centiloc.item_event.x_mm is 'Position on the board, millimetres.';
comment on column centiloc.item_event.y_mm is 'Position on the board, millimetres.';
comment on column centiloc.item_event.shelf_x_mm is 'Position on the shelf, millimetres.';
comment on column centiloc.item_event.shelf_y_mm is 'Position on the shelf, millimetres.';
comment on column centiloc.item_event.floor_x_mm is 'Position on the floor, millimetres.';
comment on column centiloc.item_event.floor_y_mm is 'Position on the floor, millimetres.';
comment on column centiloc.item_event.floor is 'Level of the shelf in its furniture.';
comment on column centiloc.item_event.nb_hits is 'Number of detections behind the event.';
comment on column centiloc.item_event.hold_time is 'How long the item has been held.';
comment on column centiloc.item_event.fill_ratio is 'Fill ratio as sent, no unit.';
comment on column centiloc.item_event.product_reference is 'Product the tag is enrolled to.';
comment on column centiloc.item_event.shelf_sn is 'Shelf that bears the board.';
comment on column centiloc.item_event.furniture_sn is 'Furniture that bears the shelf.';
comment on column centiloc.item_event.loc_reference is 'Named location.';
comment on column centiloc.item_event.loc_labels is 'Labels of the location; never an empty array.';
comment on column centiloc.item_event.item_labels is 'Labels of the item; never an empty array.';
comment on column centiloc.item_event.is_interpolated is 'True: computed. False: measured.';
comment on column centiloc.item_event.extra is
    'What no column holds: unknown fields, positions of more than two numbers.';
comment on column centiloc.item_event.payload is
    'The message as received, where decode.keep_payload asks for it.';
comment on table centiloc.item_event_default is
    'Events whose momentum no partition can be made for: before 2015, or more than a day ahead.';

create table centiloc.board_event (
    momentum              timestamptz not null,
    event_id              uuid        not null,
    received_at           timestamptz not null,
    tenant                text        not null,
    board_sn              text        not null,
    status                text,
    fw_version            text,
    last_connection_at    timestamptz,
    last_disconnection_at timestamptz,
    last_error_at         timestamptz,
    extra                 jsonb,
    payload               bytea,
    primary key (momentum, event_id)
);

create index board_event_board_sn on centiloc.board_event (board_sn, momentum);

comment on table centiloc.board_event is
    'One row per board status change. Rows are never updated.';
comment on column centiloc.board_event.momentum is 'When it happened; microseconds. Orders events.';
comment on column centiloc.board_event.event_id is
    'Key made from the content: a redelivery, or the same event in another format, has the same.';
comment on column centiloc.board_event.received_at is 'When the bridge received it.';
comment on column centiloc.board_event.tenant is 'Centiloc tenantID.';
comment on column centiloc.board_event.board_sn is 'Serial number of the board.';
comment on column centiloc.board_event.status is
    'CONNECTED, DISCONNECTED, ONERROR, MAINTENANCE, or a later word of the vendor''s.';
comment on column centiloc.board_event.fw_version is 'Firmware version.';
comment on column centiloc.board_event.last_connection_at is 'When the board last connected.';
comment on column centiloc.board_event.last_disconnection_at is 'When the board last disconnected.';
comment on column centiloc.board_event.last_error_at is 'When the board last reported an error.';
comment on column centiloc.board_event.extra is 'What no column holds.';
comment on column centiloc.board_event.payload is
    'The message as received, where decode.keep_payload asks for it.';
