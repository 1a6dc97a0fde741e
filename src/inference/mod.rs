//! Turns encodings into logits: a queue, a pool of workers that each own one session, and the
//! prepared weights that all sessions map.

pub mod batch;
pub mod fairness;
pub mod headroom;
pub(crate) mod layout;
pub mod linear_operator;
pub mod pool;
pub mod prepared;
pub mod queue;
pub mod runtime;
pub mod session;
pub mod shares;
