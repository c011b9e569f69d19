//! What a message becomes on its way between a client and an upstream. No I/O, no clock.
//!
//! Both relay cells (client and upstream of the same era) are [`relay::Relay`]: the identity, but for the fields that
//! the proxy has to own. The cells that translate between the eras will stand beside it.

pub(crate) mod relay;
