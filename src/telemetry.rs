//! Logging: what is written to standard error. Standard output belongs to protocols and results.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{LevelFilter, ParseError};

/// The filter that `text` asks for. A bare level is meant for our own events: at `debug`, the HTTP stack would drown
/// them. The others' warnings are shown with it; a filter with targets is taken as it is.
///
/// # Errors
///
/// If it is neither a level nor a filter.
pub(crate) fn filter(text: &str) -> Result<EnvFilter, ParseError> {
    let builder = EnvFilter::builder();
    match text.parse::<LevelFilter>() {
        Ok(level) if level > LevelFilter::WARN => builder.parse(format!("warn,shadowcat={level}")),
        Ok(level) => builder.parse(level.to_string()),
        Err(_) => builder.parse(text),
    }
}

/// Starts logging, as JSON or as text for people. Later calls change nothing: a program has one log.
///
/// # Errors
///
/// If `text` is no filter.
pub(crate) fn init(text: &str, json: bool) -> Result<(), ParseError> {
    let builder = tracing_subscriber::fmt().with_env_filter(filter(text)?).with_writer(std::io::stderr);
    let _started_before = if json {
        builder.json().flatten_event(true).try_init()
    } else {
        let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        builder.with_ansi(colours).try_init()
    };
    Ok(())
}
