//! Method names, and what the proxy has to know about some of them.

macro_rules! methods {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// A method that some revision defines. Everything else passes unread.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Known { $($(#[$doc])* $name,)* }

        impl Known {
            /// Every known method.
            pub const ALL: &'static [Known] = &[$(Known::$name,)*];

            /// Reads a method name.
            pub fn parse(text: &str) -> Option<Known> {
                match text { $($text => Some(Known::$name),)* _ => None }
            }

            /// As written on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $(Known::$name => $text,)* }
            }
        }
    };
}

methods! {
    /// Legacy handshake.
    Initialize = "initialize",
    /// Modern self-description.
    Discover = "server/discover",
    /// Legacy liveness check, both ways.
    Ping = "ping",
    /// Tools, listed.
    ToolsList = "tools/list",
    /// A tool, called.
    ToolsCall = "tools/call",
    /// Prompts, listed.
    PromptsList = "prompts/list",
    /// A prompt, filled in.
    PromptsGet = "prompts/get",
    /// Resources, listed.
    ResourcesList = "resources/list",
    /// Resource templates, listed.
    ResourceTemplatesList = "resources/templates/list",
    /// A resource, read.
    ResourcesRead = "resources/read",
    /// Legacy subscription to one resource.
    ResourcesSubscribe = "resources/subscribe",
    /// Its end.
    ResourcesUnsubscribe = "resources/unsubscribe",
    /// Modern stream of notifications.
    Listen = "subscriptions/listen",
    /// Completion of an argument.
    Complete = "completion/complete",
    /// Legacy log level of a session.
    SetLevel = "logging/setLevel",
    /// A task, asked after.
    TasksGet = "tasks/get",
    /// A task's input, delivered (modern).
    TasksUpdate = "tasks/update",
    /// A task's result (2025-11-25).
    TasksResult = "tasks/result",
    /// Tasks, listed (2025-11-25).
    TasksList = "tasks/list",
    /// A task, cancelled.
    TasksCancel = "tasks/cancel",
    /// Server to client: a model call.
    CreateMessage = "sampling/createMessage",
    /// Server to client: a question to the user.
    Elicit = "elicitation/create",
    /// Server to client: the client's roots.
    RootsList = "roots/list",
    /// The client is ready (legacy).
    Initialized = "notifications/initialized",
    /// A request is no longer wanted.
    Cancelled = "notifications/cancelled",
    /// A request has got somewhere.
    Progress = "notifications/progress",
    /// A log message.
    LogMessage = "notifications/message",
    /// A resource has changed.
    ResourceUpdated = "notifications/resources/updated",
    /// The list of resources has changed.
    ResourcesChanged = "notifications/resources/list_changed",
    /// The list of tools has changed.
    ToolsChanged = "notifications/tools/list_changed",
    /// The list of prompts has changed.
    PromptsChanged = "notifications/prompts/list_changed",
    /// The client's roots have changed (legacy).
    RootsChanged = "notifications/roots/list_changed",
    /// A listen stream has begun (modern).
    SubscriptionAcknowledged = "notifications/subscriptions/acknowledged",
    /// A task has got somewhere (2025-11-25).
    TaskStatus = "notifications/tasks/status",
    /// The same in the extension for tasks.
    TaskChanged = "notifications/tasks",
}

impl Known {
    /// The parameter that the `Mcp-Name` header repeats (2026-07-28, Streamable HTTP › Standard Request Headers), and whether the header is required.
    pub fn name_param(self) -> Option<(&'static str, bool)> {
        match self {
            Known::ToolsCall | Known::PromptsGet => Some(("name", true)),
            Known::ResourcesRead => Some(("uri", true)),
            Known::TasksGet | Known::TasksUpdate | Known::TasksCancel => Some(("taskId", false)),
            _ => None,
        }
    }

    /// Whether 2026-07-28 took the method away (2026-07-28, Key Changes): it answers 404 and `-32601` there.
    pub fn removed_in_modern(self) -> bool {
        matches!(
            self,
            Known::Initialize
                | Known::Ping
                | Known::SetLevel
                | Known::ResourcesSubscribe
                | Known::ResourcesUnsubscribe
                | Known::CreateMessage
                | Known::Elicit
                | Known::RootsList
        )
    }

    /// Whether a server may ask its client something while it works on this (2026-07-28, Multi Round-Trip Requests).
    pub fn may_ask(self) -> bool {
        matches!(self, Known::ToolsCall | Known::PromptsGet | Known::ResourcesRead)
    }

    /// Whether it changes what the server keeps for a session.
    pub fn is_remembered(self) -> bool {
        matches!(
            self,
            Known::SetLevel
                | Known::ResourcesSubscribe
                | Known::ResourcesUnsubscribe
                | Known::ToolsCall
                | Known::TasksGet
                | Known::TasksResult
                | Known::TasksList
                | Known::TasksCancel
        )
    }

    /// Whether it can be repeated when the outcome of the first try is unknown. A handshake can, with another connection.
    pub fn safe_to_repeat(self) -> bool {
        matches!(
            self,
            Known::Initialize
                | Known::Discover
                | Known::Ping
                | Known::ToolsList
                | Known::PromptsList
                | Known::PromptsGet
                | Known::ResourcesList
                | Known::ResourceTemplatesList
                | Known::ResourcesRead
                | Known::Complete
                | Known::TasksGet
                | Known::TasksList
                | Known::TasksResult
                | Known::Listen
        )
    }
}
