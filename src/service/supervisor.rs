//! Spawns and supervises named tasks: the only place that spawns any. A task that panics or fails is
//! reported by its name, and the owner of its group decides which other tasks end with it.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{Id, JoinSet};

use crate::progress::ProgressRegistry;

/// The end of a task.
#[derive(Debug)]
pub enum TaskOutcome<E> {
    /// It returned without an error.
    Done,
    /// It returned this error.
    Failed(E),
    /// It panicked with this message.
    Panicked(String),
    /// It was aborted by [`TaskGroup::abort_all`].
    Aborted,
}

impl<E: Display> Display for TaskOutcome<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Done => f.write_str("the task ended"),
            Self::Failed(error) => error.fmt(f),
            Self::Panicked(message) => write!(f, "the task panicked: {message}"),
            Self::Aborted => f.write_str("the task was aborted"),
        }
    }
}

/// A group of tasks supervised as a unit. Dropping it aborts the tasks that still run.
#[derive(Debug)]
pub struct TaskGroup<E> {
    tasks: JoinSet<Result<(), E>>,
    names: Vec<(Id, &'static str)>,
    progress: Arc<ProgressRegistry>,
}

impl<E: Send + 'static> TaskGroup<E> {
    /// Makes an empty group whose tasks record their progress in a registry.
    pub fn new(progress: Arc<ProgressRegistry>) -> Self {
        Self { tasks: JoinSet::new(), names: Vec::new(), progress }
    }

    /// Starts a task under a name.
    pub fn spawn(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let handle = self.tasks.spawn(self.progress.watch(name, task));
        self.names.push((handle.id(), name));
    }

    /// Waits for the next task to end. Returns `None` if none is left.
    pub async fn next(&mut self) -> Option<(&'static str, TaskOutcome<E>)> {
        let (id, outcome) = match self.tasks.join_next_with_id().await? {
            Ok((id, Ok(()))) => (id, TaskOutcome::Done),
            Ok((id, Err(error))) => (id, TaskOutcome::Failed(error)),
            Err(error) => {
                let id = error.id();
                let outcome = match error.try_into_panic() {
                    Ok(panic) => TaskOutcome::Panicked(panic_message(panic.as_ref())),
                    Err(_) => TaskOutcome::Aborted,
                };
                (id, outcome)
            }
        };
        let place = self.names.iter().position(|(known, _)| *known == id);
        let name = place.map_or("task", |place| self.names.swap_remove(place).1);
        Some((name, outcome))
    }

    /// Waits for all tasks, and aborts those that still run after `limit`. Returns the failures by
    /// name, and true if no task had to be aborted.
    pub async fn finish(&mut self, limit: Duration) -> (Vec<(&'static str, TaskOutcome<E>)>, bool) {
        let mut failures = Vec::new();
        let all = async {
            while let Some((name, outcome)) = self.next().await {
                if !matches!(outcome, TaskOutcome::Done) {
                    failures.push((name, outcome));
                }
            }
        };
        let in_time = tokio::time::timeout(limit, all).await.is_ok();
        if !in_time {
            self.abort_all().await;
        }
        (failures, in_time)
    }

    /// Aborts the tasks that still run.
    pub async fn abort_all(&mut self) {
        self.tasks.abort_all();
        while self.tasks.join_next().await.is_some() {}
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    if let Some(message) = panic.downcast_ref::<&str>() {
        (*message).to_owned()
    } else if let Some(message) = panic.downcast_ref::<String>() {
        message.clone()
    } else {
        "no message".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn panics_are_reported_by_task_name() {
        let mut group = TaskGroup::<String>::new(Arc::default());
        group.spawn("quiet", std::future::pending());
        group.spawn("loud", async { panic!("no more {}", "room") });
        let (name, outcome) = group.next().await.unwrap();
        assert_eq!(name, "loud");
        assert_eq!(outcome.to_string(), "the task panicked: no more room");
    }

    #[tokio::test(start_paused = true)]
    async fn tasks_that_outlast_the_limit_are_aborted() {
        let mut group = TaskGroup::<String>::new(Arc::default());
        group.spawn("quick", async { Err("broken".to_owned()) });
        group.spawn("endless", std::future::pending());
        let (failures, in_time) = group.finish(Duration::from_secs(5)).await;
        assert!(!in_time);
        assert_eq!(failures.len(), 1);
        assert_eq!(failures[0].0, "quick");
        assert!(group.next().await.is_none());
    }
}
