//! All calls' frames in the order of their times.

use crate::call::{CallPlan, plan, reference, start};
use crate::options::{Options, OptionsError};
use crate::truth::{Side, Truth};
use sidetone_model::CaptureTime;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// One Ethernet frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub time: CaptureTime,
    pub bytes: Vec<u8>,
}

/// An iterator over frames; a call is made when it begins and forgotten when it is over.
#[derive(Debug)]
pub struct Traffic {
    options: Options,
    next_call: usize,
    running: BTreeMap<usize, CallPlan>,
    /// Next frame of each running call.
    queue: BinaryHeap<Reverse<(u64, usize)>>,
    truth: Truth,
}

impl Traffic {
    pub fn new(options: &Options) -> Result<Self, OptionsError> {
        options.check()?;
        Ok(Self {
            options: options.clone(),
            next_call: 0,
            running: BTreeMap::new(),
            queue: BinaryHeap::new(),
            truth: Truth { frames: 0, first_frame_at: None, last_frame_at: None, calls: Vec::new() },
        })
    }

    /// What a side of a call says, from its sample 0 on, at 8000 Hz of its own clock, before encoding.
    pub fn reference(options: &Options, call: usize, side: Side) -> Vec<i16> {
        reference(options, call, side)
    }

    /// The truth about the frames that were taken; complete when there are no more.
    pub fn truth(&self) -> &Truth {
        &self.truth
    }

    pub fn into_truth(self) -> Truth {
        self.truth
    }

    fn begin_calls(&mut self) {
        while self.next_call < self.options.calls {
            let begins = start(&self.options, self.next_call).0;
            if self.queue.peek().is_some_and(|Reverse((time, _))| *time < begins) {
                break;
            }
            let (call, truth) = plan(&self.options, self.next_call);
            self.truth.calls.push(truth);
            if let Some(time) = call.next_time() {
                self.queue.push(Reverse((time, self.next_call)));
                self.running.insert(self.next_call, call);
            }
            self.next_call += 1;
        }
    }
}

impl Iterator for Traffic {
    type Item = Frame;

    fn next(&mut self) -> Option<Frame> {
        self.begin_calls();
        let Reverse((_, index)) = self.queue.pop()?;
        let call = self.running.get_mut(&index)?;
        let (time, bytes) = call.next_frame()?;
        match call.next_time() {
            Some(next) => self.queue.push(Reverse((next, index))),
            None => {
                self.running.remove(&index);
            }
        }
        let time = CaptureTime(time);
        self.truth.frames += 1;
        self.truth.first_frame_at.get_or_insert(time);
        self.truth.last_frame_at = Some(time);
        Some(Frame { time, bytes })
    }
}
