//! Tests of the writer on a disk that is full or fails.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_full_disk_is_bypassed_if_order_allows() {
    for (caught_up, database) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut rig = WriterRig::new(1_000_000).await;
        // The file cannot grow any more.
        rig.file.run("pragma max_page_count = 1").await.unwrap();
        database_is_up(&rig.health, database);
        if !caught_up {
            rig.cursors.appended.send_replace(1);
        }
        for _ in 0..3 {
            rig.ends.send(PAYLOAD);
        }
        let bypassed = caught_up && database;
        let interrupt = rig.interrupt.clone();
        let end = rig.run(async |ends, _, health| {
            if bypassed {
                for sequence in 1..=3 {
                    let item = ends.decode.recv().await;
                    let Some(StreamItem::Message(message)) = item else { panic!("{item:?}") };
                    assert_eq!(message.ack.unwrap().id().sequence, sequence);
                }
            } else {
                until(|| problem::is_reported(health)).await;
            }
            interrupt.cancel();
        });
        assert_eq!(end.await, Ok(WriterEnd::Interrupted), "a full disk is waited for");
        assert_eq!(rig.cursors.bypassed(), if bypassed { 3 } else { 0 });
        assert!(rig.ends.decode.try_recv().is_err() && rig.ends.session.try_recv().is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn a_failing_disk_is_bypassed_or_reopened() {
    for database in [true, false] {
        let mut rig = WriterRig::new(1_000_000).await;
        rig.file.run("pragma query_only = on").await.unwrap();
        database_is_up(&rig.health, database);
        rig.ends.send(PAYLOAD);
        let end = rig.run(async |ends, _, _| ends.intake = None).await;
        if database {
            assert_eq!(end, Ok(WriterEnd::Finished));
            assert!(rig.ends.decode.try_recv().is_ok());
        } else {
            assert!(matches!(end, Err(SpoolError::Unavailable(_))), "{end:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn messages_pass_without_any_file() {
    let mut rig = WriterRig::new(1_000_000).await;
    database_is_up(&rig.health, true);
    let WriterRig { writer, ends, cursors, .. } = &mut rig;
    ends.send(PAYLOAD);
    writer.run_without_disk(cursors).await;
    assert!(ends.decode.try_recv().is_ok());
    ends.intake = None;
    // A closed intake must not make it run without rest.
    for _ in 0..2 {
        let round = writer.run_without_disk(cursors);
        let started = Instant::now();
        round.await;
        assert!(started.elapsed() > Duration::ZERO);
    }
}
