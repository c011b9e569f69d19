//! What a server does beside answering, on a process that two sessions share: subscriptions, log messages, tasks.

use serde_json::json;

use super::heard::Reply;
use super::judge::observed::{Levels, Offers, Subscription, Tasks};
use super::look::Activity;
use super::process::{Broken, Process};
use super::words::{self, Request};
use crate::protocol::method::Known;

/// What was seen.
#[derive(Debug, Default)]
pub(super) struct Manners {
    pub(super) subscription: Option<Subscription>,
    pub(super) levels: Option<Levels>,
    pub(super) tasks: Option<Tasks>,
}

/// Has one session subscribe, set a level and begin a task, and looks what the other's requests then bring. Leaves the process in
/// that state: it is to be the last that is done with it.
///
/// # Errors
/// The process broke.
pub(super) async fn observe(process: &mut Process, activity: &Activity, offers: Offers) -> Result<Manners, Broken> {
    let mut manners = Manners::default();
    if offers.subscriptions || offers.logging {
        let mut seen = Subscription { unasked: process.heard.updates.len() as u64, ..Subscription::default() };
        let mut levels = Levels::default();
        let uri = activity.resource.as_deref().filter(|_| offers.subscriptions);
        for (subscribe, level) in [(true, "debug"), (false, "emergency")] {
            let agreed = set_subscription(process, activity, uri, subscribe).await?;
            let accepted =
                offers.logging && agrees(process, activity, Known::SetLevel, json!({ "level": level })).await?;
            (process.heard.logs, process.heard.updates) = (0, Vec::new());
            activity.call_all(process).await?;
            let (told, unasked) = updates(process, uri);
            seen.unasked += unasked;
            match subscribe {
                true => (seen.tried, seen.begun, seen.told) = (uri.is_some(), agreed, told),
                false => (seen.ended, seen.told_after) = (agreed, told),
            }
            match subscribe {
                true => (levels.accepted, levels.at_debug) = (accepted, process.heard.logs),
                false => (levels.accepted, levels.at_emergency) = (levels.accepted && accepted, process.heard.logs),
            }
        }
        manners.subscription = offers.subscriptions.then_some(seen);
        manners.levels = offers.logging.then_some(levels);
    }
    if offers.tasks {
        manners.tasks = Some(tasks(process, activity).await?);
    }
    Ok(manners)
}

async fn set_subscription(
    process: &mut Process,
    activity: &Activity,
    uri: Option<&str>,
    subscribe: bool,
) -> Result<bool, Broken> {
    let Some(uri) = uri else { return Ok(false) };
    let method = if subscribe { Known::ResourcesSubscribe } else { Known::ResourcesUnsubscribe };
    agrees(process, activity, method, json!({ "uri": uri })).await
}

/// Whether the server answers with a result.
async fn agrees(
    process: &mut Process,
    activity: &Activity,
    method: Known,
    params: serde_json::Value,
) -> Result<bool, Broken> {
    let reply = process.ask(&Request::new(method, params), activity.patience).await?;
    Ok(matches!(reply, Reply::Result(_)))
}

/// How many changes were told of the resource (or of what lies below it), and how many of others.
fn updates(process: &Process, uri: Option<&str>) -> (u64, u64) {
    let of_it = |changed: &&String| uri.is_some_and(|uri| changed.starts_with(uri));
    let told = process.heard.updates.iter().filter(of_it).count();
    (told as u64, (process.heard.updates.len() - told) as u64)
}

/// Has one session begin a task, and the other look for it.
async fn tasks(process: &mut Process, activity: &Activity) -> Result<Tasks, Broken> {
    let Some(call) = &activity.task else { return Ok(Tasks::default()) };
    let begun = process.ask(&Request::task(call), activity.patience).await?.result();
    let Some(id) = begun.as_ref().and_then(words::task_id) else { return Ok(Tasks::default()) };
    let list = process.ask(&Request::page(Known::TasksList, None), activity.patience).await?.result();
    let listed = list.is_some_and(|page| words::lists_task(&page, id));
    // It may be over by now; that is no error here.
    process.ask(&words::cancel_task(id), activity.patience).await?;
    Ok(Tasks { begun: true, listed })
}
