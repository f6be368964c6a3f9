//! A value that one thread owns: others send it what is to be done, one thing after the other, and nothing has to be locked.
//! Knows nothing of what that is.

use std::io;
use std::sync::mpsc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use tokio::sync::oneshot;

/// What a thread can own.
pub trait Owned: 'static {
    /// When [`on_idle`](Owned::on_idle) is due, from now on; None: not before something else is done.
    fn due(&self) -> Option<Duration> {
        None
    }

    /// Does what was put off.
    fn on_idle(&mut self) {}
}

/// The way to a value that a thread owns.
pub struct Owner<T> {
    jobs: mpsc::Sender<Job<T>>,
}

enum Job<T> {
    Do(Box<dyn FnOnce(&mut T) + Send>),
    End,
}

/// The thread has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its thread has ended")]
pub struct Ended;

impl<T: Owned> Owner<T> {
    /// Starts a thread that makes the value and keeps it until nobody is left who could tell it something.
    ///
    /// # Errors
    /// When there can be no thread, or the value cannot be made.
    pub async fn start<E>(
        name: &str,
        make: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Result<Owner<T>, E>
    where
        E: From<io::Error> + Send + 'static,
    {
        let (jobs, queue) = mpsc::channel::<Job<T>>();
        let (made, is_made) = oneshot::channel();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || match make() {
            Ok(value) => {
                // Whoever started it may be gone: then there are no jobs, either.
                let _ = made.send(Ok(()));
                keep(value, &queue);
            }
            Err(error) => drop(made.send(Err(error))),
        })?;
        is_made.await.unwrap_or_else(|_| Err(io::Error::other("a thread panicked").into()))?;
        Ok(Owner { jobs })
    }

    /// Lets the thread do something with the value. It is done even if nobody waits for it.
    ///
    /// # Errors
    /// [`Ended`], if it will not be done, or not to its end.
    pub async fn with<R: Send + 'static>(
        &self,
        act: impl FnOnce(&mut T) -> R + Send + 'static,
    ) -> Result<R, Ended> {
        let (answer, answered) = oneshot::channel();
        let job = move |value: &mut T| drop(answer.send(act(value)));
        self.jobs.send(Job::Do(Box::new(job))).map_err(|_| Ended)?;
        answered.await.map_err(|_| Ended)
    }

    /// Ends the thread when it has done all that it was told until now.
    pub fn end(&self) {
        // It may have ended.
        let _ = self.jobs.send(Job::End);
    }
}

fn keep<T: Owned>(mut value: T, queue: &mpsc::Receiver<Job<T>>) {
    loop {
        let due = value.due();
        let job = match due {
            None => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(due) => queue.recv_timeout(due),
        };
        if due.is_some_and(|due| due.is_zero()) || matches!(job, Err(RecvTimeoutError::Timeout)) {
            value.on_idle();
        }
        match job {
            Ok(Job::Do(job)) => job(&mut value),
            Ok(Job::End) | Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[derive(Default)]
    struct Counter {
        count: u32,
        idle_at: Option<Instant>,
        idles: u32,
    }

    impl Owned for Counter {
        fn due(&self) -> Option<Duration> {
            self.idle_at.map(|at| at.saturating_duration_since(Instant::now()))
        }

        fn on_idle(&mut self) {
            self.idle_at = None;
            self.idles += 1;
        }
    }

    #[tokio::test]
    async fn what_is_told_is_done_in_order_until_the_end() {
        let owner = Owner::start("test", || Ok::<_, io::Error>(Counter::default())).await.unwrap();
        for expected in 1..4 {
            let counted = owner.with(|counter| {
                counter.count += 1;
                counter.count
            });
            assert_eq!(counted.await, Ok(expected));
        }
        owner.end();
        assert_eq!(owner.with(|counter| counter.count).await, Err(Ended));
    }

    #[tokio::test]
    async fn what_was_put_off_is_done_when_it_is_due() {
        let owner = Owner::start("test", || Ok::<_, io::Error>(Counter::default())).await.unwrap();
        owner
            .with(|counter| counter.idle_at = Some(Instant::now() + Duration::from_millis(5)))
            .await
            .unwrap();
        while owner.with(|counter| counter.idles).await.unwrap() == 0 {}
        assert!(owner.with(|counter| counter.idle_at.is_none() && counter.idles == 1).await.unwrap());
    }

    #[tokio::test]
    async fn who_cannot_be_made_is_told() {
        let owner = Owner::<Counter>::start("test", || Err(io::Error::other("no"))).await;
        assert_eq!(owner.err().unwrap().to_string(), "no");
    }
}
