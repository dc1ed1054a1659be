//! Measures the time to decode one event in each format. The formats are measured in turns within
//! one run, so that the ratios hold whatever the machine does. `cargo bench --bench decode`

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use centiloc_bridge::config::{self, KeepPayload};
use centiloc_bridge::decode::{ClockTrust, Decoder, pb};
use centiloc_bridge::event::EventKind;
use centiloc_bridge::topic::{self, EventEncoding};
use prost::Message;
use time::OffsetDateTime;

/// Turns of each format. The fastest is reported, because other work disturbed it least.
const ROUNDS: usize = 501;
/// Length of one turn. It is shorter than a scheduler's time slice, so that some turns are not
/// interrupted.
const TURN: Duration = Duration::from_millis(2);
/// Events between two readings of the clock.
const CHUNK: u32 = 100;

type DecodeVariant<'a> = (&'static str, Box<dyn Fn() + 'a>);

fn nanoseconds_per_event(decode: &dyn Fn()) -> f64 {
    let started = Instant::now();
    let mut events = 0;
    while started.elapsed() < TURN {
        for _ in 0..CHUNK {
            decode();
        }
        events += CHUNK;
    }
    started.elapsed().as_secs_f64() * 1e9 / f64::from(events)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sample = |name| std::fs::read(root.join("tests/samples").join(name)).map(Bytes::from);
    let (proto, json) = (sample("item-41.pb")?, sample("item-41.json")?);
    let (board, board_json) = (sample("board.pb")?, sample("board.json")?);
    let config = |proto_file| config::DecodeConfig::new(proto_file, KeepPayload::Auto);
    let shipped = Decoder::new(&config(None), "acme")?;
    let vendor = Decoder::new(&config(Some(root.join("proto/transtream.proto"))), "acme")?;
    let now = OffsetDateTime::now_utc();
    let way = |decoder, kind, encoding, payload| {
        let topic = topic::name("acme", kind, encoding);
        let decoder: &Decoder = decoder;
        Box::new(move || {
            let event = decoder.decode(black_box(&topic), payload, now, ClockTrust::Agree(now));
            assert!(black_box(event).is_ok());
        })
    };
    let (p, j) = (EventEncoding::Protobuf, EventEncoding::Json);
    let ways: [DecodeVariant; 6] = [
        (
            "generated struct only",
            Box::new(|| {
                assert!(black_box(pb::ItemEvent::decode(black_box(proto.as_ref()))).is_ok());
            }),
        ),
        ("item, shipped schema", way(&shipped, EventKind::Item, p, &proto)),
        ("item, vendor's schema", way(&vendor, EventKind::Item, p, &proto)),
        ("item, JSON", way(&shipped, EventKind::Item, j, &json)),
        ("board, shipped schema", way(&shipped, EventKind::Board, p, &board)),
        ("board, JSON", way(&shipped, EventKind::Board, j, &board_json)),
    ];
    let mut fastest = [f64::INFINITY; 6];
    for _ in 0..ROUNDS {
        for ((_, decode), fastest) in ways.iter().zip(&mut fastest) {
            *fastest = fastest.min(nanoseconds_per_event(decode));
        }
    }
    println!("{:<24}{:>12}{:>10}", "", "ns/event", "ratio");
    for ((name, _), time) in ways.iter().zip(fastest) {
        println!("{name:<24}{time:>12.0}{:>10.2}", time / fastest[0]);
    }
    Ok(())
}
