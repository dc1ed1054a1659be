-- Clients that are retired, and members of a share group that vanished without it.

comment on column centiloc.connection.reason is
    'Why it ended. retired: the session was ended for good, and the next start is a first one.';
comment on column centiloc.gap.client_id is
    'MQTT client identifier; for member_vanished that of the member.';
comment on column centiloc.gap.cause is
    'session_lost, absence, backpressure, spool_full, spool_damaged or member_vanished.';
