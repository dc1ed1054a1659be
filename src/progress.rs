//! Detects stages and background tasks that make no progress. Each task records the deadline of its
//! present wait. A task that is past its deadline is stuck.
//!
//! The record belongs to the task that [`ProgressRegistry::watch`] runs, so that code deep inside a
//! stage can set the limit of a wait. Outside of such a task the functions here do nothing.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, timeout};

/// Interval at which a task that waits for work records progress.
const TICK: Duration = Duration::from_secs(1);

/// Tolerated delay of a record, so that a task on a loaded machine is not taken for a stuck one.
pub const SLACK: Duration = Duration::from_secs(30);

/// Limit of one disk operation. A disk that takes longer counts as unresponsive.
pub const DISK: Duration = Duration::from_secs(60);

/// Limit of the check and the repair of a large file.
pub const DISK_SCAN: Duration = Duration::from_secs(60 * 60);

/// Limit of a send to a stage that must always receive.
pub const HAND_OVER: Duration = Duration::from_secs(60);

tokio::task_local! {
    static CURRENT: CurrentTask;
}

/// The records of the running tasks.
#[derive(Debug)]
pub struct ProgressRegistry {
    origin: Instant,
    records: Mutex<Vec<Weak<TaskRecord>>>,
}

/// The record of one task, dropped with it.
#[derive(Debug)]
struct TaskRecord {
    name: &'static str,
    /// Deadline of the present wait, in milliseconds since the registry's origin.
    deadline_ms: AtomicU64,
}

#[derive(Clone)]
struct CurrentTask {
    registry: Arc<ProgressRegistry>,
    record: Arc<TaskRecord>,
}

/// A task that is past the deadline of its wait.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StuckTask {
    /// The name of the task.
    pub task: &'static str,
    /// Seconds since the deadline.
    pub overdue_seconds: f64,
}

impl Default for ProgressRegistry {
    fn default() -> Self {
        Self { origin: Instant::now(), records: Mutex::default() }
    }
}

impl ProgressRegistry {
    /// Runs a task under a name. The task counts as stuck if it does not call [`tick`], [`during`] or
    /// [`idle`] in time.
    pub fn watch<F: Future>(
        self: &Arc<Self>,
        name: &'static str,
        task: F,
    ) -> impl Future<Output = F::Output> + use<F> {
        let record = Arc::new(TaskRecord { name, deadline_ms: AtomicU64::new(0) });
        let current = CurrentTask { registry: Arc::clone(self), record };
        current.allow(Duration::ZERO);
        let mut records = self.records();
        records.retain(|record| record.strong_count() > 0);
        records.push(Arc::downgrade(&current.record));
        CURRENT.scope(current, task)
    }

    /// Returns the stuck tasks, the one that is most overdue first.
    pub fn stuck(&self) -> Vec<StuckTask> {
        let now = self.now_ms();
        let records = self.records();
        let overdue = |record: Arc<TaskRecord>| {
            let late = now.checked_sub(record.deadline_ms.load(Ordering::Relaxed))?;
            (late > 0).then_some((late, record.name))
        };
        let mut stuck: Vec<_> =
            records.iter().filter_map(Weak::upgrade).filter_map(overdue).collect();
        stuck.sort_unstable_by(|a, b| b.cmp(a));
        let in_seconds = |(late, task)| {
            let overdue_seconds = Duration::from_millis(late).as_secs_f64();
            StuckTask { task, overdue_seconds }
        };
        stuck.into_iter().map(in_seconds).collect()
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn records(&self) -> MutexGuard<'_, Vec<Weak<TaskRecord>>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
impl ProgressRegistry {
    /// Moves all deadlines back by `age`, as if the tasks had recorded no progress for that time.
    pub(crate) fn set_back(&self, age: Duration) {
        let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        for record in self.records().iter().filter_map(Weak::upgrade) {
            let until = record.deadline_ms.load(Ordering::Relaxed);
            record.deadline_ms.store(until.saturating_sub(age), Ordering::Relaxed);
        }
    }
}

impl CurrentTask {
    fn allow(&self, wait: Duration) {
        let wait = u64::try_from((wait + SLACK).as_millis()).unwrap_or(u64::MAX);
        let until = self.registry.now_ms().saturating_add(wait);
        self.record.deadline_ms.store(until, Ordering::Relaxed);
    }
}

fn allow(wait: Duration) {
    // Fails outside of a watched task, where there is no record.
    let _ = CURRENT.try_with(|current| current.allow(wait));
}

/// Records progress. To be called once in each round of a loop.
pub fn tick() {
    allow(Duration::ZERO);
}

/// Waits for an operation. If it takes longer than `limit`, the task counts as stuck. Not to be nested.
pub async fn during<T>(limit: Duration, future: impl Future<Output = T>) -> T {
    allow(limit);
    let output = future.await;
    tick();
    output
}

/// Waits for work for any length of time, and records progress every second.
pub async fn idle<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    if CURRENT.try_with(|_| ()).is_err() {
        return future.await;
    }
    loop {
        tick();
        if let Ok(output) = timeout(TICK, &mut future).await {
            return output;
        }
    }
}

/// Runs a part of a task under a record of its own, for parts that wait independently of each other.
pub async fn part<T>(name: &'static str, part: impl Future<Output = T>) -> T {
    match CURRENT.try_with(|current| Arc::clone(&current.registry)) {
        Ok(registry) => registry.watch(name, part).await,
        Err(_) => part.await,
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tasks under test have no supervisor")]
mod tests {
    use std::future::pending;

    use proptest::prelude::*;
    use tokio::time::{advance, sleep};

    use super::*;

    fn names(registry: &ProgressRegistry) -> Vec<&'static str> {
        registry.stuck().iter().map(|stuck| stuck.task).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn idle_tasks_are_never_stuck() {
        let registry = Arc::new(ProgressRegistry::default());
        let idle = tokio::spawn(registry.watch("idle", idle(pending::<()>())));
        sleep(SLACK * 100).await;
        assert_eq!(names(&registry), [""; 0]);
        idle.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn silent_tasks_are_stuck_and_named() {
        let registry = Arc::new(ProgressRegistry::default());
        let silent = tokio::spawn(registry.watch("silent", pending::<()>()));
        let busy = tokio::spawn(registry.watch("busy", idle(pending::<()>())));
        sleep(SLACK).await;
        assert_eq!(names(&registry), [""; 0]);
        sleep(Duration::from_secs(2)).await;
        assert_eq!(names(&registry), ["silent"]);
        assert!((registry.stuck()[0].overdue_seconds - 2.0).abs() < 0.1);
        silent.abort();
        let _ = silent.await;
        assert_eq!(names(&registry), [""; 0], "a task that ended is not stuck");
        busy.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn waits_are_allowed_up_to_their_limit() {
        let registry = Arc::new(ProgressRegistry::default());
        let limit = Duration::from_secs(100);
        let commit = registry.watch("store", async move {
            during(limit, sleep(limit + SLACK + TICK)).await;
            pending::<()>().await;
        });
        let task = tokio::spawn(commit);
        sleep(limit + SLACK).await;
        assert_eq!(names(&registry), [""; 0]);
        sleep(Duration::from_millis(10)).await;
        assert_eq!(names(&registry), ["store"]);
        sleep(TICK).await;
        assert_eq!(names(&registry), [""; 0], "its end is progress");
        task.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn parts_do_not_hide_each_other() {
        let registry = Arc::new(ProgressRegistry::default());
        let task = tokio::spawn(registry.watch("spool", async {
            tokio::join!(idle(pending::<()>()), part("spool route", pending::<()>()));
        }));
        sleep(SLACK + TICK).await;
        assert_eq!(names(&registry), ["spool route"]);
        task.abort();
    }

    #[derive(Debug, Clone)]
    enum TaskAction {
        Tick(usize),
        Wait(usize, u64),
        Pass(u64),
    }

    fn event() -> impl Strategy<Value = TaskAction> {
        prop_oneof![
            (0usize..3).prop_map(TaskAction::Tick),
            (0usize..3, 0u64..100_000).prop_map(|(task, limit)| TaskAction::Wait(task, limit)),
            (0u64..60_000).prop_map(TaskAction::Pass),
        ]
    }

    const NAMES: [&str; 3] = ["a", "b", "c"];

    fn record(registry: &Arc<ProgressRegistry>, name: &'static str) -> CurrentTask {
        let record = Arc::new(TaskRecord { name, deadline_ms: AtomicU64::new(0) });
        registry.records().push(Arc::downgrade(&record));
        let current = CurrentTask { registry: Arc::clone(registry), record };
        current.allow(Duration::ZERO);
        current
    }

    proptest! {
        #[test]
        fn exactly_tasks_past_their_limit_are_stuck(
            events in prop::collection::vec(event(), 0..40)
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = { runtime }.enable_time().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let registry = Arc::new(ProgressRegistry::default());
                let tasks = NAMES.map(|name| record(&registry, name));
                let slack = u64::try_from(SLACK.as_millis()).unwrap();
                let (mut now, mut limits) = (0, [slack; 3]);
                for event in events {
                    match event {
                        TaskAction::Tick(task) => {
                            CURRENT.sync_scope(tasks[task].clone(), tick);
                            limits[task] = now + slack;
                        }
                        TaskAction::Wait(task, limit) => {
                            let wait = Duration::from_millis(limit);
                            CURRENT.sync_scope(tasks[task].clone(), || allow(wait));
                            limits[task] = now + limit + slack;
                        }
                        TaskAction::Pass(ms) => {
                            advance(Duration::from_millis(ms)).await;
                            now += ms;
                        }
                    }
                    let mut stuck = names(&registry);
                    stuck.sort_unstable();
                    let expected: Vec<_> =
                        (0..3).filter(|at| now > limits[*at]).map(|at| NAMES[at]).collect();
                    assert_eq!(stuck, expected);
                }
            });
        }
    }
}
