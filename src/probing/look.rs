//! What a session does to see what there is: all lists, and calls of tools.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::heard::Reply;
use super::judge::content::Content;
use super::judge::observed::{Answer, Asked, Overlap, View};
use super::process::{Broken, Process};
use super::words::{self, Introduction, Request, Tool};
use super::{Failure, Plan, ToolCall};
use crate::protocol::method::Known;

/// Most pages of a list that are read.
const PAGES_MAX: usize = 50;
/// Most text of a list that is read, in bytes.
const LIST_MAX: usize = 8 << 20;
/// Most tools that are called.
const TOOLS_MAX: usize = 64;
/// How long the answer to a call may take that nobody asked for.
const CALL_PATIENCE: Duration = Duration::from_secs(10);
/// How long all of those together may take, the first time.
const CALLS_TIME: Duration = Duration::from_secs(20);
/// After how many questions without an answer no more are asked.
const HUNG_MAX: usize = 3;
/// Most text that is kept of all that one look sees, in bytes.
const KEPT_MAX: usize = 4 << 20;
/// Most calls that each of two sessions makes at the same time.
const OVERLAP_CALLS: usize = 6;

/// What a session does each time it looks.
#[derive(Debug, Default)]
pub(super) struct Activity {
    lists: Vec<List>,
    calls: Vec<Call>,
    /// What is left out, since it takes too long.
    pub(super) left_out: Vec<String>,
    /// How many tools there are; `None` if they were not told.
    pub(super) tools: Option<usize>,
    /// Something to subscribe to.
    pub(super) resource: Option<String>,
    /// Something that can become a task.
    pub(super) task: Option<ToolCall>,
    /// How long an answer may take that was asked for.
    pub(super) patience: Duration,
    /// How long all took the first time.
    took: Duration,
}

#[derive(Debug)]
struct List {
    method: Known,
    one_page: bool,
}

#[derive(Debug)]
struct Call {
    call: ToolCall,
    /// Whether it changes nothing and needs no argument, so that it is called without having been asked for.
    harmless: bool,
}

/// Why a first look came to nothing.
pub(super) enum Trouble {
    Broken(Broken),
    Failure(Failure),
}

impl From<Broken> for Trouble {
    fn from(broken: Broken) -> Trouble {
        Trouble::Broken(broken)
    }
}

impl Activity {
    /// The first look: finds out what there is to do, and what of it can be done in time. What it saw comes with it.
    ///
    /// # Errors
    /// The process broke, or has not the tools that were to be called.
    pub(super) async fn find(
        process: &mut Process,
        introduction: &Introduction,
        plan: &Plan,
    ) -> Result<(Activity, View), Trouble> {
        let begun = Instant::now();
        let mut activity = Activity { patience: plan.patience, ..Activity::default() };
        let (mut view, mut room) = (View::new(), KEPT_MAX);
        let mut tools = Vec::new();
        for (capability, method) in [
            ("tools", Known::ToolsList),
            ("resources", Known::ResourcesList),
            ("resources", Known::ResourceTemplatesList),
            ("prompts", Known::PromptsList),
        ] {
            if !introduction.declares(&[capability]) {
                continue;
            }
            let (answer, pages) = read_list(process, method, plan.patience, &mut room).await?;
            tools.extend(pages.iter().flat_map(Tool::all));
            activity.resource =
                activity.resource.or_else(|| pages.iter().find_map(words::first_resource).map(str::to_owned));
            if answer == Answer::Silence {
                activity.left_out.push(method.as_str().to_owned());
                continue;
            }
            if method == Known::ToolsList && answer.is_good() {
                activity.tools = Some(tools.len());
            }
            activity.lists.push(List { method, one_page: pages.len() == 1 });
            view.push(answer);
        }
        if !introduction.declares(&["tools"]) {
            activity.tools = Some(0);
        }
        let calls = choose(&tools, &plan.calls).map_err(Trouble::Failure)?;
        activity.try_calls(process, calls, &mut view, &mut room).await?;
        let becomes_task = |call: &&Call| tools.iter().any(|tool| tool.tasks && tool.name == call.call.name);
        activity.task = activity.calls.iter().find(becomes_task).map(|call| call.call.clone());
        activity.took = begun.elapsed();
        Ok((activity, view))
    }

    /// Makes each call once, and keeps those that are answered in time.
    async fn try_calls(
        &mut self,
        process: &mut Process,
        calls: Vec<Call>,
        view: &mut View,
        room: &mut usize,
    ) -> Result<(), Broken> {
        let (begun, mut hung) = (Instant::now(), 0);
        for call in calls {
            let mut leave_out = call.harmless && (hung >= HUNG_MAX || begun.elapsed() > CALLS_TIME);
            if !leave_out {
                match process.ask(&Request::call(&call.call), self.patience_for(&call)).await? {
                    Reply::Silence => (hung, leave_out) = (hung + 1, true),
                    reply => view.push(kept(&reply, room)),
                }
            }
            match leave_out {
                true => self.left_out.push(words::printable(&call.call.name)),
                false => self.calls.push(call),
            }
        }
        Ok(())
    }

    fn patience_for(&self, call: &Call) -> Duration {
        if call.harmless { self.patience.min(CALL_PATIENCE) } else { self.patience }
    }

    /// What is asked, in the order of the answers in a view.
    pub(super) fn asked(&self) -> Vec<Asked> {
        let lists = self.lists.iter().map(|list| Asked::Method(list.method.as_str()));
        lists.chain(self.calls.iter().map(|call| Asked::Call(words::printable(&call.call.name)))).collect()
    }

    /// How many lists it reads.
    pub(super) fn lists(&self) -> usize {
        self.lists.len()
    }

    /// Looks once more.
    ///
    /// # Errors
    /// The process broke.
    pub(super) async fn look(&self, process: &mut Process) -> Result<View, Broken> {
        let (mut view, mut room) = (View::new(), KEPT_MAX);
        for list in &self.lists {
            view.push(match hangs(&view) {
                true => Answer::Silence,
                false => read_list(process, list.method, self.patience, &mut room).await?.0,
            });
        }
        for call in &self.calls {
            view.push(match hangs(&view) {
                true => Answer::Silence,
                false => {
                    let reply = process.ask(&Request::call(&call.call), self.patience_for(call)).await?;
                    kept(&reply, &mut room)
                }
            });
        }
        Ok(view)
    }

    /// Makes the calls only; what they answer is of no interest.
    ///
    /// # Errors
    /// The process broke.
    pub(super) async fn call_all(&self, process: &mut Process) -> Result<(), Broken> {
        let mut hung = 0;
        for call in &self.calls {
            if hung < HUNG_MAX {
                let reply = process.ask(&Request::call(&call.call), self.patience_for(call)).await?;
                hung += usize::from(reply == Reply::Silence);
            }
        }
        process.fence(self.patience).await
    }

    /// Has two sessions ask the same things at the same time: what changes nothing, so that the order is of no importance.
    ///
    /// # Errors
    /// The process broke.
    pub(super) async fn overlap(&self, process: &mut Process) -> Result<Overlap, Broken> {
        let lists = self.lists.iter().enumerate().filter(|(_, list)| list.one_page);
        let lists = lists.map(|(place, list)| (place, Request::page(list.method, None)));
        let calls = self.calls.iter().enumerate().filter(|(_, call)| call.harmless).take(OVERLAP_CALLS);
        let calls = calls.map(|(place, call)| (self.lists.len() + place, Request::call(&call.call)));
        let session: Vec<(usize, Request)> = lists.chain(calls).collect();
        // One after the other, as they would come in: A, B, A, B …
        let (places, requests): (Vec<usize>, Vec<Request>) =
            session.iter().flat_map(|one| [one.clone(), one.clone()]).unzip();
        // A server may well work on them one by one.
        let replies = process.ask_all(&requests, self.patience + self.took * 2).await?;
        // What is answered twice is answered by now.
        process.fence(self.patience).await?;
        let mut room = KEPT_MAX;
        let answers =
            places.into_iter().zip(replies).map(|(place, reply)| (place, self.paged(place, reply, &mut room)));
        let mut overlap = Overlap { answers: answers.collect(), after: Vec::new() };
        for (place, request) in session {
            let reply = process.ask(&request, self.patience).await?;
            overlap.after.push((place, self.paged(place, reply, &mut room)));
        }
        Ok(overlap)
    }

    /// An answer as a view has it: a list is an array of pages there.
    fn paged(&self, place: usize, reply: Reply, room: &mut usize) -> Answer {
        match reply {
            Reply::Result(page) if place < self.lists.len() => kept(&Reply::Result(format!("[{page}]")), room),
            other => kept(&other, room),
        }
    }
}

/// Whether so much was not answered that there is no use in asking on.
fn hangs(view: &View) -> bool {
    view.iter().filter(|answer| **answer == Answer::Silence).count() >= HUNG_MAX
}

/// The calls to make: harmless tools without arguments, and then what was asked for.
fn choose(tools: &[Tool], asked_for: &[ToolCall]) -> Result<Vec<Call>, Failure> {
    if let Some(unknown) = asked_for.iter().find(|call| tools.iter().all(|tool| tool.name != call.name)) {
        let names: Vec<String> = tools.iter().take(TOOLS_MAX).map(|tool| words::printable(&tool.name)).collect();
        let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        return Err(Failure::NoSuchTool { name: unknown.name.clone(), known });
    }
    let by_itself = |tool: &&Tool| tool.harmless && asked_for.iter().all(|call| call.name != tool.name);
    let harmless = tools
        .iter()
        .filter(by_itself)
        .map(|tool| Call { call: ToolCall { name: tool.name.clone(), arguments: json!({}) }, harmless: true });
    let named = asked_for.iter().map(|call| Call { call: call.clone(), harmless: false });
    Ok(harmless.take(TOOLS_MAX.saturating_sub(asked_for.len())).chain(named).collect())
}

/// All pages of a list, as the array of their results; and the pages themselves.
async fn read_list(
    process: &mut Process,
    method: Known,
    patience: Duration,
    room: &mut usize,
) -> Result<(Answer, Vec<Value>), Broken> {
    let (mut pages, mut texts, mut length) = (Vec::new(), Vec::new(), 0);
    let mut cursor: Option<String> = None;
    loop {
        let reply = process.ask(&Request::page(method, cursor.as_deref()), patience).await?;
        let (Reply::Result(text), Some(page)) = (&reply, reply.result()) else {
            return Ok((kept(&reply, room), pages));
        };
        length += text.len();
        cursor = words::next_cursor(&page).map(str::to_owned);
        texts.push(text.clone());
        pages.push(page);
        if cursor.is_none() || pages.len() == PAGES_MAX || length > LIST_MAX {
            let content = Content::of(&format!("[{}]", texts.join(",")), *room);
            *room -= content.kept();
            return Ok((Answer::Result(content), pages));
        }
    }
}

/// The answer, as far as there is room for it.
fn kept(reply: &Reply, room: &mut usize) -> Answer {
    let answer = reply.to_answer(*room);
    if let Answer::Result(content) | Answer::Failure(content) = &answer {
        *room = room.saturating_sub(content.kept());
    }
    answer
}
