//! What one era has and the other has not: each thing that a translation between them cannot carry. All of it is counted
//! (`bridge_loss`, by kind) and listed in docs/bridge.md.

macro_rules! losses {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)*) => {
        /// See the module.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub(crate) enum Loss { $($(#[doc = $doc])+ $name,)* }

        impl Loss {
            /// Every kind.
            #[cfg(test)]
            pub(crate) const ALL: &'static [Loss] = &[$(Loss::$name,)*];

            /// The label of the metric.
            pub(crate) fn as_str(self) -> &'static str {
                match self { $(Loss::$name => $text,)* }
            }
        }
    };
}

// One list for both directions; each begins with what only it has.
losses! {
    // === Modern client, legacy server ===
    /// The server asks where its client cannot be asked: outside of the three methods that can be answered with a question.
    QuestionOutside = "question_outside",
    /// The server asks for what the client did not declare on this request.
    QuestionUndeclared = "question_undeclared",
    /// The server asks more than a client is asked in one call.
    QuestionTooMany = "question_too_many",
    /// A parked call is over before its client came back, since its server is gone, or the proxy stops.
    ParkedLost = "parked_lost",
    /// Nobody came back with answers in time.
    ParkedExpired = "parked_expired",
    /// There are as many parked calls as there may be.
    ParkedTooMany = "parked_too_many",
    /// An answer while nobody listens, larger than what is kept.
    ParkedAnswer = "parked_answer",
    /// Progress while nobody listens.
    ParkedProgress = "parked_progress",
    /// Log messages while nobody listens, beyond those that are kept.
    ParkedLog = "parked_log",
    /// A server wants progress on its question: there is nobody to report it.
    QuestionProgress = "question_progress",
    /// The end of an errand at a URL is told to nobody.
    ElicitationComplete = "elicitation_complete",
    /// A log level was asked for that the server has no way to set.
    LogLevel = "log_level",
    /// A task is over before its result was fetched, since its server is gone, or the proxy stops.
    TaskLost = "task_lost",
    /// Nobody fetched the result of a task for as long as it is looked after.
    TaskExpired = "task_expired",
    /// The server has no way to cancel a task.
    TaskCancel = "task_cancel",
    /// Progress or a log message of a task.
    TaskSaid = "task_said",
    /// An error has a code that means something else in the other era.
    ErrorCode = "error_code",
    // === Legacy client, modern server ===
    /// A schema of results that no revision with a handshake can have.
    OutputSchema = "output_schema",
    /// A structured result that no revision with a handshake can have.
    StructuredContent = "structured_content",
    /// The server needs a client that it can ask, and this one cannot be asked.
    MissingCapability = "missing_capability",
    /// The client's revision has no words for a question.
    QuestionUnspeakable = "question_unspeakable",
    /// The client refused to answer: the server cannot be told.
    QuestionRefused = "question_refused",
    /// The client did not answer in time.
    QuestionUnanswered = "question_unanswered",
    /// The client has as many questions to answer as it may have.
    QuestionUnasked = "question_unasked",
    /// The client's roots have changed: nobody can be told.
    RootsChanged = "roots_changed",
    /// A call was to become a task.
    Task = "task",
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is counted is explained to whoever looks at the counter.
    #[test]
    fn every_loss_is_listed_in_the_documentation() {
        let page = include_str!("../../docs/bridge.md");
        for loss in Loss::ALL {
            assert!(page.contains(&format!("`{}`", loss.as_str())), "{loss:?}");
        }
    }
}
