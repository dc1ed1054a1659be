-- Where a process kept its spool: one that runs without a spool later drains what is left there.

alter table centiloc.connection add column spool_dir text;

comment on column centiloc.connection.spool_dir is
    'Folder of the spool of the process that connected; null without one.';
