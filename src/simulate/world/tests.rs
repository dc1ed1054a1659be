//! Properties of a world of any seed and size.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::super::event::BoardChange;
use super::*;

const NOW: i64 = 1_760_000_000_000_000_000;

fn settings() -> impl Strategy<Value = WorldSettings> {
    (1u32..40, 1u32..200, any::<u64>(), any::<bool>()).prop_map(
        |(boards, items, seed, board_events)| WorldSettings { boards, items, seed, board_events },
    )
}

fn run(settings: WorldSettings, events: usize, start_ns: i64, step_ns: i64) -> Vec<SimulatedEvent> {
    let mut world = SimulatedWorld::new(settings);
    let mut out: Vec<_> = (0..events)
        .map(|index| world.next(start_ns + step_ns * i64::try_from(index).expect("small")))
        .collect();
    out.extend(std::iter::from_fn(|| world.next_pending()));
    assert_eq!(world.pending(), 0);
    out
}

fn moves(events: &[SimulatedEvent]) -> Vec<ItemMove> {
    let item = |h: &SimulatedEvent| match h {
        SimulatedEvent::Item(item) => Some(*item),
        SimulatedEvent::Board(_) => None,
    };
    events.iter().filter_map(item).collect()
}

fn changes(events: &[SimulatedEvent]) -> Vec<BoardChange> {
    let board = |h: &SimulatedEvent| match h {
        SimulatedEvent::Board(board) => Some(*board),
        SimulatedEvent::Item(_) => None,
    };
    events.iter().filter_map(board).collect()
}

fn identity(item: &ItemMove) -> (u32, i64, u32, bool) {
    (item.item, item.momentum_ns, item.board, item.is_in)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn item_is_on_at_most_one_board(
        settings in settings(), step in 0i64..2_000_000_000
    ) {
        let mut by_item: HashMap<u32, Vec<ItemMove>> = HashMap::new();
        for item in moves(&run(settings, 2_000, NOW, step)) {
            by_item.entry(item.item).or_default().push(item);
        }
        for mut history in by_item.into_values() {
            history.sort_by_key(|item| item.momentum_ns);
            let mut on: Option<u32> = None;
            for event in history {
                match on {
                    Some(board) => prop_assert_eq!(event.board, board),
                    None => prop_assert!(event.is_in, "left a board it was not on"),
                }
                on = event.is_in.then_some(event.board);
            }
        }
    }

    #[test]
    fn every_event_has_its_own_identity(settings in settings(), step in 0i64..1_000_000) {
        let events = run(settings, 2_000, NOW, step);
        let items = moves(&events);
        let identities: HashSet<_> = items.iter().map(identity).collect();
        prop_assert_eq!(identities.len(), items.len());
        let boards = changes(&events);
        let identities: HashSet<_> = boards.iter().map(|b| (b.board, b.momentum_ns)).collect();
        prop_assert_eq!(identities.len(), boards.len());
    }

    #[test]
    fn later_run_of_a_seed_repeats_no_identity(settings in settings()) {
        let first = moves(&run(settings, 1_000, NOW, 20_000));
        let after = first.iter().map(|item| item.momentum_ns).max().unwrap_or(NOW) + 1;
        let second = moves(&run(settings, 1_000, after, 20_000));
        let identities: HashSet<_> = first.iter().chain(&second).map(identity).collect();
        prop_assert_eq!(identities.len(), first.len() + second.len());
    }

    #[test]
    fn world_is_determined_by_its_seed(settings in settings()) {
        prop_assert_eq!(run(settings, 500, NOW, 1_000), run(settings, 500, NOW, 1_000));
    }

    #[test]
    fn values_are_in_measurable_ranges(settings in settings(), step in 1i64..1_000_000_000) {
        let events = run(settings, 1_000, NOW, step);
        let end = NOW + 1_000 * step + 1_000;
        for item in moves(&events) {
            prop_assert!(item.momentum_ns >= NOW && item.momentum_ns <= end);
            prop_assert!(item.hold_ns >= 0);
            prop_assert!((0.0..=1.0).contains(&item.fill_ratio));
            prop_assert!(item.pos_mm.iter().zip(board_size()).all(|(p, max)| (0..=max).contains(p)));
        }
        prop_assert!(settings.board_events || changes(&events).is_empty());
    }
}

#[test]
fn busy_world_shows_all_kinds_of_events() {
    let settings = WorldSettings { boards: 20, items: 100, seed: 1, board_events: true };
    let events = run(settings, 50_000, NOW, 1_000_000);
    let items = moves(&events);
    let late = items.windows(2).any(|pair| {
        pair[0].item == pair[1].item && pair[0].momentum_ns > pair[1].momentum_ns && !pair[1].is_in
    });
    assert!(late, "no leave was published after the next arrival");
    assert!(items.iter().any(|i| i.quirks.masked != FieldMask::default()));
    assert!(items.iter().any(|i| i.momentum_ns % 1_000 != 0));
    assert!(items.iter().any(|i| i.momentum_ns % 1_000_000 == 0));
    let boards = changes(&events);
    for status in [
        BoardStatus::Connected,
        BoardStatus::Disconnected,
        BoardStatus::OnError,
        BoardStatus::Maintenance,
        BoardStatus::Degraded,
    ] {
        assert!(boards.iter().any(|b| b.status == status), "no board was ever {status:?}");
    }
    let lost = boards.iter().filter(|b| b.status == BoardStatus::Disconnected);
    assert!(lost.clone().any(|b| b.dates.disconnection_ns < Some(b.momentum_ns)));
}

#[test]
fn board_that_is_down_reports_no_items() {
    let settings = WorldSettings { boards: 8, items: 60, seed: 5, board_events: true };
    let mut world = SimulatedWorld::new(settings);
    let mut down: HashSet<u32> = HashSet::new();
    for index in 0..20_000 {
        match world.next(NOW + index * 1_000_000) {
            SimulatedEvent::Board(b) if b.status == BoardStatus::Connected => {
                down.remove(&b.board);
            }
            SimulatedEvent::Board(b) => {
                down.insert(b.board);
            }
            // A leave may be published late.
            SimulatedEvent::Item(i) => assert!(!i.is_in || !down.contains(&i.board)),
        }
    }
}
