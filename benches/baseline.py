"""The yardstick of `make bench`: what a careful script does with the same messages.

It acknowledges after the commit, batches greedily, inserts with one statement a batch, decodes
the protobuf with Google's C decoder, and keeps no state table. It ends when it has stored
COUNT events and prints the seconds from its first to its last event, its CPU seconds, and its
peak memory in KiB.

usage: baseline.py HOST PORT CLIENT_ID TOPIC POSTGRES_URL COUNT USERNAME PASSWORD
"""

import queue
import resource
import sys
import time

import paho.mqtt.client as mqtt
import psycopg
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf import duration_pb2, timestamp_pb2  # noqa: F401  registers both files

MAX_BATCH = 1000
F = descriptor_pb2.FieldDescriptorProto

FIELDS = [
    ("momentum", F.TYPE_MESSAGE, False, ".google.protobuf.Timestamp"),
    ("uid", F.TYPE_STRING, False, None),
    ("is_in", F.TYPE_BOOL, False, None),
    ("pos_mm", F.TYPE_INT32, True, None),
    ("board_sn", F.TYPE_STRING, False, None),
    ("nb_hits", F.TYPE_INT32, False, None),
    ("hold_time", F.TYPE_MESSAGE, False, ".google.protobuf.Duration"),
    ("fill_ratio", F.TYPE_FLOAT, False, None),
    ("product_reference", F.TYPE_STRING, False, None),
    ("shelf_sn", F.TYPE_STRING, False, None),
    ("furniture_sn", F.TYPE_STRING, False, None),
    ("pos_on_shelf_mm", F.TYPE_INT32, True, None),
    ("tenant", F.TYPE_STRING, False, None),
    ("loc_reference", F.TYPE_STRING, False, None),
    ("loc_labels", F.TYPE_STRING, True, None),
    ("item_labels", F.TYPE_STRING, True, None),
    ("pos_on_floor_mm", F.TYPE_INT32, True, None),
    ("floor", F.TYPE_INT32, False, None),
    ("is_interpolated", F.TYPE_BOOL, False, None),
]

CREATE = """
create table if not exists baseline_event (
  momentum timestamptz not null, uid text not null, is_in boolean not null, board_sn text not null,
  x_mm integer, y_mm integer, nb_hits integer, hold_time interval, fill_ratio real,
  product_reference text, shelf_sn text, furniture_sn text, loc_reference text, floor integer,
  tenant text, momentum_ns bigint not null, primary key (momentum_ns, uid, board_sn, is_in))
"""

INSERT = """
insert into baseline_event
select to_timestamp(ns / 1e9), u, i, b, x, y, n, h * interval '1 microsecond', r, p, s, f, l, fl, t, ns
from unnest(%s::bigint[], %s::text[], %s::bool[], %s::text[], %s::int[], %s::int[], %s::int[],
            %s::float8[], %s::real[], %s::text[], %s::text[], %s::text[], %s::text[], %s::int[],
            %s::text[]) as e(ns, u, i, b, x, y, n, h, r, p, s, f, l, fl, t)
on conflict do nothing
"""


def item_class():
    file = descriptor_pb2.FileDescriptorProto(
        name="baseline.proto",
        package="baseline",
        syntax="proto3",
        dependency=["google/protobuf/timestamp.proto", "google/protobuf/duration.proto"],
    )
    message = file.message_type.add(name="ItemEvent")
    for number, (name, kind, repeated, type_name) in enumerate(FIELDS, start=1):
        message.field.add(
            name=name,
            number=number,
            type=kind,
            type_name=type_name,
            label=F.LABEL_REPEATED if repeated else F.LABEL_OPTIONAL,
        )
    pool = descriptor_pool.Default()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("baseline.ItemEvent"))


def row(event):
    position = event.pos_mm or (None, None)
    return (
        event.momentum.seconds * 1_000_000_000 + event.momentum.nanos,
        event.uid,
        event.is_in,
        event.board_sn,
        position[0],
        position[1],
        event.nb_hits,
        event.hold_time.seconds * 1e6 + event.hold_time.nanos // 1000,
        event.fill_ratio,
        event.product_reference or None,
        event.shelf_sn or None,
        event.furniture_sn or None,
        event.loc_reference or None,
        event.floor,
        event.tenant or None,
    )


def take(messages):
    batch = [messages.get()]
    while len(batch) < MAX_BATCH:
        try:
            batch.append(messages.get_nowait())
        except queue.Empty:
            break
    return batch


def main():
    host, port, client_id, topic, url, count, username, password = sys.argv[1:]
    item = item_class()
    database = psycopg.connect(url, autocommit=True)
    database.execute(CREATE)
    messages = queue.Queue(65535)
    client = mqtt.Client(
        mqtt.CallbackAPIVersion.VERSION2, client_id=client_id, clean_session=False, manual_ack=True
    )
    client.username_pw_set(username, password)
    client.on_message = lambda _client, _userdata, message: messages.put(message)
    client.connect(host, int(port))
    client.subscribe(topic, qos=1)
    client.loop_start()
    stored, started = 0, None
    while stored < int(count):
        batch = take(messages)
        started = started or time.monotonic()
        rows = [row(item.FromString(message.payload)) for message in batch]
        database.execute(INSERT, [list(column) for column in zip(*rows)], prepare=True)
        for message in batch:
            client.ack(message.mid, message.qos)
        stored += len(batch)
    seconds = time.monotonic() - started
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(f"{seconds:.3f} {usage.ru_utime + usage.ru_stime:.3f} {usage.ru_maxrss}")
    client.disconnect()


main()
