-- The layout of a site: where furniture, shelves, boards and named locations are. `import-layout` writes it.

create table centiloc.layout_furniture (
    tenant       text             not null,
    furniture_sn text             not null,
    name         text,
    floor        text,
    x_mm         double precision,
    y_mm         double precision,
    z_mm         double precision,
    x_rotation   double precision,
    y_rotation   double precision,
    z_rotation   double precision,
    width_mm     double precision,
    depth_mm     double precision,
    height_mm    double precision,
    extra        jsonb,
    imported_at  timestamptz      not null default now(),
    primary key (tenant, furniture_sn)
);

comment on table centiloc.layout_furniture is
    'One row per furniture of the imported layout.';
comment on column centiloc.layout_furniture.tenant is 'Centiloc tenantID.';
comment on column centiloc.layout_furniture.furniture_sn is 'Serial number of the furniture.';
comment on column centiloc.layout_furniture.name is 'Name for people; null if there is none.';
comment on column centiloc.layout_furniture.floor is
    'Storey or plan on which the furniture is, as written in the file.';
comment on column centiloc.layout_furniture.x_mm is 'Corner of the furniture on the floor, millimetres.';
comment on column centiloc.layout_furniture.y_mm is 'Corner of the furniture on the floor, millimetres.';
comment on column centiloc.layout_furniture.z_mm is 'Height of the corner above the floor, millimetres.';
comment on column centiloc.layout_furniture.x_rotation is 'Rotation around the x axis, degrees.';
comment on column centiloc.layout_furniture.y_rotation is 'Rotation around the y axis, degrees.';
comment on column centiloc.layout_furniture.z_rotation is
    'Rotation around the vertical axis, degrees.';
comment on column centiloc.layout_furniture.width_mm is 'Size along x, millimetres.';
comment on column centiloc.layout_furniture.depth_mm is 'Size along y, millimetres.';
comment on column centiloc.layout_furniture.height_mm is 'Size along z, millimetres.';
comment on column centiloc.layout_furniture.extra is 'Keys of the file that no column holds.';
comment on column centiloc.layout_furniture.imported_at is 'When it was imported or changed last.';

create table centiloc.layout_shelf (
    tenant       text             not null,
    shelf_sn     text             not null,
    furniture_sn text,
    name         text,
    floor        integer,
    x_mm         double precision,
    y_mm         double precision,
    z_mm         double precision,
    x_rotation   double precision,
    y_rotation   double precision,
    z_rotation   double precision,
    width_mm     double precision,
    depth_mm     double precision,
    height_mm    double precision,
    led_strips   jsonb,
    extra        jsonb,
    imported_at  timestamptz      not null default now(),
    primary key (tenant, shelf_sn)
);

create index layout_shelf_furniture on centiloc.layout_shelf (tenant, furniture_sn);

comment on table centiloc.layout_shelf is 'One row per shelf of the imported layout.';
comment on column centiloc.layout_shelf.tenant is 'Centiloc tenantID.';
comment on column centiloc.layout_shelf.shelf_sn is 'Serial number of the shelf.';
comment on column centiloc.layout_shelf.furniture_sn is
    'Furniture that bears the shelf; null if the file names none. It need not be in layout_furniture.';
comment on column centiloc.layout_shelf.name is 'Name for people; null if there is none.';
comment on column centiloc.layout_shelf.floor is 'Level of the shelf in its furniture.';
comment on column centiloc.layout_shelf.x_mm is 'Corner of the shelf in its furniture, millimetres.';
comment on column centiloc.layout_shelf.y_mm is 'Corner of the shelf in its furniture, millimetres.';
comment on column centiloc.layout_shelf.z_mm is 'Height of the shelf in its furniture, millimetres.';
comment on column centiloc.layout_shelf.x_rotation is 'Rotation around the x axis, degrees.';
comment on column centiloc.layout_shelf.y_rotation is 'Rotation around the y axis, degrees.';
comment on column centiloc.layout_shelf.z_rotation is 'Rotation around the vertical axis, degrees.';
comment on column centiloc.layout_shelf.width_mm is 'Size along x, millimetres.';
comment on column centiloc.layout_shelf.depth_mm is 'Size along y, millimetres.';
comment on column centiloc.layout_shelf.height_mm is 'Size along z, millimetres.';
comment on column centiloc.layout_shelf.led_strips is 'LED strips of the shelf, as in the file.';
comment on column centiloc.layout_shelf.extra is 'Keys of the file that no column holds.';
comment on column centiloc.layout_shelf.imported_at is
    'When the shelf, one of its boards or one of its locations was imported or changed last.';

create table centiloc.layout_board (
    tenant     text             not null,
    board_sn   text             not null,
    shelf_sn   text             not null,
    x_mm       double precision,
    y_mm       double precision,
    z_rotation double precision,
    width_mm   double precision,
    depth_mm   double precision,
    extra      jsonb,
    primary key (tenant, board_sn),
    foreign key (tenant, shelf_sn) references centiloc.layout_shelf on delete cascade
);

create index layout_board_shelf on centiloc.layout_board (tenant, shelf_sn);

comment on table centiloc.layout_board is 'One row per board of the imported layout.';
comment on column centiloc.layout_board.tenant is 'Centiloc tenantID.';
comment on column centiloc.layout_board.board_sn is 'Serial number of the board.';
comment on column centiloc.layout_board.shelf_sn is 'Shelf that bears the board.';
comment on column centiloc.layout_board.x_mm is 'Corner of the board on its shelf, millimetres.';
comment on column centiloc.layout_board.y_mm is 'Corner of the board on its shelf, millimetres.';
comment on column centiloc.layout_board.z_rotation is
    'Rotation of the board on its shelf, degrees.';
comment on column centiloc.layout_board.width_mm is
    'Size along x, millimetres; null if the file does not give it.';
comment on column centiloc.layout_board.depth_mm is
    'Size along y, millimetres; null if the file does not give it.';
comment on column centiloc.layout_board.extra is 'Keys of the file that no column holds.';

create table centiloc.layout_location (
    tenant        text             not null,
    loc_reference text             not null,
    shelf_sn      text             not null,
    weight        double precision,
    x_mm          double precision,
    y_mm          double precision,
    width_mm      double precision,
    depth_mm      double precision,
    labels        text[],
    extra         jsonb,
    primary key (tenant, loc_reference, shelf_sn),
    foreign key (tenant, shelf_sn) references centiloc.layout_shelf on delete cascade
);

create index layout_location_shelf on centiloc.layout_location (tenant, shelf_sn);

comment on table centiloc.layout_location is
    'One row per named location and shelf of the imported layout. A location may cover several shelves.';
comment on column centiloc.layout_location.tenant is 'Centiloc tenantID.';
comment on column centiloc.layout_location.loc_reference is 'Named location.';
comment on column centiloc.layout_location.shelf_sn is 'Shelf on which the rectangle is.';
comment on column centiloc.layout_location.weight is
    'Decides between overlapping locations: an item has one location, that of the greatest weight.';
comment on column centiloc.layout_location.x_mm is 'Corner of the rectangle on the shelf, millimetres.';
comment on column centiloc.layout_location.y_mm is 'Corner of the rectangle on the shelf, millimetres.';
comment on column centiloc.layout_location.width_mm is 'Size along x, millimetres.';
comment on column centiloc.layout_location.depth_mm is 'Size along y, millimetres.';
comment on column centiloc.layout_location.labels is
    'Labels of the location; null if the file gives none.';
comment on column centiloc.layout_location.extra is 'Keys of the file that no column holds.';

create view centiloc.layout_missing_board as
select b.tenant,
       b.board_sn,
       b.shelf_sn,
       s.furniture_sn,
       case when r.board_sn is null then 'never reported' else 'reported on another shelf' end as problem,
       i.shelf_sn as reported_shelf_sn,
       r.last_item_at
  from centiloc.layout_board b
  join centiloc.layout_shelf s using (tenant, shelf_sn)
  left join centiloc.board_list r using (tenant, board_sn)
  left join lateral (
       -- The newest event of the board, by the index on momentum.
       select e.shelf_sn
         from centiloc.item_event e
        where e.momentum = r.last_item_at
          and e.tenant = b.tenant
          and e.board_sn = b.board_sn
        order by e.event_id desc
        limit 1) i on true
 where r.board_sn is null
    or i.shelf_sn <> b.shelf_sn;

comment on view centiloc.layout_missing_board is
    'Boards of the imported layout that never reported a status or an item, or whose newest event names another shelf.';
comment on column centiloc.layout_missing_board.tenant is 'Centiloc tenantID.';
comment on column centiloc.layout_missing_board.board_sn is 'Serial number of the board.';
comment on column centiloc.layout_missing_board.shelf_sn is 'Shelf of the board in the layout.';
comment on column centiloc.layout_missing_board.furniture_sn is 'Furniture of the shelf in the layout.';
comment on column centiloc.layout_missing_board.problem is
    '"never reported" or "reported on another shelf".';
comment on column centiloc.layout_missing_board.reported_shelf_sn is
    'Shelf in the newest item event of the board; null if it never reported.';
comment on column centiloc.layout_missing_board.last_item_at is
    'When an item last moved on the board; null if it never reported.';

create view centiloc.layout_unknown_board as
select r.tenant, r.board_sn, r.status, r.last_item_at
  from centiloc.board_list r
 where not exists (
       select
         from centiloc.layout_board b
        where b.tenant = r.tenant
          and b.board_sn = r.board_sn);

comment on view centiloc.layout_unknown_board is
    'Boards that reported a status or an item and are not in the imported layout.';
comment on column centiloc.layout_unknown_board.tenant is 'Centiloc tenantID.';
comment on column centiloc.layout_unknown_board.board_sn is 'Serial number of the board.';
comment on column centiloc.layout_unknown_board.status is
    'Newest status; null if the board never reported one.';
comment on column centiloc.layout_unknown_board.last_item_at is
    'When an item last moved on the board.';

create view centiloc.empty_location as
select l.tenant, l.loc_reference, l.shelf_sns, k.last_seen_at
  from (select tenant, loc_reference, array_agg(shelf_sn order by shelf_sn) as shelf_sns
          from centiloc.layout_location
         group by tenant, loc_reference) l
  left join (select tenant, value as loc_reference, last_seen_at
               from centiloc.known_value
              where kind = 'location') k using (tenant, loc_reference)
  left join (select distinct tenant, loc_reference
               from centiloc.item_location
              where is_in) i using (tenant, loc_reference)
 where i.loc_reference is null;

comment on view centiloc.empty_location is 'Named locations of the imported layout without an item now.';
comment on column centiloc.empty_location.tenant is 'Centiloc tenantID.';
comment on column centiloc.empty_location.loc_reference is 'Named location.';
comment on column centiloc.empty_location.shelf_sns is 'Shelves on which the location is.';
comment on column centiloc.empty_location.last_seen_at is
    'Momentum of the newest event that names the location; null if none does.';

-- Roles that read item_state read the layout.
do $$
declare
    privilege record;
begin
    for privilege in
        select distinct a.grantee, t.name
          from pg_catalog.pg_class c
         cross join lateral pg_catalog.aclexplode(c.relacl) a
         cross join (values ('layout_furniture'), ('layout_shelf'), ('layout_board'),
                            ('layout_location'), ('layout_missing_board'), ('layout_unknown_board'),
                            ('empty_location')) as t (name)
         where c.oid = 'centiloc.item_state'::regclass
           and a.grantee not in (0, c.relowner)
           and a.privilege_type = 'SELECT'
    loop
        execute format('grant select on centiloc.%I to %s', privilege.name,
                       privilege.grantee::regrole);
    end loop;
end
$$;
