//! What a message becomes on its way between a client and an upstream. No I/O, no clock.
//!
//! Both relay cells (client and upstream of the same era) are [`relay::Relay`]: the identity, but for the fields that
//! the proxy has to own. [`handshake`] is what is repeated when a connection is replaced, [`sharing`] what a connection
//! can be asked that is not one client's alone, [`promise`] what a stream of notifications is for.
//!
//! [`modern_to_legacy`] and [`legacy_to_modern`] translate between the eras, [`seal`] is what clients of the former bring back,
//! [`loss`] what cannot be carried.

pub(crate) mod handshake;
pub(crate) mod legacy_to_modern;
pub(crate) mod loss;
pub(crate) mod modern_to_legacy;
pub(crate) mod promise;
pub(crate) mod relay;
pub(crate) mod seal;
pub(crate) mod sharing;

#[cfg(test)]
mod tests;
