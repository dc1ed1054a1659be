//! Answers about few stays and wrong clocks, and arguments that are refused.

use time::{Duration, OffsetDateTime};

use crate::support::store::{StoreFixture, item};

fn from_now(hours: f64) -> OffsetDateTime {
    OffsetDateTime::now_utc() + Duration::seconds_f64(hours * 3600.0)
}

#[tokio::test]
async fn few_stays_have_percentiles_between_them() {
    let fixture = StoreFixture::new().await;
    for (n, (board, hours)) in
        [("A", 1.0), ("A", 955.0), ("B", 1.0), ("C", 1.0), ("C", 2.0), ("C", 300.0), ("C", 310.0)]
            .into_iter()
            .enumerate()
    {
        let (uid, entered) = (format!("U{n}"), from_now(-1000.0));
        let left = entered + Duration::seconds_f64(hours * 3600.0);
        fixture.items(&[item(&uid, board, entered, true), item(&uid, board, left, false)]).await;
    }
    fixture.store.compute_all_stays().await.unwrap();
    fixture.store.compute_all_rollups().await.unwrap();
    let off = "select format('%s %s: %s, not %s', d.key, x.p, x.answer, x.right_one)
                 from centiloc.dwell(now() - interval '60 days') d
                 join (select board_sn,
                              percentile_cont(array[0.5, 0.9, 0.95]) within group (
                                  order by extract(epoch from duration)::float8) as exact
                         from centiloc.item_stay
                        group by board_sn) s on s.board_sn = d.key
                cross join lateral unnest(array[0.5, 0.9, 0.95], array[d.p50, d.p90, d.p95], s.exact)
                           as x (p, answer, right_one)
                where abs(extract(epoch from x.answer)::float8 / x.right_one - 1) > 0.05";
    assert_eq!(fixture.db.column::<String>(off).await, Vec::<String>::new());
    let single = "select p50 = max and p95 = max from centiloc.dwell(now() - interval '60 days')
                   where key = 'B'";
    assert!(fixture.db.value::<bool>(single).await);
}

#[tokio::test]
async fn clocks_ahead_are_listed_and_counted_later() {
    let fixture = StoreFixture::new().await;
    let mut far = item("U", "X", from_now(50.0), true);
    far.received_at = OffsetDateTime::now_utc();
    let mut near = item("V", "B", from_now(-1.0), true);
    near.received_at = near.momentum;
    let mut leave = item("V", "B", from_now(2.0), false);
    leave.received_at = OffsetDateTime::now_utc();
    fixture.items(&[far, near, leave, item("W", "A", from_now(-5.0), true)]).await;
    fixture.store.compute_all_stays().await.unwrap();
    let ahead = "select board_sn || ' ' || round(extract(epoch from ahead) / 3600)
                   from centiloc.board_clock_ahead order by 1";
    assert_eq!(fixture.db.column::<String>(ahead).await, ["B 2", "X 50"]);
    let mut later = item("V", "C", from_now(12.0), true);
    later.received_at = OffsetDateTime::now_utc();
    fixture.items(&[later]).await;
    fixture.store.compute_all_stays().await.unwrap();
    for none in [
        "centiloc.dwell(now() - interval '1 day')",
        "(select from centiloc.busiest_boards(now() - interval '1 day') where departures > 0) b",
        "(select from centiloc.item_stay where duration < interval '0') s",
        "(select from centiloc.item_path('V') where duration < interval '0') s",
    ] {
        assert_eq!(fixture.db.count(none).await, 0, "{none}");
    }
}

#[tokio::test]
async fn senseless_arguments_are_refused() {
    let fixture = StoreFixture::new().await;
    for (question, cure) in [
        ("dwell(now() - interval '1 day', now(), 'room')", "dwell by 'room': give board, product"),
        ("dwell(now() - interval '9 days', now(), null)", "dwell by null: give board, product"),
        ("board_heat_map('A', 0, now())", "cell_mm 0: give the size of a cell"),
        ("board_heat_map('A', -10, now())", "cell_mm -10: give the size of a cell"),
    ] {
        let sql = format!("select * from centiloc.{question}");
        let error = fixture.db.rows(&sql).await.expect_err(question).to_string();
        assert!(error.contains(cure), "{question}: {error}");
    }
    let prepared = "set plan_cache_mode = force_generic_plan;
                    prepare q (text) as select * from centiloc.dwell(now() - interval '1 day', now(), $1);
                    execute q ('room')";
    let mut session = fixture.db.connect().await.unwrap();
    let error = sqlx::raw_sql(prepared).execute(&mut session).await.unwrap_err().to_string();
    assert!(error.contains("dwell by 'room'"), "{error}");
}
