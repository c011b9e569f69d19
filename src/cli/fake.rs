//! `shadowcat fake`: the scripted servers as programs.

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

use super::run::{Ended, with_runtime};
use super::{Exit, Fake, complain};
use crate::rt::Tasks;
use crate::testing::{self, MockSse, Record, Script, Transport};

/// Runs a fake server until it ends.
pub(super) fn run(fake: Fake) -> ExitCode {
    let ended = match &fake {
        Fake::Stdio { script } => read_script(script.as_deref(), Transport::Stdio).and_then(stdio),
        Fake::Sse { listen, plan, record } => read_script(plan.as_deref(), Transport::Http)
            .and_then(|script| Ok(sse(*listen, script, open(record.as_deref())?))),
    };
    ended.unwrap_or_else(|(exit, text)| {
        complain(format_args!("error: {text}"));
        exit.into()
    })
}

type Refusal = (Exit, String);

fn read_script(path: Option<&Path>, transport: Transport) -> Result<Script, Refusal> {
    let Some(path) = path else { return Ok(Script::default()) };
    let invalid = |error: &dyn std::fmt::Display| (Exit::Config, format!("{}: {error}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| invalid(&error))?;
    let script = Script::from_json(&text).map_err(|error| invalid(&error))?;
    script.check(Some(transport)).map_err(|error| invalid(&error))?;
    Ok(script)
}

fn open(path: Option<&Path>) -> Result<Record, Refusal> {
    let Some(path) = path else { return Ok(Record::Nothing) };
    let file = File::create(path).map_err(|error| (Exit::Usage, format!("--record: {}: {error}", path.display())))?;
    Ok(Record::File(file))
}

/// Signals are left alone: what they do to it is part of what is scripted.
fn stdio(script: Script) -> Result<ExitCode, Refusal> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| (Exit::Internal, error.to_string()))?;
    let code = runtime.block_on(testing::run_stdio(script));
    // A thread that is blocked in reading standard input would be waited for.
    runtime.shutdown_background();
    Ok(code)
}

fn sse(listen: SocketAddr, script: Script, record: Record) -> ExitCode {
    with_runtime(async move |signals| {
        let mut mock = match MockSse::start_recording(listen, script, record).await {
            Ok(mock) => mock,
            Err(error) => {
                complain(format_args!("error: {listen}: {error}"));
                return Ended::Exit(Exit::Listen);
            }
        };
        // What is unused is said here instead.
        mock.allow_unused();
        complain(format_args!("listening: {} (Streamable HTTP), {} (HTTP+SSE)", mock.url(), mock.sse_url()));
        let tasks = Tasks::new();
        let code = tokio::select! {
            ended = mock.ended() => match ended {
                Ok(code) => code,
                Err(error) => {
                    complain(format_args!("error: --record: {error}"));
                    return Ended::Exit(Exit::Internal);
                }
            },
            _ = signals.obey(&tasks) => Exit::Fine as u8,
        };
        let unused = mock.unused();
        for fault in &unused {
            let fault = serde_json::to_string(fault).unwrap_or_default();
            complain(format_args!("error: a fault of the plan never happened: {fault}"));
        }
        if unused.is_empty() { Ended::Code(code) } else { Ended::Exit(Exit::Negative) }
    })
}
