//! Workspaces as `farccd twin status` shows them.
//! Knows nothing of who asks.

use std::os::unix::ffi::OsStrExt as _;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use farcc_proto::twin;

use crate::twin::Card;
use crate::twin::Workspace;
use crate::twin::workspace::Idle;

/// A workspace whose session is open.
pub(super) async fn open(workspace: &Workspace) -> twin::Workspace {
    // One that is being closed has no size any more.
    let (files, size_bytes) = workspace.mirror.size().await.unwrap_or_default();
    let running = workspace.running();
    let running = running.into_iter().map(|command| twin::Running {
        arguments: command.arguments,
        millis: millis(command.since.elapsed()),
    });
    let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let counts = &workspace.counts;
    twin::Workspace {
        is_open: true,
        files,
        size_bytes,
        idle_millis: millis(workspace.used().elapsed()),
        running: running.collect(),
        commands: count(&counts.commands),
        received_bytes: count(&counts.received_bytes),
        fetched_bytes: count(&counts.fetched_bytes),
        sent_bytes: count(&counts.sent_bytes),
        ..identified(&workspace.card)
    }
}

/// A mirror that nobody uses.
pub(super) fn idle(idle: &Idle) -> twin::Workspace {
    // A clock that was set back makes it new.
    let idle_millis = millis(idle.since.elapsed().unwrap_or_default());
    twin::Workspace { size_bytes: idle.size_bytes, idle_millis, ..identified(&idle.card) }
}

fn identified(card: &Card) -> twin::Workspace {
    let roots = card.roots.iter().map(|root| root.as_os_str().as_bytes().to_vec()).collect();
    twin::Workspace { workspace: card.name.clone(), roots, ..twin::Workspace::default() }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
