//! What was seen of a server: the material of the verdicts.

use super::content::Content;

/// Everything that was seen. What was not tried is absent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Observed {
    /// Whether it was spoken to as 2026-07-28 has it.
    pub(crate) modern: bool,
    /// What it declares; `None` if it did not come to that.
    pub(crate) offers: Option<Offers>,
    /// How many tools it lists; `None` if it did not list them.
    pub(crate) tools: Option<usize>,
    /// What was asked, in the order in which each [`View`] has the answers.
    pub(crate) asked: Vec<Asked>,
    /// Tools that were to be called and were not, since they did not answer in time or there was no time left.
    pub(crate) left_out: Vec<String>,
    /// Processes that served one session, which looked twice. One more than those of `shared`: they stand around them in time.
    pub(crate) alone: Vec<[View; 2]>,
    /// Processes that served two sessions, which looked in turn: B, A, B.
    pub(crate) shared: Vec<[View; 3]>,
    /// What two sessions asked at the same time.
    pub(crate) overlap: Option<Overlap>,
    /// Answers under ids that nobody had used, and answers for a second time, from all processes.
    pub(crate) unknown_answers: u64,
    pub(crate) repeated_answers: u64,
    /// What a process asked that had been told that its client answers nothing.
    pub(crate) asked_in_vain: Questions,
    /// A process whose client said that it can be asked; `None` when there was none.
    pub(crate) asking: Option<Asking>,
    pub(crate) subscription: Option<Subscription>,
    pub(crate) levels: Option<Levels>,
    pub(crate) tasks: Option<Tasks>,
    /// Where a process ended by itself, which ended the trial.
    pub(crate) ended: Option<Ended>,
    /// How the processes were stopped.
    pub(crate) stops: Vec<Stop>,
}

/// What the server declares that is tied to a session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Offers {
    pub(crate) subscriptions: bool,
    pub(crate) logging: bool,
    /// Tasks of 2025-11-25.
    pub(crate) tasks: bool,
}

/// One thing that was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Asked {
    /// A method that is not a call: of a list, all of its pages.
    Method(&'static str),
    /// A call of a tool; its name.
    Call(String),
}

/// The answers to all that was asked.
pub(crate) type View = Vec<Answer>;

/// An answer, or what came in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// A result.
    Result(Content),
    /// An error, or a result that says that the tool failed.
    Failure(Content),
    /// Something that is no answer, under the right id.
    Malformed,
    /// Nothing in time.
    Silence,
}

impl Answer {
    /// Whether it is a result.
    pub(crate) fn is_good(&self) -> bool {
        matches!(self, Answer::Result(_))
    }

    fn content(&self) -> Option<&Content> {
        match self {
            Answer::Result(content) | Answer::Failure(content) => Some(content),
            Answer::Malformed | Answer::Silence => None,
        }
    }

    /// Whether `this` says something that none of `before` does, in a place where they all agree.
    pub(crate) fn is_news(before: &[&Answer], this: &Answer) -> bool {
        let Some(first) = before.first() else { return false };
        let kind = std::mem::discriminant(*first);
        if before.iter().any(|one| std::mem::discriminant(*one) != kind) {
            return false;
        }
        if std::mem::discriminant(this) != kind {
            return true;
        }
        let contents: Vec<&Content> = before.iter().filter_map(|answer| answer.content()).collect();
        this.content().is_some_and(|this| Content::is_news(&contents, this))
    }
}

/// Requests that were under way at the same time, some of each of two sessions.
#[derive(Debug, Clone, Default)]
pub(crate) struct Overlap {
    /// For each: the place of its question in [`Observed::asked`], and its answer.
    pub(crate) answers: Vec<(usize, Answer)>,
    /// The same questions, asked one after the other when these had been answered.
    pub(crate) after: Vec<(usize, Answer)>,
}

/// How often a server asked its client what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Questions {
    pub(crate) roots: u64,
    pub(crate) sampling: u64,
    pub(crate) elicitation: u64,
    /// Anything else but ping.
    pub(crate) other: u64,
}

impl Questions {
    /// All of both.
    pub(crate) fn and(self, other: Questions) -> Questions {
        Questions {
            roots: self.roots + other.roots,
            sampling: self.sampling + other.sampling,
            elicitation: self.elicitation + other.elicitation,
            other: self.other + other.other,
        }
    }
}

/// What a process did whose client said that it can be asked.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asking {
    pub(crate) questions: Questions,
    /// What it answered; empty when it ended before.
    pub(crate) view: View,
}

/// What came of subscribing to a resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Subscription {
    /// Whether there was a resource to subscribe to.
    pub(crate) tried: bool,
    /// Whether the server agreed to begin and to end it.
    pub(crate) begun: bool,
    pub(crate) ended: bool,
    /// Changes that were told of the resource while it was subscribed to, and after.
    pub(crate) told: u64,
    pub(crate) told_after: u64,
    /// Changes that were told of what nobody had subscribed to.
    pub(crate) unasked: u64,
}

/// Log messages by what one session had asked for before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Levels {
    /// Whether the server agreed to the levels.
    pub(crate) accepted: bool,
    /// While the other session's requests were worked on, at the level `debug`.
    pub(crate) at_debug: u64,
    /// And at the level `emergency`.
    pub(crate) at_emergency: u64,
}

/// What came of having a task.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tasks {
    /// Whether one could be begun.
    pub(crate) begun: bool,
    /// Whether the other session finds it in its list.
    pub(crate) listed: bool,
}

/// The end of a process that was not asked to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ended {
    /// What it was working on: a method, or a tool.
    pub(crate) during: Asked,
    /// How it ended, or what was wrong with it.
    pub(crate) why: String,
    /// The last of its standard error.
    pub(crate) words: String,
}

/// How a process was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stop {
    pub(crate) step: Step,
    /// How many of its processes outlived it; `None` where that cannot be seen.
    pub(crate) survivors: Option<usize>,
}

/// What it took for a process to end. In order of force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    /// The end of its input.
    Asked,
    /// SIGTERM.
    Terminated,
    /// SIGKILL.
    Killed,
}
