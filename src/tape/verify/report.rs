//! What came of a tape, as text, as JSON and as JUnit XML. Pure.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::super::compare::Difference;
use super::super::show::printable;
use super::{Outcome, Told, Verdict, Verified};

/// For people: a line for each request that was answered otherwise, and why; and how many there were.
#[must_use]
pub fn text(verified: &Verified) -> String {
    let mut text = String::new();
    let count = |wanted: fn(&Outcome) -> bool| verified.outcomes.iter().filter(|one| wanted(one)).count();
    for outcome in &verified.outcomes {
        let mark = match &outcome.verdict {
            _ if !outcome.is_same() => "✘",
            Verdict::Skipped(_) => "-",
            _ => continue,
        };
        let _ = writeln!(text, "{mark} {}", name(outcome));
        for told in &outcome.told {
            let _ = writeln!(text, "    before the answer: {}", printable(&told.to_string()));
        }
        let _ = match &outcome.verdict {
            Verdict::Same => Ok(()),
            Verdict::Different(differences) => {
                differences.iter().try_for_each(|one| writeln!(text, "    {}", printable(&one.to_string())))
            }
            Verdict::NoAnswer(why) => writeln!(text, "    no answer: {}", printable(why)),
            Verdict::Skipped(why) => writeln!(text, "    not compared: {why}"),
        };
    }
    for told in &verified.told {
        let _ = writeln!(text, "✘ the server tells by itself: {}", printable(&told.to_string()));
    }
    for question in &verified.questions {
        let _ = writeln!(text, "✘ the server asked what cannot be answered: {}", printable(question));
    }
    let _ = writeln!(
        text,
        "{} requests: {} answered as recorded, {} otherwise, {} not at all, {} not compared",
        verified.outcomes.len(),
        count(|one| one.verdict == Verdict::Same && one.is_same()),
        count(|one| !one.is_same() && !matches!(one.verdict, Verdict::NoAnswer(_))),
        count(|one| matches!(one.verdict, Verdict::NoAnswer(_))),
        count(|one| matches!(one.verdict, Verdict::Skipped(_)) && one.is_same()),
    );
    text
}

/// For programs.
#[must_use]
pub fn json(tape: &str, verified: &Verified) -> Value {
    let outcomes = verified.outcomes.iter().map(|outcome| {
        let (verdict, why, differences) = match &outcome.verdict {
            Verdict::Same if outcome.is_same() => ("same", None, vec![]),
            Verdict::Same => ("different", None, vec![]),
            Verdict::Different(found) => ("different", None, found.iter().map(difference_json).collect()),
            Verdict::NoAnswer(why) => ("no answer", Some(why.as_str()), vec![]),
            Verdict::Skipped(why) => ("skipped", Some(*why), vec![]),
        };
        json!({
            "frame": outcome.seq, "method": outcome.method, "name": outcome.subject, "verdict": verdict, "why": why,
            "differences": differences, "notifications": told_json(&outcome.told),
            "milliseconds": outcome.took.as_secs_f64() * 1000.0,
        })
    });
    json!({
        "tape": tape, "same": verified.is_same(), "requests": outcomes.collect::<Vec<_>>(),
        "notifications": told_json(&verified.told), "questions": verified.questions,
    })
}

fn told_json(told: &[Told]) -> Vec<Value> {
    let one = |told: &Told| match told {
        Told::Different { seq, method, differences, .. } => {
            let differences: Vec<Value> = differences.iter().map(difference_json).collect();
            json!({ "frame": seq, "method": method, "verdict": "different", "differences": differences })
        }
        Told::Missing { seq, method } => json!({ "frame": seq, "method": method, "verdict": "missing" }),
        Told::Moved { seq, method } => json!({ "frame": seq, "method": method, "verdict": "moved" }),
        Told::Unexpected { method, said } => json!({ "method": method, "verdict": "unexpected", "said": said }),
    };
    told.iter().map(one).collect()
}

/// A difference: values as JSON text, since their numbers are exact.
#[must_use]
pub fn difference_json(difference: &Difference) -> Value {
    let value = |value: &Option<super::super::json::Json>| value.as_ref().map(ToString::to_string);
    json!({
        "path": difference.path, "expected": value(&difference.expected), "actual": value(&difference.actual),
    })
}

/// For what reads the results of tests: the tape is a suite, a request a case.
#[must_use]
pub fn junit(tape: &str, verified: &Verified) -> String {
    let failures = verified.outcomes.iter().filter(|one| !one.is_same()).count();
    let failures = failures + verified.questions.len() + usize::from(!verified.told.is_empty());
    let is_skipped = |one: &&Outcome| matches!(one.verdict, Verdict::Skipped(_)) && one.is_same();
    let skipped = verified.outcomes.iter().filter(is_skipped).count();
    let tests = verified.outcomes.len() + verified.questions.len() + usize::from(!verified.told.is_empty());
    let time: f64 = verified.outcomes.iter().map(|one| one.took.as_secs_f64()).sum();
    let suite = escaped(tape);
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"shadowcat verify\" tests=\"{tests}\" failures=\"{failures}\">\n  \
         <testsuite name=\"{suite}\" tests=\"{tests}\" failures=\"{failures}\" skipped=\"{skipped}\" time=\"{time:.3}\">\n"
    );
    for outcome in &verified.outcomes {
        let (case, time) = (escaped(&name(outcome)), outcome.took.as_secs_f64());
        let _ = write!(xml, "    <testcase classname=\"{suite}\" name=\"{case}\" time=\"{time:.3}\"");
        let mut lines: Vec<String> = outcome.told.iter().map(ToString::to_string).collect();
        let mut message = format!("{} differences", lines.len());
        match &outcome.verdict {
            Verdict::Different(found) => {
                lines.extend(found.iter().map(ToString::to_string));
                message = format!("{} differences", lines.len());
            }
            Verdict::NoAnswer(why) => {
                lines.push(why.clone());
                message = "no answer".to_owned();
            }
            Verdict::Same | Verdict::Skipped(_) => {}
        }
        let _ = match &outcome.verdict {
            _ if !outcome.is_same() => {
                let lines: Vec<String> = lines.iter().map(|line| escaped(line)).collect();
                writeln!(xml, "><failure message=\"{message}\">{}</failure></testcase>", lines.join("\n"))
            }
            Verdict::Skipped(why) => writeln!(xml, "><skipped message=\"{why}\"/></testcase>"),
            _ => writeln!(xml, "/>"),
        };
    }
    if !verified.told.is_empty() {
        let lines: Vec<String> = verified.told.iter().map(|one| escaped(&one.to_string())).collect();
        let _ = writeln!(
            xml,
            "    <testcase classname=\"{suite}\" name=\"what the server tells by itself\" time=\"0\"><failure message=\"{} differences\">{}</failure></testcase>",
            lines.len(),
            lines.join("\n")
        );
    }
    for question in &verified.questions {
        let question = escaped(question);
        let _ = writeln!(
            xml,
            "    <testcase classname=\"{suite}\" name=\"a question of the server\" time=\"0\"><failure message=\"no answer on the tape\">{question}</failure></testcase>"
        );
    }
    xml + "  </testsuite>\n</testsuites>\n"
}

/// As JUnit XML, of something that is one case.
pub fn junit_of(tape: &str, case: &str, findings: &[String]) -> String {
    let (suite, case, failures) = (escaped(tape), escaped(case), usize::from(!findings.is_empty()));
    let failure = match findings {
        [] => String::new(),
        all => {
            let lines: Vec<String> = all.iter().map(|one| escaped(one)).collect();
            format!("<failure message=\"{} differences\">{}</failure>", all.len(), lines.join("\n"))
        }
    };
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"shadowcat verify\" tests=\"1\" failures=\"{failures}\">\n  \
         <testsuite name=\"{suite}\" tests=\"1\" failures=\"{failures}\">\n    \
         <testcase classname=\"{suite}\" name=\"{case}\">{failure}</testcase>\n  </testsuite>\n</testsuites>\n"
    )
}

fn name(outcome: &Outcome) -> String {
    let subject = outcome.subject.as_ref().map(|subject| format!(" {}", printable(subject))).unwrap_or_default();
    format!("#{} {}{subject}", outcome.seq, printable(&outcome.method))
}

/// Text for XML 1.0, which has no place for most control characters.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\t' | '\n' => escaped.push(c),
            c if c.is_control() || matches!(c, '\u{FFFE}' | '\u{FFFF}') => escaped.push('�'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests;
