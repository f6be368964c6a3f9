//! When, where and for how long the command ran that made a result, as the result itself tells (REAPI, `ExecutedActionMetadata`).
//! Knows nothing of who asks.

use std::time::Duration;
use std::time::SystemTime;

use bazel_remote_apis::build::bazel::remote::execution::v2 as re;
use bazel_remote_apis::google::protobuf::Timestamp;

/// The run of a command that made a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Execution {
    /// How long it took.
    pub took: Duration,
    /// When it ended, since 1970.
    pub ended: Duration,
    /// The worker's name for itself; empty for what a farccd ran on its own machine.
    pub worker: String,
}

impl Execution {
    /// The one that made `result`. None: whoever made it did not say, or nothing that can be believed.
    pub fn of(result: &re::ActionResult) -> Option<Execution> {
        let metadata = result.execution_metadata.as_ref()?;
        let started = since_epoch(metadata.execution_start_timestamp.as_ref()?)?;
        let ended = since_epoch(metadata.execution_completed_timestamp.as_ref()?)?;
        // Nothing is executed in no time: such a server fills the fields with something else.
        let took = ended.checked_sub(started).filter(|took| !took.is_zero())?;
        Some(Execution { took, ended, worker: metadata.worker.clone() })
    }
}

/// What a result says of a command that ran on this machine, took so long and ended at `ended`; none where that is not
/// known.
pub fn executed_here(took: Option<Duration>, ended: SystemTime) -> Option<re::ExecutedActionMetadata> {
    let started = ended.checked_sub(took?)?;
    Some(re::ExecutedActionMetadata {
        execution_start_timestamp: Some(timestamp(started)?),
        execution_completed_timestamp: Some(timestamp(ended)?),
        ..re::ExecutedActionMetadata::default()
    })
}

/// A field that was not set is the epoch itself.
fn since_epoch(timestamp: &Timestamp) -> Option<Duration> {
    let seconds = u64::try_from(timestamp.seconds).ok().filter(|seconds| *seconds > 0)?;
    let nanos = u32::try_from(timestamp.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    Some(Duration::new(seconds, nanos))
}

fn timestamp(time: SystemTime) -> Option<Timestamp> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(Timestamp {
        seconds: i64::try_from(since.as_secs()).ok()?,
        nanos: since.subsec_nanos().cast_signed(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(start: Option<(i64, i32)>, completed: Option<(i64, i32)>) -> re::ActionResult {
        let timestamp = |time: Option<(i64, i32)>| time.map(|(seconds, nanos)| Timestamp { seconds, nanos });
        let metadata = re::ExecutedActionMetadata {
            execution_start_timestamp: timestamp(start),
            execution_completed_timestamp: timestamp(completed),
            ..re::ExecutedActionMetadata::default()
        };
        re::ActionResult { execution_metadata: Some(metadata), ..re::ActionResult::default() }
    }

    #[test]
    fn only_a_believable_time_is_known() {
        let millis = |start, completed| Some(Execution::of(&result(start, completed))?.took.as_millis());
        assert_eq!(millis(Some((1000, 900_000_000)), Some((1002, 100_000_000))), Some(1200));
        for (start, completed) in [
            (None, Some((1000, 0))),
            (Some((1000, 0)), None),
            (Some((0, 0)), Some((1000, 0))),
            (Some((1001, 0)), Some((1000, 0))),
            (Some((1000, 0)), Some((1000, 0))),
            (Some((-5, 0)), Some((1000, 0))),
            (Some((1000, -1)), Some((1001, 0))),
            (Some((1000, 2_000_000_000)), Some((1005, 0))),
        ] {
            assert_eq!(millis(start, completed), None, "{start:?} {completed:?}");
        }
        assert_eq!(Execution::of(&re::ActionResult::default()), None);
    }

    #[test]
    fn what_ran_here_is_told_and_read_again() {
        let took = Some(Duration::from_micros(1_234_567));
        let execution_metadata = executed_here(took, SystemTime::now());
        let told = Execution::of(&re::ActionResult { execution_metadata, ..Default::default() }).unwrap();
        assert_eq!((Some(told.took), told.worker.as_str()), (took, ""));
        assert_eq!(executed_here(None, SystemTime::now()), None);
    }
}
