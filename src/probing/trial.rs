//! The course of a trial: which processes there are, and who does what with them.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{sleep_until, timeout};

use super::judge::observed::{Asking, Ended, Observed, Offers, Stop, View};
use super::judge::{self, Judgement};
use super::launch::{Launcher, Opened, has_handshake};
use super::look::{Activity, Trouble};
use super::manners;
use super::process::{Broken, Client, Process};
use super::words::{self, Introduction};
use super::{Failure, Memory, Plan, Report, Server, Speaks, Stage, kin};
use crate::protocol::revision::Era;
use crate::rt::Tasks;

/// How long a trial may take at all. Each step of it is bounded; this is for servers that use all of all bounds.
const LONGEST: Duration = Duration::from_secs(30 * 60);

/// How long a process may take to ask its client something by itself. Servers like to wait a moment before they ask for roots.
const LATE_QUESTIONS: Duration = Duration::from_secs(1);

/// Tries a server out. `show` is told what is being done.
///
/// # Errors
/// The server does not work at all, so that there is nothing to judge. What was started may still be ending: the caller closes
/// `tasks`.
///
/// # Cancel safety
/// Dropped, it stops what it started, and what it found is lost.
pub(crate) async fn run(plan: &Plan, tasks: &Tasks, show: &dyn Fn(Stage)) -> Result<Report, Failure> {
    let mut trial = Trial {
        launcher: Launcher::new(plan, tasks),
        plan,
        tasks,
        show,
        seen: Observed::default(),
        server: Server::default(),
        starts: Vec::new(),
        memory: Vec::new(),
        lists: 0,
        stopping: Vec::new(),
    };
    match timeout(LONGEST, trial.observe()).await {
        Ok(Ok(())) => {}
        Ok(Err(Cut::Failure(failure))) => return Err(failure),
        Ok(Err(Cut::Ended(ended))) => trial.seen.ended = Some(ended),
        Err(_) => return Err(Failure::TooLong(LONGEST)),
    }
    trial.report().await
}

struct Trial<'a> {
    launcher: Launcher<'a>,
    plan: &'a Plan,
    tasks: &'a Tasks,
    show: &'a dyn Fn(Stage),
    seen: Observed,
    server: Server,
    /// From start to first answer, in the order of the starts.
    starts: Vec<Duration>,
    memory: Vec<Memory>,
    lists: usize,
    /// Processes that are being stopped.
    stopping: Vec<oneshot::Receiver<Stop>>,
}

/// Why a trial does not go on.
enum Cut {
    Failure(Failure),
    /// A process ended by itself: that is something to judge.
    Ended(Ended),
}

impl From<Failure> for Cut {
    fn from(failure: Failure) -> Cut {
        Cut::Failure(failure)
    }
}

impl Trial<'_> {
    async fn observe(&mut self) -> Result<(), Cut> {
        (self.show)(Stage::Starting);
        let (era, first) = self.introduce().await?;
        self.seen.modern = era == Era::Modern;
        self.seen.offers = Some(offers(era, &first.introduction));
        (self.show)(Stage::Alone);
        let introduction = first.introduction;
        let looked = self.using(first.process, async |process| first_look(process, &introduction, self.plan).await);
        let (first, (activity, views)) = looked.await?;
        self.begin(&activity);
        self.seen.alone.push(views);

        (self.show)(Stage::Shared);
        let shared = self.open(era).await?;
        let (shared, age) = self.share(shared, &activity).await?;
        self.memory = [first.pid(), shared.pid()].into_iter().filter_map(kin::memory).collect();
        self.retire(first);
        let offers = self.seen.offers.unwrap_or_default();
        let observed = self.using(shared, async |process| {
            let overlap = activity.overlap(process).await?;
            let manners = manners::observe(process, &activity, offers).await?;
            Ok::<_, Broken>((overlap, manners))
        });
        let (shared, (overlap, manners)) = observed.await?;
        self.retire(shared);
        self.seen.overlap = Some(overlap);
        (self.seen.subscription, self.seen.levels) = (manners.subscription, manners.levels);
        self.seen.tasks = manners.tasks;
        self.alone(era, &activity, age).await?;

        if judge::is_worth_repeating(&self.seen) {
            (self.show)(Stage::Again);
            let shared = self.open(era).await?;
            let (shared, age) = self.share(shared, &activity).await?;
            self.retire(shared);
            self.alone(era, &activity, age).await?;
        }
        if era == Era::Legacy {
            (self.show)(Stage::Asking);
            self.be_asked(&activity).await;
        }
        Ok(())
    }

    /// Finds out what the server speaks, and opens a process in that language. A server of both eras is tried with the
    /// handshake: whoever speaks that would otherwise need a process of his own.
    async fn introduce(&mut self) -> Result<(Era, Opened), Cut> {
        let spoken = self.launcher.ask_era().await?;
        self.starts.extend(spoken.took);
        if let Some(process) = spoken.process {
            // What old servers say to a question that they do not know is of no interest.
            self.stop(process);
        }
        let versions = spoken.versions;
        let legacy = match versions.as_deref() {
            None => Some(self.launcher.open(Era::Legacy, Client::Nobody).await?),
            Some(versions) if has_handshake(versions) => match self.launcher.open(Era::Legacy, Client::Nobody).await {
                Ok(opened) => Some(opened),
                Err(failure @ Failure::Start(_)) => return Err(failure.into()),
                // It says so, and it is not so; the other language is left.
                Err(_) => None,
            },
            Some(_) => None,
        };
        let (era, opened) = match legacy {
            Some(opened) => (Era::Legacy, opened),
            None => (Era::Modern, self.launcher.open(Era::Modern, Client::Nobody).await?),
        };
        self.starts.push(opened.took);
        let introduction = &opened.introduction;
        self.server = Server {
            name: introduction.name.clone(),
            version: introduction.version.clone(),
            speaks: match (&versions, era) {
                (None, _) => Speaks::Legacy,
                (Some(_), Era::Legacy) => Speaks::Both,
                (Some(_), Era::Modern) => Speaks::Modern,
            },
            revisions: match versions {
                None => vec![introduction.revision.clone()],
                Some(versions) => versions.iter().map(|version| words::printable(version)).collect(),
            },
        };
        Ok((era, opened))
    }

    /// Notes what is going to be tried.
    fn begin(&mut self, activity: &Activity) {
        self.seen.tools = activity.tools;
        self.seen.asked = activity.asked();
        self.seen.left_out.clone_from(&activity.left_out);
        self.lists = activity.lists();
    }

    /// Opens a further process.
    async fn open(&mut self, era: Era) -> Result<Process, Cut> {
        let opened = self.launcher.open(era, Client::Nobody).await;
        let opened = opened.map_err(|failure| Failure::Further(Box::new(failure)))?;
        self.starts.push(opened.took);
        Ok(opened.process)
    }

    /// Two sessions take turns: B, A, B. Also the age of the process when A was done.
    async fn share(&mut self, process: Process, activity: &Activity) -> Result<(Process, Duration), Cut> {
        let looked = self.using(process, async |process| {
            let (before, other) = (activity.look(process).await?, activity.look(process).await?);
            let age = process.started.elapsed();
            Ok::<_, Broken>(([before, other, activity.look(process).await?], age))
        });
        let (process, (views, age)) = looked.await?;
        self.seen.shared.push(views);
        Ok((process, age))
    }

    /// A session that has a process for itself looks twice, when the process is as old as the shared one was when its second session
    /// was done. The first look of all came earlier in the life of its process than that session, this one comes later: what changes
    /// with the time of day, or the age of a process, does not look like another session's doing.
    async fn alone(&mut self, era: Era, activity: &Activity, age: Duration) -> Result<(), Cut> {
        let process = self.open(era).await?;
        sleep_until(process.started + age).await;
        let looked = self.using(process, async |process| {
            Ok::<_, Broken>([activity.look(process).await?, activity.look(process).await?])
        });
        let (process, views) = looked.await?;
        self.seen.alone.push(views);
        self.retire(process);
        Ok(())
    }

    /// Looks with a process that was told that its client can be asked. That it does not work is part of what is found.
    async fn be_asked(&mut self, activity: &Activity) {
        self.seen.asking = Some(Asking::default());
        let Ok(opened) = self.launcher.open(Era::Legacy, Client::StandIn).await else { return };
        let looked = self.using(opened.process, async |process| {
            let view = activity.look(process).await?;
            process.linger(LATE_QUESTIONS).await?;
            Ok::<_, Broken>(view)
        });
        if let Ok((process, view)) = looked.await {
            self.retire(process);
            if let Some(asking) = &mut self.seen.asking {
                asking.view = view;
            }
        }
    }

    /// Does something with a process. One that breaks is stopped, and its last words are told.
    async fn using<T, E: Into<Trouble>>(
        &mut self,
        mut process: Process,
        work: impl AsyncFnOnce(&mut Process) -> Result<T, E>,
    ) -> Result<(Process, T), Cut> {
        match work(&mut process).await.map_err(Into::into) {
            Ok(value) => Ok((process, value)),
            Err(Trouble::Failure(failure)) => {
                self.retire(process);
                Err(Cut::Failure(failure))
            }
            Err(Trouble::Broken(broken)) => {
                self.note(&process);
                let (why, words) = process.autopsy(&broken.why).await;
                Err(Cut::Ended(Ended { during: broken.during, why, words }))
            }
        }
    }

    /// Keeps what a process said unasked.
    fn note(&mut self, process: &Process) {
        self.seen.unknown_answers += process.heard.unknown;
        self.seen.repeated_answers += process.heard.repeated;
        match (process.client, &mut self.seen.asking) {
            (Client::StandIn, Some(asking)) => asking.questions = asking.questions.and(process.heard.questions),
            _ => self.seen.asked_in_vain = self.seen.asked_in_vain.and(process.heard.questions),
        }
    }

    /// Keeps what a process said unasked, and stops it.
    fn retire(&mut self, process: Process) {
        self.note(&process);
        self.stop(process);
    }

    /// Stops a process while others go on.
    fn stop(&mut self, process: Process) {
        let (sender, stop) = oneshot::channel();
        self.stopping.push(stop);
        self.tasks.spawn("probe-stop", async move {
            let _ = sender.send(process.close().await);
        });
    }

    async fn report(mut self) -> Result<Report, Failure> {
        (self.show)(Stage::Stopping);
        for stop in self.stopping {
            self.seen.stops.extend(stop.await);
        }
        let judgement: Judgement = judge::judge(&self.seen);
        let mut starts = self.starts.into_iter();
        Ok(Report {
            server: self.server,
            startup: [starts.next(), starts.next()],
            memory: self.memory,
            lists: self.lists,
            judgement,
            ended: self.seen.ended,
        })
    }
}

/// What a server declares that is tied to a session; nothing is with 2026-07-28.
fn offers(era: Era, introduction: &Introduction) -> Offers {
    let declares = |path: &[&str]| era == Era::Legacy && introduction.declares(path);
    Offers {
        subscriptions: declares(&["resources", "subscribe"]),
        logging: declares(&["logging"]),
        tasks: declares(&["tasks"]),
    }
}

async fn first_look(
    process: &mut Process,
    introduction: &Introduction,
    plan: &Plan,
) -> Result<(Activity, [View; 2]), Trouble> {
    let (activity, first) = Activity::find(process, introduction, plan).await?;
    let again = activity.look(process).await?;
    Ok((activity, [first, again]))
}
