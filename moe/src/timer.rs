//! Device time by phase: an event after each.

use crate::error::{Error, Result};
use hadal::device::{Event, Stream};
use std::time::Duration;

/// Events of one pass, in order.
#[derive(Debug, Default)]
pub(crate) struct Timer {
    marks: Vec<(&'static str, Event)>,
}

impl Timer {
    /// Marks the end of the phase `name`; the first mark is the beginning of everything.
    pub(crate) fn mark(&mut self, stream: &Stream, name: &'static str) -> Result<()> {
        let event = Event::new(stream.context()).map_err(Error::device("a timing event"))?;
        event.record(stream).map_err(Error::device(name))?;
        self.marks.push((name, event));
        Ok(())
    }

    /// Waits for the end of each phase in turn, at most `limit` each, and tells its name.
    pub(crate) fn wait(&self, limit: Duration, mut done: impl FnMut(&'static str)) -> Result<()> {
        for (name, event) in self.marks.iter().skip(1) {
            event
                .synchronize_within(limit)
                .map_err(Error::device(*name))?;
            done(name);
        }
        Ok(())
    }

    /// Time of each phase, once the stream is past all of them.
    pub(crate) fn phases(&self) -> Result<Vec<(&'static str, Duration)>> {
        let pairs = self.marks.windows(2).map(|pair| {
            let [(_, start), (name, end)] = pair else {
                return Err(Error::device("timing")("windows of two"));
            };
            let time = end.elapsed_since(start).map_err(Error::device("timing"))?;
            Ok((*name, time))
        });
        pairs.collect()
    }
}
