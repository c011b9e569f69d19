//! `${VAR}` and `${VAR:-default}`.

use super::fault::FaultKind;

/// Puts the values of variables into a text.
///
/// `${NAME}` must be set; `${NAME:-default}` takes the default if the variable is unset or empty, as a shell does.
/// `${env:NAME}` is read as `${NAME}`, since some hosts write it so. `$${` stands for `${`; any other `$` for itself.
/// Values are taken as they are: what looks like a reference in one is text.
///
/// # Errors
///
/// Every reference that cannot be resolved.
pub(crate) fn expand(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<String, Vec<FaultKind>> {
    let mut expanded = String::with_capacity(text.len());
    let mut faults = Vec::new();
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        expanded.push_str(&rest[..dollar]);
        rest = &rest[dollar..];
        if let Some(after) = rest.strip_prefix("$${") {
            expanded.push_str("${");
            rest = after;
        } else if let Some(after) = rest.strip_prefix("${") {
            let Some((reference, after)) = after.split_once('}') else {
                // What follows belongs to the broken reference: nothing more can be said about it.
                faults.push(FaultKind::BadReference);
                rest = "";
                continue;
            };
            match resolve(reference, variable) {
                Ok(value) => expanded.push_str(&value),
                Err(fault) => faults.push(fault),
            }
            rest = after;
        } else {
            expanded.push('$');
            rest = &rest[1..];
        }
    }
    expanded.push_str(rest);
    if faults.is_empty() { Ok(expanded) } else { Err(faults) }
}

/// The text that [`expand`] turns into `text`.
pub(crate) fn escape(text: &str) -> String {
    text.replace("${", "$${")
}

fn resolve(reference: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<String, FaultKind> {
    let (name, default) = match reference.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (reference, None),
    };
    let name = name.strip_prefix("env:").unwrap_or(name);
    if !is_name(name) {
        return Err(FaultKind::BadReference);
    }
    match (variable(name), default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err(FaultKind::Unset { name: name.to_owned() }),
    }
}

fn is_name(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
