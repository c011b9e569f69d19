//! The arguments of `tape`.

use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{Args, Subcommand};

/// `tape`: look at tapes.
#[derive(Debug, Subcommand)]
pub enum TapeCommand {
    /// Show who said what to whom, when, and how long it took to be answered
    Show(ShowArgs),
    /// List the tapes of a folder
    List(ListArgs),
    /// Find out whether a tape is whole and in order, and whether its messages are what the specification says
    ///
    /// Exits with 0, with 7 if there are faults, with 6 if it cannot be read.
    Check(CheckArgs),
    /// Tell in what the servers of two tapes differ: what they offer, how it is described, what it takes
    ///
    /// Exits with 0 if they offer the same, with 7 if not, with 6 if a tape cannot be read.
    Diff(DiffArgs),
    /// Write a tape without its secrets
    Redact(RedactArgs),
    /// Write a tape in another form
    Export(ExportArgs),
}

/// `tape show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The tape: a file, several of one recording, or a folder with nothing else
    #[arg(value_name = "TAPE", required = true)]
    pub tapes: Vec<PathBuf>,

    /// Go on with what is written to the tape, and to those that it goes on in, until the end
    #[arg(long, short, env = "SHADOWCAT_FOLLOW", value_parser = BoolishValueParser::new())]
    pub follow: bool,

    /// Only what this method is about; `*` at its end stands for anything
    #[arg(long, env = "SHADOWCAT_METHOD", value_name = "METHOD")]
    pub method: Option<String>,

    /// Only what this tool (or prompt, or resource) is about; `*` at its end stands for anything
    #[arg(long, env = "SHADOWCAT_TOOL", value_name = "NAME")]
    pub tool: Option<String>,

    /// Only the request of this id, and its answer
    #[arg(long, env = "SHADOWCAT_ID", value_name = "ID")]
    pub id: Option<String>,
}

/// `tape list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// The folder
    #[arg(value_name = "DIR", default_value = ".")]
    pub folder: PathBuf,

    /// Print one JSON object
    #[arg(long, env = "SHADOWCAT_JSON", value_parser = BoolishValueParser::new())]
    pub json: bool,
}

/// `tape check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The tapes, or folders of them; files of one recording count as one
    #[arg(value_name = "TAPE", required = true)]
    pub tapes: Vec<PathBuf>,

    /// Count notes as faults: frames that are missing, requests without an answer
    #[arg(long, env = "SHADOWCAT_STRICT", value_parser = BoolishValueParser::new())]
    pub strict: bool,

    /// Print one JSON object per tape
    #[arg(long, env = "SHADOWCAT_JSON", value_parser = BoolishValueParser::new())]
    pub json: bool,
}

/// `tape diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// What was
    #[arg(value_name = "OLD")]
    pub old: PathBuf,

    /// What is
    #[arg(value_name = "NEW")]
    pub new: PathBuf,

    /// What does not count, as a JSON pointer into a tool (or prompt, …), such as `/description` (repeatable, or separated by commas)
    #[arg(long, env = "SHADOWCAT_IGNORE", value_name = "POINTER", value_delimiter = ',')]
    pub ignore: Vec<String>,

    /// Print one JSON object
    #[arg(long, env = "SHADOWCAT_JSON", value_parser = BoolishValueParser::new())]
    pub json: bool,
}

/// What is taken out of a tape.
#[derive(Debug, Args)]
pub struct RedactArgs {
    /// The tape
    #[arg(value_name = "TAPE")]
    pub tape: PathBuf,

    /// Where to write what is left [default: in place of the tape]
    #[arg(long, short, env = "SHADOWCAT_OUTPUT", value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Take out values of members with this name, besides the usual ones; `*` stands for anything (repeatable, or separated by commas)
    #[arg(long = "redact-key", env = "SHADOWCAT_REDACT_KEY", value_name = "NAME", value_delimiter = ',')]
    pub keys: Vec<String>,

    /// Take out what is at this JSON pointer into a message (repeatable, or separated by commas)
    #[arg(long = "redact-pointer", env = "SHADOWCAT_REDACT_POINTER", value_name = "POINTER", value_delimiter = ',')]
    pub pointers: Vec<String>,

    /// Take out what matches this regular expression (repeatable)
    #[arg(long = "redact-pattern", env = "SHADOWCAT_REDACT_PATTERN", value_name = "REGEX")]
    pub patterns: Vec<String>,

    /// Leave the usual names and forms of secrets
    #[arg(long, env = "SHADOWCAT_NO_REDACT_DEFAULTS", value_parser = BoolishValueParser::new())]
    pub no_redact_defaults: bool,
}

/// `tape export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The tape
    #[arg(value_name = "TAPE")]
    pub tape: PathBuf,

    /// As an HTTP Archive
    #[arg(
        long,
        env = "SHADOWCAT_EXPORT_HAR",
        value_parser = BoolishValueParser::new(),
        required_unless_present = "json",
        conflicts_with = "json"
    )]
    pub har: bool,

    /// As one JSON document
    #[arg(long, env = "SHADOWCAT_EXPORT_JSON", value_parser = BoolishValueParser::new())]
    pub json: bool,

    /// Where to write it [default: standard output]
    #[arg(long, short, env = "SHADOWCAT_OUTPUT", value_name = "FILE")]
    pub output: Option<PathBuf>,
}
