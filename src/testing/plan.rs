//! Which faults are due: the script's, with how often each has fitted.

use std::sync::{Mutex, PoisonError};

use super::faults::{Do, Fault};
use super::incoming::Incoming;

/// Something at which a fault may happen.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Occasion<'a> {
    pub(crate) start: bool,
    pub(crate) http: Option<&'a str>,
    pub(crate) message: Option<&'a Incoming>,
}

/// The faults of a script with how often each has fitted.
#[derive(Debug)]
pub(crate) struct Plan(Mutex<Vec<Planned>>);

#[derive(Debug)]
struct Planned {
    fault: Fault,
    fitted: u64,
    happened: u64,
}

impl Plan {
    pub(crate) fn new(faults: &[Fault]) -> Plan {
        let planned = |fault: &Fault| Planned { fault: fault.clone(), fitted: 0, happened: 0 };
        Plan(Mutex::new(faults.iter().map(planned).collect()))
    }

    /// Counts an occasion, and says what goes wrong on it.
    pub(crate) fn on(&self, occasion: Occasion<'_>) -> Vec<Do> {
        let mut happening = Vec::new();
        for planned in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
            if !planned.fault.on.fits(occasion) {
                continue;
            }
            planned.fitted += 1;
            if planned.fault.on.nth.is_none_or(|nth| nth == planned.fitted) {
                planned.happened += 1;
                happening.push(planned.fault.fault.clone());
            }
        }
        happening
    }

    /// Adds a fault; its occasions count from now.
    pub(crate) fn add(&self, fault: Fault) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Planned { fault, fitted: 0, happened: 0 });
    }

    /// The faults that never happened.
    pub(crate) fn unused(&self) -> Vec<Fault> {
        let planned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        planned.iter().filter(|planned| planned.happened == 0).map(|planned| planned.fault.clone()).collect()
    }
}
