//! Work that goes on when nobody waits for it any more. While somebody does it
//! is a part of their task: a hand-over to a task of its own, and back, would
//! cost each request two of them.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio_util::task::TaskTracker;

/// Dropped before its end, it becomes a task among `tasks`. One that panicked
/// is over.
pub(super) struct Outliving<F>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    work: Option<Pin<Box<F>>>,
    tasks: TaskTracker,
}

impl<F> Outliving<F>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    pub(super) fn new(work: F, tasks: &TaskTracker) -> Self {
        Self { work: Some(Box::pin(work)), tasks: tasks.clone() }
    }
}

impl<F> Future for Outliving<F>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let mut work = self.work.take().expect("polled again after its end");
        let polled = work.as_mut().poll(cx);
        if polled.is_pending() {
            self.work = Some(work);
        }
        polled
    }
}

impl<F> Drop for Outliving<F>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    fn drop(&mut self) {
        let Some(work) = self.work.take() else { return };
        // Without a runtime the process ends, and the work with it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            self.tasks.spawn_on(work, &runtime);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn what_nobody_waits_for_is_done_all_the_same() {
        let tasks = TaskTracker::new();
        let ((release, released), (done, is_done)) = (oneshot::channel(), oneshot::channel());
        let work = async move {
            released.await.expect("is released");
            done.send(1).expect("somebody listens");
        };
        let mut waited_for = Outliving::new(work, &tasks);
        assert!(futures::poll!(&mut waited_for).is_pending() && tasks.is_empty());
        drop(waited_for);
        assert_eq!(tasks.len(), 1);
        release.send(()).expect("it lives on");
        assert_eq!(is_done.await, Ok(1));
        tasks.close();
        tasks.wait().await;
    }

    #[tokio::test]
    async fn what_ended_or_panicked_leaves_no_task() {
        let tasks = TaskTracker::new();
        assert_eq!(Outliving::new(async { 2 }, &tasks).await, 2);
        let broken = tokio::spawn(Outliving::new(async { panic!("planned") }, &tasks));
        assert!(broken.await.is_err_and(|e| e.is_panic()));
        assert!(tasks.is_empty());
    }
}
