//! Leaks on purpose: whoever trusts the soak has to see it fail. `SHADOWCAT_SOAK_LEAK` names one of them.

/// What goes wrong: the first four a little with every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leak {
    /// Open files.
    Files,
    /// Processes: children that nobody waits for.
    Children,
    /// Memory.
    Memory,
    /// Tasks that never end.
    Tasks,
    /// Answers: what was asked for is not what is expected.
    Answers,
    /// Sessions that keep a stream open for ever.
    Streams,
    /// An event: it is heard twice.
    Duplicated,
    /// An event: nobody hears it.
    Lost,
    /// An event: somebody else hears it, too.
    Misrouted,
    /// A call: it is sent to its server twice.
    Twice,
}

impl Leak {
    const NAMED: [(&str, Leak); 10] = [
        ("files", Leak::Files),
        ("children", Leak::Children),
        ("memory", Leak::Memory),
        ("tasks", Leak::Tasks),
        ("answers", Leak::Answers),
        ("streams", Leak::Streams),
        ("duplicated", Leak::Duplicated),
        ("lost", Leak::Lost),
        ("misrouted", Leak::Misrouted),
        ("twice", Leak::Twice),
    ];

    /// The one that the environment asks for.
    pub(crate) fn asked_for() -> Option<Leak> {
        let name = std::env::var("SHADOWCAT_SOAK_LEAK").ok().filter(|name| !name.is_empty())?;
        let known = Self::NAMED.iter().find(|(known, _)| *known == name);
        Some(known.unwrap_or_else(|| panic!("SHADOWCAT_SOAK_LEAK: no such leak: {name}")).1)
    }

    /// Loses something.
    #[expect(clippy::disallowed_methods, reason = "what nobody owns is the fault that is to be noticed")]
    pub(crate) fn drip(self) {
        match self {
            Leak::Files => std::mem::forget(std::fs::File::open("/dev/null").unwrap()),
            Leak::Children => std::mem::forget(std::process::Command::new("true").spawn().unwrap()),
            Leak::Memory => std::mem::forget(vec![1u8; 16 << 10]),
            Leak::Tasks => drop(tokio::spawn(std::future::pending::<()>())),
            Leak::Answers | Leak::Streams | Leak::Duplicated | Leak::Lost | Leak::Misrouted | Leak::Twice => {}
        }
    }
}
