//! A call that becomes a task of the server's, whether or not its client knows.

use std::time::Instant;

use super::{Call, Effect, Leg};
use crate::bridge::modern_to_legacy::answer;
use crate::bridge::modern_to_legacy::task::Described;
use crate::protocol::message::{Kind, Message};
use crate::protocol::method::Known;
use crate::protocol::scan::DEPTH_MAX;

/// A call that is to be a task of the server's (2025-11-25, Tasks).
#[derive(Debug)]
pub(super) enum Task {
    /// The client takes it for an answer.
    Offered,
    /// It was offered, and the server does not want it.
    Refused,
    /// The server takes the call as a task only, and is asked to make one. The client need not know.
    Due,
    /// It is one, by this name (JSON), of which the client knows nothing.
    Named(String),
    /// It is one, and its client is not there to hear of it.
    Waiting(String),
}

impl Call {
    /// A tool that has to be called as a task is: it was refused otherwise, and has not run. What then has to be waited for is
    /// the task's result, which comes like an answer.
    pub(super) fn becomes_task(&mut self, message: &Message, now: Instant, out: &mut Vec<Effect>) -> bool {
        match (&self.task, message.kind()) {
            // Who has asked something has begun.
            (None, Kind::Error)
                if self.rounds == 0
                    && self.known == Some(Known::ToolsCall)
                    && answer::is_unknown_method(message)
                    && self.makes_tasks() =>
            {
                self.task = Some(Task::Due);
                out.push(Effect::AsTask);
            }
            // The list that says which tools may be tasks was out of date.
            (Some(Task::Offered), Kind::Error) if self.rounds == 0 && answer::is_unknown_method(message) => {
                self.task = Some(Task::Refused);
                out.push(Effect::Again);
            }
            (Some(Task::Offered), Kind::Result) => {
                let Some(name) = answer::task_of(message) else { return false };
                self.running = false;
                match self.leg.clone() {
                    Some(leg) => self.made(&leg, name, message, now, out),
                    None if self.has_room(message) => {
                        self.task = Some(Task::Waiting(name));
                        self.finished = Some(Box::new(message.clone().alone()));
                        self.make_room(out);
                    }
                    None => {
                        out.push(Effect::CancelTask(name));
                        return false;
                    }
                }
            }
            (Some(Task::Due), Kind::Result) => {
                let Some(name) = answer::task_of(message) else { return false };
                out.push(Effect::Fetch(name.clone()));
                self.task = Some(Task::Named(name));
            }
            _ => return false,
        }
        true
    }

    pub(super) fn makes_tasks(&self) -> bool {
        Message::parse(self.greeting.clone(), DEPTH_MAX).is_ok_and(|greeting| answer::makes_tasks(&greeting))
    }

    /// The call has become a task.
    pub(super) fn made(&mut self, leg: &Leg, name: String, message: &Message, now: Instant, out: &mut Vec<Effect>) {
        match Described::made(message).filter(|_| leg.takes_tasks) {
            Some(described) => {
                out.push(Effect::Made(leg.id.clone(), name, described));
                (self.leg, self.task, self.over) = (None, None, true);
            }
            // On this request its client takes none.
            None => {
                (self.running, self.due) = (true, (!self.open.is_empty()).then_some(now));
                out.push(Effect::Fetch(name.clone()));
                self.task = Some(Task::Named(name));
            }
        }
    }
}
