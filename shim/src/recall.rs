//! The word by which a running child is recalled, since its result is there already.
//! Knows nothing of the child.

use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;

use rustix::event::PollFlags;

use crate::link::Link;
use crate::wire::Frame;
use crate::wire::Reply;

/// Where the word may come from.
#[derive(Debug)]
pub struct Recall<'a> {
    /// None: it cannot come, or not any more. A daemon that has died leaves the child alone.
    link: Option<&'a mut Link>,
}

impl<'a> Recall<'a> {
    /// From the daemon at the other end of `link`.
    pub fn over(link: &'a mut Link) -> Recall<'a> {
        Recall { link: Some(link) }
    }

    /// From nobody.
    pub fn never() -> Recall<'static> {
        Recall { link: None }
    }

    /// What to wait for before [`is_given`](Recall::is_given) is asked.
    pub(crate) fn interest(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        self.link.as_ref().map(|link| (link.stream().as_fd(), PollFlags::IN))
    }

    /// Whether the word came together with what told to start the child.
    pub(crate) fn was_given(&mut self) -> bool {
        self.link.as_ref().is_some_and(|link| link.has_received()) && self.is_given()
    }

    /// Whether the word is among what has come.
    pub(crate) fn is_given(&mut self) -> bool {
        while let Some(link) = &mut self.link {
            match link.receive() {
                Ok(Frame::Reply(Reply::Stop)) => return true,
                // The socket says nothing of what was read with it.
                Ok(Frame::Reply(Reply::Working)) if link.has_received() => {}
                Ok(Frame::Reply(Reply::Working)) => return false,
                // It has ended, or makes no sense: nothing that it says can be about the child.
                _ => self.link = None,
            }
        }
        false
    }
}
