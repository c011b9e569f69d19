//! A client of 2026-07-28 in front of a server with a handshake: what each message becomes.
//!
//! [`call`] is one request and all that answers it, over all the requests that the client makes of it while it is asked things.
//! The rest are tables: [`declared`] what the server is told of its client, [`describe`] what the client is told of the server,
//! [`answer`] results and errors, [`question`] what the server asks in the middle of a call, [`listen`] a stream of
//! notifications, [`task`] a call that goes on after its answer, [`upward`] what the server gets in place of a request.

pub(crate) mod answer;
pub(crate) mod call;
pub(crate) mod declared;
pub(crate) mod describe;
pub(crate) mod listen;
pub(crate) mod question;
pub(crate) mod task;
pub(crate) mod upward;
